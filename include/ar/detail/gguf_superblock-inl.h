// What the super-block types of GGUF share: 256 weights in groups of 16 or 32 whose scales (and minimums) are themselves quantized. A type adds
// its constants and its byte layout. Two ways lead to a block: ggml's quantizer (fit) and auto-round's (search, qdq, encode_given).
#if defined(AR_DETAIL_GGUF_SUPERBLOCK_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_SUPERBLOCK_INL_H
#else
#define AR_DETAIL_GGUF_SUPERBLOCK_INL_H
#endif

#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_block.hpp"
#include "ar/detail/gguf_search-inl.h"

AR_BEGIN_TARGET
namespace gguf {

template <class F>
AR_FN constexpr F flush_tiny(F x) noexcept {
  return lane_select(lane_lt(lane_abs(x), lane_set<F>(1e-30f)), lane_set<F>(0.0f), x);
}
template <class F>
AR_FN constexpr F zero_to_one(F x) noexcept {
  return lane_select(lane_eq(x, lane_set<F>(0.0f)), lane_set<F>(1.0f), x);
}
/// round(x / d) limited to lo..hi, 0 where d is (almost) zero: the code of a group's scale.
template <class F>
AR_FN constexpr F scale_code(F x, F d, float lo, float hi) noexcept {
  return clamp(lane_round(x * reciprocal_or_zero(d)), lane_set<F>(lo), lane_set<F>(hi));
}

/// 256 codes of 4 bits in 128 bytes: of each 64 the first 32 are the low nibbles (Q4_K, Q5_K).
AR_FN constexpr void store_nibble_pairs(const std::uint8_t* code, std::uint8_t* qs) noexcept {
  for (std::size_t pair = 0; pair < 4; ++pair) {
    AR_KEEP_LOOP
    for (std::size_t i = 0; i < 32; ++i)
      qs[pair * 32 + i] = detail::byte_of((code[pair * 64 + i] & 15u) | (static_cast<std::uint32_t>(code[pair * 64 + 32 + i] & 15u) << 4));
  }
}
AR_FN constexpr void load_nibble_pairs(const std::uint8_t* qs, std::uint8_t* code) noexcept {
  for (std::size_t pair = 0; pair < 4; ++pair) {
    AR_KEEP_LOOP
    for (std::size_t i = 0; i < 32; ++i) {
      code[pair * 64 + i] = qs[pair * 32 + i] & 15;
      code[pair * 64 + 32 + i] = qs[pair * 32 + i] >> 4;
    }
  }
}

/// 8 scales and 8 minimums of 6 bits in 12 bytes (Q4_K, Q5_K): the first four of each in the low bits of bytes 0..3 and 4..7, whose upper two bits
/// hold those of the last four, with their low nibbles in bytes 8..11.
AR_FN constexpr void store_six_bit_pairs(const float* scale, const float* min, std::uint8_t* b) noexcept {
  for (std::size_t j = 0; j < 4; ++j) {
    const auto s0 = static_cast<std::uint32_t>(scale[j]), s1 = static_cast<std::uint32_t>(scale[j + 4]);
    const auto m0 = static_cast<std::uint32_t>(min[j]), m1 = static_cast<std::uint32_t>(min[j + 4]);
    b[j] = detail::byte_of(s0 | ((s1 >> 4) << 6));
    b[j + 4] = detail::byte_of(m0 | ((m1 >> 4) << 6));
    b[j + 8] = detail::byte_of((s1 & 15u) | ((m1 & 15u) << 4));
  }
}
AR_FN constexpr void load_six_bit_pairs(const std::uint8_t* b, float* scale, float* min) noexcept {
  for (std::size_t j = 0; j < 4; ++j) {
    scale[j] = static_cast<float>(b[j] & 63);
    min[j] = static_cast<float>(b[j + 4] & 63);
    scale[j + 4] = static_cast<float>((b[j + 8] & 15) | ((b[j] >> 6) << 4));
    min[j + 4] = static_cast<float>((b[j + 8] >> 4) | ((b[j + 4] >> 6) << 4));
  }
}

/// The low 2 bits of 256 codes in 64 bytes: weights i, i + 32, i + 64, i + 96 of each half share a byte (Q2_K, Q3_K, TQ2_0).
AR_FN constexpr void store_two_bits(const std::uint8_t* code, std::uint8_t* qs) noexcept {
  for (std::size_t half = 0; half < 2; ++half) {
    AR_KEEP_LOOP
    for (std::size_t i = 0; i < 32; ++i) {
      const std::uint8_t* c = code + 128 * half + i;
      qs[32 * half + i] = detail::byte_of((c[0] & 3u) | ((c[32] & 3u) << 2) | ((c[64] & 3u) << 4) | ((c[96] & 3u) << 6));
    }
  }
}
AR_FN constexpr void load_two_bits(const std::uint8_t* qs, std::uint8_t* code) noexcept {
  for (std::size_t half = 0; half < 2; ++half)
    for (std::size_t k = 0; k < 4; ++k) {
      AR_KEEP_LOOP
      for (std::size_t i = 0; i < 32; ++i) code[128 * half + 32 * k + i] = (qs[32 * half + i] >> (2 * k)) & 3;
    }
}

/// The facts that both families share.
template <int Bits, std::size_t Sub, int SuperBits>
struct superblock {
  static constexpr std::size_t block_size = 256;
  static constexpr std::size_t sub_size = Sub;
  static constexpr std::size_t groups = block_size / Sub;
  static constexpr int super_bits = SuperBits;
  static constexpr bool weighs_by_row = false;
  AR_FN static constexpr int bits() noexcept { return Bits; }
};

/// weight = (d * scale) * code - (dmin * min), codes 0 .. 2^Bits - 1. `Type` gives the probe grids:
///   plain_grid (ggml and auto-round without importance), sigma_factor (1 or 2: times mean square, in ggml's weights),
///   plain_weight_has_level (|x|, or |x| plus the root mean square of its group),
///   limits_plain_codes (codes of scales found without importance are limited to their bits), as_stored (what bytes make of codes that are not).
template <class Type, int Bits, std::size_t Sub, int SuperBits>
struct asymmetric_superblock : superblock<Bits, Sub, SuperBits> {
  using base = superblock<Bits, Sub, SuperBits>;
  using base::groups;
  static constexpr int top = (1 << Bits) - 1;
  static constexpr int super_top = (1 << SuperBits) - 1;
  static constexpr bool asymmetric = true;
  static constexpr probe_grid importance_grid{-0.9, 0.05, 36, false};

  /// What a block stores besides codes: d and dmin are values of half precision, scale and min are codes 0 .. 2^SuperBits - 1.
  template <class F>
  struct params {
    F d, dmin, scale[256 / Sub], min[256 / Sub];
  };
  template <class F>
  using group_params = group_parameters<256 / Sub, F>;

  /// ggml's quantizer. `importance` is null or the weight of each column.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F* importance, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f);
    asymmetric_fit<F> sub[groups];
    F scale[groups], offset[groups], weight[groups];
    F sigma = zero;
    if (importance != nullptr) sigma = scaled_mean_square(x, Type::sigma_factor);
    for (std::size_t j = 0; j < groups; ++j) {
      const F* xs = x + j * Sub;
      F w[Sub];
      if (importance != nullptr) {
        weigh_by_magnitude(xs, importance + j * Sub, sigma, Sub, w);
        sub[j] = fit_asymmetric(xs, w, Sub, top, importance_grid);
      } else {
        F level = zero;
        if (Type::plain_weight_has_level) level = lane_sqrt(sum_of_squares(xs, Sub) / lane_set<F>(static_cast<float>(Sub)));
        for (std::size_t i = 0; i < Sub; ++i) w[i] = Type::plain_weight_has_level ? level + lane_abs(xs[i]) : lane_abs(xs[i]);
        sub[j] = fit_asymmetric(xs, w, Sub, top, Type::plain_grid);
      }
      scale[j] = sub[j].scale;
      offset[j] = sub[j].offset;
      weight[j] = sub[j].weight_sum;
    }
    if (importance != nullptr) {
      p.d = lane_round_f16(fit_positive(scale, weight, groups, super_top, p.scale));
      p.dmin = lane_round_f16(fit_positive(offset, weight, groups, super_top, p.min));
    } else {
      p.d = lane_round_f16(share_largest(scale, p.scale));
      p.dmin = lane_round_f16(share_largest(offset, p.min));
    }
    keep_stored_bits(p);
    for (std::size_t j = 0; j < groups; ++j) {
      const F step = p.d * p.scale[j], low = p.dmin * p.min[j];
      const auto lost = lane_eq(step, zero);  // the step underflowed: the codes of the search stay
      const bool any_lost = lane_any(lost);
      for (std::size_t i = 0; i < Sub; ++i) {
        const F v = x[j * Sub + i];
        F q = clamp_code(lane_nint((v + low) / step), 0.0f, top);
        if (any_lost) q = lane_select(lost, code_of<top>(sub[j], v), q);
        code[j * Sub + i] = q;
      }
    }
  }

  template <class F>
  AR_FN static constexpr gguf_terms<F> terms(const params<F>& p, std::size_t sub) noexcept {
    return {p.d * p.scale[sub], p.dmin * p.min[sub]};
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const gguf_terms<F>& t) noexcept {
    return t.step * code - t.low;
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t sub) noexcept {
    return decode(code, terms(p, sub));
  }

  /// auto-round's parameters. `v` is null or a rounding offset per value.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void search(const F* x, const F* importance, const search_rule& rule, const F* v, group_params<F>& g) noexcept {
    F weight[groups], sigma = lane_set<F>(0.0f);
    if (rule.magnitude && importance != nullptr) sigma = scaled_mean_square(x, Type::sigma_factor);
    for (std::size_t j = 0; j < groups; ++j) {
      const F* xs = x + j * Sub;
      const F* vs = v != nullptr ? v + j * Sub : nullptr;
      F w[Sub];
      scale_and_offset<F> r;
      if (importance != nullptr) {
        for (std::size_t i = 0; i < Sub; ++i) w[i] = importance[j * Sub + i];
        if (rule.repair) repair_importance(xs, Sub, Bits, rule.fill, w);
        if (rule.magnitude) weigh_by_magnitude(xs, static_cast<const F*>(w), sigma, Sub, w);
        r = fit_by_least_squares(static_cast<const F*>(xs), static_cast<const F*>(w), vs, Sub, Bits, importance_grid);
      } else {
        own_importance(xs, Sub, Bits, w);
        r = fit_by_least_squares(static_cast<const F*>(xs), static_cast<const F*>(w), vs, Sub, Bits, Type::plain_grid);
        r.offset = flush_tiny(r.offset);
      }
      g.scale[j] = flush_tiny(r.scale);
      g.offset[j] = r.offset;
      weight[j] = sum_by_eight(static_cast<const F*>(w), Sub);
    }
    if (importance != nullptr && rule.magnitude) {
      g.d_scale = sweep_positive(g.scale, static_cast<const F*>(weight), groups, super_top);
      g.d_offset = sweep_positive(g.offset, static_cast<const F*>(weight), groups, super_top);
    } else if (importance != nullptr) {
      g.d_scale = fit_positive_weighted(g.scale, static_cast<const F*>(weight), groups, SuperBits);
      g.d_offset = fit_positive_weighted(g.offset, static_cast<const F*>(weight), groups, SuperBits);
    } else {
      g.d_scale = double_quant_positive(g.scale, groups, SuperBits);
      g.d_offset = double_quant_positive(g.offset, groups, SuperBits);
    }
  }

  /// The value that auto-round's parameters give to x.
  template <class F>
  AR_FN static constexpr F qdq(F x, const F* v, const search_rule&, const group_params<F>& g, std::size_t sub) noexcept {
    F q = (x + g.offset[sub]) * reciprocal_or_zero(g.scale[sub]);
    if (v != nullptr) q = q + *v;
    return clamp(lane_plus_zero(lane_round(q)), lane_set<F>(0.0f), lane_set<F>(top)) * g.scale[sub] - g.offset[sub];
  }

  /// The codes of the groups' scales and offsets, and d, dmin unrounded.
  template <class F>
  AR_FN static constexpr void encode_scales(const group_params<F>& g, params<F>& p) noexcept {
    p.d = g.d_scale;
    p.dmin = g.d_offset;
    for (std::size_t j = 0; j < groups; ++j) {
      p.scale[j] = scale_code(g.scale[j], g.d_scale, 0.0f, super_top);
      p.min[j] = scale_code(g.offset[j], g.d_offset, 0.0f, super_top);
    }
  }

  /// Codes of x for given parameters, chosen with the scales as they will be read back (Q4_K, Q5_K).
  template <class F>
  AR_NOINLINE AR_FN static constexpr void encode_given(const F* x, const group_params<F>& g, F* code, params<F>& p) noexcept {
    encode_scales(g, p);
    p.d = lane_round_f16(p.d);
    p.dmin = lane_round_f16(p.dmin);
    for (std::size_t j = 0; j < groups; ++j) {
      const F inverse = reciprocal_or_zero(zero_to_one(p.d * p.scale[j])), low = p.dmin * p.min[j];
      for (std::size_t i = 0; i < Sub; ++i) code[j * Sub + i] = scale_code_of(x[j * Sub + i] + low, inverse);
    }
  }

 private:
  template <class F>
  AR_FN static constexpr F scale_code_of(F x, F inverse) noexcept {
    return clamp(lane_round(x * inverse), lane_set<F>(0.0f), lane_set<F>(top));
  }
  /// Codes that do not fit their bits (bytes of negative scales) become what a reader of the block finds, so that the weights are encoded for it.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void keep_stored_bits(params<F>& p) noexcept {
    bool fits = true;
    for (std::size_t j = 0; j < groups; ++j)
      fits = fits && !lane_any(lane_or(lane_gt(p.scale[j], lane_set<F>(super_top)), lane_gt(p.min[j], lane_set<F>(super_top))));
    if (fits) return;
    constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
    float scale[groups][lanes] = {}, min[groups][lanes] = {};
    for (std::size_t j = 0; j < groups; ++j) {
      lane_store(p.scale[j], scale[j]);
      lane_store(p.min[j], min[j]);
    }
    for (std::size_t l = 0; l < lanes; ++l) {
      float s[groups] = {}, m[groups] = {};
      for (std::size_t j = 0; j < groups; ++j) {
        s[j] = scale[j][l];
        m[j] = min[j][l];
      }
      Type::as_stored(s, m);
      for (std::size_t j = 0; j < groups; ++j) {
        scale[j][l] = s[j];
        min[j][l] = m[j];
      }
    }
    for (std::size_t j = 0; j < groups; ++j) {
      p.scale[j] = lane_load<F>(scale[j]);
      p.min[j] = lane_load<F>(min[j]);
    }
  }
  /// ggml without importance: the largest value gets the top code. Returns the step.
  template <class F>
  AR_FN static constexpr F share_largest(const F* value, F* code) noexcept {
    const F zero = lane_set<F>(0.0f), n = lane_set<F>(super_top);
    F max = zero;
    for (std::size_t j = 0; j < groups; ++j) max = lane_select(lane_gt(value[j], max), value[j], max);
    const auto some = lane_gt(max, zero);
    const F inverse = lane_select(some, n / max, zero);
    for (std::size_t j = 0; j < groups; ++j) {
      code[j] = as_byte(lane_nint(inverse * value[j]));
      if (Type::limits_plain_codes) code[j] = lane_min(code[j], n);
    }
    return lane_select(some, max / n, zero);
  }
};

/// weight = (d * scale) * (code - 2^(Bits-1)), 16 groups of 16.
template <int Bits, int SuperBits>
struct symmetric_superblock : superblock<Bits, 16, SuperBits> {
  using base = superblock<Bits, 16, SuperBits>;
  static constexpr int half = 1 << (Bits - 1);
  static constexpr int super_half = 1 << (SuperBits - 1);
  static constexpr bool asymmetric = false;

  /// What a block stores besides codes: d is a value of half precision, scale are signed codes.
  template <class F>
  struct params {
    F d, scale[16];
  };
  template <class F>
  using group_params = group_parameters<16, F>;

  template <class F>
  AR_FN static constexpr gguf_terms<F> terms(const params<F>& p, std::size_t sub) noexcept {
    return {p.d * p.scale[sub], p.d};
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const gguf_terms<F>& t) noexcept {
    return t.step * (code - lane_set<F>(half));
  }
  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t sub) noexcept {
    return decode(code, terms(p, sub));
  }

  /// ggml's last pass: codes for the scales as they will be read back. Where such a scale is zero, `code` is left as it is.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void encode_again(const F* x, const params<F>& p, F* code) noexcept {
    for (std::size_t j = 0; j < 16; ++j) {
      const F step = p.d * p.scale[j];
      const auto lost = lane_eq(step, lane_set<F>(0.0f));
      for (std::size_t i = j * 16; i < j * 16 + 16; ++i)
        code[i] = lane_select(lost, code[i], clamp_code(lane_nint(x[i] / step), -half, half - 1) + lane_set<F>(half));
    }
  }

  /// The value that auto-round's parameters give to x.
  template <class F>
  AR_FN static constexpr F qdq(F x, const F* v, const search_rule&, const group_params<F>& g, std::size_t sub) noexcept {
    F q = x * reciprocal_or_zero(g.scale[sub]);
    if (v != nullptr) q = q + *v;
    return clamp(lane_plus_zero(lane_round(q)), lane_set<F>(-half), lane_set<F>(half - 1)) * g.scale[sub];
  }

 protected:
  /// auto-round's parameters with importance, and without where `plain` is the search of the type.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void search_groups(const F* x, const F* importance, const search_rule& rule, const F* v, group_params<F>& g) noexcept {
    const bool sweeps = Bits == 3 && importance == nullptr, by_magnitude = Bits == 3 && importance != nullptr && rule.magnitude;
    F weight[16], sigma = lane_set<F>(0.0f);
    if (by_magnitude) sigma = scaled_mean_square(x, 2.0f);
    if (sweeps) fit_q3_sweeps(x, v, g.scale);
    for (std::size_t j = 0; j < 16; ++j) {
      const F* xs = x + j * 16;
      const F* vs = v != nullptr ? v + j * 16 : nullptr;
      if (importance != nullptr) {
        F w[16];
        for (std::size_t i = 0; i < 16; ++i) w[i] = importance[j * 16 + i];
        if (rule.repair) repair_importance(xs, 16, Bits, rule.fill, w);
        if (by_magnitude) weigh_by_magnitude(xs, static_cast<const F*>(w), sigma, 16, w);
        weight[j] = sum_by_eight(static_cast<const F*>(w), 16);
        g.scale[j] = fit_symmetric_weighted(xs, static_cast<const F*>(w), vs, 16, Bits);
      } else if (!sweeps) {
        g.scale[j] = fit_symmetric_weighted(xs, static_cast<const F*>(nullptr), vs, 16, Bits);
      }
      g.scale[j] = flush_tiny(g.scale[j]);
      g.offset[j] = lane_set<F>(0.0f);
    }
    g.d_scale = by_magnitude ? fit_signed_weighted<super_half>(g.scale, static_cast<const F*>(weight), 16) : double_quant_symmetric(g.scale, 16, SuperBits);
    g.d_offset = lane_set<F>(0.0f);
  }
};

}  // namespace gguf
AR_END_TARGET
#endif
