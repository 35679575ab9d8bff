// Floating formats of at most 8 bits <-> float: E2M1, E2M3, E3M2, E4M3, E5M2, unsigned E5M3 and the power-of-two format E8M0, with
// round-to-nearest-even in integer arithmetic, usable in constant expressions. Codes hold the sign bit (if any), the exponent and the mantissa,
// right-aligned in a byte. Source: OCP Microscaling Formats 1.0, OCP 8-bit Floating Point 1.0; checked against ml_dtypes on all floats.
#pragma once

#include <bit>
#include <cstdint>

#include "ar/config.hpp"

namespace ar {

/// What the codes above the largest finite number mean.
enum class small_special : unsigned char {
  none,      ///< there are none
  nan,       ///< the last one is NaN
  infinity,  ///< the exponent of ones is infinity and NaN, as in IEEE formats
};

/// A small floating format. Subnormals are part of all of them.
struct small_format {
  int exponent_bits;      ///< width of the exponent
  int mantissa_bits;      ///< width of the mantissa, without the leading one
  int bias;               ///< exponent field of 1.0
  small_special special;  ///< what the topmost codes stand for
  bool has_sign;          ///< the topmost bit is the sign

  /// Width of a code.
  AR_INLINE constexpr int bits() const noexcept { return exponent_bits + mantissa_bits + (has_sign ? 1 : 0); }
  /// The code of the sign, 0 for unsigned formats.
  AR_INLINE constexpr std::uint32_t sign_code() const noexcept { return has_sign ? 1u << (bits() - 1) : 0u; }
  /// The code of the largest finite number.
  AR_INLINE constexpr std::uint32_t max_code() const noexcept {
    const std::uint32_t codes = 1u << (exponent_bits + mantissa_bits);
    return codes - 1 - (special == small_special::none ? 0u : special == small_special::nan ? 1u : 1u << mantissa_bits);
  }

  /// Equal in every field.
  friend constexpr bool operator==(const small_format&, const small_format&) = default;
};

inline constexpr small_format e2m1{2, 1, 1, small_special::none, true};       ///< FP4: 0.5 ... 6
inline constexpr small_format e2m3{2, 3, 1, small_special::none, true};       ///< FP6: 0.125 ... 7.5
inline constexpr small_format e3m2{3, 2, 3, small_special::none, true};       ///< FP6: 0.0625 ... 28
inline constexpr small_format e4m3fn{4, 3, 7, small_special::nan, true};      ///< FP8: 2^-9 ... 448
inline constexpr small_format e5m2{5, 2, 15, small_special::infinity, true};  ///< FP8: 2^-16 ... 57344
inline constexpr small_format ue5m3{5, 3, 15, small_special::nan, false};     ///< scales: 2^-17 ... 114688

/// What becomes of finite numbers beyond the largest one, and of infinities.
enum class overflow : unsigned char {
  saturate,    ///< the largest number
  to_special,  ///< beyond the middle of the gap that would follow: infinity or NaN; formats that have neither saturate
};

inline namespace AR_ABI {

/// The code of `f` rounded to format F, ties to even. NaN becomes the format's NaN with the sign kept; in formats without one the largest
/// positive number, as in the instruction cvt.satfinite of PTX. Negative numbers become 0 in unsigned formats.
template <small_format F, overflow Policy = overflow::saturate>
AR_FN constexpr std::uint8_t small_from_f32(float f) noexcept {
  constexpr std::uint32_t max_code = F.max_code();
  constexpr int dropped = 23 - F.mantissa_bits;
  constexpr std::uint32_t first_normal = static_cast<std::uint32_t>(128 - F.bias);  // biased exponent of the smallest normal number
  const std::uint32_t x = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (x >> 31) != 0 ? F.sign_code() : 0u;
  const std::uint32_t mag = x & 0x7FFFFFFFu;
  if (mag > 0x7F800000u) {
    if (F.special == small_special::none) return static_cast<std::uint8_t>(max_code);
    return static_cast<std::uint8_t>(sign | (F.special == small_special::nan ? max_code + 1 : (max_code + 1) | (1u << (F.mantissa_bits - 1))));
  }
  if (!F.has_sign && (x >> 31) != 0) return 0;
  const std::uint32_t exponent = mag >> 23;
  std::uint32_t code = 0;
  if (exponent >= first_normal) {
    // A carry out of the mantissa raises the exponent.
    const std::uint32_t rounded = (mag + ((1u << (dropped - 1)) - 1) + ((mag >> dropped) & 1u)) >> dropped;
    code = rounded - ((first_normal - 1) << F.mantissa_bits);
  } else {
    const std::uint32_t shift = static_cast<std::uint32_t>(dropped) + first_normal - exponent;
    if (exponent != 0 && shift <= 24) {
      const std::uint32_t mantissa = (mag & 0x7FFFFFu) | 0x800000u;
      const std::uint32_t half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1);
      code = mantissa >> shift;
      code += rest > half || (rest == half && (code & 1u) != 0) ? 1u : 0u;
    }
  }
  if (code > max_code) {
    const bool special = Policy == overflow::to_special && F.special != small_special::none;
    code = special ? max_code + 1 : max_code;
  }
  return static_cast<std::uint8_t>(sign | code);
}

/// The value of a code of format F, exactly. Bits above the format's do not count.
template <small_format F>
AR_FN constexpr float f32_from_small(std::uint8_t code) noexcept {
  const std::uint32_t magnitude_bits = static_cast<std::uint32_t>(F.exponent_bits + F.mantissa_bits);
  const std::uint32_t magnitude = code & ((1u << magnitude_bits) - 1);
  const std::uint32_t sign = (code & F.sign_code()) != 0 ? 0x80000000u : 0u;
  if (magnitude > F.max_code()) {
    const bool infinite = F.special == small_special::infinity && magnitude == F.max_code() + 1;
    return std::bit_cast<float>(sign | (infinite ? 0x7F800000u : 0x7FC00000u));
  }
  const std::uint32_t exponent = magnitude >> F.mantissa_bits;
  const std::uint32_t mantissa = magnitude & ((1u << F.mantissa_bits) - 1);
  if (exponent == 0) {
    const float unit = std::bit_cast<float>(static_cast<std::uint32_t>(128 - F.bias - F.mantissa_bits) << 23);
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * unit) | sign);
  }
  return std::bit_cast<float>(sign | ((exponent + static_cast<std::uint32_t>(127 - F.bias)) << 23) | (mantissa << (23 - F.mantissa_bits)));
}

/// The largest finite number of format F.
template <small_format F>
inline constexpr float small_max = f32_from_small<F>(static_cast<std::uint8_t>(F.max_code()));
/// The smallest positive number of format F with a full mantissa.
template <small_format F>
inline constexpr float small_min_normal = f32_from_small<F>(static_cast<std::uint8_t>(1u << F.mantissa_bits));
/// The smallest positive number of format F.
template <small_format F>
inline constexpr float small_min_subnormal = f32_from_small<F>(1);

/// The code of the power of two nearest to `f` (the middle between two goes up): 2^(code - 127), no less than 2^-127. NaN (0xFF) for what has no
/// such power: zero, negative numbers, NaN, infinity, and from 1.5 * 2^127 on.
AR_FN constexpr std::uint8_t e8m0_from_f32(float f) noexcept {
  const std::uint32_t x = std::bit_cast<std::uint32_t>(f);
  if (x == 0 || x >= 0x7F400000u) return 0xFF;  // signs are beyond
  if (x < 0x800000u) return x < 0x600000u ? 0 : 1;  // up to 0.75 * 2^-126, the middle between 2^-127 and 2^-126
  return static_cast<std::uint8_t>((x + 0x400000u) >> 23);
}

/// 2^(code - 127); NaN for 0xFF.
AR_FN constexpr float f32_from_e8m0(std::uint8_t code) noexcept {
  if (code == 0xFF) return std::bit_cast<float>(0x7FC00000u);
  return std::bit_cast<float>(code == 0 ? 0x400000u : static_cast<std::uint32_t>(code) << 23);
}

static_assert(small_max<e2m1> == 6.0f && small_max<e2m3> == 7.5f && small_max<e3m2> == 28.0f && small_max<e4m3fn> == 448.0f &&
              small_max<e5m2> == 57344.0f && small_max<ue5m3> == 114688.0f);
static_assert(small_min_subnormal<e4m3fn> == 0x1p-9f && small_min_subnormal<e5m2> == 0x1p-16f && small_min_subnormal<ue5m3> == 0x1p-17f);
static_assert(small_from_f32<e2m1>(5.0f) == 6 && small_from_f32<e2m1>(-0.25f) == 8 && small_from_f32<e2m1>(7.5f) == 7);
static_assert(small_from_f32<e4m3fn, overflow::to_special>(464.0f) == 0x7E && small_from_f32<e4m3fn, overflow::to_special>(464.1f) == 0x7F);
static_assert(e8m0_from_f32(1.0f) == 127 && e8m0_from_f32(1.5f) == 128 && f32_from_e8m0(0) == 0x1p-127f);

}  // namespace AR_ABI
}  // namespace ar
