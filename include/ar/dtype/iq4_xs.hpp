// iq4_xs: GGUF IQ4_XS. 256 weights in 8 groups of 32; 4-bit codes that name non-linear levels, 6-bit scales with a half-precision step. 4.25 bits.
// Source: ggml 0.25.3 (quantize_row_iq4_xs, with and without importance); equal bit for bit.
#if defined(AR_DTYPE_IQ4_XS_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ4_XS_HPP
#else
#define AR_DTYPE_IQ4_XS_HPP
#endif

#include "ar/detail/gguf_levels-inl.h"

AR_BEGIN_TARGET

struct iq4_xs {
  static constexpr const char* name = "iq4_xs";
  static constexpr gguf_id id = gguf_id::iq4_xs;
  static constexpr std::size_t block_size = 256;
  static constexpr std::size_t sub_size = 32;
  static constexpr std::size_t block_bytes = 136;
  static constexpr bool weighs_by_row = false;
  AR_FN static constexpr int bits() noexcept { return 4; }

  /// scale holds signed codes.
  template <class F>
  struct params {
    F d, scale[8];
  };
  /// Scales plus 32: low nibbles in scales_l, upper two bits in scales_h.
  struct layout {
    detail::le16 d, scales_h;
    std::uint8_t scales_l[4];
    std::uint8_t qs[128];
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer. `importance` is null or the weight of each column.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F* importance, F* code, params<F>& p) noexcept {
    F w[256], scale[8];
    gguf::iq4_weights(x, importance, 256, w);
    for (std::size_t j = 0; j < 8; ++j) scale[j] = gguf::fit_iq4(x + j * 32, static_cast<const F*>(w + j * 32));
    const F d = (-gguf::first_extreme(static_cast<const F*>(scale), 8).value) / lane_set<F>(32.0f);
    const F inverse = gguf::inverse_or_zero(d);
    p.d = lane_round_f16(d);
    for (std::size_t j = 0; j < 8; ++j) {
      p.scale[j] = gguf::clamp_code(lane_nint(inverse * scale[j]), -32.0f, 31.0f);
      const F step = gguf::inverse_or_zero(d * p.scale[j]);  // the step unrounded, as in the original
      for (std::size_t i = j * 32; i < j * 32 + 32; ++i) code[i] = gguf::nearest_iq4(step * x[i]).index;
    }
  }

  template <class F>
  AR_FN static constexpr gguf_terms<F> terms(const params<F>& p, std::size_t sub) noexcept {
    return {p.d * p.scale[sub], p.d};
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const gguf_terms<F>& t) noexcept {
    return t.step * gguf::iq4_value(code);
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t sub) noexcept {
    return decode(code, terms(p, sub));
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    std::uint32_t low = 0, high = 0;
    for (std::size_t j = 0; j < 8; ++j) {
      const auto s = static_cast<std::uint32_t>(p.scale[j] + 32.0f);
      low |= (s & 15u) << (4 * j);
      high |= (s >> 4) << (2 * j);
      gguf::store_nibbles(code + j * 32, block + offsetof(layout, qs) + j * 16);
    }
    detail::write_le32(low, block + offsetof(layout, scales_l));
    detail::write_le16(high, block + offsetof(layout, scales_h));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    const std::uint32_t low = detail::read_le32(block + offsetof(layout, scales_l)), high = detail::read_le16(block + offsetof(layout, scales_h));
    for (std::size_t j = 0; j < 8; ++j) {
      const std::uint32_t s = ((low >> (4 * j)) & 15u) | (((high >> (2 * j)) & 3u) << 4);
      p.scale[j] = static_cast<float>(s) - 32.0f;
      gguf::load_nibbles(block + offsetof(layout, qs) + j * 16, code + j * 32);
    }
  }
};
static_assert(BlockType<iq4_xs>);

/// The instances that the dispatch unit holds.
using iq4_xs_types = type_list<iq4_xs>;

AR_END_TARGET
#endif
