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

  template <int Bits, class Moves>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    Moves::template pack_word_columns<Stream, Bits>(code, words);
  }
  template <int Bits, class Moves>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    Moves::template unpack_word_columns<Stream, Bits>(words, code);
  }
};

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
