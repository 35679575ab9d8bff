// q8_1: GGUF Q8_1. Blocks of 32 values, 8-bit signed codes, scale and scaled sum in half precision: activations of integer dot products. 9 bits.
// Source: ggml 0.25.3 (quantize_row_q8_1_ref); equal bit for bit.
#if defined(AR_DTYPE_Q8_1_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q8_1_HPP
#else
#define AR_DTYPE_Q8_1_HPP
#endif

#include "ar/detail/gguf_block32-inl.h"

AR_BEGIN_TARGET

struct q8_1 {
  static constexpr const char* name = "q8_1";
  static constexpr gguf_id id = gguf_id::q8_1;
  static constexpr std::size_t block_size = 32;
  static constexpr std::size_t sub_size = 32;
  static constexpr std::size_t block_bytes = 36;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 8; }

  /// s is the sum of the codes times d.
  template <class F>
  struct params {
    F d, s;
  };
  struct layout {
    detail::le16 d, s;
    std::uint8_t qs[32];  ///< signed
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer: largest magnitude / 127. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f);
    const F d = gguf::first_extreme(x, 32).magnitude / lane_set<F>(127.0f);
    const F inverse = lane_select(lane_eq(d, zero), zero, lane_set<F>(1.0f) / d);
    F sum = zero;  // of whole numbers: exact in any order
    for (std::size_t i = 0; i < 32; ++i) {
      const F q = gguf::lane_trunc_or_zero(gguf::lane_round_away(x[i] * inverse));
      sum = sum + q;
      code[i] = q + lane_set<F>(128.0f);
    }
    p.d = lane_round_f16(d);
    p.s = lane_round_f16(sum * d);
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return (code - lane_set<F>(128.0f)) * p.d;
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    detail::write_f16(p.s, block + offsetof(layout, s));
    for (std::size_t i = 0; i < 32; ++i) block[offsetof(layout, qs) + i] = code[i] ^ 128;
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    p.s = detail::read_f16(block + offsetof(layout, s));
    for (std::size_t i = 0; i < 32; ++i) code[i] = block[offsetof(layout, qs) + i] ^ 128;
  }
};
static_assert(BlockType<q8_1>);

/// The instances that the dispatch unit holds.
using q8_1_types = type_list<q8_1>;

AR_END_TARGET
#endif
