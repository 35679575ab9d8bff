// Door: weights to codes and back, over views. Everything works in constant expressions (float lane) and with the vector instructions that the
// unit is compiled for; ar/dispatch.hpp chooses among instruction sets at run time instead.
//
// A matrix is w[rows x cols] float32, row-major. A scheme names the data type and the group size; parameters are scale[rows x groups] and, for
// types that have one, zero_point[rows x groups], with groups = ceil(cols / group_size) (1 for -1; for 0, one number for the whole matrix,
// which must then be contiguous). Codes are unsigned, one per byte: 0 .. 2^bits-1, with weight = scale * (code - zero_point) and the zero point
// 2^(bits-1) for symmetric types. Scales come back widened from their storage format, which they fit exactly.
// All functions: errc::bad_shape if views do not fit together, errc::bad_value for a width or group size out of range, errc::non_finite if the
// weights hold NaN or infinity, errc::not_representable if a scale overflows its format; nothing is written then. No memory is allocated.
#pragma once

#include <type_traits>

#include "ar/data_types.hpp"
#include "ar/detail/block_rows-inl.h"
#include "ar/detail/rows-inl.h"
#include "ar/scheme.hpp"
#if !defined(AR_NO_HIGHWAY)
#include "ar/detail/lane-inl.h"
#endif

AR_BEGIN_TARGET

/// The lane of this unit: Highway's vector for the compiler's flags, or one float.
#if defined(AR_NO_HIGHWAY)
using native_lane = float;
#else
using native_lane = vec;
#endif

/// Calls f with the reference lane in a constant expression and with the unit's own lane otherwise.
#define AR_LANE_CALL(function, type, ...) \
  (std::is_constant_evaluated() ? rows::function<type, float>(__VA_ARGS__) : rows::function<type, native_lane>(__VA_ARGS__))

/// Scale (and zero point) of every group of w. Source: the data type's header.
template <class T, class G>
  requires RangeType<T>
[[nodiscard]] constexpr errc fit(const scheme<T, G>& s, matrix_view<const float> w, matrix_view<float> scale, matrix_view<float> zero_point = {}) noexcept {
  return AR_LANE_CALL(fit, T, s.type, s.shape(), w, scale, zero_point);
}

/// Fits every group of w and writes its codes: code[rows x cols], scale, zero_point. Rounds half to even.
template <class T, class G>
  requires RangeType<T>
[[nodiscard]] constexpr errc quantize(const scheme<T, G>& s, matrix_view<const float> w, matrix_view<std::uint8_t> code, matrix_view<float> scale,
                                      matrix_view<float> zero_point = {}) noexcept {
  return AR_LANE_CALL(quantize, T, s.type, s.shape(), w, code, scale, zero_point);
}

/// Codes of w for parameters that are given, for instance tuned ones. errc::bad_value if a scale is zero or a parameter is not finite.
template <class T, class G>
  requires RangeType<T>
[[nodiscard]] constexpr errc encode(const scheme<T, G>& s, matrix_view<const float> w, matrix_view<const float> scale,
                                    matrix_view<const float> zero_point, matrix_view<std::uint8_t> code) noexcept {
  return AR_LANE_CALL(encode, T, s.type, s.shape(), w, scale, zero_point, code);
}

/// out = scale * (code - zero_point), rounded to the weight format of the type. Parameters are used as they are.
template <class T, class G>
  requires RangeType<T>
[[nodiscard]] constexpr errc dequantize(const scheme<T, G>& s, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                                        matrix_view<const float> zero_point, matrix_view<float> out) noexcept {
  return AR_LANE_CALL(dequantize, T, s.type, s.shape(), code, scale, zero_point, out);
}

/// The weights that a reader of the quantized matrix will see. `out` may be w itself. Equals quantize + dequantize, except that weights which
/// round to a zero code keep the reference's sign of zero.
template <class T, class G>
  requires RangeType<T>
[[nodiscard]] constexpr errc qdq(const scheme<T, G>& s, matrix_view<const float> w, matrix_view<float> out) noexcept {
  return AR_LANE_CALL(qdq, T, s.type, s.shape(), w, out);
}

/// Types with a layout of their own (GGUF): w to blocks, bytes[rows x cols / block_size * block_bytes]. `importance` is null or one
/// non-negative number per column. errc::bad_shape if cols is not a whole number of blocks.
template <class T, class G>
  requires BlockType<T>
[[nodiscard]] constexpr errc quantize(const scheme<T, G>& s, matrix_view<const float> w, matrix_view<std::uint8_t> bytes,
                                      const float* importance = nullptr) noexcept {
  return AR_LANE_CALL(quantize, T, s.type, w, importance, bytes);
}

/// Blocks to weights.
template <class T, class G>
  requires ReadableBlockType<T>
[[nodiscard]] constexpr errc dequantize(const scheme<T, G>& s, matrix_view<const std::uint8_t> bytes, matrix_view<float> out) noexcept {
  return AR_LANE_CALL(dequantize, T, s.type, bytes, out);
}

/// The weights that a reader of the blocks will see. `out` may be w itself.
template <class T, class G>
  requires BlockType<T>
[[nodiscard]] constexpr errc qdq(const scheme<T, G>& s, matrix_view<const float> w, matrix_view<float> out, const float* importance = nullptr) noexcept {
  return AR_LANE_CALL(qdq, T, s.type, w, importance, out);
}

#undef AR_LANE_CALL

AR_END_TARGET
