// gptq_planar: the words of GPTQModel's files of checkpoint_format gptq_p, and of its files of 5 to 7 bits. Shapes are those of gptq_int32, but the
// `bits` words of 32 codes are split into planes of 4, 2 and 1 bit, the low bits first: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. A plane of
// p bits takes p words, a bit stream of those bits alone. Zero points are stored as they are.
// Source: GPTQModel 7.3.4, gptqmodel/utils/planar_packing.py; equal byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "ar/config.hpp"
#include "ar/detail/column_words.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/zero_fields.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

/// 32 codes as planes of their bits.
struct planar_stream {
 private:
  static constexpr int widest(int bits) noexcept { return bits >= 8 ? 8 : bits >= 4 ? 4 : bits >= 2 ? 2 : 1; }
  template <int Bits, int... Width>
  struct split : split<Bits - widest(Bits), Width..., widest(Bits)> {};
  template <int... Width>
  struct split<0, Width...> {
    using widths = std::integer_sequence<int, Width...>;
  };

 public:
  static constexpr std::size_t place(std::size_t i) noexcept { return i; }
  template <int Bits>
  using planes = typename split<Bits>::widths;

  /// n is a multiple of 32.
  template <int Bits>
  static constexpr void pack_row(const std::uint8_t* code, std::size_t n, std::uint32_t* words) noexcept {
    for (std::size_t i = 0; i < n; i += 32, words += Bits) pack_planes<Bits, 0>(code + i, words);
  }
  template <int Bits>
  static constexpr void unpack_row(const std::uint32_t* words, std::size_t n, std::uint8_t* code) noexcept {
    for (std::size_t i = 0; i < n; i += 32, words += Bits) {
      std::uint64_t eights[4] = {};
      unpack_planes<Bits, 0>(words, eights);
      for (std::size_t e = 0; e < 4; ++e) bits::store_bytes(eights[e], code + i + 8 * e);
    }
  }

 private:
  template <int Bits, int From>
  static constexpr void pack_planes(const std::uint8_t* code, std::uint32_t* words) noexcept {
    if constexpr (Bits > 0) {
      constexpr int width = widest(Bits);
      constexpr std::uint64_t mask = 0x0101010101010101u * ((1u << width) - 1);
      std::uint64_t eights[4] = {};
      for (std::size_t e = 0; e < 4; ++e) eights[e] = bits::squeeze<width>(bits::load_bytes(code + 8 * e) >> From & mask);
      bits::words_of_eights<width>(eights, words, std::make_integer_sequence<int, width>{});
      pack_planes<Bits - width, From + width>(code, words + width);
    }
  }
  template <int Bits, int From>
  static constexpr void unpack_planes(const std::uint32_t* words, std::uint64_t* eights) noexcept {
    if constexpr (Bits > 0) {
      constexpr int width = widest(Bits);
      eights[0] |= bits::spread<width>(bits::eight_of_words<width, 0>(words)) << From;
      eights[1] |= bits::spread<width>(bits::eight_of_words<width, 1>(words)) << From;
      eights[2] |= bits::spread<width>(bits::eight_of_words<width, 2>(words)) << From;
      eights[3] |= bits::spread<width>(bits::eight_of_words<width, 3>(words)) << From;
      unpack_planes<Bits - width, From + width>(words + width, eights);
    }
  }
};

struct gptq_planar : bits::column_words<planar_stream>, bits::plain_zeros {
  static constexpr const char* name = "gptq_planar";
  static constexpr scale_order order = scale_order::groups_by_rows;
  static constexpr int group = 0;

  static constexpr bool has_bits(int bits) noexcept { return bits >= 2 && bits <= 8; }
  static constexpr std::size_t packed_rows(std::size_t, std::size_t cols, int bits) noexcept {
    return cols % 32 == 0 ? cols / 32 * static_cast<std::size_t>(bits) : 0;
  }
  static constexpr std::size_t packed_cols(std::size_t rows, std::size_t, int) noexcept { return rows; }
  static constexpr std::size_t packed_zero_rows(std::size_t, std::size_t groups, int) noexcept { return groups; }
  static constexpr std::size_t packed_zero_cols(std::size_t rows, std::size_t, int bits) noexcept {
    return rows % 32 == 0 ? rows / 32 * static_cast<std::size_t>(bits) : 0;
  }

  template <int Bits>
  static constexpr void pack_zeros(zero_convention convention, matrix_view<const std::int32_t> zero, matrix_view<word> words) noexcept {
    bits::pack_zero_rows<gptq_planar, planar_stream, Bits>(convention, zero, words);
  }
  template <int Bits>
  static constexpr void unpack_zeros(zero_convention convention, matrix_view<const word> words, matrix_view<std::int32_t> zero) noexcept {
    bits::unpack_zero_rows<gptq_planar, planar_stream, Bits>(convention, words, zero);
  }
};
static_assert(ZeroCodec<gptq_planar>);

}  // namespace AR_ABI
}  // namespace ar
