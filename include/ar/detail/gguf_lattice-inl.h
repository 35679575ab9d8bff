// What the GGUF types share whose codes name points of a lattice (IQ1, IQ2, IQ3): they are read only. Finding the nearest points is a search of its
// own, which this library does not have; such files come from other programs.
#if defined(AR_DETAIL_GGUF_LATTICE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_LATTICE_INL_H
#else
#define AR_DETAIL_GGUF_LATTICE_INL_H
#endif

#include "ar/detail/bytes16.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_block.hpp"
#include "ar/detail/iq_lattices.hpp"
#include "ar/detail/lane_traits-inl.h"

AR_BEGIN_TARGET
namespace gguf {

/// 256 weights, Sub of them under one step. A code is a whole number -128..127 plus 128, so many steps (or, with Eighths, eighths of a step).
template <std::size_t Sub, bool Eighths = false>
struct lattice_superblock {
  static constexpr std::size_t block_size = 256;
  static constexpr std::size_t sub_size = Sub;
  AR_FN static constexpr int bits() noexcept { return 8; }

  template <class F>
  struct params {
    F step[256 / Sub];
  };

  template <class F>
  AR_FN static constexpr gguf_terms<F> terms(const params<F>& p, std::size_t sub) noexcept {
    return {p.step[sub], p.step[sub]};
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const gguf_terms<F>& t) noexcept {
    F n = code - lane_set<F>(128.0f);
    if (Eighths) n = n * lane_set<F>(0.125f);  // exact; the step times an eighth need not be
    return t.step * n;
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t sub) noexcept {
    return decode(code, terms(p, sub));
  }
};

/// Points one after the other, 16 values in all, with signs: value j is negated if bit j of `signs` is set. All values are offset by 128.
template <std::size_t N>
AR_FN constexpr void put_points(const std::uint8_t (*const (&point)[16 / N])[N], std::uint32_t signs, std::uint8_t* code) noexcept {
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) {
    bits::u8x16 x{};
    if constexpr (N == 8) {
      x = std::bit_cast<bits::u8x16>(bits::u64x2{bits::load8(*point[0]), bits::load8(*point[1])});
    } else {
      x = std::bit_cast<bits::u8x16>(bits::u32x4{bits::load4(*point[0]), bits::load4(*point[1]), bits::load4(*point[2]), bits::load4(*point[3])});
    }
    const bits::u8x16 m = bits::mask_of_bits(signs);
    bits::store16((x ^ m) - m, code);
    return;
  }
#endif
  for (std::size_t j = 0; j < 16; ++j) {
    const std::uint32_t v = (*point[j / N])[j % N];
    code[j] = detail::byte_of(((signs >> j) & 1u) != 0 ? 256u - v : v);
  }
}
/// Seven signs are stored; the eighth makes their number even.
AR_FN constexpr std::uint32_t eight_signs(std::uint32_t seven) noexcept {
  std::uint32_t odd = seven ^ (seven >> 4);
  odd ^= odd >> 2;
  return seven | (((odd ^ (odd >> 1)) & 1u) << 7);
}
/// Those of two points.
AR_FN constexpr std::uint32_t sixteen_signs(std::uint32_t fourteen) noexcept {
  return eight_signs(fourteen & 127u) | (eight_signs((fourteen >> 7) & 127u) << 8);
}
/// A point of -1, 0, 1 moved by an eighth of a step, up or down, in eighths.
template <std::size_t N>
AR_FN constexpr void put_moved_point(const std::uint8_t (&point)[N], bool down, std::uint8_t* code) noexcept {
  const std::uint32_t offset = down ? 128u - 8u * 128u - 1u : 128u - 8u * 128u + 1u;
  AR_KEEP_LOOP
  for (std::size_t j = 0; j < N; ++j) code[j] = detail::byte_of(8u * point[j] + offset);
}

}  // namespace gguf
AR_END_TARGET
#endif
