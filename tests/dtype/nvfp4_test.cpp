// nvfp4: the two levels of its scale by hand, given and found global scales, the E5M3 variants. The reference's numbers are in
// golden/data_types_scaled_test.cpp.
#include "support/scaled.hpp"

#include <array>
#include <cmath>

namespace {

using scaled::fit;

ar::nvfp4<> with_global_scale(float g) {
  ar::nvfp4<> t;
  t.the_tensor.global_scale = g;
  return t;
}

TEST(Nvfp4, TheGroupOfTheLargestWeightHasTheLargestScale) {
  ar::nvfp4<> t;
  t.the_tensor.maximum = 6.0f;
  EXPECT_EQ(t.global_scale(), 448.0f);
  EXPECT_EQ(fit(t, {6.0f, -3.0f}).scale, 448.0f);
  EXPECT_EQ(fit(t, {6.0f, -3.0f, 0.3f}).qdq, (std::vector<float>{6.0f, -3.0f, 0.5f}));
  EXPECT_EQ(fit(t, {3.0f}).scale, 224.0f);
  EXPECT_EQ(fit(t, {3.0f}).code, (std::vector<int>{7}));
}

TEST(Nvfp4, ScalesAreRoundedToE4M3) {
  const auto f = fit(with_global_scale(1.0f), {6.3f, 1.0f});
  EXPECT_EQ(f.scale, 1.0f) << "1.05 rounded to 3 mantissa bits";
  EXPECT_EQ(f.qdq[0], 6.0f) << "saturates";
  EXPECT_EQ(fit(with_global_scale(1.0f), {3000.0f}).scale, 448.0f) << "so does the scale";
}

TEST(Nvfp4, TheLargestWeightIsMultipliedByASixth) {
  // A quotient by 6 would lie below 1.1875, the middle between two scales; the product with the float nearest to 1/6 is the middle.
  const float w = std::nextafter(7.125f, 0.0f);
  ASSERT_LT(w / 6.0f, 1.1875f);
  EXPECT_EQ(fit(with_global_scale(1.0f), {w}).scale, 1.25f);
  EXPECT_EQ(fit(ar::nvfp4v2<>{}, {w}).scale, 1.25f);
}

TEST(Nvfp4, AScaleThatUnderflowsMakesTheGroupZero) {
  const auto f = fit(with_global_scale(1.0f), {0.005f, -0.005f});
  EXPECT_EQ(f.scale, 0.0f);
  EXPECT_EQ(f.qdq, (std::vector<float>{0.0f, 0.0f}));
  EXPECT_EQ(f.error, ar::errc::ok);
}

TEST(Nvfp4, ZeroAndTinyTensorsAreFinite) {
  for (const float x : {0.0f, 1e-38f, 1e-45f}) {
    const std::array<float, 32> w = {x};
    std::array<float, 32> out;
    out.fill(7.0f);
    ASSERT_EQ(ar::qdq(ar::NVFP4{}, {w.data(), 1, 32}, {out.data(), 1, 32}), ar::errc::ok) << x;
    for (const float y : out) EXPECT_TRUE(std::isfinite(y)) << x;
    EXPECT_EQ(out[20], 0.0f);
  }
}

TEST(Nvfp4, UnsignedE5M3ScalesNeedNoGlobalScale) {
  const auto f = fit(ar::nvfp4v2<>{}, {12.0f, -6.0f});
  EXPECT_EQ(f.scale, 2.0f);
  EXPECT_EQ(f.qdq, (std::vector<float>{12.0f, -6.0f}));
  EXPECT_EQ(fit(ar::nvfp4v2<>{}, {0.0f}).scale, 0.0f);
  ar::nvfp4v2_global<> t;
  t.the_tensor.maximum = 6.0f;
  EXPECT_EQ(t.global_scale(), 114688.0f);
  EXPECT_EQ(fit(t, {6.0f, 1.0f}).qdq, (std::vector<float>{6.0f, 1.0f}));
}

TEST(Nvfp4, OneResultOnAllLanes) {
  scaled::expect_one_result_on_all_lanes(with_global_scale(2000.0f), 16);
  scaled::expect_one_result_on_all_lanes(ar::nvfp4<ar::real::bf16>{}, 16);
  scaled::expect_one_result_on_all_lanes(ar::nvfp4v2<>{}, 16);
  scaled::expect_one_result_on_all_lanes(ar::nvfp4v2_global<ar::real::f16>{}, 16);
}

}  // namespace
