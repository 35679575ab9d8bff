#include "export/export_ct_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/pack.hpp"
#include "export/export_auto_round_config.hpp"
#include "export/export_cache_scales.hpp"
#include "export/export_layer_layout.hpp"
#include "export/export_name_patterns.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::exporting {
namespace {

// ---- writing ----

/// The parts of the original's writer, which differ in keys and in what they list.
enum class writer { generic, scaled, fixed_inputs, legacy };

const ar::scaled_facts* facts_of(const ar::scheme_fields& s) {
  const ar::range_kernels* type = s.super_bits ? nullptr : tune::tuned_kernels(s.data_type, s.bits, s.sym, s.group_rows > 0);
  return type == nullptr ? nullptr : type->facts;
}

bool has_block_scales(const ar::scheme_fields& s) { return facts_of(s) != nullptr && facts_of(s)->rule != ar::scale_rule::quotient; }
bool quantizes_inputs(const ar::scheme_fields& s) { return s.act_bits.value_or(16) <= 8; }

writer writer_of(const ar::scheme_fields& s) {
  if (has_block_scales(s)) return facts_of(s)->rule == ar::scale_rule::e5m3 ? writer::legacy : writer::scaled;
  if (!ar::quantizes(s)) return writer::scaled;
  return quantizes_inputs(s) && !s.act_dynamic.value_or(true) ? writer::fixed_inputs : writer::generic;
}

std::string_view format_of(const ar::scheme_fields& s) {
  const ar::scaled_facts* f = facts_of(s);
  if (f == nullptr) return quantizes_inputs(s) ? "int-quantized" : "pack-quantized";
  switch (f->rule) {
    case ar::scale_rule::power_floor:
    case ar::scale_rule::power_ceil: return f->grid.bits == 4 ? "mxfp4-pack-quantized" : "mxfp8-quantized";
    case ar::scale_rule::e4m3_two_level: return "nvfp4-pack-quantized";
    case ar::scale_rule::e5m3: return "nvfp4-e5m3-pack-quantized";
    default: return quantizes_inputs(s) ? "float-quantized" : "naive-quantized";
  }
}

io::json args(int bits, bool integer, bool symmetric, int group_size, std::string_view strategy) {
  io::json a = io::json::object{};
  a.set("num_bits", bits).set("type", integer ? "int" : "float").set("symmetric", symmetric);
  return a.set("group_size", group_size > 0 ? io::json(group_size) : io::json(nullptr)).set("strategy", strategy);
}

std::string_view scale_dtype(const ar::scaled_facts& f) { return f.two_level() ? "torch.float8_e4m3fn" : "torch.uint8"; }

io::json weight_args(const ar::scheme_fields& s) {
  const ar::scaled_facts* f = facts_of(s);
  if (s.group_rows > 0) {
    io::json a = args(s.bits, false, true, 0, "block");
    a.set("block_structure", io::json::array{io::json(s.group_rows), io::json(s.group_size)});
    return a.set("dynamic", false);
  }
  const bool two_level = f != nullptr && f->two_level();
  io::json a = args(s.bits, f == nullptr, s.sym, s.group_size, two_level ? "tensor_group" : s.group_size > 0 ? "group" : s.group_size == 0 ? "tensor" : "channel");
  a.set("dynamic", false);
  if (has_block_scales(s)) a.set("scale_dtype", scale_dtype(*f));
  return a;
}

io::json input_args(const ar::scheme_fields& s) {
  if (!quantizes_inputs(s)) return nullptr;
  const int bits = *s.act_bits, group = s.act_group_size.value_or(s.group_size);
  const bool symmetric = s.act_sym.value_or(s.sym);
  const ar::range_kernels* type = tune::tuned_kernels(s.act_data_type.value_or(s.data_type), bits, symmetric);
  const ar::scaled_facts* f = type == nullptr ? nullptr : type->facts;
  if (f != nullptr && f->rule != ar::scale_rule::quotient) {
    io::json a = args(bits, false, symmetric, group, f->two_level() ? "tensor_group" : "group");
    a.set("dynamic", f->two_level() ? io::json("local") : io::json(true)).set("scale_dtype", scale_dtype(*f));
    if (f->two_level()) a.set("observer", "static_minmax");
    return a;
  }
  const bool dynamic = s.act_dynamic.value_or(true);
  const std::string_view strategy = !dynamic || group == 0 ? "tensor" : group > 0 ? "group" : "token";
  return args(bits, f == nullptr, symmetric, dynamic ? group : 0, strategy).set("dynamic", dynamic);
}

io::json config_group(std::vector<std::string> targets, const ar::scheme_fields& s, bool any_order, io::json format) {
  io::json::array names;
  for (std::string& t : targets) names.emplace_back(std::move(t));
  io::json g = io::json::object{}, weights = weight_args(s);
  if (any_order) weights.set("actorder", "group");
  g.set("targets", std::move(names)).set("weights", std::move(weights)).set("input_activations", input_args(s));
  return g.set("output_activations", nullptr).set("format", std::move(format));
}

/// The layers of one scheme, in module order.
struct scheme_group {
  ar::scheme_fields scheme;
  bool any_order = false;
  std::vector<std::string> layers;
};

std::vector<scheme_group> groups_of(const job& run) {
  std::vector<scheme_group> groups;
  for (const layer_decision& layer : run.layers) {
    if (!layer.quantize) continue;
    const auto at = std::find_if(groups.begin(), groups.end(), [&](const scheme_group& g) { return ar::same_scheme(g.scheme, layer.scheme) && g.any_order == layer.any_order; });
    if (at == groups.end()) groups.push_back({layer.scheme, layer.any_order, {layer.name}});
    else at->layers.push_back(layer.name);
  }
  return groups;
}

/// The head's name: it is not among the layers where it is tied to the embedding, but loaders have a module for it all the same.
std::string head_of(const job& run) { return run.spec->head_name.substr(0, run.spec->head_name.rfind('.')); }

io::json ignored_layers(const job& run, writer how) {
  io::json::array ignore;
  const std::string head = head_of(run);
  const auto packed_head = std::find_if(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.name == head && l.quantize; });
  if (how == writer::scaled && !run.model_free) {
    for (const std::string& pattern : run.ignore_patterns) {
      const bool is_layer = std::any_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.name == pattern; });
      if (!is_layer) ignore.emplace_back("re:" + exported_regex(pattern));
    }
  }
  for (const layer_decision& layer : run.layers)
    if (!layer.quantize && layer.name != head) ignore.emplace_back(layer.name);
  if (packed_head == run.layers.end()) ignore.emplace_back(head);
  if (run.model_free) ignore.emplace_back(run.spec->embed_name.substr(0, run.spec->embed_name.rfind('.')));
  return ignore;
}

io::json legacy_args(io::json dynamic) {
  io::json a = io::json::object{};
  a.set("actorder", nullptr).set("block_structure", nullptr).set("dynamic", std::move(dynamic)).set("group_size", 16).set("num_bits", 4).set("observer", "minmax");
  return a.set("observer_kwargs", io::json::object{}).set("strategy", "tensor_group").set("symmetric", true).set("type", "float");
}

/// Of a model with one scheme of four-bit floats in groups of 16; `inputs` are quantized likewise.
io::json four_bit_config(std::string_view format, bool inputs, io::json ignore, io::json cache) {
  io::json group = io::json::object{};
  group.set("input_activations", inputs ? legacy_args("local") : io::json(nullptr)).set("output_activations", nullptr);
  group.set("targets", io::json::array{"Linear"}).set("weights", legacy_args(false));
  io::json groups = io::json::object{};
  groups.set("group_0", std::move(group));
  io::json q = io::json::object{};
  q.set("config_groups", std::move(groups)).set("format", format).set("global_compression_ratio", nullptr);
  q.set("ignore", std::move(ignore)).set("kv_cache_scheme", std::move(cache)).set("quant_method", "compressed-tensors");
  q.set("quantization_status", "compressed").set("provider", "auto-round");
  return q;
}

/// What all others have around their groups.
io::json framed(io::json groups, std::string_view format, io::json ignore, io::json cache) {
  io::json q = io::json::object{};
  q.set("config_groups", std::move(groups)).set("quant_method", "compressed-tensors").set("kv_cache_scheme", std::move(cache)).set("format", format);
  q.set("quantization_status", "compressed").set("global_compression_ratio", nullptr);
  return q.set("ignore", std::move(ignore)).set("moe_sparsity_config", nullptr);
}

io::json legacy_config(const job& run) {
  return four_bit_config(format_of(run.scheme), quantizes_inputs(run.scheme), ignored_layers(run, writer::legacy), cache_scheme(run));
}

// ---- reading ----

/// Names and classes, and behind "re:" patterns, as config_groups and the ignore list have them.
struct target_list {
  std::vector<std::string> names;
  name_patterns patterns;
};

/// One entry of config_groups.
struct layer_group {
  std::string name;
  target_list targets;
  bool has_weights = false;
  layer_layout layout;       // without shape
  ar::scheme_fields scheme;  // inputs too
  std::string strategy;
  std::int64_t group_size = 0, block_rows = 0, block_cols = 0;
};

class ct_reader final : public packing {
 public:
  ct_reader(std::string file, const model::model_spec& spec) : file_(std::move(file)), spec_(spec) {}

  result<void> parse(const io::json& config) {
    if (const io::json& sparse = config.at("sparsity_config"); sparse.is_object() && sparse.at("format").as_string() != "dense" && !sparse.members().empty()) {
      return fail(error_kind::unsupported, "the checkpoint's weights are sparse, which cannot be read", file_);
    }
    const io::json& transforms = config.at("transform_config");
    if (transforms.is_object() && !transforms.at("config_groups").members().empty()) {
      return fail(error_kind::unsupported, "the checkpoint transforms activations while it runs (transform_config), which cannot be computed", file_);
    }
    const io::json& groups = config.at("config_groups");
    if (!groups.is_object() || groups.members().empty()) return fail(error_kind::input, "compressed-tensors: there are no config_groups", file_);
    for (const auto& [name, group] : groups.members()) {
      if (auto r = parse_group(name, group, config.at("format")); !r) return r;
    }
    if (!config.at("ignore").is_null()) return read_targets(config.at("ignore"), "ignore", ignore_);
    return {};
  }

  std::string name() const override {
    std::vector<std::string> formats;
    for (const std::string& f : formats_)
      if (std::find(formats.begin(), formats.end(), f) == formats.end()) formats.push_back(f);
    return fmt::format("compressed-tensors ({})", fmt::join(formats, ", "));
  }

  result<std::unique_ptr<packed_layer>> find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows, std::uint64_t cols) const override {
    const bool packed = std::any_of(own_parts.begin(), own_parts.end(), [&](std::string_view part) { return dir.find(layer + std::string(part)) != nullptr; });
    if (!packed) return std::unique_ptr<packed_layer>();
    auto group = group_of(layer);
    if (!group) return forward_error(group);
    if (*group == nullptr || !(*group)->has_weights) {
      return fail(error_kind::input, "the layer has packed tensors, but the configuration does not say how: no target names it, or it is ignored", file_, layer);
    }
    auto layout = shaped(**group, layer, rows, cols);
    if (!layout) return forward_error(layout);
    return read_layer(*layout, (*group)->scheme, dir, layer);
  }

  result<input_scheme> inputs(const io::checkpoint_dir& dir, const std::string& layer) const override {
    auto group = group_of(layer);
    if (!group) return forward_error(group);
    if (*group == nullptr) return input_scheme{};
    const ar::scheme_fields& s = (*group)->scheme;
    if (s.act_bits.value_or(16) <= 8 && !s.act_data_type) return fail(error_kind::unsupported, "the layer's inputs are quantized in a way that cannot be computed", file_, layer);
    return with_static_scale(input_scheme::of(s), dir, layer);
  }

  result<std::optional<bool>> promises(const std::string& layer) const override {
    auto group = group_of(layer);
    if (!group) return forward_error(group);
    return std::optional<bool>(*group != nullptr && (*group)->has_weights);
  }

  bool is_part(std::string_view tensor) const override {
    return std::any_of(own_parts.begin(), own_parts.end(), [&](std::string_view part) { return tensor.ends_with(part); });
  }

 private:
  static constexpr std::array<std::string_view, 5> own_parts = {".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_global_scale"};

  result<void> read_targets(const io::json& list, const char* key, target_list& out) const {
    if (!list.is_array()) return fail(error_kind::input, fmt::format("compressed-tensors: {} is no list", key), file_);
    for (const io::json& item : list.items()) {
      const std::string& target = item.as_string();
      if (target.empty()) return fail(error_kind::input, fmt::format("compressed-tensors: {} holds something that is no name", key), file_);
      if (!target.starts_with("re:")) {
        out.names.push_back(target);
      } else if (auto r = out.patterns.add(target.substr(3), file_); !r) {
        return r;
      }
    }
    return {};
  }

  result<void> parse_group(const std::string& name, const io::json& group, const io::json& whole_format) {
    const auto wrong = [&](std::string why, error_kind kind = error_kind::input) { return fail(kind, fmt::format("compressed-tensors, {}: {}", name, why), file_); };
    layer_group g;
    g.name = name;
    if (auto r = read_targets(group.at("targets"), "targets", g.targets); !r) return r;
    const io::json& w = group.at("weights");
    if (w.is_null()) {
      groups_.push_back(std::move(g));
      return {};
    }
    if (!w.is_object()) return wrong("weights is no object");
    g.has_weights = true;
    if (!w.at("num_bits").is_null() && !w.at("num_bits").is_int()) return wrong("num_bits is no whole number");
    if (!w.at("symmetric").is_null() && !w.at("symmetric").is_bool()) return wrong("symmetric is neither true nor false");
    const std::int64_t bits = w.at("num_bits").as_int(8);
    const std::string type = w.find("type") == nullptr ? "int" : w.at("type").as_string();
    const bool floats = type == "float";
    if (!floats && type != "int") return wrong(fmt::format("weights of type \"{}\"", type));
    if (bits < 1 || bits > 8 || (floats && bits != 4 && bits != 8)) return wrong(fmt::format("{} weights of {} bits", type, bits));
    if (w.find("group_size") != nullptr && !w.at("group_size").is_null() && !w.at("group_size").is_int()) return wrong("group_size is no number");
    g.group_size = w.at("group_size").as_int(0);
    g.strategy = w.at("strategy").as_string();
    if (g.strategy.empty()) g.strategy = g.group_size > 0 ? "group" : g.group_size == -1 ? "channel" : "tensor";
    if (g.strategy == "block") {
      const auto& block = w.at("block_structure").items();
      if (block.size() != 2) return wrong("strategy block needs block_structure with two numbers");
      g.block_rows = block[0].as_int();
      g.block_cols = block[1].as_int();
      if (g.block_rows < 1 || g.block_cols < 1) return wrong("blocks must have at least one row and one column");
    } else if (g.strategy == "group" || g.strategy == "tensor_group") {
      if (g.group_size < 1) return wrong(fmt::format("strategy {} needs a positive group_size, not {}", g.strategy, g.group_size));
    } else if (g.strategy != "channel" && g.strategy != "tensor") {
      return wrong(fmt::format("weights with strategy \"{}\"", g.strategy), error_kind::unsupported);
    }
    if (auto order = ordered(w.at("actorder"))) g.layout.order = *order && g.strategy == "group";
    else return wrong("actorder must be \"group\" (\"dynamic\", true), \"weight\" (\"static\") or false");
    const bool symmetric = w.at("symmetric").as_bool(true);
    std::string format = group.at("format").as_string();
    if (format.empty()) format = whole_format.as_string();
    if (format.empty()) format = floats ? (bits == 8 ? "float-quantized" : g.strategy == "tensor_group" ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized") : "pack-quantized";
    if (auto r = choose_layout(g, format, static_cast<int>(bits), floats, symmetric); !r) return wrong(r.error().message, r.error().kind);
    g.scheme = scheme_of(g, symmetric, group.at("input_activations"));
    formats_.push_back(format);
    groups_.push_back(std::move(g));
    return {};
  }

  /// Whether columns lie in the order of their activations; "weight" is an order of work, of which no file knows. Nothing for other words.
  static std::optional<bool> ordered(const io::json& actorder) {
    if (actorder.is_null() || actorder.is_bool()) return actorder.as_bool(false);
    std::string word = actorder.as_string();
    std::ranges::transform(word, word.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (word == "group" || word == "dynamic") return true;
    if (word == "weight" || word == "static") return false;
    return std::nullopt;
  }

  /// What this says in the words of schemes. Inputs whose description is not understood have `act_bits` and nothing else: no format takes them.
  static ar::scheme_fields scheme_of(const layer_group& g, bool symmetric, const io::json& inputs) {
    ar::scheme_fields s;
    s.bits = g.layout.bits;
    s.sym = symmetric;
    s.group_size = g.strategy == "block" ? static_cast<int>(g.block_cols) : g.strategy.ends_with("group") ? static_cast<int>(g.group_size) : g.strategy == "tensor" ? 0 : -1;
    s.group_rows = g.strategy == "block" ? static_cast<int>(g.block_rows) : 0;
    const scale_form scales = g.layout.scales;
    s.data_type = g.layout.codes == element::integer ? "int" : scales == scale_form::number ? "fp" : scales == scale_form::e8m0 ? "mx_fp" : scales == scale_form::e4m3 ? "nv_fp" : "nvfp4_v2";
    s.act_bits = 16;
    if (!inputs.is_object()) return s;
    s.act_bits = static_cast<int>(std::clamp<std::int64_t>(inputs.at("num_bits").as_int(8), 1, 64));
    const std::string& strategy = inputs.at("strategy").as_string();
    const bool floats = inputs.at("type").as_string() == "float";
    if (*s.act_bits >= 16 || floats == (s.data_type == "int")) return s;
    s.act_sym = inputs.at("symmetric").as_bool(true);
    s.act_data_type = s.data_type == "nv_fp" ? "nv_fp4_with_static_gs" : s.data_type;
    const io::json& dynamic = inputs.at("dynamic");
    s.act_dynamic = dynamic.as_bool(dynamic.as_string() == "local");
    const std::int64_t group = inputs.at("group_size").as_int(0);
    s.act_group_size = strategy == "tensor" ? 0 : strategy == "token" || strategy == "channel" ? -1 : group > 0 && group < 1 << 30 ? static_cast<int>(group) : s.group_size;
    return s;
  }

  static result<void> choose_layout(layer_group& g, const std::string& format, int bits, bool floats, bool symmetric) {
    layer_layout& l = g.layout;
    l.bits = bits;
    const auto need = [&](bool floats_wanted, int bits_wanted, int group) -> result<void> {
      if (floats != floats_wanted || (bits_wanted != 0 && bits != bits_wanted)) return fail(error_kind::input, fmt::format("format {} cannot hold {} weights of {} bits", format, floats ? "float" : "int", bits));
      if (group != 0 && g.group_size != group) return fail(error_kind::input, fmt::format("format {} has groups of {}, not {}", format, group, g.group_size));
      return {};
    };
    if (format == "pack-quantized") {
      l.codec = ar::ct_int32::name;
      l.code_name = "weight_packed";
      l.code_type = io::dtype::i32;
      l.shape_tensor = true;
      l.zero_points = !symmetric;
      return need(false, 0, 0);
    }
    if (format == "int-quantized" || (format == "naive-quantized" && !floats)) {
      // Narrow numbers have a byte each too.
      l.bits = 8;
      l.codec = ar::int8_bytes::name;
      l.code_type = io::dtype::i8;
      l.zero_points = !symmetric;
      return need(false, 0, 0);
    }
    if (format == "float-quantized" || format == "naive-quantized") {
      l.codes = element::e4m3;
      l.codec = ar::fp8_bytes::name;
      l.code_type = io::dtype::f8_e4m3;
      return need(true, 8, 0);
    }
    if (format == "mxfp4-pack-quantized" || format == "nvfp4-pack-quantized" || format == "nvfp4-e5m3-pack-quantized") {
      const bool mx = format.starts_with("mx");
      l.codes = element::e2m1;
      l.codec = mx ? ar::mxfp4_nibbles::name : ar::nvfp4_nibbles::name;
      l.code_name = "weight_packed";
      l.scales = mx ? scale_form::e8m0 : format == "nvfp4-pack-quantized" ? scale_form::e4m3 : scale_form::ue5m3;
      l.global_scale = l.scales == scale_form::e4m3;
      return need(true, 4, mx ? 32 : 16);
    }
    if (format == "mxfp8-quantized") {
      l.codes = element::e4m3;
      l.codec = ar::mxfp8_bytes::name;
      l.code_type = io::dtype::f8_e4m3;
      l.scales = scale_form::e8m0;
      return need(true, 8, 32);
    }
    return fail(error_kind::unsupported, fmt::format("format \"{}\" cannot be read", format));
  }

  result<layer_layout> shaped(const layer_group& g, const std::string& layer, std::uint64_t rows, std::uint64_t cols) const {
    layer_layout l = g.layout;
    l.rows = static_cast<std::size_t>(rows);
    l.cols = static_cast<std::size_t>(cols);
    l.block_rows = g.strategy == "block" ? static_cast<std::size_t>(g.block_rows) : g.strategy == "tensor" ? l.rows : 1;
    l.one_scale = g.strategy == "tensor";
    l.block_cols = g.strategy == "block" ? static_cast<std::size_t>(g.block_cols) : g.strategy.ends_with("group") ? static_cast<std::size_t>(g.group_size) : l.cols;
    if (g.strategy.ends_with("group") && l.cols % l.block_cols != 0) {
      return fail(error_kind::input, fmt::format("compressed-tensors, {}: {} columns are no multiple of the group size {}", g.name, cols, g.group_size), file_, layer);
    }
    return l;
  }

  /// Names and classes match as a whole, patterns at the beginning of a name.
  enum class match { none, by_class, by_pattern, by_name };
  result<match> matches(const target_list& targets, const std::string& layer) const {
    const auto has = [&](std::string_view name) { return std::find(targets.names.begin(), targets.names.end(), name) != targets.names.end(); };
    if (has(layer)) return match::by_name;
    auto pattern = targets.patterns.first_found(layer, true);
    if (!pattern) return forward_error(pattern);
    if (*pattern != name_patterns::none) return match::by_pattern;
    return has(layer + ".weight" == spec_.embed_name ? "Embedding" : "Linear") ? match::by_class : match::none;
  }

  /// The group of a layer: one that names it before one whose pattern matches before one for its class. Null: none, or the layer is ignored.
  result<const layer_group*> group_of(const std::string& layer) const {
    auto ignored = matches(ignore_, layer);
    if (!ignored) return forward_error(ignored);
    if (*ignored != match::none) return nullptr;
    const layer_group* best = nullptr;
    match how = match::none;
    for (const layer_group& g : groups_) {
      auto m = matches(g.targets, layer);
      if (!m) return forward_error(m);
      if (*m > how) {
        how = *m;
        best = &g;
      }
    }
    return best;
  }

  std::string file_;
  const model::model_spec& spec_;
  std::vector<layer_group> groups_;
  target_list ignore_;
  std::vector<std::string> formats_;
};

}  // namespace

io::json shard_wise_ct_config(const job& run, io::json ignore) {
  if (writer_of(run.scheme) == writer::legacy) return four_bit_config(format_of(run.scheme), quantizes_inputs(run.scheme), std::move(ignore), nullptr);
  std::vector<scheme_group> others = groups_of(run);
  std::erase_if(others, [&](const scheme_group& g) { return ar::same_scheme(g.scheme, run.scheme); });
  std::stable_sort(others.begin(), others.end(), [](const scheme_group& a, const scheme_group& b) { return a.scheme.bits > b.scheme.bits; });
  io::json groups = io::json::object{};
  const auto add = [&](std::vector<std::string> targets, const ar::scheme_fields& s) {
    groups.set(fmt::format("group_{}", groups.members().size()), config_group(std::move(targets), s, false, others.empty() ? io::json(nullptr) : io::json(format_of(s))));
  };
  for (const scheme_group& g : others) add(g.layers, g.scheme);
  add({"Linear"}, run.scheme);
  return framed(std::move(groups), others.empty() ? format_of(run.scheme) : "mixed-precision", std::move(ignore), nullptr).set("provider", "auto-round");
}

io::json ct_config(const job& run) {
  const writer how = writer_of(run.scheme);
  if (how == writer::legacy) return legacy_config(run);
  std::vector<scheme_group> groups = groups_of(run);
  std::string_view format = groups.empty() ? format_of(run.scheme) : format_of(groups.front().scheme);
  const bool one_format = std::all_of(groups.begin(), groups.end(), [&](const scheme_group& g) { return format_of(g.scheme) == format; });
  if (!one_format) format = "mixed-precision";
  if (how == writer::scaled) {  // the model's own scheme last, for all layers that are not named before
    std::stable_partition(groups.begin(), groups.end(), [&](const scheme_group& g) { return !ar::same_scheme(g.scheme, run.scheme); });
  }
  io::json listed = io::json::object{};
  for (std::size_t i = 0; i < groups.size(); ++i) {
    scheme_group& g = groups[i];
    const bool rest = groups.size() == 1 || (how == writer::scaled && i + 1 == groups.size() && ar::same_scheme(g.scheme, run.scheme));
    std::sort(g.layers.begin(), g.layers.end());
    io::json own_format = how == writer::generic || groups.size() > 1 ? io::json(format_of(g.scheme)) : io::json(nullptr);
    listed.set(fmt::format("group_{}", i), config_group(rest ? std::vector<std::string>{"Linear"} : std::move(g.layers), g.scheme, g.any_order, std::move(own_format)));
  }
  io::json q = framed(std::move(listed), format, ignored_layers(run, how), cache_scheme(run));
  if (how != writer::generic) q.set("provider", "auto-round");
  if (io::json attention = attention_scheme(run); !attention.is_null()) q.set("attention_input_activations", std::move(attention));
  return q;
}

result<std::unique_ptr<packing>> ct_packing(const found_quantization& found, const io::checkpoint_dir&, const model::model_spec& spec) {
  auto reader = std::make_unique<ct_reader>(found.file, spec);
  if (auto r = reader->parse(found.config); !r) return forward_error(r);
  return std::unique_ptr<packing>(std::move(reader));
}

}  // namespace auto_round::exporting
