// The lane vocabulary for xsimd batches: a second opinion on the Highway one, and the way in for callers that already work with xsimd.
// Not used by the library itself. For units compiled with the instruction set that the batch needs.
#pragma once

#include <cstdint>
#include <xsimd/xsimd.hpp>

#include "ar/detail/lane_traits-inl.h"

namespace ar {
inline namespace AR_ABI {

/// One batch of floats. Functions are hidden friends, as those of `vec`.
template <class Arch = xsimd::default_arch>
struct xsimd_lane {
  using batch = xsimd::batch<float, Arch>;
  using words = xsimd::batch<std::uint32_t, Arch>;
  using signed_words = xsimd::batch<std::int32_t, Arch>;
  using mask = xsimd::batch_bool<float, Arch>;
  batch raw;

  friend xsimd_lane operator+(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw + b.raw}; }
  friend xsimd_lane operator-(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw - b.raw}; }
  friend xsimd_lane operator*(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw * b.raw}; }
  friend xsimd_lane operator/(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw / b.raw}; }
  friend xsimd_lane operator-(xsimd_lane a) noexcept { return {-a.raw}; }

  struct mask_lane {
    mask raw;
    friend mask_lane lane_and(mask_lane a, mask_lane b) noexcept { return {a.raw && b.raw}; }
    friend mask_lane lane_or(mask_lane a, mask_lane b) noexcept { return {a.raw || b.raw}; }
    friend mask_lane lane_not(mask_lane a) noexcept { return {!a.raw}; }
    friend bool lane_any(mask_lane a) noexcept { return xsimd::any(a.raw); }
  };
  friend mask_lane lane_lt(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw < b.raw}; }
  friend mask_lane lane_le(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw <= b.raw}; }
  friend mask_lane lane_gt(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw > b.raw}; }
  friend mask_lane lane_ge(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw >= b.raw}; }
  friend mask_lane lane_eq(xsimd_lane a, xsimd_lane b) noexcept { return {a.raw == b.raw}; }
  friend xsimd_lane lane_select(mask_lane m, xsimd_lane a, xsimd_lane b) noexcept { return {xsimd::select(m.raw, a.raw, b.raw)}; }

  // Written with select, because xsimd's min and max differ between architectures in the sign of zero.
  friend xsimd_lane lane_min(xsimd_lane a, xsimd_lane b) noexcept { return {xsimd::select(b.raw < a.raw, b.raw, a.raw)}; }
  friend xsimd_lane lane_max(xsimd_lane a, xsimd_lane b) noexcept { return {xsimd::select(a.raw < b.raw, b.raw, a.raw)}; }

  friend words bits_of(xsimd_lane a) noexcept { return xsimd::bitwise_cast<words>(a.raw); }
  static xsimd_lane of_bits(words w) noexcept { return {xsimd::bitwise_cast<batch>(w)}; }
  static words set_bits(std::uint32_t w) noexcept { return words(w); }

  friend xsimd_lane lane_abs(xsimd_lane a) noexcept { return of_bits(bits_of(a) & set_bits(0x7FFFFFFFu)); }
  friend xsimd_lane lane_sqrt(xsimd_lane a) noexcept { return {xsimd::sqrt(a.raw)}; }
  friend xsimd_lane lane_round(xsimd_lane a) noexcept {
    const xsimd_lane m = lane_abs(a), magic{batch(0x1p23f)};
    const words sign = bits_of(a) & set_bits(0x80000000u);
    return lane_select(lane_lt(m, magic), of_bits(bits_of((m + magic) - magic) | sign), a);
  }
  friend xsimd_lane lane_trunc(xsimd_lane a) noexcept {
    const xsimd_lane m = lane_abs(a), magic{batch(0x1p23f)};
    const words sign = bits_of(a) & set_bits(0x80000000u);
    xsimd_lane r = (m + magic) - magic;
    r = lane_select(lane_gt(r, m), r - xsimd_lane{batch(1.0f)}, r);
    return lane_select(lane_lt(m, magic), of_bits(bits_of(r) | sign), a);
  }
  friend xsimd_lane lane_floor(xsimd_lane a) noexcept {
    const xsimd_lane t = lane_trunc(a);
    return lane_select(lane_gt(t, a), t - xsimd_lane{batch(1.0f)}, t);
  }

  friend xsimd_lane lane_nint(xsimd_lane a) noexcept {
    const xsimd_lane magic{batch(12582912.0f)};
    return of_bits((bits_of(a + magic) & set_bits(0x7FFFFFu)) | set_bits(0x4B000000u)) - magic;
  }

  friend mask_lane lane_is_negative(xsimd_lane a) noexcept {
    return lane_lt(of_bits((bits_of(a) & set_bits(0x80000000u)) | set_bits(0x3F800000u)), xsimd_lane{batch(0.0f)});
  }
  friend xsimd_lane lane_binade(xsimd_lane a) noexcept { return of_bits(bits_of(a) & set_bits(0x7F800000u)); }
  friend xsimd_lane lane_from_bits(xsimd_lane a, int n) noexcept { return of_bits(xsimd::bitwise_cast<words>(xsimd::to_int(a.raw)) << n); }
  friend xsimd_lane lane_to_bits(xsimd_lane a, int n) noexcept { return {xsimd::to_float(xsimd::bitwise_cast<signed_words>(bits_of(a) >> n))}; }

  friend xsimd_lane lane_lookup16(const float* table, xsimd_lane i) noexcept {
    alignas(64) float v[batch::size];
    i.raw.store_aligned(v);
    for (float& x : v) x = table[static_cast<unsigned>(x)];
    return {batch::load_aligned(v)};
  }

  friend xsimd_lane lane_round_f16(xsimd_lane a) noexcept {
    const words x = bits_of(a), sign = x & set_bits(0x80000000u), mag = x ^ sign;
    const words normal = (mag + set_bits(0xFFFu) + ((mag >> 13) & set_bits(1u))) & set_bits(0xFFFFE000u);
    const xsimd_lane m = of_bits(mag), half{batch(0.5f)};
    xsimd_lane r = lane_select(lane_lt(m, xsimd_lane{batch(0x1p-14f)}), (m + half) - half, of_bits(normal));
    r = lane_select(lane_ge(m, xsimd_lane{batch(65520.0f)}), of_bits(set_bits(0x7F800000u)), r);
    r = lane_select(lane_eq(m, m), r, of_bits(set_bits(0x7FC00000u)));
    return of_bits(bits_of(r) | sign);
  }
  friend xsimd_lane lane_round_bf16(xsimd_lane a) noexcept {
    const words x = bits_of(a);
    const words rounded = x + set_bits(0x7FFFu) + ((x >> 16) & set_bits(1u));
    const xsimd_lane r = lane_select(lane_eq(a, a), of_bits(rounded), of_bits(x | set_bits(0x400000u)));
    return of_bits(bits_of(r) & set_bits(0xFFFF0000u));
  }

  friend void lane_store(xsimd_lane a, float* p) noexcept { a.raw.store_unaligned(p); }
  friend void lane_store_bf16(xsimd_lane a, std::uint16_t* p) noexcept {
    alignas(64) std::uint32_t w[batch::size];
    bits_of(lane_round_bf16(a)).store_aligned(w);
    for (std::size_t i = 0; i < batch::size; ++i) p[i] = static_cast<std::uint16_t>(w[i] >> 16);
  }
  friend void lane_store_code(xsimd_lane a, std::uint8_t* p) noexcept {
    alignas(64) float v[batch::size];
    a.raw.store_aligned(v);
    for (std::size_t i = 0; i < batch::size; ++i) p[i] = static_cast<std::uint8_t>(v[i]);
  }
  friend float lane_reduce_min(xsimd_lane a) noexcept {
    alignas(64) float v[batch::size];
    a.raw.store_aligned(v);
    float r = v[0];
    for (float x : v) r = lane_min(r, x);
    return r;
  }
  friend float lane_reduce_max(xsimd_lane a) noexcept {
    alignas(64) float v[batch::size];
    a.raw.store_aligned(v);
    float r = v[0];
    for (float x : v) r = lane_max(r, x);
    return r;
  }
};

template <class Arch>
struct lane_traits<xsimd_lane<Arch>> {
  using lane = xsimd_lane<Arch>;
  using mask = typename lane::mask_lane;
  static constexpr int size = static_cast<int>(lane::batch::size);
  static lane set(float x) noexcept { return {typename lane::batch(x)}; }
  static lane load(const float* p) noexcept { return {lane::batch::load_unaligned(p)}; }
  static lane load_code(const std::uint8_t* p) noexcept {
    alignas(64) float v[lane::batch::size];
    for (std::size_t i = 0; i < lane::batch::size; ++i) v[i] = static_cast<float>(p[i]);
    return {lane::batch::load_aligned(v)};
  }
};

}  // namespace AR_ABI
}  // namespace ar
