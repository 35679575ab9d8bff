// A small number format as the numbers that lane code computes with.
#pragma once

#include "ar/numeric/small_float.hpp"

namespace ar {

/// The numbers of a format are the whole multiples of a step: `step` up to twice `min_normal`, twice that in the next binade, and so on up to `max`.
struct small_grid {
  float min_normal;         ///< the smallest normal number
  float max;                ///< the largest finite number
  float steps;              ///< 2^23 steps of a binade, relative to its lowest number
  float step;               ///< between subnormal numbers
  float inverse_step;
  float sign_code;          ///< code of the sign bit; above all codes if there is none
  float exponent_offset;    ///< codes of normal numbers are their upper bits less this
  float first_normal_code;
  int shift;                ///< bits of a float that a code does not hold
  int bits;
  bool twos_complement;     ///< codes are signed whole numbers of steps
};

namespace detail {

AR_INLINE constexpr float power_of_two(int exponent) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23); }

}  // namespace detail

/// The grid of a floating format.
AR_INLINE constexpr small_grid grid_of(small_format f) noexcept {
  const int m = f.mantissa_bits, lowest = 1 - f.bias, max_exponent = static_cast<int>(f.max_code() >> m) - f.bias;
  const int last = static_cast<int>(f.max_code() & ((1u << m) - 1)) + (1 << m);
  return {.min_normal = detail::power_of_two(lowest), .max = static_cast<float>(last) * detail::power_of_two(max_exponent - m),
          .steps = detail::power_of_two(23 - m), .step = detail::power_of_two(lowest - m), .inverse_step = detail::power_of_two(m - lowest),
          .sign_code = f.has_sign ? static_cast<float>(f.sign_code()) : 256.0f, .exponent_offset = static_cast<float>((127 - f.bias) << m),
          .first_normal_code = static_cast<float>(1 << m), .shift = 23 - m, .bits = f.bits(), .twos_complement = false};
}

/// The grid of signed integers: steps of 2^(2 - bits), without the most negative code; below 2 in magnitude.
AR_INLINE constexpr small_grid integer_grid(int bits) noexcept {
  const int m = bits - 2;
  const float limit = static_cast<float>((1 << (bits - 1)) - 1);
  return {.min_normal = 1.0f, .max = limit * detail::power_of_two(-m), .steps = detail::power_of_two(23 - m), .step = detail::power_of_two(-m),
          .inverse_step = detail::power_of_two(m), .sign_code = static_cast<float>(1 << (bits - 1)), .exponent_offset = 0.0f, .first_normal_code = 0.0f,
          .shift = 23, .bits = bits, .twos_complement = true};
}

static_assert(grid_of(e4m3fn).max == 448.0f && grid_of(e2m1).step == 0.5f && grid_of(e5m2).min_normal == 0x1p-14f);
static_assert(integer_grid(8).max == 127.0f / 64 && integer_grid(2).max == 1.0f);

}  // namespace ar
