// mxint: hand-made groups for 8, 4 and 2 bits. The reference's numbers are in golden/data_types_scaled_test.cpp.
#include "support/scaled.hpp"

namespace {

using scaled::fit;

TEST(Mxint, CodesAreTwosComplementMultiplesOfTheStep) {
  const auto f = fit(ar::mxint<4>{}, {1.75f, -1.75f, 0.25f, -0.25f, 0.125f, 0.375f, 1.9f});
  EXPECT_EQ(f.scale, 1.0f);
  EXPECT_EQ(f.code, (std::vector<int>{7, 9, 1, 15, 0, 2, 7}));
  EXPECT_EQ(f.qdq, (std::vector<float>{1.75f, -1.75f, 0.25f, -0.25f, 0.0f, 0.5f, 1.75f}));
}

TEST(Mxint, TheMostNegativeCodeIsNotUsed) {
  EXPECT_EQ(fit(ar::mxint<4>{}, {-1.99f}).code, (std::vector<int>{9}));
  EXPECT_EQ(fit(ar::mxint<8>{}, {-1.999f}).code, (std::vector<int>{129}));
  EXPECT_EQ(fit(ar::mxint<2>{}, {-1.9f, 1.9f, 0.5f, 0.6f}).code, (std::vector<int>{3, 1, 0, 1}));
  // A code that no quantizer writes still means a number.
  const std::uint8_t lowest = 8;
  const float scale = 1.0f;
  float value = 0.0f;
  ASSERT_EQ(ar::dequantize(ar::MXINT4{}, {&lowest, 1, 1}, {&scale, 1, 1}, {}, {&value, 1, 1}), ar::errc::ok);
  EXPECT_EQ(value, -2.0f);
}

TEST(Mxint, EightBitsHaveStepsOfASixtyFourth) {
  const auto f = fit(ar::mxint<8>{}, {1.0f, 0x1p-6f, 0x1.8p-7f});
  EXPECT_EQ(f.code, (std::vector<int>{64, 1, 1}));
}

TEST(Mxint, OneResultOnAllLanes) {
  scaled::expect_one_result_on_all_lanes(ar::mxint<8>{}, 32);
  scaled::expect_one_result_on_all_lanes(ar::mxint<4>{}, 32);
  scaled::expect_one_result_on_all_lanes(ar::mxint<2, ar::mx_exponent::ceil>{}, 32);
}

}  // namespace
