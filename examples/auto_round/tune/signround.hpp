// SignRound over a whole model: the block loop. Blocks are tuned one after the other on the calibration set, each against the float model's
// output, fed by what the quantized blocks before it give. One block is in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ar/detail/tune_types.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "model/linalg.hpp"
#include "text/calibration.hpp"
#include "tune/expert_tokens.hpp"
#include "tune/layer.hpp"

namespace auto_round::tune {

/// Defaults as in the reference (signround.md section 12), where not said otherwise.
struct signround_options {
  std::int64_t iters = 200;                ///< at least 1
  std::optional<double> lr, minmax_lr;     ///< empty: 1 / iters (2 / iters from 1000 iterations on at 3 bits and below); minmax_lr: as lr
  std::int64_t batch_size = 8;             ///< samples of a micro-batch; at most the number of samples
  std::int64_t gradient_accumulate_steps = 1;
  std::int64_t nblocks = 1;                ///< consecutive blocks tuned together
  std::int64_t seed = 42;
  double momentum = 0;
  bool enable_alg_ext = false;             ///< the reference's V2: searched initial scales, outliers of the error left out at few bits; block loop only
  bool enable_adam = false;                ///< steps of Adam instead of signs of gradients; block loop only
  bool enable_norm_bias_tuning = false;    ///< tune norms and biases too; block loop only
  bool compat = false;                     ///< repeat what the reference gets wrong: layers of zeros, importance of a search
  std::int64_t dynamic_max_gap = -1;       ///< stop a block after so many iterations without a better loss; below 1: never
  bool enable_minmax_tuning = true;
  bool enable_quanted_input = true;        ///< feed a block with the output of the quantized blocks before it
  bool not_use_best_mse = false;           ///< keep the last iterate instead of the one with the lowest mini-batch loss
  ar::clamp_gradient clamp = ar::clamp_gradient::strict;
  ar::scale_gradient scale_gradient = ar::scale_gradient::reference;
  linalg::precision precision = linalg::precision::f32;  ///< of the matrix products
  std::int64_t descent_sweeps = 14;        ///< of coordinate descent (gram, hybrid); 0: iterations of SignRound
  std::size_t kept_bytes = std::size_t{16} << 20;  ///< memory for rows that are needed twice, by gram and hybrid; only their time depends on it
  std::string spill_folder = {};           ///< activations of the calibration set lie in a scratch file there; empty: in memory
  bool bf16_activations = false;           ///< keep the calibration set's activations in bfloat16: half the memory
};

/// What becomes of one linear layer. `scheme.bits` >= 16 leaves it in float.
struct layer_choice {
  ar::scheme_fields scheme;
  ar::real scale_type = ar::real::f16;  ///< storage of the scales; f32 for GGUF types
  range_start start = {};
};
using layer_choices = std::map<std::string, layer_choice>;  ///< by checkpoint name without ".weight"; layers that are not named stay in float

/// Wall-clock seconds of the stages.
struct stage_seconds {
  double collect = 0, reference = 0, forward = 0, backward = 0, step = 0, propagate = 0, pack = 0;
};

struct block_result {
  std::int64_t first_block = 0, blocks = 1;  ///< blocks first_block .. first_block + blocks - 1
  std::int64_t quantized = 0, layers = 0;    ///< linear layers
  double first_loss = 0;                     ///< of iteration 0
  double best_loss = 0;                      ///< of the iteration whose parameters were kept
  std::int64_t best_iteration = 0;           ///< `iters` with not_use_best_mse
  std::int64_t iterations = 0;               ///< run
  std::vector<std::pair<std::string, std::vector<float>>> vectors;  ///< norms and biases that were tuned, by name of the tensor
  std::vector<std::uint8_t> random;          ///< run_signround: state of the generator of draws behind this unit, as it lies in memory
};

/// What an earlier run made of a unit of blocks: what its on_block got. The schemes of the layers are not used.
struct recorded_block {
  block_result result;
  std::vector<quantized_layer> layers;
};

struct tuning_events {
  /// Before the first iteration and after each; false stops the run with error_kind::interrupted.
  std::function<bool(std::int64_t block, std::int64_t iteration, double loss)> on_iteration;
  /// After each block; takes the quantized layers. An error stops the run.
  std::function<result<void>(const block_result&, std::vector<quantized_layer>&&)> on_block;
  /// Asked before each unit, in order, until it gives nothing: what an earlier run with the same inputs and options made of the unit that begins with
  /// this block. The run takes it over without tuning, on_block included, and goes on as that run would have. May be empty.
  std::function<result<std::optional<recorded_block>>(std::int64_t first_block)> recorded;
  expert_tokens* experts = nullptr;  ///< filled with what the float model's routers do; null: nobody counts
};

struct tuning_result {
  stage_seconds seconds;
  std::vector<block_result> blocks;
};

/// Tunes all layers that `choices` names. error_kind::usage for options out of range, error_kind::unsupported for a scheme that has no tuned
/// grid, error_kind::input for names that are no linear layer of a block and from reading weights.
result<tuning_result> run_signround(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                    const signround_options& options, const tuning_events& events);

}  // namespace auto_round::tune
