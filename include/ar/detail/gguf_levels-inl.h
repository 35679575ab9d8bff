// GGUF types whose codes name the levels of a table: the 16 non-linear levels of IQ4_NL and IQ4_XS, and the doubled E2M1 numbers of MXFP4 and
// NVFP4. Levels are sums of steps and selections, because lanes have no table look-up that every target shares.
// Source: ggml 0.25.3 (kvalues_iq4nl, kvalues_mxfp4, quantize_row_iq4_nl_impl, best_index_mxfp4).
#if defined(AR_DETAIL_GGUF_LEVELS_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_LEVELS_INL_H
#else
#define AR_DETAIL_GGUF_LEVELS_INL_H
#endif

#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_block.hpp"
#include "ar/detail/gguf_block32-inl.h"
#include "ar/detail/gguf_search-inl.h"

AR_BEGIN_TARGET
namespace gguf {

// ---------------------------------------------------------------------------------------------------------------------------------------------
// IQ4

inline constexpr float iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// Nearest level: its index and value. Halfway goes up, NaN to the last. (Differences to both neighbors are exact in float near the middle.)
template <class F>
struct iq4_level {
  F index, value;
};
template <class F>
AR_FN constexpr iq4_level<F> nearest_iq4(F v) noexcept {
  iq4_level<F> best{lane_set<F>(0.0f), lane_set<F>(iq4_levels[0])};
  for (std::size_t k = 0; k < 15; ++k) {
    const auto below = lane_lt(v, lane_set<F>((iq4_levels[k] + iq4_levels[k + 1]) * 0.5f));
    best.index = lane_select(below, best.index, lane_set<F>(static_cast<float>(k + 1)));
    best.value = lane_select(below, best.value, lane_set<F>(iq4_levels[k + 1]));
  }
  return best;
}
template <class F>
AR_FN constexpr F iq4_value(F index) noexcept {
  return lane_lookup16(iq4_levels, index);
}

/// The scale of 32 values, 16 probes around -max / 127; 0 where everything is below group_max_eps.
template <class F>
AR_NOINLINE AR_FN constexpr F fit_iq4(const F* x, const F* w) noexcept {
  const F zero = lane_set<F>(0.0f);
  const extreme<F> e = first_extreme(x, 32);
  F scale = zero, best = zero;
  for (int probe = -8; probe <= 7; ++probe) {
    F inverse = lane_set<F>(static_cast<float>(probe) + iq4_levels[0]) / e.value;
    if (probe == -8) inverse = lane_set<F>(1.0f) / ((-e.value) / lane_set<F>(iq4_levels[0]));
    F sx = zero, s2 = zero;
    for (std::size_t i = 0; i < 32; ++i) {
      const F q = nearest_iq4(inverse * x[i]).value;
      const F wq = w[i] * q;
      sx = sx + wq * x[i];
      s2 = s2 + wq * q;
    }
    const auto positive = lane_gt(s2, zero);
    if (probe == -8) {
      scale = lane_select(positive, sx / s2, zero);
      best = scale * sx;
      continue;
    }
    const auto better = lane_and(positive, lane_gt(sx * sx, best * s2));
    scale = lane_select(better, sx / s2, scale);
    best = lane_select(better, scale * sx, best);
  }
  return lane_select(lane_lt(e.magnitude, lane_set<F>(group_max_eps)), zero, scale);
}
/// Weights of `n` values for fit_iq4: x^2, or importance times sqrt(sigma + x^2), sigma twice the mean square of the block.
template <class F>
AR_NOINLINE AR_FN constexpr void iq4_weights(const F* x, const F* importance, std::size_t n, F* w) noexcept {
  const F sigma = sum_of_squares(x, n) * lane_set<F>(2.0f / static_cast<float>(n));
  for (std::size_t i = 0; i < n; ++i) w[i] = importance != nullptr ? importance[i] * lane_sqrt(sigma + x[i] * x[i]) : x[i] * x[i];
}

template <class F>
AR_FN constexpr F inverse_or_zero(F x) noexcept {
  return lane_select(lane_eq(x, lane_set<F>(0.0f)), lane_set<F>(0.0f), lane_set<F>(1.0f) / x);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// FP4

inline constexpr float fp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

template <class F>
AR_FN constexpr F fp4_value(F code) noexcept {
  return lane_lookup16(fp4_levels, code);
}

/// The lowest code whose value at this scale is nearest to x.
/// Differences of x to its two neighbors among the levels are exact (each level but the first is at most twice the one before), so that comparing x
/// with the middles chooses as comparing differences does: the lower level where x lies in the middle. That holds as long as x is not so large that
/// differences to several levels are rounded to the same number.
template <class F>
AR_NOINLINE AR_FN constexpr void encode_fp4(const F* x, std::size_t n, F scale, F* code) noexcept {
  const F zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f), limit = lane_set<F>(0x1p20f) * scale;
  auto beyond = lane_lt(zero, zero);
  for (std::size_t i = 0; i < n; ++i) beyond = lane_or(beyond, lane_gt(lane_abs(x[i]), limit));
  if (!lane_any(beyond)) {
    F middle[7];
    for (std::size_t k = 0; k < 7; ++k) middle[k] = lane_set<F>((fp4_levels[k] + fp4_levels[k + 1]) * 0.5f) * scale;
    for (std::size_t i = 0; i < n; ++i) {
      const F m = lane_abs(x[i]);
      F q = zero;
      for (std::size_t k = 0; k < 7; ++k) q = q + lane_select(lane_gt(m, middle[k]), one, zero);
      code[i] = q + lane_select(lane_and(lane_lt(x[i], zero), lane_gt(q, zero)), lane_set<F>(8.0f), zero);
    }
    return;
  }
  F level[16];
  for (std::size_t k = 0; k < 16; ++k) level[k] = lane_set<F>(fp4_levels[k]) * scale;
  for (std::size_t i = 0; i < n; ++i) {
    F best = lane_abs(level[0] - x[i]), q = lane_set<F>(0.0f);
    for (std::size_t k = 1; k < 16; ++k) {
      const F error = lane_abs(level[k] - x[i]);
      const auto better = lane_lt(error, best);
      best = lane_select(better, error, best);
      q = lane_select(better, lane_set<F>(static_cast<float>(k)), q);
    }
    code[i] = q;
  }
}

}  // namespace gguf
AR_END_TARGET
#endif
