// int_asym: hand-made groups whose scale, zero point and codes follow from the definition. Properties that all types share are in
// library/data_types_test.cpp, the reference's numbers in golden/data_types_int_test.cpp.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "ar/detail/lane_xsimd.hpp"
#include "ar/quantize.hpp"

namespace {

using ar::real;

struct fitted {
  ar::errc error;
  float scale = 0.0f, zero_point = -1.0f;
  std::vector<int> code;
};

template <class Type>
fitted fit(Type type, std::vector<float> w) {
  fitted f;
  std::vector<std::uint8_t> code(w.size());
  f.error = ar::quantize(ar::scheme{type, ar::group<-1>{}}, {w.data(), 1, w.size()}, {code.data(), 1, w.size()}, {&f.scale, 1, 1}, {&f.zero_point, 1, 1});
  f.code.assign(code.begin(), code.end());
  return f;
}

TEST(IntAsym, RangeIsSpreadOverAllCodes) {
  const fitted f = fit(ar::int_asym<4>{}, {-5.0f, 10.0f, 0.0f, 2.5f, 3.5f});
  EXPECT_EQ(f.scale, 1.0f);
  EXPECT_EQ(f.zero_point, 5.0f);
  EXPECT_EQ(f.code, (std::vector<int>{0, 15, 5, 7, 9})) << "2.5 and 3.5 round to the even neighbor before the zero point is added";
  const std::vector<std::uint8_t> code(f.code.begin(), f.code.end());
  std::vector<float> back(code.size());
  ASSERT_EQ(ar::dequantize(ar::scheme<ar::int_asym<4>, ar::group<-1>>{}, {code.data(), 1, code.size()}, {&f.scale, 1, 1}, {&f.zero_point, 1, 1},
                           {back.data(), 1, back.size()}),
            ar::errc::ok);
  EXPECT_EQ(back, (std::vector<float>{-5.0f, 10.0f, 0.0f, 2.0f, 4.0f}));
}

TEST(IntAsym, ZeroIsAlwaysInTheRange) {
  const fitted positive = fit(ar::int_asym<4>{}, {7.5f, 15.0f});
  EXPECT_EQ(positive.zero_point, 0.0f);
  EXPECT_EQ(positive.scale, 1.0f);
  const fitted negative = fit(ar::int_asym<4>{}, {-7.5f, -15.0f});
  EXPECT_EQ(negative.zero_point, 15.0f);
  EXPECT_EQ(negative.code[1], 0);
}

TEST(IntAsym, AllZeroGroupHasTheThresholdAsItsScale) {
  const fitted f = fit(ar::int_asym<2>{}, {0.0f, -0.0f, 0.0f});
  EXPECT_EQ(f.scale, 0x1.5p-17f);
  EXPECT_EQ(f.zero_point, 0.0f);
  EXPECT_EQ(f.code, (std::vector<int>{0, 0, 0}));
}

TEST(IntAsym, ZeroPointIsNotClamped) {
  // The scale of a bfloat16 format is rounded down far enough that -lo / s lies past the last code.
  const float lo = -255.0f * 1.00390625f * 0.997f;
  const fitted f = fit(ar::int_asym<8, real::f32, real::bf16>{}, {lo, 0.0f});
  EXPECT_EQ(f.error, ar::errc::ok);
  EXPECT_EQ(f.zero_point, std::nearbyint(-lo / f.scale));
  for (const int c : f.code) EXPECT_LE(c, 255);
}

TEST(IntAsym, TheComputeFormatRoundsTheRange) {
  // 1 + 2^-7 and -2^-7 are bfloat16 numbers, their distance is not: it rounds to 1.015625.
  const std::vector<float> w = {1.0078125f, -0.0078125f / 2};
  EXPECT_EQ((fit(ar::int_asym<4, real::f32, real::f32>{}, w).scale), 1.01171875f / 15.0f);
  EXPECT_EQ((fit(ar::int_asym<4, real::bf16, real::f32>{}, w).scale), ar::round_to_bf16(ar::round_to_bf16(1.01171875f) / 15.0f));
}

TEST(IntAsym, OneBitHasTwoValuesAndZeroIsOneOfThem) {
  const std::vector<float> w = {-0.25f, 1.0f, 0.5f, -0.125f};
  float scale = 0.0f, zero = 9.0f;
  std::uint8_t code[4] = {};
  ASSERT_EQ(ar::quantize(ar::scheme<ar::int_asym<1>, ar::group<4>>{}, {w.data(), 1, 4}, {code, 1, 4}, {&scale, 1, 1}, {&zero, 1, 1}), ar::errc::ok);
  EXPECT_EQ(scale, 1.25f);
  EXPECT_EQ(zero, 0.0f);
  EXPECT_EQ((std::vector<int>(code, code + 4)), (std::vector<int>{0, 1, 0, 0}));
}

TEST(IntAsym, StaticAndDynamicSchemesAgreeOnEveryLane) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.01f, 0.05f);
  std::vector<float> w(5 * 200), a(w.size()), b(w.size());
  for (float& x : w) x = normal(random);
  const ar::matrix_view<const float> in(w.data(), 5, 200);
  ASSERT_EQ(ar::qdq(ar::scheme<ar::int_asym<5>, ar::group<64>>{}, in, {a.data(), 5, 200}), ar::errc::ok);
  const auto equal = [&](const char* who) { EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << who; };
  const ar::int_asym<> five{ar::extent<ar::dynamic>(5)};
  ASSERT_EQ(ar::qdq(ar::scheme{five, ar::group(64)}, in, {b.data(), 5, 200}), ar::errc::ok);
  equal("dynamic");
  ASSERT_EQ((ar::rows::qdq<ar::int_asym<>, float>(five, 64, in, {b.data(), 5, 200})), ar::errc::ok);
  equal("float lane");
  ASSERT_EQ((ar::rows::qdq<ar::int_asym<>, ar::xsimd_lane<>>(five, 64, in, {b.data(), 5, 200})), ar::errc::ok);
  equal("xsimd");
}

constexpr bool quantizes_in_a_constant_expression() {
  const float w[4] = {-1.0f, 2.0f, 0.0f, 1.0f};
  std::uint8_t code[4] = {};
  float scale = 0.0f, zero = 0.0f;
  const ar::scheme<ar::int_asym<2>, ar::group<4>> s;
  if (ar::quantize(s, {w, 1, 4}, {code, 1, 4}, {&scale, 1, 1}, {&zero, 1, 1}) != ar::errc::ok) return false;
  return scale == 1.0f && zero == 1.0f && code[0] == 0 && code[1] == 3 && code[2] == 1 && code[3] == 2;
}
static_assert(quantizes_in_a_constant_expression());

}  // namespace
