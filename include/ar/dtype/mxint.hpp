// mxint: signed whole multiples of 2^(2-bits) below 2, under a power-of-two scale; 8, 4 or 2 bits. The most negative code is not used.
// Source: auto-round 0.16.1, data_type/mxfp.py (quant_mx, quant_mx_rceil); OCP Microscaling Formats 1.0. Equal bit for bit.
#if defined(AR_DTYPE_MXINT_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_MXINT_HPP
#else
#define AR_DTYPE_MXINT_HPP
#endif

#include "ar/detail/mx_facts.hpp"
#include "ar/detail/scaled_type-inl.h"

AR_BEGIN_TARGET

/// `Weight` is the format of the weights: the result is rounded to it, all else is float.
template <int Bits, mx_exponent Exponent = mx_exponent::floor, real Weight = real::f32>
struct mxint : static_scaled_type<mxint<Bits, Exponent, Weight>, Weight> {
  static_assert(Bits == 8 || Bits == 4 || Bits == 2, "ar: mxint has 8, 4 or 2 bits");
  static_assert(Exponent != mx_exponent::ceil_v2, "ar: the variant with 7.25 is one of MXFP4");
  static constexpr scaled_facts the_facts =
      mx_facts({Bits == 8 ? "mxint8" : Bits == 4 ? "mxint4" : "mxint2", Bits == 8 ? "mxint8_rceil" : Bits == 4 ? "mxint4_rceil" : "mxint2_rceil", ""},
               integer_grid(Bits), 0, Exponent, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names =
      Exponent == mx_exponent::floor
          ? (Bits == 8 ? "mx_int8 opt_rtn_mx_int8" : Bits == 4 ? "mx_int4 opt_rtn_mx_int4" : "mx_int2 opt_rtn_mx_int2")
          : (Bits == 8 ? "mx_int8_rceil" : Bits == 4 ? "mx_int4_rceil" : "mx_int2_rceil");
};
static_assert(RangeType<mxint<4>>);

/// The instances that the dispatch unit knows; they share one set of kernels.
using mxint_types = type_list<mxint<8, mx_exponent::floor, real::f32>,
                              mxint<8, mx_exponent::floor, real::bf16>,
                              mxint<8, mx_exponent::floor, real::f16>,
                              mxint<8, mx_exponent::ceil, real::f32>,
                              mxint<8, mx_exponent::ceil, real::bf16>,
                              mxint<8, mx_exponent::ceil, real::f16>,
                              mxint<4, mx_exponent::floor, real::f32>,
                              mxint<4, mx_exponent::floor, real::bf16>,
                              mxint<4, mx_exponent::floor, real::f16>,
                              mxint<4, mx_exponent::ceil, real::f32>,
                              mxint<4, mx_exponent::ceil, real::bf16>,
                              mxint<4, mx_exponent::ceil, real::f16>,
                              mxint<2, mx_exponent::floor, real::f32>,
                              mxint<2, mx_exponent::floor, real::bf16>,
                              mxint<2, mx_exponent::floor, real::f16>,
                              mxint<2, mx_exponent::ceil, real::f32>,
                              mxint<2, mx_exponent::ceil, real::bf16>,
                              mxint<2, mx_exponent::ceil, real::f16>>;

using MXINT4 = scheme<mxint<4>, group<32>>;

static_assert(is_preset<MXINT4>("MXINT4"));

AR_END_TARGET
#endif
