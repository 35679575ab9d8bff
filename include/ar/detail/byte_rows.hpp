// Layouts whose rows follow the codes' rows byte by byte: nibbles, and whole bytes with or without a sign. What the floating formats share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/detail/concepts.hpp"
#include "ar/detail/stream_rows.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {
namespace bits {

/// Two codes of 4 bits in a byte, the first one low; rows of whole groups of Group codes.
template <int Group>
struct nibble_rows {
  static_assert(Group % 2 == 0);
  using word = std::uint8_t;
  static constexpr scale_order order = scale_order::rows_by_groups;
  static constexpr int group = Group;
  static constexpr bool has_bits(int bits) noexcept { return bits == 4; }
  static constexpr std::size_t packed_rows(std::size_t rows, std::size_t, int) noexcept { return rows; }
  static constexpr std::size_t packed_cols(std::size_t, std::size_t cols, int) noexcept { return cols % static_cast<std::size_t>(Group) == 0 ? cols / 2 : 0; }

  template <int Bits, class Moves>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    Moves::template pack_rows<nibble_stream, Bits>(code, words);
  }
  template <int Bits, class Moves>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    Moves::template unpack_rows<nibble_stream, Bits>(words, code);
  }
};

/// A code of 8 bits in a byte, exclusive-or Flip; rows of whole groups of Group codes (0: any).
template <int Group, scale_order Order, std::uint8_t Flip = 0>
struct byte_rows {
  using word = std::uint8_t;
  static constexpr scale_order order = Order;
  static constexpr int group = Group;
  static constexpr bool has_bits(int bits) noexcept { return bits == 8; }
  static constexpr std::size_t packed_rows(std::size_t rows, std::size_t, int) noexcept { return rows; }
  static constexpr std::size_t packed_cols(std::size_t, std::size_t cols, int) noexcept {
    // The last of two-dimensional blocks may be short.
    return Group == 0 || Order == scale_order::blocks || cols % static_cast<std::size_t>(Group) == 0 ? cols : 0;
  }

  template <int Bits, class>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    for (std::size_t n = 0; n < code.rows; ++n) flip_bytes<Flip>(code.row(n), code.cols, words.row(n));
  }
  template <int Bits, class Moves>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    pack<Bits, Moves>(words, code);
  }
};

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
