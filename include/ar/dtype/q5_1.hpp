// q5_1: GGUF Q5_1. Blocks of 32 weights, 5-bit codes, scale and minimum in half precision. 6 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q5_1, with and without importance) and auto-round 0.16.1 (data_type/gguf.py, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q5_1_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q5_1_HPP
#else
#define AR_DTYPE_Q5_1_HPP
#endif

#include "ar/detail/gguf_block32-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q5_1 : gguf::asymmetric_block32<5> {
  static constexpr const char* name = "q5_1";
  static constexpr std::string_view reference_names = "int_asym_float_zp opt_rtn_int_asym_float_zp";
  static constexpr gguf_id id = gguf_id::q5_1;
  static constexpr std::size_t block_bytes = 24;

  struct layout {
    detail::le16 d, m;
    detail::le32 qh;
    std::uint8_t qs[16];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    detail::write_f16(p.m, block + offsetof(layout, m));
    gguf::store_nibbles(code, block + offsetof(layout, qs));
    gguf::store_fifth_bits(code, block + offsetof(layout, qh));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    p.m = detail::read_f16(block + offsetof(layout, m));
    gguf::load_nibbles(block + offsetof(layout, qs), code);
    gguf::add_fifth_bits(block + offsetof(layout, qh), code);
  }
};
static_assert(BlockType<q5_1>);

/// The instances that the dispatch unit holds.
using q5_1_types = type_list<q5_1>;

using GGUF_Q5_1 = scheme<q5_1, group<32>>;
static_assert(is_preset<GGUF_Q5_1>("GGUF:Q5_1"));

AR_END_TARGET
#endif
