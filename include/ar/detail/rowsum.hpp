// The normative order of float sums over a row, so that a sum has the same bits whatever the SIMD width is. Source: data-types.md section 0
// (torch's vectorized inner sum with 8 lanes and 4 accumulators).
#pragma once

#include <cstddef>

#include "ar/config.hpp"

namespace ar::detail {
inline namespace AR_ABI {

/// Longest row for which the cascade below has steps of 16 (the general rule only differs beyond it).
inline constexpr std::size_t rowsum_max = std::size_t{1} << 24;

/// Sum of `width` interleaved series of `count` items, series l at x[i * width + l]: four accumulators each (16 items at a time move up a level,
/// so that long sums lose little), the rest on the first, then p0 + p1 + p2 + p3. Writes width sums to `out`.
template <std::size_t Width>
AR_FN constexpr void sum_four_accumulators(const float* x, std::size_t count, float* out) noexcept {
  constexpr std::size_t tuple = 4 * Width;
  const std::size_t tuples = count / 4;
  for (std::size_t l = 0; l < Width; ++l) {
    float p[4] = {};
    for (std::size_t slot = 0; slot < 4; ++slot) {
      float level[4] = {};
      for (std::size_t i = 0; i < tuples; ++i) {
        level[0] += x[i * tuple + slot * Width + l];
        if ((i + 1) % 16 != 0) continue;
        for (std::size_t j = 1; j < 4; ++j) {
          level[j] += level[j - 1];
          level[j - 1] = 0.0f;
          if (((i + 1) & (std::size_t{15} << (4 * j))) != 0) break;
        }
      }
      p[slot] = ((level[0] + level[1]) + level[2]) + level[3];
    }
    for (std::size_t i = tuples * 4; i < count; ++i) p[0] += x[i * Width + l];
    p[0] += p[1];
    p[0] += p[2];
    p[0] += p[3];
    out[l] = p[0];
  }
}

/// Sum of x[0..n), n <= rowsum_max, in the reference's order.
AR_FN constexpr float rowsum(const float* x, std::size_t n) noexcept {
  if (n < 8) {
    float sum = 0.0f;
    sum_four_accumulators<1>(x, n, &sum);
    return sum;
  }
  float lane[8] = {};
  sum_four_accumulators<8>(x, n / 8, lane);
  float t = 0.0f;
  for (std::size_t i = n / 8 * 8; i < n; ++i) t += x[i];
  for (float l : lane) t += l;
  return t;
}

}  // namespace AR_ABI
}  // namespace ar::detail
