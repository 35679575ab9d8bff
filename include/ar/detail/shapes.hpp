// Checks of shapes that every door makes before it touches anything.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {
namespace shapes {

/// A view that can be walked: rows do not overlap, and there is memory if there are elements.
template <class T>
constexpr bool well_formed(matrix_view<T> m) noexcept {
  std::uint64_t elements = 0, bytes = 0;
  return m.rows == 0 || m.cols == 0 ||
         (m.data != nullptr && m.stride >= m.cols && checked_mul(m.rows, m.stride, elements) && checked_mul(elements, sizeof(T), bytes) && bytes <= PTRDIFF_MAX);
}

template <class A, class B>
constexpr bool same_shape(matrix_view<A> a, matrix_view<B> b) noexcept {
  return well_formed(a) && well_formed(b) && a.rows == b.rows && a.cols == b.cols;
}

/// Rows and columns of a group; both at least 1.
struct cells {
  std::size_t rows = 1, cols = 1;
};

/// Turns a group as users write it into rows and columns. A tensor-wide group (0) makes the matrix one row, so its rows must be adjacent.
template <class A>
[[nodiscard]] constexpr errc grouped(group_shape shape, matrix_view<A>& a, cells& out) noexcept {
  if (!well_formed(a)) return errc::bad_shape;
  if (shape.size < -1 || shape.rows < 1 || (shape.rows > 1 && shape.size < 1)) return errc::bad_value;
  if (shape.size == 0) {
    if (!a.contiguous()) return errc::bad_shape;
    a = {a.data, a.size() == 0 ? std::size_t{0} : std::size_t{1}, a.size()};
  }
  out.rows = static_cast<std::size_t>(shape.rows);
  out.cols = shape.size <= 0 || static_cast<std::size_t>(shape.size) > a.cols ? a.cols : static_cast<std::size_t>(shape.size);
  if (out.cols == 0) out.cols = 1;  // nothing to do, but a step of nothing must not be walked
  return errc::ok;
}
template <class A, class B>
[[nodiscard]] constexpr errc grouped(group_shape shape, matrix_view<A>& a, matrix_view<B>& b, cells& out) noexcept {
  if (!same_shape(a, b)) return errc::bad_shape;
  if (const errc e = grouped(shape, a, out); e != errc::ok) return e;
  return grouped(shape, b, out);
}

/// scale (and zero_point, where the type has one) hold one number per group.
template <class A>
[[nodiscard]] constexpr errc parameter_shapes(std::size_t rows, std::size_t cols, const cells& group, bool has_zero_point, matrix_view<A> scale,
                                              matrix_view<A> zero_point) noexcept {
  if (!well_formed(scale) || scale.rows != ceil_div(rows, group.rows) || scale.cols != ceil_div(cols, group.cols)) return errc::bad_shape;
  if (has_zero_point && !same_shape(scale, zero_point)) return errc::bad_shape;
  return errc::ok;
}

/// Rows of whole blocks, and a byte matrix that holds exactly them.
template <class A, class B>
[[nodiscard]] constexpr errc block_shapes(matrix_view<A> w, matrix_view<B> bytes, int block_size, int block_bytes, std::size_t& blocks) noexcept {
  if (!well_formed(w) || !well_formed(bytes) || w.rows != bytes.rows || w.cols % static_cast<std::size_t>(block_size) != 0) return errc::bad_shape;
  blocks = w.cols / static_cast<std::size_t>(block_size);
  std::uint64_t row_bytes = 0;
  if (!checked_mul(blocks, static_cast<std::uint64_t>(block_bytes), row_bytes) || bytes.cols != row_bytes) return errc::bad_shape;
  return errc::ok;
}

}  // namespace shapes
}  // namespace AR_ABI
}  // namespace ar
