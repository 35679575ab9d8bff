// q4_1: GGUF Q4_1. Blocks of 32 weights, 4-bit codes, scale and minimum in half precision. 5 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q4_1, with and without importance) and auto-round 0.16.1 (data_type/gguf.py, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q4_1_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q4_1_HPP
#else
#define AR_DTYPE_Q4_1_HPP
#endif

#include "ar/detail/gguf_block32-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q4_1 : gguf::asymmetric_block32<4> {
  static constexpr const char* name = "q4_1";
  static constexpr std::string_view reference_names = "int_asym_float_zp opt_rtn_int_asym_float_zp";
  static constexpr gguf_id id = gguf_id::q4_1;
  static constexpr std::size_t block_bytes = 20;

  struct layout {
    detail::le16 d, m;
    std::uint8_t qs[16];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    detail::write_f16(p.m, block + offsetof(layout, m));
    gguf::store_nibbles(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    p.m = detail::read_f16(block + offsetof(layout, m));
    gguf::load_nibbles(block + offsetof(layout, qs), code);
  }
};
static_assert(BlockType<q4_1>);

/// The instances that the dispatch unit holds.
using q4_1_types = type_list<q4_1>;

using GGUF_Q4_1 = scheme<q4_1, group<32>>;
static_assert(is_preset<GGUF_Q4_1>("GGUF:Q4_1"));

AR_END_TARGET
#endif
