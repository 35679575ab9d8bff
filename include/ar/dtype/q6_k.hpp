// q6_k: GGUF Q6_K. 256 weights in 16 groups of 16; 6-bit signed codes, 8-bit signed scales with a half-precision step. 6.5625 bits a weight.
// Source: ggml 0.25.3 (quantize_row_q6_K, with and without importance) and auto-round 0.16.1 (int_sym_dq, ggml_quant); equal bit for bit.
#if defined(AR_DTYPE_Q6_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q6_K_HPP
#else
#define AR_DTYPE_Q6_K_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct q6_k : gguf::symmetric_superblock<6, 8> {
  static constexpr const char* name = "q6_k";
  static constexpr std::string_view reference_names = "int_sym_dq rtn_int_sym_dq";
  static constexpr gguf_id id = gguf_id::q6_k;
  static constexpr std::size_t block_bytes = 210;

  /// Of each half (128 weights): ql[i] and ql[32 + i] hold the low nibbles of weights i, 32 + i (low) and 64 + i, 96 + i (high); qh[i] the upper
  /// two bits of all four.
  struct layout {
    std::uint8_t ql[128];
    std::uint8_t qh[64];
    std::uint8_t scales[16];  ///< signed
    detail::le16 d;
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer. `importance` is null or the weight of each column, which is used as it is.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F* importance, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f);
    F scale[16];
    for (std::size_t j = 0; j < 16; ++j) {
      const auto sub = gguf::fit_symmetric(x + j * 16, importance != nullptr ? importance + j * 16 : nullptr, 16, 32);
      scale[j] = sub.scale;
      for (std::size_t i = j * 16; i < j * 16 + 16; ++i) code[i] = gguf::code_of<32>(sub, x[i]);
    }
    const auto extreme = gguf::first_extreme(scale, 16);
    const auto none = lane_lt(extreme.magnitude, lane_set<F>(gguf::group_max_eps));
    const F inverse = lane_set<F>(-128.0f) / extreme.value;
    p.d = lane_select(none, zero, lane_round_f16(lane_set<F>(1.0f) / inverse));
    for (std::size_t j = 0; j < 16; ++j) p.scale[j] = lane_select(none, zero, lane_min(lane_nint(inverse * scale[j]), lane_set<F>(127.0f)));
    encode_again(x, p, code);
    if (!lane_any(none)) return;
    for (std::size_t i = 0; i < 256; ++i) code[i] = lane_select(none, zero, code[i]);  // such a block is all zero bytes
  }

  /// auto-round's parameters. `v` is null or a rounding offset per value.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void search(const F* x, const F* importance, const gguf::search_rule& rule, const F* v, group_params<F>& g) noexcept {
    search_groups(x, importance, rule, v, g);
  }

  /// Codes of x for given parameters, chosen with the scales as they will be read back.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    p.d = lane_round_f16(g.d_scale);
    for (std::size_t j = 0; j < 16; ++j) {
      p.scale[j] = gguf::scale_code(g.scale[j], g.d_scale, -128.0f, 127.0f);
      const F inverse = gguf::reciprocal_or_zero(gguf::zero_to_one(p.d * p.scale[j]));
      for (std::size_t i = j * 16; i < j * 16 + 16; ++i)
        code[i] = gguf::clamp(lane_round(x[i] * inverse + lane_set<F>(32.0f)), lane_set<F>(0.0f), lane_set<F>(63.0f));
    }
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    for (std::size_t j = 0; j < 16; ++j) block[offsetof(layout, scales) + j] = detail::byte_of(static_cast<std::uint32_t>(static_cast<int>(p.scale[j])));
    for (std::size_t half = 0; half < 2; ++half) {
      const std::uint8_t* c = code + 128 * half;
      std::uint8_t *ql = block + offsetof(layout, ql) + 64 * half, *qh = block + offsetof(layout, qh) + 32 * half;
      AR_KEEP_LOOP
      for (std::size_t i = 0; i < 32; ++i) {
        const std::uint32_t q0 = c[i], q1 = c[32 + i], q2 = c[64 + i], q3 = c[96 + i];
        ql[i] = detail::byte_of((q0 & 15u) | ((q2 & 15u) << 4));
        ql[32 + i] = detail::byte_of((q1 & 15u) | ((q3 & 15u) << 4));
        qh[i] = detail::byte_of((q0 >> 4) | ((q1 >> 4) << 2) | ((q2 >> 4) << 4) | ((q3 >> 4) << 6));
      }
    }
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t j = 0; j < 16; ++j) p.scale[j] = static_cast<float>(static_cast<std::int8_t>(block[offsetof(layout, scales) + j]));
    for (std::size_t half = 0; half < 2; ++half) {
      std::uint8_t* c = code + 128 * half;
      const std::uint8_t *ql = block + offsetof(layout, ql) + 64 * half, *qh = block + offsetof(layout, qh) + 32 * half;
      AR_KEEP_LOOP
      for (std::size_t i = 0; i < 32; ++i) {
        const std::uint32_t l0 = ql[i], l1 = ql[32 + i], h = qh[i];
        c[i] = detail::byte_of((l0 & 15u) | ((h & 3u) << 4));
        c[32 + i] = detail::byte_of((l1 & 15u) | (((h >> 2) & 3u) << 4));
        c[64 + i] = detail::byte_of((l0 >> 4) | (((h >> 4) & 3u) << 4));
        c[96 + i] = detail::byte_of((l1 >> 4) | ((h >> 6) << 4));
      }
    }
  }
};
static_assert(BlockType<q6_k>);

/// The instances that the dispatch unit holds.
using q6_k_types = type_list<q6_k>;

using GGUF_Q6_K = scheme<q6_k, group<16>>;
static_assert(is_preset<GGUF_Q6_K>("GGUF:Q6_K"));

AR_END_TARGET
#endif
