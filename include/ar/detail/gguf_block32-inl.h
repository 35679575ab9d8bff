// What the blocks of 32 weights of GGUF share: one scale in half precision (Q4_0, Q5_0, Q8_0), or a scale and a minimum (Q4_1, Q5_1).
// With importance a block's weights depend on the mean square of its row, so the driver makes them: see block_weight.
#if defined(AR_DETAIL_GGUF_BLOCK32_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_BLOCK32_INL_H
#else
#define AR_DETAIL_GGUF_BLOCK32_INL_H
#endif

#include <limits>

#include "ar/detail/bytes16.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_block.hpp"
#include "ar/detail/gguf_search-inl.h"

AR_BEGIN_TARGET
namespace gguf {

/// The smallest magnitude of auto-round's float32 scales.
inline constexpr float scale_floor = 1e-8f;

/// What it takes to encode a value of a block whose extent decides everything; how, each type says.
template <class F>
struct extent_scaling {
  F inverse, low;
};
/// 1 / d (0 for 0) and `low`. Where d or its inverse is infinite, the original casts infinities and NaN to bytes, which gives 0: so do zeros here.
template <class F>
AR_FN constexpr extent_scaling<F> limited_scaling(F d, F low) noexcept {
  const F zero = lane_set<F>(0.0f), infinite = lane_set<F>(std::numeric_limits<float>::infinity());
  const F inverse = lane_select(lane_eq(d, zero), zero, lane_set<F>(1.0f) / d);
  const auto finite = lane_and(lane_lt(lane_abs(inverse), infinite), lane_lt(lane_abs(d), infinite));
  return {lane_select(finite, inverse, zero), lane_select(finite, low, zero)};
}

template <int Bits>
struct block32 {
  static constexpr std::size_t block_size = 32;
  static constexpr std::size_t sub_size = 32;
  static constexpr std::size_t groups = 1;
  template <class F>
  using group_params = group_parameters<1, F>;
  AR_FN static constexpr int bits() noexcept { return Bits; }
};

/// How much x counts in ggml's searches of blocks of 32: `importance` of its column and the mean square of its row.
template <class F>
AR_FN constexpr F block_weight(F x, F importance, F mean_square) noexcept {
  return importance * lane_sqrt(mean_square + x * x);
}

/// weight = d * (code - 2^(Bits-1)), found by ggml from the value of largest magnitude (which gets code 0) or by the weighted search.
template <int Bits>
struct symmetric_block32 : block32<Bits> {
  static constexpr int half = 1 << (Bits - 1);
  static constexpr bool asymmetric = false;
  static constexpr bool weighs_by_row = true;
  template <class F>
  struct params {
    F d;
  };
  template <class F>
  using group_params = group_parameters<1, F>;

  /// ggml's quantizer. `weight` is null or block_weight of each value.
  template <class F>
  AR_FN static constexpr void fit(const F* x, const F* weight, F* code, params<F>& p) noexcept {
    if (weight != nullptr) {
      const auto r = fit_symmetric(x, weight, 32, half);
      p.d = lane_round_f16(r.scale);
      for (std::size_t i = 0; i < 32; ++i) code[i] = code_of<half>(r, x[i]);
      return;
    }
    const F extreme = first_extreme(x, 32).value;
    const auto scaling = fit_extent(block_extent<F>{extreme, extreme, extreme}, p);  // it looks at no other
    for (std::size_t i = 0; i < 32; ++i) code[i] = code_in_extent(x[i], scaling);
  }
  /// The same without weights, for blocks of which no more than the extent is known.
  template <class F>
  AR_FN static constexpr extent_scaling<F> fit_extent(const block_extent<F>& e, params<F>& p) noexcept {
    const F d = e.extreme / lane_set<F>(-half);
    p.d = lane_round_f16(d);
    return limited_scaling(d, lane_set<F>(static_cast<float>(half) + 0.5f));
  }
  template <class F>
  AR_FN static constexpr F code_in_extent(F x, const extent_scaling<F>& s) noexcept {
    return lane_min(lane_trunc(x * s.inverse + s.low), lane_set<F>(2 * half - 1));
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return (code - lane_set<F>(half)) * p.d;
  }

  /// auto-round's round-to-nearest scale; importance plays no part.
  template <class F>
  AR_FN static constexpr void search(const F* x, const F*, const search_rule&, const F*, group_params<F>& g) noexcept {
    const F zero = lane_set<F>(0.0f), floor = lane_set<F>(scale_floor);
    const range<F> r = find_range(x, 32);
    const F low = zero - lane_min(r.min, zero), high = lane_max(r.max, zero);
    const F larger = lane_max(low, high);
    const F s = lane_select(lane_lt(high, low), larger, zero - larger) / lane_set<F>(half);
    g.scale[0] = lane_select(lane_lt(s, zero), lane_min(s, zero - floor), lane_max(s, floor));
    g.offset[0] = g.d_scale = g.d_offset = zero;
  }

  /// The value that auto-round's parameters give to x.
  template <class F>
  AR_FN static constexpr F qdq(F x, const F* v, const search_rule&, const group_params<F>& g, std::size_t) noexcept {
    F q = x / g.scale[0];
    if (v != nullptr) q = q + *v;
    return clamp(lane_round(q), lane_set<F>(-half), lane_set<F>(half - 1)) * g.scale[0];
  }

  /// auto-round's packer with the scale of a quantized layer.
  template <class F>
  AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    const F inverse = reciprocal_or_zero(g.scale[0]);
    p.d = lane_round_f16(g.scale[0]);
    for (std::size_t i = 0; i < 32; ++i) code[i] = lane_floor_product<half>(x[i], inverse);  // the original computes this in double
  }

  /// auto-round's packer without parameters.
  template <class F>
  AR_FN static constexpr void encode_own(const F* x, F* code, params<F>& p) noexcept {
    group_params<F> g;
    g.scale[0] = first_extreme(x, 32).value / lane_set<F>(-half);
    encode_given(x, g, code, p);
  }
};

/// weight = d * code + m.
template <int Bits>
struct asymmetric_block32 : block32<Bits> {
  static constexpr int top = (1 << Bits) - 1;
  static constexpr bool asymmetric = true;
  static constexpr bool weighs_by_row = true;
  template <class F>
  struct params {
    F d, m;
  };
  template <class F>
  using group_params = group_parameters<1, F>;

  /// ggml's quantizer. `weight` is null or block_weight of each value.
  template <class F>
  AR_FN static constexpr void fit(const F* x, const F* weight, F* code, params<F>& p) noexcept {
    if (weight != nullptr) {
      const auto r = fit_asymmetric(x, weight, 32, top, {-0.9, 0.05, 36, false});
      p.d = lane_round_f16(r.scale);
      p.m = lane_round_f16(-r.offset);
      for (std::size_t i = 0; i < 32; ++i) code[i] = code_of<top>(r, x[i]);
      return;
    }
    const range<F> r = find_range(x, 32);
    const auto scaling = fit_extent(block_extent<F>{r.min, r.max, r.max}, p);  // it looks at no extreme
    for (std::size_t i = 0; i < 32; ++i) code[i] = code_in_extent(x[i], scaling);
  }
  /// The same without weights, for blocks of which no more than the extent is known.
  template <class F>
  AR_FN static constexpr extent_scaling<F> fit_extent(const block_extent<F>& e, params<F>& p) noexcept {
    const F d = (e.max - e.min) / lane_set<F>(top);
    p.d = lane_round_f16(d);
    p.m = lane_round_f16(e.min);
    return limited_scaling(d, e.min);
  }
  template <class F>
  AR_FN static constexpr F code_in_extent(F x, const extent_scaling<F>& s) noexcept {
    return lane_min(lane_trunc((x - s.low) * s.inverse + lane_set<F>(0.5f)), lane_set<F>(top));
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return code * p.d + p.m;
  }

  /// auto-round's round-to-nearest scale and (fractional) zero point; importance plays no part.
  template <class F>
  AR_FN static constexpr void search(const F* x, const F*, const search_rule& rule, const F*, group_params<F>& g) noexcept {
    const F zero = lane_set<F>(0.0f);
    const range<F> r = find_range(x, 32);
    const F low = lane_min(r.min, zero), high = lane_max(r.max, zero);
    F s = high - low;
    if (rule.bf16) s = lane_round_bf16(s);
    s = s / lane_set<F>(top);
    if (rule.bf16) s = lane_round_bf16(s);
    g.scale[0] = lane_max(s, lane_set<F>(scale_floor));
    g.offset[0] = (-low) / g.scale[0];
    if (rule.bf16 && rule.reciprocal) g.offset[0] = lane_round_bf16(g.offset[0]);
    g.d_scale = g.d_offset = zero;
  }

  /// The value that auto-round's parameters give to x.
  template <class F>
  AR_FN static constexpr F qdq(F x, const F* v, const search_rule& rule, const group_params<F>& g, std::size_t) noexcept {
    F q = rule.reciprocal ? x * reciprocal_or_zero(g.scale[0]) : x / g.scale[0];
    if (v != nullptr) q = q + *v;
    return g.scale[0] * (clamp(lane_round(q) + g.offset[0], lane_set<F>(0.0f), lane_set<F>(top)) - g.offset[0]);
  }

  /// auto-round's packer with the parameters of a quantized layer.
  template <class F>
  AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    encode_with(x, g.scale[0], -(g.offset[0] * g.scale[0]), code, p);
  }

  /// auto-round's packer without parameters.
  template <class F>
  AR_FN static constexpr void encode_own(const F* x, F* code, params<F>& p) noexcept {
    const range<F> r = find_range(x, 32);
    encode_with(x, (r.max - r.min) / lane_set<F>(top), r.min, code, p);
  }

 private:
  template <class F>
  AR_FN static constexpr void encode_with(const F* x, F d, F m, F* code, params<F>& p) noexcept {
    const F inverse = reciprocal_or_zero(d);
    p.d = lane_round_f16(d);
    p.m = lane_round_f16(m);
    for (std::size_t i = 0; i < 32; ++i)
      code[i] = clamp(lane_trunc((x[i] - m) * inverse + lane_set<F>(0.5f)), lane_set<F>(0.0f), lane_set<F>(top));
  }
};

/// 32 nibbles: weight i in the low half of byte i, weight i + 16 in its high half.
AR_FN constexpr void store_nibbles(const std::uint8_t* code, std::uint8_t* qs) noexcept {
  AR_KEEP_LOOP
  for (std::size_t i = 0; i < 16; ++i) qs[i] = detail::byte_of((code[i] & 15u) | (static_cast<std::uint32_t>(code[i + 16] & 15u) << 4));
}
AR_FN constexpr void load_nibbles(const std::uint8_t* qs, std::uint8_t* code) noexcept {
  AR_KEEP_LOOP
  for (std::size_t i = 0; i < 16; ++i) {
    code[i] = qs[i] & 15;
    code[i + 16] = qs[i] >> 4;
  }
}
/// The fifth bits of 32 codes, weight i in bit i.
AR_FN constexpr void store_fifth_bits(const std::uint8_t* code, std::uint8_t* qh) noexcept {
  std::uint32_t bits = 0;
  AR_KEEP_LOOP
  for (std::size_t i = 0; i < 32; ++i) bits |= static_cast<std::uint32_t>(code[i] >> 4) << i;
  detail::write_le32(bits, qh);
}
AR_FN constexpr void add_fifth_bits(const std::uint8_t* qh, std::uint8_t* code) noexcept {
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated()) {
    for (std::size_t half = 0; half < 2; ++half)
      bits::store16(bits::load16(code + 16 * half) | (bits::mask_of_bits(detail::read_le16(qh + 2 * half)) & bits::every_byte(16)), code + 16 * half);
    return;
  }
#endif
  for (std::size_t i = 0; i < 32; ++i) code[i] = detail::byte_of(code[i] | (((std::uint32_t{qh[i / 8]} >> (i % 8)) & 1u) << 4));
}

}  // namespace gguf
AR_END_TARGET
#endif
