// The part of the lane vocabulary that names the lane type: constants, loads, rounding to a storage format. Once per SIMD target.
#if defined(AR_DETAIL_LANE_TRAITS_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_LANE_TRAITS_INL_H
#else
#define AR_DETAIL_LANE_TRAITS_INL_H
#endif

#include <cstddef>

#include "ar/detail/lane.hpp"
#include "ar/detail/target.hpp"
#include "ar/numeric/real.hpp"

AR_BEGIN_TARGET

/// The facts of a lane type. Specialized beside each lane type.
template <class F>
struct lane_traits;

template <>
struct lane_traits<float> {
  using mask = bool;
  static constexpr int size = 1;
  AR_FN static constexpr float set(float x) noexcept { return x; }
  AR_FN static constexpr float load(const float* p) noexcept { return *p; }
  AR_FN static constexpr float load_code(const std::uint8_t* p) noexcept { return static_cast<float>(*p); }
};

/// What a comparison of lanes gives; for float it is bool.
template <class F>
using lane_mask = typename lane_traits<F>::mask;

/// How many values a lane type holds.
template <class F>
inline constexpr int lane_count = lane_traits<F>::size;

/// Every lane set to `x`.
template <class F>
AR_FN constexpr F lane_set(float x) noexcept {
  return lane_traits<F>::set(x);
}
/// Lanes from lane_count<F> consecutive floats, aligned or not.
template <class F>
AR_FN constexpr F lane_load(const float* p) noexcept {
  return lane_traits<F>::load(p);
}
/// Lanes from lane_count<F> consecutive bytes, as values 0..255.
template <class F>
AR_FN constexpr F lane_load_code(const std::uint8_t* p) noexcept {
  return lane_traits<F>::load_code(p);
}

/// Value rounded to the storage format R (nearest even) and widened again.
template <real R, class F>
AR_FN constexpr F lane_round_to(F x) noexcept {
  if constexpr (R == real::f16) {
    return lane_round_f16(x);
  } else if constexpr (R == real::bf16) {
    return lane_round_bf16(x);
  } else {
    return x;
  }
}

/// As above, for a format that is known at run time.
template <class F>
AR_FN constexpr F lane_round_to(real r, F x) noexcept {
  switch (r) {
    case real::f16: return lane_round_f16(x);
    case real::bf16: return lane_round_bf16(x);
    case real::f32: break;
  }
  return x;
}

/// f(v) in every lane, for functions of one number that are worth no vector code.
template <class F, class Function>
AR_FN constexpr F lane_each(F v, const Function& f) noexcept {
  float lane[static_cast<std::size_t>(lane_count<F>)] = {};
  lane_store(v, lane);
  for (float& x : lane) x = f(x);
  return lane_load<F>(lane);
}

/// x with -0 turned into +0.
template <class F>
AR_FN constexpr F lane_plus_zero(F x) noexcept {
  return x + lane_set<F>(0.0f);
}

AR_END_TARGET
#endif
