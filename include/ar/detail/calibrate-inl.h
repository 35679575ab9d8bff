// What calibration collects from activations, over a lane type. Maxima are exact; the lanes of a column sum are columns, so that each column is
// summed in the reference's order (data-types.md sections 0, 3 and 9).
#if defined(AR_DETAIL_CALIBRATE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_CALIBRATE_INL_H
#else
#define AR_DETAIL_CALIBRATE_INL_H
#endif

#include "ar/detail/calibrate_types.hpp"
#include "ar/detail/cascade-inl.h"
#include "ar/detail/rows-inl.h"

AR_BEGIN_TARGET
namespace calibrate {

/// `count` registers of columns from `at` on, squared.
template <class F, std::size_t Registers>
struct square_terms {
  static constexpr std::size_t count = Registers;
  matrix_view<const float> x;
  std::size_t at;
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t row, F* sum) const noexcept {
    const float* p = x.row(row) + at;
    for (std::size_t z = 0; z < Registers; ++z) {
      const F v = lane_load<F>(p + z * static_cast<std::size_t>(lane_count<F>));
      sum[z * Stride] = sum[z * Stride] + v * v;
    }
  }
};

template <class V>
[[nodiscard]] constexpr errc add_importance(matrix_view<const float> x, bool first, float* sum) noexcept {
  if (!shapes::well_formed(x) || (x.cols != 0 && sum == nullptr)) return errc::bad_shape;
  if (rows::extrema e; !rows::finite_range<V>(x, e)) return errc::non_finite;
  sum_columns<V, square_terms>(x, x.rows, x.cols, first, sum);
  return errc::ok;
}

template <class V>
[[nodiscard]] constexpr errc add_maxima(group_shape group, matrix_view<const float> x, bool first, matrix_view<float> maximum) noexcept {
  shapes::cells cells;
  if (const errc e = shapes::grouped(group, x, cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(x.rows, x.cols, cells, false, maximum, maximum); e != errc::ok) return e;
  if (rows::extrema e; !rows::finite_range<V>(x, e)) return errc::non_finite;
  for (std::size_t band = 0; band < maximum.rows; ++band)
    for (std::size_t g = 0; g < maximum.cols; ++g) {
      const std::size_t at = g * cells.cols, n = x.cols - at < cells.cols ? x.cols - at : cells.cols;
      float m = first ? 0.0f : maximum(band, g);
      for (std::size_t r = band * cells.rows; r < x.rows && r < (band + 1) * cells.rows; ++r) {
        const rows::extrema e = rows::range_of<V>(x.row(r) + at, n);
        m = lane_max(m, lane_max(-e.lo, e.hi));
      }
      maximum(band, g) = m;
    }
  return errc::ok;
}

template <class V>
[[nodiscard]] constexpr errc add_head_maxima(matrix_view<const float> x, std::size_t heads, bool first, float* maximum) noexcept {
  if (!shapes::well_formed(x) || heads == 0 || maximum == nullptr || x.rows % heads != 0) return errc::bad_shape;
  if (rows::extrema e; !rows::finite_range<V>(x, e)) return errc::non_finite;
  if (first)
    for (std::size_t h = 0; h < heads; ++h) maximum[h] = 0.0f;
  for (std::size_t r = 0; r < x.rows; ++r) {
    const rows::extrema e = rows::range_of<V>(x.row(r), x.cols);
    maximum[r % heads] = lane_max(maximum[r % heads], lane_max(-e.lo, e.hi));
  }
  return errc::ok;
}

}  // namespace calibrate
AR_END_TARGET
#endif
