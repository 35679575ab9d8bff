// The run-time table of packed layouts, as plain data: facts, and functions over views. What each function does and returns is said in ar/pack.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/detail/concepts.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace ar {

/// A codec as plain data, for layouts that are named at run time; what each function does is said above. Layouts of words have the functions over
/// words, layouts of bytes those over bytes; the others are null. Layouts without integer zero points have null for those functions.
struct codec_kernels {
  const char* name;  ///< the codec's
  int group;         ///< the group size if the layout has but one, otherwise 0
  /// The function of this name over the codec.
  /// @{
  bool (*has_bits)(int bits) noexcept;
  matrix_shape (*packed_shape)(int bits, std::size_t rows, std::size_t cols) noexcept;
  matrix_shape (*packed_zero_shape)(int bits, std::size_t rows, std::size_t groups) noexcept;
  matrix_shape (*scale_shape)(int group_size, std::size_t rows, std::size_t cols) noexcept;
  errc (*pack_words)(int bits, matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words) noexcept;
  errc (*unpack_words)(int bits, matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code) noexcept;
  errc (*pack_bytes)(int bits, matrix_view<const std::uint8_t> code, matrix_view<std::uint8_t> bytes) noexcept;
  errc (*unpack_bytes)(int bits, matrix_view<const std::uint8_t> bytes, matrix_view<std::uint8_t> code) noexcept;
  errc (*pack_zeros)(zero_convention convention, int bits, matrix_view<const std::int32_t> zero, matrix_view<std::uint32_t> words) noexcept;
  errc (*unpack_zeros)(zero_convention convention, int bits, matrix_view<const std::uint32_t> words, matrix_view<std::int32_t> zero) noexcept;
  /// @}
};

}  // namespace ar
