// AWQ for a whole model: a pass over the calibration set, block after block on the float model's activations, finds factors for channels and ranges for
// groups; a weight source then gives the smoothed and clipped model in place of the original, so that rounding, tuning and evaluation need not know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ar/awq.hpp"
#include "ar/numeric/real.hpp"
#include "ar/scheme.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "text/calibration.hpp"
#include "transform/awq_mappings.hpp"
#include "transform/awq_search.hpp"

namespace auto_round::transform {

/// Defaults as in the reference (awq.md section 1.1), except for the policy of mappings.
struct awq_options {
  ar::awq::duo_scaling duo_scaling = ar::awq::duo_scaling::on;
  int n_grid = 20;
  std::int64_t seqlen = 512;             ///< tokens of a calibration sample that are looked at; below 1: all
  std::int64_t batch_size = 8;           ///< samples of a forward pass
  std::int64_t smooth_batch_size = 0;    ///< samples of a pass of the search; 0: batch_size
  std::int64_t search_tokens = 8192;     ///< about so many tokens, of samples from all over the set, run through attention and MLP for each candidate; 0: all
  bool apply_smooth = true;
  bool apply_clip = false;
  bool clip_as_init = false;             ///< leave clipped weights as they are; tuning starts from the ranges
  bool classic_clip = false;             ///< clip as AutoAWQ does: all layers but queries and keys, symmetric ranges
  int clip_n_grid = 20;
  double clip_max_shrink = 0.5;
  std::int64_t clip_n_sample_token = 512;
  int smooth_iters = 1;
  bool leave_out_padding = false;        ///< tokens that do not count for the loss have no part in statistics and errors
  search_quantizer search = search_quantizer::rtn;  ///< unless the policy is `peer`, searches are weighted by what the layers read
  /// Where a scheme quantizes activations, candidates are compared on inputs that are quantized behind their factors, as an engine will see them. The
  /// original (and policy `peer`) compares on float inputs.
  bool quantize_inputs = true;
  mapping_options mapping;               ///< under `peer` folded weights are rounded to the checkpoint's type too, as the original holds them
  /// What a tensor of the checkpoint is stored in, by its full name; empty: float.
  std::function<ar::real(const std::string& name)> stored;
};

/// The layers that will be quantized, by checkpoint name without ".weight"; others are not smoothed.
using layer_schemes = std::map<std::string, ar::scheme_fields>;

/// What becomes of the tensors of the model.
class awq_changes {
 public:
  using numbers = std::shared_ptr<const std::vector<float>>;
  struct clipped {
    int group_size = 0;
    clip_options options;
    std::shared_ptr<const std::vector<std::uint16_t>> step;
    bool only_init = false;  ///< the ranges are a start for tuning; the weight is left alone
  };

  /// True if `apply` changes the numbers of `tensor`.
  bool touches(const std::string& tensor) const;
  /// Applies the changes of `tensor` to its numbers.
  result<void> apply(const std::string& tensor, std::span<float> values) const;
  /// The ranges that tuning should start from, or null.
  const clipped* initial_ranges(const std::string& tensor) const;

 private:
  friend class awq_pass;
  struct change {
    numbers replaced;                              // norms
    std::vector<std::pair<bool, numbers>> scaled;  // columns by factors (true), the last rows by what is theirs, in this order
    std::shared_ptr<const clipped> clip;           // behind that
    std::size_t columns = 1;
    ar::real format = ar::real::f32;               // what the results are rounded to
  };
  std::map<std::string, change> of_;

  friend std::vector<std::byte> to_record(const awq_changes& changes);
  friend std::optional<awq_changes> changes_of_record(std::span<const std::byte> record);
};

/// Records of changes, and back; nothing for bytes that are no such record.
/// @{
std::vector<std::byte> to_record(const awq_changes& changes);
std::optional<awq_changes> changes_of_record(std::span<const std::byte> record);
/// @}

/// One mapping after its search, for reports.
struct awq_report {
  std::int64_t block = 0;
  std::string smooth;
  ar::awq::candidate point;
  double loss = 0, first_loss = 0;  ///< first: without smoothing
};

struct awq_events {
  std::function<void(const std::string& warning)> on_warning;
  std::function<void(const awq_report&)> on_mapping;
  /// After each block; false stops the run with error_kind::interrupted.
  std::function<bool(std::int64_t done, std::int64_t blocks)> on_block;
  /// Asked before each block, in order, until it gives nothing: what an earlier run with the same inputs and options made of its tensors. The block is not
  /// searched then. May be empty.
  std::function<result<std::optional<awq_changes>>(std::int64_t block)> recorded;
  /// After each block that was searched: what becomes of its tensors. May be empty.
  std::function<void(const awq_changes& of_block)> on_changes;
};

/// error_kind::usage for options out of range, error_kind::input for activations or weights that are not finite and from reading weights,
/// error_kind::unsupported where nothing can be smoothed or a scheme has no quantizer. Results do not depend on the number of threads.
result<awq_changes> run_awq(const model::weight_source& source, const text::calibration_set& calibration, const layer_schemes& schemes,
                            const awq_options& options, const awq_events& events);

/// `source` with the changes of a pass over it. Both must outlive it; the changes may come later than the plan of what is written, so all tensors of a
/// block count as changed.
class awq_source final : public model::weight_source {
 public:
  awq_source(const model::weight_source& source, const awq_changes& changes) : source_(source), changes_(changes) {}
  const model::model_spec& spec() const override { return source_.spec(); }
  result<void> read(const std::string& name, std::span<float> out) const override;
  bool has(const std::string& name) const override { return source_.has(name); }
  void done_with_block(std::int64_t layer) const override { source_.done_with_block(layer); }
  std::vector<std::uint64_t> shape(const std::string& name) const override { return source_.shape(name); }
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override;
  std::string location() const override { return source_.location(); }
  bool changed(const std::string& name) const override {
    return (name.starts_with(spec().block_prefix) && source_.has(name)) || source_.changed(name);
  }
  std::shared_ptr<const model::block_rotations> rotations(std::int64_t layer) const override { return source_.rotations(layer); }

 private:
  const model::weight_source& source_;
  const awq_changes& changes_;
};

}  // namespace auto_round::transform
