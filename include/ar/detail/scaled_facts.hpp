// What tells one scaled small-float type from another, as data: MX, NVFP4 and FP8 are a grid of element values, a rule for the scale of a group,
// and the formats that the reference rounds to on the way. The mathematics is in scaled_type-inl.h, once for all of them.
#pragma once

#include "ar/detail/search_types.hpp"
#include "ar/detail/small_grid.hpp"
#include "ar/numeric/real.hpp"

namespace ar {

/// How the scale of a group follows from A, its largest magnitude.
enum class scale_rule : unsigned char {
  power_floor,          ///< 2^(floor(log2 A) - exponent of the largest element); values beyond the largest element saturate (OCP MX)
  power_ceil,           ///< 2^ceil(log2(A / limit)): nothing saturates
  quotient,             ///< A / limit, at least `least`, rounded to a floating format (FP8)
  one,                  ///< 1
  e4m3_two_level,       ///< E4M3 of A / 6 times the tensor's global scale (NVFP4)
  e5m3,                 ///< unsigned E5M3 of A / 6
  e5m3_two_level,       ///< unsigned E5M3 of A / 6 times the tensor's global scale
};

/// What the reference takes for the derivative of rounding to the grid, inside the range that the grid covers.
enum class rounding_gradient : unsigned char {
  straight_through,  ///< 1: a cast
  saturating,        ///< 1, but 0 where the result is the largest element or the value is 0 (NVFP4)
  binade,            ///< likewise, and element / value beyond the subnormal numbers: it differentiates through the exponent that sets the step (MX)
};

struct scaled_facts {
  const char* name;
  small_grid grid;
  scale_rule rule;
  float limit;          ///< what A is divided by; the largest element, unless a variant says otherwise
  int max_exponent;     ///< of the largest element
  float least;          ///< the smallest scale, for scale_rule::quotient
  real weight;          ///< format of the weights: results are rounded to it
  real scale;           ///< format of the scale, for scale_rule::quotient
  real quotient;        ///< format of weight / scale and of element * scale
  bool through_bf16;    ///< weights are rounded to bfloat16 first
  bool half_up;         ///< the float below half a step rounds up: 0.5 is added before rounding down
  bool keeps_zero_sign; ///< -0 has the code of -0, as in a cast; otherwise zeros are +0 unless a negative weight was rounded to zero
  bool plus_zero;       ///< qdq gives no -0: the reference's straight-through rounding
  search_family search; ///< how better scales are searched
  float float_least;    ///< `least` where the scale is float, as in tuned layers
  rounding_gradient gradient; ///< how layers are tuned

  AR_INLINE constexpr bool two_level() const noexcept { return rule == scale_rule::e4m3_two_level || rule == scale_rule::e5m3_two_level; }
  /// The global scale of a tensor is this, times the reciprocal of its largest magnitude: the largest scale times the largest element.
  AR_INLINE constexpr float global_numerator() const noexcept { return rule == scale_rule::e4m3_two_level ? 448.0f * 6.0f : 114688.0f * 6.0f; }
};

/// What is known about a whole tensor; negative where it is not known.
struct tensor_values {
  float maximum = -1.0f;       ///< a largest magnitude that is given instead of being taken from the data (static activations)
  float global_scale = -1.0f;  ///< a global scale that is given (layers that share one); else it follows from the maximum
  AR_INLINE constexpr bool unset() const noexcept { return maximum < 0.0f && global_scale < 0.0f; }
};
inline constexpr tensor_values no_tensor_values{};

namespace detail {

inline constexpr float infinity = std::bit_cast<float>(0x7F800000u);

}  // namespace detail

/// 1 / x, 0 for 0.
AR_INLINE constexpr float reciprocal_or_zero(float x) noexcept { return x == 0.0f ? 0.0f : 1.0f / x; }

}  // namespace ar
