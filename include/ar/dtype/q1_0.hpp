// q1_0: GGUF Q1_0. Blocks of 128 weights, one bit each (the sign), mean magnitude in half precision. 1.125 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q1_0); equal bit for bit.
#if defined(AR_DTYPE_Q1_0_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q1_0_HPP
#else
#define AR_DTYPE_Q1_0_HPP
#endif

#include "ar/detail/bytes16.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_block.hpp"
#include "ar/detail/lane_traits-inl.h"

AR_BEGIN_TARGET

struct q1_0 {
  static constexpr const char* name = "q1_0";
  static constexpr gguf_id id = gguf_id::q1_0;
  static constexpr std::size_t block_size = 128;
  static constexpr std::size_t sub_size = 128;
  static constexpr std::size_t block_bytes = 18;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 1; }

  template <class F>
  struct params {
    F d;
  };
  struct layout {
    detail::le16 d;
    std::uint8_t qs[16];  ///< weight i is bit i: 1 for +d, 0 for -d
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer: magnitudes summed one after the other; zeros of both signs count as positive. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f);
    F sum = zero;
    for (std::size_t i = 0; i < 128; ++i) {
      sum = sum + lane_abs(x[i]);
      code[i] = lane_select(lane_ge(x[i], zero), one, zero);
    }
    p.d = lane_round_f16(sum / lane_set<F>(128.0f));
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return lane_select(lane_gt(code, lane_set<F>(0.0f)), p.d, -p.d);
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    for (std::size_t k = 0; k < 16; ++k) {
      std::uint32_t bits = 0;
      for (std::size_t i = 0; i < 8; ++i) bits |= static_cast<std::uint32_t>(code[8 * k + i] & 1) << i;
      block[offsetof(layout, qs) + k] = detail::byte_of(bits);
    }
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    const std::uint8_t* qs = block + offsetof(layout, qs);
#if AR_HAS_BYTES16
    if (!std::is_constant_evaluated()) {
      for (std::size_t k = 0; k < 8; ++k) bits::store16(bits::mask_of_bits(detail::read_le16(qs + 2 * k)) & bits::every_byte(1), code + 16 * k);
      return;
    }
#endif
    for (std::size_t i = 0; i < 128; ++i) code[i] = (qs[i / 8] >> (i % 8)) & 1;
  }
};
static_assert(BlockType<q1_0>);

/// The instances that the dispatch unit holds.
using q1_0_types = type_list<q1_0>;

AR_END_TARGET
#endif
