// Lane functions that only the GGUF blocks need.
#if defined(AR_DETAIL_GGUF_LANE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_LANE_INL_H
#else
#define AR_DETAIL_GGUF_LANE_INL_H
#endif

#include "ar/detail/lane_traits-inl.h"

AR_BEGIN_TARGET
namespace gguf {

/// lane_nint for |x| <= 2^22. What comes out for others, or for NaN, must not matter.
template <class F>
AR_FN constexpr F lane_nint_small(F x) noexcept {
  return (x + lane_set<F>(12582912.0f)) - lane_set<F>(12582912.0f);
}

/// Nearest whole number, halves away from zero (C's roundf).
/// The number before 1/2 is added: 1/2 itself would lift 0.49999997 to 1. (True for all floats; a nightly test looks at each.)
template <class F>
AR_FN constexpr F lane_round_away(F x) noexcept {
  const F almost_half = lane_set<F>(0x1.fffffep-2f);
  return lane_trunc(x + lane_select(lane_lt(x, lane_set<F>(0.0f)), -almost_half, almost_half));
}

/// What C's (int8_t)v or (uint8_t)v gives on the machines that made the reference, for |v| < 256 and for infinities and NaN (which become 0).
template <class F>
AR_FN constexpr F lane_trunc_or_zero(F v) noexcept {
  return lane_select(lane_lt(lane_abs(v), lane_set<F>(256.0f)), lane_trunc(v), lane_set<F>(0.0f));
}

/// x * y as an unevaluated sum high + low, exactly unless it under- or overflows (Dekker). Products that decide a code are rounded once only.
template <class F>
struct exact_product {
  F high, low;
};
template <class F>
AR_FN constexpr exact_product<F> lane_multiply_exactly(F x, F y) noexcept {
  const F splitter = lane_set<F>(4097.0f);
  const F p = x * y;
  const F cx = splitter * x, cy = splitter * y;
  const F xh = cx - (cx - x), yh = cy - (cy - y);
  const F xl = x - xh, yl = y - yh;
  return {p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl};
}

/// floor(x * y + (N + 1/2)) with x * y unrounded, limited to 0..2N-1.
template <int N, class F>
AR_FN constexpr F lane_floor_product(F x, F y) noexcept {
  const exact_product<F> p = lane_multiply_exactly(x, y);
  const F bias = lane_set<F>(static_cast<float>(N) + 0.5f), zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f);
  F k = lane_floor(p.high + bias);
  const auto too_high = lane_lt((p.high - (k - bias)) + p.low, zero);
  const auto too_low = lane_ge((p.high - ((k + one) - bias)) + p.low, zero);
  k = lane_select(too_high, k - one, lane_select(too_low, k + one, k));
  return lane_select(lane_gt(k, zero), lane_select(lane_lt(k, lane_set<F>(2.0f * N - 1.0f)), k, lane_set<F>(2.0f * N - 1.0f)), zero);
}

}  // namespace gguf
AR_END_TARGET
#endif
