// The lane vocabulary, for F = float. All arithmetic of the data types is written once over a lane type F, with the operators + - * /,
// these functions and those of detail/lane_traits-inl.h; detail/lane-inl.h gives the same vocabulary to Highway vectors and
// detail/lane_xsimd.hpp to xsimd batches. The float version is the reference: constexpr, no library, the same bits everywhere.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "ar/config.hpp"
#include "ar/numeric/half.hpp"

namespace ar {
inline namespace AR_ABI {

/// Stores lanes to consecutive floats, aligned or not.
AR_FN constexpr void lane_store(float x, float* p) noexcept { *p = x; }
/// Stores values rounded to bfloat16 (nearest even).
AR_FN constexpr void lane_store_bf16(float x, std::uint16_t* p) noexcept { *p = bf16_from_f32(x); }
/// Stores whole values 0..255 as bytes.
AR_FN constexpr void lane_store_code(float x, std::uint8_t* p) noexcept { *p = static_cast<std::uint8_t>(x); }
/// The smallest / largest of the lanes.
AR_FN constexpr float lane_reduce_min(float x) noexcept { return x; }
AR_FN constexpr float lane_reduce_max(float x) noexcept { return x; }

AR_FN constexpr bool lane_lt(float a, float b) noexcept { return a < b; }
AR_FN constexpr bool lane_le(float a, float b) noexcept { return a <= b; }
AR_FN constexpr bool lane_gt(float a, float b) noexcept { return a > b; }
AR_FN constexpr bool lane_ge(float a, float b) noexcept { return a >= b; }
AR_FN constexpr bool lane_eq(float a, float b) noexcept { return a == b; }
AR_FN constexpr bool lane_and(bool a, bool b) noexcept { return a && b; }
AR_FN constexpr bool lane_or(bool a, bool b) noexcept { return a || b; }
AR_FN constexpr bool lane_not(bool a) noexcept { return !a; }
AR_FN constexpr bool lane_any(bool a) noexcept { return a; }

/// m ? a : b in every lane.
AR_FN constexpr float lane_select(bool m, float a, float b) noexcept { return m ? a : b; }

/// Smaller / larger of two values. Inputs are finite (callers reject NaN first), so operand order only matters for the sign of zero.
AR_FN constexpr float lane_min(float a, float b) noexcept { return b < a ? b : a; }
AR_FN constexpr float lane_max(float a, float b) noexcept { return a < b ? b : a; }

AR_FN constexpr float lane_abs(float a) noexcept { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(a) & 0x7FFFFFFFu); }

/// Round half to even; keeps the sign of zero and every value of magnitude 2^23 and above.
AR_FN constexpr float lane_round(float a) noexcept {
  const std::uint32_t sign = std::bit_cast<std::uint32_t>(a) & 0x80000000u;
  const float m = lane_abs(a);
  if (!(m < 0x1p23f)) return a;
  const float r = (m + 0x1p23f) - 0x1p23f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(r) | sign);
}

/// ggml's nearest_int: half to even for |a| <= 4194303. Beyond, the low mantissa bits of a + 1.5 * 2^23 less 2^22: infinities give -4194304 and
/// NaN gives 0 (both occur when a block is so small that a reciprocal overflows). Never NaN, never -0.
AR_FN constexpr float lane_nint(float a) noexcept {
  const std::uint32_t low = std::bit_cast<std::uint32_t>(a + 12582912.0f) & 0x7FFFFFu;
  return std::bit_cast<float>(low | 0x4B000000u) - 12582912.0f;
}

/// Toward zero; keeps the sign of zero.
AR_FN constexpr float lane_trunc(float a) noexcept {
  const std::uint32_t sign = std::bit_cast<std::uint32_t>(a) & 0x80000000u;
  const float m = lane_abs(a);
  if (!(m < 0x1p23f)) return a;
  float r = (m + 0x1p23f) - 0x1p23f;
  if (r > m) r -= 1.0f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(r) | sign);
}

/// Toward minus infinity.
AR_FN constexpr float lane_floor(float a) noexcept {
  const float t = lane_trunc(a);
  return t > a ? t - 1.0f : t;
}

/// Correctly rounded square root of a non-negative value.
AR_FN constexpr float lane_sqrt(float a) noexcept {
  if (std::is_constant_evaluated()) {
    if (!(a > 0.0f)) return a;
    double x = static_cast<double>(a), r = x > 1.0 ? x : 1.0;  // Newton in double from above: converges to within an ulp of double
    for (int i = 0; i < 200; ++i) {
      const double n = 0.5 * (r + x / r);
      if (!(n < r)) break;
      r = n;
    }
    return static_cast<float>(r);
  }
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}

/// True for negative numbers and -0.
AR_FN constexpr bool lane_is_negative(float a) noexcept { return (std::bit_cast<std::uint32_t>(a) >> 31) != 0; }

/// The largest power of two that is not above |a|; 0 for subnormals, infinity for infinity and NaN.
AR_FN constexpr float lane_binade(float a) noexcept { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(a) & 0x7F800000u); }

/// The number whose bits are the whole number `a`, 0 .. 2^31 - 1 and exact in float, moved up by `n` places.
AR_FN constexpr float lane_from_bits(float a, int n) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(a) << n); }
/// The bits of a >= 0 moved down by `n` >= 8 places, as a whole number.
AR_FN constexpr float lane_to_bits(float a, int n) noexcept { return static_cast<float>(std::bit_cast<std::uint32_t>(a) >> n); }

/// table[i] for whole numbers i of 0..15, each lane its own.
AR_FN constexpr float lane_lookup16(const float* table, float i) noexcept { return table[static_cast<unsigned>(i)]; }

/// Value rounded to half precision (nearest even) and widened again.
AR_FN constexpr float lane_round_f16(float a) noexcept { return round_to_f16(a); }
/// Value rounded to bfloat16 (nearest even) and widened again.
AR_FN constexpr float lane_round_bf16(float a) noexcept { return round_to_bf16(a); }

static_assert(lane_round(0.5f) == 0.0f && lane_round(1.5f) == 2.0f && lane_round(2.5f) == 2.0f && lane_round(-3.5f) == -4.0f);
static_assert(lane_floor(-0.5f) == -1.0f && lane_trunc(-1.9f) == -1.0f && lane_sqrt(2.0f) == 1.41421354f);

}  // namespace AR_ABI
}  // namespace ar
