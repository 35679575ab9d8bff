// mxfp4: E2M1 elements (0, 0.5, 1, 1.5, 2, 3, 4, 6) under a power-of-two scale, 4.25 bits a weight in groups of 32.
// Source: auto-round 0.16.1, data_type/mxfp.py (quant_mx, quant_mx_rceil); OCP Microscaling Formats 1.0. Equal bit for bit.
#if defined(AR_DTYPE_MXFP4_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_MXFP4_HPP
#else
#define AR_DTYPE_MXFP4_HPP
#endif

#include "ar/detail/mx_facts.hpp"
#include "ar/detail/scaled_type-inl.h"

AR_BEGIN_TARGET

/// `Weight` is the format of the weights: the result is rounded to it, all else is float.
template <mx_exponent Exponent = mx_exponent::floor, real Weight = real::f32>
struct mxfp4 : static_scaled_type<mxfp4<Exponent, Weight>, Weight> {
  static constexpr scaled_facts the_facts = mx_facts({"mxfp4", "mxfp4_rceil", "mxfp4_rceil_v2"}, grid_of(e2m1), 2, Exponent, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr bool own_kernels = Exponent == mx_exponent::floor && Weight == real::f32;
  static constexpr std::string_view reference_names =
      Exponent == mx_exponent::floor  ? "mx_fp4 opt_rtn_mx_fp4 mx_fp4e2m1 opt_rtn_mx_fp4e2m1 opt_rtn_mx_fp"
      : Exponent == mx_exponent::ceil ? "mx_fp4_rceil mx_fp4e2m1_rceil mx_fp_rceil"
                                      : "mx_fp4_rceil_v2";
};
static_assert(RangeType<mxfp4<>>);

/// The instances that the dispatch unit knows.
using mxfp4_types = type_list<mxfp4<mx_exponent::floor, real::f32>,
                              mxfp4<mx_exponent::floor, real::bf16>,
                              mxfp4<mx_exponent::floor, real::f16>,
                              mxfp4<mx_exponent::ceil, real::f32>,
                              mxfp4<mx_exponent::ceil, real::bf16>,
                              mxfp4<mx_exponent::ceil, real::f16>,
                              mxfp4<mx_exponent::ceil_v2, real::f32>,
                              mxfp4<mx_exponent::ceil_v2, real::bf16>,
                              mxfp4<mx_exponent::ceil_v2, real::f16>>;

using MXFP4 = scheme<mxfp4<>, group<32>>;
/// Weights of the RCEIL presets are those of MXFP4; only their activations are fitted so that nothing saturates.
using MXFP4_RCEIL = MXFP4;
/// What the preset MXFP4_RCEIL does to activations.
using MXFP4_RCEIL_activations = scheme<mxfp4<mx_exponent::ceil>, group<32>>;
static_assert(is_preset<MXFP4>("MXFP4") && is_preset<MXFP4_RCEIL>("MXFP4_RCEIL"));

AR_END_TARGET
#endif
