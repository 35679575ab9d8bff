// ct_int32: compressed-tensors' pack-quantized layout. Codes q[out x in] become weight_packed[out x ceil(in * bits / 32)], a bit stream along the
// inputs; zero points become weight_zero_point[ceil(out * bits / 32) x groups], a stream along the outputs. 1 to 8 bits, any shape; spare bits are
// zero when written and ignored when read. The format's own numbers are signed: a code is that number plus 2^(bits-1), and so is a zero point.
// Source: compressed-tensors 0.20.0, compressors/pack_quantized/helpers.py; equal byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/zero_fields.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

struct ct_int32 : bits::plain_zeros {
  static constexpr const char* name = "ct_int32";
  using word = std::uint32_t;
  static constexpr scale_order order = scale_order::rows_by_groups;
  static constexpr int group = 0;

  static constexpr bool has_bits(int bits) noexcept { return bits >= 1 && bits <= 8; }
  static constexpr std::size_t packed_rows(std::size_t rows, std::size_t, int) noexcept { return rows; }
  static constexpr std::size_t packed_cols(std::size_t, std::size_t cols, int bits) noexcept { return words_for(cols, bits); }
  static constexpr std::size_t packed_zero_rows(std::size_t rows, std::size_t, int bits) noexcept { return words_for(rows, bits); }
  static constexpr std::size_t packed_zero_cols(std::size_t, std::size_t groups, int) noexcept { return groups; }

  template <int Bits, class Moves>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    Moves::template pack_rows<bits::natural_stream, Bits>(code, words);
  }
  template <int Bits, class Moves>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    Moves::template unpack_rows<bits::natural_stream, Bits>(words, code);
  }

  template <int Bits>
  static constexpr void pack_zeros(zero_convention convention, matrix_view<const std::int32_t> zero, matrix_view<word> words) noexcept {
    for (std::size_t g = 0; g < zero.cols; ++g)
      for (std::size_t n = 0; n < zero.rows; n += 32) {
        const std::size_t count = zero.rows - n < 32 ? zero.rows - n : 32;
        std::uint8_t fields[32] = {};
        word packed[static_cast<std::size_t>(Bits)] = {};
        for (std::size_t i = 0; i < count; ++i) fields[i] = static_cast<std::uint8_t>(zero_field(convention, Bits, zero(n + i, g)));
        bits::pack_row<Bits>(fields, count, packed);
        for (std::size_t w = 0; w < words_for(count, Bits); ++w) words(n / 32 * static_cast<std::size_t>(Bits) + w, g) = packed[w];
      }
  }
  template <int Bits>
  static constexpr void unpack_zeros(zero_convention convention, matrix_view<const word> words, matrix_view<std::int32_t> zero) noexcept {
    for (std::size_t g = 0; g < zero.cols; ++g)
      for (std::size_t n = 0; n < zero.rows; n += 32) {
        const std::size_t count = zero.rows - n < 32 ? zero.rows - n : 32;
        std::uint8_t fields[32] = {};
        word packed[static_cast<std::size_t>(Bits)] = {};
        for (std::size_t w = 0; w < words_for(count, Bits); ++w) packed[w] = words(n / 32 * static_cast<std::size_t>(Bits) + w, g);
        bits::unpack_row<Bits>(packed, count, fields);
        for (std::size_t i = 0; i < count; ++i) zero(n + i, g) = zero_of_field(convention, Bits, fields[i]);
      }
  }

 private:
  /// ceil(n * bits / 32) without the product, which could wrap.
  static constexpr std::size_t words_for(std::size_t n, int bits) noexcept {
    const std::size_t width = static_cast<std::size_t>(bits);
    return n / 32 * width + ceil_div(n % 32 * width, 32);
  }
};
static_assert(ZeroCodec<ct_int32>);

}  // namespace AR_ABI
}  // namespace ar
