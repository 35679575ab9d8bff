// What the files of architectures share: checked reading of config.json, and the pieces that most decoder models have in common.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "arch/architecture.hpp"

namespace auto_round::arch {

constexpr std::int64_t max_dimension = std::int64_t{1} << 24;
constexpr std::int64_t max_positions = std::int64_t{1} << 40;

/// Reads and checks the keys of one JSON object. The first failure is kept; later reads return their default.
class reader {
 public:
  reader(const io::json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(std::string_view key) const { return !object_.at(key).is_null(); }
  /// The key is there, if only as null.
  bool names(std::string_view key) const { return object_.find(key) != nullptr; }

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high, std::int64_t otherwise = 0, bool required = true) {
    const io::json& v = object_.at(key);
    if (v.is_null()) {
      if (required) refuse(key, "is missing");
      return otherwise;
    }
    constexpr std::int64_t none = std::numeric_limits<std::int64_t>::min();
    const std::int64_t n = v.as_int(none);
    if (n == none || n < low || n > high) {
      refuse(key, "must be an integer from " + std::to_string(low) + " to " + std::to_string(high));
      return otherwise;
    }
    return n;
  }

  /// A finite number in (low, high], or [low, high] if `closed`.
  double real(std::string_view key, double low, double high, double otherwise, bool required = false, bool closed = false) {
    const io::json& v = object_.at(key);
    if (v.is_null()) {
      if (required) refuse(key, "is missing");
      return otherwise;
    }
    const double d = v.as_double(std::numeric_limits<double>::quiet_NaN());
    if (!(d > low || (closed && d == low)) || !(d <= high)) {
      refuse(key, "is not a number in its range");
      return otherwise;
    }
    return d;
  }

  bool boolean(std::string_view key, bool otherwise) {
    const io::json& v = object_.at(key);
    if (v.is_null()) return otherwise;
    if (!v.is_bool()) refuse(key, "must be true or false");
    return v.as_bool(otherwise);
  }

  /// Demands what the program knows; a key that is not there is fine.
  void only(std::string_view key, std::initializer_list<std::string_view> known) {
    const io::json& v = object_.at(key);
    if (v.is_null()) return;
    std::string list;
    for (const std::string_view k : known) {
      if (v.as_string() == k) return;
      list += (list.empty() ? "" : ", ") + std::string(k);
    }
    refuse(key, "'" + v.as_string() + "' is not supported; supported: " + list, error_kind::unsupported);
  }
  void only(std::string_view key, std::same_as<bool> auto known) {  // clang 14 would take {"silu"} for a bool
    if (boolean(key, known) != known) refuse(key, std::string("must be ") + (known ? "true" : "false") + " for this program", error_kind::unsupported);
  }

  std::vector<double> reals(std::string_view key, std::size_t count) {
    std::vector<double> out;
    for (const io::json& v : object_.at(key).items()) {
      const double d = v.as_double(std::numeric_limits<double>::quiet_NaN());
      if (!(d > 0) || !(d < 1e9)) break;
      out.push_back(d);
    }
    if (out.size() != count || object_.at(key).items().size() != count) refuse(key, "must be a list of " + std::to_string(count) + " positive numbers");
    return out;
  }

  void refuse(std::string_view key, const std::string& what, error_kind kind = error_kind::input) {
    if (problem_.message.empty()) problem_ = {kind, "'" + where_ + std::string(key) + "' " + what, {}, {}};
  }

  bool failed() const { return !problem_.message.empty(); }
  const error& problem() const { return problem_; }

 private:
  const io::json& object_;
  std::string where_;
  error problem_;
};


/// What a config.json need not say.
struct defaults {
  double eps = 1e-6, theta = 10000;
  std::int64_t head_dim = 0;  ///< 0: hidden_size / num_attention_heads
  std::int64_t positions = 2048, original_positions = 0;
  double rotary = -1;         ///< share of a head that turns; negative: the whole, and config.json may not say otherwise
  std::string_view theta_key = "rope_theta", rotary_key = "partial_rotary_factor";
};

/// Sizes, norms and names of a model that is laid out as LLaMA, without its linear layers; problems lie in `in`.
model::model_spec read_decoder(reader& in, const io::json& config, std::string_view architecture, std::string_view model_class, const defaults& d);

/// The rotary embedding from `rope_parameters` (transformers 5) or `rope_scaling` and `rope_theta` (before).
result<void> read_rope(const io::json& config, model::model_spec& spec, const defaults& d);
/// The same from one object, called `name` in errors.
result<void> read_rope_object(const io::json& config, const io::json& parameters, const std::string& name, model::model_spec& spec, const defaults& d, model::rope_spec& out);

/// self_attn.{q,k,v,o}_proj, the first four linear layers.
void add_attention(model::model_spec& spec, bool qkv_bias, bool o_bias);
/// mlp.{gate,up,down}_proj behind what is there.
void add_gated_mlp(model::model_spec& spec, bool bias, model::block_kind where = model::block_kind::any);
/// RMSNorms of queries and keys: self_attn.{q,k}_norm.weight.
void add_head_norms(model::model_spec& spec);
/// Gate, up and down of every expert and of a shared one; names with "{}" for the expert's number.
void add_experts(model::model_spec& spec, const std::string& gate, const std::string& up, const std::string& down, const std::string& shared);

/// Windows by `layer_types`, or where it is not there by `slides(layer)`.
void read_windows(reader& in, const io::json& config, model::model_spec& spec, std::int64_t window, const std::function<bool(std::int64_t)>& slides);

result<model::model_spec> finished(const reader& in, const io::json& config, model::model_spec&& spec, const defaults& d);

}  // namespace auto_round::arch
