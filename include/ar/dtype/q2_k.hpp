// q2_k: GGUF Q2_K. 256 weights in 16 groups of 16; 2-bit codes, 4-bit scales and minimums with half-precision steps. 2.625 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q2_K, with and without importance) and auto-round 0.16.1 (int_asym_dq, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q2_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q2_K_HPP
#else
#define AR_DTYPE_Q2_K_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q2_k : gguf::asymmetric_superblock<q2_k, 2, 16, 4> {
  using base = gguf::asymmetric_superblock<q2_k, 2, 16, 4>;
  static constexpr const char* name = "q2_k";
  static constexpr std::string_view reference_names = "int_asym_dq rtn_int_asym_dq";
  static constexpr gguf_id id = gguf_id::q2_k;
  static constexpr std::size_t block_bytes = 84;
  static constexpr gguf::probe_grid plain_grid{-0.5, 0.1, 15, true};
  static constexpr float sigma_factor = 1.0f;
  static constexpr bool plain_weight_has_level = false;
  static constexpr bool limits_plain_codes = false;
  AR_FN static constexpr void as_stored(float* scale, float* min) noexcept {  // the upper bits of a scale fall into its minimum
    for (std::size_t j = 0; j < 16; ++j) {
      const std::uint32_t b = static_cast<std::uint32_t>(scale[j]) | (static_cast<std::uint32_t>(min[j]) << 4);
      scale[j] = static_cast<float>(b & 15u);
      min[j] = static_cast<float>((b >> 4) & 15u);
    }
  }

  /// scales: scale in the low nibble, minimum in the high one. Codes of weights i, i + 32, i + 64, i + 96 of a half share a byte.
  struct layout {
    std::uint8_t scales[16];
    std::uint8_t qs[64];
    detail::le16 d, dmin;
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    detail::write_f16(p.dmin, block + offsetof(layout, dmin));
    for (std::size_t j = 0; j < 16; ++j)
      block[offsetof(layout, scales) + j] = detail::byte_of(static_cast<std::uint32_t>(p.scale[j]) | (static_cast<std::uint32_t>(p.min[j]) << 4));
    gguf::store_two_bits(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    p.dmin = detail::read_f16(block + offsetof(layout, dmin));
    const std::uint8_t* scales = block + offsetof(layout, scales);
    for (std::size_t j = 0; j < 16; ++j) {
      p.scale[j] = static_cast<float>(scales[j] & 15);
      p.min[j] = static_cast<float>(scales[j] >> 4);
    }
    gguf::load_two_bits(block + offsetof(layout, qs), code);
  }

  /// As in the base, but chosen with the unrounded scales.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    base::encode_scales(g, p);
    p.d = lane_round_f16(p.d);
    p.dmin = lane_round_f16(p.dmin);
    for (std::size_t i = 0; i < 256; ++i)
      code[i] = gguf::clamp(lane_round((x[i] + g.offset[i / 16]) / g.scale[i / 16]), lane_set<F>(0.0f), lane_set<F>(3.0f));
  }
};
static_assert(BlockType<q2_k>);

/// The instances that the dispatch unit holds.
using q2_k_types = type_list<q2_k>;

/// The base of the recipe GGUF:Q2_K_MIXED, which treats layers differently, is the same.
using GGUF_Q2_K_S = scheme<q2_k, group<16>>;
using GGUF_Q2_K_MIXED = scheme<q2_k, group<16>>;
static_assert(is_preset<GGUF_Q2_K_S>("GGUF:Q2_K_S"));
static_assert(is_preset<GGUF_Q2_K_MIXED>("GGUF:Q2_K_MIXED"));

AR_END_TARGET
#endif
