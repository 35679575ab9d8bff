// Door: SignRound tuning of a layer's rounding offsets and range factors over the caller's buffers. Forward, closed-form gradients, sign step,
// learning-rate schedule and sampler, each as the reference computes them (auto-round 0.16.1, arXiv:2309.05516), bit for bit.
//
// One iteration of a layer: fake_quantize gives the weight to run the model with; the caller's backward pass gives dL/dwq; tune_step moves v,
// min_scale and max_scale against the signs of their gradients, in one pass over memory. tune_gradient gives the gradients themselves.
// The functions here are the scalar reference, usable in constant expressions; ar/dispatch.hpp has the same for the CPU's vectors, same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/detail/mt19937.hpp"
#include "ar/detail/tune_rows.hpp"
#include "ar/errc.hpp"

namespace ar {
inline namespace AR_ABI {

/// errc::bad_value for a grid outside the ranges of its fields (a scaled one needs facts for float weights, with two levels also a global scale),
/// errc::bad_shape for groups that do not fit the layer (super-blocks must fill rows; searched initial scales belong to the symmetric, the scaled and
/// the fixed families, which need them), errc::bad_size for sizes that wrap. Every function below starts with it.
[[nodiscard]] constexpr errc check(const tune_grid& g, const tune_layer& layer) noexcept {
  const bool superblocks = g.family == tune_family::superblock_asymmetric || g.family == tune_family::superblock_symmetric;
  if (g.bits < 1 || g.bits > 8 || !(g.factor_min <= g.factor_max)) return errc::bad_value;
  if (g.family == tune_family::scaled) {
    if (g.facts == nullptr || g.facts->weight != real::f32 || g.facts->scale != real::f32) return errc::bad_value;
    if (g.facts->two_level() && !(g.global_scale >= 0.0f && g.global_scale <= 0x1.fffffep127f)) return errc::bad_value;
    if (g.factor_min < 0.0f) return errc::bad_value;  // the largest magnitude stays one
  }
  if (superblocks && (g.super_bits < 2 || g.super_bits > 8)) return errc::bad_value;
  if (g.superblock_groups < 1 || g.superblock_groups > 16 || (g.superblock_groups & (g.superblock_groups - 1)) != 0) return errc::bad_value;
  if (layer.group_size == 0 || layer.group_size > detail::rowsum_max) return errc::bad_shape;
  std::uint64_t n = 0, padded = 0;
  if (!checked_mul(layer.rows, layer.cols, n) || !checked_add(n, layer.group_size, padded)) return errc::bad_size;
  if (superblocks && (layer.cols % layer.group_size != 0 || layer.groups() % static_cast<std::size_t>(g.superblock_groups) != 0))
    return errc::bad_shape;
  const bool fixed = g.family == tune_family::fixed_asymmetric || g.family == tune_family::fixed_symmetric;
  if (layer.init_scale != nullptr && g.family != tune_family::symmetric && g.family != tune_family::scaled && !fixed) return errc::bad_shape;
  if (fixed && (layer.init_scale == nullptr || (layer.init_minimum == nullptr) != (g.family == tune_family::fixed_symmetric))) return errc::bad_shape;
  return errc::ok;
}

/// min(w, 0) and max(w, 0) of each group of weight [rows x cols] into wmin and wmax [rows x ceil(cols / group_size)]; the tuner's constants.
/// errc::bad_shape for an empty group.
[[nodiscard]] constexpr errc group_extrema(matrix_view<const float> weight, std::size_t group_size, float* wmin, float* wmax) noexcept {
  if (group_size == 0) return errc::bad_shape;
  for (std::size_t r = 0; r < weight.rows; ++r) {
    const float* w = weight.row(r);
    for (std::size_t c = 0; c < weight.cols; c += group_size) {
      const std::size_t end = weight.cols - c < group_size ? weight.cols : c + group_size;
      float lo = 0.0f, hi = 0.0f;
      for (std::size_t j = c; j < end; ++j) {
        lo = lane_min(lo, w[j]);
        hi = lane_max(hi, w[j]);
      }
      *wmin++ = lo;
      *wmax++ = hi;
    }
  }
  return errc::ok;
}

/// Fake-quantized weight of the rows first_row..last_row into wq [rows x cols] (indexed from row 0): signround.md section 3, source
/// auto_round/data_type/{int,gguf,mxfp,nvfp,fp8}.py. Factors are clamped to the grid's bounds first. Rounds half to even. No allocation.
[[nodiscard]] constexpr errc fake_quantize(const tune_grid& grid, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                           float* wq) noexcept {
  const errc e = check(grid, layer);
  if (e != errc::ok) return e;
  if (first_row > last_row || last_row > layer.rows) return errc::bad_shape;
  tune_loops<float>::fake_quantize(grid, layer, first_row, last_row, wq);
  return errc::ok;
}

/// Gradients of the parameters from grad = dL/dwq [rows x cols], stored or, with `accumulate`, added. Sums over a group are taken in the order of
/// rowsum (detail/rowsum.hpp). NaN in a factor's gradient means "no step". `factors` false: only dL/dv is formed.
[[nodiscard]] constexpr errc tune_gradient(const tune_grid& grid, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                           const float* grad, bool factors, bool accumulate, const tune_parameters& out) noexcept {
  const errc e = check(grid, layer);
  if (e != errc::ok) return e;
  if (first_row > last_row || last_row > layer.rows) return errc::bad_shape;
  tune_loops<float>::gradient(grid, layer, first_row, last_row, grad, factors, accumulate, out);
  return errc::ok;
}

/// Gradient and sign step in one pass: p <- p - lr * sgn(dL/dp) for v (lr) and the clamped factors (minmax_lr; untouched unless `factors`).
/// The same bits as tune_gradient followed by sign_step.
[[nodiscard]] constexpr errc tune_step(const tune_grid& grid, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad,
                                       bool factors, float lr, float minmax_lr, const tune_parameters& out) noexcept {
  const errc e = check(grid, layer);
  if (e != errc::ok) return e;
  if (first_row > last_row || last_row > layer.rows) return errc::bad_shape;
  tune_loops<float>::step(grid, layer, first_row, last_row, grad, factors, lr, minmax_lr, out);
  return errc::ok;
}

/// Gradient of quantized data, activations in the loop: layer.weight is x [rows x cols], tokens by features, which fake_quantize with v = 0 turned
/// into xq, grad = dL/dxq, and dx = dL/dx (not the buffer of x). layer.v is not looked at. With `d_max_scale` null the ranges are those of the data
/// (dynamic scales): the first extreme value of a group gets what flows through its scale. Else they are given (static scales), and d_max_scale
/// [rows x groups()] receives dL/dmax_scale of each group. Not for super-blocks (errc::bad_value).
[[nodiscard]] constexpr errc input_gradient(const tune_grid& grid, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                            const float* grad, float* dx, float* d_max_scale = nullptr) noexcept {
  const errc e = check(grid, layer);
  if (e != errc::ok) return e;
  if (grid.family == tune_family::superblock_asymmetric || grid.family == tune_family::superblock_symmetric) return errc::bad_value;
  if (first_row > last_row || last_row > layer.rows) return errc::bad_shape;
  tune_loops<float>::input_gradient(grid, layer, first_row, last_row, grad, dx, d_max_scale);
  return errc::ok;
}

/// The result of tuning: codes, dequantized weight, scales and what else the grid stores.
[[nodiscard]] constexpr errc tune_quantize(const tune_grid& grid, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                           const tune_output& out) noexcept {
  const errc e = check(grid, layer);
  if (e != errc::ok) return e;
  if (first_row > last_row || last_row > layer.rows) return errc::bad_shape;
  tune_loops<float>::quantize(grid, layer, first_row, last_row, out);
  return errc::ok;
}

/// p[0..n) <- p - lr * sgn(b) with b = grad, or b <- momentum * b + grad in `buffer` if it is not null (signround.md section 5; on the first
/// step pass `first`). No weight decay, no dampening. Where grad is NaN there is no step, and the buffer stays as it is (0 on the first step): the
/// reference would never move such a parameter again.
constexpr void sign_step(float* p, const float* grad, std::size_t n, float lr, float momentum = 0.0f, float* buffer = nullptr,
                         bool first = false) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    float b = grad[i];
    if (buffer != nullptr) {
      const bool absent = b != b;
      if (!first) b = momentum * buffer[i] + grad[i];
      if (!absent) buffer[i] = b;
      if (absent && first) buffer[i] = 0.0f;
    }
    p[i] = sign_stepped(p[i], b, lr);
  }
}

/// One step of Adam as torch's AdamW takes it with its defaults (beta 0.9 and 0.999, epsilon 1e-8, no weight decay), the `t`th from 1 on, for
/// p[0..n); mean and square keep its moments, 0 at first. Where grad is NaN there is no step and the moments stay.
constexpr void adam_step(float* p, const float* grad, std::size_t n, float lr, int t, float* mean, float* square) noexcept {
  double power1 = 1.0, power2 = 1.0;
  for (int i = 0; i < t; ++i) {
    power1 *= 0.9;
    power2 *= 0.999;
  }
  const float step = static_cast<float>(-(static_cast<double>(lr) / (1.0 - power1)));
  const float correction = lane_sqrt(static_cast<float>(1.0 - power2));
  for (std::size_t i = 0; i < n; ++i) {
    const float g = grad[i];
    if (g != g) continue;
    mean[i] = mean[i] + static_cast<float>(1.0 - 0.9) * (g - mean[i]);
    square[i] = square[i] * 0.999f + static_cast<float>(1.0 - 0.999) * g * g;
    p[i] = p[i] + step * mean[i] / (lane_sqrt(square[i]) / correction + 1e-8f);
  }
}

/// The learning rate that the reference uses when none is given: 1 / iters, and 2 / iters for long runs at 3 bits and below.
constexpr double default_learning_rate(int iters, int bits) noexcept { return (iters >= 1000 && bits <= 3 ? 2.0 : 1.0) / iters; }

/// Linear decay to zero as the reference's scheduler computes it: recursively in float, each factor from double.
class linear_schedule {
 public:
  /// From `lr` down to 0 in `iters` steps.
  constexpr linear_schedule(double lr, int iters) noexcept : lr_(static_cast<float>(lr)), iters_(iters) {}
  /// The rate of the iteration that comes next.
  constexpr float lr() const noexcept { return lr_; }
  /// After each iteration, `iters` times at most.
  constexpr void advance() noexcept {
    if (t_ >= iters_) return;
    lr_ = lr_ * static_cast<float>(1.0 - 1.0 / static_cast<double>(iters_ - t_));
    ++t_;
  }

 private:
  float lr_;
  int iters_;
  int t_ = 0;
};

/// The generator of CPython's `random` module: MT19937, seeded by an array. One lives through a whole run.
class python_random {
 public:
  /// random.seed(seed).
  constexpr explicit python_random(std::uint64_t seed) noexcept : bits_(seeded(seed)) {}
  /// A seed of any size: the 32-bit words of its absolute value, least significant first, without leading zeros but at least one.
  constexpr python_random(const std::uint32_t* key, std::size_t length) noexcept : bits_(key, length) {}
  /// 32 random bits.
  constexpr std::uint32_t next() noexcept { return bits_.next(); }
  /// Uniform in 0..bound-1, bound >= 1: the top bits, drawn again until they fit.
  constexpr std::uint32_t below(std::uint32_t bound) noexcept {
    std::uint32_t bits = 0;
    for (std::uint32_t b = bound; b != 0; b >>= 1) ++bits;
    std::uint32_t r = next() >> (32 - bits);
    while (r >= bound) r = next() >> (32 - bits);
    return r;
  }
  /// random.random: uniform in [0, 1) with 53 bits.
  constexpr double random() noexcept {
    const std::uint32_t high = next() >> 5, low = next() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
  }
  /// random.shuffle
  constexpr void shuffle(std::int32_t* x, std::size_t count) noexcept {
    for (std::size_t i = count; i-- > 1;) {
      const std::size_t j = below(static_cast<std::uint32_t>(i + 1));
      const std::int32_t t = x[i];
      x[i] = x[j];
      x[j] = t;
    }
  }

 private:
  static constexpr mt19937 seeded(std::uint64_t seed) noexcept {
    const std::uint32_t key[2] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    return {key, key[1] != 0 ? std::size_t{2} : std::size_t{1}};
  }
  mt19937 bits_;
};

/// Draws batches of sample indices without replacement; when fewer than a batch are left, the rest is dropped and the list shuffled again.
/// One sampler per block, all on one generator.
class batch_sampler {
 public:
  /// `order` holds `samples` values and stays with the sampler; 1 <= batch <= samples.
  constexpr batch_sampler(python_random& random, std::int32_t* order, std::size_t samples, std::size_t batch) noexcept
      : random_(random), order_(order), samples_(samples), batch_(batch) {
    for (std::size_t i = 0; i < samples; ++i) order[i] = static_cast<std::int32_t>(i);
    random_.shuffle(order_, samples_);
  }
  /// `batch` indices, valid until the next call.
  constexpr const std::int32_t* next() noexcept {
    if (at_ + batch_ > samples_) {
      random_.shuffle(order_, samples_);
      at_ = 0;
    }
    const std::int32_t* result = order_ + at_;
    at_ += batch_;
    return result;
  }

 private:
  python_random& random_;
  std::int32_t* order_;
  std::size_t samples_, batch_, at_ = 0;
};

}  // namespace AR_ABI
}  // namespace ar
