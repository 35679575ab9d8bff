// mxuint: codes and scales by hand, and the differences to mxint.
#include <gtest/gtest.h>

#include "ar/quantize.hpp"

namespace {

TEST(Mxuint, UsesTheMostNegativeCodeAndSaturatesAbove) {
  // The scale is 1, a step 1/4: -2 is code 0, 1.75 code 15, and 2.9 has no code of its own.
  const float w[] = {-1.99f, 1.75f, 1.9f, 0.25f, 0.125f, 0.375f, 0.0f, -0.1f};
  std::uint8_t code[8] = {};
  float scale = 0.0f, back[8] = {};
  const ar::scheme<ar::mxuint<4>, ar::group<-1>> s;
  ASSERT_EQ(ar::quantize(s, {w, 1, 8}, {code, 1, 8}, {&scale, 1, 1}), ar::errc::ok);
  EXPECT_EQ(scale, 1.0f);
  const std::uint8_t want[] = {0, 15, 15, 9, 8, 10, 8, 8};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(code[i], want[i]) << i;
  ASSERT_EQ(ar::dequantize(s, {code, 1, 8}, {&scale, 1, 1}, {}, {back, 1, 8}), ar::errc::ok);
  const float value[] = {-2.0f, 1.75f, 1.75f, 0.25f, 0.0f, 0.5f, 0.0f, 0.0f};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(back[i], value[i]) << i;
}

TEST(Mxuint, AGroupOfZerosHasTheScaleOne) {
  const float w[4] = {};
  float scale = 0.0f;
  ASSERT_EQ(ar::fit(ar::scheme<ar::mxuint<8>, ar::group<-1>>{}, {w, 1, 4}, {&scale, 1, 1}), ar::errc::ok);
  EXPECT_EQ(scale, 1.0f);
}

}  // namespace
