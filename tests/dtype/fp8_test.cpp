// fp8: scales and codes by hand, given maxima, tiles, and where computing in bfloat16 loses bits. The reference's numbers are in
// golden/data_types_scaled_test.cpp.
#include "support/scaled.hpp"

#include <cmath>

namespace {

using ar::real;
using scaled::fit;

TEST(Fp8, TheLargestWeightBecomes448) {
  const auto f = fit(ar::fp8<>{}, {44.8f, -22.4f, 0.0f});
  EXPECT_EQ(f.scale, 44.8f / 448.0f);
  EXPECT_EQ(f.code, (std::vector<int>{0x7E, 0xF6, 0}));
  EXPECT_EQ(fit(ar::fp8e5m2<>{}, {57344.0f, 7.0f}).code, (std::vector<int>{0x7B, 0x47}));
}

TEST(Fp8, TheScaleHasALeastValue) {
  EXPECT_EQ(fit(ar::fp8<>{}, {0.0f}).scale, static_cast<float>(1.0 / (448.0 * 512.0)));
  EXPECT_EQ(fit(ar::fp8e5m2<>{}, {0.0f}).scale, static_cast<float>(1.0 / (57344.0 * 512.0)));
}

TEST(Fp8, ZerosKeepTheirSignInCodesButNotInValues) {
  const auto f = fit(ar::fp8<>{}, {448.0f, -1e-5f, -0.0f});
  EXPECT_EQ(f.code, (std::vector<int>{0x7E, 0x80, 0x80}));
  EXPECT_FALSE(std::signbit(f.qdq[1]));
  EXPECT_FALSE(std::signbit(f.qdq[2]));
}

TEST(Fp8, AGivenMaximumReplacesTheOneOfTheData) {
  ar::fp8<> t;
  t.the_tensor.maximum = 4.48f;
  const auto f = fit(t, {100.0f, 0.01f});
  EXPECT_EQ(f.scale, 4.48f / 448.0f);
  EXPECT_EQ(f.qdq[0], 448.0f * f.scale) << "saturates";
}

TEST(Fp8, UnitScaleIsACastThatSaturates) {
  EXPECT_EQ(fit(ar::fp8_unit<>{}, {500.0f, 17.0f, -1e-4f}).qdq, (std::vector<float>{448.0f, 16.0f, 0.0f}));
  EXPECT_EQ(fit(ar::fp8e5m2_unit<>{}, {1e9f, 17.0f}).qdq, (std::vector<float>{57344.0f, 16.0f}));
}

TEST(Fp8, TilesComputedInBfloat16LoseBitsThatFloatKeeps) {
  // The reference's block FP8 rounds scale and quotient to the format of the weights. fp8 in tiles does not: its error is smaller.
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  constexpr std::size_t rows = 130, cols = 200;
  std::vector<float> w(rows * cols), exact(w.size()), rounded(w.size());
  for (float& x : w) x = ar::round_to_bf16(normal(random));
  const ar::matrix_view<const float> in(w.data(), rows, cols);
  ASSERT_EQ(ar::qdq(ar::scheme<ar::fp8<real::bf16>, ar::tile<128, 128>>{}, in, {exact.data(), rows, cols}), ar::errc::ok);
  ASSERT_EQ(ar::qdq(ar::scheme<ar::fp8_block<real::bf16>, ar::tile<128, 128>>{}, in, {rounded.data(), rows, cols}), ar::errc::ok);
  double exact_error = 0.0, rounded_error = 0.0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    exact_error += std::pow(static_cast<double>(exact[i] - w[i]), 2);
    rounded_error += std::pow(static_cast<double>(rounded[i] - w[i]), 2);
  }
  EXPECT_LT(exact_error, rounded_error);
  float scale[4] = {};
  ASSERT_EQ(ar::fit(ar::scheme<ar::fp8_block<real::bf16>, ar::tile<128, 128>>{}, in, {scale, 2, 2}), ar::errc::ok);
  for (const float s : scale) EXPECT_EQ(ar::round_to_bf16(s), s);
  // In float both are the same type.
  ASSERT_EQ(ar::qdq(ar::FP8_BLOCK{}, in, {rounded.data(), rows, cols}), ar::errc::ok);
  ASSERT_EQ(ar::qdq(ar::scheme<ar::fp8<>, ar::tile<128, 128>>{}, in, {exact.data(), rows, cols}), ar::errc::ok);
  EXPECT_EQ(rounded, exact);
}

TEST(Fp8, OneResultOnAllLanes) {
  scaled::expect_one_result_on_all_lanes(ar::fp8<>{}, 64);
  scaled::expect_one_result_on_all_lanes(ar::fp8<real::f16>{}, -1);
  scaled::expect_one_result_on_all_lanes(ar::fp8e5m2<real::bf16>{}, 0);
  scaled::expect_one_result_on_all_lanes(ar::fp8_block<real::bf16>{}, 64);
  scaled::expect_one_result_on_all_lanes(ar::fp8_unit<>{}, 64);
}

}  // namespace
