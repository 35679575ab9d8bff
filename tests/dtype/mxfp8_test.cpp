// mxfp8: hand-made groups for E4M3 and E5M2. The reference's numbers are in golden/data_types_scaled_test.cpp.
#include "support/scaled.hpp"

namespace {

using scaled::fit;

TEST(Mxfp8, E4M3EndsAt448) {
  const auto f = fit(ar::mxfp8<>{}, {500.0f, -448.0f, 0x1p-9f, 17.0f, 19.0f});
  EXPECT_EQ(f.scale, 1.0f) << "448 has the exponent of 256";
  EXPECT_EQ(f.qdq, (std::vector<float>{448.0f, -448.0f, 0x1p-9f, 16.0f, 20.0f}));
  EXPECT_EQ(f.code, (std::vector<int>{0x7E, 0xFE, 1, 0x58, 0x5A}));
  EXPECT_EQ(fit(ar::mxfp8<ar::mx_exponent::ceil>{}, {500.0f}).scale, 2.0f);
}

TEST(Mxfp8, E5M2EndsAt57344) {
  const auto f = fit(ar::mxfp8e5m2<>{}, {65000.0f, 0x1p-16f, -5.0f, 4.5f});
  EXPECT_EQ(f.scale, 1.0f);
  EXPECT_EQ(f.qdq, (std::vector<float>{57344.0f, 0x1p-16f, -5.0f, 4.0f}));
  EXPECT_EQ(f.code, (std::vector<int>{0x7B, 1, 0xC5, 0x44}));
}

TEST(Mxfp8, OneResultOnAllLanes) {
  scaled::expect_one_result_on_all_lanes(ar::mxfp8<>{}, 32);
  scaled::expect_one_result_on_all_lanes(ar::mxfp8e5m2<ar::mx_exponent::ceil>{}, 32);
}

}  // namespace
