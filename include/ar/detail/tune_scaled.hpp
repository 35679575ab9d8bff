// The tuned grid of all scaled small-float types (MX, NVFP4, FP8): fake-quantized forward and hand-written gradient over a lane type F, from the
// facts that a data type states. The forward is that of the data type with a rounding offset. Gradients follow the reference's order of operations
// (signround.md section 4; auto_round/data_type/{mxfp,nvfp,fp8}.py); factors that are powers of two and cancel are left out, which is the same
// number as long as nothing on the way is subnormal.
#if defined(AR_DETAIL_TUNE_SCALED_HPP) == defined(HWY_TARGET_TOGGLE)  // once per target, see ar/detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_TUNE_SCALED_HPP
#else
#define AR_DETAIL_TUNE_SCALED_HPP
#endif

#include <bit>
#include <cstddef>
#include <cstdint>

#include "ar/detail/scaled_type-inl.h"
#include "ar/detail/tune_grid.hpp"

AR_BEGIN_TARGET

/// w ~ element * scale. One factor, max_scale: the group's largest magnitude is multiplied with it. Where a group's scale does not depend on the
/// factor in a way that a derivative could tell (a group of zeros, a scale that rounds to zero) the gradient is NaN: no step.
struct tuned_scaled {
  enum value : int { scale, forward, back, values };
  static constexpr int zero_point = -1, minimum = -1;
  static constexpr std::size_t sums = 2;
  static constexpr bool superblocks = false;
  static constexpr float ln2 = 0x1.62e43p-1f;

  any_scaled type;
  float pass_value, pass_element, pass_scale;  ///< gradients pass where magnitudes are below these
  float binade_from;                           ///< the smallest value whose exponent sets the step of the grid
  bool multiplies;                             ///< weights are multiplied with the reciprocal of the scale

  AR_FN constexpr explicit tuned_scaled(const tune_grid& g) noexcept : type{} {
    const bool closed = g.clamp == clamp_gradient::closed;
    type.the_facts = *g.facts;
    type.the_tensor.global_scale = g.global_scale;
    const scaled_facts& f = type.the_facts;
    pass_value = closed ? above(f.grid.max) : f.grid.max;
    pass_element = f.gradient == rounding_gradient::straight_through || closed ? detail::infinity : f.grid.max;
    pass_scale = f.rule == scale_rule::e4m3_two_level ? 448.0f : 114688.0f;
    if (closed) pass_scale = above(pass_scale);
    // The reference's logarithm rounds, so that the next binade begins a few floats early.
    binade_from = 2.0f * f.grid.min_normal;
    const int exponent = floor_log2_rounded(binade_from);
    while (floor_log2_rounded(below(binade_from)) == exponent) binade_from = below(binade_from);
    if (f.gradient != rounding_gradient::binade) binade_from = detail::infinity;
    multiplies = f.rule == scale_rule::e4m3_two_level;
  }

  template <class F>
  AR_FN constexpr void prepare(const group_range<F>& r, bool with_init, F* out) const noexcept {
    const any_scaled::params<F> p = type.from_range(lane_set<F>(0.0f), largest(r) * factor(r, with_init));
    out[scale] = p.scale;
    out[forward] = p.forward;
    out[back] = p.back;
  }
  template <class F>
  AR_FN constexpr F code(const F* g, F w, F v) const noexcept {
    const F element = type.round(ratio(g, w) + v);
    return type.the_facts.plus_zero ? lane_plus_zero(element) : element;
  }
  template <class F>
  AR_FN constexpr F stored(F element) const noexcept {
    return type.to_code(element);
  }
  template <class F>
  AR_FN constexpr F decode(const F* g, F element) const noexcept {
    return element * g[back];
  }
  template <bool Sums, class F>
  AR_FN constexpr F gradient(const F* g, F w, F v, F grad, F* term) const noexcept {
    const F zero = lane_set<F>(0.0f);
    const F t0 = ratio(g, w), t = t0 + v, size = lane_abs(t), element = type.round(t);
    F dv = lane_select(lane_lt(size, lane_set<F>(pass_value)), grad * g[back], zero);
    if (type.the_facts.gradient != rounding_gradient::straight_through)
      dv = lane_select(lane_and(lane_lt(lane_abs(element), lane_set<F>(pass_element)), lane_gt(size, zero)), dv, zero);
    if (type.the_facts.gradient == rounding_gradient::binade) {
      // element = step * round(value / step), and the step is a power of two that grows with the value.
      const F log = lane_set<F>(ln2), through_step = (dv * element * log - dv * t * log) / (size * log);
      const F turned = lane_select(lane_lt(t, zero), -through_step, through_step);
      dv = lane_select(lane_ge(size, lane_set<F>(binade_from)), dv + turned, dv);
    }
    if constexpr (Sums) {
      term[0] = grad * element;
      term[1] = dv * (multiplies ? w : t0 / g[forward]);
    }
    return dv;
  }
  template <class F>
  AR_FN constexpr range_gradient<F> through_range(const group_range<F>& r, bool with_init, const F* g, const F* sum) const noexcept {
    const scaled_facts& f = type.the_facts;
    const F zero = lane_set<F>(0.0f), none = lane_set<F>(std::bit_cast<float>(0x7FC00000u));
    const F log = lane_set<F>(ln2), limit = lane_set<F>(f.limit), sixth = lane_set<F>(1.0f / 6.0f);
    const F m = largest(r) * factor(r, with_init), through_scale = sum[0] - sum[1];
    F dm = zero;  // gradient of m
    switch (f.rule) {
      case scale_rule::one: break;
      case scale_rule::power_floor:
      case scale_rule::power_ceil: {
        // 2^e with e clamped to +-127, where e is the floor or ceiling of a logarithm and passes the gradient on.
        const auto inside = lane_and(lane_lt(lane_set<F>(0x1p-127f), g[scale]), lane_lt(g[scale], lane_set<F>(0x1p127f)));
        const F de = lane_select(inside, through_scale * (g[scale] * log), zero);
        dm = f.rule == scale_rule::power_floor ? de / (m * log) : de / (m / limit * log) / limit;
        dm = lane_select(lane_gt(m, zero), dm, none);
        break;
      }
      case scale_rule::quotient: dm = lane_select(lane_gt(g[scale], lane_set<F>(f.least)), through_scale / limit, zero); break;
      case scale_rule::e4m3_two_level: {
        const F global = lane_set<F>(type.the_tensor.global_scale), over_global = lane_set<F>(reciprocal_or_zero(type.the_tensor.global_scale));
        const F d_forward = sum[1] - sum[0] * (g[back] * g[back]);
        const F d_scale = -d_forward * (g[forward] * g[forward]) * over_global;
        dm = lane_select(lane_lt(global * (m * sixth), lane_set<F>(pass_scale)), d_scale, zero) * global * sixth;
        dm = lane_select(lane_gt(g[forward], zero), dm, none);
        break;
      }
      case scale_rule::e5m3:
      case scale_rule::e5m3_two_level: {
        const F global = lane_set<F>(f.two_level() ? type.the_tensor.global_scale : 1.0f);
        const F d_scale = f.two_level() ? through_scale * lane_set<F>(reciprocal_or_zero(type.the_tensor.global_scale)) : through_scale;
        dm = lane_select(lane_lt(global * (m * sixth), lane_set<F>(pass_scale)), d_scale, zero) * global * sixth;
        dm = lane_select(lane_gt(g[scale], zero), dm, none);
        break;
      }
    }
    return {zero, dm};
  }
  template <class F>
  AR_FN constexpr factor_gradient<F> through_factors(const group_range<F>& r, bool with_init, const range_gradient<F>& d) const noexcept {
    const F dm = d.high * largest(r);
    return {d.low, with_init ? dm * r.init_scale : dm};
  }
  template <class F>
  AR_FN constexpr F input_gradient(const F* g, F dv) const noexcept {
    return multiplies ? dv * g[forward] : dv / g[forward];
  }

 private:
  AR_FN static constexpr float above(float x) noexcept { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) + 1); }
  AR_FN static constexpr float below(float x) noexcept { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) - 1); }
  template <class F>
  AR_FN constexpr F ratio(const F* g, F w) const noexcept {
    return multiplies ? w * g[forward] : w / g[forward];
  }
  template <class F>
  AR_FN static constexpr F largest(const group_range<F>& r) noexcept {
    return lane_max(lane_set<F>(0.0f) - r.wmin, r.wmax);
  }
  template <class F>
  AR_FN static constexpr F factor(const group_range<F>& r, bool with_init) noexcept {
    return with_init ? r.init_scale * r.max_scale : r.max_scale;
  }
};

AR_END_TARGET

#endif
