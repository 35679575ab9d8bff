// Half and bfloat16 conversions: all 65,536 values of each, every tie between neighbors and the floats next to it, and, nightly, all 2^32 floats
// against an independent way to round (exact arithmetic in double).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ar/numeric/half.hpp"

namespace {

std::uint32_t bits(float f) { return std::bit_cast<std::uint32_t>(f); }

/// Rounds to `digits` significant bits with the smallest exponent `min_exponent` (of the leading bit), half to even; exact in double.
double nearest(double x, int digits, int min_exponent) {
  if (x == 0.0) return x;
  const int e = std::max(std::ilogb(x), min_exponent);
  return std::ldexp(std::nearbyint(std::ldexp(x, digits - 1 - e)), e - (digits - 1));
}
float f16_by_double(float f) {
  const double y = nearest(f, 11, -14);
  return std::abs(y) >= 65536.0 ? std::copysign(std::numeric_limits<float>::infinity(), f) : static_cast<float>(y);
}
float bf16_by_double(float f) {
  const double y = nearest(f, 8, -126);
  return std::abs(y) >= 0x1p128 ? std::copysign(std::numeric_limits<float>::infinity(), f) : static_cast<float>(y);
}

TEST(Half, EveryValueSurvivesARoundTrip) {
  for (std::uint32_t h = 0; h < 0x10000; ++h) {
    const float f = ar::f32_from_f16(static_cast<std::uint16_t>(h));
    if (std::isnan(f)) {
      EXPECT_EQ(ar::f16_from_f32(f), (h & 0x8000u) | 0x7E00u);
    } else {
      ASSERT_EQ(ar::f16_from_f32(f), h);
    }
  }
}

TEST(Half, EveryTieGoesToTheEvenNeighbor) {
  for (std::uint32_t h = 0; h < 0x7BFF; ++h) {
    const float below = ar::f32_from_f16(static_cast<std::uint16_t>(h)), above = ar::f32_from_f16(static_cast<std::uint16_t>(h + 1));
    const float middle = 0.5f * (below + above);
    for (const float sign : {1.0f, -1.0f}) {
      const std::uint32_t s = sign < 0 ? 0x8000u : 0u;
      ASSERT_EQ(ar::f16_from_f32(sign * middle), s | (h % 2 == 0 ? h : h + 1)) << h;
      ASSERT_EQ(ar::f16_from_f32(sign * std::nextafter(middle, 0.0f)), s | h) << h;
      ASSERT_EQ(ar::f16_from_f32(sign * std::nextafter(middle, 1e9f)), s | (h + 1)) << h;
    }
  }
}

TEST(Half, OverflowsToInfinityFromTheMiddleOn) {
  EXPECT_EQ(ar::f16_from_f32(65519.996f), 0x7BFF);
  EXPECT_EQ(ar::f16_from_f32(65520.0f), 0x7C00);
  EXPECT_EQ(ar::f16_from_f32(-3e38f), 0xFC00);
  EXPECT_EQ(ar::f16_from_f32(std::numeric_limits<float>::infinity()), 0x7C00);
  EXPECT_EQ(ar::f16_from_f32(std::bit_cast<float>(0xFF800001u)), 0xFE00) << "a signaling NaN becomes quiet and keeps its sign";
  EXPECT_EQ(ar::f16_from_f32(-0.0f), 0x8000);
  EXPECT_EQ(ar::f16_from_f32(-1e-30f), 0x8000) << "underflow keeps the sign";
}

TEST(Bfloat16, EveryValueSurvivesARoundTripAndTiesGoToEven) {
  for (std::uint32_t b = 0; b < 0x10000; ++b) {
    const float f = ar::f32_from_bf16(static_cast<std::uint16_t>(b));
    if (std::isnan(f)) {
      EXPECT_EQ(ar::bf16_from_f32(f), b | 0x40u);
      continue;
    }
    ASSERT_EQ(ar::bf16_from_f32(f), b);
    if (std::isinf(f)) continue;
    const std::uint32_t middle = (b << 16) | 0x8000u;
    ASSERT_EQ(ar::bf16_from_f32(std::bit_cast<float>(middle)), b % 2 == 0 ? b : b + 1);
    ASSERT_EQ(ar::bf16_from_f32(std::bit_cast<float>(middle - 1)), b);
    ASSERT_EQ(ar::bf16_from_f32(std::bit_cast<float>(middle + 1)), b + 1);
  }
}

/// round_to_f16 takes a way of its own.
void expect_rounded_is_stored_and_read(float f) { ASSERT_EQ(bits(ar::round_to_f16(f)), bits(ar::f32_from_f16(ar::f16_from_f32(f)))) << std::hexfloat << f; }

TEST(HalfNightly, AllFloatsAgainstExactArithmetic) {
  std::uint32_t x = 0;
  do {
    const float f = std::bit_cast<float>(x);
    expect_rounded_is_stored_and_read(f);
    if (std::isnan(f)) {
      ASSERT_TRUE(std::isnan(ar::round_to_f16(f)) && std::isnan(ar::round_to_bf16(f)));
    } else if (std::isinf(f)) {
      ASSERT_TRUE(ar::round_to_f16(f) == f && ar::round_to_bf16(f) == f);
    } else {
      ASSERT_EQ(bits(ar::round_to_f16(f)), bits(f16_by_double(f))) << std::hexfloat << f;
      ASSERT_EQ(bits(ar::round_to_bf16(f)), bits(bf16_by_double(f))) << std::hexfloat << f;
    }
  } while (++x != 0);
}

TEST(Half, SampleOfAllFloatsAgainstExactArithmetic) {
  for (std::uint64_t i = 0; i < (std::uint64_t{1} << 32); i += 4093) {
    const float f = std::bit_cast<float>(static_cast<std::uint32_t>(i));
    expect_rounded_is_stored_and_read(f);
    if (!std::isfinite(f)) continue;
    ASSERT_EQ(bits(ar::round_to_f16(f)), bits(f16_by_double(f))) << std::hexfloat << f;
    ASSERT_EQ(bits(ar::round_to_bf16(f)), bits(bf16_by_double(f))) << std::hexfloat << f;
  }
}

}  // namespace
