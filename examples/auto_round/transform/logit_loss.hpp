// How far the logits of a changed model are from those of the float model, with gradients. Source: auto-round 0.16.1, spinquant.
#pragma once

#include <cstddef>

namespace auto_round::transform {

/// kl_top: the KL divergence over the k largest logits of the float model, softmax taken among them; kl_full: over all; mse: mean square.
enum class logit_loss { kl_top, kl_full, mse };

/// The mean over `rows` rows of `vocab` logits; `gradient` [rows x vocab], unless null, receives that of `logits`. Sums in double.
double logit_distance(logit_loss kind, std::size_t k, const float* logits, const float* reference, std::size_t rows, std::size_t vocab,
                      float* gradient);

}  // namespace auto_round::transform
