// From a request (scheme, overrides, formats, layer rules) and the facts of a model to what happens to each of its tensors, exact to the byte.
// Everything that can be refused is refused here, before any weight is read.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"
#include "plan_layers.hpp"
#include "plan_memory.hpp"

namespace auto_round::plan {

/// What the user set on top of the preset; empty: as the preset says. `group_rows`: of tiles, 0 or empty for groups inside rows.
struct scheme_overrides {
  std::optional<std::int64_t> bits{}, group_size{}, group_rows{}, act_bits{}, act_group_size{}, super_bits{}, super_group_size{};
  std::optional<bool> sym{}, act_sym{}, act_dynamic{};
  std::optional<std::string> data_type{}, act_data_type{};
};

/// Resolves preset and overrides to a complete scheme (spec of auto-round 0.16.1, schemes.py). error_kind::usage for unknown names and impossible
/// values (the message lists near names), error_kind::unsupported for what there is no quantizer for.
result<ar::scheme_fields> resolve_scheme(const std::string& preset, const scheme_overrides& overrides, const std::vector<std::string>& formats);

/// "auto_round, gguf:Q4_0" -> {"auto_round", "gguf:q4_0"}: lower case, no blanks, duplicates dropped, all known, all compatible. "gguf:q*_k_m" has the
/// number of bits in place of the star.
result<std::vector<std::string>> parse_formats(const std::string& text, std::optional<int> bits = {});

/// "5GB", "300MiB", "1000": binary units, with or without i. error_kind::usage otherwise.
result<std::uint64_t> parse_bytes(const std::string& text);

enum class route { automatic, model_free, regular };

/// What a mix of schemes within layers that engines fuse means.
enum class fuse_check { warn, error, off };

struct request {
  std::string scheme = "W4A16";
  scheme_overrides overrides{};
  std::map<std::string, ar::scheme_fields> layer_schemes{};  ///< schemes of single layers, resolved, by name; 16 bits: stays as it is
  std::vector<std::string> formats = {"auto_round"};
  layer_rules rules{};                             ///< rules for single layers
  fuse_check fused = fuse_check::warn;
  exporting::method how = exporting::method::signround;
  route way = route::automatic;
  std::int64_t iters = 200;
  double lr = 0, minmax_lr = 0;                    ///< 0: default
  std::int64_t gradient_accumulate_steps = 1, nsamples = 128, seqlen = 2048, batch_size = 8;
  bool enable_minmax_tuning = true, enable_quanted_input = true;
  bool has_importance = false;                     ///< opt_rtn: an importance matrix is given, or none is wanted; else it is collected
  ar::real scale_type = ar::real::f16;             ///< what scales of integers are rounded to; GGUF goes its own way
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;
  const model::weight_source* weights = nullptr;         ///< what changes the source's weights before they are quantized; null: nothing
  const transform::stored_rotation* rotation = nullptr;  ///< what a rotation adds to the checkpoint; null: nothing
  std::int64_t smoothing_tokens = 0;                     ///< of a calibration sample that AWQ runs through the float model; 0: it does not
  tune::attention_scales attention{};                    ///< static scales that attention gets
  const tune::static_maxima* maxima = nullptr;           ///< where the run puts what calibration finds
  bool compat = false;                                   ///< what the original gets wrong is repeated
  bool rotation_in_fake_only = false;                    ///< nothing but this program could load it with packed layers
};

/// A run that is ready to start. Refers to the source, which must outlive it.
struct run_plan {
  ar::scheme_fields scheme;
  std::string scheme_name;                                     ///< preset name, or a description
  std::vector<exporting::job> jobs;                            ///< one per format; all have the same decisions about layers
  std::vector<std::unique_ptr<exporting::exporter>> exporters; ///< likewise
  std::vector<std::string> warnings;
  memory_estimate memory;                                      ///< put there by whoever knows how the run will go

  const std::vector<exporting::layer_decision>& layers() const { return jobs.front().layers; }
  std::uint64_t total_bytes() const;
  /// The folder of a job inside the output, "" if there is only one: as the original names them, "auto_round:auto_gptq" -> "auto-round-auto-gptq".
  std::string folder(std::size_t job) const;
};

/// `source` must be a float checkpoint. error_kind::input for missing or wrong tensors, usage and unsupported as above.
result<run_plan> make_plan(const request& wanted, const exporting::stored_model& source);

/// What to say before layers of this scheme are written as the original's shard-wise route writes them.
std::vector<std::string> shard_wise_warnings(const ar::scheme_fields& scheme);

/// The linear layers of a model, block by block, then the head unless it is tied; those of the blocks to be quantized by `scheme`.
std::vector<exporting::layer_decision> candidate_layers(const model::model_spec& spec, const ar::scheme_fields& scheme);
/// job::model_name of a source that lies in `folder`.
std::string model_name_of(const exporting::stored_model& source, const std::string& folder);

/// Which of `layers` were quantized, for the last lines of a run: "Summary: quantized 2/15 in the model; kept: lm_head (head: stays in 16 bits), ..."
std::string summary(std::size_t quantized, std::span<const exporting::layer_decision> layers);

/// The plan for people: one line per group of equal tensors, sums, files, peak memory and what it is made of.
std::string describe(const run_plan& plan);
/// The plan for programs: every tensor, every file.
io::json to_json(const run_plan& plan);

/// "model.layers.0.x", "model.layers.1.x" -> "model.layers.[0-1].x": the notation of the original's logs. Sorted by code point.
std::vector<std::string> compress_names(std::vector<std::string> names);

}  // namespace auto_round::plan
