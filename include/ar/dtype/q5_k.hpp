// q5_k: GGUF Q5_K. 256 weights in 8 groups of 32; 5-bit codes, 6-bit scales and minimums with half-precision steps. 5.5 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q5_k, with and without importance) and auto-round 0.16.1 (int_asym_dq, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q5_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q5_K_HPP
#else
#define AR_DTYPE_Q5_K_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q5_k : gguf::asymmetric_superblock<q5_k, 5, 32, 6> {
  static constexpr const char* name = "q5_k";
  static constexpr std::string_view reference_names = "int_asym_dq rtn_int_asym_dq";
  static constexpr gguf_id id = gguf_id::q5_k;
  static constexpr std::size_t block_bytes = 176;
  static constexpr gguf::probe_grid plain_grid{-0.5, 0.1, 15, false};
  static constexpr float sigma_factor = 2.0f;
  static constexpr bool plain_weight_has_level = true;
  static constexpr bool limits_plain_codes = true;
  AR_FN static constexpr void as_stored(float* scale, float* min) noexcept {
    for (std::size_t j = 0; j < 8; ++j) {
      scale[j] = lane_min(scale[j], 63.0f);
      min[j] = lane_min(min[j], 63.0f);
    }
  }

  /// Nibbles as in Q4_K; bit j of qh[i] is the fifth bit of weight i of group j.
  struct layout {
    detail::le16 d, dmin;
    std::uint8_t scales[12];
    std::uint8_t qh[32];
    std::uint8_t qs[128];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    detail::write_f16(p.dmin, block + offsetof(layout, dmin));
    gguf::store_six_bit_pairs(p.scale, p.min, block + offsetof(layout, scales));
    gguf::store_nibble_pairs(code, block + offsetof(layout, qs));
    AR_KEEP_LOOP
    for (std::size_t i = 0; i < 32; ++i) {
      std::uint32_t fifth = 0;
      for (std::size_t j = 0; j < 8; ++j) fifth |= static_cast<std::uint32_t>(code[32 * j + i] >> 4) << j;
      block[offsetof(layout, qh) + i] = detail::byte_of(fifth);
    }
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    p.dmin = detail::read_f16(block + offsetof(layout, dmin));
    gguf::load_six_bit_pairs(block + offsetof(layout, scales), p.scale, p.min);
    gguf::load_nibble_pairs(block + offsetof(layout, qs), code);
    const std::uint8_t* qh = block + offsetof(layout, qh);
    for (std::size_t j = 0; j < 8; ++j) {
      AR_KEEP_LOOP
      for (std::size_t i = 0; i < 32; ++i) code[32 * j + i] = detail::byte_of(code[32 * j + i] | (((qh[i] >> j) & 1u) << 4));
    }
  }
};
static_assert(BlockType<q5_k>);

/// The instances that the dispatch unit holds.
using q5_k_types = type_list<q5_k>;

using GGUF_Q5_K_S = scheme<q5_k, group<32>>;
using GGUF_Q5_K_M = scheme<q5_k, group<32>>;
static_assert(is_preset<GGUF_Q5_K_S>("GGUF:Q5_K_S"));
static_assert(is_preset<GGUF_Q5_K_M>("GGUF:Q5_K_M"));

AR_END_TARGET
#endif
