// For one SIMD target: every function of the lane vocabulary on a Highway vector against the float lane, bit for bit.
#if defined(AR_LANE_TEST_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HWY_TARGET_TOGGLE
#undef AR_LANE_TEST_INL_H
#else
#define AR_LANE_TEST_INL_H
#endif

#include <hwy/highway.h>

#include "ar/detail/lane-inl.h"
#include "ar/detail/small_lane-inl.h"
#include "detail/lane_test.hpp"

AR_BEGIN_TARGET
namespace lane_test {

constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<vec>);

/// A value's upper 24 bits as a whole number, and the value that has only these.
template <class F>
F lane_whole_bits(F a) {
  return lane_from_bits(lane_to_bits(lane_abs(a), 8), 8);
}

#define AR_UNARY(function)                                     \
  struct function##_op {                                       \
    template <class F>                                         \
    F operator()(F a, F) const {                               \
      return function(a);                                      \
    }                                                          \
  };
#define AR_BINARY(function, expression)                        \
  struct function##_op {                                       \
    template <class F>                                         \
    F operator()(F a, [[maybe_unused]] F b) const {            \
      return expression;                                       \
    }                                                          \
  };
AR_UNARY(lane_round)
AR_UNARY(lane_trunc)
AR_UNARY(lane_floor)
AR_UNARY(lane_nint)
AR_UNARY(lane_abs)
AR_UNARY(lane_round_f16)
AR_UNARY(lane_round_bf16)
AR_UNARY(lane_plus_zero)
AR_UNARY(lane_binade)
AR_UNARY(lane_whole_bits)
AR_BINARY(lane_sqrt, lane_sqrt(lane_abs(a)))
AR_BINARY(lane_negate, -a)
AR_BINARY(lane_add, a + b)
AR_BINARY(lane_subtract, a - b)
AR_BINARY(lane_multiply, a * b)
AR_BINARY(lane_divide, a / b)
AR_BINARY(lane_min, lane_min(a, b))
AR_BINARY(lane_max, lane_max(a, b))
AR_BINARY(lane_lt, lane_select(lane_lt(a, b), a, b))
AR_BINARY(lane_le, lane_select(lane_le(a, b), a, b))
AR_BINARY(lane_gt, lane_select(lane_gt(a, b), a, b))
AR_BINARY(lane_ge, lane_select(lane_ge(a, b), a, b))
AR_BINARY(lane_eq, lane_select(lane_eq(a, b), a, b))
AR_BINARY(lane_is_negative, lane_select(lane_is_negative(a), a, b))
AR_BINARY(lane_logic, lane_select(lane_or(lane_and(lane_lt(a, b), lane_not(lane_eq(a, lane_set<F>(0.0f)))), lane_gt(a, lane_set<F>(1.0f))), a, b))
#undef AR_UNARY
#undef AR_BINARY

template <class Op>
void check(const char* name, const std::vector<float>& a, const std::vector<float>& b, ::lane_test::report& out) {
  for (std::size_t i = 0; i + lanes <= a.size(); i += lanes) {
    float got[lanes];
    lane_store(Op{}(lane_load<vec>(a.data() + i), lane_load<vec>(b.data() + i)), got);
    for (std::size_t l = 0; l < lanes; ++l) out.compare(name, a[i + l], b[i + l], got[l], Op{}(a[i + l], b[i + l]));
  }
}

inline ::lane_test::report run(const std::vector<float>& finite, const std::vector<float>& shuffled, const std::vector<float>& any) {
  ::lane_test::report out;
  out.target = HWY_STR(HWY_NAMESPACE);
  check<lane_round_f16_op>("round_f16", any, any, out);
  check<lane_round_bf16_op>("round_bf16", any, any, out);
  check<lane_nint_op>("nint", any, any, out);
#define AR_CHECK(name) check<lane_##name##_op>(#name, finite, shuffled, out);
  AR_CHECK(is_negative) AR_CHECK(binade) AR_CHECK(whole_bits) AR_CHECK(round) AR_CHECK(trunc) AR_CHECK(floor) AR_CHECK(abs) AR_CHECK(plus_zero) AR_CHECK(sqrt) AR_CHECK(negate) AR_CHECK(add) AR_CHECK(subtract)
  AR_CHECK(multiply) AR_CHECK(divide) AR_CHECK(min) AR_CHECK(max) AR_CHECK(lt) AR_CHECK(le) AR_CHECK(gt) AR_CHECK(ge) AR_CHECK(eq) AR_CHECK(logic)
#undef AR_CHECK

  for (std::size_t i = 0; i + lanes <= finite.size(); i += lanes) {
    const vec x = lane_load<vec>(finite.data() + i);
    float lo = finite[i], hi = finite[i];
    bool negative = false;
    for (std::size_t l = 0; l < lanes; ++l) {
      lo = lane_min(lo, finite[i + l]);
      hi = lane_max(hi, finite[i + l]);
      negative = negative || finite[i + l] < 0.0f;
    }
    // A horizontal minimum of zeros may give either zero.
    out.compare("reduce_min", lo, lo, lane_reduce_min(x) + 0.0f, lo + 0.0f);
    out.compare("reduce_max", hi, hi, lane_reduce_max(x) + 0.0f, hi + 0.0f);
    out.compare("any", finite[i], 0.0f, lane_any(lane_lt(x, lane_set<vec>(0.0f))) ? 1.0f : 0.0f, negative ? 1.0f : 0.0f);
    std::uint16_t half[lanes + 1] = {};
    half[lanes] = 0xABCD;
    lane_store_bf16(x, half);
    for (std::size_t l = 0; l < lanes; ++l) out.compare("store_bf16", finite[i + l], 0.0f, half[l], bf16_from_f32(finite[i + l]));
    out.compare("store_bf16 beyond its lanes", 0.0f, 0.0f, half[lanes], 0xABCD);
  }
  for (const small_grid& g : {grid_of(e2m1), grid_of(e2m3), grid_of(e3m2), grid_of(e4m3fn), grid_of(e5m2), grid_of(ue5m3), integer_grid(2), integer_grid(4), integer_grid(8)})
    for (std::size_t i = 0; i + lanes <= finite.size(); i += lanes) {
      float rounded[lanes], code[lanes], value[lanes];
      const vec x = lane_round_small(lane_load<vec>(finite.data() + i), g), c = lane_small_code(x, g);
      lane_store(x, rounded);
      lane_store(c, code);
      lane_store(lane_small_value(c, g), value);
      for (std::size_t l = 0; l < lanes; ++l) {
        out.compare("round_small", finite[i + l], g.max, rounded[l], lane_round_small(finite[i + l], g));
        out.compare("small_code", finite[i + l], g.max, code[l], lane_small_code(rounded[l], g));
        out.compare("small_value", code[l], g.max, value[l], lane_small_value(code[l], g));
      }
    }
  for (int first = 0; first < 256; first += static_cast<int>(lanes)) {
    std::uint8_t in[lanes] = {}, back[lanes + 1] = {};
    back[lanes] = 77;
    for (std::size_t l = 0; l < lanes; ++l) in[l] = static_cast<std::uint8_t>(static_cast<std::size_t>(first) + l);
    float values[lanes];
    const vec x = lane_load_code<vec>(in);
    lane_store(x, values);
    lane_store_code(x, back);
    for (std::size_t l = 0; l < lanes; ++l) {
      out.compare("load_code", in[l], 0.0f, values[l], in[l]);
      out.compare("store_code", in[l], 0.0f, back[l], in[l]);
    }
    out.compare("store_code beyond its lanes", 0.0f, 0.0f, back[lanes], 77);
  }
  return out;
}

}  // namespace lane_test
AR_END_TARGET
#endif
