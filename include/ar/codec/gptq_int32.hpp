// gptq_int32: the words of GPTQ checkpoints (auto_gptq, auto_round, gptqmodel). Codes q[out x in] become qweight[in * bits / 32 x out]: one bit
// stream along the inputs for every output column, so that 32 inputs make `bits` words. Zero points become qzeros[groups x out * bits / 32], a
// stream along the outputs. 2 to 8 bits; 3 bits in the classic GPTQ order; 5 to 7 bits as auto-round writes them (not GPTQModel's planes).
// Source: auto-round 0.16.1, export_to_autogptq and auto_round_extension/torch; equal byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "ar/config.hpp"
#include "ar/detail/bit_stream.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

struct gptq_int32 {
  static constexpr const char* name = "gptq_int32";
  using word = std::uint32_t;
  static constexpr int min_bits = 2, max_bits = 8;

  /// What a zero-point field holds. `v1` (auto_gptq, auto_round:auto_gptq): one less than the zero point; a zero point of 0 saturates for 2, 3,
  /// 4 and 8 bits (it reads back as 1) and wraps for 5, 6 and 7. `v2` (auto_round, gptqmodel): the zero point.
  enum class zeros : unsigned char { v1, v2 };

  /// Shape of qweight for codes[rows x cols]; 0 if a row is not a multiple of 32 codes.
  static constexpr std::size_t packed_rows(std::size_t, std::size_t cols, int bits) noexcept {
    return cols % 32 == 0 ? cols / 32 * static_cast<std::size_t>(bits) : 0;
  }
  static constexpr std::size_t packed_cols(std::size_t rows, std::size_t, int) noexcept { return rows; }

  /// Columns of qzeros for zero points of `rows` outputs; 0 if rows is not a multiple of 32.
  static constexpr std::size_t packed_zero_cols(std::size_t rows, int bits) noexcept { return rows % 32 == 0 ? rows / 32 * static_cast<std::size_t>(bits) : 0; }

  template <int Bits>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    for (std::size_t n = 0; n < code.rows; n += tile_rows)
      for (std::size_t k = 0; k < code.cols; k += tile_cols) {
        const matrix_view<word> out(words.row(k / 32 * static_cast<std::size_t>(Bits)) + n, words.rows, words.cols, words.stride);
        const std::uint8_t* in = code.row(n) + k;
        if (code.rows - n >= tile_rows && code.cols - k >= tile_cols) {
          pack_tile<Bits>(in, code.stride, tile_rows, tile_cols, out);  // constant bounds: the compiler unrolls and vectorizes this one
        } else {
          pack_tile<Bits>(in, code.stride, code.rows - n < tile_rows ? code.rows - n : tile_rows, code.cols - k < tile_cols ? code.cols - k : tile_cols, out);
        }
      }
  }

  template <int Bits>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    for (std::size_t n = 0; n < code.rows; n += tile_rows)
      for (std::size_t k = 0; k < code.cols; k += tile_cols) {
        const matrix_view<const word> in(words.row(k / 32 * static_cast<std::size_t>(Bits)) + n, words.rows, words.cols, words.stride);
        std::uint8_t* out = code.row(n) + k;
        if (code.rows - n >= tile_rows && code.cols - k >= tile_cols) {
          unpack_tile<Bits>(in, tile_rows, tile_cols, out, code.stride);
        } else {
          unpack_tile<Bits>(in, code.rows - n < tile_rows ? code.rows - n : tile_rows, code.cols - k < tile_cols ? code.cols - k : tile_cols, out, code.stride);
        }
      }
  }

  /// The field of zero point z, or -1 if the convention has no field for it.
  static constexpr std::int32_t zero_field(zeros convention, int bits, std::int32_t z) noexcept {
    const std::int32_t top = (1 << bits) - 1;
    if (convention == zeros::v2) return z >= 0 && z <= top ? z : -1;
    if (z < 0 || z > top + 1) return -1;
    if (z == 0) return bits >= 5 && bits <= 7 ? top : 0;
    return z - 1;
  }
  static constexpr std::int32_t zero_of_field(zeros convention, int bits, std::int32_t field) noexcept {
    const std::int32_t top = (1 << bits) - 1;
    if (convention == zeros::v2) return field;
    return bits >= 5 && bits <= 7 ? (field + 1) & top : field + 1;
  }

  template <int Bits>
  static constexpr void pack_zeros(zeros convention, matrix_view<const std::int32_t> zero, matrix_view<word> words) noexcept {
    for (std::size_t g = 0; g < zero.cols; ++g)
      for (std::size_t n = 0; n < zero.rows; n += 32) {
        std::uint8_t fields[32] = {};
        for (std::size_t i = 0; i < 32; ++i) fields[i] = static_cast<std::uint8_t>(zero_field(convention, Bits, zero(n + i, g)));
        bits::pack32<Bits>(fields, words.row(g) + n / 32 * static_cast<std::size_t>(Bits));
      }
  }

  template <int Bits>
  static constexpr void unpack_zeros(zeros convention, matrix_view<const word> words, matrix_view<std::int32_t> zero) noexcept {
    for (std::size_t g = 0; g < zero.cols; ++g)
      for (std::size_t n = 0; n < zero.rows; n += 32) {
        std::uint8_t fields[32] = {};
        bits::unpack32<Bits>(words.row(g) + n / 32 * static_cast<std::size_t>(Bits), fields);
        for (std::size_t i = 0; i < 32; ++i) zero(n + i, g) = zero_of_field(convention, Bits, fields[i]);
      }
  }

 private:
  // A tile is one cache line of output columns; its input rows are read in runs that fit the first-level cache beside it.
  static constexpr std::size_t tile_rows = 16, tile_cols = 256, eights = tile_cols / 8;

  template <int Bits, int... Word>
  AR_INLINE static constexpr void store_words(const std::uint64_t (*eight)[eights], std::size_t block, std::size_t rows, matrix_view<word> out,
                                              std::integer_sequence<int, Word...>) noexcept {
    const auto row_of_words = [&]<int W>() {
      word* line = out.row(block * static_cast<std::size_t>(Bits) + static_cast<std::size_t>(W));
      for (std::size_t r = 0; r < rows; ++r) line[r] = bits::word_of_eights<Bits, W>(eight[r] + 4 * block);
    };
    (row_of_words.template operator()<Word>(), ...);
  }
  template <int Bits>
  AR_INLINE static constexpr void pack_tile(const std::uint8_t* code, std::size_t stride, std::size_t rows, std::size_t cols, matrix_view<word> out) noexcept {
    std::uint64_t eight[tile_rows][eights] = {};
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < cols / 8; ++i) eight[r][i] = bits::squeeze<Bits>(bits::load_bytes(code + r * stride + 8 * i));
    for (std::size_t b = 0; b < cols / 32; ++b) store_words<Bits>(eight, b, rows, out, std::make_integer_sequence<int, Bits>{});
  }
  template <int Bits>
  AR_INLINE static constexpr void unpack_tile(matrix_view<const word> in, std::size_t rows, std::size_t cols, std::uint8_t* code, std::size_t stride) noexcept {
    constexpr std::size_t width = static_cast<std::size_t>(Bits);
    word turned[tile_rows][tile_cols / 32 * width] = {};
    for (std::size_t w = 0; w < cols / 32 * width; ++w)
      for (std::size_t r = 0; r < rows; ++r) turned[r][w] = in(w, r);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t b = 0; b < cols / 32; ++b) bits::unpack32<Bits>(turned[r] + b * width, code + r * stride + 32 * b);
  }
};
static_assert(Codec<gptq_int32>);

}  // namespace AR_ABI
}  // namespace ar
