// q4_k: GGUF Q4_K. 256 weights in 8 groups of 32; 4-bit codes, 6-bit scales and minimums with half-precision steps. 4.5 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q4_k, with and without importance) and auto-round 0.16.1 (int_asym_dq, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q4_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q4_K_HPP
#else
#define AR_DTYPE_Q4_K_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q4_k : gguf::asymmetric_superblock<q4_k, 4, 32, 6> {
  static constexpr const char* name = "q4_k";
  static constexpr std::string_view reference_names = "int_asym_dq rtn_int_asym_dq";
  static constexpr gguf_id id = gguf_id::q4_k;
  static constexpr std::size_t block_bytes = 144;
  static constexpr gguf::probe_grid plain_grid{-1.0, 0.1, 20, false};
  static constexpr float sigma_factor = 2.0f;
  static constexpr bool plain_weight_has_level = true;
  static constexpr bool limits_plain_codes = true;
  AR_FN static constexpr void as_stored(float* scale, float* min) noexcept {  // the upper bits of one code fall into another's
    std::uint8_t b[12] = {};
    gguf::store_six_bit_pairs(scale, min, b);
    gguf::load_six_bit_pairs(b, scale, min);
  }

  /// Nibbles of 64 weights share 32 bytes: the first 32 weights are the low ones.
  struct layout {
    detail::le16 d, dmin;
    std::uint8_t scales[12];
    std::uint8_t qs[128];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    detail::write_f16(p.dmin, block + offsetof(layout, dmin));
    gguf::store_six_bit_pairs(p.scale, p.min, block + offsetof(layout, scales));
    gguf::store_nibble_pairs(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    p.dmin = detail::read_f16(block + offsetof(layout, dmin));
    gguf::load_six_bit_pairs(block + offsetof(layout, scales), p.scale, p.min);
    gguf::load_nibble_pairs(block + offsetof(layout, qs), code);
  }
};
static_assert(BlockType<q4_k>);

/// The instances that the dispatch unit holds.
using q4_k_types = type_list<q4_k>;

using GGUF_Q4_K_S = scheme<q4_k, group<32>>;
using GGUF_Q4_K_M = scheme<q4_k, group<32>>;
static_assert(is_preset<GGUF_Q4_K_S>("GGUF:Q4_K_S"));
static_assert(is_preset<GGUF_Q4_K_M>("GGUF:Q4_K_M"));

AR_END_TARGET
#endif
