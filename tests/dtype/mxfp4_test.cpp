// mxfp4: hand-made groups whose scale and codes follow from the definition. The reference's numbers are in golden/data_types_scaled_test.cpp,
// properties of all types in library/data_types_test.cpp.
#include "support/scaled.hpp"

#include <cmath>

namespace {

using ar::mx_exponent;
using scaled::fit;

TEST(Mxfp4, TheLargestWeightLandsBetween4And8) {
  // 6 and 7 have the exponent of 4, which E2M1 has too: the scale is 1, and 7 saturates.
  const auto f = fit(ar::mxfp4<>{}, {7.0f, -6.0f, 3.0f, 0.4f, -0.75f, 0.0f});
  EXPECT_EQ(f.scale, 1.0f);
  EXPECT_EQ(f.code, (std::vector<int>{7, 15, 5, 1, 10, 0}));
  EXPECT_EQ(f.qdq, (std::vector<float>{6.0f, -6.0f, 3.0f, 0.5f, -1.0f, 0.0f}));
  EXPECT_EQ(fit(ar::mxfp4<>{}, {8.0f}).scale, 2.0f);
}

TEST(Mxfp4, CeilDoesNotSaturate) {
  const auto f = fit(ar::mxfp4<mx_exponent::ceil>{}, {7.0f, -6.0f});
  EXPECT_EQ(f.scale, 2.0f);
  EXPECT_EQ(f.qdq, (std::vector<float>{8.0f, -6.0f}));
  EXPECT_EQ(fit(ar::mxfp4<mx_exponent::ceil>{}, {6.0f}).scale, 1.0f);
  EXPECT_EQ(fit(ar::mxfp4<mx_exponent::ceil_v2>{}, {7.0f}).scale, 1.0f) << "up to 7.25";
  EXPECT_EQ(fit(ar::mxfp4<mx_exponent::ceil_v2>{}, {7.5f}).scale, 2.0f);
}

TEST(Mxfp4, HalvesGoToTheEvenCodeAndTheFloatBelowHalfAStepGoesUp) {
  EXPECT_EQ(fit(ar::mxfp4<>{}, {4.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}).qdq, (std::vector<float>{4.0f, 0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f}));
  // floor(|u| + 0.5) for |u| = 0.5 - 2^-25 is 1 in float: the reference's only deviation from rounding to the nearest.
  EXPECT_EQ(fit(ar::mxfp4<>{}, {4.0f, std::nextafter(0.25f, 0.0f)}).qdq[1], 0.5f);
  EXPECT_EQ(fit(ar::mxfp4<>{}, {4.0f, std::nextafter(std::nextafter(0.25f, 0.0f), 0.0f)}).qdq[1], 0.0f);
}

TEST(Mxfp4, SmallNegativeWeightsKeepTheirSign) {
  const auto f = fit(ar::mxfp4<>{}, {4.0f, -0.1f, -0.0f});
  EXPECT_TRUE(std::signbit(f.qdq[1]));
  EXPECT_FALSE(std::signbit(f.qdq[2]));
  EXPECT_EQ(f.code, (std::vector<int>{6, 8, 0}));
}

TEST(Mxfp4, ScalesEndAtTheirFormatsEnds) {
  EXPECT_EQ(fit(ar::mxfp4<>{}, {0.0f}).scale, 0.5f) << "of a group of zeros: 2^(1 - 2)";
  EXPECT_EQ(fit(ar::mxfp4<mx_exponent::ceil>{}, {0.0f}).scale, 2.0f);
  EXPECT_EQ(fit(ar::mxfp4<>{}, {1e-45f}).scale, 0x1p-127f);
  EXPECT_EQ(fit(ar::mxfp4<>{}, {3e38f}).scale, 0x1p125f);
  EXPECT_EQ(fit(ar::mxfp4<mx_exponent::ceil>{}, {0x1.fffffep127f}).error, ar::errc::not_representable) << "4 times 2^126 is no float";
}

TEST(Mxfp4, LogarithmsAreThoseOfTheReference) {
  // log2 of the float below 2^9 is 9 in float.
  EXPECT_EQ(fit(ar::mxfp4<>{}, {std::nextafter(512.0f, 0.0f)}).scale, 128.0f);
  EXPECT_EQ(fit(ar::mxfp4<>{}, {std::nextafter(1.0f, 0.0f)}).scale, 0.125f);
}

TEST(Mxfp4, OneResultOnAllLanes) {
  scaled::expect_one_result_on_all_lanes(ar::mxfp4<>{}, 32);
  scaled::expect_one_result_on_all_lanes(ar::mxfp4<mx_exponent::ceil, ar::real::bf16>{}, 32);
}

constexpr bool works_in_a_constant_expression() {
  const float w[8] = {7.0f, 6.0f, 0.5f, 1.5f, 2.0f, -1.0f, 1.0f, 0.0f};
  std::uint8_t code[8] = {};
  float scale[2] = {}, back[8] = {};
  const ar::scheme<ar::mxfp4<>, ar::group<4>> s;
  if (ar::quantize(s, {w, 1, 8}, {code, 1, 8}, {scale, 1, 2}) != ar::errc::ok) return false;
  if (ar::dequantize(s, {code, 1, 8}, {scale, 1, 2}, {}, {back, 1, 8}) != ar::errc::ok) return false;
  return scale[0] == 1.0f && scale[1] == 0.5f && code[0] == 7 && code[4] == 6 && back[5] == -1.0f && back[0] == 6.0f;
}
static_assert(works_in_a_constant_expression());
static_assert(sizeof(ar::MXFP4) == 1, "a static scheme holds nothing");

}  // namespace
