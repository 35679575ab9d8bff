// tq2_0: GGUF TQ2_0. 256 ternary weights, 2 bits each, and their largest magnitude in half precision. 2.0625 bits a weight.
// Source: ggml 0.25.3 (quantize_row_tq2_0); equal bit for bit.
#if defined(AR_DTYPE_TQ2_0_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_TQ2_0_HPP
#else
#define AR_DTYPE_TQ2_0_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"

AR_BEGIN_TARGET

struct tq2_0 {
  static constexpr const char* name = "tq2_0";
  static constexpr gguf_id id = gguf_id::tq2_0;
  static constexpr std::size_t block_size = 256;
  static constexpr std::size_t sub_size = 256;
  static constexpr std::size_t block_bytes = 66;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 2; }

  template <class F>
  struct params {
    F d;
  };
  struct layout {
    std::uint8_t qs[64];
    detail::le16 d;
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer: largest magnitude, weights to -1, 0, 1. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F d = gguf::first_extreme(x, 256).magnitude;
    const F inverse = lane_select(lane_eq(d, lane_set<F>(0.0f)), lane_set<F>(0.0f), lane_set<F>(1.0f) / d);
    p.d = lane_round_f16(d);
    for (std::size_t i = 0; i < 256; ++i)
      code[i] = gguf::lane_trunc_or_zero(gguf::lane_round_away(x[i] * inverse)) + lane_set<F>(1.0f);
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return (code - lane_set<F>(1.0f)) * p.d;
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    gguf::store_two_bits(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    gguf::load_two_bits(block + offsetof(layout, qs), code);
  }
};
static_assert(BlockType<tq2_0>);

/// The instances that the dispatch unit holds.
using tq2_0_types = type_list<tq2_0>;

AR_END_TARGET
#endif
