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

  template <int Bits, class Moves>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    Moves::template pack_columns<Bits>(code, words, output_at{});
  }
  template <int Bits, class Moves>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    Moves::template unpack_columns<Bits>(words, code, output_at{});
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
  struct output_at {
    AR_INLINE constexpr std::size_t operator()(std::size_t i) const noexcept { return awq_stream::output(i); }
  };
};
static_assert(ZeroCodec<awq_int32>);
static_assert(awq_stream::place(1) == 4 && awq_stream::place(6) == 3 && awq_stream::output(4) == 1 && awq_stream::output(3) == 6);

}  // namespace AR_ABI
}  // namespace ar
