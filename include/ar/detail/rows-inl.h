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
      if (!(lane_abs(m(r, c)) <= 0x1.fffffep127f) || (nonzero && m(r, c) == 0.0f)) return false;
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Range types: parameters from the extrema of a group

/// What to do with a group once its parameters are known.
enum class action { fit, encode, decode, qdq };

/// Codes are read by decode and written by the others.
template <action A>
using code_pointer = std::conditional_t<A == action::decode, const std::uint8_t*, std::uint8_t*>;

template <action A, class T, class V>
constexpr void elements(const T& t, const param_array<float, param_count<T>>& a, const float* w, code_pointer<A> code, float* out,
                        std::size_t n) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  const typename T::template params<V> p = broadcast<T, V>(a);
  const float offset = static_cast<float>(t.code_offset());
  const V offsets = lane_set<V>(offset);
  std::size_t i = 0;
  for (; i + step <= n; i += step) {
    if constexpr (A == action::encode) lane_store_code(t.encode(lane_load<V>(w + i), p) + offsets, code + i);
    if constexpr (A == action::decode) lane_store(t.decode(lane_load_code<V>(code + i) - offsets, p), out + i);
    if constexpr (A == action::qdq) lane_store(t.decode(t.encode(lane_load<V>(w + i), p), p), out + i);
  }
  if constexpr (step > 1) {
    const typename T::template params<float> s = to_params<T, float>(a);
    for (; i < n; ++i) {
      if constexpr (A == action::encode) lane_store_code(t.encode(w[i], s) + offset, code + i);
      if constexpr (A == action::decode) out[i] = t.decode(lane_load_code<float>(code + i) - offset, s);
      if constexpr (A == action::qdq) out[i] = t.decode(t.encode(w[i], s), s);
    }
  }
}

/// Groups whose parameters are computed side by side; a multiple of every lane count.
inline constexpr std::size_t batch = 64;

/// Parameters of `here` <= batch consecutive groups that begin at w, `left` values before the end of the row. Not inlined: once per type is enough.
template <class T, class V>
[[gnu::noinline]] constexpr void fit_batch(const T& t, const float* w, std::size_t left, std::size_t group, std::size_t here,
                                           float (&plane)[param_count<T>][batch]) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  static_assert(batch % step == 0);
  float lo[batch] = {}, hi[batch] = {};
  for (std::size_t g = 0; g < here; ++g) {
    const std::size_t at = g * group;
    const extrema e = range_of<V>(w + at, left - at < group ? left - at : group);
    lo[g] = e.lo;
    hi[g] = e.hi;
  }
  for (std::size_t g = 0; g < here; g += step) {
    const auto a = to_array<T, V>(t.from_range(lane_load<V>(lo + g), lane_load<V>(hi + g)));
    for (std::size_t k = 0; k < param_count<T>; ++k) lane_store(a.v[k], plane[k] + g);
  }
}

/// One row: fits its groups, keeps the parameters where the caller wants them (null: nowhere) and does A with each group.
template <action A, class T, class V>
constexpr void fit_row(const T& t, const float* w, std::size_t cols, std::size_t group, float* scale, float* zero_point, std::uint8_t* code,
                       float* out) noexcept {
  constexpr std::size_t count = param_count<T>;
  const std::size_t groups = ceil_div(cols, group);
  for (std::size_t first = 0; first < groups; first += batch) {
    const std::size_t here = groups - first < batch ? groups - first : batch;
    float plane[count][batch] = {};
    fit_batch<T, V>(t, w + first * group, cols - first * group, group, here, plane);
    for (std::size_t g = 0; g < here; ++g) {
      if (scale != nullptr) scale[first + g] = plane[0][g];
      if constexpr (count > 1) {
        if (zero_point != nullptr) zero_point[first + g] = plane[1][g];
      }
      if constexpr (A != action::fit) {
        param_array<float, count> a{};
        for (std::size_t k = 0; k < count; ++k) a.v[k] = plane[k][g];
        const std::size_t at = (first + g) * group;
        elements<A, T, V>(t, a, w + at, code == nullptr ? nullptr : code + at, out == nullptr ? nullptr : out + at, cols - at < group ? cols - at : group);
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
    if constexpr (count > 1) a.v[1] = zero_point[g];
    elements<A, T, V>(t, a, w == nullptr ? nullptr : w + at, code == nullptr ? nullptr : code + at, out == nullptr ? nullptr : out + at,
                      cols - at < group ? cols - at : group);
  }
}

/// True if a group with these extrema gets a finite scale and finite weights back.
template <class T>
[[gnu::noinline]] constexpr bool representable(const T& t, extrema e) noexcept {
  const auto p = t.from_range(e.lo, e.hi);
  const float limit = 0x1.fffffep127f;
  return lane_abs(p.scale) <= limit && lane_abs(t.decode(t.encode(e.lo, p), p)) <= limit && lane_abs(t.decode(t.encode(e.hi, p), p)) <= limit;
}

/// Reads all of w and says whether its groups can be fitted: non_finite, not_representable (a scale overflows its format), or ok.
template <class T, class V>
[[nodiscard, gnu::noinline]] constexpr errc check_weights(const T& t, matrix_view<const float> w, std::size_t group) noexcept {
  extrema all;
  if (!finite_range<V>(w, all)) return errc::non_finite;
  if (representable(t, all)) return errc::ok;
  // The extrema of the matrix need not meet in one group.
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t at = 0; at < w.cols; at += group)
      if (!representable(t, range_of<V>(w.row(r) + at, w.cols - at < group ? w.cols - at : group))) return errc::not_representable;
  return errc::ok;
}

template <class T>
inline constexpr bool has_zero_point = param_count<T> > 1;

template <RangeType T, class V>
[[nodiscard]] constexpr errc fit(const T& t, int group_size, matrix_view<const float> w, matrix_view<float> scale, matrix_view<float> zero_point) noexcept {
  if (!t.valid()) return errc::bad_value;
  std::size_t group = 0;
  if (const errc e = shapes::grouped(group_size, w, group); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(w.rows, w.cols, group, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  if (const errc e = check_weights<T, V>(t, w, group); e != errc::ok) return e;
  for (std::size_t r = 0; r < w.rows; ++r)
    fit_row<action::fit, T, V>(t, w.row(r), w.cols, group, scale.row(r), has_zero_point<T> ? zero_point.row(r) : nullptr, nullptr, nullptr);
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard]] constexpr errc quantize(const T& t, int group_size, matrix_view<const float> w, matrix_view<std::uint8_t> code, matrix_view<float> scale,
                                      matrix_view<float> zero_point) noexcept {
  if (!t.valid()) return errc::bad_value;
  std::size_t group = 0;
  if (const errc e = shapes::grouped(group_size, w, code, group); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(w.rows, w.cols, group, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  if (const errc e = check_weights<T, V>(t, w, group); e != errc::ok) return e;
  for (std::size_t r = 0; r < w.rows; ++r)
    fit_row<action::encode, T, V>(t, w.row(r), w.cols, group, scale.row(r), has_zero_point<T> ? zero_point.row(r) : nullptr, code.row(r), nullptr);
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard]] constexpr errc encode(const T& t, int group_size, matrix_view<const float> w, matrix_view<const float> scale,
                                    matrix_view<const float> zero_point, matrix_view<std::uint8_t> code) noexcept {
  if (!t.valid()) return errc::bad_value;
  std::size_t group = 0;
  if (const errc e = shapes::grouped(group_size, w, code, group); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(w.rows, w.cols, group, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  if (!usable(scale, true) || (has_zero_point<T> && !usable(zero_point, false))) return errc::bad_value;
  if (extrema e; !finite_range<V>(w, e)) return errc::non_finite;
  for (std::size_t r = 0; r < w.rows; ++r)
    given_row<action::encode, T, V>(t, w.row(r), w.cols, group, scale.row(r), has_zero_point<T> ? zero_point.row(r) : nullptr, code.row(r), nullptr);
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard]] constexpr errc dequantize(const T& t, int group_size, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                                        matrix_view<const float> zero_point, matrix_view<float> out) noexcept {
  if (!t.valid()) return errc::bad_value;
  std::size_t group = 0;
  if (const errc e = shapes::grouped(group_size, code, out, group); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(code.rows, code.cols, group, has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  for (std::size_t r = 0; r < code.rows; ++r)
    given_row<action::decode, T, V>(t, nullptr, code.cols, group, scale.row(r), has_zero_point<T> ? zero_point.row(r) : nullptr, code.row(r), out.row(r));
  return errc::ok;
}

template <RangeType T, class V>
[[nodiscard]] constexpr errc qdq(const T& t, int group_size, matrix_view<const float> w, matrix_view<float> out) noexcept {
  if (!t.valid()) return errc::bad_value;
  std::size_t group = 0;
  if (const errc e = shapes::grouped(group_size, w, out, group); e != errc::ok) return e;
  if (const errc e = check_weights<T, V>(t, w, group); e != errc::ok) return e;
  for (std::size_t r = 0; r < w.rows; ++r) fit_row<action::qdq, T, V>(t, w.row(r), w.cols, group, nullptr, nullptr, nullptr, out.row(r));
  return errc::ok;
}

}  // namespace rows
AR_END_TARGET
#endif
