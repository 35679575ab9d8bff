// The whole numbers below and above a binary logarithm as the original programs compute it, in integer arithmetic: the same on every machine
// and compiler.
#pragma once

#include <bit>
#include <cstdint>

#include "ar/config.hpp"

namespace ar {
inline namespace AR_ABI {

/// floorf(log2f(x)) for finite x > 0, subnormals included, with log2f correctly rounded (as in the C library near whole results): just below
/// 2^k the logarithm rounds up to k. Exponent extraction alone is one too small there, for at most 88 * 2^(k-24) below 2^k.
AR_FN constexpr int floor_log2_rounded(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  int e = static_cast<int>(bits >> 23) - 127;
  std::uint32_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
  if (bits < 0x800000u) {
    const int shift = std::countl_zero(bits) - 8;
    mantissa = bits << shift;
    e = -126 - shift;
  }
  const int k = e + 1;
  if (k == 0) return e;  // floats are dense around log2 = 0
  // Floats around k have a spacing of 2^(m-23) on the side that log2(x) < k lies on. The logarithm rounds to k if it is within half of that,
  // which is ln(2) * 2^m in units of 2^(k-24).
  const std::uint32_t magnitude = static_cast<std::uint32_t>(k > 0 ? k - 1 : -k);
  if (magnitude == 0) return e;  // k = 1
  const int m = 31 - std::countl_zero(magnitude);
  const std::uint32_t reach = (0xB172u << m) >> 16;
  return 0x1000000u - mantissa <= reach ? k : e;
}

/// ceilf(log2f(x)) for finite x > 0, as above: just above 2^k the logarithm rounds down to k.
AR_FN constexpr int ceil_log2_rounded(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  int k = static_cast<int>(bits >> 23) - 127;
  std::uint32_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
  if (bits < 0x800000u) {
    const int shift = std::countl_zero(bits) - 8;
    mantissa = bits << shift;
    k = -126 - shift;
  }
  if (mantissa == 0x800000u) return k;
  // As above, with the spacing on the side that log2(x) > k lies on, and units of 2^(k-23).
  const std::uint32_t magnitude = static_cast<std::uint32_t>(k >= 0 ? k : -k - 1);
  if (magnitude == 0) return k + 1;
  const int m = 31 - std::countl_zero(magnitude);
  const std::uint32_t reach = (0xB172u << m) >> 17;
  return mantissa - 0x800000u <= reach ? k : k + 1;
}

static_assert(ceil_log2_rounded(8.0f) == 3 && ceil_log2_rounded(0x1.000002p4f) == 4 && ceil_log2_rounded(0x1.000004p4f) == 5);
static_assert(ceil_log2_rounded(0x1p-149f) == -149 && ceil_log2_rounded(0x1.8p-148f) == -147 && ceil_log2_rounded(0x1.000002p0f) == 1);
static_assert(floor_log2_rounded(1.0f) == 0 && floor_log2_rounded(0x1.fffffep0f) == 0 && floor_log2_rounded(0x1.fffffep9f) == 10);
static_assert(floor_log2_rounded(0x1p-149f) == -149 && floor_log2_rounded(0x1.fffffep127f) == 128);

}  // namespace AR_ABI
}  // namespace ar
