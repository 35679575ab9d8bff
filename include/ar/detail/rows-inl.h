// The row loops: they take a data type's mathematics along the rows of a matrix, for a lane type V and with the float lane for what is left
// over. One text serves constant expressions (V = float) and every SIMD target. Loads stay inside the rows. Block types: block_rows-inl.h.
#if defined(AR_DETAIL_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_ROWS_INL_H
#else
#define AR_DETAIL_ROWS_INL_H
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ar/detail/concepts.hpp"
#include "ar/detail/lane_traits-inl.h"
#include "ar/detail/shapes.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

AR_BEGIN_TARGET
namespace rows {

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Group parameters as plain numbers

/// How many numbers a group or block has beside its codes.
template <class T>
inline constexpr std::size_t param_count = sizeof(typename T::template params<float>) / sizeof(float);

template <class F, std::size_t N>
struct param_array {
  F v[N];
};

// std::bit_cast would be a call out of the target's region, with another way to pass vectors.
template <class T, class F>
constexpr param_array<F, param_count<T>> to_array(const typename T::template params<F>& p) noexcept {
  using array = param_array<F, param_count<T>>;
  return __builtin_bit_cast(array, p);
}
template <class T, class F>
constexpr typename T::template params<F> to_params(const param_array<F, param_count<T>>& a) noexcept {
  return __builtin_bit_cast(typename T::template params<F>, a);
}

template <class T, class V>
constexpr typename T::template params<V> broadcast(const param_array<float, param_count<T>>& a) noexcept {
  param_array<V, param_count<T>> b{};
  for (std::size_t k = 0; k < param_count<T>; ++k) b.v[k] = lane_set<V>(a.v[k]);
  return to_params<T, V>(b);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Scans

struct extrema {
  float lo = 0.0f, hi = 0.0f;  ///< include zero
};

/// Neither NaN nor infinity.
constexpr bool is_finite(float x) noexcept { return (std::bit_cast<std::uint32_t>(x) << 1) < 0xFF000000u; }

/// Smallest and largest of w[0..n) and zero. Exact, so the order does not matter; NaN is not seen.
template <class V>
constexpr extrema range_of(const float* w, std::size_t n) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  const V zero = lane_set<V>(0.0f);
  extrema r;
  std::size_t i = 0;
  if (n >= step) {
    V lo0 = zero, hi0 = zero, lo1 = zero, hi1 = zero;
    for (; i + 2 * step <= n; i += 2 * step) {
      const V x = lane_load<V>(w + i), y = lane_load<V>(w + i + step);
      lo0 = lane_min(lo0, x);
      hi0 = lane_max(hi0, x);
      lo1 = lane_min(lo1, y);
      hi1 = lane_max(hi1, y);
    }
    if (i + step <= n) {
      const V x = lane_load<V>(w + i);
      lo0 = lane_min(lo0, x);
      hi0 = lane_max(hi0, x);
      i += step;
    }
    r.lo = lane_reduce_min(lane_min(lo0, lo1));
    r.hi = lane_reduce_max(lane_max(hi0, hi1));
  }
  if constexpr (step > 1) {
    for (; i < n; ++i) {
      r.lo = lane_min(r.lo, w[i]);
      r.hi = lane_max(r.hi, w[i]);
    }
  }
  return r;
}

/// As range_of over a whole matrix; false if it holds NaN or infinity.
template <class V>
[[nodiscard, gnu::noinline]] constexpr bool finite_range(matrix_view<const float> w, extrema& out) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  const float limit = 0x1.fffffep127f;
  V lo = lane_set<V>(0.0f), hi = lo, odd = lo;
  float slo = 0.0f, shi = 0.0f;
  bool nan = false;
  const V one = lane_set<V>(1.0f);
  for (std::size_t r = 0; r < w.rows; ++r) {
    const float* p = w.row(r);
    std::size_t i = 0;
    for (; i + step <= w.cols; i += step) {
      const V x = lane_load<V>(p + i);
      lo = lane_min(lo, x);
      hi = lane_max(hi, x);
      odd = lane_select(lane_eq(x, x), odd, one);
    }
    if constexpr (step > 1) {
      for (; i < w.cols; ++i) {
        slo = lane_min(slo, p[i]);
        shi = lane_max(shi, p[i]);
        nan = nan || !(p[i] == p[i]);
      }
    }
  }
  out.lo = lane_min(slo, lane_reduce_min(lo));
  out.hi = lane_max(shi, lane_reduce_max(hi));
  return !nan && lane_reduce_max(odd) == 0.0f && out.lo >= -limit && out.hi <= limit;
}

/// True if every number of the matrix is finite and, where asked, not zero.
constexpr bool usable(matrix_view<const float> m, bool nonzero) noexcept {
  for (std::size_t r = 0; r < m.rows; ++r)
    for (std::size_t c = 0; c < m.cols; ++c)
      if (!is_finite(m(r, c)) || (nonzero && m(r, c) == 0.0f)) return false;
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Range types: parameters from the extrema of a group

//// What to do with a group once its parameters are known.
enum class action { fit, encode, decode, qdq };

/// Codes are read by decode and written by the others.
template <action A>
using code_pointer = std::conditional_t<A == action::decode, const std::uint8_t*, std::uint8_t*>;

/// How many of a group's numbers are stored beside its codes: the scale, then the zero point if there is one.
template <class T>
constexpr std::size_t stored_count() noexcept {
  if constexpr (requires { T::stored_params; }) {
    return T::stored_params;
  } else {
    return param_count<T>;
  }
}
template <class T>
inline constexpr bool has_zero_point = stored_count<T>() > 1;

/// False if a scale of 0 makes no sense.
template <class T>
constexpr bool zero_scale() noexcept {
  if constexpr (requires { T::zero_scale; }) {
    return T::zero_scale;
  } else {
    return false;
  }
}

template <class T, class F>
constexpr F code_of(const T& t, F value) noexcept {
  if constexpr (requires { t.to_code(value); }) {
    return t.to_code(value);
  } else {
    return value + lane_set<F>(static_cast<float>(t.code_offset()));
  }
}
template <class T, class F>
constexpr F value_of(const T& t, F code) noexcept {
  if constexpr (requires { t.from_code(code); }) {
    return t.from_code(code);
  } else {
    return code - lane_set<F>(static_cast<float>(t.code_offset()));
  }
}
template <class T, class F>
constexpr F fake(const T& t, F w, const typename T::template params<F>& p) noexcept {
  if constexpr (requires { t.qdq(w, p); }) {
    return t.qdq(w, p);
  } else {
    return t.decode(t.encode(w, p), p);
  }
}

/// One group in one row. The type is a copy: stores cannot change it, so that its numbers stay in registers.
template <action A, class T, class V>
constexpr void elements(const T t, const param_array<float, param_count<T>>& a, const float* w, code_pointer<A> code, float* out, std::size_t n) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  const typename T::template params<V> p = broadcast<T, V>(a);
  std::size_t i = 0;
  for (; i + step <= n; i += step) {
    if constexpr (A == action::encode) lane_store_code(code_of(t, t.encode(lane_load<V>(w + i), p)), code + i);
    if constexpr (A == action::decode) lane_store(t.decode(value_of(t, lane_load_code<V>(code + i)), p), out + i);
    if constexpr (A == action::qdq) lane_store(fake(t, lane_load<V>(w + i), p), out + i);
  }
  if constexpr (step > 1) {
    const typename T::template params<float> s = to_params<T, float>(a);
    for (; i < n; ++i) {
      if constexpr (A == action::encode) lane_store_code(code_of(t, t.encode(w[i], s)), code + i);
      if constexpr (A == action::decode) out[i] = t.decode(value_of(t, lane_load_code<float>(code + i)), s);
      if constexpr (A == action::qdq) out[i] = fake(t, w[i], s);
    }
  }
}

/// Groups whose parameters are computed side by side; a multiple of every lane count.
inline constexpr std::size_t batch = 64;

/// Parameters of `here` <= batch neighboring groups that begin in column `at` and span the rows of `w`. Not inlined: once per type is enough.
template <class T, class V>
[[gnu::noinline]] constexpr void fit_batch(const T& t, matrix_view<const float> w, std::size_t at, std::size_t group, std::size_t here,
                                           float (&plane)[param_count<T>][batch]) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  static_assert(batch % step == 0);
  float lo[batch] = {}, hi[batch] = {};
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t g = 0; g < here; ++g) {
      const std::size_t first = at + g * group;
      const extrema e = range_of<V>(w.row(r) + first, w.cols - first < group ? w.cols - first : group);
      lo[g] = lane_min(lo[g], e.lo);
      hi[g] = lane_max(hi[g], e.hi);
    }
  for (std::size_t g = 0; g < here; g += step) {
    const auto a = to_array<T, V>(t.from_range(lane_load<V>(lo + g), lane_load<V>(hi + g)));
    for (std::size_t k = 0; k < param_count<T>; ++k) lane_store(a.v[k], plane[k] + g);
  }
}

/// A row of groups: fits the groups, keeps the parameters where the caller wants them (null: nowhere) and does A with each. Views that A does not
/// need are empty.
template <action A, class T, class V>
constexpr void fit_band(const T& t, matrix_view<const float> w, std::size_t group, float* scale, float* zero_point, matrix_view<std::uint8_t> code,
                        matrix_view<float> out) noexcept {
  constexpr std::size_t count = param_count<T>;
  const std::size_t groups = ceil_div(w.cols, group);
  for (std::size_t first = 0; first < groups; first += batch) {
    const std::size_t here = groups - first < batch ? groups - first : batch;
    float plane[count][batch] = {};
    fit_batch<T, V>(t, w, first * group, group, here, plane);
    for (std::size_t g = 0; g < here; ++g) {
      if (scale != nullptr) scale[first + g] = plane[0][g];
      if constexpr (has_zero_point<T>) {
        if (zero_point != nullptr) zero_point[first + g] = plane[1][g];
      }
    }
    if constexpr (A != action::fit) {
      for (std::size_t r = 0; r < w.rows; ++r)
        for (std::size_t g = 0; g < here; ++g) {
          param_array<float, count> a{};
          for (std::size_t k = 0; k < count; ++k) a.v[k] = plane[k][g];
          const std::size_t at = (first + g) * group, n = w.cols - at < group ? w.cols - at : group;
          if constexpr (A == action::encode) elements<A, T, V>(t, a, w.row(r) + at, code.row(r) + at, nullptr, n);
          if constexpr (A == action::qdq) elements<A, T, V>(t, a, w.row(r) + at, nullptr, out.row(r) + at, n);
        }
    }
  }
}

/// One row with given parameters.
template <action A, class T, class V>
constexpr void given_row(const T& t, const float* w, std::size_t cols, std::size_t group, const float* scale, const float* zero_point,
                         code_pointer<A> code, float* out) noexcept {
  constexpr std::size_t count = param_count<T>;
  for (std::size_t at = 0, g = 0; at < cols; at += group, ++g) {
    param_array<float, count> a{};
    a.v[0] = scale[g];
    if constexpr (has_zero_point<T>) a.v[1] = zero_point[g];
    if constexpr (count > stored_count<T>()) a = to_array<T, float>(t.complete(to_params<T, float>(a)));
    elements<A, T, V>(t, a, w == nullptr ? nullptr : w + at, code == nullptr ? nullptr : code + at, out == nullptr ? nullptr : out + at,
                      cols - at < group ? cols - at : group);
  }
}

/// A half that is not infinite times a code is a float that is not: nothing but the scale can overflow.
template <class T>
inline constexpr bool only_scale_overflows = T::scale_format == real::f16 && T::weight_format != real::f16 && requires(const T t) { t.code_offset(); };

/// True if a group with these extrema and parameters has a finite scale and gets finite weights back.
template <class T>
constexpr bool representable(const T& t, extrema e, const typename T::template params<float>& p) noexcept {
  if constexpr (only_scale_overflows<T>) {
    return is_finite(p.scale);
  } else {
    return is_finite(p.scale) && is_finite(t.decode(t.encode(e.lo, p), p)) && is_finite(t.decode(t.encode(e.hi, p), p));
  }
}
template <class T>
[[gnu::noinline]] constexpr bool representable(const T& t, extrema e) noexcept {
  return representable(t, e, t.from_range(e.lo, e.hi));
}

/// Reads all of w and says whether its groups can be fitted: non_finite, not_representable (a scale overflows its format), or ok. A type that
/// lacks its numbers for the whole tensor gets them here.
template <class T, class V>
[[nodiscard, gnu::noinline]] constexpr errc check_weights(T& t, matrix_view<const float> w, const shapes::cells& cells) noexcept {
  extrema all;
  if (!finite_range<V>(w, all)) return errc::non_finite;
  if constexpr (requires { t.the_tensor; }) {
    if (t.needs_range()) t.the_tensor.maximum = lane_max(-all.lo, all.hi);
  }
  if (representable(t, all)) return errc::ok;
  // The extrema of the matrix need not meet in one group.
  for (std::size_t first = 0; first < w.rows; first += cells.rows)
    for (std::size_t at = 0; at < w.cols; at += cells.cols) {
      extrema e;
      for (std::size_t r = first; r < w.rows && r - first < cells.rows; ++r) {
        const extrema row = range_of<V>(w.row(r) + at, w.cols - at < cells.cols ? w.cols - at : cells.cols);
        e.lo = lane_min(e.lo, row.lo);
        e.hi = lane_max(e.hi, row.hi);
      }
      if (!representable(t, e)) return errc::not_representable;
    }
  return errc::ok;
}

/// True if the type can be used as it is: widths in range, and nothing about the whole tensor missing.
template <class T>
constexpr bool usable_type(const T& t) noexcept {
  if constexpr (requires { t.the_tensor; }) {
    if (t.needs_range()) return false;
  }
  return t.valid();
}

/// Does A with all bands of w, for a lane of many values.
template <action A, class T, class V>
constexpr void fit_bands(const T& t, matrix_view<const float> w, const shapes::cells& cells, matrix_view<float> scale, matrix_view<float> zero_point,
                         matrix_view<std::uint8_t> code, matrix_view<float> out) noexcept {
  for (std::size_t r = 0, band = 0; r < w.rows; r += cells.rows, ++band) {
    const std::size_t here = w.rows - r < cells.rows ? w.rows - r : cells.rows;
    fit_band<A, T, V>(t, {w.row(r), here, w.cols, w.stride}, cells.cols, scale.data == nullptr ? nullptr : scale.row(band),
                      has_zero_point<T> && zero_point.data != nullptr ? zero_point.row(band) : nullptr,
                      A == action::encode ? matrix_view<std::uint8_t>(code.row(r), here, w.cols, code.stride) : matrix_view<std::uint8_t>(),
                      A == action::qdq ? matrix_view<float>(out.row(r), here, w.cols, out.stride) : matrix_view<float>());
  }
}

/// The same with check_weights for the float lane, which gains nothing from groups side by side: one after the other, in two walks over w of which
/// the first only looks. Written for size, since this is what a microcontroller gets: tests/house/code_size.sh has the bounds.
template <action A, class T>
[[nodiscard]] constexpr errc fit_one_by_one(const T& t, matrix_view<const float> w, const shapes::cells& cells, matrix_view<float> scale,
                                            matrix_view<float> zero_point, matrix_view<std::uint8_t> code, matrix_view<float> out) noexcept {
  errc result = errc::ok;
  for (int walk = 0; walk < 2 && result == errc::ok; ++walk)
    for (std::size_t first = 0, band = 0; first < w.rows; first += cells.rows, ++band)
      for (std::size_t at = 0, g = 0; at < w.cols; at += cells.cols, ++g) {
        const std::size_t height = w.rows - first < cells.rows ? w.rows - first : cells.rows;
        const std::size_t n = w.cols - at < cells.cols ? w.cols - at : cells.cols;
        float lo = 0.0f, hi = 0.0f;
        for (std::size_t r = 0; r < height; ++r)
          for (std::size_t c = 0; c < n; ++c) {
            const float x = w(first + r, at + c);
            if (!is_finite(x)) return errc::non_finite;
            lo = lane_min(lo, x);
            hi = lane_max(hi, x);
          }
        const auto p = t.from_range(lo, hi);
        if (walk == 0) {
          if (!representable(t, {lo, hi}, p)) result = errc::not_representable;
          continue;
        }
        const auto a = to_array<T, float>(p);
        if constexpr (A != action::qdq) {
          if (scale.data != nullptr) scale(band, g) = a.v[0];
          if constexpr (has_zero_point<T>) {
            if (zero_point.data != nullptr) zero_point(band, g) = a.v[1];
          }
        }
        for (std::size_t r = first; r < first + height; ++r) {
          if constexpr (A == action::encode) elements<A, T, float>(t, a, w.row(r) + at, code.row(r) + at, nullptr, n);
          if constexpr (A == action::qdq) elements<A, T, float>(t, a, w.row(r) + at, nullptr, out.row(r) + at, n);
        }
      }
  return result;
}

/// Reads all of w, says whether its groups can be fitted, and only then does A with them.
template <action A, class T, class V>
[[nodiscard]] constexpr errc fit_all(T& t, matrix_view<const float> w, const shapes::cells& cells, matrix_view<float> scale,
                                     matrix_view<float> zero_point, matrix_view<std::uint8_t> code, matrix_view<float> out) noexcept {
  if constexpr (std::is_same_v<V, float>) {
    if constexpr (requires { t.the_tensor; }) {
      extrema all;
      if (!finite_range<V>(w, all)) return errc::non_finite;
      if (t.needs_range()) t.the_tensor.maximum = lane_max(-all.lo, all.hi);
    }
    return fit_one_by_one<A>(t, w, cells, scale, zero_point, code, out);
  } else {
    if (const errc e = check_weights<T, V>(t, w, cells); e != errc::ok) return e;
    fit_bands<A, T, V>(t, w, cells, scale, zero_point, code, out);
    return errc::ok;
  }
}

// What the doors call, once each. Inlined, so that the checks of a static scheme with a shape that the compiler knows fold away; otherwise it is a
// matter of luck whether a microcontroller gets them as code (tests/house/code_size.sh).

template <RangeType T, class V>
[[nodiscard, gnu::always_inline]] constexpr errc fit(T t, group_shape group, matrix_view<const float> w, matrix_view<float> scale,
                                                     matrix_view<float> zero_point) noexcept {
  if (!usable_type(t)) return errc::bad_value;
  shapes::cells cells;
  if (const errc e = shapes::grouped(group, w, cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(w.rows, w.cols, cells, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  return fit_all<action::fit, T, V>(t, w, cells, scale, zero_point, {}, {});
}

template <RangeType T, class V>
[[nodiscard, gnu::always_inline]] constexpr errc quantize(T t, group_shape group, matrix_view<const float> w, matrix_view<std::uint8_t> code,
                                                          matrix_view<float> scale, matrix_view<float> zero_point) noexcept {
  if (!usable_type(t)) return errc::bad_value;
  shapes::cells cells;
  if (const errc e = shapes::grouped(group, w, code, cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(w.rows, w.cols, cells, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  return fit_all<action::encode, T, V>(t, w, cells, scale, zero_point, code, {});
}

template <RangeType T, class V>
[[nodiscard, gnu::always_inline]] constexpr errc encode(const T& t, group_shape group, matrix_view<const float> w, matrix_view<const float> scale,
                                                        matrix_view<const float> zero_point, matrix_view<std::uint8_t> code) noexcept {
  if (!usable_type(t)) return errc::bad_value;
  shapes::cells cells;
  if (const errc e = shapes::grouped(group, w, code, cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(w.rows, w.cols, cells, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  if (!usable(scale, !zero_scale<T>()) || (has_zero_point<T> && !usable(zero_point, false))) return errc::bad_value;
  if (extrema e; !finite_range<V>(w, e)) return errc::non_finite;
  for (std::size_t r = 0; r < w.rows; ++r)
    given_row<action::encode, T, V>(t, w.row(r), w.cols, cells.cols, scale.row(r / cells.rows),
                                    has_zero_point<T> ? zero_point.row(r / cells.rows) : nullptr, code.row(r), nullptr);
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard, gnu::always_inline]] constexpr errc dequantize(const T& t, group_shape group, matrix_view<const std::uint8_t> code,
                                                            matrix_view<const float> scale, matrix_view<const float> zero_point,
                                                            matrix_view<float> out) noexcept {
  if (!usable_type(t)) return errc::bad_value;
  shapes::cells cells;
  if (const errc e = shapes::grouped(group, code, out, cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(code.rows, code.cols, cells, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  for (std::size_t r = 0; r < code.rows; ++r)
    given_row<action::decode, T, V>(t, nullptr, code.cols, cells.cols, scale.row(r / cells.rows),
                                    has_zero_point<T> ? zero_point.row(r / cells.rows) : nullptr, code.row(r), out.row(r));
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard, gnu::always_inline]] constexpr errc qdq(T t, group_shape group, matrix_view<const float> w, matrix_view<float> out) noexcept {
  if (!t.valid()) return errc::bad_value;
  shapes::cells cells;
  if (const errc e = shapes::grouped(group, w, out, cells); e != errc::ok) return e;
  return fit_all<action::qdq, T, V>(t, w, cells, {}, {}, {}, out);
}

}  // namespace rows
AR_END_TARGET
#endif
