// The bit stream under every integer layout: value i of `Bits` bits occupies stream bits [i * Bits, (i + 1) * Bits), least significant first,
// bytes in little-endian order. Eight codes make Bits whole bytes, which is the unit of work here.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "ar/config.hpp"

namespace ar {
inline namespace AR_ABI {
namespace bits {

/// Eight bytes as a number, first byte lowest.
AR_INLINE constexpr std::uint64_t load_bytes(const std::uint8_t* p) noexcept {
  if (!std::is_constant_evaluated() && std::endian::native == std::endian::little) {
    std::uint64_t x = 0;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  std::uint64_t x = 0;
  for (unsigned i = 0; i < 8; ++i) x |= static_cast<std::uint64_t>(p[i]) << (8 * i);
  return x;
}
AR_INLINE constexpr void store_bytes(std::uint64_t x, std::uint8_t* p) noexcept {
  if (!std::is_constant_evaluated() && std::endian::native == std::endian::little) {
    std::memcpy(p, &x, sizeof x);
    return;
  }
  for (unsigned i = 0; i < 8; ++i) p[i] = static_cast<std::uint8_t>(x >> (8 * i) & 0xFFu);
}
/// Eight codes, one per byte, to their 8 * Bits stream bits: pairs close the gap between them, then fours, then all.
template <int Bits>
AR_INLINE constexpr std::uint64_t squeeze(std::uint64_t x) noexcept {
  static_assert(Bits >= 1 && Bits <= 8);
  if constexpr (Bits == 8) return x;
  x = (x & 0x00FF00FF00FF00FFu) | ((x & 0xFF00FF00FF00FF00u) >> (8 - Bits));
  x = (x & 0x0000FFFF0000FFFFu) | ((x & 0xFFFF0000FFFF0000u) >> (16 - 2 * Bits));
  return (x & 0x00000000FFFFFFFFu) | ((x & 0xFFFFFFFF00000000u) >> (32 - 4 * Bits));
}

/// The reverse; bits of x above 8 * Bits are ignored.
template <int Bits>
AR_INLINE constexpr std::uint64_t spread(std::uint64_t x) noexcept {
  static_assert(Bits >= 1 && Bits <= 8);
  if constexpr (Bits == 8) return x;
  constexpr std::uint64_t four = (std::uint64_t{1} << (4 * Bits)) - 1, two = (std::uint64_t{1} << (2 * Bits)) - 1, one = (std::uint64_t{1} << Bits) - 1;
  x = (x & four) | ((x >> (4 * Bits) & four) << 32);
  x = (x & (two | two << 32)) | ((x >> (2 * Bits) & (two | two << 32)) << 16);
  constexpr std::uint64_t ones = one | one << 16 | one << 32 | one << 48;
  return (x & ones) | ((x >> Bits & ones) << 8);
}
static_assert(squeeze<3>(0x0706050403020100u) == 076543210u && spread<3>(076543210u) == 0x0706050403020100u);
static_assert(squeeze<4>(0x0F0E0D0C0B0A0908u) == 0xFEDCBA98u && spread<4>(0xFEDCBA98u) == 0x0F0E0D0C0B0A0908u);

/// Word `Word` of the `Bits` words that 32 codes make, from their four squeezed eights.
template <int Bits, int Word>
AR_INLINE constexpr std::uint32_t word_of_eights(const std::uint64_t* eights) noexcept {
  std::uint64_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const int shift = 8 * Bits * i - 32 * Word;  // where the eight begins in this word
    if (shift <= -8 * Bits || shift >= 32) continue;
    word |= shift >= 0 ? eights[i] << shift : eights[i] >> -shift;
  }
  return static_cast<std::uint32_t>(word & 0xFFFFFFFFu);
}

/// Eight `Eight` of 32 codes, still squeezed, from their `Bits` words; bits above 8 * Bits are those of its neighbors.
template <int Bits, int Eight>
AR_INLINE constexpr std::uint64_t eight_of_words(const std::uint32_t* words) noexcept {
  std::uint64_t eight = 0;
  for (int w = 0; w < Bits; ++w) {
    const int shift = 32 * w - 8 * Bits * Eight;
    if (shift <= -32 || shift >= 8 * Bits) continue;
    eight |= shift >= 0 ? static_cast<std::uint64_t>(words[w]) << shift : static_cast<std::uint64_t>(words[w]) >> -shift;
  }
  return eight;
}

/// 32 codes to `Bits` words.
template <int Bits, int... Word>
AR_INLINE constexpr void words_of_eights(const std::uint64_t* eights, std::uint32_t* words, std::integer_sequence<int, Word...>) noexcept {
  ((words[Word] = word_of_eights<Bits, Word>(eights)), ...);
}
template <int Bits>
constexpr void pack32(const std::uint8_t* code, std::uint32_t* words) noexcept {
  std::uint64_t eights[4] = {};
  for (int i = 0; i < 4; ++i) eights[i] = squeeze<Bits>(load_bytes(code + 8 * i));
  words_of_eights<Bits>(eights, words, std::make_integer_sequence<int, Bits>{});
}
/// `Bits` words to 32 codes.
template <int Bits>
constexpr void unpack32(const std::uint32_t* words, std::uint8_t* code) noexcept {
  store_bytes(spread<Bits>(eight_of_words<Bits, 0>(words)), code);
  store_bytes(spread<Bits>(eight_of_words<Bits, 1>(words)), code + 8);
  store_bytes(spread<Bits>(eight_of_words<Bits, 2>(words)), code + 16);
  store_bytes(spread<Bits>(eight_of_words<Bits, 3>(words)), code + 24);
}

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
