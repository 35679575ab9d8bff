// Rounding to a small floating format, its codes and back, over a lane type. The format is a record of numbers, so that one text (and one
// instance, where the record is a run-time value) serves all formats. Bits equal to numeric/small_float.hpp.
#if defined(AR_DETAIL_SMALL_LANE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_SMALL_LANE_INL_H
#else
#define AR_DETAIL_SMALL_LANE_INL_H
#endif

#include "ar/detail/lane_traits-inl.h"
#include "ar/detail/small_grid.hpp"

AR_BEGIN_TARGET

/// |x| <= max rounded to the grid, half to even; the sign of zero is lost.
template <class F>
AR_FN constexpr F lane_round_magnitude(F magnitude, const small_grid& g) noexcept {
  // Adding 2^23 steps leaves no room for a fraction of one. The step is that of the binade, or of the smallest normal number.
  const F many_steps = lane_max(lane_binade(magnitude), lane_set<F>(g.min_normal)) * lane_set<F>(g.steps);
  return (magnitude + many_steps) - many_steps;
}

/// x with the sign of `like`, where that is below zero; -0 counts as positive.
template <class F>
AR_FN constexpr F lane_with_sign(F magnitude, F like) noexcept {
  return lane_select(lane_lt(like, lane_set<F>(0.0f)), -magnitude, magnitude);
}

/// x, any finite number, rounded to the grid: limited to its largest number, half to even. Negative values that round to zero give -0, zeros +0.
template <class F>
AR_FN constexpr F lane_round_small(F x, const small_grid& g) noexcept {
  return lane_with_sign(lane_round_magnitude(lane_min(lane_abs(x), lane_set<F>(g.max)), g), x);
}

/// The code, 0 .. 255, of a value on the grid. -0 has a sign in floating formats.
template <class F>
AR_FN constexpr F lane_small_code(F value, const small_grid& g) noexcept {
  const F zero = lane_set<F>(0.0f);
  if (g.twos_complement) {
    const F whole = value * lane_set<F>(g.inverse_step);
    return lane_select(lane_lt(whole, zero), whole + lane_set<F>(2.0f * g.sign_code), lane_plus_zero(whole));
  }
  const F magnitude = lane_abs(value);
  const F normal = lane_to_bits(magnitude, g.shift) - lane_set<F>(g.exponent_offset);
  const F code = lane_select(lane_lt(magnitude, lane_set<F>(g.min_normal)), magnitude * lane_set<F>(g.inverse_step), normal);
  return lane_select(lane_is_negative(value), code + lane_set<F>(g.sign_code), code);
}

/// The value of a code 0 .. 2^bits-1. Codes for infinity and NaN give the finite numbers that would follow.
template <class F>
AR_FN constexpr F lane_small_value(F code, const small_grid& g) noexcept {
  const F sign = lane_set<F>(g.sign_code);
  const auto negative = lane_ge(code, sign);
  if (g.twos_complement) return lane_select(negative, code - (sign + sign), code) * lane_set<F>(g.step);
  const F magnitude = lane_select(negative, code - sign, code);
  const auto subnormal = lane_lt(magnitude, lane_set<F>(g.first_normal_code));
  const F normal = lane_from_bits(magnitude + lane_set<F>(g.exponent_offset), g.shift);
  const F value = lane_select(subnormal, magnitude * lane_set<F>(g.step), normal);
  return lane_select(negative, -value, value);
}

AR_END_TARGET
#endif
