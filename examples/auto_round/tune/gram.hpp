// SignRound over a whole model, layer by layer: blocks one after the other as in tune/signround.hpp, and inside a block the layers in the order in
// which data flows, q k v, then o, then gate up, then down. For each of these stages the calibration set runs once through what is quantized so far
// and leaves two matrices (tune/gram_rows.hpp); the iterations then do not depend on the number of tokens. A quarter of the iterations of SignRound find
// ranges and a first rounding; sweeps of coordinate descent (tune/gram_descent.hpp) then move single weights further than half a step, for less.
//
// What a layer is tuned for: q, k, v, gate and up give what the float layer gives on the float model's activations, on those of the quantized model.
// o and down write to the residual stream, and repair it: stream + layer(x) shall be the float model's stream, with all errors made before.
#pragma once

#include "tune/signround.hpp"

namespace auto_round::tune {

/// Whether run_gram is a better choice than gradients through whole blocks (run_hybrid), for layers of at least `bits` bits. From 3 bits on always: on
/// tiny-stories (45 tokens for each input of the widest layer; KL of seeds 42 and 43) W4A16 4.0e-5 and 4.3e-5 in 10 CPU seconds against 5.3e-5 in 28, W3A16 in
/// groups of 32 1.37e-4 and 1.25e-4 in 12 against 1.19e-4 and 1.32e-4 in 34. At 2 bits what layers do to each other counts: W2A16G32 1.2e-3 against 7e-4 in 25,
/// and on two blocks of SmolLM2-135M (W2 in groups of 64, 21 tokens an input) 0.121 in 53 against 0.099 in 151. Mini-batches of few tokens fit them more than
/// the model, though, so there it is run_gram for fewer than 32 tokens an input or fewer than 50 iterations.
bool prefer_gram(const model::model_spec& spec, const text::calibration_set& calibration, std::int64_t iters, int bits);

/// As run_signround. Of the options, batch_size and seed have no meaning here; nblocks, gradient_accumulate_steps, momentum and dynamic_max_gap must have
/// their defaults (error_kind::usage). With descent_sweeps a quarter of `iters` is run before them, with four times the learning rates. In block_result, first_loss is the mean squared error of the block's output with `down` rounded to nearest behind
/// tuned layers, best_loss with everything tuned.
result<tuning_result> run_gram(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                               const signround_options& options, const tuning_events& events);

/// As run_gram, but all layers of a block are tuned together first, as in run_signround, on batches of an eighth of batch_size, with
/// momentum 0.5, up to the last iterate, minmax_lr being half of lr unless given; then `down` anew on its Gram matrix, which repairs what the small
/// batches and the other layers left. batch_size and seed mean something; in block_result, first_loss and best_loss are as in run_gram.
result<tuning_result> run_hybrid(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                 const signround_options& options, const tuning_events& events);

}  // namespace auto_round::tune
