// int_sym_gptq: symmetric integers as GPTQ fits them: the asymmetric grid over [-A, A], A the largest magnitude, with the zero point in the
// middle; weight = scale * (code - 2^(bits-1)), the scale positive. No preset selects it.
// Source: auto-round 0.16.1, data_type/int.py (int_sym_gptq); equal bit for bit.
#if defined(AR_DTYPE_INT_SYM_GPTQ_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_INT_SYM_GPTQ_HPP
#else
#define AR_DTYPE_INT_SYM_GPTQ_HPP
#endif

#include "ar/detail/lane_traits-inl.h"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

/// `Weight` is the format that the reference computes in, `Scale` the format that the scale is stored in.
template <int Bits = dynamic, real Weight = real::f32, real Scale = real::f16>
struct int_sym_gptq {
  static_assert(Bits == dynamic || (Bits >= 2 && Bits <= 8), "ar: int_sym_gptq has 2 to 8 bits");
  static constexpr const char* name = "int_sym_gptq";
  static constexpr std::string_view reference_names = "int_sym_gptq";
  static constexpr real weight_format = Weight;
  static constexpr real scale_format = Scale;
  static constexpr real quotient_format = promote(Weight, Scale);

  [[no_unique_address]] extent<Bits> width{};
  AR_FN constexpr int bits() const noexcept { return width.value(); }
  AR_FN constexpr bool valid() const noexcept { return bits() >= 2 && bits() <= 8; }
  AR_FN constexpr int code_offset() const noexcept { return 1 << (bits() - 1); }

  template <class F>
  struct params {
    F scale;
  };

  /// lo and hi are of the format Range.
  template <real Range = Weight, class F>
  AR_FN constexpr params<F> from_range(F lo, F hi) const noexcept {
    const F zero = lane_set<F>(0.0f);
    lo = lane_min(lo, zero);
    const F larger = lane_max(zero - lo, lane_max(hi, zero));
    const F low = lane_select(lane_lt(lo, zero), zero - larger, lo);
    const F steps = lane_set<F>(static_cast<float>((1 << bits()) - 1));
    const F range = lane_round_to<Range>(larger - low);
    return {lane_max(lane_round_to<Scale>(lane_round_to<Range>(range / steps)), lane_set<F>(scale_threshold(Scale)))};
  }

  /// The code of w as a value in -n .. n-1, n = 2^(bits-1).
  template <class F>
  AR_FN constexpr F encode(F w, const params<F>& p) const noexcept {
    return clamp(lane_round_to<quotient_format>(w / p.scale));
  }

  /// The code of w with the rounding offset v of a tuned layer.
  template <class F>
  AR_FN constexpr F encode(F w, F v, const params<F>& p) const noexcept {
    return clamp(lane_round_to<quotient_format>(w / p.scale) + v);
  }

  template <class F>
  AR_FN constexpr F decode(F code, const params<F>& p) const noexcept {
    return lane_round_to<Weight>(lane_round_to<quotient_format>(p.scale * code));
  }

 private:
  template <class F>
  AR_FN constexpr F clamp(F quotient) const noexcept {
    const F n = lane_set<F>(static_cast<float>(code_offset()));
    return lane_min(lane_max(lane_plus_zero(lane_round(quotient)), lane_set<F>(0.0f) - n), n - lane_set<F>(1.0f));
  }
};
static_assert(RangeType<int_sym_gptq<4>>);

/// The instances that the dispatch unit holds.
using int_sym_gptq_types =
    type_list<int_sym_gptq<dynamic, real::f32, real::f16>, int_sym_gptq<dynamic, real::bf16, real::f16>, int_sym_gptq<dynamic, real::f16, real::f16>>;

AR_END_TARGET
#endif
