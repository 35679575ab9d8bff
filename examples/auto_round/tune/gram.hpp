// A whole model tuned layer by layer: blocks one after the other as in tune/signround.hpp, and inside a block the layers in the order in
// which data flows, q k v, then o, then gate up, then down. For each of these stages a part of the calibration set, as much as teaches anything, runs through
// what is quantized so far and leaves two matrices (tune/gram_rows.hpp); what follows does not depend on the number of tokens. Ranges are searched, and sweeps of
// coordinate descent (tune/gram_descent.hpp) move single weights, further than half a step where that is better, and scales with them; or SignRound iterates.
//
// What a layer is tuned for: q, k, v, gate and up give what the float layer gives on the float model's activations, on those of the quantized model.
// o and down write to the residual stream, and repair it: stream + layer(x) shall be the float model's stream, with all errors made before.
#pragma once

#include "tune/signround.hpp"

namespace auto_round::tune {

/// Whether run_gram is the choice for layers of at least `bits` bits and that many valid tokens, or run_hybrid. From 3 bits on run_gram, except up to 4 bits
/// where a thousand iterations are asked for, as auto-round-best does (tiny-stories W4A16: KL 4.8e-5 in 5 CPU seconds, run_hybrid 4.0e-5 in 39; the original
/// with that recipe 4.6e-5 in 759). At 2 bits what layers do to each other counts: tiny-stories (45 tokens for each input of the widest layer) W2A16G32
/// 9.3e-4 in 7.5 CPU seconds against 7.1e-4 in 19 (means of two seeds). But the loop's time is that of its tokens, and mini-batches of few tokens fit them
/// more than the model, so it is run_gram for fewer than 32 tokens an input or fewer than 50 iterations.
bool prefer_gram(const model::model_spec& spec, std::int64_t tokens, std::int64_t iters, int bits);

/// error_kind::unsupported if blocks are not laid out as LLaMA's, which run_gram and run_hybrid ask for.
result<void> check_gram(const model::model_spec& spec);

/// As run_signround. Of the options, batch_size and seed have no meaning here; nblocks, gradient_accumulate_steps, momentum and dynamic_max_gap must have
/// their defaults (error_kind::usage). `iters` and the learning rates only mean something without descent_sweeps, and for layers whose numbers are not evenly
/// spaced because their zero points are fractions (Q4_1 and Q5_1 with `compat`), which have no sweeps. In block_result,
/// best_loss is the mean squared error of the block's output, that of the last block over an eighth of the samples; first_loss is what it would be with
/// `down` rounded to nearest.
result<tuning_result> run_gram(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                               const signround_options& options, const tuning_events& events);

/// As run_gram, and then all layers of a block together by the loop of run_signround, half of `iters` from what they are, on batches of an eighth of
/// batch_size, with scales as they are; so batch_size and seed mean something. Blocks with layers whose numbers are not evenly spaced (MX, NVFP4, FP8) go
/// without the loop.
result<tuning_result> run_hybrid(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                 const signround_options& options, const tuning_events& events);

}  // namespace auto_round::tune
