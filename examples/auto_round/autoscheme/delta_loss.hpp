// What each scheme costs in each layer: the first-order change of the language model's loss, from calibration text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autoscheme/accounting.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "text/calibration.hpp"
#include "tune/importance.hpp"
#include "tune/pass_file.hpp"

namespace auto_round::autoscheme {

struct score_options {
  /// false: gradients of the float model, one pass for all options. true: of the model quantized by each option, as in auto-round 0.16.1; takes a
  /// pass for each option.
  bool gradient_at_quantized = false;
  /// Adds what rounding a layer's input costs, for options that quantize activations. auto-round 0.16.1 means to, but never does.
  bool activations = true;
  /// How the run will search (OPT-RTN, scales that tuning begins with): schemes for which `searched` is true are scored with the values that this search
  /// gives, others as the tuner sees weights before its first step. Empty: no scheme is searched.
  std::function<bool(const ar::scheme_fields&)> searched = {};
  ar::real scale_type = ar::real::f16;                   ///< of scales that are searched, as they are stored
  const tune::importance_matrix* importance = nullptr;   ///< what searches are weighted with; layers that are missing, or that no token reached, have none
  std::string scratch_folder = {};                       ///< the inputs of blocks lie in a file there; empty: in memory. The scores are the same
  tune::pass_file* kept = nullptr;                       ///< where the pass lies, and from where one that was cut short goes on; null: nowhere
};

struct score_table {
  std::vector<std::vector<double>> scores;  ///< [option][layer]; 0 where the layer is not quantized
  std::vector<std::vector<double>> losses;  ///< [option][batch] of the quantized models, or a single row of the float model's
};

/// score = sum over batches of sum |dL/dW (W - W')|, W' the weight rounded under the option; L is the mean cross-entropy of a batch. `set.batch_rows`
/// says what a batch is (empty: all rows are one). `schemes[option][layer]` is what an option means for a layer; layers that are fixed, embeddings and
/// schemes of 16 bits stay in float.
///
/// Memory: one block with gradients, and the inputs of all blocks for one batch, or of one block and a file. Float arithmetic, scores in double; they do not depend on the number
/// of threads. `on_step(done, all)` is called after each block; its error ends the run. A pass that goes on begins with the forward half of the batch
/// in which it was cut short. error_kind::input for texts without a position to score.
result<score_table> delta_loss(const model::weight_source& source, const text::calibration_set& set, std::span<const layer> layers,
                               std::span<const std::vector<ar::scheme_fields>> schemes, const score_options& options,
                               const std::function<result<void>(std::int64_t, std::int64_t)>& on_step = {});

}  // namespace auto_round::autoscheme
