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
    layout b{};
    b.d = detail::to_le16(f16_from_f32(p.d));
    b.m = detail::to_le16(f16_from_f32(p.m));
    gguf::store_nibbles(code, b.qs);
    b.qh = gguf::fifth_bits(code);
    detail::store_layout(b, block);
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto b = detail::load_layout<layout>(block);
    p.d = f32_from_f16(detail::from_le16(b.d));
    p.m = f32_from_f16(detail::from_le16(b.m));
    gguf::load_nibbles(b.qs, code);
    gguf::add_fifth_bits(b.qh, code);
  }
};
static_assert(BlockType<q5_1>);

/// The instances that the dispatch unit holds.
using q5_1_types = type_list<q5_1>;

using GGUF_Q5_1 = scheme<q5_1, group<32>>;
static_assert(is_preset<GGUF_Q5_1>("GGUF:Q5_1"));

AR_END_TARGET
#endif
