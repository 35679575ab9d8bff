// The searches for scales and minimums of GGUF blocks, each written once over a lane type F. A lane holds one block (or super-block) and the
// lanes know nothing of each other, because the definition fixes the order of every sum inside a block; x[i] is then element i of as many
// blocks as F has lanes. With F = float this is the constant-expression reference.
// Sources: ggml 0.25.3 (ggml-quants.c) and auto-round 0.16.1 (data_type/gguf.py, export_to_gguf/packing.py); sum orders as measured there.

#if defined(AR_DETAIL_GGUF_SEARCH_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_SEARCH_INL_H
#else
#define AR_DETAIL_GGUF_SEARCH_INL_H
#endif

#include "ar/detail/gguf_lane-inl.h"

AR_BEGIN_TARGET
namespace gguf {

/// Largest number of values that share a scale.
inline constexpr std::size_t max_group = 32;

/// Numbers of a grid of probes: inverse scale of probe k is (rmin + rdelta * k + N) / (max - min).
struct probe_grid {
  double rmin, rdelta;
  int steps;
  bool absolute;  ///< the error is |difference| instead of its square
};

/// Magnitudes below this count as zero in ggml's searches.
inline constexpr float group_max_eps = 1e-15f;

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Small pieces

/// lo <= v <= hi; a NaN becomes lo, on every target.
template <class F>
AR_FN constexpr F clamp(F v, F lo, F hi) noexcept {
  return lane_select(lane_gt(v, lo), lane_select(lane_lt(v, hi), v, hi), lo);
}

/// Clamps whole numbers that came from lane_nint, which are never NaN.
template <class F>
AR_FN constexpr F clamp_code(F v, float lo, float hi) noexcept {
  return lane_min(lane_max(v, lane_set<F>(lo)), lane_set<F>(hi));
}

/// What is left of a whole number <= 255 in an unsigned byte.
template <class F>
AR_FN constexpr F as_byte(F v) noexcept {
  const F n = lane_set<F>(256.0f);
  return lane_select(lane_lt(v, lane_set<F>(0.0f)), v - n * lane_floor(v / n), v);
}

/// The element of largest magnitude, with its sign; of equals the first. Zero if all are zero.
template <class F>
struct extreme {
  F magnitude, value;
};
template <class F>
AR_FN constexpr extreme<F> first_extreme(const F* x, std::size_t n) noexcept {
  extreme<F> e{lane_set<F>(0.0f), lane_set<F>(0.0f)};
  for (std::size_t i = 0; i < n; ++i) {
    const F a = lane_abs(x[i]);
    const auto larger = lane_gt(a, e.magnitude);
    e.magnitude = lane_select(larger, a, e.magnitude);
    e.value = lane_select(larger, x[i], e.value);
  }
  return e;
}

/// Smallest and largest element; of equals (zeros of both signs) the first.
template <class F>
struct range {
  F min, max;
};
template <class F>
AR_FN constexpr range<F> find_range(const F* x, std::size_t n) noexcept {
  range<F> r{x[0], x[0]};
  for (std::size_t i = 1; i < n; ++i) {
    r.min = lane_select(lane_lt(x[i], r.min), x[i], r.min);
    r.max = lane_select(lane_gt(x[i], r.max), x[i], r.max);
  }
  return r;
}

/// What the plain quantizers need to know of a block: its range (as find_range), and its first_extreme.
template <class F>
struct block_extent {
  F min, max, extreme;
};
template <class F>
AR_FN constexpr block_extent<F> find_extent(const F* x, std::size_t n) noexcept {
  const range<F> r = find_range(x, n);
  return {r.min, r.max, first_extreme(x, n).value};
}

/// x[0]^2 + x[1]^2 + ..., one after the other.
template <class F>
AR_FN constexpr F sum_of_squares(const F* x, std::size_t n) noexcept {
  F s = lane_set<F>(0.0f);
  for (std::size_t i = 0; i < n; ++i) s = s + x[i] * x[i];
  return s;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// ggml

/// `factor` times the mean square of a super-block: the sigma of weigh_by_magnitude.
template <class F>
AR_FN constexpr F scaled_mean_square(const F* x, float factor) noexcept {
  return (lane_set<F>(factor) * sum_of_squares(x, 256)) / lane_set<F>(256.0f);
}
/// What n values count in a search with importance: importance * sqrt(sigma + x^2). `w` may be `importance`.
template <class F>
AR_FN constexpr void weigh_by_magnitude(const F* x, const F* importance, F sigma, std::size_t n, F* w) noexcept {
  for (std::size_t i = 0; i < n; ++i) w[i] = importance[i] * lane_sqrt(sigma + x[i] * x[i]);
}

/// A signed scale and what it takes to make the codes of the winning probe again: storing the codes of each better probe would cost more than
/// computing them once more at the end.
template <class F>
struct symmetric_fit {
  F scale, inverse;
  lane_mask<F> zero;  ///< nothing above group_max_eps: scale 0, all codes 0 (not the code of the value 0)
};

/// What the probes of fit_symmetric divide by the extreme: -(N + 0.1 k) for k = 0, then -9..-1, 1..9.
AR_FN constexpr float symmetric_probe(int probe, int N) noexcept {
  const int k = probe == 0 ? 0 : probe < 10 ? probe - 10 : probe - 9;
  return k == 0 ? -static_cast<float>(N) : -(static_cast<float>(N) + 0.1f * static_cast<float>(k));
}

/// ggml's make_qx_quants with rmse type 1: 19 probes around -N / max, the best by weighted correlation. `weight` null means x^2.
template <class F>
AR_NOINLINE AR_FN constexpr symmetric_fit<F> fit_symmetric(const F* x, const F* weight, std::size_t n, int N) noexcept {
  const F zero = lane_set<F>(0.0f), lowest = lane_set<F>(static_cast<float>(-N)), highest = lane_set<F>(static_cast<float>(N - 1));
  const extreme<F> e = first_extreme(x, n);
  F w[max_group], wx[max_group];
  for (std::size_t i = 0; i < n; ++i) {
    w[i] = weight != nullptr ? weight[i] : x[i] * x[i];
    wx[i] = w[i] * x[i];
  }
  symmetric_fit<F> fit{zero, zero, lane_lt(e.magnitude, lane_set<F>(group_max_eps))};
  F best = zero;
  // Probes go two by two: sums of one hide behind those of the other, and the values are read once for both. The last is made twice: a second time
  // it is not better.
  for (int probe = 0; probe < 19; probe += 2) {
    F inverse[2], sx[2] = {zero, zero}, s2[2] = {zero, zero};
    for (int second = 0; second < 2; ++second) inverse[second] = lane_set<F>(symmetric_probe(probe + second < 19 ? probe + second : 18, N)) / e.value;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t second = 0; second < 2; ++second) {
        // (Where a product is large or no number, so is the inverse, and the block counts as zero.)
        const F l = lane_min(lane_max(lane_nint_small(inverse[second] * x[i]), lowest), highest);
        sx[second] = sx[second] + wx[i] * l;
        s2[second] = s2[second] + (w[i] * l) * l;
      }
    for (std::size_t second = 0; second < 2; ++second) {
      if (probe + static_cast<int>(second) == 0) {
        fit.scale = lane_select(lane_eq(s2[0], zero), zero, sx[0] / s2[0]);
        fit.inverse = inverse[0];
        best = fit.scale * sx[0];
        continue;
      }
      const auto better = lane_and(lane_gt(s2[second], zero), lane_gt(sx[second] * sx[second], best * s2[second]));
      fit.scale = lane_select(better, sx[second] / s2[second], fit.scale);
      fit.inverse = lane_select(better, inverse[second], fit.inverse);
      best = lane_select(better, fit.scale * sx[second], best);
    }
  }
  fit.scale = lane_select(fit.zero, zero, fit.scale);
  return fit;
}

/// Code 0..2N-1 of x under a fit of fit_symmetric.
template <int N, class F>
AR_FN constexpr F code_of(const symmetric_fit<F>& fit, F x) noexcept {
  return lane_select(fit.zero, lane_set<F>(0.0f), clamp_code(lane_nint(fit.inverse * x), -N, N - 1) + lane_set<F>(N));
}

/// Up to 5 passes over the n codes l of a group that move each to where the weighted least squares with the others want it, if that is better. When n
/// codes in a row stay, all others would see the same again. `lo`..`hi` bound the codes. `positive`: the codes are bytes, and what the rest contributes
/// to s2 has to be positive before a code is tried.
template <bool positive, class F, class Weight, class Round>
AR_NOINLINE AR_FN constexpr void improve_codes(const F* x, std::size_t n, Weight weight, Round round, float lo, float hi, F* l, F& sx, F& s2) noexcept {
  const F zero = lane_set<F>(0.0f), lowest = lane_set<F>(lo), highest = lane_set<F>(hi);
  std::size_t stayed = 0;
  for (int pass = 0; pass < 5; ++pass)
    for (std::size_t i = 0; i < n; ++i) {
      if (stayed == n) return;
      ++stayed;
      const F w = weight.at(i);
      F slx = sx - (w * x[i]) * l[i];
      F sl2 = s2 - (w * l[i]) * l[i];
      const F wanted = x[i] * sl2;
      auto go = lane_gt(slx, zero);
      if (positive) go = lane_and(go, lane_gt(sl2, zero));
      // A code stays if wanted / slx is less than half away from it, or beyond it at a bound. Of that a product decides, with room for roundings,
      // which costs less than the division and makes no code wait for the one before; most codes of later passes end here.
      const F distance = wanted - l[i] * slx, half = slx * lane_set<F>(0.499f);
      auto stays = lane_and(lane_or(lane_le(distance, half), lane_ge(l[i], highest)), lane_or(lane_ge(distance, -half), lane_le(l[i], lowest)));
      stays = lane_and(stays, lane_ge(slx, lane_set<F>(1e-30f)));
      if (positive) stays = lane_and(stays, lane_le(l[i], highest));
      go = lane_and(go, lane_not(stays));
      if (!lane_any(go)) continue;
      const F next = clamp_code(round.of(wanted / slx), lo, hi);
      go = lane_and(go, lane_not(lane_eq(next, l[i])));
      slx = slx + (w * x[i]) * next;
      sl2 = sl2 + (w * next) * next;
      go = lane_and(go, lane_and(lane_gt(sl2, zero), lane_gt((slx * slx) * s2, (sx * sx) * sl2)));
      l[i] = lane_select(go, positive ? as_byte(next) : next, l[i]);
      sx = lane_select(go, slx, sx);
      s2 = lane_select(go, sl2, s2);
      if (lane_any(go)) stayed = 0;
    }
}
template <class F>
struct given_weight {
  const F* w;
  AR_FN constexpr F at(std::size_t i) const noexcept { return w[i]; }
};
template <class F>
struct square_weight {
  const F* x;
  AR_FN constexpr F at(std::size_t i) const noexcept { return x[i] * x[i]; }
};
struct round_nint {  ///< ggml's nearest_int
  template <class F>
  AR_FN constexpr F of(F v) const noexcept {
    return lane_nint(v);
  }
};

/// ggml's make_q3_quants for 16 groups of 16: codes -4..3 by coordinate descent, weights x^2. Writes l + 4 (0 where everything is below
/// group_max_eps) and the scales.
template <class F>
AR_NOINLINE AR_FN constexpr void fit_q3(const F* x, F* code, F* scale) noexcept {
  const F zero = lane_set<F>(0.0f);
  for (std::size_t g = 0; g < 16; ++g) {
    const F* xs = x + 16 * g;
    F* l = code + 16 * g;
    const extreme<F> e = first_extreme(xs, 16);
    const F inverse = lane_set<F>(-4.0f) / e.value;
    F sx = zero, s2 = zero;
    for (std::size_t i = 0; i < 16; ++i) {
      l[i] = clamp_code(lane_nint(inverse * xs[i]), -4.0f, 3.0f);
      const F w = xs[i] * xs[i];
      sx = sx + (w * xs[i]) * l[i];
      s2 = s2 + (w * l[i]) * l[i];
    }
    improve_codes<false>(xs, 16, square_weight<F>{xs}, round_nint{}, -4.0f, 3.0f, l, sx, s2);
    const auto dead = lane_lt(e.magnitude, lane_set<F>(group_max_eps));
    for (std::size_t i = 0; i < 16; ++i) l[i] = lane_select(dead, zero, l[i] + lane_set<F>(4.0f));
    scale[g] = lane_select(lane_or(dead, lane_not(lane_gt(s2, zero))), zero, sx / s2);
  }
}

/// A scale and a minimum (x ~ scale * code - offset), and what it takes to make the winning codes again.
template <class F>
struct asymmetric_fit {
  F scale, offset;     ///< offset >= 0 is what ggml calls the_min
  F inverse, min;      ///< code = clamp(nint(inverse * (x - min)))
  lane_mask<F> flat;   ///< all elements equal: scale 0, codes 0
  F weight_sum;
};

template <class F>
AR_FN constexpr F weighted_error(const F* x, const F* w, const F* l, std::size_t n, bool absolute, F scale, F min) noexcept {
  F e = lane_set<F>(0.0f);
  if (absolute) {
    for (std::size_t i = 0; i < n; ++i) e = e + w[i] * lane_abs((scale * l[i] + min) - x[i]);
    return e;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const F d = (scale * l[i] + min) - x[i];
    e = e + w[i] * (d * d);
  }
  return e;
}

/// ggml's make_qkx2_quants / make_qkx3_quants: steps + 1 probes, for each a weighted least squares fit of scale and minimum, the best by error.
/// The minimum that a better probe finds moves the probes after it.
template <class F>
AR_NOINLINE AR_FN constexpr asymmetric_fit<F> fit_asymmetric(const F* x, const F* w, std::size_t n, int N, const probe_grid& grid) noexcept {
  const F zero = lane_set<F>(0.0f), top = lane_set<F>(static_cast<float>(N));
  const float rmin = static_cast<float>(grid.rmin), rdelta = static_cast<float>(grid.rdelta);
  const range<F> r = find_range(x, n);
  F sw = w[0], sx = w[0] * x[0];
  for (std::size_t i = 1; i < n; ++i) {
    sw = sw + w[i];
    sx = sx + w[i] * x[i];
  }
  F min = lane_select(lane_gt(r.min, zero), zero, r.min);
  const F max = r.max;
  asymmetric_fit<F> fit{zero, zero, top / (max - min), min, lane_eq(max, min), sw};
  fit.scale = lane_set<F>(1.0f) / fit.inverse;
  F l[max_group];
  for (std::size_t i = 0; i < n; ++i) l[i] = lane_min(lane_max(lane_nint(fit.inverse * (x[i] - min)), zero), top);
  F best = weighted_error(x, w, l, n, grid.absolute, fit.scale, min);
  for (int k = 0; k <= grid.steps; ++k) {
    const F inverse = lane_set<F>((rmin + rdelta * static_cast<float>(k)) + static_cast<float>(N)) / (max - min);
    F sl = zero, sl2 = zero, sxl = zero;
    for (std::size_t i = 0; i < n; ++i) {
      l[i] = lane_min(lane_max(lane_nint(inverse * (x[i] - min)), zero), top);
      const F wl = w[i] * l[i];
      sl = sl + wl;
      sl2 = sl2 + wl * l[i];
      sxl = sxl + wl * x[i];
    }
    const F det = sw * sl2 - sl * sl;
    F scale = (sw * sxl - sx * sl) / det;
    F low = (sl2 * sx - sl * sxl) / det;
    const auto positive = lane_gt(low, zero);
    low = lane_select(positive, zero, low);
    scale = lane_select(positive, sxl / sl2, scale);
    const F error = weighted_error(x, w, l, n, grid.absolute, scale, low);
    const auto better = lane_and(lane_gt(det, zero), lane_lt(error, best));
    best = lane_select(better, error, best);
    fit.scale = lane_select(better, scale, fit.scale);
    fit.inverse = lane_select(better, inverse, fit.inverse);
    fit.min = lane_select(better, min, fit.min);
    min = lane_select(better, low, min);
  }
  fit.scale = lane_select(fit.flat, zero, fit.scale);
  fit.offset = -min;
  return fit;
}

/// Code 0..N of x under a fit of fit_asymmetric.
template <int N, class F>
AR_FN constexpr F code_of(const asymmetric_fit<F>& fit, F x) noexcept {
  return lane_select(fit.flat, lane_set<F>(0.0f), clamp_code(lane_nint(fit.inverse * (x - fit.min)), 0.0f, N));
}

/// ggml's make_qp_quants: a positive step for non-negative values (the scales of a super-block), then up to 5 sweeps of coordinate descent.
/// Writes codes 0..N and returns the step. Where importances are zero but for one value a scale can come out negative: its code is the low byte of
/// a negative number, as in the original.
template <class F>
AR_NOINLINE AR_FN constexpr F fit_positive(const F* x, const F* w, std::size_t n, int N, F* code) noexcept {
  const F zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f), top = lane_set<F>(static_cast<float>(N));
  F max = zero;
  for (std::size_t i = 0; i < n; ++i) max = lane_select(lane_gt(x[i], max), x[i], max);
  const auto dead = lane_lt(max, lane_set<F>(group_max_eps));
  F inverse = zero, best = zero;
  for (int probe = 0; probe < 9; ++probe) {
    const int k = probe == 0 ? 0 : probe < 5 ? probe - 5 : probe - 4;  // 0 first, then -4..-1, 1..4
    const F is = lane_set<F>(k == 0 ? static_cast<float>(N) : 0.1f * static_cast<float>(k) + static_cast<float>(N)) / max;
    const F scale = one / is;
    F error = zero;
    for (std::size_t i = 0; i < n; ++i) {
      F l = lane_nint(is * x[i]);
      l = k != 0 ? lane_min(l, top) : as_byte(l);  // the first probe is stored and not limited, as in the original
      const F d = x[i] - scale * l;
      error = error + (w[i] * d) * d;
    }
    if (k == 0) {
      inverse = is;
      best = error;
      continue;
    }
    const auto better = lane_lt(error, best);
    best = lane_select(better, error, best);
    inverse = lane_select(better, is, inverse);
  }
  F sx = zero, s2 = zero;
  for (std::size_t i = 0; i < n; ++i) {
    const F l = lane_min(lane_nint(inverse * x[i]), top);
    sx = sx + (w[i] * x[i]) * l;
    s2 = s2 + (w[i] * l) * l;
    code[i] = as_byte(l);
  }
  improve_codes<true>(x, n, given_weight<F>{w}, round_nint{}, -4194304.0f, static_cast<float>(N), code, sx, s2);
  for (std::size_t i = 0; i < n; ++i) code[i] = lane_select(dead, zero, code[i]);
  return lane_select(lane_or(dead, lane_not(lane_gt(s2, zero))), zero, sx / s2);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// auto-round. Its sums over n <= 32 values run with 8 partial sums: ((t[j] + t[8+j]) + t[16+j]) + t[24+j], then over j.

template <class F, class Term>
AR_FN constexpr F sum_by_eight(std::size_t n, const Term& term) noexcept {
  F total = lane_set<F>(0.0f);
  for (std::size_t j = 0; j < 8; ++j) {
    F part = term.at(j);
    for (std::size_t i = j + 8; i < n; i += 8) part = part + term.at(i);
    total = total + part;
  }
  return total;
}
template <class F>
struct array_term {
  const F* t;
  AR_FN constexpr F at(std::size_t i) const noexcept { return t[i]; }
};
template <class F>
struct square_term {
  const F* x;
  AR_FN constexpr F at(std::size_t i) const noexcept { return x[i] * x[i]; }
};
template <class F>
AR_FN constexpr F sum_by_eight(const F* t, std::size_t n) noexcept {
  return sum_by_eight<F>(n, array_term<F>{t});
}

/// 1 / t, and 0 where |t| < 1e-30.
template <class F>
AR_FN constexpr F reciprocal_or_zero(F t) noexcept {
  return lane_select(lane_ge(lane_abs(t), lane_set<F>(1e-30f)), lane_set<F>(1.0f) / t, lane_set<F>(0.0f));
}

/// Quantizes n non-negative values to N = 2^bits - 1 steps of max / N; t becomes code * step. Returns the step.
template <class F>
AR_NOINLINE AR_FN constexpr F double_quant_positive(F* t, std::size_t n, int bits) noexcept {
  const F N = lane_set<F>(static_cast<float>((1 << bits) - 1)), zero = lane_set<F>(0.0f);
  F max = t[0];
  for (std::size_t i = 1; i < n; ++i) max = lane_select(lane_gt(t[i], max), t[i], max);
  max = lane_select(lane_gt(max, zero), max, zero);
  const F step = max / N;
  const F inverse = N * reciprocal_or_zero(max);
  for (std::size_t i = 0; i < n; ++i) {
    const F r = lane_round(t[i] * inverse);
    t[i] = lane_select(lane_gt(r, N), N, r) * step;
  }
  return step;
}

/// Quantizes n signed values to codes -N..N-1, N = 2^(bits-1), so that the first value of largest magnitude gets -N; t becomes code * step.
template <class F>
AR_NOINLINE AR_FN constexpr F double_quant_symmetric(F* t, std::size_t n, int bits) noexcept {
  const float N = static_cast<float>(1 << (bits - 1));
  const F step = first_extreme(t, n).value / lane_set<F>(-N);
  const F inverse = reciprocal_or_zero(step);
  for (std::size_t i = 0; i < n; ++i) t[i] = clamp(lane_round(t[i] * inverse), lane_set<F>(-N), lane_set<F>(N - 1.0f)) * step;
  return step;
}

/// auto-round's make_qp_quants (no sweeps): t becomes code * step. Returns the step.
template <class F>
AR_NOINLINE AR_FN constexpr F fit_positive_weighted(F* t, const F* w, std::size_t n, int bits) noexcept {
  const int N = (1 << bits) - 1;
  const F zero = lane_set<F>(0.0f), top = lane_set<F>(static_cast<float>(N));
  F max = t[0];
  for (std::size_t i = 1; i < n; ++i) max = lane_select(lane_gt(t[i], max), t[i], max);
  F inverse = zero, best = zero, term[max_group];
  for (int probe = 0; probe < 9; ++probe) {
    const int k = probe == 0 ? 0 : probe < 5 ? probe - 5 : probe - 4;
    const F scale = max / lane_set<F>(static_cast<float>(0.1 * k + N));
    const F is = reciprocal_or_zero(scale);
    for (std::size_t i = 0; i < n; ++i) {
      F l = lane_round(is * t[i]);
      if (k != 0) l = lane_select(lane_gt(l, top), top, l);
      const F d = t[i] - scale * l;
      term[i] = (w[i] * d) * d;
    }
    const F error = sum_by_eight(term, n);
    if (k == 0) {
      inverse = is;
      best = error;
      continue;
    }
    const auto better = lane_lt(error, best);
    best = lane_select(better, error, best);
    inverse = lane_select(better, is, inverse);
  }
  F l[max_group], lx[max_group];
  for (std::size_t i = 0; i < n; ++i) {
    const F r = lane_round(inverse * t[i]);
    l[i] = lane_select(lane_gt(r, top), top, r);
    lx[i] = (w[i] * t[i]) * l[i];
    term[i] = (w[i] * l[i]) * l[i];
  }
  const F sx = sum_by_eight(lx, n), s2 = sum_by_eight(term, n);
  const F step = lane_select(lane_gt(s2, zero), sx / s2, max / top);
  for (std::size_t i = 0; i < n; ++i) t[i] = step * l[i];
  return step;
}

/// ggml's fit_positive for auto-round's parameters: t, which is taken as zero where it is negative, becomes code * step. Returns the step.
template <class F>
AR_NOINLINE AR_FN constexpr F sweep_positive(F* t, const F* w, std::size_t n, int N) noexcept {
  F code[max_group];
  for (std::size_t i = 0; i < n; ++i) t[i] = lane_select(lane_gt(t[i], lane_set<F>(0.0f)), t[i], lane_set<F>(0.0f));
  const F step = fit_positive(static_cast<const F*>(t), w, n, N, code);
  for (std::size_t i = 0; i < n; ++i) t[i] = step * code[i];
  return step;
}

/// ggml's fit_symmetric for the scales of a super-block: t becomes code * step, codes -N..N-1. Returns the step.
template <int N, class F>
AR_NOINLINE AR_FN constexpr F fit_signed_weighted(F* t, const F* w, std::size_t n) noexcept {
  const symmetric_fit<F> fit = fit_symmetric(static_cast<const F*>(t), w, n, N);
  for (std::size_t i = 0; i < n; ++i) t[i] = fit.scale * (code_of<N>(fit, t[i]) - lane_set<F>(N));
  return fit.scale;
}

template <class F>
struct scale_and_offset {
  F scale, offset;  ///< x ~ scale * code - offset
};

/// auto-round's iterative_wls_quant_search. Unlike ggml it measures a probe after quantizing again with the fitted scale and minimum, and
/// leaves the last probe out. `v` is null or a rounding offset per element.
template <class F>
AR_NOINLINE AR_FN constexpr scale_and_offset<F> fit_by_least_squares(const F* x, const F* w, const F* v, std::size_t n, int bits,
                                                                     const probe_grid& grid) noexcept {
  const int N = (1 << bits) - 1;
  const F zero = lane_set<F>(0.0f), top = lane_set<F>(static_cast<float>(N));
  F min = x[0], max = x[0];
  for (std::size_t i = 1; i < n; ++i) {
    min = lane_select(lane_lt(x[i], min), x[i], min);
    max = lane_select(lane_gt(x[i], max), x[i], max);
  }
  min = lane_select(lane_lt(min, zero), min, zero);
  struct problem {
    const F *x, *w, *v;
    F zero, top;
    bool absolute;
    AR_FN constexpr F code(std::size_t i, F low, F inverse) const noexcept {
      F q = (x[i] - low) * inverse;
      if (v != nullptr) q = q + v[i];
      return clamp(lane_round(q), zero, top);
    }
  };
  struct error_term {  // quantizes with (low, inverse) and measures with (scale, low)
    const problem* p;
    F low, inverse, scale;
    AR_FN constexpr F at(std::size_t i) const noexcept {
      const F d = (p->code(i, low, inverse) * scale + low) - p->x[i];
      return p->w[i] * (p->absolute ? lane_abs(d) : d * d);
    }
  };
  const problem p{x, w, v, zero, top, grid.absolute};
  F wx[max_group];
  for (std::size_t i = 0; i < n; ++i) wx[i] = w[i] * x[i];
  const F sw = sum_by_eight(w, n), sx = sum_by_eight(wx, n);
  F scale = (max - min) / top;
  F best = sum_by_eight<F>(n, error_term{&p, min, reciprocal_or_zero(scale), scale});
  for (int k = 0; k < grid.steps; ++k) {
    const F probe = (max - min) / lane_set<F>(static_cast<float>(grid.rmin + grid.rdelta * k + N));
    const F inverse = reciprocal_or_zero(probe);
    F sl = zero, sl2 = zero, sxl = zero;
    for (std::size_t j = 0; j < 8; ++j) {
      F q = p.code(j, min, inverse);
      F t = q * w[j], a = t, b = t * q, c = t * x[j];
      for (std::size_t i = j + 8; i < n; i += 8) {
        q = p.code(i, min, inverse);
        t = q * w[i];
        a = a + t;
        b = b + t * q;
        c = c + t * x[i];
      }
      sl = sl + a;
      sl2 = sl2 + b;
      sxl = sxl + c;
    }
    const F det = sw * sl2 - sl * sl;
    F fitted = (sw * sxl - sx * sl) / det;
    F low = (sl2 * sx - sl * sxl) / det;
    const auto positive = lane_gt(low, zero);
    low = lane_select(positive, zero, low);
    fitted = lane_select(positive, sxl / sl2, fitted);
    const F error = sum_by_eight<F>(n, error_term{&p, low, reciprocal_or_zero(fitted), fitted});
    const auto better = lane_and(lane_gt(det, zero), lane_lt(error, best));
    best = lane_select(better, error, best);
    scale = lane_select(better, fitted, scale);
    min = lane_select(better, low, min);
  }
  return {scale, -min};
}

/// auto-round's make_qx_quants: 19 probes for a signed scale. `weight` null means x^2, `v` null means no rounding offset.
template <class F>
AR_NOINLINE AR_FN constexpr F fit_symmetric_weighted(const F* x, const F* weight, const F* v, std::size_t n, int bits) noexcept {
  const int N = 1 << (bits - 1);
  const F zero = lane_set<F>(0.0f), low = lane_set<F>(static_cast<float>(-N)), high = lane_set<F>(static_cast<float>(N - 1));
  const F max = first_extreme(x, n).value;
  F w[max_group], wx[max_group];
  for (std::size_t i = 0; i < n; ++i) {
    w[i] = weight != nullptr ? weight[i] : x[i] * x[i];
    wx[i] = w[i] * x[i];
  }
  F scale = zero, best = zero;
  for (int probe = 0; probe < 19; ++probe) {
    const int k = probe == 0 ? 0 : probe < 10 ? probe - 10 : probe - 9;
    const F inverse =
        k == 0 ? low * reciprocal_or_zero(max) : (lane_set<F>(1.0f) / max) * lane_set<F>(static_cast<float>(-(N - 0.1 * k)));
    F lx[max_group], l2[max_group];
    for (std::size_t i = 0; i < n; ++i) {
      F q = x[i] * inverse;
      if (v != nullptr) q = q + v[i];
      q = clamp(lane_round(q), low, high);
      lx[i] = wx[i] * q;
      l2[i] = (w[i] * q) * q;
    }
    const F sx = sum_by_eight(lx, n), s2 = sum_by_eight(l2, n);
    if (k == 0) {
      scale = sx * reciprocal_or_zero(s2);
      best = scale * sx;
      continue;
    }
    const auto better = lane_and(lane_gt(s2, zero), lane_gt(sx * sx, best * s2));
    scale = lane_select(better, sx / s2, scale);
    best = lane_select(better, scale * sx, best);
  }
  return scale;
}

/// auto-round's make_q3_quants for 16 groups of 16: as fit_q3, with other sums and another rounding; the offset v enters the start only.
template <class F>
AR_NOINLINE AR_FN constexpr void fit_q3_sweeps(const F* x, const F* v, F* scale) noexcept {
  const F low = lane_set<F>(-4.0f), high = lane_set<F>(3.0f);
  struct round_even {
    AR_FN constexpr F of(F t) const noexcept { return lane_round(t); }
  };
  for (std::size_t g = 0; g < 16; ++g) {
    const F* xs = x + 16 * g;
    const F inverse = low * reciprocal_or_zero(first_extreme(xs, 16).value);
    F l[16], lx[16], l2[16];
    for (std::size_t i = 0; i < 16; ++i) {
      F q = inverse * xs[i];
      if (v != nullptr) q = q + v[16 * g + i];
      l[i] = clamp(lane_round(q), low, high);
      const F w = xs[i] * xs[i];
      lx[i] = (w * xs[i]) * l[i];
      l2[i] = (w * l[i]) * l[i];
    }
    F sx = sum_by_eight(static_cast<const F*>(lx), 16), s2 = sum_by_eight(static_cast<const F*>(l2), 16);
    // The original always makes five passes; one that moves nothing repeats itself, so stopping there changes nothing.
    improve_codes<false>(xs, 16, square_weight<F>{xs}, round_even{}, -4.0f, 3.0f, l, sx, s2);
    scale[g] = sx * reciprocal_or_zero(s2);
  }
}

/// What stands for the importance of a group when there is none: |x|, for more than 3 bits plus the root of the mean square (over 32, also for
/// groups of 16).
template <class F>
AR_NOINLINE AR_FN constexpr void own_importance(const F* x, std::size_t n, int bits, F* w) noexcept {
  for (std::size_t i = 0; i < n; ++i) w[i] = lane_abs(x[i]);
  if (bits <= 3) return;
  const F level = lane_sqrt(sum_by_eight<F>(n, square_term<F>{x}) / lane_set<F>(32.0f));
  for (std::size_t i = 0; i < n; ++i) w[i] = w[i] + level;
}

/// Repairs the importance w of a group with zeros in it: a group with too many of them (or nothing else: the original then divides 0 by 0) falls
/// back to own_importance; other zeros become the mean of the rest. `fill` says whether any group of the row has few enough zeros to be filled.
template <class F>
AR_NOINLINE AR_FN constexpr void repair_importance(const F* x, std::size_t n, int bits, bool fill, F* w) noexcept {
  const float limit = bits == 2 ? 8.0f : 16.0f;
  const F zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f);
  F zeros = zero;
  for (std::size_t i = 0; i < n; ++i) zeros = zeros + lane_select(lane_le(w[i], lane_set<F>(1e-30f)), one, zero);
  const auto dead = lane_eq(zeros, lane_set<F>(static_cast<float>(n)));
  const auto replace = lane_or(lane_gt(zeros, lane_set<F>(limit)), dead);
  F own[max_group];
  own_importance(x, n, bits, own);
  for (std::size_t i = 0; i < n; ++i) w[i] = lane_select(replace, own[i], w[i]);
  if (!fill) return;
  const F sum = sum_by_eight(w, n), mean = sum / (lane_set<F>(static_cast<float>(n)) - zeros);
  // In a dead group of zeros the mean is 0/0. The scales of an asymmetric super-block then fall back to plain rounding (no probe is better than
  // NaN), which is what the original does; where NaN would reach the output (symmetric types, infinite means) zeros stay.
  const bool asymmetric = bits == 2 || bits == 4 || bits == 5;
  const auto usable = asymmetric ? lane_or(lane_not(dead), lane_eq(sum, zero)) : lane_not(dead);
  for (std::size_t i = 0; i < n; ++i) w[i] = lane_select(lane_and(lane_eq(w[i], zero), usable), mean, w[i]);
}

/// auto-round's parameters of one super-block, or of one block of 32 (one group; d_* unused).
template <std::size_t groups, class F>
struct group_parameters {
  F scale[groups], offset[groups];
  F d_scale, d_offset;
};

/// How auto-round's parameters are found, beyond the data: what a driver knows of the whole row of importances, and the variant of the original.
struct search_rule {
  bool repair = false;      ///< the row of importances has a zero somewhere
  bool fill = false;        ///< and a group with few enough zeros to be filled with the mean of the others
  bool bf16 = false;        ///< Q4_1, Q5_1: round as the original does for bfloat16 weights
  bool reciprocal = false;  ///< Q4_1, Q5_1: the original's OPT-RTN variant, which multiplies by 1 / scale
  bool magnitude = false;   ///< importances count times sqrt(sigma + x^2), and the scales of a super-block go through ggml's sweeps
};

}  // namespace gguf

AR_END_TARGET
#endif
