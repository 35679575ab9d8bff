// fp8: E4M3 or E5M2 codes with a float scale per tensor, channel, token, group or tile: scale = largest magnitude / 448 (57344).
// Source: auto-round 0.16.1, data_type/fp8.py (fp8, fp8_e5m2, block_fp8, fp8_unit_scale, fp8_e5m2_unit_scale). Equal bit for bit.
#if defined(AR_DTYPE_FP8_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_FP8_HPP
#else
#define AR_DTYPE_FP8_HPP
#endif

#include "ar/detail/scaled_type-inl.h"

AR_BEGIN_TARGET

/// The least scale is that of vLLM. Half-precision weights pass through bfloat16, as in the reference.
AR_INLINE constexpr scaled_facts fp8_facts(const char* name, small_format format, scale_rule rule, real weight, real scale,
                                           search_family search = search_family::none) noexcept {
  const small_grid grid = grid_of(format);
  const float least = static_cast<float>(1.0 / (static_cast<double>(grid.max) * 512.0));
  const real read = weight == real::f16 ? real::bf16 : weight;
  return {.name = name, .grid = grid, .rule = rule, .limit = grid.max, .max_exponent = 0, .least = scale == real::f32 ? least : scale == real::bf16 ? round_to_bf16(least) : round_to_f16(least), .weight = weight, .scale = scale,
          .quotient = scale == real::f32 ? real::f32 : promote(read, scale), .through_bf16 = weight == real::f16, .half_up = false, .keeps_zero_sign = true,
          .plus_zero = true, .search = search, .float_least = least, .gradient = rounding_gradient::straight_through};
}

/// `Weight` is the format of the weights. `the_tensor.maximum` is a largest magnitude that is given instead of being taken from the data (static
/// activations).
template <real Weight = real::f32>
struct fp8 : tensor_scaled_type<fp8<Weight>, Weight> {
  static constexpr scaled_facts the_facts = fp8_facts("fp8", e4m3fn, scale_rule::quotient, Weight, real::f32, search_family::hundredths);
  static constexpr const char* name = the_facts.name;
  static constexpr bool own_kernels = Weight == real::f32;
  static constexpr std::string_view reference_names = "fp8 fp8_sym fp8_e4m3";
};
static_assert(RangeType<fp8<>>);

template <real Weight = real::f32>
struct fp8e5m2 : tensor_scaled_type<fp8e5m2<Weight>, Weight> {
  static constexpr scaled_facts the_facts = fp8_facts("fp8e5m2", e5m2, scale_rule::quotient, Weight, real::f32, search_family::hundredths);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names = "fp8_e5m2";
};

/// As block FP8 computes: scale and quotient are rounded to the format of the weights, which is how the reference loses bits for bfloat16 models.
/// With Weight = f32, or weights that were widened, it is fp8 in tiles.
template <real Weight = real::f32>
struct fp8_block : static_scaled_type<fp8_block<Weight>, Weight> {
  static constexpr scaled_facts the_facts = fp8_facts("fp8_block", e4m3fn, scale_rule::quotient, Weight, Weight);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names = "block_fp8 block_fp8_sym block_fp8_e4m3";
};

/// The scale is 1: a cast that saturates.
template <real Weight = real::f32>
struct fp8_unit : static_scaled_type<fp8_unit<Weight>, Weight> {
  static constexpr scaled_facts the_facts = fp8_facts("fp8_unit", e4m3fn, scale_rule::one, Weight, real::f32);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names = "fp8_unit_scale";
};

template <real Weight = real::f32>
struct fp8e5m2_unit : static_scaled_type<fp8e5m2_unit<Weight>, Weight> {
  static constexpr scaled_facts the_facts = fp8_facts("fp8e5m2_unit", e5m2, scale_rule::one, Weight, real::f32);
  static constexpr const char* name = the_facts.name;
  static constexpr std::string_view reference_names = "fp8_e5m2_unit_scale";
};

/// The instances that the dispatch unit knows.
using fp8_types = type_list<fp8<real::f32>,
                            fp8<real::bf16>,
                            fp8<real::f16>,
                            fp8e5m2<real::f32>,
                            fp8e5m2<real::bf16>,
                            fp8e5m2<real::f16>,
                            fp8_block<real::f32>,
                            fp8_block<real::bf16>,
                            fp8_block<real::f16>,
                            fp8_unit<real::f32>,
                            fp8_unit<real::bf16>,
                            fp8_unit<real::f16>,
                            fp8e5m2_unit<real::f32>,
                            fp8e5m2_unit<real::bf16>,
                            fp8e5m2_unit<real::f16>>;

using FPW8A16 = scheme<fp8<>, group<0>>;
/// Weights per channel; activations are fp8 per tensor with `the_tensor.maximum` from calibration.
using FP8_STATIC = scheme<fp8<>, group<-1>>;
/// Weights in tiles; activations are scheme<fp8<>, group<128>>.
using FP8_BLOCK = scheme<fp8_block<>, tile<128, 128>>;

static_assert(is_preset<FPW8A16>("FPW8A16"));
static_assert(is_preset<FP8_STATIC>("FP8_STATIC"));
static_assert(is_preset<FP8_BLOCK>("FP8_BLOCK"));

AR_END_TARGET
#endif
