// Sixteen bytes at once, for packed layouts: moves, shifts and logic only, which the baseline of every 64-bit machine has (SSE2, NEON), so that no
// choice of an instruction set is needed at run time. Where AR_HAS_BYTES16 is 0 (other machines, big-endian ones) the callers' plain code does all.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"

#if !defined(__CUDACC__) && (defined(__SSE2__) || (defined(__ARM_NEON) && defined(__aarch64__))) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define AR_HAS_BYTES16 1
#else
#define AR_HAS_BYTES16 0
#endif

#if AR_HAS_BYTES16
namespace ar {
inline namespace AR_ABI {
namespace bits {

using u8x16 = std::uint8_t __attribute__((vector_size(16)));
using u16x8 = std::uint16_t __attribute__((vector_size(16)));
using u32x4 = std::uint32_t __attribute__((vector_size(16)));
using u64x2 = std::uint64_t __attribute__((vector_size(16)));

AR_INLINE inline u8x16 load16(const void* p) noexcept {
  u8x16 x;
  __builtin_memcpy(&x, p, 16);
  return x;
}
AR_INLINE inline std::uint64_t load8(const void* p) noexcept {
  std::uint64_t x;
  __builtin_memcpy(&x, p, 8);
  return x;
}
AR_INLINE inline std::uint32_t load4(const void* p) noexcept {
  std::uint32_t x;
  __builtin_memcpy(&x, p, 4);
  return x;
}
AR_INLINE inline void store16(u8x16 x, void* p) noexcept { __builtin_memcpy(p, &x, 16); }

/// All bytes equal b.
AR_INLINE inline u8x16 every_byte(std::uint8_t b) noexcept { return u8x16{b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b}; }

/// Shifts inside the 16-bit or 64-bit parts; there are none for bytes.
template <int N>
AR_INLINE inline u8x16 shift_right_16(u8x16 x) noexcept {
  return std::bit_cast<u8x16>(std::bit_cast<u16x8>(x) >> N);
}
template <int N>
AR_INLINE inline u8x16 shift_left_16(u8x16 x) noexcept {
  return std::bit_cast<u8x16>(std::bit_cast<u16x8>(x) << N);
}

/// The bytes of a and b in turn: a0 b0 a1 b1 ..., of their lower and upper halves.
AR_INLINE inline u8x16 zip_lower_8(u8x16 a, u8x16 b) noexcept {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
AR_INLINE inline u8x16 zip_upper_8(u8x16 a, u8x16 b) noexcept {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
AR_INLINE inline u32x4 zip_lower_32(u32x4 a, u32x4 b) noexcept { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
AR_INLINE inline u32x4 zip_upper_32(u32x4 a, u32x4 b) noexcept { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }

/// The even bytes of a, then those of b. The odd ones must be zero: that is one instruction where narrowing saturates.
AR_INLINE inline u8x16 even_bytes(u8x16 a, u8x16 b) noexcept {
#if defined(__SSE2__)
  using s16x8 = short __attribute__((vector_size(16)));
  return std::bit_cast<u8x16>(__builtin_ia32_packuswb128(std::bit_cast<s16x8>(a), std::bit_cast<s16x8>(b)));
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#endif
}

/// 0xFF in byte i where bit i of `bits` is set, 0 elsewhere.
AR_INLINE inline u8x16 mask_of_bits(std::uint32_t bits) noexcept {
  constexpr std::uint64_t each = 0x8040201008040201;
  const u64x2 spread{(bits & 0xFFu) * 0x0101010101010101u, ((bits >> 8) & 0xFFu) * 0x0101010101010101u};
  const u8x16 own = std::bit_cast<u8x16>(spread & u64x2{each, each});
  return std::bit_cast<u8x16>(own == std::bit_cast<u8x16>(u64x2{each, each}));
}

/// x[r][c] becomes x[c][r]. Each round moves one bit of the column number into the row number.
AR_INLINE inline void transpose_8(u8x16 (&x)[16]) noexcept {
  u8x16 y[16];
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = zip_lower_8(x[i], x[i + 8]);
      y[2 * i + 1] = zip_upper_8(x[i], x[i + 8]);
    }
    for (int i = 0; i < 8; ++i) {
      x[2 * i] = zip_lower_8(y[i], y[i + 8]);
      x[2 * i + 1] = zip_upper_8(y[i], y[i + 8]);
    }
  }
}
AR_INLINE inline void transpose_32(u32x4 (&x)[4]) noexcept {
  const u32x4 a = zip_lower_32(x[0], x[2]), b = zip_upper_32(x[0], x[2]), c = zip_lower_32(x[1], x[3]), d = zip_upper_32(x[1], x[3]);
  x[0] = zip_lower_32(a, c);
  x[1] = zip_upper_32(a, c);
  x[2] = zip_lower_32(b, d);
  x[3] = zip_upper_32(b, d);
}

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
#endif
