// Zero points as rows of fields, one row per group, the stream along the outputs: what the layouts with integer zero points share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/detail/concepts.hpp"
#include "ar/detail/stream_rows.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {
namespace bits {

/// Fields that hold the zero point itself.
struct plain_zeros {
  static constexpr bool has_convention(zero_convention c) noexcept { return c == zero_convention::v2; }
  static constexpr std::int32_t zero_field(zero_convention c, int bits, std::int32_t z) noexcept {
    return has_convention(c) && z >= 0 && z < 1 << bits ? z : -1;
  }
  static constexpr std::int32_t zero_of_field(zero_convention, int, std::int32_t field) noexcept { return field; }
};

/// zero[rows x groups] to words[groups x ...] and back. Stream::place says at which place of 32 an output's field lies.
template <class C, class Stream, int Bits>
constexpr void pack_zero_rows(zero_convention convention, matrix_view<const std::int32_t> zero, matrix_view<std::uint32_t> words) noexcept {
  for (std::size_t g = 0; g < zero.cols; ++g)
    for (std::size_t n = 0; n < zero.rows; n += 32) {
      const std::size_t count = zero.rows - n < 32 ? zero.rows - n : 32;
      std::uint8_t fields[32] = {};
      for (std::size_t i = 0; i < count; ++i) fields[Stream::place(i)] = static_cast<std::uint8_t>(C::zero_field(convention, Bits, zero(n + i, g)));
      Stream::template pack_row<Bits>(fields, count, words.row(g) + n / 32 * static_cast<std::size_t>(Bits));
    }
}
template <class C, class Stream, int Bits>
constexpr void unpack_zero_rows(zero_convention convention, matrix_view<const std::uint32_t> words, matrix_view<std::int32_t> zero) noexcept {
  for (std::size_t g = 0; g < zero.cols; ++g)
    for (std::size_t n = 0; n < zero.rows; n += 32) {
      const std::size_t count = zero.rows - n < 32 ? zero.rows - n : 32;
      std::uint8_t fields[32] = {};
      Stream::template unpack_row<Bits>(words.row(g) + n / 32 * static_cast<std::size_t>(Bits), count, fields);
      for (std::size_t i = 0; i < count; ++i) zero(n + i, g) = C::zero_of_field(convention, Bits, fields[Stream::place(i)]);
    }
}

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
