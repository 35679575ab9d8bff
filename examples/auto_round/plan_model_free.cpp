#include "plan_model_free.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <set>
#include <utility>

#include "export/export_auto_round_config.hpp"
#include "export/export_checksums.hpp"
#include "export/export_ct_config.hpp"
#include "export/export_int_layout.hpp"
#include "export/export_layer_layout.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"
#include "io/safetensors.hpp"
#include "plan_scheme.hpp"
#include "report/resources.hpp"

namespace auto_round::plan {
namespace {

using exporting::layer_decision;

constexpr std::array<std::string_view, 4> heads = {"lm_head", "head", "embed_out", "output"};
constexpr std::array<std::string_view, 8> other_senses = {"vision", "visual", "image", "img", "audio", "speech", "wav", "waveform"};
constexpr std::string_view weight_end = ".weight", tile_scale_end = ".weight_scale_inv";

std::string stem(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); }

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == at) parts.emplace_back();
    else parts.back() += c;
  }
  return parts;
}

bool is_number(const std::string& s) { return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos; }

/// The name up to and including its first number, "model.layers.0"; empty if there is none.
std::string block_of(const std::string& layer) {
  std::string name;
  for (const std::string& part : split(layer, '.')) {
    name += (name.empty() ? "" : ".") + part;
    if (is_number(part)) return name;
  }
  return {};
}

/// Never quantized, whatever a rule says: routers, embeddings, convolutions.
bool is_untouchable(const std::string& tensor) {
  for (const std::string_view part : {"shared_expert_gate.", ".gate.", "embed", "conv", "wte.", "wpe."}) {
    if (tensor.find(part) != std::string::npos) return true;
  }
  return false;
}

bool is_head(const std::string& layer) {
  const std::string last = layer.substr(layer.rfind('.') == std::string::npos ? 0 : layer.rfind('.') + 1);
  return block_of(layer).empty() && std::find(heads.begin(), heads.end(), last) != heads.end();
}

/// Parts of a model that see or hear.
bool is_other_sense(const std::string& layer) {
  for (const std::string& part : split(layer, '.')) {
    for (const std::string& word : split(part, '_')) {
      if (std::find(other_senses.begin(), other_senses.end(), word) != other_senses.end()) return true;
    }
  }
  return false;
}

io::json without_quantization(const io::json& value) {
  if (value.is_array()) {
    io::json::array items;
    for (const io::json& item : value.items()) items.push_back(without_quantization(item));
    return items;
  }
  if (!value.is_object()) return value;
  io::json out = io::json::object{};
  for (const auto& [key, member] : value.members()) {
    if (key != "quantization_config") out.set(key, without_quantization(member));
  }
  return out;
}

/// Floating types whose scales need no more than their group: what a row is rounded to follows from the row alone. Nothing for others.
result<exporting::layer_layout> layout_of_floats(const ar::scheme_fields& s, std::uint64_t rows, std::uint64_t cols) {
  auto l = exporting::layout_of(s, static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), {.who = exporting::dialect::auto_round, .keeps_negative_zeros = true});
  if (l && (l->scales == exporting::scale_form::number || l->global_scale || l->codes == exporting::element::quarters || !l->input_name.empty()))
    return fail(error_kind::unsupported, "scales or codes do not follow from the group alone");
  return l;
}
std::string type_name(const ar::scheme_fields& s) {
  const std::string_view preset = ar::preset_name(s);
  return preset.empty() ? fmt::format("{} {}", s.data_type, s.bits) : std::string(preset);
}
bool is_integer(const ar::scheme_fields& s) { return s.data_type == "int"; }

class planner {
 public:
  planner(const request& wanted, const io::checkpoint_dir& source) : wanted_(wanted), source_(source) {}

  result<model_free_plan> run() {
    if (auto r = check_source(); !r) return forward_error(r);
    if (auto r = check_scheme(); !r) return forward_error(r);
    for (std::uint32_t f = 0; f < source_.files().size(); ++f) {
      shard s;
      s.file = f;
      s.name = source_.files().size() == 1 ? "model.safetensors" : fmt::format("model-{:05d}-of-{:05d}.safetensors", f + 1, source_.files().size());
      plan_.shards.push_back(std::move(s));
    }
    for (const io::tensor_ref& t : source_.tensors()) {
      if (auto r = take(t); !r) return forward_error(r);
    }
    if (auto r = apply_rules(); !r) return forward_error(r);
    for (shard& s : plan_.shards) {
      std::vector<io::tensor_decl> all;
      for (piece& p : s.pieces) {
        p.quantize = p.layer >= 0 && layer_of(p).quantize;
        if (p.quantize) p.output = model_free_tensors(layer_of(p).scheme, plan_.format, p);
        else p.output = {{p.name, p.plain_type(), p.shape}};
        all.insert(all.end(), p.output.begin(), p.output.end());
        if (p.quantize) s.work += p.elements();
      }
      io::sort_as_reference(all);
      s.bytes = io::safetensors_size(all, {{"format", "pt"}});
    }
    if (plan_.quantized() == 0) return fail(error_kind::usage, "no layer would be quantized");
    plan_texts();
    auto companions = exporting::companions_of(source_);
    if (!companions) return forward_error(companions);
    plan_.companions = std::move(*companions);
    return std::move(plan_);
  }

 private:
  const layer_decision& layer_of(const piece& p) const { return plan_.layers[static_cast<std::size_t>(p.layer)]; }

  result<void> check_source() {
    auto packed = exporting::source_layers::find(source_);
    if (!packed) return forward_error(packed);
    plan_.packed_layers = std::make_shared<const exporting::source_layers>(std::move(*packed));
    const io::json& q = source_.config().at("quantization_config");
    if (q.is_null()) return {};
    const std::string& method = q.at("quant_method").as_string();
    const auto& tile = q.at("weight_block_size").items();
    if (method != "fp8" || tile.size() != 2 || tile[0].as_int() < 1 || tile[1].as_int() < 1) {
      fake_ = q.at("packing_format").as_string() == exporting::fake_packing_format;  // its weights are floats
      if (!plan_.packed_layers->empty() || fake_) return {};
      return fail(error_kind::unsupported,
                  fmt::format("the model is quantized by \"{}\" already; this mode reads float checkpoints, FP8 with scales for tiles (weight_block_size), and layers as compressed-tensors and "
                              "ModelOpt store them; `convert`, or --disable_model_free, reads others",
                              method),
                  source_.path() + "/config.json");
    }
    plan_.tile_rows = tile[0].as_int();
    plan_.tile_cols = tile[1].as_int();
    return {};
  }

  static result<void> check_one(const ar::scheme_fields& s, const std::string& format) {
    const bool integer = is_integer(s) && s.act_bits.value_or(16) >= 16 && !s.super_bits && (s.bits == 2 || s.bits == 4 || s.bits == 8) && s.group_size != 0;
    const bool floats = !is_integer(s) && !s.super_bits && s.group_rows == 0 && s.group_size > 0 && layout_of_floats(s, 1, static_cast<std::uint64_t>(s.group_size));
    if (!integer && !floats)
      return fail(error_kind::unsupported, "model-free mode knows integers of 2, 4 and 8 bits, and floats whose scales follow from a group alone (MXFP4, MXFP8, NVFP4_E5M3); use --disable_model_free");
    const bool fits = format == "auto_round" || format == "fake" || (integer && format == "auto_round:auto_gptq" && s.sym) || (floats && format == "llm_compressor");
    if (!fits) return fail(error_kind::unsupported, fmt::format("model-free mode does not write this scheme to format {}; use --disable_model_free", format));
    return {};
  }

  result<void> check_scheme() {
    if (wanted_.formats.size() != 1) return fail(error_kind::unsupported, "model-free mode writes one format in a run");
    plan_.format = wanted_.formats.front();
    auto scheme = resolve_scheme(wanted_.scheme, wanted_.overrides, wanted_.formats);
    if (!scheme) return forward_error(scheme);
    plan_.scheme = *scheme;
    plan_.search = wanted_.how == exporting::method::opt_rtn;
    if (wanted_.scale_type != ar::real::f16) return fail(error_kind::unsupported, "model-free mode stores scales in float16; --disable_model_free has --scale_dtype");
    if (!ar::quantizes(plan_.scheme)) return {};  // BF16: rules say what is quantized
    return check_one(plan_.scheme, plan_.format);
  }

  void add(shard& s, piece p, bool candidate) {
    if (candidate && !is_untouchable(p.name)) {
      layer_decision l;
      l.name = stem(p.name);
      l.rows = p.shape[0];
      l.cols = p.shape[1];
      l.scheme = plan_.scheme;
      const std::string block = block_of(l.name);
      if (!block.empty()) {
        const auto known = blocks_.emplace(block, static_cast<std::int64_t>(outline_.blocks.size()));
        if (known.second) outline_.blocks.push_back(block);
        l.block = known.first->second;
      }
      l.quantize = true;
      if (is_head(l.name)) {
        l.quantize = false;
        l.reason = "head: stays as it is";
        if (outline_.head.empty()) outline_.head = l.name;
      } else if (is_other_sense(l.name)) {
        l.quantize = false;
        l.reason = "part of a vision or audio tower";
        l.kept_type = "float";
      }
      p.layer = static_cast<std::int64_t>(plan_.layers.size());
      plan_.layers.push_back(std::move(l));
    } else if (p.name.ends_with(weight_end)) {
      outline_.other_leaves.push_back(stem(p.name));
    }
    s.pieces.push_back(std::move(p));
  }

  result<void> take(const io::tensor_ref& t) {
    shard& s = plan_.shards[t.file];
    piece p;
    p.name = t.name;
    p.source = &t;
    p.shape = t.shape;
    if (const exporting::source_layer* layer = plan_.packed_layers->of_codes(t.name)) {
      p.name = layer->name + std::string(weight_end);
      p.packed = layer;
      p.shape = {layer->rows, layer->cols};
      add(s, std::move(p), layer->rows > 0 && layer->cols > 0);
      return {};
    }
    if (plan_.packed_layers->is_part(t.name)) return {};
    if (fake_ && (t.name.ends_with(".input_scale") || t.name.ends_with(".input_global_scale"))) return {};  // of what layers read, which nothing speaks of any more
    const bool kept = is_untouchable(t.name);
    if (t.name.ends_with(tile_scale_end) && !kept) {
      const std::string weight = stem(t.name) + std::string(weight_end);
      const io::tensor_ref* w = source_.find(weight);
      if (w != nullptr && w->type == io::dtype::f8_e4m3) return {};  // goes into its weight
    }
    if (t.type == io::dtype::f8_e4m3 && !kept) {
      p.scale = source_.find(stem(t.name) + std::string(tile_scale_end));
      if (!t.name.ends_with(weight_end) || t.shape.size() != 2 || p.scale == nullptr || plan_.tile_rows == 0) {
        return fail(error_kind::input, "an FP8 tensor without scales for its tiles (weight_scale_inv, and weight_block_size in config.json)", source_.files()[t.file], t.name);
      }
      const auto tiles = [](std::uint64_t n, std::int64_t tile) { return (n + static_cast<std::uint64_t>(tile) - 1) / static_cast<std::uint64_t>(tile); };
      if (p.scale->shape != std::vector<std::uint64_t>{tiles(t.shape[0], plan_.tile_rows), tiles(t.shape[1], plan_.tile_cols)})
        return fail(error_kind::input, "the scales do not fit the weight and weight_block_size", source_.files()[p.scale->file], p.scale->name);
    }
    const bool number = t.type == io::dtype::f64 || t.type == io::dtype::f32 || t.type == io::dtype::f16 || t.type == io::dtype::bf16 || p.scale != nullptr;
    if (!number && !kept && t.shape.size() == 2 && t.name.ends_with(weight_end)) {
      return fail(error_kind::unsupported, fmt::format("the weight has type {}; only floating types can be rounded", io::name_of(t.type)), source_.files()[t.file], t.name);
    }
    const bool real = t.type == io::dtype::f32 || t.type == io::dtype::f16 || t.type == io::dtype::bf16 || p.scale != nullptr;
    // Without bytes a line of the header could name any number of experts.
    if (t.shape.size() == 3 && real && p.scale == nullptr && !t.bytes.empty() && take_experts(s, t)) return {};
    const bool transposed = class_contains("GPT2") && (t.name.find(".c_attn.") != std::string::npos || t.name.find(".c_proj.") != std::string::npos || t.name.find(".c_fc.") != std::string::npos);
    add(s, std::move(p), real && t.shape.size() == 2 && t.name.ends_with(weight_end) && t.shape[0] > 0 && t.shape[1] > 0 && !transposed);
    return {};
  }

  bool class_contains(std::string_view part) const {
    for (const io::json& c : source_.config().at("architectures").items()) {
      if (c.as_string().find(part) != std::string::npos) return true;
    }
    return false;
  }

  /// P.experts.X and P.moe.X of [experts, out, in]: a layer for each expert, two for those that hold two.
  bool take_experts(shard& s, const io::tensor_ref& t) {
    std::vector<std::string> parts = split(t.name, '.');
    if (parts.size() > 2 && parts.back() == "weight") parts.pop_back();
    if (parts.size() < 2) return false;
    const std::string kind = parts.back(), owner = parts[parts.size() - 2];
    if (owner != "experts" && owner != "moe") return false;
    if (class_contains("Llama4") || class_contains("GptOss")) {
      plan_.warnings.push_back(fmt::format("{} is kept: this architecture stores experts turned around", t.name));
      return false;
    }
    std::string prefix;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) prefix += parts[i] + ".";
    if (owner == "moe") prefix += "experts.";
    std::vector<std::string> halves = {kind};
    if (kind == "gate_up_proj") halves = {"gate_proj", "up_proj"};
    if (kind == "w13") halves = {"w1", "w3"};
    if (t.shape[1] % halves.size() != 0) return false;
    const std::uint64_t rows = t.shape[1] / halves.size(), each = rows * t.shape[2];
    for (std::uint64_t e = 0; e < t.shape[0]; ++e) {
      for (std::size_t h = 0; h < halves.size(); ++h) {
        piece p;
        p.name = fmt::format("{}{}.{}.weight", prefix, e, halves[h]);
        p.source = &t;
        p.first = (e * halves.size() + h) * each;
        p.shape = {rows, t.shape[2]};
        add(s, std::move(p), each > 0);
      }
    }
    return true;
  }

  result<void> apply_rules() {
    outline_.predefined_ignore = predefined_ignore_patterns(source_.config(), plan_.layers);
    // A head that a rule names is quantized by it; without one, the flag decides.
    auto rules = apply_layer_rules(wanted_.rules, plan_.scheme, wanted_.scheme, wanted_.formats, outline_, plan_.layers);
    if (!rules) return forward_error(rules);
    plan_.warnings.insert(plan_.warnings.end(), rules->warnings.begin(), rules->warnings.end());
    if (is_integer(plan_.scheme)) exporting::apply_multiple_of_32_rule(plan_.layers);
    std::set<std::string_view> families;
    for (layer_decision& l : plan_.layers) {
      if (!l.quantize) continue;
      if (!is_integer(l.scheme) && l.cols % static_cast<std::uint64_t>(std::max(1, l.scheme.group_size)) != 0) {
        l.quantize = false;
        l.reason = fmt::format("{} columns are no multiple of {}", l.cols, l.scheme.group_size);
        l.kept_type = "fp";
        continue;
      }
      if (auto r = check_one(l.scheme, plan_.format); !r) return fail(r.error().kind, r.error().message, {}, l.name);
      families.insert(l.scheme.data_type);
      if (is_integer(l.scheme) && !exporting::is_storable(exporting::int_matrix_of(exporting::int_layout::gptq_v1, l.scheme, l.rows, l.cols)))
        return fail(error_kind::unsupported, fmt::format("{} x {} weights with {} bits are no whole words; keep the layer in 16 bits", l.rows, l.cols, l.scheme.bits), {}, l.name);
      if (is_integer(l.scheme) && l.scheme.sym != plan_.scheme.sym && ar::quantizes(plan_.scheme))
        return fail(error_kind::unsupported, "symmetric and asymmetric integers store zero points in two ways, which model-free mode cannot mix", {}, l.name);
    }
    if (families.size() > 1) return fail(error_kind::unsupported, "model-free mode cannot mix data types in one checkpoint");
    for (std::string& line : split_fused_groups(plan_.layers)) {
      if (wanted_.fused == fuse_check::off) break;
      if (wanted_.fused == fuse_check::error) return fail(error_kind::usage, line + " (--fuse_check error)");
      plan_.warnings.push_back(std::move(line));
    }
    choose_model_scheme();
    if (plan_.format != "fake") {
      for (std::string& w : shard_wise_warnings(plan_.scheme)) plan_.warnings.push_back(std::move(w));
    }
    return {};
  }

  /// Of BF16 with rules, the scheme that most layers have stands for the model.
  void choose_model_scheme() {
    if (!ar::quantizes(plan_.scheme)) plan_.scheme = commonest_scheme(plan_.layers).value_or(plan_.scheme);
    const std::string_view name = ar::preset_name(plan_.scheme);
    plan_.scheme_name = name.empty() ? exporting::describe_int_scheme(plan_.scheme) : std::string(name);
  }

  // --- configuration ---------------------------------------------------------------------------------------------------------------------------

  static io::json scheme_keys(const ar::scheme_fields& s) {
    io::json e = io::json::object{};
    e.set("bits", s.bits).set("group_size", s.group_size).set("sym", s.sym).set("data_type", s.data_type).set("act_bits", s.act_bits.value_or(16));
    e.set("act_group_size", s.act_group_size.value_or(s.group_size)).set("act_sym", s.act_sym.value_or(s.sym));
    return e.set("act_data_type", s.act_data_type.value_or("float")).set("act_dynamic", s.act_dynamic.value_or(true));
  }

  io::json kept_keys() const {
    io::json e = io::json::object{};
    e.set("bits", 16).set("data_type", "float");
    if (!is_integer(plan_.scheme)) e.set("act_bits", 16).set("act_data_type", "float");
    return e;
  }

  /// A rule with the keys that the user, or the preset that he named, gave.
  static io::json written_keys(const io::json& rule) {
    io::json e = io::json::object{};
    const std::string preset = rule.is_string() ? rule.as_string() : rule.at("scheme").as_string();
    if (const ar::scheme_fields* f = preset.empty() ? nullptr : ar::find_preset(preset)) {
      e.set("bits", f->bits).set("group_size", f->group_size).set("sym", f->sym).set("data_type", f->data_type);
      if (f->act_bits) e.set("act_bits", *f->act_bits);
      if (f->act_group_size) e.set("act_group_size", *f->act_group_size);
      if (f->act_sym) e.set("act_sym", *f->act_sym);
      if (f->act_data_type) e.set("act_data_type", *f->act_data_type);
      if (f->act_dynamic) e.set("act_dynamic", *f->act_dynamic);
    }
    for (const auto& [key, value] : rule.members()) {
      if (key != "scheme" && !value.is_null()) e.set(key, value);
    }
    return e;
  }

  bool differs(const io::json& e) const {
    const ar::scheme_fields& s = plan_.scheme;
    return e.at("bits").as_int(s.bits) >= 16 || e.at("bits").as_int(s.bits) != s.bits || e.at("group_size").as_int(s.group_size) != s.group_size ||
           e.at("sym").as_bool(s.sym) != s.sym;
  }

  /// Layers that stay as they are, in the order of the files; `embeddings` among them, and other matrices that are never quantized.
  std::vector<std::string> kept_layers(bool embeddings) const {
    std::vector<std::string> names;
    for (const shard& s : plan_.shards) {
      for (const piece& p : s.pieces) {
        if (p.quantize || p.shape.size() < 2 || !p.name.ends_with(weight_end)) continue;
        const bool special = p.name.find("embed") != std::string::npos || p.name.find("conv") != std::string::npos;
        if (embeddings || !special) names.push_back(stem(p.name));
      }
    }
    return names;
  }

  io::json extra_config() const {
    io::json extra = io::json::object{};
    for (const auto& [key, rule] : wanted_.rules.config.members()) {
      io::json e = written_keys(rule);
      const std::size_t dot = key.rfind('.');
      const bool numbered = is_number(key.substr(dot == std::string::npos ? 0 : dot + 1));
      if (differs(e)) extra.set(numbered ? key + "." : key, std::move(e));
    }
    for (const std::string& name : kept_layers(false)) {
      if (extra.find(name) == nullptr) extra.set(name, kept_keys());
    }
    // The recipe of a mixed preset gives layers schemes that no rule says.
    const bool recipe = ar::detail::equal_ignoring_case(wanted_.scheme, "W4A16_MIXED");
    for (const layer_decision& l : plan_.layers) {
      if (recipe && l.quantize && extra.find(l.name) == nullptr && l.scheme.bits != plan_.scheme.bits) extra.set(l.name, io::json(io::json::object{}).set("bits", l.scheme.bits));
      if (l.quantize && l.block < 0 && extra.find(l.name) == nullptr) extra.set(l.name, scheme_keys(l.scheme));
    }
    return extra;
  }

  std::string block_names() const {
    std::vector<std::string> names;
    for (const layer_decision& l : plan_.layers) {
      if (!l.quantize || l.block < 0) continue;
      const std::string block = outline_.blocks[static_cast<std::size_t>(l.block)], list = block.substr(0, block.rfind('.'));
      if (std::find(names.begin(), names.end(), list) == names.end()) names.push_back(list);
    }
    return fmt::format("{}", fmt::join(names, ","));
  }

  io::json quantization_config() const {
    exporting::job run;
    run.format = plan_.format;
    run.scheme = plan_.scheme;
    run.layers = plan_.layers;
    run.model_free = true;
    if (plan_.format != "llm_compressor") return exporting::shard_wise_config(run, block_names(), extra_config());
    io::json::array ignore;
    for (const std::string& name : kept_layers(true)) ignore.emplace_back(name);
    return exporting::shard_wise_ct_config(run, std::move(ignore));
  }

  void plan_texts() {
    if (plan_.shards.size() > 1) {
      io::json map = io::json::object{}, metadata = io::json::object{}, index = io::json::object{};
      std::uint64_t total = 0;
      for (const shard& s : plan_.shards) {
        for (const piece& p : s.pieces) {
          for (const io::tensor_decl& t : p.output) {
            map.members().emplace_back(t.name, s.name);
            total += t.bytes();
          }
        }
      }
      metadata.set("total_size", static_cast<std::int64_t>(total));
      index.set("metadata", std::move(metadata)).set("weight_map", std::move(map));
      plan_.texts.push_back({"model.safetensors.index.json", io::dump(index)});
    }
    io::json config = without_quantization(source_.config());
    const io::json q = plan_.format == "fake" ? io::json() : quantization_config();
    if (!q.is_null()) config.set("quantization_config", q);
    plan_.texts.push_back({"config.json", io::dump(config)});
    if (!q.is_null()) plan_.texts.push_back({"quantization_config.json", io::dump(q)});
  }

  const request& wanted_;
  const io::checkpoint_dir& source_;
  model_free_plan plan_;
  model_outline outline_;
  bool fake_ = false;
  std::map<std::string, std::int64_t> blocks_;
};

}  // namespace

std::uint64_t piece::elements() const {
  std::uint64_t n = 1;
  for (const std::uint64_t d : shape) n *= d;
  return n;
}

std::vector<exporting::file_plan> model_free_plan::files() const {
  std::vector<exporting::file_plan> all;
  for (const shard& s : shards) all.push_back({s.name, s.bytes});
  for (const text_file& t : texts) all.push_back({t.name, t.content.size()});
  all.insert(all.end(), companions.begin(), companions.end());
  std::vector<std::string> names;
  for (const exporting::file_plan& f : all) names.push_back(f.name);
  all.push_back({exporting::checksums_name, exporting::checksums_size(names)});
  return all;
}

std::uint64_t model_free_plan::bytes() const {
  std::uint64_t n = 0;
  for (const exporting::file_plan& f : files()) n += f.bytes;
  return n;
}

std::uint64_t model_free_plan::weight_bytes() const {
  std::uint64_t n = 0;
  for (const shard& s : shards) n += s.bytes;
  return n;
}

std::size_t model_free_plan::quantized() const {
  std::size_t n = 0;
  for (const layer_decision& l : layers) n += l.quantize;
  return n;
}

bool model_free_plan::by_all_threads(const shard& s, const piece& p, int threads) const {
  return p.quantize && p.elements() * static_cast<std::uint64_t>(2 * threads) > s.work;
}

std::uint64_t model_free_plan::working_bytes(const piece& p) const {
  constexpr std::uint64_t band = std::uint64_t{1} << 20;  // rows of floats on their way
  const std::uint64_t weights = p.elements();
  if (!p.quantize) return p.packed != nullptr ? weights * 6 : 0;
  const ar::scheme_fields& s = layers[static_cast<std::size_t>(p.layer)].scheme;
  // As read, in float, dequantized, codes, packed; of packed layers no bytes of floats.
  if (format == "fake" || (search && s.data_type != "int")) return p.packed != nullptr ? weights * 9 : weights * 45 / 4;
  const std::uint64_t packed = weights * static_cast<std::uint64_t>(s.bits) / 8, scales = (is_integer(s) ? 10 : 5) * (s.group_size > 0 ? weights / static_cast<std::uint64_t>(s.group_size) : p.shape[0]);
  // Packed layers are computed as a whole, from their bytes to codes and floats, from which the bands are taken.
  const std::uint64_t unpacked = p.packed != nullptr ? 5 * weights + p.source->bytes.size() : 0;
  return std::max(weights + (is_integer(s) ? 2 * packed : packed), unpacked) + scales + band;
}

memory_estimate model_free_plan::memory(int threads) const {
  constexpr std::uint64_t program = std::uint64_t{3} << 20;
  std::uint64_t most = 0;
  for (const shard& s : shards) {
    std::vector<std::uint64_t> sizes;
    for (const piece& p : s.pieces) {
      if (by_all_threads(s, p, threads)) most = std::max(most, working_bytes(p));
      else sizes.push_back(working_bytes(p));
    }
    std::sort(sizes.rbegin(), sizes.rend());
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < std::min(sizes.size(), static_cast<std::size_t>(threads)); ++i) n += sizes[i];
    most = std::max(most, n);
  }
  memory_estimate all;
  all.add({"rounding", {{"the program", report::current_memory_bytes() + program, {}}, {"the largest layers", most, "--threads"}}, {}});
  return all;
}

std::vector<io::tensor_decl> model_free_tensors(const ar::scheme_fields& s, const std::string& format, const piece& p) {
  const std::string name = stem(p.name);
  const std::uint64_t rows = p.shape[0], cols = p.shape[1];
  if (format == "fake") return {{p.name, p.plain_type(), p.shape}};
  if (!is_integer(s)) {
    const auto layout = layout_of_floats(s, rows, cols);
    return layout ? exporting::tensors_of(*layout, name) : std::vector<io::tensor_decl>();
  }
  const std::uint64_t in_word = 32 / static_cast<std::uint64_t>(s.bits), size = static_cast<std::uint64_t>(std::max(1, s.group_size));
  const std::uint64_t groups = s.group_size < 0 ? 1 : (cols + size - 1) / size;
  return {{name + ".qweight", io::dtype::i32, {cols / in_word, rows}}, {name + ".qzeros", io::dtype::i32, {groups, rows / in_word}}, {name + ".scales", io::dtype::f16, {groups, rows}}};
}

result<model_free_plan> make_model_free_plan(const request& wanted, const io::checkpoint_dir& source) { return planner(wanted, source).run(); }

bool model_free_applies(const request& wanted, const std::string& folder) {
  const auto source = io::checkpoint_dir::open(folder);
  return source && make_model_free_plan(wanted, *source);
}

result<std::vector<std::vector<std::byte>>> model_free_floats(tune::quantized_layer layer) {
  auto layout = layout_of_floats(layer.scheme, layer.rows, layer.cols);
  if (!layout) return forward_error(layout);
  auto parts = exporting::pack_layer(*layout, std::move(layer));
  if (!parts) return forward_error(parts);
  std::vector<std::vector<std::byte>> bytes;
  for (exporting::packed_part& p : *parts) bytes.push_back(std::move(p.data));
  return bytes;
}

std::string describe(const model_free_plan& plan, const memory_estimate& memory) {
  std::map<std::string, std::vector<std::string>> quantized, kept;
  for (const layer_decision& l : plan.layers) {
    if (l.quantize) quantized[is_integer(l.scheme) ? exporting::describe_int_scheme(l.scheme) : type_name(l.scheme)].push_back(l.name);
    else kept[l.reason].push_back(l.name);
  }
  std::string out = fmt::format("Format {}, scheme {}, shard by shard\n", plan.format, plan.scheme_name);
  for (auto& [scheme, names] : quantized) out += fmt::format("\n{}: {} layers\n  {}\n", scheme, names.size(), fmt::join(compress_names(names), "\n  "));
  for (auto& [reason, names] : kept) out += fmt::format("\nkept ({}): {} layers\n  {}\n", reason, names.size(), fmt::join(compress_names(names), "\n  "));
  out += "\n";
  for (const exporting::file_plan& f : plan.files()) out += fmt::format("{}  {} bytes\n", f.name, f.bytes);
  return out + fmt::format("Peak memory: about {} ({}).\n", report::human_bytes(memory.bytes()), memory.explain());
}

io::json to_json(const model_free_plan& plan, const memory_estimate& memory) {
  io::json::array files, layers, warnings;
  for (const exporting::file_plan& f : plan.files()) {
    io::json one = io::json::object{};
    files.push_back(one.set("name", f.name).set("bytes", static_cast<std::int64_t>(f.bytes)));
  }
  for (const layer_decision& l : plan.layers) {
    io::json one = io::json::object{};
    one.set("name", l.name).set("quantize", l.quantize);
    if (l.quantize) one.set("bits", l.scheme.bits).set("group_size", l.scheme.group_size).set("data_type", l.scheme.data_type);
    else one.set("reason", l.reason);
    layers.push_back(std::move(one));
  }
  for (const std::string& w : plan.warnings) warnings.emplace_back(w);
  io::json out = io::json::object{};
  out.set("scheme", plan.scheme_name).set("format", plan.format).set("model_free", true).set("bytes", static_cast<std::int64_t>(plan.bytes()));
  out.set("weight_bytes", static_cast<std::int64_t>(plan.weight_bytes()));
  out.set("peak_memory_bytes", static_cast<std::int64_t>(memory.bytes())).set("quantized_layers", plan.quantized());
  return out.set("files", std::move(files)).set("layers", std::move(layers)).set("warnings", std::move(warnings));
}

}  // namespace auto_round::plan
