// gguf_nvfp4: NVFP4 as GGUF stores it. Blocks of 64 weights, E2M1 codes, an unsigned E4M3 scale per 16. 4.5 bits a weight. Codes are doubled E2M1
// numbers, scales are halved; a scale of the whole tensor is kept elsewhere.
// Source: ggml 0.25.3 (quantize_row_nvfp4; importance plays no part); equal bit for bit.
#if defined(AR_DTYPE_GGUF_NVFP4_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_GGUF_NVFP4_HPP
#else
#define AR_DTYPE_GGUF_NVFP4_HPP
#endif

#include "ar/detail/gguf_levels-inl.h"

AR_BEGIN_TARGET

struct gguf_nvfp4 {
  static constexpr const char* name = "gguf_nvfp4";
  static constexpr gguf_id id = gguf_id::nvfp4;
  static constexpr std::size_t block_size = 64;
  static constexpr std::size_t sub_size = 16;
  static constexpr std::size_t block_bytes = 36;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 4; }

  template <class F>
  struct params {
    F scale[4];
  };
  /// Of each 16 weights: i in the low half of byte i, i + 8 in its high half.
  struct layout {
    std::uint8_t u[4];
    std::uint8_t qs[32];
  };
  static_assert(sizeof(layout) == block_bytes);

  /// Half the value of an unsigned E4M3 number; 0x7F (NaN) is 0, the top bit does not count otherwise.
  AR_FN static constexpr float scale_of(std::uint32_t u) noexcept {
    const std::uint32_t exponent = (u >> 3) & 15u, m = u & 7u;
    const std::uint32_t small = std::bit_cast<std::uint32_t>(static_cast<float>(m) * 0x1p-10f), normal = ((exponent + 119u) << 23) | (m << 20);
    const std::uint32_t number = exponent == 0 ? small : normal;
    return std::bit_cast<float>(u == 0x7F ? 0u : number);
  }
  /// The E4M3 number nearest to v, halves away from zero; 448 for all v >= 240.
  AR_FN static constexpr std::uint8_t nearest_scale(float v) noexcept {
    if (!(v > 0.0f)) return 0;
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(v > 448.0f ? 448.0f : v);
    const int exponent = static_cast<int>(bits >> 23) - 120;
    if (exponent <= 0) {
      const int m = static_cast<int>(v * 512.0f + 0.5f);
      return static_cast<std::uint8_t>(m > 7 ? 7 : m);
    }
    if (exponent >= 15) return 0x7E;  // so the original: everything from 256 up is 448
    const std::uint32_t m = ((bits >> 20) & 7u) + ((bits >> 19) & 1u);
    if (m <= 7) return detail::byte_of((static_cast<std::uint32_t>(exponent) << 3) | m);
    return exponent + 1 >= 15 ? 0x7E : detail::byte_of(static_cast<std::uint32_t>(exponent + 1) << 3);
  }

  /// The byte of a number that scale_of gave. All of them: 256 to 416 stand in files that others made, though the quantizer above skips them.
  AR_FN static constexpr std::uint8_t byte_of_scale(float half) noexcept {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(half);
    if (half < 0x1p-7f) return detail::byte_of(static_cast<std::uint32_t>(half * 0x1p10f));
    return detail::byte_of((((bits >> 23) - 119u) << 3) | ((bits >> 20) & 7u));
  }

  /// ggml's quantizer: the largest weight of 16 becomes 6, the largest E2M1 number.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    struct group_scale {
      AR_FN constexpr float operator()(float largest) const noexcept { return scale_of(nearest_scale(largest / 6.0f)); }
    };
    for (std::size_t j = 0; j < 4; ++j) {
      p.scale[j] = lane_each(gguf::first_extreme(x + 16 * j, 16).magnitude, group_scale{});
      gguf::encode_fp4(x + 16 * j, 16, p.scale[j], code + 16 * j);
    }
  }

  template <class F>
  AR_FN static constexpr gguf_terms<F> terms(const params<F>& p, std::size_t sub) noexcept {
    return {p.scale[sub], p.scale[sub]};
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const gguf_terms<F>& t) noexcept {
    return gguf::fp4_value(code) * t.step;
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t sub) noexcept {
    return decode(code, terms(p, sub));
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    std::uint8_t* qs = block + offsetof(layout, qs);
    for (std::size_t j = 0; j < 4; ++j) {
      block[offsetof(layout, u) + j] = byte_of_scale(p.scale[j]);
      for (std::size_t i = 0; i < 8; ++i)
        qs[8 * j + i] = detail::byte_of(code[16 * j + i] | (static_cast<std::uint32_t>(code[16 * j + 8 + i]) << 4));
    }
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const std::uint8_t* qs = block + offsetof(layout, qs);
    for (std::size_t j = 0; j < 4; ++j) {
      p.scale[j] = scale_of(block[offsetof(layout, u) + j]);
      AR_KEEP_LOOP
      for (std::size_t i = 0; i < 8; ++i) {
        code[16 * j + i] = qs[8 * j + i] & 15;
        code[16 * j + 8 + i] = qs[8 * j + i] >> 4;
      }
    }
  }
};
static_assert(BlockType<gguf_nvfp4>);

/// The instances that the dispatch unit holds.
using gguf_nvfp4_types = type_list<gguf_nvfp4>;

AR_END_TARGET
#endif
