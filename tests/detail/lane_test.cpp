// links: hwy::hwy
// The lane vocabulary on every SIMD target that this machine has, the scalar one included, against the float lane: the same bits for zeros of
// both signs, subnormals, ties, huge values; NaN and infinity where the vocabulary takes them.
#define HWY_COMPILE_ALL_ATTAINABLE
#define AR_DISPATCH_IMPLEMENTATION
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "detail/lane_test-inl.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "detail/lane_test-inl.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace {

std::vector<float> finite_values() {
  std::vector<float> v = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, -1.5f, 2.5f, -2.5f, 0.49999997f, -0.49999997f, 8388607.5f, -8388607.5f, 8388608.0f, 8388609.0f,
                          16777217.0f, 3e38f, -3e38f, 1e-45f, -1e-45f, 1e-38f, 0x1p-25f, 0x1.8p-25f, 0x1p-24f, 0x1.8p-24f, 65504.0f, 65519.0f, 65520.0f,
                          1.0f, -1.0f, 127.5f, 128.5f, 255.0f};
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int e = -140; e < 120; e += 3)
    for (int i = 0; i < 8; ++i) v.push_back(std::ldexp(normal(random), e));
  for (int i = -1000; i < 1000; ++i) v.push_back(static_cast<float>(i) * 0.25f);
  for (int i = 0; i < 4000; ++i) {
    const float f = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isfinite(f)) v.push_back(f);
  }
  v.resize(v.size() / 64 * 64);
  return v;
}

TEST(Lanes, EveryTargetGivesTheBitsOfTheFloatLane) {
  const std::vector<float> finite = finite_values();
  std::vector<float> shuffled = finite, any = finite;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(8));
  for (std::size_t i = 0; i < shuffled.size(); i += 11) shuffled[i] = finite[i];  // equal operands, zeros of both signs among them
  for (std::size_t i = 0; i < shuffled.size(); i += 13) shuffled[i] = -finite[i];
  for (const float f : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    any.insert(any.end(), 64, f);
  for (std::uint32_t h = 0; h < 0x10000; ++h) any.push_back(ar::f32_from_f16(static_cast<std::uint16_t>(h)));
  for (std::uint32_t h = 0; h < 0x7C00; ++h) {  // every tie between halves, and its neighbors
    const float middle = 0.5f * (ar::f32_from_f16(static_cast<std::uint16_t>(h)) + ar::f32_from_f16(static_cast<std::uint16_t>(h + 1)));
    for (const float f : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) any.insert(any.end(), {f, -f});
  }
  any.resize(any.size() / 64 * 64);

  std::vector<lane_test::report> reports;
  const auto supported = hwy::SupportedTargets();
#define RUN(bit, target) \
  if ((supported & (bit)) != 0) reports.push_back(ar::target::lane_test::run(finite, shuffled, any));
#if HWY_TARGETS & HWY_AVX3
  RUN(HWY_AVX3, N_AVX3)
#endif
#if HWY_TARGETS & HWY_AVX2
  RUN(HWY_AVX2, N_AVX2)
#endif
#if HWY_TARGETS & HWY_SSE4
  RUN(HWY_SSE4, N_SSE4)
#endif
#if HWY_TARGETS & HWY_SSSE3
  RUN(HWY_SSSE3, N_SSSE3)
#endif
#if HWY_TARGETS & HWY_NEON
  RUN(HWY_NEON, N_NEON)
#endif
#if HWY_TARGETS & HWY_EMU128
  RUN(HWY_EMU128, N_EMU128)
#endif
#if HWY_TARGETS & HWY_SCALAR
  RUN(HWY_SCALAR, N_SCALAR)
#endif
  ASSERT_FALSE(reports.empty());
  for (const auto& r : reports) {
    std::printf("%-9s %zu values compared\n", r.target.c_str(), r.compared);
    EXPECT_EQ(r.wrong, 0u) << r.target << ": " << r.first;
    EXPECT_GT(r.compared, 100000u);
  }
}

}  // namespace
