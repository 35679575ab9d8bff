// LLaMA and the models that follow it exactly: RMSNorm, rotary embeddings, grouped-query attention, gated SiLU MLP.
#include <algorithm>
#include <limits>

#include "arch/architecture.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;
using model::rope_spec;

/// Reads and checks the keys of one JSON object. The first failure is kept; later reads return their default.
class reader {
 public:
  reader(const io::json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(std::string_view key) const { return !object_.at(key).is_null(); }

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

constexpr std::int64_t max_dimension = std::int64_t{1} << 24;
constexpr std::int64_t max_positions = std::int64_t{1} << 40;

/// The rotary embedding from `rope_parameters` (transformers 5) or `rope_scaling` and `rope_theta` (before).
result<void> read_rope(const io::json& config, model_spec& spec) {
  const io::json& scaling = config.at("rope_scaling");
  const bool legacy = !scaling.members().empty();
  const io::json& parameters = legacy ? scaling : config.at("rope_parameters");
  const std::string name = legacy ? "rope_scaling" : "rope_parameters";
  if (!parameters.is_null() && !parameters.is_object()) return fail(error_kind::input, "'" + name + "' in config.json must be an object");
  if (!scaling.is_null() && !scaling.is_object()) return fail(error_kind::input, "'rope_scaling' in config.json must be an object or null");

  reader top(config, "");
  reader in(parameters, name + ".");
  rope_spec& r = spec.rope;
  r.theta = in.has("rope_theta") ? in.real("rope_theta", 0, 1e12, 10000.0) : top.real("rope_theta", 0, 1e12, 10000.0);
  const double partial = in.has("partial_rotary_factor") ? in.real("partial_rotary_factor", 0, 1, 1.0) : top.real("partial_rotary_factor", 0, 1, 1.0);

  const io::json& type_value = parameters.at(parameters.at("rope_type").is_null() ? "type" : "rope_type");
  if (!type_value.is_null() && !type_value.is_string()) in.refuse("rope_type", "must be a string");
  const std::string type = type_value.is_null() ? "default" : type_value.as_string();
  const auto half = static_cast<std::size_t>(spec.head_dim / 2);

  const auto read_factor = [&](bool required) { return in.real("factor", 0, 1e9, 1.0, required); };
  // The length of the original training context: beside the parameters in some checkpoints, which then wins, as in transformers.
  const auto read_original = [&] {
    return top.has("original_max_position_embeddings") ? top.integer("original_max_position_embeddings", 1, max_positions)
                                                       : in.integer("original_max_position_embeddings", 1, max_positions, spec.max_position_embeddings, false);
  };

  if (type == "default") {
    r.type = rope_spec::kind::standard;
  } else if (type == "linear") {
    r.type = rope_spec::kind::linear;
    r.factor = read_factor(true);
  } else if (type == "dynamic") {
    r.type = rope_spec::kind::dynamic;
    r.factor = in.real("factor", 1, 1e9, 1.0, true, true);
    if (spec.head_dim <= 2) in.refuse("rope_type", "'dynamic' needs heads of more than 2 values", error_kind::unsupported);
  } else if (type == "yarn") {
    r.type = rope_spec::kind::yarn;
    r.factor = read_factor(true);
    r.original_max_position = read_original();
    r.attention_factor = in.real("attention_factor", 0, 1e6, 0.0);
    r.beta_fast = in.real("beta_fast", 0, 1e6, 32.0);
    r.beta_slow = in.real("beta_slow", 0, 1e6, 1.0);
    r.mscale = in.real("mscale", 0, 1e6, 0.0, false, true);
    r.mscale_all_dim = in.real("mscale_all_dim", 0, 1e6, 0.0, false, true);
    r.truncate = in.boolean("truncate", true);
    if (r.theta == 1.0) in.refuse("rope_theta", "must not be 1");
  } else if (type == "longrope") {
    r.type = rope_spec::kind::longrope;
    r.original_max_position = read_original();
    r.factor = in.real("factor", 0, 1e9, static_cast<double>(spec.max_position_embeddings) / static_cast<double>(std::max<std::int64_t>(1, r.original_max_position)));
    r.attention_factor = in.real("attention_factor", 0, 1e6, 0.0);
    r.short_factor = in.reals("short_factor", half);
    r.long_factor = in.reals("long_factor", half);
    if (r.original_max_position == 1) in.refuse("original_max_position_embeddings", "must be more than 1");
  } else if (type == "llama3") {
    r.type = rope_spec::kind::llama3;
    r.factor = read_factor(true);
    r.low_freq_factor = in.real("low_freq_factor", 0, 1e9, 1.0, true);
    r.high_freq_factor = in.real("high_freq_factor", 0, 1e9, 4.0, true);
    r.original_max_position = read_original();
    if (r.high_freq_factor <= r.low_freq_factor) in.refuse("high_freq_factor", "must be more than low_freq_factor");
  } else if (type == "proportional") {
    r.type = rope_spec::kind::proportional;
    r.factor = read_factor(false);
    r.partial_rotary_factor = partial;
  } else {
    in.refuse("rope_type", "'" + type + "' is not supported; supported: default, linear, dynamic, yarn, longrope, llama3, proportional", error_kind::unsupported);
  }
  if (partial != 1.0 && r.type != rope_spec::kind::proportional)
    in.refuse("partial_rotary_factor", "must be 1 for this architecture", error_kind::unsupported);
  for (const reader* one : {&top, &in})
    if (one->failed()) return tl::unexpected<error>(one->problem());
  return {};
}

result<model_spec> read_llama(const io::json& config) {
  reader in(config, "");
  model_spec s;
  s.architecture = "llama";
  s.model_class = "LlamaForCausalLM";
  s.hidden_size = in.integer("hidden_size", 1, max_dimension);
  s.intermediate_size = in.integer("intermediate_size", 1, max_dimension);
  s.num_layers = in.integer("num_hidden_layers", 1, 100000);
  s.num_heads = in.integer("num_attention_heads", 1, max_dimension);
  s.num_kv_heads = in.integer("num_key_value_heads", 1, max_dimension, s.num_heads, false);
  s.vocab_size = in.integer("vocab_size", 1, max_dimension);
  s.max_position_embeddings = in.integer("max_position_embeddings", 1, max_positions, 2048, false);
  s.rms_norm_eps = in.real("rms_norm_eps", 0, 1, 1e-6, false, true);
  s.tie_word_embeddings = in.boolean("tie_word_embeddings", false);
  const bool attention_bias = in.boolean("attention_bias", false), mlp_bias = in.boolean("mlp_bias", false);
  if (!in.failed() && s.num_heads % s.num_kv_heads != 0) in.refuse("num_attention_heads", "must be a multiple of num_key_value_heads");
  if (in.has("head_dim"))
    s.head_dim = in.integer("head_dim", 1, max_dimension);
  else if (!in.failed() && s.hidden_size % s.num_heads != 0)
    in.refuse("hidden_size", "must be a multiple of num_attention_heads where head_dim is not given");
  else if (!in.failed())
    s.head_dim = s.hidden_size / s.num_heads;
  if (!in.failed() && s.head_dim % 2 != 0) in.refuse("head_dim", "must be even");
  if (!in.failed() && s.num_heads * s.head_dim > max_dimension) in.refuse("num_attention_heads", "times head_dim is too large");
  if (in.has("hidden_act") && config.at("hidden_act").as_string() != "silu")
    in.refuse("hidden_act", "'" + config.at("hidden_act").as_string() + "' is not supported; supported: silu", error_kind::unsupported);
  if (in.failed()) return tl::unexpected<error>(in.problem());
  if (const result<void> r = read_rope(config, s); !r) return forward_error(r);

  s.embed_name = "model.embed_tokens.weight";
  s.final_norm_name = "model.norm.weight";
  s.head_name = "lm_head.weight";
  s.block_prefix = "model.layers.";
  s.input_norm_name = "input_layernorm.weight";
  s.post_attention_norm_name = "post_attention_layernorm.weight";
  const std::int64_t q = s.num_heads * s.head_dim, kv = s.num_kv_heads * s.head_dim;
  s.linears = {{"self_attn.q_proj", q, s.hidden_size, attention_bias},
               {"self_attn.k_proj", kv, s.hidden_size, attention_bias},
               {"self_attn.v_proj", kv, s.hidden_size, attention_bias},
               {"self_attn.o_proj", s.hidden_size, q, attention_bias},
               {"mlp.gate_proj", s.intermediate_size, s.hidden_size, mlp_bias},
               {"mlp.up_proj", s.intermediate_size, s.hidden_size, mlp_bias},
               {"mlp.down_proj", s.hidden_size, s.intermediate_size, mlp_bias}};
  return s;
}

constexpr std::string_view classes[] = {"LlamaForCausalLM"};

}  // namespace

extern const architecture arch_llama;
const architecture arch_llama{"llama", classes, "llama", read_llama};

}  // namespace auto_round::arch
