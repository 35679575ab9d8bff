// nvfp4: E2M1 elements, an E4M3 scale per 16 and one global scale per tensor: 4.5 bits a weight. Also the variants with unsigned E5M3 scales.
// weight = element * scale / global scale; the global scale is 2688 = 448 * 6 over the largest magnitude of the tensor.
// Source: auto-round 0.16.1, data_type/nvfp.py (nv_fp4, nv_fp4_with_static_gs, nvfp4_v2, nvfp4_v2_with_global_scale). Equal bit for bit.
#if defined(AR_DTYPE_NVFP4_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_NVFP4_HPP
#else
#define AR_DTYPE_NVFP4_HPP
#endif

#include "ar/detail/scaled_type-inl.h"

AR_BEGIN_TARGET

/// What the variants share.
AR_INLINE constexpr scaled_facts nvfp4_facts(const char* name, scale_rule rule, real weight) noexcept {
  return {.name = name, .grid = grid_of(e2m1), .rule = rule, .limit = 6.0f, .max_exponent = 2, .least = 0.0f, .weight = weight, .scale = real::f32,
          .quotient = real::f32, .through_bf16 = false, .half_up = false, .keeps_zero_sign = false, .plus_zero = false,
          .search = search_family::hundredths, .float_least = 0.0f, .gradient = rounding_gradient::saturating};
}

/// The global scale is a number of the type: `the_tensor.global_scale`, or `the_tensor.maximum` that it follows from. Without it, qdq takes the
/// maximum of its input (dynamic activations) and all else is errc::bad_value, because nobody would know what the codes mean.
/// `Weight` is the format of the weights: the result is rounded to it, all else is float.
template <real Weight = real::f32>
struct nvfp4 : tensor_scaled_type<nvfp4<Weight>, Weight> {
  static constexpr scaled_facts the_facts = nvfp4_facts("nvfp4", scale_rule::e4m3_two_level, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr bool own_kernels = Weight == real::f32;
  static constexpr std::string_view reference_names = "nv_fp4 nv_fp4_rtn opt_rtn_nv_fp4 nv_fp4_with_static_gs rtn_nv_fp4_with_static_gs";
};
static_assert(RangeType<nvfp4<>>);

/// Unsigned E5M3 scales, which need no global scale.
template <real Weight = real::f32>
struct nvfp4v2 : static_scaled_type<nvfp4v2<Weight>, Weight> {
  static constexpr scaled_facts the_facts = nvfp4_facts("nvfp4v2", scale_rule::e5m3, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names = "nvfp4_v2";
};
static_assert(RangeType<nvfp4v2<>>);

/// Unsigned E5M3 scales under a global scale, 688128 over the largest magnitude. No preset selects it.
template <real Weight = real::f32>
struct nvfp4v2_global : tensor_scaled_type<nvfp4v2_global<Weight>, Weight> {
  static constexpr scaled_facts the_facts = nvfp4_facts("nvfp4v2_global", scale_rule::e5m3_two_level, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names = "nvfp4_v2_with_global_scale";
};
static_assert(RangeType<nvfp4v2_global<>>);

/// The instances that the dispatch unit knows.
using nvfp4_types = type_list<nvfp4<real::f32>,
                              nvfp4<real::bf16>,
                              nvfp4<real::f16>,
                              nvfp4v2<real::f32>,
                              nvfp4v2<real::bf16>,
                              nvfp4v2<real::f16>,
                              nvfp4v2_global<real::f32>,
                              nvfp4v2_global<real::bf16>,
                              nvfp4v2_global<real::f16>>;

using NVFP4 = scheme<nvfp4<>, group<16>>;
using NVFP4_E5M3 = scheme<nvfp4v2<>, group<16>>;

static_assert(is_preset<NVFP4>("NVFP4"));
static_assert(is_preset<NVFP4_E5M3>("NVFP4_E5M3"));

AR_END_TARGET
#endif
