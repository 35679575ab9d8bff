// What all MX types share: a scale that is a power of two, and how the reference rounds elements.
#pragma once

#include "ar/detail/scaled_facts.hpp"

namespace ar {

/// How the exponent of an MX scale is chosen.
enum class mx_exponent : unsigned char {
  floor,    ///< OCP: from the exponent of the largest weight; weights beyond the largest element saturate
  ceil,     ///< RCEIL: so large that nothing saturates
  ceil_v2,  ///< RCEIL as if the largest element were 7.25; MXFP4 only
};

/// `names` are those of the three variants. `max_exponent` is that of the largest element.
AR_INLINE constexpr scaled_facts mx_facts(const char* const (&names)[3], const small_grid& grid, int max_exponent, mx_exponent exponent, real weight) noexcept {
  return {.name = names[static_cast<int>(exponent)], .grid = grid,
          .rule = exponent == mx_exponent::floor ? scale_rule::power_floor : scale_rule::power_ceil,
          .limit = exponent == mx_exponent::ceil_v2 ? 7.25f : grid.max, .max_exponent = max_exponent, .least = 0.0f, .weight = weight, .scale = real::f32,
          .quotient = real::f32, .through_bf16 = false, .half_up = true, .keeps_zero_sign = false, .plus_zero = false,
          .search = exponent == mx_exponent::floor ? search_family::halves : search_family::none, .float_least = 0.0f,
          .gradient = rounding_gradient::binade};
}

}  // namespace ar
