// gptq_int32: the words of GPTQ checkpoints (auto_gptq, auto_round, gptqmodel). Codes q[out x in] become qweight[in * bits / 32 x out]: one bit
// stream along the inputs for every output column, so that 32 inputs make `bits` words. Zero points become qzeros[groups x out * bits / 32], a
// stream along the outputs. 2 to 8 bits; 3 bits in the classic GPTQ order; 5 to 7 bits as auto-round writes them (not GPTQModel's planes).
// Source: auto-round 0.16.1, export_to_autogptq and auto_round_extension/torch; equal byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ar/config.hpp"
#include "ar/detail/column_words.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/zero_fields.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

struct gptq_int32 : bits::column_words<bits::natural_stream> {
  static constexpr const char* name = "gptq_int32";
  static constexpr scale_order order = scale_order::groups_by_rows;
  static constexpr int group = 0;

  /// What a zero-point field holds. `v1` (auto_gptq, auto_round:auto_gptq): one less than the zero point; a zero point of 0 saturates for 2, 3,
  /// 4 and 8 bits (it reads back as 1) and wraps for 5, 6 and 7. `v2` (auto_round, gptqmodel): the zero point.
  using zeros = zero_convention;

  static constexpr bool has_bits(int bits) noexcept { return bits >= 2 && bits <= 8; }
  static constexpr bool has_convention(zeros) noexcept { return true; }

  /// Shape of qweight for codes[rows x cols]; 0 if a row is not a multiple of 32 codes.
  static constexpr std::size_t packed_rows(std::size_t, std::size_t cols, int bits) noexcept {
    return cols % 32 == 0 ? cols / 32 * static_cast<std::size_t>(bits) : 0;
  }
  static constexpr std::size_t packed_cols(std::size_t rows, std::size_t, int) noexcept { return rows; }

  /// Shape of qzeros for zero points of `rows` outputs; 0 if rows is not a multiple of 32.
  static constexpr std::size_t packed_zero_rows(std::size_t, std::size_t groups, int) noexcept { return groups; }
  static constexpr std::size_t packed_zero_cols(std::size_t rows, std::size_t, int bits) noexcept {
    return rows % 32 == 0 ? rows / 32 * static_cast<std::size_t>(bits) : 0;
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
    bits::pack_zero_rows<gptq_int32, bits::natural_stream, Bits>(convention, zero, words);
  }
  template <int Bits>
  static constexpr void unpack_zeros(zeros convention, matrix_view<const word> words, matrix_view<std::int32_t> zero) noexcept {
    bits::unpack_zero_rows<gptq_int32, bits::natural_stream, Bits>(convention, words, zero);
  }

  /// g_idx: the group of every input, k / group_size; -1 is one group. Files without it mean the same.
  static constexpr void write_g_idx(int group_size, std::span<std::int32_t> g_idx) noexcept {
    for (std::size_t k = 0; k < g_idx.size(); ++k) g_idx[k] = group_size > 0 ? static_cast<std::int32_t>(k / static_cast<std::size_t>(group_size)) : 0;
  }
  /// False for files made with desc_act, whose inputs are assigned to groups in another order: their codes mean nothing without it.
  static constexpr bool is_plain_g_idx(int group_size, std::span<const std::int32_t> g_idx) noexcept {
    for (std::size_t k = 0; k < g_idx.size(); ++k)
      if (g_idx[k] < 0 || static_cast<std::size_t>(g_idx[k]) != (group_size > 0 ? k / static_cast<std::size_t>(group_size) : 0)) return false;
    return true;
  }
};
static_assert(ZeroCodec<gptq_int32>);

}  // namespace AR_ABI
}  // namespace ar
