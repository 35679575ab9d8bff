// gguf_mxfp4: MXFP4 as GGUF stores it. Blocks of 32 weights, E2M1 codes, one E8M0 exponent. 4.25 bits a weight. Codes are doubled E2M1 numbers, the
// scale is halved: 2^(e-128).
// Source: ggml 0.25.3 (quantize_row_mxfp4; importance plays no part); equal bit for bit.
#if defined(AR_DTYPE_GGUF_MXFP4_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_GGUF_MXFP4_HPP
#else
#define AR_DTYPE_GGUF_MXFP4_HPP
#endif

#include "ar/detail/gguf_levels-inl.h"
#include "ar/numeric/log2.hpp"

AR_BEGIN_TARGET

struct gguf_mxfp4 {
  static constexpr const char* name = "gguf_mxfp4";
  static constexpr gguf_id id = gguf_id::mxfp4;
  static constexpr std::size_t block_size = 32;
  static constexpr std::size_t sub_size = 32;
  static constexpr std::size_t block_bytes = 17;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 4; }

  /// d is 2^(e-128).
  template <class F>
  struct params {
    F d;
  };
  struct layout {
    std::uint8_t e;
    std::uint8_t qs[16];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr float scale_of(std::uint32_t e) noexcept { return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23); }
  AR_FN static constexpr std::uint8_t exponent_of(float scale) noexcept {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(scale);
    return detail::byte_of(bits >= 0x00800000u ? (bits >> 23) + 1 : bits >> 22);
  }

  /// ggml's quantizer: 4 is the largest power of two in E2M1, so that the block's largest weight lies in [4, 8) of the scale. An exponent below 0
  /// (weights under 2^-125) wraps around as in the original, whose codes are then all 0; only where it would be 255, which no reader accepts, it
  /// is 0 instead.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    struct block_scale {
      AR_FN constexpr float operator()(float largest) const noexcept {
        if (!(largest > 0.0f)) return scale_of(0);
        const std::uint32_t e = static_cast<std::uint32_t>(floor_log2_rounded(largest) - 2 + 127) & 0xFFu;
        return scale_of(e == 255 ? 0 : e);
      }
    };
    p.d = lane_each(gguf::first_extreme(x, 32).magnitude, block_scale{});
    gguf::encode_fp4(x, 32, p.d, code);
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return gguf::fp4_value(code) * p.d;
  }

  /// The exponent 255 is no number: llama.cpp refuses it.
  AR_FN static constexpr bool finite(const params<float>& p) noexcept { return exponent_of(p.d) != 255; }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    block[offsetof(layout, e)] = exponent_of(p.d);
    gguf::store_nibbles(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = scale_of(block[offsetof(layout, e)]);
    gguf::load_nibbles(block + offsetof(layout, qs), code);
  }
};
static_assert(BlockType<gguf_mxfp4>);

/// The instances that the dispatch unit holds.
using gguf_mxfp4_types = type_list<gguf_mxfp4>;

AR_END_TARGET
#endif
