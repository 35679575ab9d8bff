// mxuint: whole multiples of 2^(2-bits) from -2 up to below 2, stored with an offset of 2^(bits-1), under a power-of-two scale. No preset selects it.
// Source: auto-round 0.16.1, data_type/mxfp.py (quant_mx_uint). Equal bit for bit.
#if defined(AR_DTYPE_MXUINT_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_MXUINT_HPP
#else
#define AR_DTYPE_MXUINT_HPP
#endif

#include "ar/detail/lane_traits-inl.h"
#include "ar/numeric/log2.hpp"
#include "ar/numeric/small_float.hpp"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

/// `Weight` is the format of the weights: the result is rounded to it, all else is float. Unlike mxint this type uses the most negative code.
template <int Bits = dynamic, real Weight = real::f32>
struct mxuint {
  static_assert(Bits == dynamic || (Bits >= 2 && Bits <= 8), "ar: mxuint has 2 to 8 bits");
  static constexpr const char* name = "mxuint";
  static constexpr std::string_view reference_names = "mx_uint mx_uint4 mxuint4";
  static constexpr real weight_format = Weight;
  static constexpr real scale_format = real::f32;

  [[no_unique_address]] extent<Bits> width{};
  AR_FN constexpr int bits() const noexcept { return width.value(); }
  AR_FN constexpr bool valid() const noexcept { return bits() >= 2 && bits() <= 8; }
  AR_FN constexpr int code_offset() const noexcept { return 1 << (bits() - 1); }

  template <class F>
  struct params {
    F scale;
  };

  /// The power of two at or below the largest magnitude, where the logarithm is a float; 1 for a group of zeros. Ranges are never rounded.
  template <real = Weight, class F>
  AR_FN constexpr params<F> from_range(F lo, F hi) const noexcept {
    return {lane_each(lane_max(lane_set<F>(0.0f) - lo, hi), power_below{})};
  }

  template <class F>
  AR_FN constexpr F encode(F w, const params<F>& p) const noexcept {
    return clamp(w / p.scale);
  }
  /// With the rounding offset v of a tuned layer, which counts in units of the scale.
  template <class F>
  AR_FN constexpr F encode(F w, F v, const params<F>& p) const noexcept {
    return clamp(w / p.scale + v);
  }

  template <class F>
  AR_FN constexpr F decode(F code, const params<F>& p) const noexcept {
    return lane_round_to<Weight>(code / lane_set<F>(steps()) * p.scale);
  }

 private:
  /// Steps to the scale.
  AR_FN constexpr float steps() const noexcept { return static_cast<float>(1 << (bits() - 2)); }
  template <class F>
  AR_FN constexpr F clamp(F y) const noexcept {
    const F n = lane_set<F>(static_cast<float>(code_offset()));
    const F code = lane_plus_zero(lane_round(y * lane_set<F>(steps())));
    return lane_min(lane_max(code, lane_set<F>(0.0f) - n), n - lane_set<F>(1.0f));
  }
  struct power_below {
    AR_FN constexpr float operator()(float largest) const noexcept {
      const int e = largest > 0.0f ? floor_log2_rounded(largest) : 0;
      return f32_from_e8m0(static_cast<std::uint8_t>((e < -127 ? -127 : e > 127 ? 127 : e) + 127));
    }
  };
};
static_assert(RangeType<mxuint<4>>);

/// The instances that the dispatch unit holds.
using mxuint_types = type_list<mxuint<dynamic, real::f32>, mxuint<dynamic, real::bf16>, mxuint<dynamic, real::f16>>;

AR_END_TARGET
#endif
