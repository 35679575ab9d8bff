// mxfp6: E2M3 (up to 7.5 in steps of 1/8) or E3M2 (up to 28) elements under a power-of-two scale, 6.25 bits a weight in groups of 32.
// Source: auto-round 0.16.1, data_type/mxfp.py (quant_mx, quant_mx_rceil); OCP Microscaling Formats 1.0. Equal bit for bit.
#if defined(AR_DTYPE_MXFP6_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_MXFP6_HPP
#else
#define AR_DTYPE_MXFP6_HPP
#endif

#include "ar/detail/mx_facts.hpp"
#include "ar/detail/scaled_type-inl.h"

AR_BEGIN_TARGET

/// E2M3. `Weight` is the format of the weights: the result is rounded to it, all else is float.
template <mx_exponent Exponent = mx_exponent::floor, real Weight = real::f32>
struct mxfp6 : static_scaled_type<mxfp6<Exponent, Weight>, Weight> {
  static_assert(Exponent != mx_exponent::ceil_v2, "ar: the variant with 7.25 is one of MXFP4");
  static constexpr scaled_facts the_facts = mx_facts({"mxfp6", "mxfp6_rceil", ""}, grid_of(e2m3), 2, Exponent, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names =
      Exponent == mx_exponent::floor ? "mx_fp6 opt_rtn_mx_fp6 mx_fp6e2m3 opt_rtn_mx_fp6e2m3 opt_rtn_mx_fp"
                                     : "mx_fp6_rceil mx_fp6e2m3_rceil mx_fp_rceil";
};
static_assert(RangeType<mxfp6<>>);

/// E3M2.
template <mx_exponent Exponent = mx_exponent::floor, real Weight = real::f32>
struct mxfp6e3m2 : static_scaled_type<mxfp6e3m2<Exponent, Weight>, Weight> {
  static_assert(Exponent != mx_exponent::ceil_v2, "ar: the variant with 7.25 is one of MXFP4");
  static constexpr scaled_facts the_facts = mx_facts({"mxfp6e3m2", "mxfp6e3m2_rceil", ""}, grid_of(e3m2), 4, Exponent, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names =
      Exponent == mx_exponent::floor ? "mx_fp6e3m2 opt_rtn_mx_fp6e3m2"
                                     : "mx_fp6e3m2_rceil";
};
static_assert(RangeType<mxfp6e3m2<>>);

/// The instances that the dispatch unit knows; they share one set of kernels.
using mxfp6_types = type_list<mxfp6<mx_exponent::floor, real::f32>,
                              mxfp6<mx_exponent::floor, real::bf16>,
                              mxfp6<mx_exponent::floor, real::f16>,
                              mxfp6<mx_exponent::ceil, real::f32>,
                              mxfp6<mx_exponent::ceil, real::bf16>,
                              mxfp6<mx_exponent::ceil, real::f16>,
                              mxfp6e3m2<mx_exponent::floor, real::f32>,
                              mxfp6e3m2<mx_exponent::floor, real::bf16>,
                              mxfp6e3m2<mx_exponent::floor, real::f16>,
                              mxfp6e3m2<mx_exponent::ceil, real::f32>,
                              mxfp6e3m2<mx_exponent::ceil, real::bf16>,
                              mxfp6e3m2<mx_exponent::ceil, real::f16>>;

using MXFP6 = scheme<mxfp6<>, group<32>>;

static_assert(is_preset<MXFP6>("MXFP6"));

AR_END_TARGET
#endif
