// SignRound over a whole model, layer by layer: blocks one after the other as in tune/signround.hpp, and inside a block the layers in the order in
// which data flows, q k v, then o, then gate up, then down. For each of these stages the calibration set runs once through what is quantized so far
// and leaves two matrices (tune/gram_rows.hpp); the iterations then do not depend on the number of tokens.
//
// What a layer is tuned for: q, k, v, gate and up give what the float layer gives on the float model's activations, on those of the quantized model.
// o and down write to the residual stream, and repair it: stream + layer(x) shall be the float model's stream, with all errors made before.
#pragma once

#include "tune/signround.hpp"

namespace auto_round::tune {

/// Whether run_gram is a better choice than gradients through whole blocks (run_hybrid): for fewer than 32 calibration tokens for each input of the widest
/// layer, or fewer than 50 iterations.
/// Mini-batches of few tokens fit them more than the model (SmolLM2-135M, 3 tokens an input, 20 iterations: KL 0.043 in 50 CPU seconds against 0.071 in
/// 170); with many, and time for it, gradients through the whole block are better (tiny-stories, 64 tokens an input: 200 iterations of run_signround KL 4.4e-5
/// against 7.3e-5, mean of four seeds, and 20 iterations 1.1e-4 against 7.8e-5; run_hybrid 5.2e-5, mean of six; 45 tokens an input, run_hybrid against run_gram: W4A16 5.8e-5 and 5.7e-5, W2A16G32 7.0e-4 and 1.9e-3 at 1.7 times
/// the CPU). Between 3 and 45 tokens nothing was measured.
bool prefer_gram(const model::model_spec& spec, const text::calibration_set& calibration, std::int64_t iters);

/// As run_signround. Of the options, batch_size and seed have no meaning here; nblocks, gradient_accumulate_steps, momentum and dynamic_max_gap must have
/// their defaults (error_kind::usage). In block_result, first_loss is the mean squared error of the block's output with `down` rounded to nearest behind
/// tuned layers, best_loss with everything tuned.
result<tuning_result> run_gram(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                               const signround_options& options, const tuning_events& events);

/// As run_gram, but all layers of a block are tuned together first, as in run_signround, on batches of an eighth of batch_size, with
/// momentum 0.5, up to the last iterate, minmax_lr being half of lr unless given; then `down` anew on its Gram matrix, which repairs what the small
/// batches and the other layers left. batch_size and seed mean something; in block_result, first_loss and best_loss are as in run_gram.
result<tuning_result> run_hybrid(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                 const signround_options& options, const tuning_events& events);

}  // namespace auto_round::tune
