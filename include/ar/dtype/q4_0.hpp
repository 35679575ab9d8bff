// q4_0: GGUF Q4_0. Blocks of 32 weights, 4-bit signed codes, scale in half precision. 4.5 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q4_0, with and without importance) and auto-round 0.16.1 (data_type/gguf.py, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q4_0_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q4_0_HPP
#else
#define AR_DTYPE_Q4_0_HPP
#endif

#include "ar/detail/gguf_block32-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q4_0 : gguf::symmetric_block32<4> {
  static constexpr const char* name = "q4_0";
  static constexpr gguf_id id = gguf_id::q4_0;
  static constexpr std::size_t block_bytes = 18;

  struct layout {
    detail::le16 d;
    std::uint8_t qs[16];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    gguf::store_nibbles(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    gguf::load_nibbles(block + offsetof(layout, qs), code);
  }
};
static_assert(BlockType<q4_0>);

/// The instances that the dispatch unit holds.
using q4_0_types = type_list<q4_0>;

using GGUF_Q4_0 = scheme<q4_0, group<32>>;
static_assert(is_preset<GGUF_Q4_0>("GGUF:Q4_0"));

AR_END_TARGET
#endif
