// int_asym: asymmetric integers of 1 to 8 bits, codes 0 .. 2^bits-1; weight = scale * (code - zero_point), the zero point a whole number.
// Source: auto-round 0.16.1, data_type/int.py (int_asym); equal bit for bit.
#if defined(AR_DTYPE_INT_ASYM_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_INT_ASYM_HPP
#else
#define AR_DTYPE_INT_ASYM_HPP
#endif

#include "ar/detail/lane_traits-inl.h"
#include "ar/detail/search_types.hpp"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

/// `Weight` is the format that the reference computes in (that of the weights): it rounds the range, so bf16 and f32 give different scales
/// for the same values. `Scale` is the format that the scale is stored in.
template <int Bits = dynamic, real Weight = real::f32, real Scale = real::f16>
struct int_asym {
  static_assert(Bits == dynamic || (Bits >= 1 && Bits <= 8), "ar: int_asym has 1 to 8 bits");
  static constexpr const char* name = "int_asym";
  static constexpr std::string_view reference_names = "int_asym opt_rtn_int_asym";
  static constexpr real weight_format = Weight;
  static constexpr real scale_format = Scale;
  static constexpr real quotient_format = promote(Weight, Scale);
  static constexpr search_family search = search_family::zero_point;

  [[no_unique_address]] extent<Bits> width{};
  AR_FN constexpr int bits() const noexcept { return width.value(); }
  AR_FN constexpr bool valid() const noexcept { return bits() >= 1 && bits() <= 8; }
  AR_FN constexpr int code_offset() const noexcept { return 0; }
  AR_FN constexpr float max_code() const noexcept { return static_cast<float>((1 << bits()) - 1); }

  /// The zero point is not clamped: a scale that was rounded down can push it to 2^bits.
  template <class F>
  struct params {
    F scale;
    F zero_point;
  };

  /// Scale and zero point of a group whose smallest and largest values are lo and hi, which are of the format Range.
  template <real Range = Weight, class F>
  AR_FN constexpr params<F> from_range(F lo, F hi) const noexcept {
    const F zero = lane_set<F>(0.0f);
    lo = lane_min(lo, zero);
    hi = lane_max(hi, zero);
    const F range = lane_round_to<Range>(hi - lo);
    const F s = lane_max(lane_round_to<Scale>(lane_round_to<Range>(range / lane_set<F>(max_code()))), lane_set<F>(scale_threshold(Scale)));
    return {s, lane_plus_zero(lane_round(lane_round_to<promote(Range, Scale)>((zero - lo) / s)))};
  }

  template <class F>
  AR_FN constexpr F encode(F w, const params<F>& p) const noexcept {
    return clamp(lane_round(lane_round_to<quotient_format>(w / p.scale)), p);
  }

  /// The code of w with the rounding offset v of a tuned layer.
  template <class F>
  AR_FN constexpr F encode(F w, F v, const params<F>& p) const noexcept {
    return clamp(lane_round(lane_round_to<quotient_format>(w / p.scale) + v), p);
  }

  template <class F>
  AR_FN constexpr F decode(F code, const params<F>& p) const noexcept {
    return lane_round_to<Weight>(lane_round_to<quotient_format>(p.scale * lane_round_to<quotient_format>(code - p.zero_point)));
  }

 private:
  template <class F>
  AR_FN constexpr F clamp(F rounded, const params<F>& p) const noexcept {
    // Adding the zero point to -0 or +0 gives the same, except where it is zero itself: hence plus_zero, as the reference's rounding does.
    const F code = lane_round_to<quotient_format>(lane_plus_zero(rounded) + p.zero_point);
    return lane_min(lane_max(code, lane_set<F>(0.0f)), lane_set<F>(max_code()));
  }
};
static_assert(RangeType<int_asym<4>>);

/// The instances that the dispatch unit holds.
using int_asym_types = type_list<int_asym<dynamic, real::f32, real::f16>, int_asym<dynamic, real::f32, real::f32>, int_asym<dynamic, real::f32, real::bf16>,
                                int_asym<dynamic, real::bf16, real::f16>, int_asym<dynamic, real::bf16, real::f32>, int_asym<dynamic, real::bf16, real::bf16>,
                                int_asym<dynamic, real::f16, real::f16>>;

AR_END_TARGET
#endif
