// mxfp6: hand-made groups for E2M3 and E3M2. The reference's numbers are in golden/data_types_scaled_test.cpp.
#include "support/scaled.hpp"

namespace {

using scaled::fit;

TEST(Mxfp6, E2M3HasStepsOfAnEighthUpToTwo) {
  const auto f = fit(ar::mxfp6<>{}, {7.5f, 0.125f, -0.0625f, 0.1875f, 2.125f, 2.25f, 7.9f});
  EXPECT_EQ(f.scale, 1.0f);
  EXPECT_EQ(f.qdq, (std::vector<float>{7.5f, 0.125f, -0.0f, 0.25f, 2.0f, 2.25f, 7.5f}));
  EXPECT_EQ(f.code, (std::vector<int>{31, 1, 32, 2, 16, 17, 31}));
}

TEST(Mxfp6, E3M2Reaches28) {
  const auto f = fit(ar::mxfp6e3m2<>{}, {28.0f, 30.0f, 0.0625f, -0.25f, 9.0f, 11.0f});
  EXPECT_EQ(f.scale, 1.0f);
  EXPECT_EQ(f.qdq, (std::vector<float>{28.0f, 28.0f, 0.0625f, -0.25f, 8.0f, 12.0f}));
  EXPECT_EQ(f.code, (std::vector<int>{31, 31, 1, 36, 24, 26}));
  EXPECT_EQ(fit(ar::mxfp6e3m2<ar::mx_exponent::ceil>{}, {30.0f}).scale, 2.0f);
}

TEST(Mxfp6, OneResultOnAllLanes) {
  scaled::expect_one_result_on_all_lanes(ar::mxfp6<>{}, 32);
  scaled::expect_one_result_on_all_lanes(ar::mxfp6e3m2<ar::mx_exponent::floor, ar::real::f16>{}, 32);
}

}  // namespace
