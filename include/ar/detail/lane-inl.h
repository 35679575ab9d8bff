// The lane vocabulary for Highway vectors: struct `vec` with operators, so that the text written for float compiles for it and gives the same
// bits in every lane. Once per SIMD target. Highway 1.0.3 traps that this file works around: DemoteTo f16/bf16 truncates on some targets,
// Round loses the sign of zero on SSSE3 and EMU128, Min and Max differ between targets in the sign of zero, HWY_SCALAR has no shuffles.
#if defined(AR_DETAIL_LANE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_LANE_INL_H
#else
#define AR_DETAIL_LANE_INL_H
#endif

#include "ar/config.hpp"  // tells Highway which targets it may choose

#include <hwy/highway.h>

#include "ar/detail/lane_traits-inl.h"

AR_BEGIN_TARGET

namespace hn = hwy::HWY_NAMESPACE;

// GCC does not give the region's instruction set to friends that are defined in a class, so they carry it themselves.
#define AR_LANE_FRIEND friend HWY_ATTR HWY_INLINE

/// What a comparison of vectors gives.
struct vec_mask {
  using D = hn::ScalableTag<float>;
  hn::Mask<D> raw;
  AR_LANE_FRIEND vec_mask lane_and(vec_mask a, vec_mask b) noexcept { return {hn::And(a.raw, b.raw)}; }
  AR_LANE_FRIEND vec_mask lane_or(vec_mask a, vec_mask b) noexcept { return {hn::Or(a.raw, b.raw)}; }
  AR_LANE_FRIEND vec_mask lane_not(vec_mask a) noexcept { return {hn::Not(a.raw)}; }
  AR_LANE_FRIEND bool lane_any(vec_mask a) noexcept { return !hn::AllFalse(D(), a.raw); }
};

/// One Highway vector of floats. Scalable vectors (SVE, RISC-V) cannot be members; the dispatch unit leaves those targets out.
/// All functions are hidden friends: found through their argument, they hide nothing of the float vocabulary.
struct vec {
  using D = hn::ScalableTag<float>;
  using DU = hn::RebindToUnsigned<D>;
  using DI = hn::RebindToSigned<D>;
  using DB = hn::Rebind<std::uint8_t, D>;
  using DH = hn::Rebind<std::uint16_t, D>;
  hn::Vec<D> raw;

  using mask = vec_mask;

  AR_LANE_FRIEND vec lane_select(mask m, vec a, vec b) noexcept { return {hn::IfThenElse(m.raw, a.raw, b.raw)}; }

  AR_LANE_FRIEND vec operator+(vec a, vec b) noexcept { return {hn::Add(a.raw, b.raw)}; }
  AR_LANE_FRIEND vec operator-(vec a, vec b) noexcept { return {hn::Sub(a.raw, b.raw)}; }
  AR_LANE_FRIEND vec operator*(vec a, vec b) noexcept { return {hn::Mul(a.raw, b.raw)}; }
  AR_LANE_FRIEND vec operator/(vec a, vec b) noexcept { return {hn::Div(a.raw, b.raw)}; }
  AR_LANE_FRIEND vec operator-(vec a) noexcept { return {hn::Neg(a.raw)}; }

  AR_LANE_FRIEND mask lane_lt(vec a, vec b) noexcept { return {hn::Lt(a.raw, b.raw)}; }
  AR_LANE_FRIEND mask lane_le(vec a, vec b) noexcept { return {hn::Le(a.raw, b.raw)}; }
  AR_LANE_FRIEND mask lane_gt(vec a, vec b) noexcept { return {hn::Gt(a.raw, b.raw)}; }
  AR_LANE_FRIEND mask lane_ge(vec a, vec b) noexcept { return {hn::Ge(a.raw, b.raw)}; }
  AR_LANE_FRIEND mask lane_eq(vec a, vec b) noexcept { return {hn::Eq(a.raw, b.raw)}; }

#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  // MINPS gives its second operand when the two are equal, as `b < a ? b : a` does with the operands exchanged.
  AR_LANE_FRIEND vec lane_min(vec a, vec b) noexcept { return {hn::Min(b.raw, a.raw)}; }
  AR_LANE_FRIEND vec lane_max(vec a, vec b) noexcept { return {hn::Max(b.raw, a.raw)}; }
#else
  AR_LANE_FRIEND vec lane_min(vec a, vec b) noexcept { return {hn::IfThenElse(hn::Lt(b.raw, a.raw), b.raw, a.raw)}; }
  AR_LANE_FRIEND vec lane_max(vec a, vec b) noexcept { return {hn::IfThenElse(hn::Lt(a.raw, b.raw), b.raw, a.raw)}; }
#endif
  AR_LANE_FRIEND vec lane_abs(vec a) noexcept { return {hn::Abs(a.raw)}; }
  AR_LANE_FRIEND vec lane_sqrt(vec a) noexcept { return {hn::Sqrt(a.raw)}; }

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SSSE3
  AR_LANE_FRIEND vec lane_round(vec a) noexcept {
    const D d;
    const auto sign = hn::And(a.raw, hn::SignBit(d));
    const auto magic = hn::Set(d, 8388608.0f);  // 2^23: adding it leaves no room for a fraction
    const auto m = hn::Abs(a.raw);
    const auto r = hn::Sub(hn::Add(m, magic), magic);
    return {hn::IfThenElse(hn::Lt(m, magic), hn::Or(r, sign), a.raw)};
  }
  AR_LANE_FRIEND vec lane_trunc(vec a) noexcept {
    const D d;
    const auto sign = hn::And(a.raw, hn::SignBit(d));
    const auto magic = hn::Set(d, 8388608.0f);
    const auto m = hn::Abs(a.raw);
    auto r = hn::Sub(hn::Add(m, magic), magic);
    r = hn::IfThenElse(hn::Gt(r, m), hn::Sub(r, hn::Set(d, 1.0f)), r);
    return {hn::IfThenElse(hn::Lt(m, magic), hn::Or(r, sign), a.raw)};
  }
#else
  AR_LANE_FRIEND vec lane_round(vec a) noexcept { return {hn::Round(a.raw)}; }
  AR_LANE_FRIEND vec lane_trunc(vec a) noexcept { return {hn::Trunc(a.raw)}; }
#endif
  AR_LANE_FRIEND vec lane_floor(vec a) noexcept {
    const vec t = lane_trunc(a);
    return {hn::IfThenElse(hn::Gt(t.raw, a.raw), hn::Sub(t.raw, hn::Set(D(), 1.0f)), t.raw)};
  }

  AR_LANE_FRIEND vec lane_nint(vec a) noexcept {
    const D d;
    const DU du;
    const auto magic = hn::Set(d, 12582912.0f);
    const auto bits = hn::OrAnd(hn::Set(du, 0x4B000000u), hn::BitCast(du, hn::Add(a.raw, magic)), hn::Set(du, 0x7FFFFFu));
    return {hn::Sub(hn::BitCast(d, bits), magic)};
  }

  AR_LANE_FRIEND mask lane_is_negative(vec a) noexcept { return {hn::MaskFromVec(hn::BitCast(D(), hn::BroadcastSignBit(hn::BitCast(DI(), a.raw))))}; }
  AR_LANE_FRIEND vec lane_binade(vec a) noexcept { return {hn::BitCast(D(), hn::And(hn::BitCast(DU(), a.raw), hn::Set(DU(), 0x7F800000u)))}; }
  AR_LANE_FRIEND vec lane_from_bits(vec a, int n) noexcept { return {hn::BitCast(D(), hn::ShiftLeftSame(hn::ConvertTo(DI(), a.raw), n))}; }
  AR_LANE_FRIEND vec lane_to_bits(vec a, int n) noexcept {
    return {hn::ConvertTo(D(), hn::BitCast(DI(), hn::ShiftRightSame(hn::BitCast(DU(), a.raw), n)))};
  }

  AR_LANE_FRIEND vec lane_lookup16(const float* table, vec i) noexcept {
    constexpr std::size_t lanes = sizeof(hn::Vec<D>) / sizeof(float), step = lanes < 16 ? lanes : 16;
    const D d;
    if constexpr (lanes == 1) {
      return {hn::Set(d, table[static_cast<unsigned>(hn::GetLane(i.raw))])};
    } else {
      const auto place = hn::IndicesFromVec(d, hn::And(hn::ConvertTo(DI(), i.raw), hn::Set(DI(), static_cast<std::int32_t>(step - 1))));
      auto r = hn::TableLookupLanes(hn::LoadU(d, table), place);
      for (std::size_t at = step; at < 16; at += step)  // the table in pieces of a vector
        r = hn::IfThenElse(hn::Lt(i.raw, hn::Set(d, static_cast<float>(at))), r, hn::TableLookupLanes(hn::LoadU(d, table + at), place));
      return {r};
    }
  }

  /// As round_to_f16: integer steps for normal halves, a float addition that ends at the smallest subnormal half for the others.
  AR_LANE_FRIEND vec lane_round_f16(vec a) noexcept {
    const D d;
    const DU du;
    const auto x = hn::BitCast(du, a.raw);
    const auto sign = hn::And(x, hn::Set(du, 0x80000000u));
    const auto mag = hn::Xor(x, sign);
    const auto odd = hn::And(hn::ShiftRight<13>(mag), hn::Set(du, 1u));
    auto normal = hn::And(hn::Add(hn::Add(mag, hn::Set(du, 0xFFFu)), odd), hn::Set(du, 0xFFFFE000u));
    const auto half = hn::Set(d, 0.5f);
    const auto small = hn::BitCast(du, hn::Sub(hn::Add(hn::BitCast(d, mag), half), half));
    const auto magf = hn::BitCast(d, mag);
    auto r = hn::BitCast(d, normal);
    r = hn::IfThenElse(hn::Lt(magf, hn::Set(d, 0x1p-14f)), hn::BitCast(d, small), r);
    r = hn::IfThenElse(hn::Ge(magf, hn::Set(d, 65520.0f)), hn::BitCast(d, hn::Set(du, 0x7F800000u)), r);
    r = hn::IfThenElse(hn::Eq(magf, magf), r, hn::BitCast(d, hn::Set(du, 0x7FC00000u)));
    return {hn::BitCast(d, hn::Or(hn::BitCast(du, r), sign))};
  }
  /// As round_to_bf16.
  AR_LANE_FRIEND vec lane_round_bf16(vec a) noexcept {
    const D d;
    const DU du;
    const auto x = hn::BitCast(du, a.raw);
    const auto odd = hn::And(hn::ShiftRight<16>(x), hn::Set(du, 1u));
    const auto rounded = hn::Add(hn::Add(x, hn::Set(du, 0x7FFFu)), odd);
    const auto quiet = hn::Or(x, hn::Set(du, 0x400000u));
    const auto r = hn::IfThenElse(hn::Eq(a.raw, a.raw), hn::BitCast(d, rounded), hn::BitCast(d, quiet));
    return {hn::BitCast(d, hn::And(hn::BitCast(du, r), hn::Set(du, 0xFFFF0000u)))};
  }

  AR_LANE_FRIEND void lane_store(vec a, float* p) noexcept { hn::StoreU(a.raw, D(), p); }
  AR_LANE_FRIEND void lane_store_bf16(vec a, std::uint16_t* p) noexcept {
    const auto high = hn::ShiftRight<16>(hn::BitCast(DU(), lane_round_bf16(a).raw));
    hn::StoreU(hn::DemoteTo(DH(), hn::BitCast(DI(), high)), DH(), p);
  }
  /// Through the low bits of a + 2^23: a conversion to int would be made safe for numbers that are no code, at twice the cost.
  AR_LANE_FRIEND void lane_store_code(vec a, std::uint8_t* p) noexcept {
    const auto low = hn::And(hn::BitCast(DU(), hn::Add(a.raw, hn::Set(D(), 8388608.0f))), hn::Set(DU(), 0xFFu));
    hn::StoreU(hn::U8FromU32(low), DB(), p);
  }
  AR_LANE_FRIEND float lane_reduce_min(vec a) noexcept { return hn::GetLane(hn::MinOfLanes(D(), a.raw)); }
  AR_LANE_FRIEND float lane_reduce_max(vec a) noexcept { return hn::GetLane(hn::MaxOfLanes(D(), a.raw)); }
};

template <>
struct lane_traits<vec> {
  using mask = vec::mask;
  static constexpr int size = static_cast<int>(sizeof(hn::Vec<vec::D>) / sizeof(float));
  static HWY_INLINE vec set(float x) noexcept { return {hn::Set(vec::D(), x)}; }
  static HWY_INLINE vec load(const float* p) noexcept { return {hn::LoadU(vec::D(), p)}; }
  static HWY_INLINE vec load_code(const std::uint8_t* p) noexcept {
    return {hn::ConvertTo(vec::D(), hn::PromoteTo(vec::DI(), hn::LoadU(vec::DB(), p)))};
  }
};
static_assert(sizeof(vec) == sizeof(hn::Vec<vec::D>));

#undef AR_LANE_FRIEND

AR_END_TARGET
#endif
