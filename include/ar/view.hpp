// Non-owning views of row-major matrices, and arithmetic on sizes that cannot wrap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ar/config.hpp"

namespace ar {

/// Computes a*b into `out`; false (and `out` unchanged) if the product does not fit.
[[nodiscard]] AR_INLINE constexpr bool checked_mul(std::uint64_t a, std::uint64_t b, std::uint64_t& out) noexcept {
  if (a != 0 && b > UINT64_MAX / a) return false;
  out = a * b;
  return true;
}

/// Computes a+b into `out`; false (and `out` unchanged) if the sum does not fit.
[[nodiscard]] AR_INLINE constexpr bool checked_add(std::uint64_t a, std::uint64_t b, std::uint64_t& out) noexcept {
  if (b > UINT64_MAX - a) return false;
  out = a + b;
  return true;
}

/// A row-major matrix that somebody else owns: element (r, c) is data[r * stride + c]. `stride` counts elements and is at least `cols`.
template <class T>
struct matrix_view {
  T* data = nullptr;       ///< the first element
  std::size_t rows = 0;    ///< how many rows
  std::size_t cols = 0;    ///< elements of a row
  std::size_t stride = 0;  ///< elements from a row to the next

  constexpr matrix_view() = default;
  /// Rows that follow each other.
  AR_INLINE constexpr matrix_view(T* p, std::size_t r, std::size_t c) noexcept : data(p), rows(r), cols(c), stride(c) {}
  /// Rows `s` elements apart.
  AR_INLINE constexpr matrix_view(T* p, std::size_t r, std::size_t c, std::size_t s) noexcept : data(p), rows(r), cols(c), stride(s) {}

  /// A view of mutable elements converts to a view of const ones.
  template <class U>
    requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
  AR_INLINE constexpr matrix_view(matrix_view<U> o) noexcept : data(o.data), rows(o.rows), cols(o.cols), stride(o.stride) {}

  /// The first element of row r; nothing is checked.
  AR_INLINE constexpr T* row(std::size_t r) const noexcept { return data + r * stride; }
  /// Element (r, c); nothing is checked.
  AR_INLINE constexpr T& operator()(std::size_t r, std::size_t c) const noexcept { return data[r * stride + c]; }
  /// How many elements it has.
  AR_INLINE constexpr std::size_t size() const noexcept { return rows * cols; }
  /// True if rows follow each other without a gap.
  AR_INLINE constexpr bool contiguous() const noexcept { return stride == cols; }
};

/// How large a matrix is, where there is none yet.
struct matrix_shape {
  std::size_t rows = 0;  ///< how many rows
  std::size_t cols = 0;  ///< elements of a row
  /// Equal in both.
  friend constexpr bool operator==(const matrix_shape&, const matrix_shape&) = default;
};

/// ceil(a / b) for b > 0, without overflow.
AR_INLINE constexpr std::size_t ceil_div(std::size_t a, std::size_t b) noexcept { return a / b + (a % b != 0); }

}  // namespace ar
