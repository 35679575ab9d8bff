// IEEE half (f16) and bfloat16 <-> float with round-to-nearest-even, in integer arithmetic: the same bits on every target, usable in
// constant expressions. Highway 1.0.3 truncates on several targets, so it is not used here. Source: IEEE 754-2008, checked against ml_dtypes.
#pragma once

#include <bit>
#include <cstdint>

#include "ar/config.hpp"

namespace ar {
inline namespace AR_ABI {

/// Bits of the half nearest to `f`, ties to even. Overflow gives infinity, NaN gives a quiet NaN (0x7E00) with the sign kept.
AR_FN constexpr std::uint16_t f16_from_f32(float f) noexcept {
  const std::uint32_t x = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (x >> 16) & 0x8000u;
  const std::uint32_t mag = x & 0x7FFFFFFFu;
  if (mag > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);
  if (mag >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 2^16 and above, infinity too
  if (mag < 0x38800000u) {                                                     // below 2^-14: subnormal half
    if (mag < 0x33000000u) return static_cast<std::uint16_t>(sign);            // below 2^-25 rounds to zero
    const std::uint32_t shift = 126u - (mag >> 23);                            // 14 (2^-14 side) .. 24
    const std::uint32_t mant = (mag & 0x7FFFFFu) | 0x800000u;
    const std::uint32_t half = 1u << (shift - 1);
    const std::uint32_t q = mant >> shift;
    const std::uint32_t rest = mant & ((1u << shift) - 1);
    return static_cast<std::uint16_t>(sign | (q + ((rest > half || (rest == half && (q & 1u))) ? 1u : 0u)));
  }
  const std::uint32_t r = mag - 0x38000000u + 0xFFFu + ((mag >> 13) & 1u);  // a carry out of the mantissa raises the exponent, up to infinity
  return static_cast<std::uint16_t>(sign | (r >> 13));
}

/// The value of a half, exactly.
AR_FN constexpr float f32_from_f16(std::uint16_t h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t e = (h >> 10) & 0x1Fu;
  const std::uint32_t m = h & 0x3FFu;
  if (e == 0x1F) return std::bit_cast<float>(sign | 0x7F800000u | (m << 13));
  if (e != 0) return std::bit_cast<float>(sign | ((e + 112u) << 23) | (m << 13));
  const float v = static_cast<float>(m) * 0x1p-24f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(v) | sign);
}

/// Bits of the bfloat16 nearest to `f`, ties to even. NaN keeps its upper payload bits and becomes quiet.
AR_FN constexpr std::uint16_t bf16_from_f32(float f) noexcept {
  const std::uint32_t x = std::bit_cast<std::uint32_t>(f);
  if ((x & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>((x >> 16) | 0x40u);
  return static_cast<std::uint16_t>((x + 0x7FFFu + ((x >> 16) & 1u)) >> 16);
}

/// The value of a bfloat16, exactly.
AR_FN constexpr float f32_from_bf16(std::uint16_t b) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16); }

/// `f` rounded to half precision and widened again: f32_from_f16(f16_from_f32(f)) without the detour.
AR_FN constexpr float round_to_f16(float f) noexcept {
  const std::uint32_t x = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = x & 0x80000000u;
  std::uint32_t r = x ^ sign;
  if (r < 0x38800000u) {  // below 2^-14: a float at 0.5 ends where a subnormal half does
    r = std::bit_cast<std::uint32_t>((std::bit_cast<float>(r) + 0.5f) - 0.5f);
  } else if (r > 0x7F800000u) {
    r = 0x7FC00000u;
  } else {
    r = (r + 0xFFFu + ((r >> 13) & 1u)) & 0xFFFFE000u;
    if (r >= 0x47800000u) r = 0x7F800000u;  // 2^16
  }
  return std::bit_cast<float>(r | sign);
}

/// `f` rounded to bfloat16 and widened again.
AR_FN constexpr float round_to_bf16(float f) noexcept { return f32_from_bf16(bf16_from_f32(f)); }

static_assert(f16_from_f32(1.0f) == 0x3C00 && f16_from_f32(65520.0f) == 0x7C00 && f16_from_f32(65519.0f) == 0x7BFF);
static_assert(f16_from_f32(0x1p-24f) == 1 && f16_from_f32(0x1p-25f) == 0 && f16_from_f32(0x1.8p-25f) == 1);
static_assert(bf16_from_f32(1.0f) == 0x3F80 && bf16_from_f32(0x1.01p0f) == 0x3F80 && bf16_from_f32(0x1.03p0f) == 0x3F82);

}  // namespace AR_ABI
}  // namespace ar
