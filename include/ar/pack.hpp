// Door: unsigned codes to the words of a checkpoint and back. A codec (ar/codec/) says the layout; this door checks shapes and values, so that
// a function does all of its work or writes nothing. No memory is allocated; all of it works in constant expressions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "ar/codecs.hpp"
#include "ar/detail/codec_kernels.hpp"
#include "ar/detail/shapes.hpp"
#include "ar/detail/stream_rows.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {
namespace packing {

/// True if every code fits in `bits` bits.
template <class Moves>
constexpr bool codes_fit(matrix_view<const std::uint8_t> code, int bits) noexcept {
  return bits == 8 || Moves::none_has(code, static_cast<std::uint8_t>(0xFFu << bits & 0xFFu));
}

/// Calls f.run<bits>() for a width that is known at run time only, and that the codec has.
template <class C, int Bits = 1, class F>
constexpr void with_bits(int bits, const F& f) noexcept {
  if constexpr (Bits <= 8) {
    if constexpr (C::has_bits(Bits)) {
      if (bits == Bits) return f.template run<Bits>();
    }
    with_bits<C, Bits + 1>(bits, f);
  }
}

template <class C, class Moves>
struct pack_call {
  matrix_view<const std::uint8_t> code;
  matrix_view<typename C::word> words;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template pack<Bits, Moves>(code, words);
  }
};
template <class C, class Moves>
struct unpack_call {
  matrix_view<const typename C::word> words;
  matrix_view<std::uint8_t> code;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template unpack<Bits, Moves>(words, code);
  }
};
template <class C>
struct pack_zeros_call {
  zero_convention convention;
  matrix_view<const std::int32_t> zero;
  matrix_view<typename C::word> words;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template pack_zeros<Bits>(convention, zero, words);
  }
};
template <class C>
struct unpack_zeros_call {
  zero_convention convention;
  matrix_view<const typename C::word> words;
  matrix_view<std::int32_t> zero;
  template <int Bits>
  constexpr void run() const noexcept {
    C::template unpack_zeros<Bits>(convention, words, zero);
  }
};

template <class C, class A, class B>
[[nodiscard]] constexpr errc packed_shapes(int bits, matrix_view<A> code, matrix_view<B> words) noexcept {
  if (!C::has_bits(bits)) return errc::bad_value;
  if (!shapes::well_formed(code) || !shapes::well_formed(words)) return errc::bad_shape;
  if (words.rows != C::packed_rows(code.rows, code.cols, bits) || words.cols != C::packed_cols(code.rows, code.cols, bits)) return errc::bad_shape;
  return code.rows != 0 && code.cols != 0 && (words.rows == 0 || words.cols == 0) ? errc::bad_shape : errc::ok;
}
template <class C, class A, class B>
[[nodiscard]] constexpr errc zero_shapes(zero_convention convention, int bits, matrix_view<A> zero, matrix_view<B> words) noexcept {
  if (!C::has_bits(bits)) return errc::bad_value;
  if (!C::has_convention(convention)) return errc::unsupported;
  if (!shapes::well_formed(zero) || !shapes::well_formed(words)) return errc::bad_shape;
  if (words.rows != C::packed_zero_rows(zero.rows, zero.cols, bits) || words.cols != C::packed_zero_cols(zero.rows, zero.cols, bits)) return errc::bad_shape;
  return zero.rows != 0 && zero.cols != 0 && (words.rows == 0 || words.cols == 0) ? errc::bad_shape : errc::ok;
}

template <class C, class Moves>
[[nodiscard]] constexpr errc pack(int bits, matrix_view<const std::uint8_t> code, matrix_view<typename C::word> words) noexcept {
  if (const errc e = packed_shapes<C>(bits, code, words); e != errc::ok) return e;
  if (code.rows == 0 || code.cols == 0) return errc::ok;
  if (!codes_fit<Moves>(code, bits)) return errc::bad_value;
  with_bits<C>(bits, pack_call<C, Moves>{code, words});
  return errc::ok;
}
template <class C, class Moves>
[[nodiscard]] constexpr errc unpack(int bits, matrix_view<const typename C::word> words, matrix_view<std::uint8_t> code) noexcept {
  if (const errc e = packed_shapes<C>(bits, code, words); e != errc::ok) return e;
  if (code.rows == 0 || code.cols == 0) return errc::ok;
  with_bits<C>(bits, unpack_call<C, Moves>{words, code});
  return errc::ok;
}

}  // namespace packing

/// Shape of the packed tensor for codes [rows x cols]; 0 x 0 if the layout cannot hold the shape or the width.
template <Codec C>
[[nodiscard]] constexpr matrix_shape packed_shape(C, int bits, std::size_t rows, std::size_t cols) noexcept {
  if (!C::has_bits(bits)) return {};
  const matrix_shape s{C::packed_rows(rows, cols, bits), C::packed_cols(rows, cols, bits)};
  return s.rows == 0 || s.cols == 0 ? matrix_shape{} : s;
}

/// Shape of the packed zero points for `groups` groups a row; 0 x 0 if the layout cannot hold the shape or the width, or has none.
template <Codec C>
[[nodiscard]] constexpr matrix_shape packed_zero_shape(C, int bits, std::size_t rows, std::size_t groups) noexcept {
  if constexpr (ZeroCodec<C>) {
    if (!C::has_bits(bits)) return {};
    const matrix_shape s{C::packed_zero_rows(rows, groups, bits), C::packed_zero_cols(rows, groups, bits)};
    return s.rows == 0 || s.cols == 0 ? matrix_shape{} : s;
  }
  return {};
}

/// Shape of the scales for groups of group_size (-1 the row, 0 the tensor); 0 x 0 if the layout has another size of groups.
template <Codec C>
[[nodiscard]] constexpr matrix_shape scale_shape(C, int group_size, std::size_t rows, std::size_t cols) noexcept {
  if (group_size < -1 || (C::group != 0 && group_size != C::group)) return {};
  if (rows == 0 || cols == 0) return {};
  if (group_size == 0) return {1, 1};
  const std::size_t size = group_size < 0 ? cols : static_cast<std::size_t>(group_size), groups = ceil_div(cols, size);
  switch (C::order) {
    case scale_order::rows_by_groups: return {rows, groups};
    case scale_order::groups_by_rows: return {groups, rows};
    case scale_order::blocks: return {ceil_div(rows, size), groups};
  }
  return {};
}

/// Packs code[rows x cols], values 0 .. 2^bits-1, into words[C::packed_rows x C::packed_cols]. errc::bad_shape if the codec cannot hold the
/// shape or `words` has another one, errc::bad_value for a width out of range or a code that does not fit.
template <Codec C>
[[nodiscard]] constexpr errc pack(C, int bits, matrix_view<const std::uint8_t> code, matrix_view<typename C::word> words) noexcept {
  return packing::pack<C, bits::plain_moves>(bits, code, words);
}

/// The reverse of pack.
template <Codec C>
[[nodiscard]] constexpr errc unpack(C, int bits, matrix_view<const typename C::word> words, matrix_view<std::uint8_t> code) noexcept {
  return packing::unpack<C, bits::plain_moves>(bits, words, code);
}

/// Packs zero points zero[rows x groups] (2^(bits-1) everywhere for symmetric types) into words[C::packed_zero_rows x C::packed_zero_cols].
/// errc::not_representable if the convention has no field for one of them, errc::unsupported if the layout does not know the convention.
template <ZeroCodec C>
[[nodiscard]] constexpr errc pack_zeros(C, zero_convention convention, int bits, matrix_view<const std::int32_t> zero,
                                        matrix_view<typename C::word> words) noexcept {
  if (const errc e = packing::zero_shapes<C>(convention, bits, zero, words); e != errc::ok) return e;
  if (zero.rows == 0 || zero.cols == 0) return errc::ok;
  for (std::size_t r = 0; r < zero.rows; ++r)
    for (std::size_t g = 0; g < zero.cols; ++g)
      if (C::zero_field(convention, bits, zero(r, g)) < 0) return errc::not_representable;
  packing::with_bits<C>(bits, packing::pack_zeros_call<C>{convention, zero, words});
  return errc::ok;
}

/// The zero points as a reader of the words sees them.
template <ZeroCodec C>
[[nodiscard]] constexpr errc unpack_zeros(C, zero_convention convention, int bits, matrix_view<const typename C::word> words,
                                          matrix_view<std::int32_t> zero) noexcept {
  if (const errc e = packing::zero_shapes<C>(convention, bits, zero, words); e != errc::ok) return e;
  if (zero.rows == 0 || zero.cols == 0) return errc::ok;
  packing::with_bits<C>(bits, packing::unpack_zeros_call<C>{convention, words, zero});
  return errc::ok;
}

namespace packing {

template <class C, class Moves>
struct codec_entry {
  using word = typename C::word;
  static matrix_shape packed_shape(int bits, std::size_t rows, std::size_t cols) noexcept { return ar::packed_shape(C{}, bits, rows, cols); }
  static matrix_shape packed_zero_shape(int bits, std::size_t rows, std::size_t groups) noexcept { return ar::packed_zero_shape(C{}, bits, rows, groups); }
  static matrix_shape scale_shape(int group_size, std::size_t rows, std::size_t cols) noexcept { return ar::scale_shape(C{}, group_size, rows, cols); }
  static errc pack(int bits, matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    return packing::pack<C, Moves>(bits, code, words);
  }
  static errc unpack(int bits, matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    return packing::unpack<C, Moves>(bits, words, code);
  }
  static errc pack_zeros(zero_convention convention, int bits, matrix_view<const std::int32_t> zero, matrix_view<std::uint32_t> words) noexcept {
    return ar::pack_zeros(C{}, convention, bits, zero, words);
  }
  static errc unpack_zeros(zero_convention convention, int bits, matrix_view<const std::uint32_t> words, matrix_view<std::int32_t> zero) noexcept {
    return ar::unpack_zeros(C{}, convention, bits, words, zero);
  }
  static constexpr codec_kernels make() noexcept {
    codec_kernels k{C::name, C::group, C::has_bits, packed_shape, packed_zero_shape, scale_shape, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    if constexpr (sizeof(word) == 4) {
      k.pack_words = pack;
      k.unpack_words = unpack;
    } else {
      k.pack_bytes = pack;
      k.unpack_bytes = unpack;
    }
    if constexpr (ZeroCodec<C>) {
      k.pack_zeros = pack_zeros;
      k.unpack_zeros = unpack_zeros;
    }
    return k;
  }
};

template <class List, class Moves>
struct codec_table;
template <class... C, class Moves>
struct codec_table<type_list<C...>, Moves> {
  static constexpr codec_kernels value[] = {codec_entry<C, Moves>::make()...};
};

}  // namespace packing

/// The codecs of the list, for use at run time. A template, so that units that name their codecs pay for those alone. Moves: by what
/// means (detail/stream_rows.hpp); the same functions for the machine's best instruction set are in ar/dispatch.hpp.
template <class List = all_codecs, class Moves = bits::plain_moves>
[[nodiscard]] constexpr std::span<const codec_kernels> codecs() noexcept {
  return packing::codec_table<List, Moves>::value;
}

/// The codec `name` ("awq_int32"), or null.
template <class List = all_codecs>
[[nodiscard]] constexpr const codec_kernels* find_codec(std::string_view name) noexcept {
  for (const codec_kernels& k : codecs<List>())
    if (name == k.name) return &k;
  return nullptr;
}

}  // namespace AR_ABI
}  // namespace ar
