#include "export/export_float_packing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/pack.hpp"
#include "export/export_int_packing.hpp"
#include "export/export_layer_layout.hpp"
#include "export/export_name_patterns.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 4> own_parts = {".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_global_scale"};

bool is_own_part(std::string_view tensor) {
  return std::any_of(own_parts.begin(), own_parts.end(), [&](std::string_view part) { return tensor.ends_with(part); });
}

bool is_packed(const io::checkpoint_dir& dir, const std::string& layer) {
  return std::any_of(own_parts.begin(), own_parts.end(), [&](std::string_view part) { return dir.find(layer + std::string(part)) != nullptr; });
}

/// A scheme as configurations of auto-round name it.
struct named_scheme {
  std::int64_t bits = 0, group_size = 0, group_rows = 0;
  bool sym = true;
  std::string data_type;
  std::optional<std::int64_t> act_bits, act_group_size;
  std::optional<bool> act_sym, act_dynamic;
  std::optional<std::string> act_data_type;

  /// With activations; views the names here.
  ar::scheme_fields all_fields() const {
    ar::scheme_fields s = fields();
    if (act_bits.value_or(16) >= 16) return s;
    const auto integer = [](const std::optional<std::int64_t>& v) { return v ? std::optional<int>(static_cast<int>(*v)) : std::nullopt; };
    s.act_bits = integer(act_bits);
    s.act_group_size = integer(act_group_size);
    s.act_sym = act_sym;
    s.act_dynamic = act_dynamic;
    if (act_data_type) s.act_data_type = *act_data_type;
    return s;
  }

  /// Of the weights alone.
  ar::scheme_fields fields() const {
    ar::scheme_fields s;
    s.bits = static_cast<int>(bits);
    s.group_size = static_cast<int>(group_size);
    s.group_rows = static_cast<int>(group_rows);
    s.sym = sym;
    s.data_type = data_type;
    s.act_bits = 16;
    return s;
  }
};

/// A matrix whose codes nobody stored.
class float_layer final : public packed_layer {
 public:
  float_layer(const io::checkpoint_dir& dir, std::string type, std::vector<const io::tensor_ref*> parts) : dir_(dir), type_(std::move(type)), parts_(std::move(parts)) {}

  std::string type() const override { return type_; }
  const std::vector<const io::tensor_ref*>& parts() const override { return parts_; }
  result<void> read(std::span<float> weight) const override {
    if (auto r = io::read_f32(weight_(), 0, weight); !r) return r;
    dir_.release(weight_());
    return {};
  }
  result<tune::quantized_layer> stored() const override {
    return fail(error_kind::unsupported, "the layer's weight is stored as floats, without codes that could be packed; quantize --model quantizes it anew", dir_.files()[weight_().file], weight_().name);
  }
  result<model::packed_pointer> packed() const override {
    return model::number_matrix(weight_().type, weight_().bytes.pin(), static_cast<std::size_t>(weight_().shape[0]), static_cast<std::size_t>(weight_().shape[1]));
  }

 private:
  const io::tensor_ref& weight_() const { return *parts_.front(); }

  const io::checkpoint_dir& dir_;
  std::string type_;
  std::vector<const io::tensor_ref*> parts_;
};

class scheme_packing final : public packing {
 public:
  /// `fake`: weights are floats.
  explicit scheme_packing(const found_quantization& found, bool fake = false) : file_(found.file), fake_(fake) {}

  result<void> parse(const io::json& config, const model::model_spec& spec) {
    if (auto r = read_scheme(config, model_); !r) return r;
    if (model_.data_type.empty() || model_.bits == 0) return fail(error_kind::input, "the configuration does not say bits and data_type", file_);
    const io::json& words = config.at("packing_format");
    name_ = fmt::format("auto_round ({}{})", model_.data_type, words.is_string() ? ", " + words.as_string() : "");
    block_prefix_ = spec.block_prefix;
    for (const auto& [name, entry] : config.at("extra_config").members()) {
      named_scheme own = model_;
      if (!entry.is_object()) return fail(error_kind::input, fmt::format("the rule for \"{}\" is no object", name), file_);
      if (auto r = read_scheme(entry, own); !r) return r;
      if (is_linear_layer(spec, name)) {
        layers_.insert_or_assign(name, std::move(own));
      } else {
        if (auto r = patterns_.add(name, file_); !r) return r;
        pattern_rules_.push_back(std::move(own));
      }
    }
    return {};
  }

  std::string name() const override { return name_; }
  bool is_part(std::string_view tensor) const override { return is_own_part(tensor); }

  result<std::optional<bool>> promises(const std::string& layer) const override {
    auto s = scheme_of(layer);
    if (!s) return forward_error(s);
    return std::optional<bool>((*s)->bits <= 8);
  }

  result<input_scheme> inputs(const io::checkpoint_dir& dir, const std::string& layer) const override {
    auto s = scheme_of(layer);
    if (!s) return forward_error(s);
    return with_static_scale(input_scheme::of((*s)->all_fields()), dir, layer);
  }

  result<std::unique_ptr<packed_layer>> find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows, std::uint64_t cols) const override {
    if (fake_) return find_floats(dir, layer, rows, cols);
    if (!is_packed(dir, layer)) return std::unique_ptr<packed_layer>();
    auto s = scheme_of(layer);
    if (!s) return forward_error(s);
    auto layout = layout_of((*s)->bits <= 8 ? (*s)->fields() : model_.fields(), static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), {.who = dialect::auto_round});
    if (!layout) return fail(layout.error().kind, layout.error().message, file_, layer);
    return read_layer(*layout, ((*s)->bits <= 8 ? **s : model_).all_fields(), dir, layer);
  }

 private:
  /// A layer that is said to be quantized; outside the blocks it must be named.
  result<std::unique_ptr<packed_layer>> find_floats(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows, std::uint64_t cols) const {
    const io::tensor_ref* weight = dir.find(layer + ".weight");
    if (weight == nullptr || (!layer.starts_with(block_prefix_) && !layers_.contains(layer))) return std::unique_ptr<packed_layer>();
    auto s = scheme_of(layer);
    if (!s) return forward_error(s);
    if ((*s)->bits > 8) return std::unique_ptr<packed_layer>();
    if (weight->shape != std::vector<std::uint64_t>{rows, cols}) return fail(error_kind::input, fmt::format("the weight must be {} x {}", rows, cols), dir.files()[weight->file], weight->name);
    std::vector<const io::tensor_ref*> parts = {weight};
    for (const char* input : {".input_scale", ".input_global_scale"})
      if (const io::tensor_ref* t = dir.find(layer + input); t != nullptr) parts.push_back(t);
    return std::unique_ptr<packed_layer>(std::make_unique<float_layer>(dir, fmt::format("{} in {}", (*s)->data_type, io::name_of(weight->type)), std::move(parts)));
  }

  result<void> read_scheme(const io::json& config, named_scheme& to) const {
    const auto integer = [&](const io::json& v, const char* key, std::int64_t low, std::int64_t& out) -> result<void> {
      if (v.is_null()) return {};
      if (!v.is_number() || v.as_int(low - 1) < low || v.as_int(low - 1) > (1 << 30)) return fail(error_kind::input, fmt::format("{} {} is none", key, io::dump(v, {.indent = -1})), file_);
      out = v.as_int();
      return {};
    };
    if (auto r = integer(config.at("bits"), "bits", 1, to.bits); !r) return r;
    const io::json& group = config.at("group_size");
    if (group.is_array()) {
      if (group.items().size() != 2) return fail(error_kind::input, "group_size of a tile needs two numbers", file_);
      if (auto r = integer(group.items()[0], "group_size", 1, to.group_rows); !r) return r;
      if (auto r = integer(group.items()[1], "group_size", 1, to.group_size); !r) return r;
    } else if (!group.is_null()) {
      to.group_rows = 0;
      if (auto r = integer(group, "group_size", -1, to.group_size); !r) return r;
    }
    to.sym = config.at("sym").as_bool(to.sym);
    if (config.at("data_type").is_string()) to.data_type = config.at("data_type").as_string();
    // Of inputs: what is not understood stays unsaid.
    if (config.at("act_bits").is_int()) to.act_bits = std::clamp<std::int64_t>(config.at("act_bits").as_int(), 1, 64);
    if (config.at("act_group_size").is_int()) to.act_group_size = std::clamp<std::int64_t>(config.at("act_group_size").as_int(), -1, 1 << 30);
    if (config.at("act_sym").is_bool()) to.act_sym = config.at("act_sym").as_bool();
    if (config.at("act_dynamic").is_bool()) to.act_dynamic = config.at("act_dynamic").as_bool();
    if (config.at("act_data_type").is_string()) to.act_data_type = config.at("act_data_type").as_string();
    return {};
  }

  result<const named_scheme*> scheme_of(const std::string& layer) const {
    if (const auto own = layers_.find(layer); own != layers_.end()) return &own->second;
    auto at = patterns_.first_found(layer);
    if (!at) return forward_error(at);
    return *at == name_patterns::none ? &model_ : &pattern_rules_[*at];
  }

  std::string name_, file_, block_prefix_;
  bool fake_ = false;
  named_scheme model_;
  std::map<std::string, named_scheme> layers_;
  std::vector<named_scheme> pattern_rules_;
  name_patterns patterns_;
};

class fp8_reader final : public packing {
 public:
  explicit fp8_reader(const found_quantization& found) : file_(found.file) {}

  result<void> parse(const io::json& config) {
    const std::string& fmt = config.at("fmt").as_string();
    if (!fmt.empty() && fmt != "e4m3") return fail(error_kind::unsupported, fmt::format("FP8 of kind \"{}\" cannot be read, e4m3 can", fmt), file_);
    const io::json& block = config.at("weight_block_size");
    if (!block.is_null()) {
      if (block.items().size() != 2 || block.items()[0].as_int() < 1 || block.items()[1].as_int() < 1) {
        return fail(error_kind::input, "weight_block_size must be two positive numbers", file_);
      }
      block_rows_ = static_cast<std::size_t>(block.items()[0].as_int());
      block_cols_ = static_cast<std::size_t>(block.items()[1].as_int());
    }
    says_inputs_ = config.at("activation_scheme").is_string();
    fixed_inputs_ = config.at("activation_scheme").as_string() == "static";
    return {};
  }

  std::string name() const override { return block_rows_ > 0 ? fmt::format("fp8 (tiles of {} x {})", block_rows_, block_cols_) : "fp8"; }
  bool is_part(std::string_view tensor) const override { return is_own_part(tensor); }
  result<input_scheme> inputs(const io::checkpoint_dir& dir, const std::string& layer) const override {
    if (!says_inputs_) return input_scheme{};
    ar::scheme_fields s;
    set_inputs(s, block_rows_ > 0 ? static_cast<int>(block_cols_) : -1);
    return with_static_scale(input_scheme::of(s), dir, layer);
  }
  /// Its lists of layers are meant differently by different programs; weights in FP8 say it themselves.
  result<std::optional<bool>> promises(const std::string&) const override { return std::optional<bool>(); }

  result<std::unique_ptr<packed_layer>> find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows, std::uint64_t cols) const override {
    const io::tensor_ref* weight = dir.find(layer + ".weight");
    if (!is_packed(dir, layer) && (weight == nullptr || weight->type != io::dtype::f8_e4m3)) return std::unique_ptr<packed_layer>();
    layer_layout l;
    l.codes = element::e4m3;
    l.code_type = io::dtype::f8_e4m3;
    l.codec = ar::fp8_bytes::name;
    l.rows = static_cast<std::size_t>(rows);
    l.cols = static_cast<std::size_t>(cols);
    const io::tensor_ref* scale = dir.find(layer + ".weight_scale_inv");
    if (scale != nullptr) l.scale_name = "weight_scale_inv";
    else scale = dir.find(layer + ".weight_scale");
    const bool one = scale != nullptr && scale->elements() == 1 && block_rows_ == 0;
    const bool by_rows = scale != nullptr && !one && (block_rows_ == 0 || scale->shape.size() == 1);
    l.block_rows = one ? l.rows : by_rows ? 1 : block_rows_;
    l.block_cols = one || by_rows ? l.cols : block_cols_;
    if (l.block_rows == 0) l.block_rows = l.rows, l.block_cols = l.cols;
    l.one_scale = one;
    return read_layer(l, scheme_of(l), dir, layer);
  }

 private:
  /// Inputs are quantized too, in groups of the tiles' columns or by rows, or with a static scale.
  ar::scheme_fields scheme_of(const layer_layout& l) const {
    ar::scheme_fields s;
    s.bits = 8;
    s.data_type = "fp";
    s.group_size = l.one_scale ? 0 : l.block_cols == l.cols && l.block_rows == 1 ? -1 : static_cast<int>(l.block_cols);
    s.group_rows = !l.one_scale && block_rows_ > 0 && s.group_size > 0 ? static_cast<int>(l.block_rows) : 0;
    set_inputs(s, s.group_rows > 0 ? s.group_size : -1);
    return s;
  }
  /// `group`: of dynamic scales.
  void set_inputs(ar::scheme_fields& s, int group) const {
    s.act_bits = 8;
    s.act_data_type = "fp";
    s.act_sym = true;
    s.act_dynamic = !fixed_inputs_;
    s.act_group_size = fixed_inputs_ ? 0 : group;
  }

  std::string file_;
  std::size_t block_rows_ = 0, block_cols_ = 0;
  bool says_inputs_ = false, fixed_inputs_ = false;
};

}  // namespace

bool is_float_packing(const io::json& config) {
  const std::string& type = config.at("data_type").as_string();
  return !type.empty() && (!type.starts_with("int")) && config.at("packing_format").as_string() != "auto_round:fake";
}

result<std::unique_ptr<packing>> auto_round_float_packing(const found_quantization& found, const io::checkpoint_dir&, const model::model_spec& spec) {
  auto reader = std::make_unique<scheme_packing>(found);
  if (auto r = reader->parse(found.config, spec); !r) return forward_error(r);
  return std::unique_ptr<packing>(std::move(reader));
}

result<std::unique_ptr<packing>> fake_packing(const found_quantization& found, const io::checkpoint_dir&, const model::model_spec& spec) {
  auto reader = std::make_unique<scheme_packing>(found, true);
  if (auto r = reader->parse(found.config, spec); !r) return forward_error(r);
  return std::unique_ptr<packing>(std::move(reader));
}

result<std::unique_ptr<packing>> fp8_packing(const found_quantization& found, const io::checkpoint_dir&, const model::model_spec&) {
  auto reader = std::make_unique<fp8_reader>(found);
  if (auto r = reader->parse(found.config); !r) return forward_error(r);
  return std::unique_ptr<packing>(std::move(reader));
}

}  // namespace auto_round::exporting
