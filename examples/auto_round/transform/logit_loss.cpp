#include "transform/logit_loss.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace auto_round::transform {
namespace {

/// KL over the logits at `at`, in double.
double divergence(const float* logits, const float* reference, const std::vector<std::size_t>& at, double share, float* gradient) {
  double top = -INFINITY, top_reference = -INFINITY, sum = 0, sum_reference = 0, loss = 0;
  for (const std::size_t i : at) {
    top = std::max(top, static_cast<double>(logits[i]));
    top_reference = std::max(top_reference, static_cast<double>(reference[i]));
  }
  for (const std::size_t i : at) {
    sum += std::exp(static_cast<double>(logits[i]) - top);
    sum_reference += std::exp(static_cast<double>(reference[i]) - top_reference);
  }
  const double log_sum = top + std::log(sum), log_sum_reference = top_reference + std::log(sum_reference);
  for (const std::size_t i : at) {
    const double log_q = static_cast<double>(logits[i]) - log_sum, log_p = static_cast<double>(reference[i]) - log_sum_reference;
    loss += std::exp(log_p) * (log_p - log_q);
    if (gradient != nullptr) gradient[i] = static_cast<float>(share * (std::exp(log_q) - std::exp(log_p)));
  }
  return loss;
}

}  // namespace

double logit_distance(logit_loss kind, std::size_t k, const float* logits, const float* reference, std::size_t rows, std::size_t vocab,
                      float* gradient) {
  if (rows == 0 || vocab == 0) return 0;
  k = kind == logit_loss::kl_top ? std::clamp<std::size_t>(k, 1, vocab) : vocab;
  if (gradient != nullptr) std::fill_n(gradient, rows * vocab, 0.0f);
  std::vector<double> losses(rows, 0.0);
  const double share = 1.0 / static_cast<double>(rows);
#pragma omp parallel
  {
    std::vector<std::size_t> at(vocab);
#pragma omp for schedule(static)
    for (std::size_t r = 0; r < rows; ++r) {
      const float *const q = logits + r * vocab, *const p = reference + r * vocab;
      float* const g = gradient == nullptr ? nullptr : gradient + r * vocab;
      if (kind == logit_loss::mse) {
        for (std::size_t i = 0; i < vocab; ++i) {
          const double d = static_cast<double>(q[i]) - static_cast<double>(p[i]);
          losses[r] += d * d / static_cast<double>(vocab);
          if (g != nullptr) g[i] = static_cast<float>(2 * share * d / static_cast<double>(vocab));
        }
        continue;
      }
      at.resize(vocab);
      std::iota(at.begin(), at.end(), std::size_t{0});
      if (k < vocab) {
        std::nth_element(at.begin(), at.begin() + static_cast<std::ptrdiff_t>(k), at.end(),
                         [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
        at.resize(k);
      }
      losses[r] = divergence(q, p, at, share, g);
    }
  }
  return std::accumulate(losses.begin(), losses.end(), 0.0) * share;
}

}  // namespace auto_round::transform
