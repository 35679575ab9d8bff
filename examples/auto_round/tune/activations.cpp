#include "tune/activations.hpp"

#include <algorithm>

#include "ar/numeric/half.hpp"
#include "model/kernels.hpp"
#include "model/linalg.hpp"

namespace auto_round::tune {

namespace {

constexpr std::size_t chunk = 4096;

/// f(first, n) for pieces of [0, count), by all threads.
template <class F>
void for_chunks(std::size_t count, const F& f) {
  const std::size_t chunks = (count + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (std::size_t i = 0; i < chunks; ++i) f(i * chunk, std::min(chunk, count - i * chunk));
}

}  // namespace

void activations::reset(std::size_t samples, std::size_t size, bool bf16) {
  size_ = size;
  bf16_ = bf16;
  base_ = nullptr;
  if (bf16) halves_.resize(samples * size);
  else floats_.resize(samples * size);
}

void activations::reset_relative(std::size_t samples, std::size_t size, const activations& base) {
  reset(samples, size, true);
  base_ = &base;
  std::ranges::fill(halves_, std::uint16_t{0});
}

void activations::load(std::size_t first, std::size_t n, float* out) const {
  if (!bf16_) {
    std::copy_n(floats_.data() + first * size_, n * size_, out);
  } else if (base_ == nullptr) {
    kernels::from_bf16(halves_.data() + first * size_, n * size_, out);
  } else {
    base_->load(first, n, out);
    for_chunks(n * size_, [&](std::size_t at, std::size_t count) { add_difference(first * size_ + at, count, out + at); });
  }
}

void activations::store(std::size_t first, std::size_t n, const float* in) {
  if (!bf16_) {
    std::copy_n(in, n * size_, floats_.data() + first * size_);
  } else if (base_ == nullptr) {
    linalg::to_bf16(in, n * size_, halves_.data() + first * size_);
  } else {
    for_chunks(n * size_, [&](std::size_t at, std::size_t count) {
      float difference[chunk];
      const float* const base = base_->row(0, first * size_ + at, count, difference);
      for (std::size_t i = 0; i < count; ++i) difference[i] = in[at + i] - base[i];
      kernels::to_bf16(difference, count, halves_.data() + first * size_ + at);
    });
  }
}

const float* activations::row(std::size_t sample, std::size_t offset, std::size_t n, float* scratch) const {
  const std::size_t at = sample * size_ + offset;
  if (!bf16_) return floats_.data() + at;
  if (base_ == nullptr) {
    kernels::from_bf16(halves_.data() + at, n, scratch);
    return scratch;
  }
  if (const float* const base = base_->row(sample, offset, n, scratch); base != scratch) std::copy_n(base, n, scratch);
  add_difference(at, n, scratch);
  return scratch;
}

void activations::add_difference(std::size_t at, std::size_t n, float* to) const {
  for (std::size_t i = 0; i < n; ++i) to[i] += ar::f32_from_bf16(halves_[at + i]);
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
