// The bit stream under every integer layout: value i of `Bits` bits occupies stream bits [i * Bits, (i + 1) * Bits), least significant first,
// bytes in little-endian order. Eight codes make Bits whole bytes, which is the unit of work here.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

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
AR_INLINE constexpr std::uint32_t load_word(const std::uint8_t* p) noexcept {
  if (!std::is_constant_evaluated() && std::endian::native == std::endian::little) {
    std::uint32_t x = 0;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  return static_cast<std::uint32_t>(p[0]) | static_cast<std::uint32_t>(p[1]) << 8 | static_cast<std::uint32_t>(p[2]) << 16 |
         static_cast<std::uint32_t>(p[3]) << 24;
}
AR_INLINE constexpr void store_word(std::uint32_t x, std::uint8_t* p) noexcept {
  if (!std::is_constant_evaluated() && std::endian::native == std::endian::little) {
    std::memcpy(p, &x, sizeof x);
    return;
  }
  for (unsigned i = 0; i < 4; ++i) p[i] = static_cast<std::uint8_t>(x >> (8 * i) & 0xFFu);
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

/// Packs `eights` times eight codes. Writes eights * Bits bytes and touches up to 8 - Bits bytes behind them: leave that room.
template <int Bits>
constexpr void pack(const std::uint8_t* code, std::size_t eights, std::uint8_t* stream) noexcept {
  for (std::size_t i = 0; i < eights; ++i) store_bytes(squeeze<Bits>(load_bytes(code + 8 * i)), stream + static_cast<std::size_t>(Bits) * i);
}
/// Unpacks `eights` times eight codes. Reads up to 8 - Bits bytes behind the stream: they must exist.
template <int Bits>
constexpr void unpack(const std::uint8_t* stream, std::size_t eights, std::uint8_t* code) noexcept {
  for (std::size_t i = 0; i < eights; ++i) store_bytes(spread<Bits>(load_bytes(stream + static_cast<std::size_t>(Bits) * i)), code + 8 * i);
}

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
