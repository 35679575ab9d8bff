// Column statistics of AWQ over a lane type: the lanes are columns, so that each is summed in the reference's order (awq.md sections 4 and 5).
#if defined(AR_DETAIL_AWQ_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_AWQ_INL_H
#else
#define AR_DETAIL_AWQ_INL_H
#endif

#include <span>

#include "ar/detail/cascade-inl.h"
#include "ar/detail/importance.hpp"
#include "ar/detail/rows-inl.h"

AR_BEGIN_TARGET
namespace awq {

/// One of several weights that lie one above the other, with the largest magnitude of each of its groups (ar::add_maxima), [rows x groups].
struct stacked_weight {
  matrix_view<const float> w;        ///< [rows x cols]; all have the same number of columns
  matrix_view<const float> maximum;  ///< [rows x groups]
};

/// Magnitudes of `count` registers of columns from `at` on.
template <class F, std::size_t Registers>
struct magnitude_terms {
  static constexpr std::size_t count = Registers;
  matrix_view<const float> x;
  std::size_t at;
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t row, F* sum) const noexcept {
    const float* p = x.row(row) + at;
    for (std::size_t z = 0; z < Registers; ++z)
      sum[z * Stride] = sum[z * Stride] + lane_abs(lane_load<F>(p + z * static_cast<std::size_t>(lane_count<F>)));
  }
};

/// Weights one above the other and the columns of their groups.
struct weight_stack {
  std::span<const stacked_weight> weights;
  std::size_t group;
};

/// |w| / (largest magnitude of the group + 1e-6). The lanes of a register lie in one group.
template <class F, std::size_t Registers>
struct share_terms {
  static constexpr std::size_t count = Registers;
  const weight_stack& stack;
  std::size_t at;
  // Rows come in order: the weight that holds one is found by going on from the last.
  mutable std::size_t which = 0, first = 0;

  constexpr share_terms(const weight_stack& s, std::size_t column) noexcept : stack(s), at(column) {}
  template <std::size_t Stride>
  AR_FN constexpr void add(std::size_t row, F* sum) const noexcept {
    while (row - first >= stack.weights[which].w.rows) first += stack.weights[which++].w.rows;
    const stacked_weight& s = stack.weights[which];
    for (std::size_t z = 0; z < Registers; ++z) {
      const std::size_t c = at + z * static_cast<std::size_t>(lane_count<F>);
      const F divisor = lane_set<F>(s.maximum(row - first, c / stack.group) + 1e-6f);
      sum[z * Stride] = sum[z * Stride] + lane_abs(lane_load<F>(s.w.row(row - first) + c)) / divisor;
    }
  }
};

template <class V>
[[nodiscard]] constexpr errc add_magnitudes_of(matrix_view<const float> x, bool first, float* sum) noexcept {
  if (!shapes::well_formed(x) || (x.cols != 0 && sum == nullptr)) return errc::bad_shape;
  if (rows::extrema e; !rows::finite_range<V>(x, e)) return errc::non_finite;
  sum_columns<V, magnitude_terms>(x, x.rows, x.cols, first, sum);
  return errc::ok;
}

template <class V>
[[nodiscard]] constexpr errc weight_mean_of(std::span<const stacked_weight> weights, int group, float* mean) noexcept {
  if (weights.empty() || mean == nullptr) return errc::bad_shape;
  if (group == 0 || group < -1) return errc::bad_value;
  const std::size_t cols = weights[0].w.cols;
  if (cols == 0) return errc::bad_shape;
  const std::size_t size = group < 0 || static_cast<std::size_t>(group) > cols ? cols : static_cast<std::size_t>(group);
  std::size_t rows = 0;
  for (const stacked_weight& s : weights) {
    if (!shapes::well_formed(s.w) || !shapes::well_formed(s.maximum) || s.w.cols != cols) return errc::bad_shape;
    if (s.maximum.rows != s.w.rows || s.maximum.cols != ceil_div(cols, size)) return errc::bad_shape;
    rows += s.w.rows;
  }
  if (rows == 0) return errc::bad_shape;
  const weight_stack stack{weights, size};
  if (size % static_cast<std::size_t>(lane_count<V>) == 0) {
    sum_columns<V, share_terms>(stack, rows, cols, true, mean);
  } else {
    sum_columns<float, share_terms>(stack, rows, cols, true, mean);
  }
  for (std::size_t c = 0; c < cols; ++c) mean[c] = mean[c] / static_cast<float>(rows);
  return errc::ok;
}

/// Checks bounds [rows x groups] against w; `size` = columns of a group.
template <class A>
[[nodiscard]] constexpr errc groups_of(matrix_view<const float> w, int group, matrix_view<A> lo, matrix_view<A> hi, std::size_t& size) noexcept {
  if (group == 0 || group < -1) return errc::bad_value;
  if (!shapes::well_formed(w) || !shapes::same_shape(lo, hi)) return errc::bad_shape;
  size = group < 0 || static_cast<std::size_t>(group) > w.cols ? w.cols : static_cast<std::size_t>(group);
  if (size == 0) size = 1;
  return lo.rows == w.rows && lo.cols == ceil_div(w.cols, size) ? errc::ok : errc::bad_shape;
}

}  // namespace awq
AR_END_TARGET
#endif
