// q3_k: GGUF Q3_K. 256 weights in 16 groups of 16; 3-bit signed codes, 6-bit signed scales with a half-precision step. 3.4375 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q3_K, with and without importance) and auto-round 0.16.1 (int_sym_dq, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q3_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q3_K_HPP
#else
#define AR_DTYPE_Q3_K_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q3_k : gguf::symmetric_superblock<3, 6> {
  static constexpr const char* name = "q3_k";
  static constexpr std::string_view reference_names = "int_sym_dq rtn_int_sym_dq";
  static constexpr gguf_id id = gguf_id::q3_k;
  static constexpr std::size_t block_bytes = 110;

  /// The low two bits of the codes as in Q2_K; bit j of hmask[i] is the third bit of weight 32 j + i. Scales plus 32: low nibbles in scales[0..7]
  /// (those of groups 8..15 in the high half), upper two bits in scales[8..11].
  struct layout {
    std::uint8_t hmask[32];
    std::uint8_t qs[64];
    std::uint8_t scales[12];
    detail::le16 d;
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer. `importance` is null or the weight of each column.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F* importance, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f);
    F scale[16];
    if (importance != nullptr) {
      const F sigma = gguf::scaled_mean_square(x, 2.0f);
      F weight[16];
      for (std::size_t j = 0; j < 16; ++j) {
        const F* xs = x + j * 16;
        F w[16];
        gguf::weigh_by_magnitude(xs, importance + j * 16, sigma, 16, w);
        weight[j] = zero;
        for (std::size_t i = 0; i < 16; ++i) weight[j] = weight[j] + w[i];
        const auto sub = gguf::fit_symmetric(xs, static_cast<const F*>(w), 16, 4);
        scale[j] = sub.scale;
        for (std::size_t i = 0; i < 16; ++i) code[j * 16 + i] = gguf::code_of<4>(sub, xs[i]);
      }
      const auto outer = gguf::fit_symmetric(static_cast<const F*>(scale), static_cast<const F*>(weight), 16, 32);
      for (std::size_t j = 0; j < 16; ++j) p.scale[j] = gguf::code_of<32>(outer, scale[j]) - lane_set<F>(32.0f);
      p.d = lane_round_f16(outer.scale);
    } else {
      gguf::fit_q3(x, code, scale);
      const F extreme = gguf::first_extreme(scale, 16).value;
      const auto none = lane_eq(extreme, zero);
      const F inverse = lane_set<F>(-32.0f) / extreme;
      for (std::size_t j = 0; j < 16; ++j)
        p.scale[j] = lane_select(none, lane_set<F>(-32.0f), gguf::clamp_code(lane_nint(inverse * scale[j]), -32.0f, 31.0f));
      p.d = lane_select(none, zero, lane_round_f16(lane_set<F>(1.0f) / inverse));
    }
    encode_again(x, p, code);
  }

  /// auto-round's parameters. `v` is null or a rounding offset per value.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void search(const F* x, const F* importance, const gguf::search_rule& rule, const F* v, group_params<F>& g) noexcept {
    search_groups(x, importance, rule, v, g);
  }

  /// Codes of x for given parameters, chosen with the unrounded scales.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    p.d = lane_round_f16(g.d_scale);
    for (std::size_t j = 0; j < 16; ++j) {
      p.scale[j] = gguf::scale_code(g.scale[j], g.d_scale, -32.0f, 31.0f);
      const F inverse = gguf::reciprocal_or_zero(g.scale[j]);
      for (std::size_t i = j * 16; i < j * 16 + 16; ++i)
        code[i] = gguf::clamp(lane_round(x[i] * inverse), lane_set<F>(-4.0f), lane_set<F>(3.0f)) + lane_set<F>(4.0f);
    }
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    std::uint32_t s[16] = {};
    for (std::size_t j = 0; j < 16; ++j) s[j] = static_cast<std::uint32_t>(p.scale[j] + 32.0f);
    std::uint8_t *low = block + offsetof(layout, scales), *high = low + 8, *hmask = block + offsetof(layout, hmask);
    for (std::size_t j = 0; j < 8; ++j) low[j] = detail::byte_of((s[j] & 15u) | ((s[j + 8] & 15u) << 4));
    for (std::size_t j = 0; j < 4; ++j)
      high[j] = detail::byte_of((s[j] >> 4) | ((s[j + 4] >> 4) << 2) | ((s[j + 8] >> 4) << 4) | ((s[j + 12] >> 4) << 6));
    AR_KEEP_LOOP
    for (std::size_t i = 0; i < 32; ++i) {
      std::uint32_t third = 0;
      for (std::size_t k = 0; k < 8; ++k) third |= static_cast<std::uint32_t>(code[32 * k + i] >> 2) << k;
      hmask[i] = detail::byte_of(third);
    }
    gguf::store_two_bits(code, block + offsetof(layout, qs));
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    const std::uint8_t *scales = block + offsetof(layout, scales), *hmask = block + offsetof(layout, hmask);
    for (std::size_t j = 0; j < 16; ++j) {
      const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
      const int high = (scales[8 + (j & 3)] >> (2 * (j >> 2))) & 3;
      p.scale[j] = static_cast<float>((low | (high << 4)) - 32);
    }
    gguf::load_two_bits(block + offsetof(layout, qs), code);
    for (std::size_t k = 0; k < 8; ++k) {
      AR_KEEP_LOOP
      for (std::size_t i = 0; i < 32; ++i) code[32 * k + i] = detail::byte_of(code[32 * k + i] | (((hmask[i] >> k) & 1u) << 2));
    }
  }
};
static_assert(BlockType<q3_k>);

/// The instances that the dispatch unit holds.
using q3_k_types = type_list<q3_k>;

using GGUF_Q3_K_S = scheme<q3_k, group<16>>;
using GGUF_Q3_K_M = scheme<q3_k, group<16>>;
using GGUF_Q3_K_L = scheme<q3_k, group<16>>;
static_assert(is_preset<GGUF_Q3_K_S>("GGUF:Q3_K_S"));
static_assert(is_preset<GGUF_Q3_K_M>("GGUF:Q3_K_M"));
static_assert(is_preset<GGUF_Q3_K_L>("GGUF:Q3_K_L"));

AR_END_TARGET
#endif
