// int_sym: hand-made groups whose scale and codes follow from the definition, static and dynamic schemes, constant expressions, xsimd.
// Properties that all types share are in library/data_types_test.cpp, the reference's numbers in golden/data_types_int_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "ar/detail/lane_xsimd.hpp"
#include "ar/quantize.hpp"

namespace {

struct fitted {
  ar::errc error;
  float scale = 0.0f;
  std::vector<int> code;  // -n .. n-1
  std::vector<float> qdq;
};

template <class Type>
fitted fit(Type type, std::vector<float> w) {
  fitted f;
  const ar::scheme s{type, ar::group<-1>{}};
  std::vector<std::uint8_t> code(w.size());
  f.qdq.resize(w.size());
  f.error = ar::quantize(s, {w.data(), 1, w.size()}, {code.data(), 1, w.size()}, {&f.scale, 1, 1});
  for (const std::uint8_t c : code) f.code.push_back(static_cast<int>(c) - type.code_offset());
  EXPECT_EQ(ar::qdq(s, {w.data(), 1, w.size()}, {f.qdq.data(), 1, w.size()}), f.error);
  return f;
}

TEST(IntSym, TheExtremeOfTheLargerSideGetsTheLowestCode) {
  const fitted negative = fit(ar::int_sym<4>{}, {-8.0f, 7.0f, 3.0f, 0.4f});
  EXPECT_EQ(negative.scale, 1.0f);
  EXPECT_EQ(negative.code, (std::vector<int>{-8, 7, 3, 0}));
  // The positive side dominates, or there is a tie: the scale turns negative, and the extreme still has code -8.
  const fitted positive = fit(ar::int_sym<4>{}, {8.0f, -7.0f, 3.0f, 0.4f});
  EXPECT_EQ(positive.scale, -1.0f);
  EXPECT_EQ(positive.code, (std::vector<int>{-8, 7, -3, 0}));
  const fitted tie = fit(ar::int_sym<4>{}, {8.0f, -8.0f});
  EXPECT_EQ(tie.scale, -1.0f);
  EXPECT_EQ(tie.code, (std::vector<int>{-8, 7})) << "the other end is clamped";
}

TEST(IntSym, RoundsHalfToEven) {
  EXPECT_EQ(fit(ar::int_sym<4>{}, {-8.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f}).code, (std::vector<int>{-8, 0, 2, 2, 0, -2}));
}

TEST(IntSym, ScaleIsAtLeastTheThresholdOfItsFormat) {
  using ar::real;
  EXPECT_EQ(fit(ar::int_sym<4>{}, {0.0f, 0.0f}).scale, 0x1.5p-17f) << "1e-5 in half precision";
  EXPECT_EQ((fit(ar::int_sym<4, real::f32, real::f32>{}, {0.0f, 0.0f}).scale), 1e-8f);
  EXPECT_EQ((fit(ar::int_sym<4, real::f32, real::bf16>{}, {0.0f}).scale), ar::round_to_bf16(1e-5f));
  EXPECT_EQ(fit(ar::int_sym<4>{}, {1e-6f, -1e-7f}).scale, -0x1.5p-17f) << "the sign survives";
  EXPECT_EQ(fit(ar::int_sym<4>{}, {-0.0f, 0.0f}).code, (std::vector<int>{0, 0}));
}

TEST(IntSym, SignOfZeroIsThatOfTheCodeTimesThatOfTheScale) {
  const fitted plus = fit(ar::int_sym<4>{}, {-8.0f, 0.3f, -0.3f});
  EXPECT_FALSE(std::signbit(plus.qdq[1]));
  EXPECT_TRUE(std::signbit(plus.qdq[2]));
  const fitted minus = fit(ar::int_sym<4>{}, {8.0f, 0.3f, -0.3f});
  EXPECT_FALSE(std::signbit(minus.qdq[1])) << "code -0 times a negative scale";
  EXPECT_TRUE(std::signbit(minus.qdq[2]));
}

TEST(IntSym, ScaleIsRoundedToHalfPrecisionBeforeUse) {
  const fitted f = fit(ar::int_sym<2>{}, {-0.2f, 0.1f});
  EXPECT_EQ(f.scale, ar::round_to_f16(0.1f));
  EXPECT_EQ(f.qdq[0], -2.0f * ar::round_to_f16(0.1f));
}

TEST(IntSym, OneBitKeepsTheSideOfTheExtremeElement) {
  // -1 and 0 are all that there is: the negative side, or with a negative scale the positive one; what is nearer to zero than half of the extreme is lost.
  EXPECT_EQ(fit(ar::int_sym<1>{}, {-1.0f, 0.75f, -0.5f, -0.625f}).qdq, (std::vector<float>{-1.0f, 0.0f, 0.0f, -1.0f}));
  EXPECT_EQ(fit(ar::int_sym<1>{}, {1.0f, 0.75f, -0.5f, 0.25f}).qdq, (std::vector<float>{1.0f, 1.0f, 0.0f, 0.0f}));
}

TEST(IntSym, QuantizingTwiceChangesNothing) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> w(64 * 96), once(w.size()), twice(w.size());
  for (float& x : w) x = normal(random);
  const auto check = [&](auto scheme) {
    ASSERT_EQ(ar::qdq(scheme, {w.data(), 64, 96}, {once.data(), 64, 96}), ar::errc::ok);
    ASSERT_EQ(ar::qdq(scheme, {once.data(), 64, 96}, {twice.data(), 64, 96}), ar::errc::ok);
    for (std::size_t i = 0; i < w.size(); ++i) ASSERT_EQ(once[i], twice[i]) << i;
  };
  check(ar::W2A16G32{});
  check(ar::W3A16G32{});
  check(ar::W4A16G64{});
  check(ar::W8A16G32{});
}

TEST(IntSym, TheFloatLaneWritesNothingThatItRefuses) {
  // The second group's scale overflows half precision; a weight that is not finite comes first, wherever it stands.
  float w[6] = {1.0f, 2.0f, 3e6f, 0.0f, 0.5f, 0.25f};
  std::uint8_t code[6] = {9, 9, 9, 9, 9, 9};
  float scale[3] = {9.0f, 9.0f, 9.0f};
  const auto quantize = [&] { return ar::rows::quantize<ar::int_sym<4>, float>(ar::int_sym<4>{}, 2, {w, 1, 6}, {code, 1, 6}, {scale, 1, 3}, {}); };
  EXPECT_EQ(quantize(), ar::errc::not_representable);
  w[5] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(quantize(), ar::errc::non_finite);
  for (const std::uint8_t c : code) EXPECT_EQ(c, 9);
  for (const float x : scale) EXPECT_EQ(x, 9.0f);
}

TEST(IntSym, StaticAndDynamicSchemesAgreeOnEveryLane) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> w(5 * 200), a(w.size()), b(w.size());
  for (float& x : w) x = normal(random);
  const ar::matrix_view<const float> in(w.data(), 5, 200);
  ASSERT_EQ(ar::qdq(ar::W3A16G64{}, in, {a.data(), 5, 200}), ar::errc::ok);
  const auto equal = [&](const char* who) { EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << who; };
  const ar::int_sym<> three{ar::extent<ar::dynamic>(3)};
  ASSERT_EQ(ar::qdq(ar::scheme{three, ar::group(64)}, in, {b.data(), 5, 200}), ar::errc::ok);
  equal("dynamic");
  ASSERT_EQ((ar::rows::qdq<ar::int_sym<>, float>(three, 64, in, {b.data(), 5, 200})), ar::errc::ok);
  equal("float lane");
  ASSERT_EQ((ar::rows::qdq<ar::int_sym<>, ar::xsimd_lane<>>(three, 64, in, {b.data(), 5, 200})), ar::errc::ok);
  equal("xsimd");
}

constexpr bool quantizes_in_a_constant_expression() {
  const float w[8] = {-8.0f, 7.0f, 0.5f, 1.5f, 2.0f, -1.0f, 1.0f, 0.0f};
  std::uint8_t code[8] = {};
  float scale[2] = {}, back[8] = {};
  const ar::scheme<ar::int_sym<4>, ar::group<4>> s;
  if (ar::quantize(s, {w, 1, 8}, {code, 1, 8}, {scale, 1, 2}) != ar::errc::ok) return false;
  if (ar::dequantize(s, {code, 1, 8}, {scale, 1, 2}, {}, {back, 1, 8}) != ar::errc::ok) return false;
  return scale[0] == 1.0f && scale[1] == -0.25f && code[0] == 0 && code[2] == 8 && code[3] == 10 && code[4] == 0 && back[4] == 2.0f && back[5] == -1.0f;
}
static_assert(quantizes_in_a_constant_expression());
static_assert(sizeof(ar::W4A16) == 1, "a static scheme holds nothing");

}  // namespace
