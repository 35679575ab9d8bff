// int_sym_gptq: the asymmetric grid over [-A, A] with the zero point in the middle.
#include <gtest/gtest.h>

#include <vector>

#include "ar/quantize.hpp"

namespace {

TEST(IntSymGptq, StepIsTwiceTheLargestMagnitudeOverTheNumberOfSteps) {
  const std::vector<float> w = {-7.5f, 3.0f, 7.5f, 0.4f};
  std::vector<std::uint8_t> code(4);
  float scale = 0.0f;
  ASSERT_EQ(ar::quantize(ar::scheme<ar::int_sym_gptq<4>, ar::group<-1>>{}, {w.data(), 1, 4}, {code.data(), 1, 4}, {&scale, 1, 1}), ar::errc::ok);
  EXPECT_EQ(scale, 1.0f);
  EXPECT_EQ(code, (std::vector<std::uint8_t>{0, 11, 15, 8})) << "-7.5 rounds to -8, 7.5 to 8, which is clamped";
}

TEST(IntSymGptq, ScaleIsPositiveWhicheverSideIsLarger) {
  for (const float sign : {1.0f, -1.0f}) {
    const std::vector<float> w = {sign * 3.0f, -sign * 1.0f};
    float scale = 0.0f;
    ASSERT_EQ(ar::fit(ar::scheme<ar::int_sym_gptq<2, ar::real::f32, ar::real::f32>, ar::group<-1>>{}, {w.data(), 1, 2}, {&scale, 1, 1}), ar::errc::ok);
    EXPECT_EQ(scale, 2.0f);
  }
}

}  // namespace
