// q8_0: GGUF Q8_0. Blocks of 32 weights, 8-bit signed codes, scale in half precision. 8.5 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q8_0) and auto-round 0.16.1 (data_type/gguf.py, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q8_0_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q8_0_HPP
#else
#define AR_DTYPE_Q8_0_HPP
#endif

#include "ar/detail/gguf_block32-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q8_0 : gguf::symmetric_block32<8> {
  static constexpr const char* name = "q8_0";
  static constexpr gguf_id id = gguf_id::q8_0;
  static constexpr std::size_t block_bytes = 34;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;

  /// ggml's quantizer: largest magnitude / 127. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F extreme = gguf::first_extreme(x, 32).value;
    const auto scaling = fit_extent(gguf::block_extent<F>{extreme, extreme, extreme}, p);  // it looks at no other
    for (std::size_t i = 0; i < 32; ++i) code[i] = code_in_extent(x[i], scaling);
  }
  template <class F>
  AR_FN static constexpr gguf::extent_scaling<F> fit_extent(const gguf::block_extent<F>& e, params<F>& p) noexcept {
    const F d = lane_abs(e.extreme) / lane_set<F>(127.0f);
    p.d = lane_round_f16(d);
    return gguf::limited_scaling(d, lane_set<F>(0.0f));
  }
  template <class F>
  AR_FN static constexpr F code_in_extent(F x, const gguf::extent_scaling<F>& s) noexcept {
    return gguf::lane_round_away(x * s.inverse) + lane_set<F>(128.0f);
  }

  /// auto-round's packer with the scale of a quantized layer: halves away from zero, where a half is seen after doubling the fraction.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    const F inverse = gguf::reciprocal_or_zero(g.scale[0]);
    p.d = lane_round_f16(g.scale[0]);
    for (std::size_t i = 0; i < 32; ++i) {
      const F y = x[i] * inverse, a = lane_abs(y), whole = lane_floor(a);
      const F q = whole + lane_floor((a - whole) * lane_set<F>(2.0f));
      code[i] = gguf::clamp(lane_select(lane_lt(y, lane_set<F>(0.0f)), -q, q), lane_set<F>(-128.0f), lane_set<F>(127.0f)) + lane_set<F>(128.0f);
    }
  }

  /// auto-round's packer without parameters.
  template <class F>
  AR_FN static constexpr void encode_own(const F* x, F* code, params<F>& p) noexcept {
    group_params<F> g;
    g.scale[0] = gguf::first_extreme(x, 32).magnitude / lane_set<F>(127.0f);
    encode_given(x, g, code, p);
  }

  struct layout {
    detail::le16 d;
    std::uint8_t qs[32];  ///< signed
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    for (std::size_t i = 0; i < 32; ++i) block[offsetof(layout, qs) + i] = code[i] ^ 128;
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t i = 0; i < 32; ++i) code[i] = block[offsetof(layout, qs) + i] ^ 128;
  }
};
static_assert(BlockType<q8_0>);

/// The instances that the dispatch unit holds.
using q8_0_types = type_list<q8_0>;

using GGUF_Q8_0 = scheme<q8_0, group<32>>;
static_assert(is_preset<GGUF_Q8_0>("GGUF:Q8_0"));

AR_END_TARGET
#endif
