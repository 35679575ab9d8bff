// Door: unsigned codes to the words of a checkpoint and back. A codec (ar/codec/) says the layout; this door checks shapes and values, so that
// a function does all of its work or writes nothing. No memory is allocated; all of it works in constant expressions.
#pragma once

#include "ar/codec/gptq_int32.hpp"
#include "ar/detail/shapes.hpp"
#include "ar/scheme.hpp"

namespace ar {
inline namespace AR_ABI {
namespace packing {

/// True if every code fits in `bits` bits.
constexpr bool codes_fit(matrix_view<const std::uint8_t> code, int bits) noexcept {
  if (bits == 8) return true;
  const std::uint64_t high = 0x0101010101010101u * static_cast<std::uint64_t>(0xFFu << bits & 0xFFu);
  std::uint64_t seen = 0;
  for (std::size_t r = 0; r < code.rows; ++r) {
    const std::uint8_t* p = code.row(r);
    std::size_t i = 0;
    for (; i + 32 <= code.cols; i += 32)
      seen |= bits::load_bytes(p + i) | bits::load_bytes(p + i + 8) | bits::load_bytes(p + i + 16) | bits::load_bytes(p + i + 24);
    for (; i < code.cols; ++i) seen |= p[i];
  }
  return (seen & high) == 0;
}

/// Calls f.run<bits>() for a width that is known at run time only.
template <int Low, int High, class F>
constexpr void with_bits(int bits, const F& f) noexcept {
  if constexpr (Low <= High) {
    if (bits == Low) return f.template run<Low>();
    with_bits<Low + 1, High>(bits, f);
  }
}

template <class C>
struct pack_call {
  matrix_view<const std::uint8_t> code;
  matrix_view<typename C::word> words;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template pack<Bits>(code, words);
  }
};
template <class C>
struct unpack_call {
  matrix_view<const typename C::word> words;
  matrix_view<std::uint8_t> code;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template unpack<Bits>(words, code);
  }
};
template <class C>
struct pack_zeros_call {
  typename C::zeros convention;
  matrix_view<const std::int32_t> zero;
  matrix_view<typename C::word> words;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template pack_zeros<Bits>(convention, zero, words);
  }
};
template <class C>
struct unpack_zeros_call {
  typename C::zeros convention;
  matrix_view<const typename C::word> words;
  matrix_view<std::int32_t> zero;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template unpack_zeros<Bits>(convention, words, zero);
  }
};

template <class C, class A, class B>
[[nodiscard]] constexpr errc packed_shapes(int bits, matrix_view<A> code, matrix_view<B> words) noexcept {
  if (bits < C::min_bits || bits > C::max_bits) return errc::bad_value;
  if (!shapes::well_formed(code) || !shapes::well_formed(words)) return errc::bad_shape;
  if (words.rows != C::packed_rows(code.rows, code.cols, bits) || words.cols != C::packed_cols(code.rows, code.cols, bits)) return errc::bad_shape;
  return code.size() != 0 && words.size() == 0 ? errc::bad_shape : errc::ok;
}
template <class C, class A, class B>
[[nodiscard]] constexpr errc zero_shapes(int bits, matrix_view<A> zero, matrix_view<B> words) noexcept {
  if (bits < C::min_bits || bits > C::max_bits) return errc::bad_value;
  if (!shapes::well_formed(zero) || !shapes::well_formed(words)) return errc::bad_shape;
  if (words.rows != zero.cols || words.cols != C::packed_zero_cols(zero.rows, bits)) return errc::bad_shape;
  return zero.size() != 0 && words.size() == 0 ? errc::bad_shape : errc::ok;
}

}  // namespace packing

/// Packs code[rows x cols], values 0 .. 2^bits-1, into words[C::packed_rows x C::packed_cols]. errc::bad_shape if the codec cannot hold the
/// shape or `words` has another one, errc::bad_value for a width out of range or a code that does not fit.
template <Codec C>
[[nodiscard]] constexpr errc pack(C, int bits, matrix_view<const std::uint8_t> code, matrix_view<typename C::word> words) noexcept {
  if (const errc e = packing::packed_shapes<C>(bits, code, words); e != errc::ok) return e;
  if (!packing::codes_fit(code, bits)) return errc::bad_value;
  packing::with_bits<C::min_bits, C::max_bits>(bits, packing::pack_call<C>{code, words});
  return errc::ok;
}

/// The reverse of pack.
template <Codec C>
[[nodiscard]] constexpr errc unpack(C, int bits, matrix_view<const typename C::word> words, matrix_view<std::uint8_t> code) noexcept {
  if (const errc e = packing::packed_shapes<C>(bits, code, words); e != errc::ok) return e;
  packing::with_bits<C::min_bits, C::max_bits>(bits, packing::unpack_call<C>{words, code});
  return errc::ok;
}

/// Packs zero points zero[rows x groups] (2^(bits-1) everywhere for symmetric types) into words[groups x C::packed_zero_cols(rows)].
/// errc::not_representable if the convention has no field for one of them.
template <Codec C>
[[nodiscard]] constexpr errc pack_zeros(C, typename C::zeros convention, int bits, matrix_view<const std::int32_t> zero,
                                        matrix_view<typename C::word> words) noexcept {
  if (const errc e = packing::zero_shapes<C>(bits, zero, words); e != errc::ok) return e;
  for (std::size_t r = 0; r < zero.rows; ++r)
    for (std::size_t g = 0; g < zero.cols; ++g)
      if (C::zero_field(convention, bits, zero(r, g)) < 0) return errc::not_representable;
  packing::with_bits<C::min_bits, C::max_bits>(bits, packing::pack_zeros_call<C>{convention, zero, words});
  return errc::ok;
}

/// The zero points as a reader of the words sees them.
template <Codec C>
[[nodiscard]] constexpr errc unpack_zeros(C, typename C::zeros convention, int bits, matrix_view<const typename C::word> words,
                                          matrix_view<std::int32_t> zero) noexcept {
  if (const errc e = packing::zero_shapes<C>(bits, zero, words); e != errc::ok) return e;
  packing::with_bits<C::min_bits, C::max_bits>(bits, packing::unpack_zeros_call<C>{convention, words, zero});
  return errc::ok;
}

}  // namespace AR_ABI
}  // namespace ar
