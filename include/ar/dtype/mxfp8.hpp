// mxfp8: E4M3 (up to 448) or E5M2 (up to 57344) elements under a power-of-two scale, 8.25 bits a weight in groups of 32.
// Source: auto-round 0.16.1, data_type/mxfp.py (quant_mx, quant_mx_rceil); OCP Microscaling Formats 1.0. Equal bit for bit.
#if defined(AR_DTYPE_MXFP8_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_MXFP8_HPP
#else
#define AR_DTYPE_MXFP8_HPP
#endif

#include "ar/detail/mx_facts.hpp"
#include "ar/detail/scaled_type-inl.h"

AR_BEGIN_TARGET

/// E4M3. `Weight` is the format of the weights: the result is rounded to it, all else is float.
template <mx_exponent Exponent = mx_exponent::floor, real Weight = real::f32>
struct mxfp8 : static_scaled_type<mxfp8<Exponent, Weight>, Weight> {
  static_assert(Exponent != mx_exponent::ceil_v2, "ar: the variant with 7.25 is one of MXFP4");
  static constexpr scaled_facts the_facts = mx_facts({"mxfp8", "mxfp8_rceil", ""}, grid_of(e4m3fn), 8, Exponent, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr bool own_kernels = Exponent == mx_exponent::floor && Weight == real::f32;
  static constexpr std::string_view reference_names =
      Exponent == mx_exponent::floor ? "mx_fp8 opt_rtn_mx_fp8 mx_fp8e4m3 opt_rtn_mx_fp8e4m3 opt_rtn_mx_fp"
                                     : "mx_fp8_rceil mx_fp8e4m3_rceil mx_fp_rceil";
};
static_assert(RangeType<mxfp8<>>);

/// E5M2.
template <mx_exponent Exponent = mx_exponent::floor, real Weight = real::f32>
struct mxfp8e5m2 : static_scaled_type<mxfp8e5m2<Exponent, Weight>, Weight> {
  static_assert(Exponent != mx_exponent::ceil_v2, "ar: the variant with 7.25 is one of MXFP4");
  static constexpr scaled_facts the_facts = mx_facts({"mxfp8e5m2", "mxfp8e5m2_rceil", ""}, grid_of(e5m2), 15, Exponent, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names =
      Exponent == mx_exponent::floor ? "mx_fp8e5m2 opt_rtn_mx_fp8e5m2"
                                     : "mx_fp8e5m2_rceil";
};
static_assert(RangeType<mxfp8e5m2<>>);

/// The instances that the dispatch unit knows.
using mxfp8_types = type_list<mxfp8<mx_exponent::floor, real::f32>,
                              mxfp8<mx_exponent::floor, real::bf16>,
                              mxfp8<mx_exponent::floor, real::f16>,
                              mxfp8<mx_exponent::ceil, real::f32>,
                              mxfp8<mx_exponent::ceil, real::bf16>,
                              mxfp8<mx_exponent::ceil, real::f16>,
                              mxfp8e5m2<mx_exponent::floor, real::f32>,
                              mxfp8e5m2<mx_exponent::floor, real::bf16>,
                              mxfp8e5m2<mx_exponent::floor, real::f16>,
                              mxfp8e5m2<mx_exponent::ceil, real::f32>,
                              mxfp8e5m2<mx_exponent::ceil, real::bf16>,
                              mxfp8e5m2<mx_exponent::ceil, real::f16>>;

using MXFP8 = scheme<mxfp8<>, group<32>>;
/// Weights of the RCEIL presets are those of MXFP8; only their activations are fitted so that nothing saturates.
using MXFP8_RCEIL = MXFP8;
/// What the preset MXFP8_RCEIL does to activations.
using MXFP8_RCEIL_activations = scheme<mxfp8<mx_exponent::ceil>, group<32>>;
static_assert(is_preset<MXFP8>("MXFP8") && is_preset<MXFP8_RCEIL>("MXFP8_RCEIL"));

AR_END_TARGET
#endif
