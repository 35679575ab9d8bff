// Powers of non-negative floats with exponents from 0 to 1, without a mathematical library: the same bits on every machine and compiler.
#pragma once

#include <bit>
#include <cstdint>

#include "ar/config.hpp"

namespace ar {
inline namespace AR_ABI {

/// x^e for x >= 0 (infinity and NaN included) and 0 <= e <= 1, rounded to nearest from a double that is off by less than 1e-13 of its value: the
/// correctly rounded result but for about one argument in a million, and then its neighbor. x^0 is 1 for every x, NaN included.
AR_FN constexpr float power(float x, float e) noexcept {
  if (e == 0.0f) return 1.0f;
  if (e == 1.0f || x != x || x == 0.0f || x > 0x1.fffffep127f) return x;
  // x = m * 2^k with m around 1; log2(m) = 2 / ln 2 * artanh((m - 1) / (m + 1)), whose series has terms below 3e-18 from the twelfth on.
  std::uint64_t bits = std::bit_cast<std::uint64_t>(static_cast<double>(x));
  int k = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++k;
  }
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  double series = 0.0;
  for (int i = 10; i >= 0; --i) series = series * s2 + 1.0 / (2 * i + 1);
  const double y = static_cast<double>(e) * (k + 2.8853900817779268 * s * series);
  // 2^y = 2^n * exp(f ln 2) with |f| <= 1/2.
  const int n = static_cast<int>(y < 0.0 ? y - 0.5 : y + 0.5);
  const double t = (y - n) * 0.69314718055994531;
  double sum = 1.0;
  for (int i = 14; i >= 1; --i) sum = 1.0 + sum * t / i;
  return static_cast<float>(sum * std::bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52));
}

static_assert(power(4.0f, 0.5f) == 2.0f && power(0.0f, 0.0f) == 1.0f && power(0.0f, 0.25f) == 0.0f && power(16.0f, 0.25f) == 2.0f);
static_assert(power(0x1p-149f, 0.5f) == 0x1.6a09e6p-75f && power(10.0f, 0.30103f) == 2.00000005f);

}  // namespace AR_ABI
}  // namespace ar
