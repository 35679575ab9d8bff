// Words whose stream runs along the inputs, one column of words per output: what GPTQ's layouts share. A stream gives pack_row<Bits> and
// unpack_row<Bits>; here its rows become columns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/detail/concepts.hpp"
#include "ar/detail/stream_rows.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {
namespace bits {

template <class Stream>
struct column_words {
  using word = std::uint32_t;

  template <int Bits>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    constexpr std::size_t width = static_cast<std::size_t>(Bits);
    word line[tile_rows * tile_cols / 32 * width] = {};
    for (std::size_t n = 0; n < code.rows; n += tile_rows)
      for (std::size_t k = 0; k < code.cols; k += tile_cols) {
        const std::size_t rows = smaller(code.rows - n, tile_rows), cols = smaller(code.cols - k, tile_cols), line_words = cols / 32 * width;
        for (std::size_t r = 0; r < rows; ++r) Stream::template pack_row<Bits>(code.row(n + r) + k, cols, line + r * line_words);
        transpose_words<false>(line, line_words, rows, line_words, words.row(k / 32 * width) + n, words.stride);
      }
  }

  template <int Bits>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    constexpr std::size_t width = static_cast<std::size_t>(Bits);
    word line[tile_rows * tile_cols / 32 * width] = {};
    for (std::size_t n = 0; n < code.rows; n += tile_rows)
      for (std::size_t k = 0; k < code.cols; k += tile_cols) {
        const std::size_t rows = smaller(code.rows - n, tile_rows), cols = smaller(code.cols - k, tile_cols), line_words = cols / 32 * width;
        transpose_words<true>(words.row(k / 32 * width) + n, words.stride, line_words, rows, line, line_words);
        for (std::size_t r = 0; r < rows; ++r) Stream::template unpack_row<Bits>(line + r * line_words, cols, code.row(n + r) + k);
      }
  }

 private:
  static constexpr std::size_t tile_rows = 32, tile_cols = 256;
  static constexpr std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }
};

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
