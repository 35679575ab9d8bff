// Door: AWQ, activation-aware smoothing and clipping of weights, all but the matrix products. The inputs of linear layers that read the same
// activations ("balance layers") have channels of very different size. A factor per channel, taken out of whatever writes the activations (a norm, the
// rows of a linear layer) and put into the columns of the balance layers, changes nothing in the float model and much in the quantized one. The caller
// owns the loop: statistics of the activations and weights, then for every point of a grid the candidate factors, fake-quantized weights
//   [Q([w * s]) / s]
// (scale_columns, the scheme's qdq, unscale_columns), and how far the layers' output is off with them; the best factors are folded into both sides.
// Clipping then looks, group by group, for a smaller range that serves the output better.
//
// A weight is w[out x in] float32, row-major; a channel is one of its columns. Storage formats (`real`) say to what folded weights are rounded.
// Source: auto-round 0.16.1, algorithms/transforms/awq; for pseudo_quantize and classic_grid_point AutoAWQ, awq/quantize. Nothing is allocated.
#pragma once

#include <cstddef>
#include <span>

#include "ar/calibrate.hpp"
#include "ar/detail/awq-inl.h"
#include "ar/numeric/power.hpp"

AR_BEGIN_TARGET
namespace awq {

// ---- statistics ----

/// sum[cols] = the sum of |x| of each column over the rows of x, added to what `sum` holds unless `first`; x[tokens x channels]. The order of the sum is
/// that of the reference's column sums on one thread. x_mean is sum / number of tokens in all. errc::bad_shape, non_finite; nothing is written then.
[[nodiscard]] constexpr errc add_magnitudes(matrix_view<const float> x, bool first, float* sum) noexcept {
  return std::is_constant_evaluated() ? add_magnitudes_of<float>(x, first, sum) : add_magnitudes_of<native_lane>(x, first, sum);
}

/// mean[cols] = for each column, the mean over all rows of all weights of |w| / (largest magnitude of its group + 1e-6): how large a column's weights
/// are beside their neighbors. `group` as in schemes (columns that share a scale; -1: the row). errc::bad_shape if widths differ or there is no row.
[[nodiscard]] constexpr errc weight_mean(std::span<const stacked_weight> weights, int group, float* mean) noexcept {
  return std::is_constant_evaluated() ? weight_mean_of<float>(weights, group, mean) : weight_mean_of<native_lane>(weights, group, mean);
}

// ---- candidates ----

/// Whether the weights' statistic takes part in the factors: in none of the candidates, in all (but the identity), or each ratio both ways.
enum class duo_scaling : unsigned char { off, on, both };

/// A point of the grid: factors are x_mean^ratio, over w_mean^(1 - ratio) if `duo`.
struct candidate {
  double ratio = 0;  ///< 0..1
  bool duo = false;  ///< with the weights' statistic
  /// Equal in both.
  friend constexpr bool operator==(const candidate&, const candidate&) = default;
};

/// How many points the grid has for `n` (n_grid) >= 1; small values are raised until it has the identity and the whole exponent 1.
[[nodiscard]] constexpr std::size_t grid_size(duo_scaling duo, int n) noexcept {
  if (duo == duo_scaling::both) return 2 * static_cast<std::size_t>(n / 2 < 2 ? 2 : n / 2);
  const int least = duo == duo_scaling::on ? 3 : 2;
  return static_cast<std::size_t>(n < least ? least : n);
}

/// Point i < grid_size(duo, n). Every grid has the identity: ratio 0 without duo.
[[nodiscard]] constexpr candidate grid_point(duo_scaling duo, int n, std::size_t i) noexcept {
  const std::size_t m = grid_size(duo, n);
  const auto share = [](std::size_t k, std::size_t last) { return static_cast<double>(k) / static_cast<double>(last); };
  if (duo == duo_scaling::both) return {share(i / 2, m / 2 - 1), i % 2 != 0};
  if (duo == duo_scaling::off) return {share(i, m - 1), false};
  return i == 0 ? candidate{0, false} : candidate{share(i - 1, m - 2), true};
}

/// Point i < n of AutoAWQ's own grid: i / n, without the identity under `duo` and without the ratio 1.
[[nodiscard]] constexpr candidate classic_grid_point(bool duo, int n, std::size_t i) noexcept {
  return {static_cast<double>(i) / static_cast<double>(n), duo};
}

/// s[0..n) = the factors of a candidate, divided by the root of the largest times the smallest. w_mean may be null if the candidate is not `duo`.
/// A channel without activations has the smallest factor; a factor that is not finite becomes 1, which one NaN makes all of them.
constexpr void factors(const candidate& c, const float* x_mean, const float* w_mean, std::size_t n, float* s) noexcept {
  const auto raised = [](float v, float e) { return e == 0.5f && v >= 0.0f ? lane_sqrt(v) : power(v, e); };
  const float r = static_cast<float>(c.ratio), rest = static_cast<float>(1.0 - c.ratio);
  float least = 0.0f, largest = 0.0f;
  bool undefined = false;
  for (std::size_t i = 0; i < n; ++i) {
    float f = raised(x_mean[i], r);
    if (c.duo) f = f / (raised(w_mean[i], rest) + 1e-4f);
    if (f < 1e-4f) f = 1e-4f;
    undefined = undefined || f != f;
    if (i == 0 || f < least) least = f;
    if (i == 0 || f > largest) largest = f;
    s[i] = f;
  }
  const float middle = lane_sqrt(largest * least);
  for (std::size_t i = 0; i < n; ++i) {
    const float f = undefined ? 1.0f : s[i] / middle;
    s[i] = f - f == 0.0f ? f : 1.0f;
  }
}

// ---- folding ----

/// out = w with column c multiplied by s[c], rounded to `format`. `out` may be w. errc::bad_shape.
[[nodiscard]] constexpr errc scale_columns(matrix_view<const float> w, const float* s, real format, matrix_view<float> out) noexcept {
  if (!shapes::same_shape(w, out) || (w.size() != 0 && s == nullptr)) return errc::bad_shape;
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) out(r, c) = detail::rounded_to(format, w(r, c) * s[c]);
  return errc::ok;
}

/// The same with a division: what a candidate's fake-quantized weight is in the units of the weight.
[[nodiscard]] constexpr errc unscale_columns(matrix_view<const float> w, const float* s, real format, matrix_view<float> out) noexcept {
  if (!shapes::same_shape(w, out) || (w.size() != 0 && s == nullptr)) return errc::bad_shape;
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) out(r, c) = detail::rounded_to(format, w(r, c) / s[c]);
  return errc::ok;
}

/// The last n rows of the layer that writes the activations, divided by s[0..n), rounded to `format`, in place; and likewise its bias, unless null
/// (one number for each row of w). errc::bad_shape if w has fewer rows.
[[nodiscard]] constexpr errc unscale_rows(matrix_view<float> w, float* bias, const float* s, std::size_t n, real format) noexcept {
  if (!shapes::well_formed(w) || n > w.rows || (n != 0 && s == nullptr)) return errc::bad_shape;
  const std::size_t first = w.rows - n;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t c = 0; c < w.cols; ++c) w(first + r, c) = detail::rounded_to(format, w(first + r, c) / s[r]);
    if (bias != nullptr) bias[first + r] = detail::rounded_to(format, bias[first + r] / s[r]);
  }
  return errc::ok;
}

/// A norm's gain w[0..n), or its bias, divided by s and rounded to `format`, in place.
constexpr void unscale_norm(float* w, const float* s, std::size_t n, real format) noexcept {
  for (std::size_t i = 0; i < n; ++i) w[i] = detail::rounded_to(format, w[i] / s[i]);
}

/// The gain of a norm that multiplies by 1 + w (Gemma). `reference`: auto-round rounds 1 + w to the format first.
constexpr void unscale_offset_norm(float* w, const float* s, std::size_t n, real format, bool reference = false) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const float gain = detail::rounded_to(reference ? format : real::f32, 1.0f + w[i]);
    w[i] = detail::rounded_to(format, gain / s[i] - 1.0f);
  }
}

/// s[0..n) = by what a norm's gain (1 + w if `offset`) became smaller, `before` and `after` its folding: with these factors for the columns the float
/// model stays what it was although the folded gain was rounded. Where a gain was or became 0, s stays and `after` becomes what it was.
constexpr void factors_after_rounding(const float* before, float* after, std::size_t n, bool offset, float* s) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const float was = offset ? 1.0f + before[i] : before[i], is = offset ? 1.0f + after[i] : after[i];
    const float f = was / is;
    if (f > 0.0f && f - f == 0.0f) {
      s[i] = f;
    } else {
      after[i] = before[i];
      s[i] = 1.0f;
    }
  }
}

// ---- clipping ----

/// How many ranges are tried: the whole one and smaller ones, `n` (clip_n_grid) >= 1, 0 < max_shrink < 1. max_shrink itself is not among them.
[[nodiscard]] constexpr std::size_t clip_steps(int n, double max_shrink) noexcept {
  const int steps = static_cast<int>(max_shrink * n);
  return static_cast<std::size_t>(steps < 1 ? 1 : steps);
}

/// The factor of step i < clip_steps(n, max_shrink).
[[nodiscard]] constexpr float clip_factor(int n, std::size_t i) noexcept {
  return static_cast<float>(1.0 - static_cast<double>(i) / static_cast<double>(n));
}

/// lo and hi[rows x groups] = the range of each group of w: -+ the largest magnitude if `symmetric`, else the smallest and the largest weight with 0
/// between them. `group` as in schemes, at least -1 and not 0. errc::bad_shape, bad_value, non_finite.
[[nodiscard]] constexpr errc clip_range(matrix_view<const float> w, int group, bool symmetric, matrix_view<float> lo, matrix_view<float> hi) noexcept {
  std::size_t size = 0;
  if (const errc e = groups_of(w, group, lo, hi, size); e != errc::ok) return e;
  if (rows::extrema e; !rows::finite_range<float>(w, e)) return errc::non_finite;
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t g = 0; g < lo.cols; ++g) {
      const std::size_t at = g * size, n = w.cols - at < size ? w.cols - at : size;
      const rows::extrema e = rows::range_of<float>(w.row(r) + at, n);
      lo(r, g) = symmetric ? -lane_max(-e.lo, e.hi) : e.lo;
      hi(r, g) = symmetric ? lane_max(-e.lo, e.hi) : e.hi;
    }
  return errc::ok;
}

/// out = w limited to [lo * factor, hi * factor] of its group; both bounds are rounded to `format` first. `out` may be w. errc::bad_shape, bad_value.
[[nodiscard]] constexpr errc clip(matrix_view<const float> w, int group, matrix_view<const float> lo, matrix_view<const float> hi, float factor,
                                  real format, matrix_view<float> out) noexcept {
  std::size_t size = 0;
  if (!shapes::same_shape(w, out)) return errc::bad_shape;
  if (const errc e = groups_of(w, group, lo, hi, size); e != errc::ok) return e;
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) {
      const float a = detail::rounded_to(format, lo(r, c / size) * factor), b = detail::rounded_to(format, hi(r, c / size) * factor);
      const float v = w(r, c) < a ? a : w(r, c);
      out(r, c) = v > b ? b : v;
    }
  return errc::ok;
}

// ---- AutoAWQ ----

/// Where pseudo_quantize puts its parameters; empty views are not wanted.
struct pseudo_parameters {
  matrix_view<float> scale{};       ///< [rows x groups]
  matrix_view<float> zero_point{};  ///< the same, 0 .. 2^bits - 1; written for asymmetric groups only
};

/// AutoAWQ's quantizer, which its searches use: every operation is rounded to `format` (half precision in production), ranges are not drawn to 0, and
/// the symmetric grid has 2^bits - 1 steps. `bits` 2..8, `group` divides the columns (-1: the row). errc::bad_shape, bad_value, non_finite.
[[nodiscard]] constexpr errc pseudo_quantize(matrix_view<const float> w, int group, int bits, bool zero_point, real format, matrix_view<float> out,
                                             const pseudo_parameters& parameters = {}) noexcept {
  if (!shapes::same_shape(w, out)) return errc::bad_shape;
  if (bits < 2 || bits > 8 || group == 0 || group < -1) return errc::bad_value;
  const std::size_t size = group < 0 ? (w.cols == 0 ? 1 : w.cols) : static_cast<std::size_t>(group), groups = w.cols / size;
  if (groups * size != w.cols) return errc::bad_shape;
  for (const matrix_view<float>& p : {parameters.scale, parameters.zero_point})
    if (p.data != nullptr && (!shapes::well_formed(p) || p.rows != w.rows || p.cols != groups)) return errc::bad_shape;
  if (rows::extrema e; !rows::finite_range<float>(w, e)) return errc::non_finite;
  const auto in = [format](float x) { return detail::rounded_to(format, x); };
  const float least = in(1e-5f), levels = static_cast<float>((1 << bits) - 1), half = static_cast<float>(1 << (bits - 1));
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t g = 0; g < groups; ++g) {
      const float* x = w.row(r) + g * size;
      float lo = x[0], hi = x[0];
      for (std::size_t i = 1; i < size; ++i) {
        lo = lane_min(lo, x[i]);
        hi = lane_max(hi, x[i]);
      }
      const float scale = zero_point ? in(lane_max(in(hi - lo), least) / levels) : in(lane_max(lane_max(-lo, hi), least) / (half - 1.0f));
      const float zero = zero_point ? lane_min(lane_max(-lane_round(in(lo / scale)), 0.0f), levels) : 0.0f;
      const float first = zero_point ? 0.0f : -half, last = zero_point ? levels : half - 1.0f;
      for (std::size_t i = 0; i < size; ++i) {
        const float code = lane_min(lane_max(in(lane_round(in(x[i] / scale)) + zero), first), last);
        out(r, g * size + i) = in((code - zero) * scale);
      }
      if (parameters.scale.data != nullptr) parameters.scale(r, g) = scale;
      if (parameters.zero_point.data != nullptr && zero_point) parameters.zero_point(r, g) = zero;
    }
  return errc::ok;
}

}  // namespace awq
AR_END_TARGET
