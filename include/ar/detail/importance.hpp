// The importance of the weights of one group: a number per column, where zeros (columns that calibration never saw) are replaced as the reference
// does before it searches. Source: auto-round 0.16.1, data_type/utils.py; data-types.md section 3.
#pragma once

#include <bit>
#include <cstddef>

#include "ar/detail/lane.hpp"
#include "ar/detail/rowsum.hpp"
#include "ar/numeric/real.hpp"

namespace ar::detail {
inline namespace AR_ABI {

/// `x` rounded to the format r.
AR_FN constexpr float rounded_to(real r, float x) noexcept { return r == real::f16 ? round_to_f16(x) : r == real::bf16 ? round_to_bf16(x) : x; }

/// What importance a padding value has.
inline constexpr float padding_importance = 1e-5f;

/// A group as the searches see it: `here` values in memory, `size` with padding. Column 0 of the group is column `first` of the matrix; a group
/// of the whole tensor goes through all its columns again and again.
struct group_data {
  const float* w = nullptr;
  std::size_t here = 0, size = 0, first = 0, columns = 0;
  const float* column = nullptr;  ///< importance of the matrix's columns, or null: all count the same

  // Filled in by repair.
  bool replaced = false;  ///< by |w| + `spread`, each step rounded to `format`
  bool zeros_become = false;
  float spread = 0.0f, mean = 0.0f;
  real format = real::f32;

  AR_FN constexpr float weight(std::size_t i) const noexcept { return i < here ? w[i] : 0.0f; }
  AR_FN constexpr float given(std::size_t i) const noexcept {
    const std::size_t c = first + i;
    return i >= here ? padding_importance : column[c < columns ? c : c % columns];
  }
  AR_FN constexpr float importance(std::size_t i) const noexcept {
    float q = 0.0f;
    if (replaced) {
      q = lane_abs(weight(i));
      if (spread >= 0.0f) q = rounded_to(format, q + spread);
    } else {
      q = given(i);
    }
    return zeros_become && q == 0.0f ? mean : q;
  }
};

/// Sum of x(0) .. x(n - 1) in the order of a row sum of the format r (half formats take 16 values at a time). The terms are formed by `x`.
template <class X>
AR_FN constexpr float sum_in_format(real r, std::size_t n, const X& x) noexcept {
  // The order is that of rowsum over pairs: lane l of a vector of 8 first adds x[l] and x[8 + l] where two halves make a register.
  const std::size_t per = r == real::f32 ? 8 : 16;
  float p[32] = {}, upper[3][32] = {};
  const bool narrow = n < per;
  const std::size_t lanes = narrow ? 1 : 8, vectors = narrow ? n : n / per, tuples = vectors / 4;
  const int length = tuples == 0 ? 0 : static_cast<int>(std::bit_width(tuples - 1)) / 4, shift = length < 4 ? 4 : length;
  const std::size_t step = std::size_t{1} << shift;
  for (std::size_t k = 0; k < tuples; ++k) {
    for (std::size_t s = 0; s < 4; ++s)
      for (std::size_t l = 0; l < lanes; ++l) {
        const std::size_t at = (4 * k + s) * (narrow ? 1 : per) + l;
        p[8 * s + l] += !narrow && per == 16 ? x(at) + x(at + 8) : x(at);
      }
    if (((k + 1) & (step - 1)) != 0) continue;
    float* below = p;
    for (int j = 0; j < 3; ++j) {
      for (int s = 0; s < 32; ++s) {
        upper[j][s] += below[s];
        below[s] = 0.0f;
      }
      below = upper[j];
      if (((k + 1) & ((step - 1) << ((j + 1) * shift))) != 0) break;
    }
  }
  for (int s = 0; s < 32; ++s) p[s] = ((p[s] + upper[0][s]) + upper[1][s]) + upper[2][s];
  for (std::size_t v = 4 * tuples; v < vectors; ++v)
    for (std::size_t l = 0; l < lanes; ++l) {
      const std::size_t at = v * (narrow ? 1 : per) + l;
      p[l] += !narrow && per == 16 ? x(at) + x(at + 8) : x(at);
    }
  if (narrow) return rounded_to(r, ((p[0] + p[8]) + p[16]) + p[24]);
  float t = 0.0f;
  for (std::size_t i = vectors * per; i < n; ++i) t += x(i);
  for (std::size_t l = 0; l < 8; ++l) t += ((p[l] + p[8 + l]) + p[16 + l]) + p[24 + l];
  return rounded_to(r, t);
}

/// What has to be known of a whole importance vector before its groups can be repaired.
struct importance_repair {
  bool needed = false;  ///< a number is exactly zero
  bool fill = false;    ///< some group has a few zeros: those become the mean of the others
  bool reference = false;
  std::size_t half_group = 0;  ///< groups with more zeros than this are replaced; the reference takes half of the group_size argument, -1 and 0 too
  bool every_row = false;

  /// `group` is the scheme's group size, `size` how many values a group really has, `rows` how often the vector is repeated in a group of the
  /// whole tensor (1 otherwise).
  AR_FN constexpr importance_repair(const float* column, std::size_t columns, int group, std::size_t size, std::size_t rows,
                                    bool reference_way) noexcept
      : reference(reference_way) {
    for (std::size_t i = 0; i < columns; ++i) needed = needed || column[i] == 0.0f;
    if (!needed) return;
    half_group = size / 2;
    if (reference) {
      every_row = group == -1;  // half of -1, rounded down, is -1: fewer zeros than that has no row
      half_group = group > 0 ? static_cast<std::size_t>(group) / 2 : 0;
    }
    const std::size_t wide = size < columns ? size : columns;
    for (std::size_t at = 0; at < columns; at += wide) {
      std::size_t zeros = 0;
      for (std::size_t i = at; i < columns && i < at + wide; ++i)
        if (column[i] <= 1e-30f) ++zeros;
      zeros *= rows;
      fill = fill || (zeros > 0 && zeros <= half_group && !every_row);
    }
  }

  /// `format` is that in which the reference holds the weights here.
  AR_FN constexpr void apply(group_data& g, int bits, real format) const noexcept {
    if (!needed) return;
    std::size_t zeros = 0;
    for (std::size_t i = 0; i < g.here; ++i)
      if (g.given(i) <= 1e-30f) ++zeros;
    g.format = format;
    g.replaced = every_row || zeros > half_group;
    g.spread = -1.0f;
    if (g.replaced && bits > 3) {
      const float sum = sum_in_format(format, g.size, [&](std::size_t i) { return rounded_to(format, g.weight(i) * g.weight(i)); });
      g.spread = rounded_to(format, lane_sqrt(rounded_to(format, sum / 32.0f)));
    }
    // A group without any importance has no mean; the reference divides by zero there and loses the group to NaN.
    if (!fill || (!reference && (g.replaced || zeros == 0))) return;
    const float sum = sum_in_format(real::f32, g.size, [&](std::size_t i) { return g.importance(i); });
    g.mean = sum / static_cast<float>(g.size - zeros);
    g.zeros_become = true;
  }
};

}  // namespace AR_ABI
}  // namespace ar::detail
