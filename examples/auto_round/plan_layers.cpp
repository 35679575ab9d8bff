#include "plan_layers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "export/export_gguf_types.hpp"
#include "export/export_layer_pattern.hpp"
#include "plan.hpp"
#include "plan_scheme.hpp"
#include "text/regex.hpp"

namespace auto_round::plan {
namespace {

using exporting::layer_decision;
using exporting::layer_pattern;

constexpr std::array<std::string_view, 13> known_keys = {"bits",         "group_size",    "sym",        "data_type",        "act_bits",    "act_group_size", "act_sym",
                                                         "act_data_type", "act_dynamic", "super_bits", "super_group_size", "scale_dtype", "scheme"};

std::string lower(std::string_view s) {
  std::string out(s);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') parts.emplace_back();
    else if (std::isspace(static_cast<unsigned char>(c)) == 0) parts.back() += c;
  }
  std::erase(parts, std::string());
  return parts;
}

/// A rule complete in all fields.
struct rule {
  std::string key;
  ar::scheme_fields scheme;
  std::optional<ar::real> scale_type{};
  bool ignores = false;     // of --ignore_layers: 16 bits
  bool predefined = false;  // not the user's
  std::string source() const { return ignores ? "--ignore_layers" : "--layer_config"; }
};

/// Reads the fields of one entry of --layer_config.
class entry_reader {
 public:
  entry_reader(std::string key, const ar::scheme_fields& whole, const std::vector<std::string>& formats) : key_(std::move(key)), whole_(whole), formats_(formats) {}

  result<ar::scheme_fields> read(const io::json& value) {
    if (value.is_string()) {
      if (auto r = take_preset(value.as_string()); !r) return forward_error(r);
    } else if (value.is_object()) {
      if (const io::json* preset = value.find("scheme"); preset != nullptr && !preset->is_null()) {
        if (!preset->is_string()) return wrong("scheme", "must be the name of a preset");
        if (auto r = take_preset(preset->as_string()); !r) return forward_error(r);
      }
      for (const auto& [name, field] : value.members()) {
        if (auto r = take(name, field); !r) return forward_error(r);
      }
    } else {
      return wrong({}, "needs the name of a scheme or fields: {bits:8,group_size:32}");
    }
    return complete();
  }
  std::optional<ar::real> scale_type() const { return scale_type_; }

 private:
  tl::unexpected<error> wrong(std::string_view field, std::string_view what) const {
    return fail(error_kind::usage, fmt::format("--layer_config \"{}\"{}{}: {}", key_, field.empty() ? "" : ", ", field, what));
  }

  result<void> take_preset(const std::string& name) {
    const std::string preset(lower(name));
    const auto at = std::find_if(std::begin(ar::presets), std::end(ar::presets), [&](const ar::preset& p) { return lower(p.name) == preset; });
    if (at == std::end(ar::presets)) {
      std::vector<std::string> names;
      for (const ar::preset& p : ar::presets) names.emplace_back(p.name);
      return wrong({}, fmt::format("unknown scheme \"{}\"; near names are {}", name, fmt::join(nearest_names(name, names), ", ")));
    }
    const ar::scheme_fields& f = at->fields;
    bits_ = f.bits;
    group_size_ = std::pair{f.group_rows, f.group_size};
    sym_ = f.sym;
    data_type_ = f.data_type;
    act_ = {f.act_bits, f.act_group_size, f.act_sym, f.act_data_type, f.act_dynamic};
    super_bits_ = f.super_bits;
    super_group_size_ = f.super_group_size;
    preset_ = true;
    return {};
  }

  result<void> take(const std::string& name, const io::json& value) {
    if (std::find(known_keys.begin(), known_keys.end(), name) == known_keys.end()) {
      if (name == "rotation_config") return fail(error_kind::unsupported, fmt::format("--layer_config \"{}\": rotations of single layers are not supported", key_));
      return wrong({}, fmt::format("unknown key \"{}\"; these are possible: {}", name, fmt::join(known_keys, ", ")));
    }
    if (value.is_null() || name == "scheme") return {};
    if (name == "scale_dtype") {
      scale_type_ = value.is_string() ? real_named(value.as_string()) : std::nullopt;
      return scale_type_ ? result<void>() : wrong(name, "must be fp16, bf16 or fp32");
    }
    const auto integer = [&](auto& to, std::int64_t low) -> result<void> {
      if (!value.is_number() || static_cast<double>(value.as_int()) != value.as_double() || value.as_int() < low || value.as_int() > 1 << 30)
        return wrong(name, fmt::format("must be an integer of at least {}", low));
      to = static_cast<int>(value.as_int());
      return {};
    };
    const auto truth = [&](std::optional<bool>& to) -> result<void> {
      if (!value.is_bool()) return wrong(name, "must be true or false");
      to = value.as_bool();
      return {};
    };
    const auto type = [&](std::optional<std::string_view>& to) -> result<void> {
      if (!value.is_string()) return wrong(name, "must be the name of a data type");
      to = kept(value.as_string());
      return {};
    };
    if (name == "bits" && value.as_int() > 64) return wrong(name, "must be a width of numbers: at most 64");
    if (name == "bits") return integer(bits_, 1);
    if (name == "group_size") return take_group(value);
    if (name == "sym") {
      named_sym_ = true;
      return truth(sym_);
    }
    if (name == "data_type") return type(data_type_);
    if (name == "act_bits") return integer(act_.bits, 1);
    if (name == "act_group_size") return integer(act_.group_size, -1);
    if (name == "act_sym") return truth(act_.sym);
    if (name == "act_data_type") return type(act_.data_type);
    if (name == "act_dynamic") return truth(act_.dynamic);
    if (name == "super_bits") return integer(super_bits_, 1);
    return integer(super_group_size_, 1);
  }

  result<void> take_group(const io::json& value) {
    if (value.is_number() && static_cast<double>(value.as_int()) == value.as_double() && value.as_int() >= -1 && value.as_int() < 1 << 30) {
      group_size_ = std::pair{0, static_cast<int>(value.as_int())};
      return {};
    }
    const auto& pair = value.items();
    if (pair.size() == 2 && pair[0].as_int() > 0 && pair[1].as_int() > 0 && pair[0].as_int() < 1 << 20 && pair[1].as_int() < 1 << 20) {
      group_size_ = std::pair{static_cast<int>(pair[0].as_int()), static_cast<int>(pair[1].as_int())};
      return {};
    }
    return wrong("group_size", "must be an integer, or [rows, columns]");
  }

  result<ar::scheme_fields> complete() {
    if (!bits_ && data_type_) bits_ = bits_in_name(*data_type_);
    if (!act_.bits && act_.data_type) act_.bits = bits_in_name(*act_.data_type);
    ar::scheme_fields s = whole_;
    if (bits_) s.bits = *bits_;
    if (group_size_) std::tie(s.group_rows, s.group_size) = *group_size_;
    if (sym_) s.sym = *sym_;
    if (data_type_) s.data_type = *data_type_;
    if (act_.bits) s.act_bits = act_.bits;
    if (act_.group_size) s.act_group_size = act_.group_size;
    if (act_.sym) s.act_sym = act_.sym;
    if (act_.data_type) s.act_data_type = act_.data_type;
    if (act_.dynamic) s.act_dynamic = act_.dynamic;
    // A preset means what it says: of the model's super-blocks it takes nothing.
    if (super_bits_ || preset_) s.super_bits = super_bits_;
    if (super_group_size_ || preset_) s.super_group_size = super_group_size_;
    if (s.bits == 8 && !s.sym && s.data_type == "int" && !allows_asymmetric_bytes(formats_)) {
      if (named_sym_) return wrong("sym", "8-bit asymmetric weights lose quality in most engines; set AR_ALLOW_W8_ASYM=1 to insist");
      s.sym = true;
    }
    if (s.bits > 8 && !act_.bits) s.act_bits = 16;  // a layer that is kept is kept as a whole
    if (!ar::quantizes(s)) return s;
    // Of a GGUF file's types only bits were named, and the model's type has no such width: what has is looked for.
    if (bits_ && !data_type_ && !preset_ && s.super_bits && std::ranges::any_of(formats_, exporting::is_gguf) && !exporting::gguf_type_of(s)) {
      s.data_type = "int";
      s.sym = true;
      s.super_bits.reset();
      s.super_group_size.reset();
    }
    if (s.bits > 8) return fail(error_kind::unsupported, fmt::format("--layer_config \"{}\": quantized activations of a layer with 16-bit weights are not supported", key_));
    if (auto r = with_known_types(s); !r) {
      error e = r.error();
      e.message = fmt::format("--layer_config \"{}\": {}", key_, e.message);
      return tl::unexpected<error>(std::move(e));
    }
    return s;
  }

  struct activation_fields {
    std::optional<int> bits, group_size;
    std::optional<bool> sym;
    std::optional<std::string_view> data_type;
    std::optional<bool> dynamic;
  };
  std::string key_;
  const ar::scheme_fields& whole_;
  const std::vector<std::string>& formats_;
  std::optional<int> bits_, super_bits_, super_group_size_;
  std::optional<std::pair<int, int>> group_size_;
  std::optional<bool> sym_;
  bool named_sym_ = false, preset_ = false;
  std::optional<std::string_view> data_type_;
  std::optional<ar::real> scale_type_;
  activation_fields act_;
};

/// The blocks of E2M1 that an entry names: MXFP4 or NVFP4, whatever it says of activations, which no GGUF file quantizes. Null if it means something else.
const ar::scheme_fields* fp4_blocks(const ar::scheme_fields& s) {
  for (const io::gguf_type type : {io::gguf_type::mxfp4, io::gguf_type::nvfp4}) {
    const ar::scheme_fields* blocks = exporting::scheme_of(type);
    if (s.data_type == blocks->data_type && s.bits == blocks->bits && s.group_size == blocks->group_size && s.group_rows == 0 && !s.super_bits) return blocks;
  }
  return nullptr;
}

/// The GGUF type that an entry means: its own fields if they are one, else the type of its bits that the rows fit. In the original's order of rules all others go by bits, MXFP4 too.
result<ar::scheme_fields> gguf_scheme(const rule& r, const layer_decision& layer, rule_order order) {
  if (exporting::gguf_type_of(r.scheme)) return r.scheme;
  const int bits = r.scheme.bits;
  if (const ar::scheme_fields* fp4 = order == rule_order::reference ? nullptr : fp4_blocks(r.scheme)) {
    const io::gguf_type_facts& blocks = io::gguf_type_info(static_cast<std::uint32_t>(*exporting::gguf_type_of(*fp4)));
    if (layer.cols % blocks.block_elements == 0) return *fp4;
    return fail(error_kind::unsupported, fmt::format("--layer_config \"{}\": rows of {} values are no multiple of the {} of {} blocks", r.key, layer.cols, blocks.block_elements, blocks.name), {}, layer.name);
  }
  const ar::scheme_fields* found = nullptr;
  if (layer.cols % 256 == 0) found = ar::find_preset(fmt::format("GGUF:Q{}_K{}", bits, bits == 6 ? "" : "_S"));
  if (found == nullptr && layer.cols % 32 == 0) found = ar::find_preset(fmt::format("GGUF:Q{}_0", bits));
  if (found != nullptr) return *found;
  return fail(error_kind::unsupported, fmt::format("--layer_config \"{}\": no GGUF type has {} bits and rows of {} values", r.key, bits, layer.cols), {}, layer.name);
}

/// Why a layer cannot have the scheme of its rule in any format but GGUF; empty if it can.
std::string obstacle_of_shape(const layer_decision& l) {
  const ar::scheme_fields& s = l.scheme;
  if (s.data_type == "int" && s.act_bits.value_or(16) >= 16 && !s.super_bits && (l.rows % 32 != 0 || l.cols % 32 != 0))
    return fmt::format("{} x {}: rows and columns must be multiples of 32", l.rows, l.cols);
  const bool whole_groups = s.data_type.find("mx_") != s.data_type.npos || s.data_type.find("nv") != s.data_type.npos;
  if (whole_groups && s.group_size > 0 && l.cols % static_cast<std::uint64_t>(s.group_size) != 0)
    return fmt::format("{} columns are no multiple of the group size {}", l.cols, s.group_size);
  return {};
}

class resolver {
 public:
  resolver(const layer_rules& rules, const ar::scheme_fields& scheme, const std::vector<std::string>& formats, const model_outline& model,
           std::vector<layer_decision>& layers)
      : rules_(rules), whole_(scheme), formats_(formats), model_(model), layers_(layers), applied_(layers.size(), nullptr), exact_(layers.size()) {
    gguf_ = std::any_of(formats.begin(), formats.end(), exporting::is_gguf);
  }

  result<resolved_rules> run(std::string_view preset) {
    if (auto r = choose_blocks(); !r) return forward_error(r);
    if (lower(preset) == "w4a16_mixed") apply_mixed_recipe();
    if (auto r = read_config(); !r) return forward_error(r);
    read_ignored();
    for (const rule& r : list_) assign_exact(r);
    for (const rule& r : list_) {
      if (auto done = assign_pattern(r); !done) return forward_error(done);
    }
    if (auto r = decide_head(); !r) return forward_error(r);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (auto r = finish(i); !r) return forward_error(r);
    }
    for (const auto& [key, types] : types_by_bits_)
      out_.warnings.push_back(fmt::format("--layer_config \"{}\" is no type of a GGUF file; by its bits these layers become {}", key, fmt::join(types, ", ")));
    return std::move(out_);
  }

 private:
  bool strict() const { return rules_.order == rule_order::exact_first; }
  bool is_layer(const std::string& name) const {
    return std::any_of(layers_.begin(), layers_.end(), [&](const layer_decision& l) { return l.name == name; });
  }
  bool is_head(const layer_decision& l) const { return l.name == model_.head; }

  /// --to_quant_block_names: layers of the other blocks stay as they are unless a rule names them.
  result<void> choose_blocks() {
    if (!ar::quantizes(whole_)) {
      for (layer_decision& l : layers_) {
        if (l.block >= 0) keep(l, "the scheme quantizes nothing by itself", "fp");
      }
    }
    const std::vector<std::string> patterns = split_list(rules_.to_quant_block_names);
    if (patterns.empty()) return {};
    std::vector<bool> chosen(model_.blocks.size());
    for (const std::string& p : patterns) {
      auto regex = text::regex::compile(p);
      if (!regex) return fail(error_kind::usage, fmt::format("--to_quant_block_names \"{}\" is no regular expression: {}", p, regex.error().message));
      text::regex::workspace space;
      std::vector<text::span_match> hits;
      bool any = false;
      for (std::size_t b = 0; b < chosen.size(); ++b) {
        const bool hit = regex->find_all(model_.blocks[b], space, hits) && !hits.empty();
        any |= hit;
        if (hit) chosen[b] = true;
      }
      if (any || !strict()) continue;
      return fail(error_kind::usage, fmt::format("--to_quant_block_names \"{}\" matches no block; blocks of this model are called {} to {}", p,
                                                 model_.blocks.empty() ? "nothing" : model_.blocks.front(), model_.blocks.empty() ? "nothing" : model_.blocks.back()));
    }
    if (std::find(chosen.begin(), chosen.end(), true) == chosen.end())
      return fail(error_kind::usage, fmt::format("--to_quant_block_names \"{}\" matches no block", rules_.to_quant_block_names));
    for (layer_decision& l : layers_) {
      if (l.block < 0 || chosen[static_cast<std::size_t>(l.block)]) continue;
      keep(l, "its block was not chosen", "fp");
      l.chosen = true;
    }
    return {};
  }

  static void keep(layer_decision& l, std::string reason, std::string type) {
    l.quantize = false;
    l.reason = std::move(reason);
    l.kept_type = std::move(type);
  }

  /// W4A16_MIXED: experts with 4 bits, everything else with 8.
  void apply_mixed_recipe() {
    for (layer_decision& l : layers_) {
      if (is_head(l) || !l.quantize) continue;
      const bool expert = l.name.find("expert") != std::string::npos && l.name.find("shared") == std::string::npos;
      l.scheme.bits = expert ? 4 : 8;
      l.chosen = true;
    }
    mixed_ = true;
  }

  result<void> read_config() {
    for (const auto& [key, value] : rules_.config.members()) {
      entry_reader reader(key, whole_, formats_);
      auto scheme = reader.read(value);
      if (!scheme) return forward_error(scheme);
      list_.push_back({key, *scheme, reader.scale_type()});
    }
    return {};
  }

  /// A pattern ending in a digit gets a dot if some name goes on with one, so that "layers.1" does not hit layers.10.
  std::string with_final_dot(std::string pattern) const {
    const auto goes_on = [&](const std::string& name) { return name.find(pattern + ".") != std::string::npos; };
    const bool any = std::any_of(layers_.begin(), layers_.end(), [&](const layer_decision& l) { return goes_on(l.name); }) ||
                     std::any_of(model_.other_leaves.begin(), model_.other_leaves.end(), goes_on);
    if (std::isdigit(static_cast<unsigned char>(pattern.back())) != 0 && any) pattern += '.';
    return pattern;
  }

  /// --ignore_layers: the layers that it selects, then its patterns as they are, replace rules of the same name.
  void read_ignored() {
    ar::scheme_fields float_scheme = whole_;
    float_scheme.bits = 16;
    float_scheme.act_bits = 16;
    float_scheme.data_type = "float";
    float_scheme.act_data_type = "float";
    std::vector<std::pair<std::string, bool>> patterns;
    for (std::string& p : split_list(rules_.ignore_layers)) patterns.emplace_back(with_final_dot(std::move(p)), false);
    for (const std::string& p : model_.predefined_ignore) patterns.emplace_back(with_final_dot(p), true);
    const auto put = [&](const std::string& key, bool predefined) {
      const auto same = std::find_if(list_.begin(), list_.end(), [&](const rule& r) { return r.key == key; });
      if (same == list_.end()) return list_.push_back({key, float_scheme, {}, true, predefined});
      if (!same->ignores) out_.warnings.push_back(fmt::format("--ignore_layers replaces the rule of --layer_config for {}", key));
      *same = {key, float_scheme, {}, true, predefined};
    };
    for (const auto& [pattern, predefined] : patterns) {
      if (!predefined) out_.ignore_patterns.push_back(pattern);
      if (is_layer(pattern)) continue;
      std::vector<std::string> whole, parts;
      for (const layer_decision& l : layers_) {
        if (l.name.find(pattern) == std::string::npos) continue;
        put(l.name, predefined);
        selected_[l.name] = pattern;
        (fmt::format(".{}.", l.name).find(fmt::format(".{}{}", pattern, pattern.ends_with('.') ? "" : ".")) != std::string::npos ? whole : parts).push_back(l.name);
      }
      if (!predefined && !whole.empty() && !parts.empty()) {
        out_.warnings.push_back(fmt::format("--ignore_layers \"{}\" is meant as a part of a name, so it also keeps {}; write {}$ as a rule of --layer_config with bits 16 "
                                            "for the name alone", pattern, fmt::join(compress_names(parts), ", "), pattern));
      }
    }
    for (const auto& [pattern, predefined] : patterns) put(pattern, predefined);
  }

  void assign_exact(const rule& r) {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].name != r.key) continue;
      applied_[i] = &r;
      exact_[i] = true;
    }
  }

  result<void> assign_pattern(const rule& r) {
    if (is_layer(r.key)) return {};
    if (gguf_ && strict() && (r.key == model_.embedding.name || (r.key == model_.head && model_.tied_head && !r.ignores))) return decide_embedding(r);
    if (r.key == model_.head && model_.tied_head) {
      if (r.ignores && gguf_ && !r.predefined)
        out_.warnings.push_back(fmt::format("--ignore_layers \"{}\": it is tied to {}, which a GGUF file quantizes; --ignore_layers {} keeps it in 16 bits", r.key, model_.embedding.name, model_.embedding.name));
      if (!r.ignores) out_.warnings.push_back(fmt::format("{} is tied to the embedding, so it is not quantized", r.key));
      return {};
    }
    const bool leaf = std::find(model_.other_leaves.begin(), model_.other_leaves.end(), r.key) != model_.other_leaves.end();
    if (leaf) {
      if (r.ignores) out_.patterns.push_back({r.key, r.scheme, "float"});
      const bool quantized = gguf_ && r.key == model_.embedding.name;
      const std::string text = fmt::format("{} \"{}\" is no linear layer and {}", r.source(), r.key, quantized ? "gets the type that the format gives it" : "stays as it is");
      if (r.predefined || (r.ignores && !quantized)) return {};
      if (strict()) return fail(error_kind::usage, text);
      out_.warnings.push_back(text);
      return {};
    }
    auto pattern = layer_pattern::compile(r.key);
    if (!pattern) {
      error e = pattern.error();
      e.message = fmt::format("{}: {}", r.source(), e.message);
      return tl::unexpected<error>(std::move(e));
    }
    std::vector<std::string> replaced;
    bool any = false;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (!pattern->found_in(layers_[i].name)) continue;
      any = true;
      // What --ignore_layers selects stays in float whatever else is said of it; beside that a layer's own name says most.
      const bool own_name = exact_[i] && applied_[i]->key == layers_[i].name && !selected_.contains(layers_[i].name);
      if (strict() && !r.ignores && (own_name || selected_.contains(layers_[i].name))) continue;
      if (own_name && applied_[i] != &r) replaced.push_back(layers_[i].name);
      applied_[i] = &r;
      exact_[i] = false;
    }
    if (!replaced.empty()) {
      out_.warnings.push_back(fmt::format("{} \"{}\" replaces the rules for {} by name", r.source(), r.key, fmt::join(compress_names(replaced), ", ")));
    }
    out_.patterns.push_back({r.key, r.scheme, ar::quantizes(r.scheme) ? std::string() : r.ignores ? "float" : std::string(r.scheme.data_type)});
    if (any || r.predefined || (r.ignores && kept_anyway(r.key))) return {};
    const std::string text = fmt::format("{} \"{}\" matches no layer of this model; near names are {}", r.source(), r.key, fmt::join(near(r.key), ", "));
    if (strict()) return fail(error_kind::usage, text);
    out_.warnings.push_back(text);
    return {};
  }

  /// Part of the name of a module that nothing quantizes: a norm, a router.
  bool kept_anyway(const std::string& part) const {
    return std::any_of(model_.other_leaves.begin(), model_.other_leaves.end(), [&](const std::string& name) { return name.find(part) != std::string::npos; });
  }

  std::vector<std::string> near(const std::string& text) const {
    std::vector<std::string> names;
    for (const layer_decision& l : layers_) names.push_back(l.name);
    return nearest_layers(text, names);
  }

  result<void> decide_head() {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (!is_head(layers_[i])) continue;
      if (const rule* r = applied_[i]; rules_.keep_lm_head && r != nullptr && ar::quantizes(r->scheme)) {
        const std::string text = fmt::format("--layer_config \"{}\" quantizes the head, which --no_quant_lm_head is to leave as it is", r->key);
        if (strict() && r->key == layers_[i].name) return fail(error_kind::usage, text + "; drop one of them");
        out_.warnings.push_back(text);
      }
      if (model_.tied_head && !gguf_) {
        if (rules_.quant_lm_head || (applied_[i] != nullptr && !applied_[i]->ignores)) {
          out_.warnings.push_back(fmt::format("{} is tied to the embedding, so it is not quantized", layers_[i].name));
        }
        applied_[i] = nullptr;
        keep(layers_[i], "tied to the embedding", "fp");
      } else if (rules_.quant_lm_head && applied_[i] == nullptr && ar::quantizes(whole_)) {
        layers_[i].quantize = true;
        layers_[i].reason.clear();
        if (mixed_) {
          layers_[i].scheme.bits = 8;
          layers_[i].chosen = true;
        }
      }
    }
    if (rules_.quant_lm_head && model_.tied_head && !gguf_ && !is_layer(model_.head))
      out_.warnings.push_back(fmt::format("--quant_lm_head: {} is tied to the embedding, so it is not quantized", model_.head));
    return {};
  }

  result<ar::scheme_fields> gguf_type_for(const rule& r, const layer_decision& l) {
    auto scheme = gguf_scheme(r, l, rules_.order);
    if (scheme && !exporting::gguf_type_of(r.scheme) && fp4_blocks(*scheme) == nullptr)
      types_by_bits_[r.key].insert(io::gguf_type_info(static_cast<std::uint32_t>(*exporting::gguf_type_of(*scheme))).name);
    return scheme;
  }

  /// A rule that names the embedding, or a head that is tied to it.
  result<void> decide_embedding(const rule& r) {
    if (!ar::quantizes(r.scheme)) {
      out_.embedding = r.scheme;
      return {};
    }
    auto scheme = gguf_type_for(r, model_.embedding);
    if (!scheme) return forward_error(scheme);
    out_.embedding = *scheme;
    return {};
  }

  result<void> finish(std::size_t i) {
    layer_decision& l = layers_[i];
    if (const rule* r = applied_[i]) {
      if (r->ignores) {
        const auto by = selected_.find(l.name);
        keep(l, fmt::format("ignored by \"{}\"", by != selected_.end() ? by->second : r->key), "float");
        if (r->predefined) l.reason = "never quantized in this architecture";
        return {};
      }
      l.scheme = r->scheme;
      l.chosen = true;
      if (!ar::quantizes(l.scheme)) {
        keep(l, fmt::format("kept by rule \"{}\"", r->key), std::string(l.scheme.data_type));
        return {};
      }
      if (gguf_) {
        auto scheme = gguf_type_for(*r, l);
        if (!scheme) return forward_error(scheme);
        l.scheme = *scheme;
      } else if (auto known = with_known_types(l.scheme)) {
        l.scheme = *known;
      }
      if (l.scheme.data_type == "int" && !gguf_) l.scale_type = r->scale_type;  // the scales of other types are of a kind of their own
      l.quantize = true;
      l.reason.clear();
      l.kept_type.clear();
    }
    if (l.quantize && l.chosen && !gguf_) {
      if (std::string why = obstacle_of_shape(l); !why.empty()) keep(l, std::move(why), "fp");
    }
    return {};
  }

  const layer_rules& rules_;
  const ar::scheme_fields& whole_;
  const std::vector<std::string>& formats_;
  const model_outline& model_;
  std::vector<layer_decision>& layers_;
  std::vector<const rule*> applied_;              // of each layer; into list_
  std::vector<bool> exact_;                       // it has that layer's name
  std::vector<rule> list_;                        // complete before anything points into it
  std::map<std::string, std::string> selected_;   // layer -> the part of its name by which --ignore_layers selects it
  resolved_rules out_;
  std::map<std::string, std::set<std::string>> types_by_bits_;  // rule -> what its layers become in a GGUF file
  bool gguf_ = false, mixed_ = false;
};

}  // namespace

result<resolved_rules> apply_layer_rules(const layer_rules& rules, const ar::scheme_fields& scheme, std::string_view preset, const std::vector<std::string>& formats,
                                         const model_outline& model, std::vector<layer_decision>& layers) {
  return resolver(rules, scheme, formats, model, layers).run(preset);
}

std::vector<std::string> nearest_layers(std::string_view text, std::span<const std::string> layers) {
  std::set<std::string> names;
  for (std::string name : layers) {
    while (!name.empty()) {
      names.insert(name);
      const std::size_t dot = name.find('.');
      name.erase(0, dot == std::string::npos ? name.size() : dot + 1);
    }
  }
  return nearest_names(text, {names.begin(), names.end()});
}

std::optional<ar::scheme_fields> commonest_scheme(std::span<const layer_decision> layers) {
  std::vector<std::pair<ar::scheme_fields, int>> counts;
  for (const layer_decision& l : layers) {
    if (!l.quantize) continue;
    const auto known = std::find_if(counts.begin(), counts.end(), [&](const auto& c) { return ar::same_scheme(c.first, l.scheme); });
    if (known != counts.end()) ++known->second;
    else counts.emplace_back(l.scheme, 1);
  }
  const auto most = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? std::optional<ar::scheme_fields>() : most->first;
}

std::vector<std::string> predefined_ignore_patterns(const io::json& config, std::span<const layer_decision> layers) {
  std::string classes;
  for (const io::json& c : config.at("architectures").items()) classes += c.as_string() + " ";
  const std::string& type = config.at("model_type").as_string();
  const auto has_class = [&](std::string_view part) { return classes.find(part) != std::string::npos; };
  const auto first_dense = [&](std::vector<std::string> more) {
    const std::int64_t n = std::clamp<std::int64_t>(config.at("first_k_dense_replace").as_int(1), 0, 10000);
    std::vector<std::string> names;
    for (std::int64_t i = 0; i < n; ++i) names.push_back(fmt::format("layers.{}.mlp", i));
    names.insert(names.end(), more.begin(), more.end());
    return names;
  };
  if (has_class("Longcat")) return {"classifier"};
  if (has_class("Glm4MoeLite")) return first_dense({});
  if (type == "glm_moe_dsa") return first_dense({"weights_proj", "indexer"});
  if (type == "glm5_next") return first_dense({"weights_proj", "indexer", "self_attn"});
  if (type == "step3p5") return {"g_proj", "moe.gate", "eh_proj", "shared_head", "layers.45"};
  if (type == "kimi_k25") return {"vision_tower", "mm_projector"};
  if (has_class("Qwen4")) return {"hyper_connection", "mlp.gate", "shared_expert"};
  if (type == "bagel") return {"moe_gen"};
  const std::string text = lower(io::dump(config, {.indent = -2}));
  if (text.find("moe") == std::string::npos && text.find("expert") == std::string::npos) return {};
  std::vector<std::string> routers;
  for (const layer_decision& l : layers) {
    if (l.name.ends_with(".gate") || l.name.ends_with(".shared_expert_gate")) routers.push_back(l.name);
  }
  return routers;
}

std::vector<std::string> split_fused_groups(std::span<const layer_decision> layers) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 7> members = {{{"q_proj", "q, k, v"}, {"k_proj", "q, k, v"}, {"v_proj", "q, k, v"},
                                                                                     {"gate_proj", "gate, up"}, {"up_proj", "gate, up"},
                                                                                     {"w1", "w1, w3"}, {"w3", "w1, w3"}}};
  std::map<std::pair<std::string, std::string_view>, std::vector<const layer_decision*>> groups;
  for (const layer_decision& l : layers) {
    if (l.block < 0) continue;
    const std::size_t dot = l.name.rfind('.');
    const std::string parent = l.name.substr(0, dot), last = l.name.substr(dot + 1);
    for (const auto& [name, group] : members) {
      if (last == name) groups[{parent, group}].push_back(&l);
    }
    if (const std::size_t at = l.name.find(".experts."); at != std::string::npos) groups[{l.name.substr(0, at), "experts"}].push_back(&l);
  }
  std::map<std::string_view, std::vector<std::string>> split;
  for (const auto& [key, group] : groups) {
    const layer_decision& first = *group.front();
    const bool same = std::all_of(group.begin(), group.end(), [&](const layer_decision* m) {
      return m->quantize == first.quantize && (!m->quantize || ar::same_scheme(m->scheme, first.scheme));
    });
    if (!same) split[key.second].push_back(key.first);
  }
  std::vector<std::string> lines;
  for (const auto& [group, parents] : split) {
    lines.push_back(fmt::format("{} of {} have different schemes; vLLM and SGLang fuse them and will refuse the checkpoint", group, fmt::join(compress_names(parents), ", ")));
  }
  return lines;
}

}  // namespace auto_round::plan
