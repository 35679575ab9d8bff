// q2_0: GGUF Q2_0. Blocks of 64 weights of -1, 0, 1 or 2 times their largest magnitude, which is kept in half precision. 2.25 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q2_0, which never uses the 2); equal bit for bit.
#if defined(AR_DTYPE_Q2_0_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q2_0_HPP
#else
#define AR_DTYPE_Q2_0_HPP
#endif

#include "ar/detail/bytes16.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_block.hpp"
#include "ar/detail/gguf_search-inl.h"

AR_BEGIN_TARGET

struct q2_0 {
  static constexpr const char* name = "q2_0";
  static constexpr gguf_id id = gguf_id::q2_0;
  static constexpr std::size_t block_size = 64;
  static constexpr std::size_t sub_size = 64;
  static constexpr std::size_t block_bytes = 18;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 2; }

  template <class F>
  struct params {
    F d;
  };
  struct layout {
    detail::le16 d;
    std::uint8_t qs[16];  ///< four weights a byte, the first in the lowest bits; value plus 1
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f);
    const F d = gguf::first_extreme(x, 64).magnitude;
    const F inverse = lane_select(lane_eq(d, zero), zero, one / d);
    p.d = lane_round_f16(d);
    for (std::size_t i = 0; i < 64; ++i) {
      const F q = gguf::lane_round_away(x[i] * inverse) + one;
      // Where the inverse overflows, the original's conversion to int gives its smallest number.
      code[i] = lane_select(lane_lt(lane_abs(q), lane_set<F>(256.0f)), gguf::clamp(q, zero, lane_set<F>(3.0f)), zero);
    }
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return (code - lane_set<F>(1.0f)) * p.d;
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    for (std::size_t k = 0; k < 16; ++k) {
      const std::uint8_t* c = code + 4 * k;
      block[offsetof(layout, qs) + k] = detail::byte_of((c[0] & 3u) | ((c[1] & 3u) << 2) | ((c[2] & 3u) << 4) | ((c[3] & 3u) << 6));
    }
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    const std::uint8_t* qs = block + offsetof(layout, qs);
#if AR_HAS_BYTES16
    if (!std::is_constant_evaluated()) {
      const bits::u8x16 x = bits::load16(qs), three = bits::every_byte(3);
      const bits::u8x16 c0 = x & three, c1 = bits::shift_right_16<2>(x) & three, c2 = bits::shift_right_16<4>(x) & three, c3 = bits::shift_right_16<6>(x) & three;
      const bits::u8x16 even_low = bits::zip_lower_8(c0, c2), odd_low = bits::zip_lower_8(c1, c3);
      const bits::u8x16 even_high = bits::zip_upper_8(c0, c2), odd_high = bits::zip_upper_8(c1, c3);
      bits::store16(bits::zip_lower_8(even_low, odd_low), code);
      bits::store16(bits::zip_upper_8(even_low, odd_low), code + 16);
      bits::store16(bits::zip_lower_8(even_high, odd_high), code + 32);
      bits::store16(bits::zip_upper_8(even_high, odd_high), code + 48);
      return;
    }
#endif
    for (std::size_t i = 0; i < 64; ++i) code[i] = (qs[i / 4] >> (2 * (i % 4))) & 3;
  }
};
static_assert(BlockType<q2_0>);

/// The instances that the dispatch unit holds.
using q2_0_types = type_list<q2_0>;

AR_END_TARGET
#endif
