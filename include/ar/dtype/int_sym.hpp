// int_sym: symmetric integers of 1 to 8 bits in the full range -n .. n-1, n = 2^(bits-1); weight = scale * code. The scale is negative when
// the positive side of a group is the larger one, so that the extreme element gets code -n exactly.
// Source: auto-round 0.16.1, data_type/int.py (rtn_int_sym, int_sym); equal bit for bit.
#if defined(AR_DTYPE_INT_SYM_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_INT_SYM_HPP
#else
#define AR_DTYPE_INT_SYM_HPP
#endif

#include "ar/detail/lane_traits-inl.h"
#include "ar/detail/search_types.hpp"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

/// `Weight` is the format that the reference computes in (that of the weights), `Scale` the format that the scale is stored in.
template <int Bits = dynamic, real Weight = real::f32, real Scale = real::f16>
struct int_sym {
  static_assert(Bits == dynamic || (Bits >= 1 && Bits <= 8), "ar: int_sym has 1 to 8 bits");
  static constexpr const char* name = "int_sym";
  static constexpr std::string_view reference_names = "int_sym rtn_int_sym opt_rtn_int_sym opt_rtn_int_sym_neuqi";
  static constexpr real weight_format = Weight;
  static constexpr real scale_format = Scale;
  static constexpr real quotient_format = promote(Weight, Scale);
  static constexpr search_family search = search_family::signed_scale;

  [[no_unique_address]] extent<Bits> width{};
  AR_FN constexpr int bits() const noexcept { return width.value(); }
  AR_FN constexpr bool valid() const noexcept { return bits() >= 1 && bits() <= 8; }

  /// A stored code is code + code_offset(); it is also the zero point of formats that want one.
  AR_FN constexpr int code_offset() const noexcept { return 1 << (bits() - 1); }

  template <class F>
  struct params {
    F scale;
  };

  /// The scale `s` as it is stored: rounded to Scale, its magnitude at least `least`.
  template <class F>
  AR_FN constexpr params<F> from_scale(F s, float least = scale_threshold(Scale)) const noexcept {
    const F zero = lane_set<F>(0.0f), thr = lane_set<F>(least);
    s = lane_round_to<Scale>(s);
    return {lane_select(lane_lt(s, zero), lane_min(s, zero - thr), lane_max(s, thr))};
  }

  /// The scale of a group whose smallest and largest values are lo and hi, which are of the format Range. Rounded to it, then stored.
  template <real Range = Weight, class F>
  AR_FN constexpr params<F> from_range(F lo, F hi) const noexcept {
    const F zero = lane_set<F>(0.0f);
    const F a = zero - lane_min(lo, zero);
    const F b = lane_max(hi, zero);
    const F larger = lane_max(a, b);
    const F n = lane_set<F>(static_cast<float>(code_offset()));
    return from_scale(lane_round_to<Range>(lane_select(lane_lt(b, a), larger, zero - larger) / n));
  }

  /// The code of w as a value in -n .. n-1. Plain rounding half to even: a negative w that rounds to zero gives -0.
  template <class F>
  AR_FN constexpr F encode(F w, const params<F>& p) const noexcept {
    return clamp(lane_round(lane_round_to<quotient_format>(w / p.scale)));
  }

  /// The code of w with the rounding offset v of a tuned layer. Zeros are +0, as the reference's straight-through rounding gives them.
  template <class F>
  AR_FN constexpr F encode(F w, F v, const params<F>& p) const noexcept {
    return clamp(lane_plus_zero(lane_round(lane_round_to<quotient_format>(w / p.scale) + v)));
  }

  template <class F>
  AR_FN constexpr F decode(F code, const params<F>& p) const noexcept {
    return lane_round_to<Weight>(lane_round_to<quotient_format>(code * p.scale));
  }

 private:
  template <class F>
  AR_FN constexpr F clamp(F code) const noexcept {
    const F n = lane_set<F>(static_cast<float>(code_offset()));
    return lane_min(lane_max(code, lane_set<F>(0.0f) - n), n - lane_set<F>(1.0f));
  }
};
static_assert(RangeType<int_sym<4>>);

/// The instances that the dispatch unit holds.
using int_sym_types = type_list<int_sym<dynamic, real::f32, real::f16>, int_sym<dynamic, real::f32, real::f32>, int_sym<dynamic, real::f32, real::bf16>,
                               int_sym<dynamic, real::bf16, real::f16>, int_sym<dynamic, real::bf16, real::f32>, int_sym<dynamic, real::bf16, real::bf16>,
                               int_sym<dynamic, real::f16, real::f16>>;

using W2A16 = scheme<int_sym<2>, group<128>>;
using W3A16 = scheme<int_sym<3>, group<128>>;
using W4A16 = scheme<int_sym<4>, group<128>>;
using W5A16 = scheme<int_sym<5>, group<128>>;
using W6A16 = scheme<int_sym<6>, group<128>>;
using W7A16 = scheme<int_sym<7>, group<128>>;
using W8A16 = scheme<int_sym<8>, group<128>>;
using W2A16G64 = scheme<int_sym<2>, group<64>>;
using W3A16G64 = scheme<int_sym<3>, group<64>>;
using W4A16G64 = scheme<int_sym<4>, group<64>>;
using W5A16G64 = scheme<int_sym<5>, group<64>>;
using W6A16G64 = scheme<int_sym<6>, group<64>>;
using W7A16G64 = scheme<int_sym<7>, group<64>>;
using W8A16G64 = scheme<int_sym<8>, group<64>>;
using W2A16G32 = scheme<int_sym<2>, group<32>>;
using W3A16G32 = scheme<int_sym<3>, group<32>>;
using W4A16G32 = scheme<int_sym<4>, group<32>>;
using W5A16G32 = scheme<int_sym<5>, group<32>>;
using W6A16G32 = scheme<int_sym<6>, group<32>>;
using W7A16G32 = scheme<int_sym<7>, group<32>>;
using W8A16G32 = scheme<int_sym<8>, group<32>>;

/// The base of a recipe that treats layers differently.
using W4A16_MIXED = W4A16;
/// Weights per row; activations of the same kind per token, with half-precision scales.
using INT4 = scheme<int_sym<4>, group<-1>>;
/// The same with 8 bits.
using INT8 = scheme<int_sym<8>, group<-1>>;
/// The older name of INT8.
using INT8_W8A8 = INT8;
static_assert(is_preset<W2A16>("W2A16"));
static_assert(is_preset<W3A16>("W3A16"));
static_assert(is_preset<W4A16>("W4A16"));
static_assert(is_preset<W5A16>("W5A16"));
static_assert(is_preset<W6A16>("W6A16"));
static_assert(is_preset<W7A16>("W7A16"));
static_assert(is_preset<W8A16>("W8A16"));
static_assert(is_preset<W2A16G64>("W2A16G64"));
static_assert(is_preset<W3A16G64>("W3A16G64"));
static_assert(is_preset<W4A16G64>("W4A16G64"));
static_assert(is_preset<W5A16G64>("W5A16G64"));
static_assert(is_preset<W6A16G64>("W6A16G64"));
static_assert(is_preset<W7A16G64>("W7A16G64"));
static_assert(is_preset<W8A16G64>("W8A16G64"));
static_assert(is_preset<W2A16G32>("W2A16G32"));
static_assert(is_preset<W3A16G32>("W3A16G32"));
static_assert(is_preset<W4A16G32>("W4A16G32"));
static_assert(is_preset<W5A16G32>("W5A16G32"));
static_assert(is_preset<W6A16G32>("W6A16G32"));
static_assert(is_preset<W7A16G32>("W7A16G32"));
static_assert(is_preset<W8A16G32>("W8A16G32"));
static_assert(is_preset<W4A16_MIXED>("W4A16_MIXED"));
static_assert(is_preset<INT4>("INT4"));
static_assert(is_preset<INT8>("INT8"));
static_assert(is_preset<INT8_W8A8>("INT8_W8A8"));

AR_END_TARGET
#endif
