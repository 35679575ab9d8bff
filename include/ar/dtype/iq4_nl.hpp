// iq4_nl: GGUF IQ4_NL. Blocks of 32 weights, 4-bit codes that name non-linear levels, scale in half precision. 4.5 bits a weight.
// Source: ggml 0.25.3 (quantize_row_iq4_nl, with and without importance); equal bit for bit.
#if defined(AR_DTYPE_IQ4_NL_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ4_NL_HPP
#else
#define AR_DTYPE_IQ4_NL_HPP
#endif

#include "ar/detail/gguf_levels-inl.h"

AR_BEGIN_TARGET

struct iq4_nl {
  static constexpr const char* name = "iq4_nl";
  static constexpr gguf_id id = gguf_id::iq4_nl;
  static constexpr std::size_t block_size = 32;
  static constexpr std::size_t sub_size = 32;
  static constexpr std::size_t block_bytes = 18;
  static constexpr bool weighs_by_row = false;
  AR_FN static constexpr int bits() noexcept { return 4; }

  template <class F>
  struct params {
    F d;
  };
  struct layout {
    detail::le16 d;
    std::uint8_t qs[16];
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer. `importance` is null or the weight of each column.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F* importance, F* code, params<F>& p) noexcept {
    F w[32];
    gguf::iq4_weights(x, importance, 32, w);
    const F scale = gguf::fit_iq4(x, static_cast<const F*>(w));
    const F inverse = gguf::inverse_or_zero(scale);
    p.d = lane_round_f16(scale);
    for (std::size_t i = 0; i < 32; ++i) code[i] = gguf::nearest_iq4(inverse * x[i]).index;
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return p.d * gguf::iq4_value(code);
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    gguf::store_nibbles(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    gguf::load_nibbles(block + offsetof(layout, qs), code);
  }
};
static_assert(BlockType<iq4_nl>);

/// The instances that the dispatch unit holds.
using iq4_nl_types = type_list<iq4_nl>;

AR_END_TARGET
#endif
