// Rows of codes to rows of the bit stream and back, and the two transpositions that turn such rows into the layouts whose stream runs along the
// other axis. Plain code for constant expressions and machines without vectors; the same bits at sixteen codes a step elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "ar/detail/bit_stream.hpp"
#include "ar/detail/bytes16.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {
namespace bits {

#if AR_HAS_BYTES16
// Codes that do not fill whole bytes in pairs: eights are squeezed in the halves of a vector, and stored with their empty upper bytes, which the
// next eight overwrites. So a run ends early enough for the last one to overwrite bytes of this row only.
template <int Bits>
inline constexpr std::size_t overlap_codes = Bits == 1 ? 64 : 32;  // 8 - Bits bytes at least

template <int Bits>
AR_INLINE inline u8x16 squeeze(u8x16 v) noexcept {
  using std::uint64_t;
  constexpr uint64_t low8 = 0x00FF00FF00FF00FFu, low16 = 0x0000FFFF0000FFFFu, low32 = 0x00000000FFFFFFFFu;
  u64x2 x = std::bit_cast<u64x2>(v);
  x = (x & low8) | ((x & ~low8) >> (8 - Bits));
  x = (x & low16) | ((x & ~low16) >> (16 - 2 * Bits));
  x = (x & low32) | ((x & ~low32) >> (32 - 4 * Bits));
  return std::bit_cast<u8x16>(x);
}
template <int Bits>
AR_INLINE inline u8x16 spread(u8x16 v) noexcept {
  constexpr std::uint64_t four = (std::uint64_t{1} << (4 * Bits)) - 1, two = (std::uint64_t{1} << (2 * Bits)) - 1, one = (std::uint64_t{1} << Bits) - 1;
  constexpr std::uint64_t ones = one | one << 16 | one << 32 | one << 48;
  u64x2 x = std::bit_cast<u64x2>(v);
  x = (x & four) | ((x << (32 - 4 * Bits)) & (four << 32));
  x = (x & (two | two << 32)) | ((x << (16 - 2 * Bits)) & ((two | two << 32) << 16));
  x = (x & ones) | ((x << (8 - Bits)) & (ones << 8));
  return std::bit_cast<u8x16>(x);
}

/// Two vectors of codes of W bits to one of 2 * W bits.
template <int W>
AR_INLINE inline u8x16 join(u8x16 a, u8x16 b) noexcept {
  const u8x16 low = std::bit_cast<u8x16>(u16x8{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF});
  return even_bytes((a | shift_right_16<8 - W>(a)) & low, (b | shift_right_16<8 - W>(b)) & low);
}
/// The reverse, on bytes that hold two codes of W bits.
template <int W>
AR_INLINE inline void split(u8x16 x, u8x16& a, u8x16& b) noexcept {
  const u8x16 mask = every_byte((1u << W) - 1), low = x & mask, high = shift_right_16<W>(x) & mask;
  a = zip_lower_8(low, high);
  b = zip_upper_8(low, high);
}

/// Packs codes from the front of a row while whole steps fit; the number of codes done, a multiple of 32.
template <int Bits>
inline std::size_t pack_run(const std::uint8_t* code, std::size_t n, void* out) noexcept {
  auto* p = static_cast<unsigned char*>(out);
  std::size_t i = 0;
  if constexpr (Bits == 8) {
    i = n / 32 * 32;
    __builtin_memcpy(p, code, i);
  } else if constexpr (Bits == 4) {
    for (; n - i >= 32; i += 32) store16(join<4>(load16(code + i), load16(code + i + 16)), p + i / 2);
  } else if constexpr (Bits == 2) {
    for (; n - i >= 64; i += 64)
      store16(join<4>(join<2>(load16(code + i), load16(code + i + 16)), join<2>(load16(code + i + 32), load16(code + i + 48))), p + i / 4);
  } else {
    for (; n - i >= 32 + overlap_codes<Bits>; i += 32, p += 4 * Bits) {
      const u64x2 a = std::bit_cast<u64x2>(squeeze<Bits>(load16(code + i))), b = std::bit_cast<u64x2>(squeeze<Bits>(load16(code + i + 16)));
      const std::uint64_t eights[4] = {a[0], a[1], b[0], b[1]};
      for (int e = 0; e < 4; ++e) __builtin_memcpy(p + e * Bits, &eights[e], 8);
    }
  }
  return i;
}

/// The reverse.
template <int Bits>
inline std::size_t unpack_run(const void* in, std::size_t n, std::uint8_t* code) noexcept {
  const auto* p = static_cast<const unsigned char*>(in);
  std::size_t i = 0;
  if constexpr (Bits == 8) {
    i = n / 32 * 32;
    __builtin_memcpy(code, p, i);
  } else if constexpr (Bits == 4) {
    for (; n - i >= 32; i += 32) {
      u8x16 a, b;
      split<4>(load16(p + i / 2), a, b);
      store16(a, code + i);
      store16(b, code + i + 16);
    }
  } else if constexpr (Bits == 2) {
    for (; n - i >= 64; i += 64) {
      u8x16 a, b, c[4];
      split<4>(load16(p + i / 4), a, b);
      split<2>(a, c[0], c[1]);
      split<2>(b, c[2], c[3]);
      for (std::size_t j = 0; j < 4; ++j) store16(c[j], code + i + 16 * j);
    }
  } else {
    for (; n - i >= 32 + overlap_codes<Bits>; i += 32, p += 4 * Bits) {
      std::uint64_t eights[4];
      for (int e = 0; e < 4; ++e) __builtin_memcpy(&eights[e], p + e * Bits, 8);
      store16(spread<Bits>(std::bit_cast<u8x16>(u64x2{eights[0], eights[1]})), code + i);
      store16(spread<Bits>(std::bit_cast<u8x16>(u64x2{eights[2], eights[3]})), code + i + 16);
    }
  }
  return i;
}
#endif

/// n codes to ceil(n * Bits / 32) words; what the last one has to spare is zero.
template <int Bits>
AR_NOINLINE constexpr void pack_row(const std::uint8_t* code, std::size_t n, std::uint32_t* words) noexcept {
  constexpr std::size_t width = static_cast<std::size_t>(Bits);
  std::size_t i = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) i = pack_run<Bits>(code, n, words);
#endif
  for (; n - i >= 32; i += 32) pack32<Bits>(code + i, words + i / 32 * width);
  if (i == n) return;
  std::uint8_t rest[32] = {};
  std::uint32_t last[width] = {};
  for (std::size_t j = 0; j < n - i; ++j) rest[j] = code[i + j];
  pack32<Bits>(rest, last);
  for (std::size_t w = 0; 32 * w < (n - i) * width; ++w) words[i / 32 * width + w] = last[w];
}

/// ceil(n * Bits / 32) words to n codes.
template <int Bits>
AR_NOINLINE constexpr void unpack_row(const std::uint32_t* words, std::size_t n, std::uint8_t* code) noexcept {
  constexpr std::size_t width = static_cast<std::size_t>(Bits);
  std::size_t i = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) i = unpack_run<Bits>(words, n, code);
#endif
  for (; n - i >= 32; i += 32) unpack32<Bits>(words + i / 32 * width, code + i);
  if (i == n) return;
  std::uint8_t rest[32] = {};
  std::uint32_t last[width] = {};
  for (std::size_t w = 0; 32 * w < (n - i) * width; ++w) last[w] = words[i / 32 * width + w];
  unpack32<Bits>(last, rest);
  for (std::size_t j = 0; j < n - i; ++j) code[i + j] = rest[j];
}

/// An even number of codes to nibbles, the first one low.
constexpr void pack_nibbles(const std::uint8_t* code, std::size_t n, std::uint8_t* out) noexcept {
  std::size_t i = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) i = pack_run<4>(code, n, out);
#endif
  for (; i + 1 < n; i += 2) out[i / 2] = static_cast<std::uint8_t>(code[i] | code[i + 1] << 4);
}
constexpr void unpack_nibbles(const std::uint8_t* in, std::size_t n, std::uint8_t* code) noexcept {
  std::size_t i = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) i = unpack_run<4>(in, n, code);
#endif
  for (; i + 1 < n; i += 2) {
    code[i] = in[i / 2] & 15;
    code[i + 1] = in[i / 2] >> 4;
  }
}

/// Bytes exclusive-or Flip.
template <std::uint8_t Flip>
constexpr void flip_bytes(const std::uint8_t* in, std::size_t n, std::uint8_t* out) noexcept {
  std::size_t i = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) {
    if constexpr (Flip == 0) {
      __builtin_memcpy(out, in, n);
      i = n;
    } else {
      const u8x16 flip = every_byte(Flip);
      for (; n - i >= 32; i += 32) {
        const u8x16 a = load16(in + i), b = load16(in + i + 16);
        store16(a ^ flip, out + i);
        store16(b ^ flip, out + i + 16);
      }
    }
  }
#endif
  for (; i < n; ++i) out[i] = static_cast<std::uint8_t>(in[i] ^ Flip);
}

/// out[c][r] = in[r][c] for words; strides count words. FarIn: it is `in` that has the long stride. Its lines are then taken whole, where the other
/// order would touch every line four times, and lines a power of two apart drive each other out of the cache.
template <bool FarIn>
AR_NOINLINE constexpr void transpose_words(const std::uint32_t* in, std::size_t in_stride, std::size_t rows, std::size_t cols, std::uint32_t* out,
                                           std::size_t out_stride) noexcept {
  std::size_t whole_cols = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) {
    const std::size_t whole_rows = rows / 4 * 4;
    whole_cols = cols / 4 * 4;
    const std::size_t outer = FarIn ? whole_rows : whole_cols, inner = FarIn ? whole_cols : whole_rows;
    for (std::size_t a = 0; a < outer; a += 4)
      for (std::size_t b = 0; b < inner; b += 4) {
        const std::size_t r = FarIn ? a : b, c = FarIn ? b : a;
        u32x4 x[4];
        for (std::size_t i = 0; i < 4; ++i) x[i] = std::bit_cast<u32x4>(load16(in + (r + i) * in_stride + c));
        transpose_32(x);
        for (std::size_t i = 0; i < 4; ++i) store16(std::bit_cast<u8x16>(x[i]), out + (c + i) * out_stride + r);
      }
    for (std::size_t c = 0; c < whole_cols; ++c)
      for (std::size_t r = whole_rows; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
  }
#endif
  for (std::size_t c = whole_cols; c < cols; ++c)
    for (std::size_t r = 0; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
}

/// Rows and columns in their own order.
struct as_they_are {
  AR_INLINE constexpr std::size_t operator()(std::size_t i) const noexcept { return i; }
};

/// out[out_row(c)][r] = in[in_row(r)][c] for bytes.
template <class InRow, class OutRow>
AR_NOINLINE constexpr void transpose_bytes(const std::uint8_t* in, std::size_t in_stride, std::size_t rows, std::size_t cols, std::uint8_t* out,
                                           std::size_t out_stride, InRow in_row, OutRow out_row) noexcept {
  std::size_t whole_rows = 0, whole_cols = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) {
    whole_rows = rows / 16 * 16;
    whole_cols = cols / 16 * 16;
    for (std::size_t r = 0; r < whole_rows; r += 16)
      for (std::size_t c = 0; c < whole_cols; c += 16) {
        u8x16 x[16];
        for (std::size_t i = 0; i < 16; ++i) x[i] = load16(in + in_row(r + i) * in_stride + c);
        transpose_8(x);
        for (std::size_t i = 0; i < 16; ++i) store16(x[i], out + out_row(c + i) * out_stride + r);
      }
  }
#endif
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) out[out_row(c) * out_stride + r] = in[in_row(r) * in_stride + c];
}

/// True if no byte of the row has one of the bits of `forbidden`.
constexpr bool none_has(const std::uint8_t* p, std::size_t n, std::uint8_t forbidden) noexcept {
  std::size_t i = 0;
  std::uint64_t seen = 0;
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) {
    u8x16 a = every_byte(0), b = a, c = a, d = a;
    for (; n - i >= 64; i += 64) {
      a |= load16(p + i);
      b |= load16(p + i + 16);
      c |= load16(p + i + 32);
      d |= load16(p + i + 48);
    }
    const u64x2 all = std::bit_cast<u64x2>((a | b) | (c | d));
    seen = all[0] | all[1];
  }
#endif
  for (; n - i >= 8; i += 8) seen |= load_bytes(p + i);
  for (; i < n; ++i) seen |= p[i];
  return (seen & 0x0101010101010101u * forbidden) == 0;
}

/// A stream says how the bits of a row of codes lie: pack_row<Bits> and unpack_row<Bits>, the place of a code among 32, and planes<Bits>: how many
/// bits of each of 32 codes come first, how many after those 32, and so on.
/// The stream in its natural order.
struct natural_stream {
  static constexpr std::size_t place(std::size_t i) noexcept { return i; }
  template <int Bits>
  using planes = std::integer_sequence<int, Bits>;
  template <int Bits>
  static constexpr void pack_row(const std::uint8_t* code, std::size_t n, std::uint32_t* words) noexcept {
    bits::pack_row<Bits>(code, n, words);
  }
  template <int Bits>
  static constexpr void unpack_row(const std::uint32_t* words, std::size_t n, std::uint8_t* code) noexcept {
    bits::unpack_row<Bits>(words, n, code);
  }
};
/// The same in bytes, for rows of any even number of codes of 4 bits.
struct nibble_stream {
  template <int Bits>
  using planes = std::integer_sequence<int, Bits>;
  template <int Bits>
  static constexpr void pack_row(const std::uint8_t* code, std::size_t n, std::uint8_t* bytes) noexcept {
    pack_nibbles(code, n, bytes);
  }
  template <int Bits>
  static constexpr void unpack_row(const std::uint8_t* bytes, std::size_t n, std::uint8_t* code) noexcept {
    unpack_nibbles(bytes, n, code);
  }
};

/// Streams that run down the rows: words.row(c) is column c of the codes, whose rows are taken in the order in_row, and the reverse. Tiles of a line
/// of words and a line of codes (128 outputs of 4 bits, 64 inputs) are turned and packed by rows.
template <int Bits, class Moves, class Order>
constexpr void pack_turned(matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words, Order in_row) noexcept {
  constexpr std::size_t tile_rows = 128, tile_cols = 64, width = static_cast<std::size_t>(Bits);
  std::uint8_t turned[tile_cols * tile_rows] = {};
  for (std::size_t n = 0; n < code.rows; n += tile_rows)
    for (std::size_t k = 0; k < code.cols; k += tile_cols) {
      const std::size_t rows = code.rows - n < tile_rows ? code.rows - n : tile_rows, cols = code.cols - k < tile_cols ? code.cols - k : tile_cols;
      Moves::template transpose_bytes<true>({code.row(n) + k, rows, cols, code.stride}, turned, tile_rows, in_row, as_they_are{});
      Moves::template pack_rows<natural_stream, Bits>(
          matrix_view<const std::uint8_t>{turned, cols, rows, tile_rows},
          matrix_view<std::uint32_t>{words.row(k) + n / 32 * width, cols, rows * width / 32, words.stride});
    }
}
template <int Bits, class Moves, class Order>
constexpr void unpack_turned(matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code, Order in_row) noexcept {
  constexpr std::size_t tile_rows = 128, tile_cols = 64, width = static_cast<std::size_t>(Bits);
  std::uint8_t turned[tile_cols * tile_rows] = {};
  for (std::size_t n = 0; n < code.rows; n += tile_rows)
    for (std::size_t k = 0; k < code.cols; k += tile_cols) {
      const std::size_t rows = code.rows - n < tile_rows ? code.rows - n : tile_rows, cols = code.cols - k < tile_cols ? code.cols - k : tile_cols;
      Moves::template unpack_rows<natural_stream, Bits>(
          matrix_view<const std::uint32_t>{words.row(k) + n / 32 * width, cols, rows * width / 32, words.stride},
          matrix_view<std::uint8_t>{turned, cols, rows, tile_rows});
      Moves::template transpose_bytes<false>({turned, cols, rows, tile_rows}, code.row(n) + k, code.stride, as_they_are{}, in_row);
    }
}

/// Streams along the rows whose words become columns: column n of the words is row n of the codes. Rows are whole steps of 32 codes.
template <class Stream, int Bits, class Moves>
constexpr void pack_word_columns(matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words) noexcept {
  constexpr std::size_t tile_rows = Moves::tile_rows, tile_cols = 256, width = static_cast<std::size_t>(Bits);
  constexpr std::size_t room = 4;  // words that vectors may run over
  alignas(64) std::uint32_t line[tile_rows * tile_cols / 32 * width + room] = {};
  for (std::size_t n = 0; n < code.rows; n += tile_rows)
    for (std::size_t k = 0; k < code.cols; k += tile_cols) {
      const std::size_t rows = code.rows - n < tile_rows ? code.rows - n : tile_rows, cols = code.cols - k < tile_cols ? code.cols - k : tile_cols;
      const matrix_view<std::uint32_t> lines{line, rows, cols / 32 * width};
      Moves::template pack_rows<Stream, Bits, true>(matrix_view<const std::uint8_t>{code.row(n) + k, rows, cols, code.stride}, lines);
      Moves::template transpose_words<false>(lines, words.row(k / 32 * width) + n, words.stride);
    }
}
template <class Stream, int Bits, class Moves>
constexpr void unpack_word_columns(matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code) noexcept {
  constexpr std::size_t tile_rows = Moves::tile_rows, tile_cols = 256, room = 4, width = static_cast<std::size_t>(Bits);
  alignas(64) std::uint32_t line[tile_rows * tile_cols / 32 * width + room] = {};
  for (std::size_t n = 0; n < code.rows; n += tile_rows)
    for (std::size_t k = 0; k < code.cols; k += tile_cols) {
      const std::size_t rows = code.rows - n < tile_rows ? code.rows - n : tile_rows, cols = code.cols - k < tile_cols ? code.cols - k : tile_cols;
      const std::size_t line_words = cols / 32 * width;
      Moves::template transpose_words<true>({words.row(k / 32 * width) + n, line_words, rows, words.stride}, line, line_words);
      Moves::template unpack_rows<Stream, Bits, true>(matrix_view<const std::uint32_t>{line, rows, line_words},
                                                      matrix_view<std::uint8_t>{code.row(n) + k, rows, cols, code.stride});
    }
}

/// What layouts are made of, over matrices: the reference, and on machines without anything better what runs. detail/moves-inl.h has the same
/// functions for every SIMD target; a layout takes one or the other as a template parameter.
struct plain_moves {
  /// Rows of a tile of words on the way to their columns.
  static constexpr std::size_t tile_rows = 32;

  /// True if no code has one of the bits of `forbidden`.
  static constexpr bool none_has(matrix_view<const std::uint8_t> code, std::uint8_t forbidden) noexcept {
    for (std::size_t r = 0; r < code.rows; ++r)
      if (!bits::none_has(code.row(r), code.cols, forbidden)) return false;
    return true;
  }

  /// Row by row to words or bytes. Room: 16 bytes after each row of words may be read, and written by pack_rows, which goes from the first row to the
  /// last.
  template <class Stream, int Bits, bool Room = false, class Word>
  static constexpr void pack_rows(matrix_view<const std::uint8_t> code, matrix_view<Word> words) noexcept {
    for (std::size_t n = 0; n < code.rows; ++n) Stream::template pack_row<Bits>(code.row(n), code.cols, words.row(n));
  }
  template <class Stream, int Bits, bool Room = false, class Word>
  static constexpr void unpack_rows(matrix_view<const Word> words, matrix_view<std::uint8_t> code) noexcept {
    for (std::size_t n = 0; n < code.rows; ++n) Stream::template unpack_row<Bits>(words.row(n), code.cols, code.row(n));
  }

  /// Column by column: words.row(c) is column c of the codes, whose rows are taken in the order in_row. Rows fill whole words.
  template <int Bits, class Order>
  static constexpr void pack_columns(matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words, Order in_row) noexcept {
    pack_turned<Bits, plain_moves>(code, words, in_row);
  }
  template <int Bits, class Order>
  static constexpr void unpack_columns(matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code, Order in_row) noexcept {
    unpack_turned<Bits, plain_moves>(words, code, in_row);
  }

  /// Row by row to columns of words.
  template <class Stream, int Bits>
  static constexpr void pack_word_columns(matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words) noexcept {
    bits::pack_word_columns<Stream, Bits, plain_moves>(code, words);
  }
  template <class Stream, int Bits>
  static constexpr void unpack_word_columns(matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code) noexcept {
    bits::unpack_word_columns<Stream, Bits, plain_moves>(words, code);
  }

  /// bits::transpose_words and transpose_bytes. FarIn: it is `in` that has the long stride.
  template <bool FarIn>
  static constexpr void transpose_words(matrix_view<const std::uint32_t> in, std::uint32_t* out, std::size_t out_stride) noexcept {
    bits::transpose_words<FarIn>(in.data, in.stride, in.rows, in.cols, out, out_stride);
  }
  template <bool FarIn, class InRow, class OutRow>
  static constexpr void transpose_bytes(matrix_view<const std::uint8_t> in, std::uint8_t* out, std::size_t out_stride, InRow in_row,
                                        OutRow out_row) noexcept {
    bits::transpose_bytes(in.data, in.stride, in.rows, in.cols, out, out_stride, in_row, out_row);
  }
};

}  // namespace bits
}  // namespace AR_ABI
}  // namespace ar
