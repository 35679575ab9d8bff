// The moves of detail/stream_rows.hpp (bits::plain_moves) with the vectors of one SIMD target: same functions, same bytes. Two blocks of 16 bytes at
// most, whatever the target: stores of packed codes overlap, and wider ones would need rows that are longer. Once per SIMD target.
#if defined(AR_DETAIL_MOVES_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_MOVES_INL_H
#else
#define AR_DETAIL_MOVES_INL_H
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "ar/config.hpp"  // tells Highway which targets it may choose
#include "ar/detail/stream_rows.hpp"
#include "ar/detail/target.hpp"
#include "ar/view.hpp"

AR_BEGIN_TARGET

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || !AR_HAS_BYTES16
using moves = bits::plain_moves;  // no shuffles here
#else

namespace vectors {

namespace hn = hwy::HWY_NAMESPACE;
using d8 = hn::CappedTag<std::uint8_t, 32>;
using d16 = hn::RepartitionToWide<d8>;
using d32 = hn::RepartitionToWide<d16>;
using d64 = hn::RepartitionToWide<d32>;
using u8s = hn::Vec<d8>;
using u16s = hn::Vec<d16>;
using u32s = hn::Vec<d32>;
constexpr std::size_t lanes = hn::MaxLanes(d8()), blocks = lanes / 16;

/// Sixteen indices, for every block.
struct order {
  std::uint8_t index[16] = {};
};
constexpr std::uint8_t nothing = 0x80;  // an index that gives 0

/// Neighbors of Bits bits side by side: 16-bit lanes of 2 * Bits bits from bytes, 32-bit lanes of 4 * Bits from those.
template <int Bits>
HWY_INLINE u16s join_bytes(u8s v) {
#if HWY_ARCH_X86
  const auto weights = hn::Set(d16(), static_cast<std::uint16_t>(1 | 1 << (8 + Bits)));
#if HWY_TARGET <= HWY_AVX2
  return u16s{_mm256_maddubs_epi16(weights.raw, v.raw)};
#else
  return u16s{_mm_maddubs_epi16(weights.raw, v.raw)};
#endif
#else
  const auto x = hn::BitCast(d16(), v);
  return hn::Or(hn::And(x, hn::Set(d16(), 0xFF)), hn::ShiftLeft<Bits>(hn::ShiftRight<8>(x)));
#endif
}
template <int Bits>
HWY_INLINE u32s join_pairs(u16s x) {
#if HWY_ARCH_X86
  const auto weights = hn::Set(d32(), 1u | 1u << (16 + 2 * Bits));
#if HWY_TARGET <= HWY_AVX2
  return u32s{_mm256_madd_epi16(weights.raw, x.raw)};
#else
  return u32s{_mm_madd_epi16(weights.raw, x.raw)};
#endif
#else
  const auto y = hn::BitCast(d32(), x);
  return hn::Or(hn::And(y, hn::Set(d32(), 0xFFFF)), hn::ShiftLeft<2 * Bits>(hn::ShiftRight<16>(y)));
#endif
}

/// The whole bytes of every lane, one after the other: Bits / 2 of four codes, or Bits of eight where four end inside a byte.
template <int Bits>
constexpr order squeezed() noexcept {
  constexpr int bytes = Bits % 2 == 0 ? Bits / 2 : Bits, lane = Bits % 2 == 0 ? 4 : 8;
  order o;
  for (int i = 0; i < 16; ++i) o.index[i] = i < 2 * Bits ? static_cast<std::uint8_t>(i / bytes * lane + i % bytes) : nothing;
  return o;
}
/// The bytes that hold four codes, in a lane of 32 bits, and some that follow.
template <int Bits>
constexpr order spread_out() noexcept {
  order o;
  for (int i = 0; i < 16; ++i) o.index[i] = static_cast<std::uint8_t>(i / 4 * Bits / 2 + i % 4);
  return o;
}
template <int Bits>
inline constexpr order squeezed_order = squeezed<Bits>();
template <int Bits>
inline constexpr order spread_order = spread_out<Bits>();

/// The 16 codes of every block to 2 * Bits bytes.
template <int Bits>
HWY_INLINE u8s squeeze(u8s v) {
  if constexpr (Bits == 8) {
    return v;
  } else {
    auto x = join_pairs<Bits>(join_bytes<Bits>(v));
    if constexpr (Bits % 2 != 0) {
      constexpr int gap = 32 - 4 * Bits;
      x = hn::BitCast(d32(), hn::ShiftRight<gap>(hn::BitCast(d64(), hn::OddEven(x, hn::ShiftLeft<gap>(x)))));
    }
    return hn::TableLookupBytesOr0(hn::BitCast(d8(), x), hn::LoadDup128(d8(), squeezed_order<Bits>.index));
  }
}
/// The reverse; what follows those bytes is ignored.
template <int Bits>
HWY_INLINE u8s spread(u8s v) {
  if constexpr (Bits == 8) {
    return v;
  } else {
    auto x = hn::BitCast(d32(), hn::TableLookupBytes(v, hn::LoadDup128(d8(), spread_order<Bits>.index)));
    if constexpr (Bits % 2 != 0) x = hn::OddEven(hn::ShiftRight<4>(x), x);
    const auto y = hn::OddEven(hn::BitCast(d16(), hn::ShiftLeft<16 - 2 * Bits>(x)), hn::BitCast(d16(), x));
    const auto z = hn::OddEven(hn::BitCast(d8(), hn::ShiftLeft<8 - Bits>(y)), hn::BitCast(d8(), y));
    return hn::And(z, hn::Set(d8(), static_cast<std::uint8_t>((1 << Bits) - 1)));
  }
}

/// Every block at its place: 16 bytes are touched where 2 * Bits are meant.
template <int Bits>
HWY_INLINE void store_blocks(u8s v, std::uint8_t* p) {
  if constexpr (blocks == 1 || Bits == 8) {
    hn::StoreU(v, d8(), p);
  } else {
    const hn::Half<d8> half;
    hn::StoreU(hn::LowerHalf(half, v), half, p);
    hn::StoreU(hn::UpperHalf(half, v), half, p + 2 * Bits);
  }
}
template <int Bits>
HWY_INLINE u8s load_blocks(const std::uint8_t* p) {
  if constexpr (blocks == 1 || Bits == 8) {
    return hn::LoadU(d8(), p);
  } else {
    const hn::Half<d8> half;
    return hn::Combine(d8(), hn::LoadU(half, p + 2 * Bits), hn::LoadU(half, p));
  }
}

/// 32 codes, of which each plane takes Width bits from bit From on, to 4 * Width bytes per plane.
template <int From, int Width, int... Next>
HWY_INLINE void pack32(const std::uint8_t* code, std::uint8_t* out, std::integer_sequence<int, Width, Next...>) {
  for (std::size_t i = 0; i < 32; i += lanes) {
    auto v = hn::LoadU(d8(), code + i);
    if constexpr (From > 0) v = hn::BitCast(d8(), hn::ShiftRight<From>(hn::BitCast(d16(), v)));
    if constexpr (From > 0 || sizeof...(Next) > 0) v = hn::And(v, hn::Set(d8(), static_cast<std::uint8_t>((1 << Width) - 1)));
    if constexpr (Width == 1) {
      hn::StoreMaskBits(d8(), hn::Ne(v, hn::Zero(d8())), out + i / 8);
    } else if constexpr (Width == 4) {
      const hn::Half<d8> half;
      hn::StoreU(hn::DemoteTo(half, hn::BitCast(hn::RebindToSigned<d16>(), join_bytes<4>(v))), half, out + i / 2);
    } else {
      store_blocks<Width>(squeeze<Width>(v), out + i / 8 * Width);
    }
  }
  if constexpr (sizeof...(Next) > 0) pack32<From + Width>(code, out + 4 * Width, std::integer_sequence<int, Next...>());
}
template <int From, int Width, int... Next>
HWY_INLINE u8s unpack_lanes(const std::uint8_t* in, std::size_t i, std::integer_sequence<int, Width, Next...>) {
  auto v = spread<Width>(load_blocks<Width>(in + i / 8 * Width));
  if constexpr (From > 0) v = hn::BitCast(d8(), hn::ShiftLeft<From>(hn::BitCast(d16(), v)));
  if constexpr (sizeof...(Next) > 0) v = hn::Or(v, unpack_lanes<From + Width>(in + 4 * Width, i, std::integer_sequence<int, Next...>()));
  return v;
}

/// Codes at the end of a row that must be left so that no vector reaches beyond: those of 16 - 2 * (the last plane's width) bytes. The last steps go
/// by way of the stack.
template <int Width, int... Next>
constexpr std::size_t overlap(std::integer_sequence<int, Width, Next...>, int bits) noexcept {
  if constexpr (sizeof...(Next) > 0) {
    return overlap(std::integer_sequence<int, Next...>(), bits);
  } else {
    return static_cast<std::size_t>((8 * (16 - 2 * Width) + bits - 1) / bits);
  }
}

/// Packs from the front of a row while whole steps fit; the number of codes done, a multiple of 32.
template <class Stream, int Bits, bool Room>
HWY_INLINE std::size_t pack_run(const std::uint8_t* code, std::size_t n, std::uint8_t* out) {
  using planes = typename Stream::template planes<Bits>;
  constexpr std::size_t left = Room ? 0 : overlap(planes(), Bits), step = 4 * static_cast<std::size_t>(Bits);
  std::size_t i = 0;
  for (; n - i >= 32 + left; i += 32, out += step) pack32<0>(code + i, out, planes());
  if constexpr (left != 0) {
    for (; n - i >= 32; i += 32, out += step) {
      std::uint8_t last[step + 16];
      pack32<0>(code + i, last, planes());
      __builtin_memcpy(out, last, step);
    }
  }
  return i;
}
template <class Stream, int Bits, bool Room>
HWY_INLINE std::size_t unpack_run(const std::uint8_t* in, std::size_t n, std::uint8_t* code) {
  using planes = typename Stream::template planes<Bits>;
  constexpr std::size_t left = Room ? 0 : overlap(planes(), Bits), step = 4 * static_cast<std::size_t>(Bits);
  std::size_t i = 0;
  for (; n - i >= 32 + left; i += 32, in += step)
    for (std::size_t j = 0; j < 32; j += lanes) hn::StoreU(unpack_lanes<0>(in, j, planes()), d8(), code + i + j);
  if constexpr (left != 0) {
    for (; n - i >= 32; i += 32, in += step) {
      std::uint8_t last[step + 16];
      __builtin_memcpy(last, in, step);
      for (std::size_t j = 0; j < 32; j += lanes) hn::StoreU(unpack_lanes<0>(last, j, planes()), d8(), code + i + j);
    }
  }
  return i;
}

/// One row where rows follow each other and are whole steps.
template <class T, class U>
void join_rows(matrix_view<T>& code, matrix_view<U>& words) noexcept {
  if (!code.contiguous() || !words.contiguous() || code.cols % 32 != 0) return;
  code = {code.data, 1, code.size()};
  words = {words.data, 1, words.size()};
}

/// Two vectors of codes of Width bits to one of 2 * Width bits, and the reverse on bytes that hold two codes of Width bits.
template <int Width>
HWY_INLINE u8s join(u8s a, u8s b) {
  return hn::ConcatEven(d8(), hn::BitCast(d8(), join_bytes<Width>(b)), hn::BitCast(d8(), join_bytes<Width>(a)));
}
template <int Width>
HWY_INLINE void split(u8s x, u8s& a, u8s& b) {
  const auto mask = hn::Set(d8(), static_cast<std::uint8_t>((1 << Width) - 1));
  const auto low = hn::And(x, mask), high = hn::And(hn::BitCast(d8(), hn::ShiftRight<Width>(hn::BitCast(d16(), x))), mask);
  const auto c = hn::InterleaveLower(d8(), low, high), d = hn::InterleaveUpper(d8(), low, high);
  if constexpr (blocks == 1) {
    a = c;
    b = d;
  } else {
    a = hn::ConcatLowerLower(d8(), d, c);
    b = hn::ConcatUpperUpper(d8(), d, c);
  }
}

/// 8 / Bits vectors of codes as the stream's bytes, and the reverse.
template <int Bits>
HWY_INLINE u8s load_joined(const std::uint8_t* p) {
  if constexpr (Bits == 8) {
    return hn::LoadU(d8(), p);
  } else if constexpr (Bits == 4) {
    return join<4>(hn::LoadU(d8(), p), hn::LoadU(d8(), p + lanes));
  } else {
    const auto a = join<2>(hn::LoadU(d8(), p), hn::LoadU(d8(), p + lanes));
    return join<4>(a, join<2>(hn::LoadU(d8(), p + 2 * lanes), hn::LoadU(d8(), p + 3 * lanes)));
  }
}
template <int Bits>
HWY_INLINE void store_split(u8s x, std::uint8_t* p) {
  if constexpr (Bits == 8) {
    hn::StoreU(x, d8(), p);
  } else {
    u8s a, b;
    split<4>(x, a, b);
    if constexpr (Bits == 4) {
      hn::StoreU(a, d8(), p);
      hn::StoreU(b, d8(), p + lanes);
    } else {
      u8s c[4];
      split<2>(a, c[0], c[1]);
      split<2>(b, c[2], c[3]);
      for (std::size_t i = 0; i < 4; ++i) hn::StoreU(c[i], d8(), p + i * lanes);
    }
  }
}

/// x[r][c] becomes x[c][r], for as many words as a vector holds.
template <std::size_t N>
HWY_INLINE void transpose(u32s (&x)[N]) {
  static_assert(N == lanes / 4);
  u32s y[N];
  for (std::size_t i = 0; i < N; i += 4) {
    const auto a = hn::InterleaveLower(d32(), x[i], x[i + 2]), b = hn::InterleaveUpper(d32(), x[i], x[i + 2]);
    const auto c = hn::InterleaveLower(d32(), x[i + 1], x[i + 3]), d = hn::InterleaveUpper(d32(), x[i + 1], x[i + 3]);
    y[i] = hn::InterleaveLower(d32(), a, c);
    y[i + 1] = hn::InterleaveUpper(d32(), a, c);
    y[i + 2] = hn::InterleaveLower(d32(), b, d);
    y[i + 3] = hn::InterleaveUpper(d32(), b, d);
  }
  if constexpr (blocks == 1) {
    for (std::size_t i = 0; i < 4; ++i) x[i] = y[i];
  } else {
    for (std::size_t i = 0; i < 4; ++i) {
      x[i] = hn::ConcatLowerLower(d32(), y[i + 4], y[i]);
      x[i + 4] = hn::ConcatUpperUpper(d32(), y[i + 4], y[i]);
    }
  }
}

/// x[r][c] becomes x[c][r] for the bytes of every block. Each round moves one bit of the column number into the row number.
template <std::size_t... I>
HWY_INLINE void zip(const u8s (&x)[16], u8s (&y)[16], std::index_sequence<I...>) {
  ((y[2 * I] = hn::InterleaveLower(d8(), x[I], x[I + 8]), y[2 * I + 1] = hn::InterleaveUpper(d8(), x[I], x[I + 8])), ...);
}
HWY_INLINE void transpose(u8s (&x)[16]) {
  u8s y[16];
  zip(x, y, std::make_index_sequence<8>());
  zip(y, x, std::make_index_sequence<8>());
  zip(x, y, std::make_index_sequence<8>());
  zip(y, x, std::make_index_sequence<8>());
}

/// Rows of bytes, or two rows of codes of 4 bits as one, the first one low. An order of rows permutes them within eights, so that it is known when r,
/// the first of 16, is not.
template <class Byte, class Order>
struct single_rows {
  matrix_view<Byte> m;
  Order at;
  static constexpr std::size_t rows_each = 1;
  HWY_INLINE u8s load(std::size_t r, std::size_t i, std::size_t c) const { return hn::LoadU(d8(), m.row(r) + at(i) * m.stride + c); }
  HWY_INLINE void store(u8s v, std::size_t r, std::size_t i, std::size_t c) const { hn::StoreU(v, d8(), m.row(r) + at(i) * m.stride + c); }
  HWY_INLINE std::uint8_t get(std::size_t r, std::size_t c) const { return m(at(r), c); }
  HWY_INLINE void put(std::uint8_t b, std::size_t r, std::size_t c) const { m(at(r), c) = b; }
};
template <class Byte, class Order>
struct paired_rows {
  matrix_view<Byte> m;
  Order at;
  static constexpr std::size_t rows_each = 2;
  HWY_INLINE u8s load(std::size_t r, std::size_t i, std::size_t c) const {
    const auto* p = m.row(2 * r) + c;
    const auto high = hn::ShiftLeft<4>(hn::BitCast(d16(), hn::LoadU(d8(), p + at(2 * i + 1) * m.stride)));
    return hn::Or(hn::LoadU(d8(), p + at(2 * i) * m.stride), hn::BitCast(d8(), high));
  }
  HWY_INLINE void store(u8s v, std::size_t r, std::size_t i, std::size_t c) const {
    auto* p = m.row(2 * r) + c;
    const auto mask = hn::Set(d8(), 15);
    hn::StoreU(hn::And(v, mask), d8(), p + at(2 * i) * m.stride);
    hn::StoreU(hn::And(hn::BitCast(d8(), hn::ShiftRight<4>(hn::BitCast(d16(), v))), mask), d8(), p + at(2 * i + 1) * m.stride);
  }
  HWY_INLINE std::uint8_t get(std::size_t r, std::size_t c) const { return static_cast<std::uint8_t>(m(at(2 * r), c) | m(at(2 * r + 1), c) << 4); }
  HWY_INLINE void put(std::uint8_t b, std::size_t r, std::size_t c) const {
    m(at(2 * r), c) = b & 15;
    m(at(2 * r + 1), c) = b >> 4;
  }
};

/// 16 far rows of a vector each become the rows of blocks, and the reverse. Written out, where g++ would keep loops and the vectors in memory.
template <class Far, class Order, std::size_t... I>
HWY_INLINE void turn_in(const Far& far, std::size_t r, std::size_t c, std::uint8_t* out, std::size_t stride, Order at, std::index_sequence<I...>) {
  u8s x[16] = {far.load(r, I, c)...};
  transpose(x);
  if constexpr (blocks == 1) {
    (hn::StoreU(x[I], d8(), out + at(I) * stride), ...);
  } else {
    const hn::Half<d8> block;
    (hn::StoreU(hn::LowerHalf(block, x[I]), block, out + at(I) * stride), ...);
    out += 16 * stride;
    (hn::StoreU(hn::UpperHalf(block, x[I]), block, out + at(I) * stride), ...);
  }
}
template <class Far, class Order, std::size_t... I>
HWY_INLINE void turn_out(const std::uint8_t* in, std::size_t stride, Order at, const Far& far, std::size_t r, std::size_t c,
                         std::index_sequence<I...>) {
  if constexpr (blocks == 1) {
    u8s x[16] = {hn::LoadU(d8(), in + at(I) * stride)...};
    transpose(x);
    (far.store(x[I], r, I, c), ...);
  } else {
    const hn::Half<d8> block;
    const std::uint8_t* in16 = in + 16 * stride;
    u8s x[16] = {hn::Combine(d8(), hn::LoadU(block, in16 + at(I) * stride), hn::LoadU(block, in + at(I) * stride))...};
    transpose(x);
    (far.store(x[I], r, I, c), ...);
  }
}

/// out[out_row(c)][r] = far[r][c]: whole vectors of the far rows are read, blocks are written.
template <class Far, class Order>
HWY_INLINE void turn_all_in(const Far& far, std::uint8_t* out, std::size_t stride, Order at) {
  const std::size_t rows = far.m.rows / Far::rows_each, cols = far.m.cols, whole_rows = rows / 16 * 16, whole_cols = cols / lanes * lanes;
  for (std::size_t r = 0; r < whole_rows; r += 16)
    for (std::size_t c = 0; c < whole_cols; c += lanes) turn_in(far, r, c, out + c * stride + r, stride, at, std::make_index_sequence<16>());
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) out[at(c) * stride + r] = far.get(r, c);
}
/// far[c][r] = in[in_row(r)][c]: blocks are read, whole vectors of the far rows are written.
template <class Far, class Order>
HWY_INLINE void turn_all_out(matrix_view<const std::uint8_t> in, Order at, const Far& far) {
  const std::size_t whole_rows = in.rows / lanes * lanes, whole_cols = in.cols / 16 * 16;
  for (std::size_t c = 0; c < whole_cols; c += 16)
    for (std::size_t r = 0; r < whole_rows; r += lanes) turn_out(in.row(r) + c, in.stride, at, far, c, r, std::make_index_sequence<16>());
  for (std::size_t r = 0; r < in.rows; ++r)
    for (std::size_t c = r < whole_rows ? whole_cols : 0; c < in.cols; ++c) far.put(in(at(r), c), c, r);
}

}  // namespace vectors

struct moves {
  static constexpr std::size_t tile_rows = 64;

  static bool none_has(matrix_view<const std::uint8_t> code, std::uint8_t forbidden) noexcept {
    using namespace vectors;
    if (code.contiguous()) code = {code.data, 1, code.size()};
    const auto zero = hn::Zero(d8());
    for (std::size_t r = 0; r < code.rows; ++r) {
      const std::uint8_t* p = code.row(r);
      const std::size_t n = code.cols;
      if (n < lanes) {
        if (!bits::none_has(p, n, forbidden)) return false;
        continue;
      }
      auto a = zero, b = zero, c = zero, d = hn::LoadU(d8(), p + n - lanes);
      std::size_t i = 0;
      for (; n - i >= 4 * lanes; i += 4 * lanes) {
        a = hn::Or(a, hn::LoadU(d8(), p + i));
        b = hn::Or(b, hn::LoadU(d8(), p + i + lanes));
        c = hn::Or(c, hn::LoadU(d8(), p + i + 2 * lanes));
        d = hn::Or(d, hn::LoadU(d8(), p + i + 3 * lanes));
      }
      for (; n - i >= lanes; i += lanes) a = hn::Or(a, hn::LoadU(d8(), p + i));
      const auto seen = hn::Or(hn::Or(a, b), hn::Or(c, d));
      if (!hn::AllTrue(d8(), hn::Eq(hn::And(seen, hn::Set(d8(), forbidden)), zero))) return false;
    }
    return true;
  }

  template <class Stream, int Bits, bool Room = false, class Word>
  static void pack_rows(matrix_view<const std::uint8_t> code, matrix_view<Word> words) noexcept {
    vectors::join_rows(code, words);
    for (std::size_t n = 0; n < code.rows; ++n) {
      std::size_t i = 0;
      if constexpr (!(Bits == 8 && std::is_same_v<Stream, bits::natural_stream>)) {  // those are copied
        i = vectors::pack_run<Stream, Bits, Room>(code.row(n), code.cols, reinterpret_cast<std::uint8_t*>(words.row(n)));
      }
      if (i < code.cols) Stream::template pack_row<Bits>(code.row(n) + i, code.cols - i, words.row(n) + words_of<Word, Bits>(i));
    }
  }
  template <class Stream, int Bits, bool Room = false, class Word>
  static void unpack_rows(matrix_view<const Word> words, matrix_view<std::uint8_t> code) noexcept {
    vectors::join_rows(code, words);
    for (std::size_t n = 0; n < code.rows; ++n) {
      std::size_t i = 0;
      if constexpr (!(Bits == 8 && std::is_same_v<Stream, bits::natural_stream>)) {
        i = vectors::unpack_run<Stream, Bits, Room>(reinterpret_cast<const std::uint8_t*>(words.row(n)), code.cols, code.row(n));
      }
      if (i < code.cols) Stream::template unpack_row<Bits>(words.row(n) + words_of<Word, Bits>(i), code.cols - i, code.row(n) + i);
    }
  }

  /// Codes that fill bytes together become whole vectors of words, which are turned without a way through memory.
  template <class Stream, int Bits>
  static void pack_word_columns(matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words) noexcept {
    if constexpr (Bits == 2 || Bits == 4 || Bits == 8) {
      using namespace vectors;
      constexpr std::size_t n = lanes / 4, width = static_cast<std::size_t>(Bits), step = lanes * 8 / width;
      const std::size_t rows = code.rows / n * n, cols = code.cols / step * step;
      for (std::size_t band = 0; band < rows; band += strip)
        for (std::size_t k = 0; k < cols; k += step)
          for (std::size_t r = band; r < rows && r < band + strip; r += n) {
            u32s x[n];
            for (std::size_t i = 0; i < n; ++i) x[i] = hn::BitCast(d32(), load_joined<Bits>(code.row(r + i) + k));
            transpose(x);
            for (std::size_t i = 0; i < n; ++i) hn::StoreU(x[i], d32(), words.row(k * width / 32 + i) + r);
          }
      if (cols < code.cols) {
        bits::pack_word_columns<Stream, Bits, moves>({code.data + cols, rows, code.cols - cols, code.stride},
                                                     {words.row(cols / 32 * width), (code.cols - cols) / 32 * width, rows, words.stride});
      }
      code = {code.row(rows), code.rows - rows, code.cols, code.stride};
      words = {words.data + rows, words.rows, code.rows, words.stride};
    }
    bits::pack_word_columns<Stream, Bits, moves>(code, words);
  }
  template <class Stream, int Bits>
  static void unpack_word_columns(matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code) noexcept {
    if constexpr (Bits == 2 || Bits == 4 || Bits == 8) {
      using namespace vectors;
      constexpr std::size_t n = lanes / 4, width = static_cast<std::size_t>(Bits), step = lanes * 8 / width;
      const std::size_t rows = code.rows / n * n, cols = code.cols / step * step;
      for (std::size_t band = 0; band < rows; band += strip)
        for (std::size_t k = 0; k < cols; k += step)
          for (std::size_t r = band; r < rows && r < band + strip; r += n) {
            u32s x[n];
            for (std::size_t i = 0; i < n; ++i) x[i] = hn::LoadU(d32(), words.row(k * width / 32 + i) + r);
            transpose(x);
            for (std::size_t i = 0; i < n; ++i) store_split<Bits>(hn::BitCast(d8(), x[i]), code.row(r + i) + k);
          }
      if (cols < code.cols) {
        bits::unpack_word_columns<Stream, Bits, moves>({words.row(cols / 32 * width), (code.cols - cols) / 32 * width, rows, words.stride},
                                                       {code.data + cols, rows, code.cols - cols, code.stride});
      }
      code = {code.row(rows), code.rows - rows, code.cols, code.stride};
      words = {words.data + rows, words.rows, code.rows, words.stride};
    }
    bits::unpack_word_columns<Stream, Bits, moves>(words, code);
  }

  template <bool FarIn>
  static void transpose_words(matrix_view<const std::uint32_t> in, std::uint32_t* out, std::size_t out_stride) noexcept {
    using namespace vectors;
    constexpr std::size_t n = lanes / 4;
    const std::size_t rows = in.rows / n * n, cols = in.cols / n * n, outer = FarIn ? rows : cols, inner = FarIn ? cols : rows;
    for (std::size_t a = 0; a < outer; a += n)
      for (std::size_t b = 0; b < inner; b += n) {
        const std::size_t r = FarIn ? a : b, c = FarIn ? b : a;
        u32s x[n];
        for (std::size_t i = 0; i < n; ++i) x[i] = hn::LoadU(d32(), in.row(r + i) + c);
        transpose(x);
        for (std::size_t i = 0; i < n; ++i) hn::StoreU(x[i], d32(), out + (c + i) * out_stride + r);
      }
    if (cols < in.cols) bits::transpose_words<FarIn>(in.data + cols, in.stride, rows, in.cols - cols, out + cols * out_stride, out_stride);
    if (rows < in.rows) bits::transpose_words<FarIn>(in.row(rows), in.stride, in.rows - rows, in.cols, out + rows, out_stride);
  }
  template <bool FarIn, class InRow, class OutRow>
  static void transpose_bytes(matrix_view<const std::uint8_t> in, std::uint8_t* out, std::size_t out_stride, InRow in_row, OutRow out_row) noexcept {
    if constexpr (FarIn) {
      vectors::turn_all_in(vectors::single_rows<const std::uint8_t, InRow>{in, in_row}, out, out_stride, out_row);
    } else {
      vectors::turn_all_out(in, in_row, vectors::single_rows<std::uint8_t, OutRow>{{out, in.cols, in.rows, out_stride}, out_row});
    }
  }

  template <int Bits, class Order>
  static void pack_columns(matrix_view<const std::uint8_t> code, matrix_view<std::uint32_t> words, Order in_row) noexcept {
    if constexpr (Bits == 4) {  // rows are joined before they are turned: the bytes of the words
      for (std::size_t k = 0; k < code.cols; k += strip) {
        const matrix_view<const std::uint8_t> tile{code.data + k, code.rows, code.cols - k < strip ? code.cols - k : strip, code.stride};
        vectors::turn_all_in(vectors::paired_rows<const std::uint8_t, Order>{tile, in_row}, reinterpret_cast<std::uint8_t*>(words.row(k)),
                             4 * words.stride, bits::as_they_are{});
      }
    } else {
      bits::pack_turned<Bits, moves>(code, words, in_row);
    }
  }
  template <int Bits, class Order>
  static void unpack_columns(matrix_view<const std::uint32_t> words, matrix_view<std::uint8_t> code, Order in_row) noexcept {
    if constexpr (Bits == 4) {
      for (std::size_t k = 0; k < code.cols; k += strip) {
        const matrix_view<std::uint8_t> tile{code.data + k, code.rows, code.cols - k < strip ? code.cols - k : strip, code.stride};
        vectors::turn_all_out({reinterpret_cast<const std::uint8_t*>(words.row(k)), tile.cols, code.rows / 2, 4 * words.stride}, bits::as_they_are{},
                              vectors::paired_rows<std::uint8_t, Order>{tile, in_row});
      }
    } else {
      bits::unpack_turned<Bits, moves>(words, code, in_row);
    }
  }

 private:
  /// Inputs, or outputs, that are turned together: long enough for the processor to foresee the next lines, short enough for them to stay in
  /// the cache.
  static constexpr std::size_t strip = 256;
  /// Words of i codes, which are a multiple of 32.
  template <class Word, int Bits>
  static constexpr std::size_t words_of(std::size_t i) noexcept {
    return i / 32 * (4 * static_cast<std::size_t>(Bits) / sizeof(Word));
  }
};
#endif

AR_END_TARGET
#endif
