#include "tune/activations.hpp"

#include <algorithm>

#include "ar/numeric/half.hpp"
#include "model/kernels.hpp"
#include "model/linalg.hpp"

namespace auto_round::tune {

void activations::reset(std::size_t samples, std::size_t size, bool bf16) {
  size_ = size;
  bf16_ = bf16;
  if (bf16) halves_.resize(samples * size);
  else floats_.resize(samples * size);
}

void activations::load(std::size_t first, std::size_t n, float* out) const {
  if (bf16_) kernels::from_bf16(halves_.data() + first * size_, n * size_, out);
  else std::copy_n(floats_.data() + first * size_, n * size_, out);
}

void activations::store(std::size_t first, std::size_t n, const float* in) {
  if (bf16_) linalg::to_bf16(in, n * size_, halves_.data() + first * size_);
  else std::copy_n(in, n * size_, floats_.data() + first * size_);
}

const float* activations::row(std::size_t sample, std::size_t offset, std::size_t n, float* scratch) const {
  if (!bf16_) return floats_.data() + sample * size_ + offset;
  kernels::from_bf16(halves_.data() + sample * size_ + offset, n, scratch);
  return scratch;
}

double squared_error(float* p, const float* target, std::size_t n, float factor) {
  // Sixteen independent sums: the compiler may use vectors, and the order does not depend on which.
  constexpr std::size_t lanes = 16;
  float sum[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) {
      const float d = p[i + l] - target[i + l];
      sum[l] += d * d;
      p[i + l] = factor * d;
    }
  double total = 0;
  for (; i < n; ++i) {
    const float d = p[i] - target[i];
    total += static_cast<double>(d * d);
    p[i] = factor * d;
  }
  for (float s : sum) total += static_cast<double>(s);
  return total;
}

}  // namespace auto_round::tune
