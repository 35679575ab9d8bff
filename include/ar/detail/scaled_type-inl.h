// The mathematics of all scaled small-float types (MX, NVFP4, FP8), over a lane type. A data type derives from scaled_type and states its facts;
// the dispatch unit holds one instance, any_scaled, which takes the facts at run time: the numbers it computes with are the same.
#if defined(AR_DETAIL_SCALED_TYPE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_SCALED_TYPE_INL_H
#else
#define AR_DETAIL_SCALED_TYPE_INL_H
#endif

#include "ar/detail/scaled_facts.hpp"
#include "ar/detail/small_lane-inl.h"
#include "ar/numeric/log2.hpp"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

/// `Self` has facts(), and tensor() with what is known about the whole tensor.
template <class Self>
struct scaled_type {
  AR_FN constexpr int bits() const noexcept { return self().facts().grid.bits; }
  AR_FN constexpr bool valid() const noexcept {
    const tensor_values& v = self().tensor();
    return !(v.global_scale > 0x1.fffffep127f) && !(v.maximum > 0x1.fffffep127f) && v.global_scale == v.global_scale && v.maximum == v.maximum;
  }
  /// True while a two-level type lacks its global scale.
  AR_FN constexpr bool needs_range() const noexcept { return self().facts().two_level() && self().tensor().unset(); }
  /// The global scale for the tensor's largest magnitude.
  AR_FN constexpr float global_scale_of(float largest) const noexcept { return self().facts().global_numerator() * reciprocal_or_zero(largest); }
  AR_FN constexpr float global_scale() const noexcept {
    const tensor_values& v = self().tensor();
    return v.global_scale >= 0.0f ? v.global_scale : global_scale_of(v.maximum);
  }

  /// Only `scale` is stored. Weights are divided by (two-level E4M3: multiplied with) `forward`, elements are multiplied with `back`.
  template <class F>
  struct params {
    F scale, forward, back;
  };
  static constexpr std::size_t stored_params = 1;
  static constexpr bool zero_scale = true;  ///< a group may have the scale 0; all of it is 0 then

  /// The scale of a group whose smallest and largest values are lo and hi.
  template <class F>
  AR_FN constexpr params<F> from_range(F lo, F hi) const noexcept {
    const scaled_facts& f = self().facts();
    const tensor_values& v = self().tensor();
    const F zero = lane_set<F>(0.0f);
    F largest = lane_max(lane_max(zero - lo, hi), zero);
    if (v.maximum >= 0.0f && !f.two_level()) largest = lane_set<F>(v.maximum);
    const F sixth = lane_set<F>(1.0f / 6.0f);
    F scale = lane_set<F>(1.0f);
    switch (f.rule) {
      case scale_rule::one: break;
      case scale_rule::power_floor:
      case scale_rule::power_ceil: scale = lane_each(largest, power_scale{f.rule == scale_rule::power_ceil, f.limit, f.max_exponent}); break;
      case scale_rule::quotient: scale = lane_max(lane_round_to(f.scale, largest / lane_set<F>(f.limit)), lane_set<F>(f.least)); break;
      case scale_rule::e4m3_two_level:
      case scale_rule::e5m3_two_level:
        // A global scale that overflows (of a tensor below 2^-116) must not make NaN of the groups that are zero.
        scale = largest * sixth;
        scale = lane_select(lane_eq(scale, zero), zero, lane_set<F>(global_scale()) * scale);
        scale = lane_round_small(scale, f.rule == scale_rule::e4m3_two_level ? grid_of(e4m3fn) : grid_of(ue5m3));
        break;
      case scale_rule::e5m3: scale = lane_round_small(largest * sixth, grid_of(ue5m3)); break;
    }
    return complete(params<F>{scale, scale, scale});
  }

  /// The parameters for a scale that is given.
  template <class F>
  AR_FN constexpr params<F> complete(params<F> p) const noexcept {
    const scaled_facts& f = self().facts();
    const F zero = lane_set<F>(0.0f), one = lane_set<F>(1.0f);
    p.forward = p.back = p.scale;
    if (f.two_level()) p.back = p.scale * lane_set<F>(reciprocal_or_zero(global_scale()));
    if (f.rule == scale_rule::e4m3_two_level) {
      // Twice the reciprocal, as the reference: element / (1 / scale) is not element * scale in the last bit.
      p.forward = lane_select(lane_eq(p.back, zero), zero, one / p.back);
      p.back = lane_select(lane_eq(p.forward, zero), zero, one / p.forward);
    } else {
      p.forward = lane_select(lane_eq(p.back, zero), lane_set<F>(detail::infinity), p.back);
    }
    return p;
  }

  /// The element of w: a value of the grid.
  template <class F>
  AR_FN constexpr F encode(F w, const params<F>& p) const noexcept {
    return round(quotient(w, p));
  }
  /// With the rounding offset v of a tuned layer.
  template <class F>
  AR_FN constexpr F encode(F w, F v, const params<F>& p) const noexcept {
    const F element = round(quotient(w, p) + v);
    return self().facts().plus_zero ? lane_plus_zero(element) : element;
  }

  template <class F>
  AR_FN constexpr F quotient(F w, const params<F>& p) const noexcept {
    const scaled_facts& f = self().facts();
    if (f.through_bf16) w = lane_round_bf16(w);
    return lane_round_to(f.quotient, f.rule == scale_rule::e4m3_two_level ? w * p.forward : w / p.forward);
  }
  template <class F>
  AR_FN constexpr F round(F y) const noexcept {
    const scaled_facts& f = self().facts();
    const F a = lane_min(lane_abs(y), lane_set<F>(f.grid.max));
    F r = lane_round_magnitude(a, f.grid);
    if (f.half_up) r = lane_select(lane_eq(a, lane_set<F>(0x1.fffffep-2f * f.grid.step)), lane_set<F>(f.grid.step), r);
    if (f.keeps_zero_sign) return lane_select(lane_is_negative(y), -r, r);
    return lane_with_sign(r, y);
  }

  template <class F>
  AR_FN constexpr F decode(F element, const params<F>& p) const noexcept {
    const scaled_facts& f = self().facts();
    return lane_round_to(f.weight, lane_round_to(f.quotient, element * p.back));
  }

  template <class F>
  AR_FN constexpr F qdq(F w, const params<F>& p) const noexcept {
    const F element = encode(w, p);
    return decode(self().facts().plus_zero ? lane_plus_zero(element) : element, p);
  }

  /// The element's code: sign, exponent and mantissa, or two's complement.
  template <class F>
  AR_FN constexpr F to_code(F element) const noexcept {
    return lane_small_code(element, self().facts().grid);
  }
  template <class F>
  AR_FN constexpr F from_code(F code) const noexcept {
    return lane_small_value(code, self().facts().grid);
  }

 private:
  AR_FN constexpr const Self& self() const noexcept { return static_cast<const Self&>(*this); }

  struct power_scale {
    bool ceil;
    float limit;
    int max_exponent;
    AR_FN constexpr float operator()(float largest) const noexcept {
      int e = 1;
      if (ceil) {
        const float q = largest / limit;
        if (largest > 0.0f) e = q > 0.0f ? ceil_log2_rounded(q) : -127;
      } else {
        if (largest > 0.0f) e = floor_log2_rounded(largest);
        e -= max_exponent;
      }
      return f32_from_e8m0(static_cast<std::uint8_t>((e < -127 ? -127 : e > 127 ? 127 : e) + 127));
    }
  };
};

/// A data type whose facts are Self::the_facts.
template <class Self, real Weight>
struct static_scaled_type : scaled_type<Self> {
  static constexpr real weight_format = Weight;
  static constexpr real scale_format = real::f32;
  AR_FN static constexpr const scaled_facts& facts() noexcept { return Self::the_facts; }
  AR_FN static constexpr const tensor_values& tensor() noexcept { return no_tensor_values; }
};
/// The same with numbers for the whole tensor.
template <class Self, real Weight>
struct tensor_scaled_type : scaled_type<Self> {
  static constexpr real weight_format = Weight;
  static constexpr real scale_format = real::f32;
  tensor_values the_tensor{};
  AR_FN static constexpr const scaled_facts& facts() noexcept { return Self::the_facts; }
  AR_FN constexpr const tensor_values& tensor() const noexcept { return the_tensor; }
};

/// T with numbers for the whole tensor, which every type may be given at run time.
template <class T>
struct fixed_scaled : tensor_scaled_type<fixed_scaled<T>, T::weight_format> {
  static constexpr const char* name = T::name;
  static constexpr const scaled_facts& the_facts = T::the_facts;
};

/// Any of these types, its facts known at run time only.
struct any_scaled : scaled_type<any_scaled> {
  static constexpr const char* name = "any_scaled";
  static constexpr real weight_format = real::f32;
  static constexpr real scale_format = real::f32;
  scaled_facts the_facts{};
  tensor_values the_tensor{};
  AR_FN constexpr const scaled_facts& facts() const noexcept { return the_facts; }
  AR_FN constexpr const tensor_values& tensor() const noexcept { return the_tensor; }
};

AR_END_TARGET
#endif
