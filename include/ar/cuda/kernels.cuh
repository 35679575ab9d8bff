// Door: the data types in CUDA kernels. Thin loops over a grid around the same lane functions (F = float) that are the reference on the host, so the
// bits are the same: a group, a value or a block is the work of one thread, whichever it is. Compile with --fmad=false and --expt-relaxed-constexpr.
//
// A kernel is an object: prepare checks shapes on the host (pointers may be the device's, they are not followed) and fills it in, launch runs it on a
// stream, emulate runs it on the host with the same indices. Shapes are those of ar/quantize.hpp and ar/gguf.hpp. What a kernel cannot report is the
// caller's promise: weights are finite, and scales do not overflow their format. Types whose facts are static (MX, FP8) are passed as ar::any_scaled,
// and numbers for the whole tensor (NVFP4) must be set in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ar/data_types.hpp"
#include "ar/detail/block_rows-inl.h"
#include "ar/detail/rows-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET
namespace cuda {

/// Which rows and columns belong to group `item` of a matrix, counted row by row.
struct group_grid {
  shapes::cells cells;     ///< rows and columns of a group
  std::size_t rows = 0;    ///< of the matrix
  std::size_t cols = 0;    ///< of the matrix
  std::size_t across = 0;  ///< groups side by side
  std::size_t groups = 0;  ///< in all
  /// Where a group is.
  struct range {
    std::size_t row;   ///< first row
    std::size_t rows;  ///< how many
    std::size_t col;   ///< first column
    std::size_t cols;  ///< how many
  };
  /// The place of group `item`.
  AR_FN constexpr range operator()(std::size_t item) const noexcept {
    const std::size_t row = item / across * cells.rows, col = item % across * cells.cols;
    return {row, rows - row < cells.rows ? rows - row : cells.rows, col, cols - col < cells.cols ? cols - col : cells.cols};
  }
};

/// Fits the groups of w and writes their codes, or with A = qdq the weights that a reader will see. One item is a group.
template <RangeType T, rows::action A>
struct fit_groups {
  T type{};                        ///< with its run-time fields
  group_grid grid{};               ///< which groups
  matrix_view<const float> w;      ///< weights
  matrix_view<std::uint8_t> code;  ///< their codes
  matrix_view<float> scale;        ///< [rows x groups]
  matrix_view<float> zero_point;   ///< [rows x groups], of types that have one
  matrix_view<float> out;          ///< weights that a reader will see

  /// How many groups there are.
  AR_FN constexpr std::size_t items() const noexcept { return grid.groups; }
  /// The work of one.
  AR_FN constexpr void operator()(std::size_t item) const noexcept {
    const group_grid::range at = grid(item);
    float lo = 0.0f, hi = 0.0f;
    for (std::size_t r = 0; r < at.rows; ++r)
      for (std::size_t c = 0; c < at.cols; ++c) {
        const float x = w.data[(at.row + r) * w.stride + at.col + c];
        lo = lane_min(lo, x);
        hi = lane_max(hi, x);
      }
    const auto p = type.from_range(lo, hi);
    if constexpr (A == rows::action::encode) {
      scale.data[item / grid.across * scale.stride + item % grid.across] = p.scale;
      if constexpr (rows::has_zero_point<T>) zero_point.data[item / grid.across * zero_point.stride + item % grid.across] = p.zero_point;
    }
    for (std::size_t r = 0; r < at.rows; ++r)
      for (std::size_t c = 0; c < at.cols; ++c) {
        const float x = w.data[(at.row + r) * w.stride + at.col + c];
        if constexpr (A == rows::action::encode)
          code.data[(at.row + r) * code.stride + at.col + c] = static_cast<std::uint8_t>(rows::code_of(type, type.encode(x, p)));
        if constexpr (A == rows::action::qdq) out.data[(at.row + r) * out.stride + at.col + c] = rows::fake(type, x, p);
      }
  }
};
/// Weights to codes, scales and zero points.
template <RangeType T>
using quantize_kernel = fit_groups<T, rows::action::encode>;
/// Weights to those that a reader will see; `out` may be w itself.
template <RangeType T>
using qdq_kernel = fit_groups<T, rows::action::qdq>;

/// Codes to weights. One item is a value.
template <RangeType T>
struct dequantize_kernel {
  T type{};                              ///< with its run-time fields
  group_grid grid{};                     ///< which groups
  matrix_view<const std::uint8_t> code;  ///< codes
  matrix_view<const float> scale;        ///< [rows x groups]
  matrix_view<const float> zero_point;   ///< [rows x groups], of types that have one
  matrix_view<float> out;                ///< weights

  /// How many values there are.
  AR_FN constexpr std::size_t items() const noexcept { return grid.rows * grid.cols; }
  /// The work of one.
  AR_FN constexpr void operator()(std::size_t item) const noexcept {
    const std::size_t r = item / grid.cols, c = item % grid.cols, band = r / grid.cells.rows, g = c / grid.cells.cols;
    typename T::template params<float> p{};
    p.scale = scale.data[band * scale.stride + g];
    if constexpr (rows::has_zero_point<T>) p.zero_point = zero_point.data[band * zero_point.stride + g];
    if constexpr (rows::param_count < T >> rows::stored_count<T>()) p = type.complete(p);
    out.data[r * out.stride + c] = type.decode(rows::value_of(type, static_cast<float>(code.data[r * code.stride + c])), p);
  }
};

/// GGUF blocks to weights. One item is a block.
template <BlockType T>
struct dequantize_blocks_kernel {
  const std::uint8_t* blocks = nullptr;  ///< the bytes of the tensor
  std::size_t per_row = 0;               ///< blocks in a row
  std::size_t count = 0;                 ///< blocks in all
  matrix_view<float> out;                ///< weights

  /// How many blocks there are.
  AR_FN constexpr std::size_t items() const noexcept { return count; }
  /// The work of one.
  AR_FN constexpr void operator()(std::size_t item) const noexcept {
    std::uint8_t code[T::block_size] = {};
    typename T::template params<float> p{};
    T::load(blocks + item * T::block_bytes, code, p);
    float* const to = out.data + item / per_row * out.stride + item % per_row * T::block_size;
    for (std::size_t i = 0; i < T::block_size; ++i) to[i] = T::decode(static_cast<float>(code[i]), p, i / T::sub_size);
  }
};

/// Checks the shapes as the functions of ar/quantize.hpp and ar/gguf.hpp do, with their error codes, and fills in the kernel.
/// @{
template <RangeType T>
[[nodiscard]] constexpr errc prepare(const T& type, group_shape group, matrix_view<const float> w, matrix_view<std::uint8_t> code,
                                     matrix_view<float> scale, matrix_view<float> zero_point, quantize_kernel<T>& k) noexcept {
  if (!rows::usable_type(type)) return errc::bad_value;
  k = {type, {}, w, code, scale, zero_point, {}};
  if (const errc e = shapes::grouped(group, k.w, k.code, k.grid.cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(k.w.rows, k.w.cols, k.grid.cells, rows::has_zero_point<T>, scale, zero_point); e != errc::ok) return e;
  k.grid.rows = k.w.rows;
  k.grid.cols = k.w.cols;
  k.grid.across = scale.cols;
  k.grid.groups = scale.rows * scale.cols;
  return errc::ok;
}
template <RangeType T>
[[nodiscard]] constexpr errc prepare(const T& type, group_shape group, matrix_view<const float> w, matrix_view<float> out,
                                     qdq_kernel<T>& k) noexcept {
  if (!rows::usable_type(type)) return errc::bad_value;
  k = {type, {}, w, {}, {}, {}, out};
  if (const errc e = shapes::grouped(group, k.w, k.out, k.grid.cells); e != errc::ok) return e;
  k.grid.rows = k.w.rows;
  k.grid.cols = k.w.cols;
  k.grid.across = ceil_div(k.w.cols, k.grid.cells.cols);
  k.grid.groups = ceil_div(k.w.rows, k.grid.cells.rows) * k.grid.across;
  return errc::ok;
}
template <RangeType T>
[[nodiscard]] constexpr errc prepare(const T& type, group_shape group, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                                     matrix_view<const float> zero_point, matrix_view<float> out, dequantize_kernel<T>& k) noexcept {
  if (!rows::usable_type(type)) return errc::bad_value;
  k = {type, {}, code, scale, zero_point, out};
  if (const errc e = shapes::grouped(group, k.code, k.out, k.grid.cells); e != errc::ok) return e;
  if (const errc e = shapes::parameter_shapes(k.code.rows, k.code.cols, k.grid.cells, rows::has_zero_point<T>, scale, zero_point); e != errc::ok)
    return e;
  k.grid.rows = k.code.rows;
  k.grid.cols = k.code.cols;
  return errc::ok;
}
template <BlockType T>
[[nodiscard]] constexpr errc prepare(std::span<const std::uint8_t> blocks, matrix_view<float> out, dequantize_blocks_kernel<T>& k) noexcept {
  if (!shapes::well_formed(out) || out.cols % T::block_size != 0) return errc::bad_shape;
  std::uint64_t count = 0, bytes = 0;
  if (!checked_mul(out.rows, out.cols / T::block_size, count) || !checked_mul(count, T::block_bytes, bytes) || bytes != blocks.size())
    return errc::bad_size;
  k = {blocks.data(), out.cols / T::block_size, static_cast<std::size_t>(count), out};
  return errc::ok;
}
/// @}

/// Runs a kernel on the host, with the indices that a grid of `grid_dim` blocks of `block_dim` threads would have.
template <class Kernel>
constexpr void emulate(const Kernel& kernel, std::size_t grid_dim, std::size_t block_dim) noexcept {
  for (std::size_t block = 0; block < grid_dim; ++block)
    for (std::size_t thread = 0; thread < block_dim; ++thread)
      for (std::size_t i = block * block_dim + thread; i < kernel.items(); i += grid_dim * block_dim) kernel(i);
}

#if defined(__CUDACC__)
/// The loop of every thread: items that lie a whole grid apart.
template <class Kernel>
__global__ void run(const Kernel kernel) {
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < kernel.items(); i += std::size_t{gridDim.x} * blockDim.x) kernel(i);
}

/// Starts a prepared kernel on `stream` and returns what CUDA says; does not wait.
template <class Kernel>
inline cudaError_t launch(const Kernel& kernel, cudaStream_t stream = nullptr) noexcept {
  constexpr std::size_t threads = 128, most = 65535;
  if (kernel.items() == 0) return cudaSuccess;
  const std::size_t blocks = ceil_div(kernel.items(), threads);
  run<<<static_cast<unsigned>(blocks < most ? blocks : most), static_cast<unsigned>(threads), 0, stream>>>(kernel);
  return cudaGetLastError();
}
#endif

}  // namespace cuda
AR_END_TARGET
