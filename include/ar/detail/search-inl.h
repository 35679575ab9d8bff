// The searches for better group parameters (OPT-RTN, NeUQI), each written once over a lane type, and the driver that they share with the forward
// of tuned layers. The lanes of F hold candidates for the same group: every sum then runs in the reference's order, whatever the number of lanes
// is, and groups may be of any length. With F = float it is the reference and works in constant expressions.
// Source: auto-round 0.16.1, data_type/{int,mxfp,nvfp}.py; data-types.md sections 4 to 7.
#if defined(AR_DETAIL_SEARCH_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_SEARCH_INL_H
#else
#define AR_DETAIL_SEARCH_INL_H
#endif

#include "ar/detail/cascade-inl.h"
#include "ar/detail/importance.hpp"
#include "ar/detail/neuqi_grid.hpp"
#include "ar/detail/rows-inl.h"
#include "ar/detail/scaled_type-inl.h"
#include "ar/detail/search_types.hpp"

AR_BEGIN_TARGET
namespace searches {

using detail::group_data;

/// The best candidate so far. Of equally good ones the first stays.
struct winner {
  float loss, value, extra;
};

/// Looks at the lanes in their order, as many of them as `here` says.
template <class F>
AR_FN constexpr void keep_best(F loss, F value, F extra, std::size_t here, winner& best) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  float l[lanes] = {}, v[lanes] = {}, e[lanes] = {};
  lane_store(loss, l);
  lane_store(value, v);
  lane_store(extra, e);
  for (std::size_t k = 0; k < lanes && k < here; ++k)
    if (l[k] < best.loss) best = {l[k], v[k], e[k]};
}

/// Squared errors of a group, weighted with its importance if there is one.
struct weighting {
  const group_data& group;
  template <class F>
  AR_FN constexpr F operator()(std::size_t i, F error) const noexcept {
    const F square = error * error;
    return group.column == nullptr ? square : square * lane_set<F>(group.importance(i));
  }
};

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Symmetric integers: the inverse scale

template <class F, real R>
struct signed_terms {
  static constexpr std::size_t count = 1;
  const group_data& group;
  F inverse, scale, lowest, highest;
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t i, F* sum) const noexcept {
    const F w = lane_set<F>(group.weight(i));
    const F code = lane_min(lane_max(lane_round(lane_round_to<R>(inverse * w)), lowest), highest);
    sum[0] = sum[0] + weighting{group}(i, lane_round_to<R>(lane_round_to<R>(scale * code) - w));
  }
};

/// 1 / x in the format R, and 0 where x is too small for that.
template <real R, class F>
AR_FN constexpr F guarded_inverse(F x) noexcept {
  const F least = lane_set<F>(R == real::f16 ? scale_threshold(real::f16) : R == real::bf16 ? round_to_bf16(1e-30f) : 1e-30f);
  return lane_select(lane_ge(lane_abs(x), least), lane_round_to<R>(lane_set<F>(1.0f) / x), lane_set<F>(0.0f));
}

/// The numerators to try over the extreme weight: -n first, then the others in ascending order of how far they are from zero.
struct numerators {
  static constexpr std::size_t most = 256;
  float value[most] = {};
  std::size_t count = 1;
  AR_FN constexpr numerators(int bits, double ratio) noexcept {
    const double n = static_cast<double>(1 << (bits - 1));
    const double step = bits == 2 ? 0.01 : n * ratio / 200.0 * 2.0;
    const int reach = bits == 2 ? 90 : static_cast<int>(n * ratio / step);
    value[0] = static_cast<float>(-n);
    for (int i = -reach; i <= reach; ++i)
      if (i != 0) value[count++] = static_cast<float>(-(n - step * i));
  }
};

/// The scale with the least error, in the arithmetic of R; `limit`: candidates beyond are not taken.
template <class F, real R>
AR_NOINLINE AR_FN constexpr float signed_scale(const group_data& g, int bits, const numerators& tries, real limit) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  float extreme = 0.0f;
  for (std::size_t i = 0; i < g.here; ++i)
    if (lane_abs(g.w[i]) > lane_abs(extreme)) extreme = g.w[i];
  const float n = static_cast<float>(1 << (bits - 1)), r = guarded_inverse<R>(extreme);
  winner best{detail::infinity, 0.0f, 0.0f};
  for (std::size_t at = 0; at < tries.count; at += lanes) {
    signed_terms<F, R> terms{g, lane_round_to<R>(lane_load<F>(tries.value + at) * lane_set<F>(r)), lane_set<F>(0.0f), lane_set<F>(-n),
                             lane_set<F>(n - 1.0f)};
    terms.scale = guarded_inverse<R>(terms.inverse);
    F loss;
    sum_as_row(terms, g.size, &loss);
    if (R != limit) {
      const auto fits = lane_le(lane_abs(lane_round_to(limit, terms.scale)), lane_set<F>(0x1.fffffep127f));
      loss = lane_select(fits, loss, lane_set<F>(detail::infinity));
    }
    if (at == 0) {
      // The first candidate stands also where its error is infinite or NaN; nothing is better than NaN.
      float l[lanes] = {}, s[lanes] = {};
      lane_store(loss, l);
      lane_store(terms.scale, s);
      best = {l[0], s[0], 0.0f};
    }
    keep_best(loss, terms.scale, loss, tries.count - at, best);
  }
  return best.value;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// NeUQI: fractions of the range's scale, coarse and then fine

/// Runs Search::look(fraction lanes, how many, best) over the coarse grid and between the neighbors of its winner; best.value is the fraction.
template <class F, class Search>
AR_FN constexpr winner coarse_to_fine(const float* grid, int fine, const Search& search) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>), count = detail::neuqi_coarse;
  winner best{detail::infinity, 1.0f, 0.0f};
  for (std::size_t at = 0; at < count; at += lanes) search.look(lane_load<F>(grid + at), lanes, best);
  std::size_t j = 0;
  for (std::size_t k = 1; k < count; ++k)
    if (lane_abs(grid[k] - best.value) < lane_abs(grid[j] - best.value)) j = k;
  const float a = grid[j == 0 ? 0 : j - 1], b = grid[j + 1 < count ? j + 1 : count - 1];
  for (int t = 1; t <= fine; t += static_cast<int>(lanes)) {
    float f[lanes] = {};
    for (std::size_t k = 0; k < lanes; ++k) {
      const float u = static_cast<float>(t + static_cast<int>(k)) / static_cast<float>(fine + 1);
      f[k] = a * (1.0f - u) + b * u;
    }
    search.look(lane_load<F>(f), static_cast<std::size_t>(fine - t + 1), best);
  }
  return best;
}

template <class F, std::size_t Zeros>
struct zero_terms {
  static constexpr std::size_t count = Zeros;
  const group_data& group;
  F scale;
  float top, first;
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t i, F* sum) const noexcept {
    const F w = lane_set<F>(group.weight(i)), limit = lane_set<F>(top), zero = lane_set<F>(0.0f);
    const F r = lane_min(lane_max(lane_round(w / scale), lane_set<F>(-top - 1.0f)), lane_set<F>(2.0f * top + 1.0f));
    for (std::size_t z = 0; z < Zeros; ++z) {
      const F point = lane_set<F>(first + static_cast<float>(z));
      const F code = lane_min(lane_max(r + point, zero), limit);
      sum[z * Stride] = sum[z * Stride] + weighting{group}(i, scale * (code - point) - w);
    }
  }
};

template <class F>
struct zero_point_search {
  const group_data& group;
  float scale;  ///< of the range
  int bits;

  template <std::size_t Zeros>
  AR_FN constexpr void try_zeros(F s, F& loss, F& point) const noexcept {
    const std::size_t columns = std::size_t{1} << bits;
    for (std::size_t first = 0; first < columns; first += Zeros) {
      F sum[Zeros];
      sum_as_column(zero_terms<F, Zeros>{group, s, static_cast<float>(columns - 1), static_cast<float>(first)}, group.size, first, columns, sum);
      for (std::size_t z = 0; z < Zeros; ++z) {
        const auto better = lane_lt(sum[z], loss);
        loss = lane_select(better, sum[z], loss);
        point = lane_select(better, lane_set<F>(static_cast<float>(first + z)), point);
      }
    }
  }
  AR_FN constexpr void look(F fraction, std::size_t here, winner& best) const noexcept {
    const F s = lane_set<F>(scale) * fraction;
    F loss = lane_set<F>(detail::infinity), point = lane_set<F>(0.0f);
    if (bits == 1) {
      try_zeros<2>(s, loss, point);
    } else if (bits == 2) {
      try_zeros<4>(s, loss, point);
    } else {
      try_zeros<8>(s, loss, point);
    }
    keep_best(loss, fraction, point, here, best);
  }
};

/// Fraction (value) and zero point (extra) with the least error for a group whose scale by its range is `scale`.
template <class F>
AR_NOINLINE AR_FN constexpr winner best_zero_point(const group_data& g, float scale, int bits, int fine) noexcept {
  return coarse_to_fine<F>(detail::neuqi_grid(bits, false), fine, zero_point_search<F>{g, scale, bits});
}

template <class F>
struct mirrored_terms {
  static constexpr std::size_t count = 2;  ///< codes -n .. n-1, and the same with the signs turned
  const group_data& group;
  F scale;
  float n;
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t i, F* sum) const noexcept {
    const F w = lane_set<F>(group.weight(i)), r = lane_round(w / scale), low = lane_set<F>(-n), high = lane_set<F>(n), one = lane_set<F>(1.0f);
    sum[0] = sum[0] + weighting{group}(i, lane_min(lane_max(r, low), high - one) * scale - w);
    sum[Stride] = sum[Stride] + weighting{group}(i, lane_min(lane_max(r, low + one), high) * scale - w);
  }
};

template <class F>
struct mirrored_search {
  const group_data& group;
  float scale;
  int bits;
  AR_FN constexpr void look(F fraction, std::size_t here, winner& best) const noexcept {
    F sum[2];
    sum_as_row(mirrored_terms<F>{group, lane_set<F>(scale) * fraction, static_cast<float>(1 << (bits - 1))}, group.size, sum);
    const auto turned = lane_lt(sum[1], sum[0]);
    keep_best(lane_select(turned, sum[1], sum[0]), fraction, lane_select(turned, lane_set<F>(-1.0f), lane_set<F>(1.0f)), here, best);
  }
};

/// Fraction (value) and sign of the scale (extra).
template <class F>
AR_NOINLINE AR_FN constexpr winner best_mirrored(const group_data& g, float scale, int bits, int fine) noexcept {
  return coarse_to_fine<F>(detail::neuqi_grid(bits, true), fine, mirrored_search<F>{g, scale, bits});
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Small floats under a scale: factors of the range

template <class F>
struct scaled_terms {
  static constexpr std::size_t count = 1;
  const group_data& group;
  const any_scaled& type;
  any_scaled::params<F> p;
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t i, F* sum) const noexcept {
    const F w = lane_set<F>(group.weight(i));
    sum[0] = sum[0] + weighting{group}(i, type.decode(type.encode(w, p), p) - w);
  }
};

/// The factors to try, the plain range first.
struct factors {
  static constexpr std::size_t most = 128;
  float value[most] = {};
  std::size_t count = 0;
  AR_FN constexpr explicit factors(search_family family) noexcept {
    value[count++] = 1.0f;
    if (family == search_family::halves) {
      value[count++] = 0.5f;
      value[count++] = 2.0f;
    } else {
      for (int k = 50; k <= 151; ++k)
        if (k != 100) value[count++] = static_cast<float>(k / 100.0);
    }
  }
};

/// The factor with the least error for a group whose largest magnitude is `largest`. `type` does not round its results.
template <class F>
AR_NOINLINE AR_FN constexpr float best_factor(const any_scaled& type, const group_data& g, float largest, const factors& tries) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  winner best{detail::infinity, 1.0f, 0.0f};
  for (std::size_t at = 0; at < tries.count; at += lanes) {
    const F factor = lane_load<F>(tries.value + at);
    const scaled_terms<F> terms{g, type, type.from_range(lane_set<F>(0.0f), lane_set<F>(largest) * factor)};
    F loss;
    sum_as_row(terms, g.size, &loss);
    keep_best(loss, factor, loss, tries.count - at, best);
  }
  return best.value;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Data types

template <class T>
inline constexpr bool is_scaled = requires(const T& t) { t.facts(); };

/// The search of a type; the reference has none for FP8.
template <class T>
constexpr search_family family_of(const T& t, bool reference) noexcept {
  if constexpr (is_scaled<T>) {
    return reference && t.facts().rule == scale_rule::quotient ? search_family::none : t.facts().search;
  } else if constexpr (requires { T::search; }) {
    return T::search;
  } else {
    return search_family::none;
  }
}

/// The same type with its facts as numbers.
template <class T>
constexpr any_scaled as_any(const T& t) noexcept {
  any_scaled a;
  a.the_facts = t.facts();
  a.the_tensor = t.tensor();
  return a;
}

template <class T>
using params = typename T::template params<float>;

/// Parameters of one group, and what the search multiplied the range with.
template <class T>
struct fitted {
  params<T> p;
  float factor = 1.0f;
};

/// Fits groups by search. Made once per call: whatever all groups share is in here.
template <class T, class V>
struct search_fitter {
  const T& type;
  const search_options& how;
  search_family family;
  detail::importance_repair repair;
  numerators tries;
  factors multiples;
  any_scaled plain{};  ///< of scaled types: as float weights have it

  constexpr search_fitter(const T& t, const search_options& options, const detail::importance_repair& r, float tensor_maximum) noexcept
      : type(t), how(options), family(family_of(t, options.reference)), repair(r), tries(t.bits() < 1 ? 1 : t.bits(), options.scale_ratio), multiples(family) {
    if constexpr (is_scaled<T>) {
      plain = as_any(t);
      plain.the_facts.weight = real::f32;
      if (plain.the_facts.two_level() && (how.reference || plain.the_tensor.unset()))
        plain.the_tensor = {.maximum = tensor_maximum, .global_scale = -1.0f};
    }
  }

  /// The format in which the reference holds the weights when it repairs importances.
  constexpr real weight_format() const noexcept {
    if constexpr (is_scaled<T>) return family == search_family::halves ? real::f32 : type.facts().weight;
    return T::weight_format;
  }

  constexpr fitted<T> operator()(group_data g, rows::extrema e, std::size_t, std::size_t) const noexcept {
    if (how.importance != nullptr && how.repair) repair.apply(g, type.bits(), weight_format());
    if constexpr (is_scaled<T>) {
      if (family != search_family::none) {
        const float factor = best_factor<V>(plain, g, lane_max(-e.lo, e.hi), multiples);
        return {type.from_range(e.lo * factor, e.hi * factor), factor};
      }
    } else if constexpr (requires { requires T::search == search_family::signed_scale; }) {
      const float least = how.least_scale > 0.0f ? lane_round_to(T::scale_format, how.least_scale) : scale_threshold(T::scale_format);
      if (how.neuqi) {
        const float threshold = how.least_scale > 0.0f ? how.least_scale : T::scale_format == real::f32 ? 1e-8f : 1e-5f;
        const float base = lane_max(lane_max(-e.lo, e.hi) / static_cast<float>(1 << (type.bits() - 1)), threshold);
        const winner best = best_mirrored<V>(g, base, type.bits(), how.neuqi_fine);
        const float s = best.value * base;
        return {type.from_scale(best.extra < 0.0f ? lane_min(-s, -threshold) : lane_max(s, threshold), least)};
      }
      const float s = how.reference ? signed_scale<V, T::weight_format>(g, type.bits(), tries, T::weight_format)
                                    : signed_scale<V, real::f32>(g, type.bits(), tries, T::scale_format);
      return {type.from_scale(s, least)};
    } else if constexpr (requires { requires T::search == search_family::zero_point; }) {
      if (how.neuqi) {
        const float least = how.least_scale > 0.0f ? lane_round_to(T::scale_format, how.least_scale) : scale_threshold(T::scale_format);
        const float threshold = how.least_scale > 0.0f ? how.least_scale : T::scale_format == real::f32 ? 1e-8f : 1e-5f;
        const float base = lane_max((e.hi - e.lo) / type.max_code(), threshold);
        const winner best = best_zero_point<V>(g, base, type.bits(), how.neuqi_fine);
        return {{lane_max(lane_round_to(T::scale_format, lane_max(best.value * base, threshold)), least), best.extra}};
      }
    }
    return {type.from_range(e.lo, e.hi)};
  }
};

/// The scaled type of a tuned layer: factors are float tensors, so that nothing about its scale is rounded to the format of the weights.
template <class T>
constexpr auto tuned_type(const T& t) noexcept {
  if constexpr (is_scaled<T>) {
    any_scaled a = as_any(t);
    if (a.the_facts.rule == scale_rule::quotient && a.the_facts.scale != real::f32) {
      a.the_facts.scale = a.the_facts.quotient = real::f32;
      a.the_facts.least = a.the_facts.float_least;
    }
    return a;
  } else {
    return t;
  }
}

/// Groups with given factors.
template <class T>
struct tuned_fitter {
  const T& type;
  const tuned_values& values;

  static constexpr float at(matrix_view<const float> m, std::size_t r, std::size_t c) noexcept { return m.data == nullptr ? 1.0f : m(r, c); }

  constexpr fitted<T> operator()(const group_data&, rows::extrema e, std::size_t r, std::size_t c) const noexcept {
    const float high = at(values.max_scale, r, c);
    if constexpr (is_scaled<T>) {
      const float factor = high * at(values.init_scale, r, c);
      T t = type;
      float largest = lane_max(-e.lo, e.hi);
      if (!t.facts().two_level() && t.the_tensor.maximum >= 0.0f) largest = t.the_tensor.maximum;
      if (!t.facts().two_level()) t.the_tensor = {};
      return {t.from_range(0.0f, largest * factor), factor};
    } else {
      if constexpr (requires { type.from_scale(high, high); }) {
        if (values.init_scale.data != nullptr) return {type.from_scale(values.init_scale(r, c) * high)};
      }
      if (values.min_scale.data == nullptr && values.max_scale.data == nullptr) return {type.from_range(e.lo, e.hi)};
      return {type.template from_range<real::f32>(e.lo * at(values.min_scale, r, c), e.hi * high)};
    }
  }
};

/// One group in one row with rounding offsets, null for none. Zeros then come from the straight-through rounding of the reference.
template <rows::action A, class T, class V>
constexpr void offset_elements(const T t, const rows::param_array<float, rows::param_count<T>>& a, const float* w, const float* v, std::uint8_t* code,
                               float* out, std::size_t n) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  const typename T::template params<V> p = rows::broadcast<T, V>(a);
  std::size_t i = 0;
  for (; i + step <= n; i += step) {
    const V x = t.encode(lane_load<V>(w + i), v == nullptr ? lane_set<V>(0.0f) : lane_load<V>(v + i), p);
    if constexpr (A == rows::action::encode) lane_store_code(rows::code_of(t, x), code + i);
    if constexpr (A == rows::action::qdq) lane_store(t.decode(x, p), out + i);
  }
  if constexpr (step > 1) {
    const params<T> s = rows::to_params<T, float>(a);
    for (; i < n; ++i) {
      const float x = t.encode(w[i], v == nullptr ? 0.0f : v[i], s);
      if constexpr (A == rows::action::encode) lane_store_code(rows::code_of(t, x), code + i);
      if constexpr (A == rows::action::qdq) out[i] = t.decode(x, s);
    }
  }
}

/// Fits every group of w with `fit` and writes what the caller wants. `Tuned`: with rounding offsets, if there are any.
template <bool Tuned, class T, class V, class Fitter>
constexpr void write_groups(const T& t, matrix_view<const float> w, const shapes::cells& cells, const Fitter& fit, const float* importance,
                            std::size_t columns, matrix_view<const float> v, const group_output& out) noexcept {
  for (std::size_t first = 0, band = 0; first < w.rows; first += cells.rows, ++band) {
    const std::size_t last = w.rows - first < cells.rows ? w.rows : first + cells.rows;
    for (std::size_t at = 0, group = 0; at < w.cols; at += cells.cols, ++group) {
      const std::size_t n = w.cols - at < cells.cols ? w.cols - at : cells.cols;
      rows::extrema e;
      for (std::size_t r = first; r < last; ++r) {
        const rows::extrema row = rows::range_of<V>(w.row(r) + at, n);
        e.lo = lane_min(e.lo, row.lo);
        e.hi = lane_max(e.hi, row.hi);
      }
      group_data g;
      g.w = w.row(first) + at;
      g.here = n;
      g.size = cells.cols;
      g.first = at;
      g.columns = columns;
      g.column = importance;
      const fitted<T> f = fit(g, e, band, group);
      const auto a = rows::to_array<T, float>(f.p);
      if (out.scale.data != nullptr) out.scale(band, group) = a.v[0];
      if constexpr (rows::has_zero_point<T>) {
        if (out.zero_point.data != nullptr) out.zero_point(band, group) = a.v[1];
      }
      if (out.factor.data != nullptr) out.factor(band, group) = f.factor;
      for (std::size_t r = first; r < last; ++r) {
        const float* row = w.row(r) + at;
        if constexpr (Tuned) {
          const float* offset = v.data == nullptr ? nullptr : v.row(r) + at;
          if (out.code.data != nullptr) offset_elements<rows::action::encode, T, V>(t, a, row, offset, out.code.row(r) + at, nullptr, n);
          if (out.weight.data != nullptr) offset_elements<rows::action::qdq, T, V>(t, a, row, offset, nullptr, out.weight.row(r) + at, n);
        } else {
          if (out.code.data != nullptr) rows::elements<rows::action::encode, T, V>(t, a, row, out.code.row(r) + at, nullptr, n);
          if (out.weight.data != nullptr) rows::elements<rows::action::qdq, T, V>(t, a, row, nullptr, out.weight.row(r) + at, n);
        }
      }
    }
  }
}

/// Shapes of everything, with the matrix of a tensor-wide group turned into one row.
[[nodiscard]] constexpr errc check_output(group_shape group, matrix_view<const float>& w, bool zero_point, group_output& out,
                                          shapes::cells& cells) noexcept {
  if (out.code.data != nullptr) {
    matrix_view<const float> same = w;
    if (const errc e = shapes::grouped(group, same, out.code, cells); e != errc::ok) return e;
  }
  if (out.weight.data != nullptr) {
    matrix_view<const float> same = w;
    if (const errc e = shapes::grouped(group, same, out.weight, cells); e != errc::ok) return e;
  }
  if (const errc e = shapes::grouped(group, w, cells); e != errc::ok) return e;
  for (const matrix_view<float>& m : {out.scale, zero_point ? out.zero_point : matrix_view<float>{}, out.factor})
    if (m.data != nullptr)
      if (const errc e = shapes::parameter_shapes(w.rows, w.cols, cells, false, m, m); e != errc::ok) return e;
  return errc::ok;
}

constexpr bool in_range(const search_options& how) noexcept {
  return how.neuqi_fine >= 1 && how.neuqi_fine <= 256 && how.scale_ratio > 0.0 && how.scale_ratio <= 1.0 && how.least_scale >= 0.0f &&
         how.least_scale <= 1.0f;
}

template <RangeType T, class V>
[[nodiscard]] constexpr errc search(T t, group_shape group, matrix_view<const float> w, const search_options& how, group_output out) noexcept {
  if (!t.valid() || !in_range(how)) return errc::bad_value;
  if ((out.scale.data != nullptr || out.code.data != nullptr) && !rows::usable_type(t)) return errc::bad_value;
  if (how.reference && family_of(t, true) == search_family::signed_scale && !how.neuqi && T::weight_format != T::scale_format) return errc::bad_value;
  if (family_of(t, how.reference) != search_family::none && group.rows != 1) return errc::unsupported;
  const std::size_t columns = w.cols, matrix_rows = w.rows;
  shapes::cells cells;
  if (const errc e = check_output(group, w, rows::has_zero_point<T>, out, cells); e != errc::ok) return e;
  if (how.importance != nullptr)
    for (std::size_t i = 0; i < columns; ++i)
      if (!(how.importance[i] >= 0.0f && how.importance[i] <= 0x1.fffffep127f)) return errc::bad_value;
  float largest = 0.0f;
  if constexpr (is_scaled<T>) {
    rows::extrema all;
    if (!rows::finite_range<V>(w, all)) return errc::non_finite;
    largest = lane_max(-all.lo, all.hi);
  }
  if (const errc e = rows::check_weights<T, V>(t, w, cells); e != errc::ok) return e;
  const float* importance = w.rows == 0 || columns == 0 ? nullptr : how.importance;
  const detail::importance_repair repair(importance, importance == nullptr ? 0 : columns, group.size, cells.cols, group.size == 0 ? matrix_rows : 1,
                                         how.reference);
  write_groups<false, T, V>(t, w, cells, search_fitter<T, V>(t, how, repair, largest), importance, columns, {}, out);
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard]] constexpr errc quantize_tuned(const T& given, group_shape group, matrix_view<const float> w, const tuned_values& values,
                                            group_output out) noexcept {
  auto t = tuned_type(given);
  using U = decltype(t);
  if (!t.valid()) return errc::bad_value;
  if ((out.scale.data != nullptr || out.code.data != nullptr) && !rows::usable_type(t)) return errc::bad_value;
  matrix_view<const float> v = values.v, same = w;
  shapes::cells cells;
  if (v.data != nullptr)
    if (const errc e = shapes::grouped(group, same, v, cells); e != errc::ok) return e;
  if (const errc e = check_output(group, w, rows::has_zero_point<U>, out, cells); e != errc::ok) return e;
  for (const matrix_view<const float>& m : {values.min_scale, values.max_scale, values.init_scale})
    if (m.data != nullptr) {
      if (const errc e = shapes::parameter_shapes(w.rows, w.cols, cells, false, m, m); e != errc::ok) return e;
      if (!rows::usable(m, false)) return errc::bad_value;
    }
  if (v.data != nullptr && !rows::usable(v, false)) return errc::bad_value;
  if (const errc e = rows::check_weights<U, V>(t, w, cells); e != errc::ok) return e;
  write_groups<true, U, V>(t, w, cells, tuned_fitter<U>{t, values}, nullptr, w.cols, v, out);
  return errc::ok;
}

}  // namespace searches
AR_END_TARGET
#endif
