// Sums of terms that are made on the way, in the normative orders (detail/rowsum.hpp), one sum per lane of F: the lanes hold different candidates
// of one search, or different columns, so that no lane waits for another. Terms is an object with
//   count (sums made side by side) and add<Stride>(i, sum): adds its i-th terms to sum[0], sum[Stride], ...
// Source: data-types.md section 0.
#if defined(AR_DETAIL_CASCADE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_CASCADE_INL_H
#else
#define AR_DETAIL_CASCADE_INL_H
#endif

#include <bit>
#include <cstddef>

#include "ar/detail/lane_traits-inl.h"

AR_BEGIN_TARGET

/// sum[z * Series + s] = the terms s, Series + s, 2 * Series + s, ... (`rounds` of them), four levels deep.
template <std::size_t Series, class F, class Terms>
AR_FN constexpr void cascade(const Terms& terms, std::size_t rounds, F* sum) noexcept {
  constexpr std::size_t width = Series * Terms::count;
  const F zero = lane_set<F>(0.0f);
  for (std::size_t s = 0; s < width; ++s) sum[s] = zero;
  const int length = rounds == 0 ? 0 : static_cast<int>(std::bit_width(rounds - 1)) / 4;
  const int shift = length < 4 ? 4 : length;
  const std::size_t step = std::size_t{1} << shift;
  if (rounds < step) {
    for (std::size_t k = 0; k < rounds; ++k)
      for (std::size_t s = 0; s < Series; ++s) terms.template add<Series>(k * Series + s, sum + s);
    return;
  }
  F upper[3][width];
  for (auto& level : upper)
    for (F& x : level) x = zero;
  for (std::size_t k = 0; k < rounds; ++k) {
    for (std::size_t s = 0; s < Series; ++s) terms.template add<Series>(k * Series + s, sum + s);
    if (((k + 1) & (step - 1)) != 0) continue;
    F* below = sum;
    for (int j = 0; j < 3; ++j) {
      for (std::size_t s = 0; s < width; ++s) {
        upper[j][s] = upper[j][s] + below[s];
        below[s] = zero;
      }
      below = upper[j];
      if (((k + 1) & ((step - 1) << ((j + 1) * shift))) != 0) break;
    }
  }
  for (std::size_t s = 0; s < width; ++s) sum[s] = ((sum[s] + upper[0][s]) + upper[1][s]) + upper[2][s];
}

/// out[z] = the n terms in one series.
template <class F, class Terms>
AR_FN constexpr void sum_one_series(const Terms& terms, std::size_t n, F* out) noexcept {
  cascade<1>(terms, n, out);
}

/// out[z] = the n terms in four series.
template <class F, class Terms>
AR_FN constexpr void sum_four_series(const Terms& terms, std::size_t n, F* out) noexcept {
  F p[4 * Terms::count];
  cascade<4>(terms, n / 4, p);
  for (std::size_t i = n / 4 * 4; i < n; ++i) terms.template add<4>(i, p);
  for (std::size_t z = 0; z < Terms::count; ++z) out[z] = ((p[4 * z] + p[4 * z + 1]) + p[4 * z + 2]) + p[4 * z + 3];
}

/// out[z] = the n terms in the order of a row sum.
template <class F, class Terms>
AR_FN constexpr void sum_as_row(const Terms& terms, std::size_t n, F* out) noexcept {
  if (n < 8) return sum_four_series(terms, n, out);
  F p[32 * Terms::count];
  cascade<32>(terms, n / 32, p);
  for (std::size_t i = n / 32 * 32; i < n / 8 * 8; ++i) terms.template add<32>(i, p + i % 8);
  for (std::size_t z = 0; z < Terms::count; ++z) out[z] = lane_set<F>(0.0f);
  for (std::size_t i = n / 8 * 8; i < n; ++i) terms.template add<1>(i, out);
  for (std::size_t z = 0; z < Terms::count; ++z)
    for (std::size_t l = 0; l < 8; ++l) {
      const F* q = p + 32 * z + l;
      out[z] = out[z] + (((q[0] + q[8]) + q[16]) + q[24]);
    }
}

/// out[z] = the n terms in the order in which one of `columns` columns is summed along the rows, the column standing at `at`.
template <class F, class Terms>
AR_FN constexpr void sum_as_column(const Terms& terms, std::size_t n, std::size_t at, std::size_t columns, F* out) noexcept {
  const std::size_t block = columns < 8 ? 4 : 32;
  if (at < columns / block * block) return sum_one_series(terms, n, out);
  sum_four_series(terms, n, out);
}

template <class F, std::size_t Registers, template <class, std::size_t> class Terms, class Source>
AR_FN constexpr void add_columns(const Source& source, std::size_t rows, std::size_t cols, std::size_t at, bool first, float* sum) noexcept {
  F s[Registers];
  sum_as_column(Terms<F, Registers>{source, at}, rows, at, cols, s);
  for (std::size_t z = 0; z < Registers; ++z) {
    float* p = sum + at + z * static_cast<std::size_t>(lane_count<F>);
    lane_store(first ? s[z] : lane_load<F>(p) + s[z], p);
  }
}

/// sum[0..cols) = the terms of each column over the rows of `source`, each column in its order; added to what is there unless `first`. Terms<F, Registers>{source, at}
/// makes those of the columns from `at` on.
template <class V, template <class, std::size_t> class Terms, class Source>
AR_FN constexpr void sum_columns(const Source& source, std::size_t rows, std::size_t cols, bool first, float* sum) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  std::size_t at = 0;
  for (; at + 32 <= cols; at += 32) add_columns<V, 32 / lanes, Terms>(source, rows, cols, at, first, sum);
  for (; at + lanes <= cols; at += lanes) add_columns<V, 1, Terms>(source, rows, cols, at, first, sum);
  for (; at < cols; ++at) add_columns<float, 1, Terms>(source, rows, cols, at, first, sum);
}

AR_END_TARGET
#endif
