// Rules for single layers: what --layer_config, --ignore_layers, --quant_lm_head and --to_quant_block_names say, and what becomes of each layer.
// Source: auto-round 0.16.1, layer_config_resolver.py (facts checked with golden/layer-config).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"

namespace auto_round::plan {

/// The text of --layer_config: JSON, JSON with unescaped backslashes, or the relaxed {name:{bits:8}} form. Strings that look like integers, numbers,
/// true, false, null or none become such. error_kind::usage otherwise.
result<io::json> parse_layer_config(const std::string& text);

/// The rules of --layer_config: `text` itself, or the content of the file that it names. error_kind::usage if they are no object.
result<io::json> read_layer_config(const std::string& text);

/// Whose order decides if several rules name one layer.
enum class rule_order {
  exact_first,  ///< a layer's own name beats every pattern of --layer_config; a rule that matches nothing is an error
  reference,    ///< as auto-round: later patterns beat earlier rules, exact names too; a rule that matches nothing is a warning
};

struct layer_rules {
  io::json config{};                   ///< an object in the user's order: name or pattern -> name of a preset, or fields; or null
  std::string ignore_layers{};         ///< parts of names, separated by commas
  bool quant_lm_head = false;
  bool keep_lm_head = false;           ///< --no_quant_lm_head was written, which a rule must not contradict
  std::string to_quant_block_names{};  ///< regular expressions, separated by commas; empty: all blocks
  rule_order order = rule_order::exact_first;
};

/// What the rules need to know about a model beside its layers.
struct model_outline {
  std::vector<std::string> blocks;            ///< names, "model.layers.0"; layer_decision::block is an index into them
  std::vector<std::string> other_leaves;      ///< modules that are no layers: norms, embeddings
  std::vector<std::string> predefined_ignore; ///< names that are never quantized: routers and the like
  std::string head;                           ///< "lm_head"
  bool tied_head = false;
  exporting::layer_decision embedding{};      ///< name and shape of what only GGUF files quantize
};

/// A rule for layers whose name matches a pattern.
struct layer_rule {
  std::string pattern;       ///< as written; exporting::exported_regex() is what it means
  ar::scheme_fields scheme;  ///< complete
  std::string kept_type;     ///< of layers that it keeps in 16 bits: as in layer_decision; empty if it quantizes them
};

/// What resolving says beyond the decisions.
struct resolved_rules {
  std::vector<layer_rule> patterns;             ///< rules that are no layer's name, in order, complete
  std::vector<std::string> ignore_patterns;     ///< --ignore_layers, split
  std::vector<std::string> warnings;
  std::optional<ar::scheme_fields> embedding;   ///< of a GGUF file, if a rule names it; 16 bits: it stays as it is
};

/// Applies the rules to `layers`, whose schemes are the model's and which are marked for quantization inside blocks. What a rule gives a layer of its
/// own is `chosen`. Shapes are left to the formats, except of layers with rules: those are tested against their own scheme unless `gguf`.
/// error_kind::usage for unknown keys and presets, broken patterns and rules that match nothing (near names are listed).
result<resolved_rules> apply_layer_rules(const layer_rules& rules, const ar::scheme_fields& scheme, std::string_view preset, const std::vector<std::string>& formats,
                                         const model_outline& model, std::vector<exporting::layer_decision>& layers);

/// Names like `text`: of layers, of their places inside blocks, and of their last parts.
std::vector<std::string> nearest_layers(std::string_view text, std::span<const std::string> layers);

/// The scheme that most of the quantized layers have, the first of several; nothing if none is quantized. Where the model's own scheme quantizes nothing
/// (BF16 with rules), it is what a checkpoint says of the model.
std::optional<ar::scheme_fields> commonest_scheme(std::span<const exporting::layer_decision> layers);

/// Names among `layers` that no scheme may touch, by what config.json says of the model: routers of mixtures of experts, layers that engines read in
/// float. The text is a name or a part of one, as for --ignore_layers.
std::vector<std::string> predefined_ignore_patterns(const io::json& config, std::span<const exporting::layer_decision> layers);

/// Sets of layers that engines fuse into one matrix or kernel (q k v, gate up, the experts of a block) whose members differ: one line for each kind of
/// set, for people.
std::vector<std::string> split_fused_groups(std::span<const exporting::layer_decision> layers);

}  // namespace auto_round::plan
