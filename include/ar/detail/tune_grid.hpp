// The tuned grids: for each family of quantization grids the fake-quantized forward and its hand-written gradient, once, over a lane type F.
// A data type names its family; what differs between the types of a family are numbers (bits, super-block). Every expression keeps the order
// of operations of the reference (signround.md sections 3 and 4), because the sign of a gradient decides a step.
#if defined(AR_DETAIL_TUNE_GRID_HPP) == defined(HWY_TARGET_TOGGLE)  // once per target, see ar/detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_TUNE_GRID_HPP
#else
#define AR_DETAIL_TUNE_GRID_HPP
#endif

#include <cstddef>

#include "ar/detail/lane_traits-inl.h"
#include "ar/detail/rowsum.hpp"
#include "ar/detail/target.hpp"
#include "ar/detail/tune_types.hpp"

AR_BEGIN_TARGET

template <class F>
AR_FN constexpr F lane_clamp(F x, F lo, F hi) noexcept {
  return lane_min(lane_max(x, lo), hi);
}
/// Nearest integer, half to even, never -0: the value of the straight-through round of the reference.
template <class F>
AR_FN constexpr F round_ste(F x) noexcept {
  return lane_plus_zero(lane_round(x));
}
template <class F>
AR_FN constexpr F round_to(real type, F x) noexcept {
  return type == real::f16 ? lane_round_f16(x) : type == real::bf16 ? lane_round_bf16(x) : x;
}
/// 1 / x, and 0 where x is so small that the quotient would say nothing.
AR_FN constexpr float guarded_reciprocal(float x) noexcept { return lane_abs(x) >= 1e-30f ? 1.0f / x : 0.0f; }
/// r * r, and 0 where float cannot hold it: the reciprocal of so small a step, whose gradient is infinite or NaN in the reference.
AR_FN constexpr float guarded_square(float r) noexcept { return lane_abs(r) < 0x1p64f ? r * r : 0.0f; }

/// What a group is made from: its extrema (zero included) and the tuned factors, already clamped. `init_scale` and `init_minimum` are 0 or, where
/// they were searched, replace the extrema.
template <class F>
struct group_range {
  F wmin, wmax, min_scale, max_scale, init_scale, init_minimum;
};
/// dL/d of a group's extrema times their factors.
template <class F>
struct range_gradient {
  F low, high;
};
template <class F>
struct factor_gradient {
  F min_scale, max_scale;
};

/// w ~ s * q with a signed scale: the side of larger magnitude gets the code -M exactly.
struct tuned_symmetric {
  enum value : int { scale, raw_scale, values };  ///< what a group hands on, in arrays of this many floats
  static constexpr int zero_point = -1, minimum = -1;  ///< values that this family does not have
  static constexpr std::size_t sums = 2;
  static constexpr bool superblocks = false;

  float levels, threshold, pass_low, pass_high;
  real scale_type, gradient_type;

  AR_FN constexpr explicit tuned_symmetric(const tune_grid& g) noexcept
      : levels(static_cast<float>(1 << (g.bits - 1))),
        threshold(scale_threshold(g.scale_type)),
        // Codes are integers before the clamp, so the closed interval is the open one widened by a half.
        pass_low(-levels - (g.clamp == clamp_gradient::closed ? 0.5f : 0.0f)),
        pass_high(levels - 1.0f + (g.clamp == clamp_gradient::closed ? 0.5f : 0.0f)),
        scale_type(g.scale_type),
        gradient_type(g.scale_grad == scale_gradient::reference ? g.scale_type : real::f32) {}

  template <class F>
  AR_FN constexpr F larger_side_sign(F a, F b) const noexcept {
    return lane_select(lane_lt(b, a), lane_set<F>(1.0f), lane_set<F>(-1.0f));
  }

  template <class F>
  AR_FN constexpr void prepare(const group_range<F>& r, bool with_init, F* out) const noexcept {
    const F thr = lane_set<F>(threshold), low = lane_set<F>(-threshold), zero = lane_set<F>(0.0f);
    const F a = -(r.wmin * r.min_scale), b = r.wmax * r.max_scale;
    const F from_range = larger_side_sign(a, b) * lane_max(a, b) / lane_set<F>(levels);
    const F raw = round_to(scale_type, with_init ? r.init_scale * r.max_scale : from_range);
    out[raw_scale] = raw;
    out[scale] = lane_select(lane_lt(raw, zero), lane_min(raw, low), lane_max(raw, thr));
  }
  template <class F>
  AR_FN constexpr F code(const F* g, F w, F v) const noexcept {
    return lane_clamp(round_ste(w / g[scale] + v), lane_set<F>(-levels), lane_set<F>(levels - 1.0f));
  }
  template <class F>
  AR_FN constexpr F stored(F q) const noexcept {
    return q + lane_set<F>(levels);
  }
  template <class F>
  AR_FN constexpr F decode(const F* g, F q) const noexcept {
    return g[scale] * q;
  }
  /// dL/dv, and the terms of the group's sums if `Sums`.
  template <bool Sums, class F>
  AR_FN constexpr F gradient(const F* g, F w, F v, F grad, F* term) const noexcept {
    const F ratio = w / g[scale];
    const F i = round_ste(ratio + v);
    const F dv = lane_select(lane_and(lane_lt(lane_set<F>(pass_low), i), lane_lt(i, lane_set<F>(pass_high))), grad * g[scale], lane_set<F>(0.0f));
    if constexpr (Sums) {
      term[0] = grad * lane_clamp(i, lane_set<F>(-levels), lane_set<F>(levels - 1.0f));
      term[1] = dv * (ratio / g[scale]);
    }
    return dv;
  }
  /// With a searched scale: `high` is the gradient of the scale.
  template <class F>
  AR_FN constexpr range_gradient<F> through_range(const group_range<F>& r, bool with_init, const F* g, const F* sum) const noexcept {
    const F zero = lane_set<F>(0.0f), half = lane_set<F>(0.5f), raw = g[raw_scale];
    F gs = round_to(gradient_type, round_to(gradient_type, sum[0]) - round_to(gradient_type, sum[1]));
    gs = lane_select(lane_lt(lane_set<F>(threshold), lane_abs(raw)), gs, zero);
    if (with_init) return {zero, gs};
    const F a = -(r.wmin * r.min_scale), b = r.wmax * r.max_scale;
    return to_larger(a, b, gs / lane_set<F>(levels) * larger_side_sign(a, b), half);
  }
  template <class F>
  AR_FN constexpr factor_gradient<F> through_factors(const group_range<F>& r, bool with_init, const range_gradient<F>& d) const noexcept {
    if (with_init) return {d.low, d.high * r.init_scale};
    return {d.low * r.wmin, d.high * r.wmax};
  }
  /// dL/dw for weights that are data themselves, from what `gradient` returns.
  template <class F>
  AR_FN constexpr F input_gradient(const F* g, F dv) const noexcept {
    return dv / g[scale];
  }
  /// max(a, b) passes the gradient to the larger side, half to each on a tie.
  template <class F>
  AR_FN static constexpr range_gradient<F> to_larger(F a, F b, F h, F half) noexcept {
    const F zero = lane_set<F>(0.0f), tie = h * half;
    const F ha = lane_select(lane_gt(a, b), h, lane_select(lane_eq(a, b), tie, zero));
    const F hb = lane_select(lane_gt(b, a), h, lane_select(lane_eq(a, b), tie, zero));
    return {-ha, hb};
  }
};

/// w ~ s * (q - zp), zp whole or a fraction.
struct tuned_asymmetric {
  enum value : int { scale, zero_point, raw_scale, values };
  static constexpr int minimum = -1;
  static constexpr std::size_t sums = 4;
  static constexpr bool superblocks = false;

  float top, threshold, pass_low, pass_high;
  real scale_type, gradient_type;
  bool whole_zero;

  AR_FN constexpr explicit tuned_asymmetric(const tune_grid& g) noexcept
      : top(static_cast<float>((1 << g.bits) - 1)),
        threshold(scale_threshold(g.scale_type)),
        // The closed interval is the open one widened by less than the next number before the clamp: an integer, or a fraction, of which the least
        // below zero is a rounding error of zp - k, and the least above top its successor.
        pass_low(g.clamp != clamp_gradient::closed ? 0.0f : g.whole_zero ? -0.5f : -0x1p-30f),
        pass_high(g.clamp != clamp_gradient::closed ? top : g.whole_zero ? top + 0.5f : top + top * 0x1.8p-24f),
        scale_type(g.scale_type),
        gradient_type(g.scale_grad == scale_gradient::reference ? g.scale_type : real::f32),
        whole_zero(g.whole_zero) {}

  template <class F>
  AR_FN constexpr void prepare(const group_range<F>& r, bool, F* out) const noexcept {
    const F lo = r.wmin * r.min_scale, hi = r.wmax * r.max_scale;
    out[raw_scale] = round_to(scale_type, (hi - lo) / lane_set<F>(top));
    out[scale] = lane_max(out[raw_scale], lane_set<F>(threshold));
    const F zp = lane_plus_zero(-lo / out[scale]);
    out[zero_point] = whole_zero ? round_ste(zp) : zp;
  }
  template <class F>
  AR_FN constexpr F code(const F* g, F w, F v) const noexcept {
    return lane_clamp(round_ste(w / g[scale] + v) + g[zero_point], lane_set<F>(0.0f), lane_set<F>(top));
  }
  template <class F>
  AR_FN constexpr F stored(F q) const noexcept {
    return lane_round(q);
  }
  template <class F>
  AR_FN constexpr F decode(const F* g, F q) const noexcept {
    return g[scale] * (q - g[zero_point]);
  }
  template <bool Sums, class F>
  AR_FN constexpr F gradient(const F* g, F w, F v, F grad, F* term) const noexcept {
    const F ratio = w / g[scale];
    const F u = round_ste(ratio + v) + g[zero_point];
    const F gd = grad * g[scale];
    const F dv = lane_select(lane_and(lane_lt(lane_set<F>(pass_low), u), lane_lt(u, lane_set<F>(pass_high))), gd, lane_set<F>(0.0f));
    if constexpr (Sums) {
      term[0] = grad * (lane_clamp(u, lane_set<F>(0.0f), lane_set<F>(top)) - g[zero_point]);
      term[1] = dv * (ratio / g[scale]);
      term[2] = gd;
      term[3] = dv;
    }
    return dv;
  }
  template <class F>
  AR_FN constexpr range_gradient<F> through_range(const group_range<F>& r, bool, const F* g, const F* sum) const noexcept {
    const F lo = r.wmin * r.min_scale;
    const F gz = sum[3] - sum[2];
    const F direct = round_to(gradient_type, round_to(gradient_type, sum[0]) - round_to(gradient_type, sum[1]));
    const F through_zero = round_to(gradient_type, -gz * (-lo / g[scale] / g[scale]));
    F gs = round_to(gradient_type, direct + through_zero);
    gs = lane_select(lane_gt(g[raw_scale], lane_set<F>(threshold)), gs, lane_set<F>(0.0f));
    const F h = gs / lane_set<F>(top);
    return {-h - gz / g[scale], h};
  }
  template <class F>
  AR_FN constexpr factor_gradient<F> through_factors(const group_range<F>& r, bool, const range_gradient<F>& d) const noexcept {
    return {d.low * r.wmin, d.high * r.wmax};
  }
  template <class F>
  AR_FN constexpr F input_gradient(const F* g, F dv) const noexcept {
    return dv / g[scale];
  }
};

/// w ~ s * q - m or w ~ s * q with s and m given (searched once, then frozen): only v is tuned.
struct tuned_fixed {
  enum value : int { scale, minimum, reciprocal, values };
  static constexpr int zero_point = -1;
  static constexpr std::size_t sums = 1;
  static constexpr bool superblocks = false;

  float low, high, pass_low, pass_high;

  AR_FN constexpr explicit tuned_fixed(const tune_grid& g) noexcept
      : low(g.family == tune_family::fixed_symmetric ? -static_cast<float>(1 << (g.bits - 1)) : 0.0f),
        high(low + static_cast<float>((1 << g.bits) - 1)),
        pass_low(low - (g.clamp == clamp_gradient::closed ? 0.5f : 0.0f)),
        pass_high(high + (g.clamp == clamp_gradient::closed ? 0.5f : 0.0f)) {}

  template <class F>
  AR_FN constexpr void prepare(const group_range<F>& r, bool, F* out) const noexcept {
    out[scale] = r.init_scale;
    out[minimum] = r.init_minimum;
    const F small = lane_set<F>(1e-30f), one = lane_set<F>(1.0f);
    out[reciprocal] = lane_select(lane_ge(lane_abs(r.init_scale), small), one / r.init_scale, lane_set<F>(0.0f));
  }
  template <class F>
  AR_FN constexpr F code(const F* g, F w, F v) const noexcept {
    return lane_clamp(rounded(g, w, v), lane_set<F>(low), lane_set<F>(high));
  }
  template <class F>
  AR_FN constexpr F stored(F q) const noexcept {
    return q - lane_set<F>(low);
  }
  template <class F>
  AR_FN constexpr F decode(const F* g, F q) const noexcept {
    return g[scale] * q - g[minimum];
  }
  template <bool Sums, class F>
  AR_FN constexpr F gradient(const F* g, F w, F v, F grad, F* term) const noexcept {
    const F i = rounded(g, w, v), zero = lane_set<F>(0.0f);
    if constexpr (Sums) term[0] = zero;
    return lane_select(lane_and(lane_lt(lane_set<F>(pass_low), i), lane_lt(i, lane_set<F>(pass_high))), grad * g[scale], zero);
  }
  template <class F>
  AR_FN constexpr range_gradient<F> through_range(const group_range<F>&, bool, const F*, const F*) const noexcept {
    return {lane_set<F>(0.0f), lane_set<F>(0.0f)};
  }
  template <class F>
  AR_FN constexpr factor_gradient<F> through_factors(const group_range<F>&, bool, const range_gradient<F>& d) const noexcept {
    return {d.low, d.high};
  }
  template <class F>
  AR_FN constexpr F input_gradient(const F* g, F dv) const noexcept {
    return dv * g[reciprocal];
  }

 private:
  template <class F>
  AR_FN constexpr F rounded(const F* g, F w, F v) const noexcept {
    return round_ste((w + g[minimum]) * g[reciprocal] + v);
  }
};

/// One vector of non-negative group values t[0..n) quantized to n codes and one step: t' = min(round(t / step), top) * step.
struct quantized_steps {
  float top = 0, width = 0, step = 0, inverse = 0;
  float level[16] = {};  ///< round(t * inverse), not clamped
  std::size_t n = 0, argmax = 0;

  AR_FN constexpr quantized_steps(const float* t, std::size_t count, int bits) noexcept : top(static_cast<float>((1 << bits) - 1)), n(count) {
    for (std::size_t i = 1; i < n; ++i)
      if (t[i] > t[argmax]) argmax = i;
    width = lane_max(t[argmax], 0.0f);
    step = width / top;
    inverse = lane_max(top * guarded_reciprocal(width), 0.0f);
    for (std::size_t i = 0; i < n; ++i) level[i] = round_ste(t[i] * inverse);
  }
  AR_FN constexpr float value(std::size_t i) const noexcept { return lane_min(level[i], top) * step; }

  /// From dL/dt' to dL/dt, in place.
  AR_FN constexpr void backward(const float* t, clamp_gradient clamp, float* grad) const noexcept {
    const float pass = top + (clamp == clamp_gradient::closed ? 0.5f : 0.0f);
    float through_inverse[16] = {}, through_step[16] = {};
    const float step_value = step;
    float direct[16] = {};
    for (std::size_t i = 0; i < n; ++i) {
      const float gk = level[i] < pass ? grad[i] * step_value : 0.0f;
      direct[i] = gk * inverse;
      through_inverse[i] = gk * t[i];
      through_step[i] = grad[i] * lane_min(level[i], top);
    }
    const float gr = inverse > 0.0f ? detail::rowsum(through_inverse, n) * top : 0.0f;
    const float r = guarded_reciprocal(width);
    float gw = detail::rowsum(through_step, n) / top + (width >= 1e-30f ? -gr * guarded_square(r) : 0.0f);
    if (!(t[argmax] > 0.0f)) gw = 0.0f;
    for (std::size_t i = 0; i < n; ++i) grad[i] = direct[i];
    grad[argmax] += gw;
  }
};

/// w ~ s * q - m, with s and m of a super-block's groups quantized once more.
struct tuned_superblock_asymmetric {
  enum value : int { scale, minimum, coarse_scale, values };
  static constexpr int zero_point = -1;
  static constexpr std::size_t sums = 4;
  static constexpr bool superblocks = true;

  float top, threshold, pass_low, pass_high;
  int super_bits;
  clamp_gradient clamp;

  AR_FN constexpr explicit tuned_superblock_asymmetric(const tune_grid& g) noexcept
      : top(static_cast<float>((1 << g.bits) - 1)),
        threshold(scale_threshold(g.scale_type)),
        pass_low(g.clamp == clamp_gradient::closed ? -0.5f : 0.0f),
        pass_high(top + (g.clamp == clamp_gradient::closed ? 0.5f : 0.0f)),
        super_bits(g.super_bits),
        clamp(g.clamp) {}

  /// Scale and minimum of the groups before they are quantized.
  AR_FN constexpr void raw(const group_range<float>* r, std::size_t n, float* s0, float* m0) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      const float lo = r[i].wmin * r[i].min_scale, hi = r[i].wmax * r[i].max_scale;
      s0[i] = lane_max((hi - lo) / top, threshold);
      m0[i] = -lo;
    }
  }
  /// Fills out[k][first + i] for the groups i of one super-block; `d` receives the steps of scale and minimum as they are stored.
  AR_FN constexpr void prepare(const group_range<float>* r, std::size_t n, float (*out)[16], std::size_t first, float* d) const noexcept {
    float s0[16] = {}, m0[16] = {};
    raw(r, n, s0, m0);
    const quantized_steps s(s0, n, super_bits), m(m0, n, super_bits);
    for (std::size_t i = 0; i < n; ++i) {
      out[coarse_scale][first + i] = s.value(i);
      out[scale][first + i] = lane_max(s.value(i), threshold);
      out[minimum][first + i] = m.value(i);
    }
    d[0] = lane_max(s.step, threshold);
    d[1] = lane_max(m.step, threshold);
  }
  template <class F>
  AR_FN constexpr F code(const F* g, F w, F v) const noexcept {
    return lane_clamp(round_ste((w + g[minimum]) / g[scale] + v), lane_set<F>(0.0f), lane_set<F>(top));
  }
  template <class F>
  AR_FN constexpr F stored(F q) const noexcept {
    return q;
  }
  template <class F>
  AR_FN constexpr F decode(const F* g, F q) const noexcept {
    return g[scale] * q - g[minimum];
  }
  template <bool Sums, class F>
  AR_FN constexpr F gradient(const F* g, F w, F v, F grad, F* term) const noexcept {
    const F ratio = (w + g[minimum]) / g[scale];
    const F i = round_ste(ratio + v);
    const F dv = lane_select(lane_and(lane_lt(lane_set<F>(pass_low), i), lane_lt(i, lane_set<F>(pass_high))), grad * g[scale], lane_set<F>(0.0f));
    if constexpr (Sums) {
      term[0] = grad * lane_clamp(i, lane_set<F>(0.0f), lane_set<F>(top));
      term[1] = dv * (ratio / g[scale]);
      term[2] = grad;
      term[3] = dv / g[scale];
    }
    return dv;
  }
  AR_FN constexpr void finish(const group_range<float>* r, std::size_t n, const float (*g)[16], const float (*sum)[16], std::size_t first,
                              factor_gradient<float>* out) const noexcept {
    float s0[16] = {}, m0[16] = {}, ds[16] = {}, dm[16] = {};
    raw(r, n, s0, m0);
    for (std::size_t i = 0; i < n; ++i) {
      ds[i] = g[coarse_scale][first + i] > threshold ? sum[0][first + i] - sum[1][first + i] : 0.0f;
      dm[i] = sum[3][first + i] - sum[2][first + i];
    }
    quantized_steps(s0, n, super_bits).backward(s0, clamp, ds);
    quantized_steps(m0, n, super_bits).backward(m0, clamp, dm);
    for (std::size_t i = 0; i < n; ++i) {
      const float lo = r[i].wmin * r[i].min_scale, hi = r[i].wmax * r[i].max_scale;
      const float h = ((hi - lo) / top > threshold ? ds[i] : 0.0f) / top;
      out[i] = {(-h - dm[i]) * r[i].wmin, h * r[i].wmax};
    }
  }
};

/// w ~ s * q with s = d * integer; the group of largest |s| in a super-block gets the most negative integer exactly.
struct tuned_superblock_symmetric {
  enum value : int { scale, reciprocal, values };
  static constexpr int zero_point = -1, minimum = -1;
  static constexpr std::size_t sums = 2;
  static constexpr bool superblocks = true;

  float levels, super_levels, pass_low, pass_high, half_open;

  AR_FN constexpr explicit tuned_superblock_symmetric(const tune_grid& g) noexcept
      : levels(static_cast<float>(1 << (g.bits - 1))),
        super_levels(static_cast<float>(1 << (g.super_bits - 1))),
        pass_low(g.clamp == clamp_gradient::closed ? -0.5f : 0.0f),
        pass_high(2.0f * levels - 1.0f - pass_low),
        half_open(-pass_low) {}

  struct coarse {
    float s0[16] = {}, level[16] = {};
    float step = 0, inverse = 0;
    std::size_t largest = 0;
  };
  AR_FN constexpr coarse fit(const group_range<float>* r, std::size_t n) const noexcept {
    coarse c;
    for (std::size_t i = 0; i < n; ++i) {
      const float a = -(r[i].wmin * r[i].min_scale), b = r[i].wmax * r[i].max_scale;
      c.s0[i] = (b < a ? 1.0f : -1.0f) * lane_max(a, b) / levels;
      if (lane_abs(c.s0[i]) > lane_abs(c.s0[c.largest])) c.largest = i;
    }
    c.step = c.s0[c.largest] / -super_levels;
    c.inverse = guarded_reciprocal(c.step);
    for (std::size_t i = 0; i < n; ++i) c.level[i] = round_ste(c.s0[i] * c.inverse);
    return c;
  }
  AR_FN constexpr float clamped(float level) const noexcept { return lane_clamp(level, -super_levels, super_levels - 1.0f); }

  AR_FN constexpr void prepare(const group_range<float>* r, std::size_t n, float (*out)[16], std::size_t first, float* d) const noexcept {
    const coarse c = fit(r, n);
    for (std::size_t i = 0; i < n; ++i) {
      out[scale][first + i] = clamped(c.level[i]) * c.step;
      out[reciprocal][first + i] = guarded_reciprocal(out[scale][first + i]);
    }
    d[0] = c.step;
    d[1] = 0.0f;
  }
  template <class F>
  AR_FN constexpr F code(const F* g, F w, F v) const noexcept {
    const F u = round_ste(w * g[reciprocal] + v) + lane_set<F>(levels);
    return lane_clamp(u, lane_set<F>(0.0f), lane_set<F>(2.0f * levels - 1.0f)) - lane_set<F>(levels);
  }
  template <class F>
  AR_FN constexpr F stored(F q) const noexcept {
    return q + lane_set<F>(levels);
  }
  template <class F>
  AR_FN constexpr F decode(const F* g, F q) const noexcept {
    return g[scale] * q;
  }
  template <bool Sums, class F>
  AR_FN constexpr F gradient(const F* g, F w, F v, F grad, F* term) const noexcept {
    const F u = round_ste(w * g[reciprocal] + v) + lane_set<F>(levels);
    const F dv = lane_select(lane_and(lane_lt(lane_set<F>(pass_low), u), lane_lt(u, lane_set<F>(pass_high))), grad * g[scale], lane_set<F>(0.0f));
    if constexpr (Sums) {
      term[0] = grad * (lane_clamp(u, lane_set<F>(0.0f), lane_set<F>(2.0f * levels - 1.0f)) - lane_set<F>(levels));
      term[1] = dv * w;
    }
    return dv;
  }
  AR_FN constexpr void finish(const group_range<float>* r, std::size_t n, const float (*g)[16], const float (*sum)[16], std::size_t first,
                              factor_gradient<float>* out) const noexcept {
    const coarse c = fit(r, n);
    float ds[16] = {}, through_step[16] = {}, through_inverse[16] = {};
    for (std::size_t i = 0; i < n; ++i) {
      const float rec = g[reciprocal][first + i];
      const float gs = sum[0][first + i] + (lane_abs(g[scale][first + i]) >= 1e-30f ? -sum[1][first + i] * guarded_square(rec) : 0.0f);
      const bool inside = -super_levels - half_open < c.level[i] && c.level[i] < super_levels - 1.0f + half_open;
      const float gr = inside ? gs * c.step : 0.0f;
      ds[i] = gr * c.inverse;
      through_step[i] = gs * clamped(c.level[i]);
      through_inverse[i] = gr * c.s0[i];
    }
    float gd = detail::rowsum(through_step, n);
    if (lane_abs(c.step) >= 1e-30f) gd += -detail::rowsum(through_inverse, n) * guarded_square(c.inverse);
    ds[c.largest] += gd / -super_levels;
    for (std::size_t i = 0; i < n; ++i) {
      const float a = -(r[i].wmin * r[i].min_scale), b = r[i].wmax * r[i].max_scale;
      const float h = ds[i] / levels * (b < a ? 1.0f : -1.0f);
      const range_gradient<float> d = tuned_symmetric::to_larger(a, b, h, 0.5f);
      out[i] = {d.low * r[i].wmin, d.high * r[i].wmax};
    }
  }
};

AR_END_TARGET

#endif
