// What tests of packed layouts over run-time tables share: matrices with gaps behind their rows, and the functions of a table by the kind of word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ar/detail/codec_kernels.hpp"
#include "ar/view.hpp"

namespace support {

/// rows x cols elements, each row followed by `gap` others, the last one by nothing, so that the sanitizers see a vector that reaches beyond; all
/// bytes are 0xA5.
template <class T>
struct strided {
  std::size_t rows, cols, stride;
  std::vector<T> memory;
  strided(std::size_t r, std::size_t c, std::size_t gap)
      : rows(r), cols(c), stride(c + gap), memory((r - 1) * (c + gap) + c, static_cast<T>(0xA5A5A5A5)) {}
  ar::matrix_view<T> view() { return {memory.data(), rows, cols, stride}; }
  ar::matrix_view<const T> const_view() const { return {memory.data(), rows, cols, stride}; }
};

/// pack and unpack of either kind of layout.
template <class Word>
struct calls;
template <>
struct calls<std::uint32_t> {
  static constexpr auto pack = &ar::codec_kernels::pack_words;
  static constexpr auto unpack = &ar::codec_kernels::unpack_words;
};
template <>
struct calls<std::uint8_t> {
  static constexpr auto pack = &ar::codec_kernels::pack_bytes;
  static constexpr auto unpack = &ar::codec_kernels::unpack_bytes;
};

}  // namespace support
