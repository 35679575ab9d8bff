// awq_int32: the words of AWQ checkpoints (auto_awq, version "gemm"; auto_round:auto_awq). Codes q[out x in] become qweight[in x out * bits / 32]:
// one bit stream along the outputs for every input, in which eight outputs lie in the order 0 2 4 6 1 3 5 7. Zero points become
// qzeros[groups x out * bits / 32] in the same order. 4 bits (outputs a multiple of 8) and 5 to 7 bits (of 32), which are auto-round's own.
// Source: auto-round 0.16.1, export_to_awq/utils.py (AutoAWQ's order); equal byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/zero_fields.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

/// The order of the outputs in a word.
struct awq_stream : bits::natural_stream {
  /// Where output i of eight lies, and which output lies at place i.
  static constexpr std::size_t place(std::size_t i) noexcept { return (i & ~std::size_t{7}) | (i & 1) << 2 | (i & 7) >> 1; }
  static constexpr std::size_t output(std::size_t i) noexcept { return (i & ~std::size_t{7}) | (i & 3) << 1 | (i & 7) >> 2; }
};

struct awq_int32 : bits::plain_zeros {
  static constexpr const char* name = "awq_int32";
  using word = std::uint32_t;
  static constexpr scale_order order = scale_order::groups_by_rows;
  static constexpr int group = 0;

  static constexpr bool has_bits(int bits) noexcept { return bits >= 4 && bits <= 7; }
  static constexpr std::size_t packed_rows(std::size_t, std::size_t cols, int) noexcept { return cols; }
  /// 0 if the outputs are not a multiple of 8 (4 bits) or 32.
  static constexpr std::size_t packed_cols(std::size_t rows, std::size_t, int bits) noexcept {
    return bits == 4 ? (rows % 8 == 0 ? rows / 8 : 0) : rows % 32 == 0 ? rows / 32 * static_cast<std::size_t>(bits) : 0;
  }
  static constexpr std::size_t packed_zero_rows(std::size_t, std::size_t groups, int) noexcept { return groups; }
  static constexpr std::size_t packed_zero_cols(std::size_t rows, std::size_t, int bits) noexcept { return packed_cols(rows, 0, bits); }

  template <int Bits>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    std::uint8_t turned[tile_cols * tile_rows] = {};
    for (std::size_t n = 0; n < code.rows; n += tile_rows)
      for (std::size_t k = 0; k < code.cols; k += tile_cols) {
        const std::size_t rows = smaller(code.rows - n, tile_rows), cols = smaller(code.cols - k, tile_cols);
        bits::transpose_bytes(code.row(n) + k, code.stride, rows, cols, turned, tile_rows, output_at{}, bits::as_they_are{});
        for (std::size_t c = 0; c < cols; ++c)
          bits::pack_row<Bits>(turned + c * tile_rows, rows, words.row(k + c) + n / 32 * static_cast<std::size_t>(Bits));
      }
  }

  template <int Bits>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    std::uint8_t turned[tile_cols * tile_rows] = {};
    for (std::size_t n = 0; n < code.rows; n += tile_rows)
      for (std::size_t k = 0; k < code.cols; k += tile_cols) {
        const std::size_t rows = smaller(code.rows - n, tile_rows), cols = smaller(code.cols - k, tile_cols);
        for (std::size_t c = 0; c < cols; ++c)
          bits::unpack_row<Bits>(words.row(k + c) + n / 32 * static_cast<std::size_t>(Bits), rows, turned + c * tile_rows);
        bits::transpose_bytes(turned, tile_rows, cols, rows, code.row(n) + k, code.stride, bits::as_they_are{}, output_at{});
      }
  }

  template <int Bits>
  static constexpr void pack_zeros(zero_convention convention, matrix_view<const std::int32_t> zero, matrix_view<word> words) noexcept {
    bits::pack_zero_rows<awq_int32, awq_stream, Bits>(convention, zero, words);
  }
  template <int Bits>
  static constexpr void unpack_zeros(zero_convention convention, matrix_view<const word> words, matrix_view<std::int32_t> zero) noexcept {
    bits::unpack_zero_rows<awq_int32, awq_stream, Bits>(convention, words, zero);
  }

 private:
  // A line of words and a line of codes: 128 outputs of 4 bits, 64 inputs.
  static constexpr std::size_t tile_rows = 128, tile_cols = 64;
  static constexpr std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }
  struct output_at {
    AR_INLINE constexpr std::size_t operator()(std::size_t i) const noexcept { return awq_stream::output(i); }
  };
};
static_assert(ZeroCodec<awq_int32>);
static_assert(awq_stream::place(1) == 4 && awq_stream::place(6) == 3 && awq_stream::output(4) == 1 && awq_stream::output(3) == 6);

}  // namespace AR_ABI
}  // namespace ar
