// Small formats over lanes against the integer code of numeric/small_float.hpp: every code, every tie and its neighbors, the ends; for the float
// lane, the unit's vectors and xsimd. (lane_test compares the vectors of all targets with the float lane.)
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "ar/detail/lane-inl.h"
#include "ar/detail/lane_xsimd.hpp"
#include "ar/detail/small_lane-inl.h"

namespace {

using ar::lane_store;
using ar::small_format;

/// Values that tell roundings apart, as many as a whole number of vectors.
template <small_format F>
std::vector<float> telling_values() {
  std::vector<float> v = {0.0f, -0.0f, 1e-45f, -1e-45f, 3e38f, -3e38f, 1.0f, -1.0f};
  for (std::uint32_t c = 0; c <= F.max_code(); ++c) {
    const float a = ar::f32_from_small<F>(static_cast<std::uint8_t>(c)), b = c == F.max_code() ? a * 1.1f : ar::f32_from_small<F>(static_cast<std::uint8_t>(c + 1));
    const float middle = 0.5f * (a + b);
    for (const float f : {a, std::nextafter(a, 0.0f), std::nextafter(a, 1e9f), middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      v.push_back(f);
      v.push_back(-f);
    }
  }
  std::mt19937 random(3);
  for (int i = 0; i < 4000; ++i) v.push_back(std::normal_distribution<float>(0.0f, ar::small_max<F> * 0.4f)(random));
  v.resize((v.size() + 63) / 64 * 64);
  return v;
}

template <small_format F, class V>
void expect_codes_of_the_integer_code(const char* who) {
  SCOPED_TRACE(who);
  constexpr auto n = static_cast<std::size_t>(ar::lane_count<V>);
  const ar::small_grid g = ar::grid_of(F);
  const std::vector<float> x = telling_values<F>();
  for (std::size_t i = 0; i < x.size(); i += n) {
    float rounded[n], code[n], value[n];
    const V r = ar::lane_round_small(ar::lane_load<V>(x.data() + i), g), c = ar::lane_small_code(r, g);
    lane_store(r, rounded);
    lane_store(c, code);
    lane_store(ar::lane_small_value(c, g), value);
    for (std::size_t l = 0; l < n; ++l) {
      const float f = x[i + l];
      if (F.has_sign) {
        // -0 counts as positive where weights are rounded; everything else is the format's own code.
        ASSERT_EQ(static_cast<int>(code[l]), static_cast<int>(ar::small_from_f32<F>(f == 0.0f ? 0.0f : f))) << f;
        ASSERT_EQ(std::bit_cast<std::uint32_t>(value[l]), std::bit_cast<std::uint32_t>(rounded[l])) << f;
      } else if (f >= 0.0f) {
        ASSERT_EQ(static_cast<int>(code[l]), static_cast<int>(ar::small_from_f32<F>(f))) << f;
      }
    }
  }
  for (std::uint32_t c = 0; c < 256; c += n) {
    float code[n], value[n];
    for (std::size_t l = 0; l < n; ++l) code[l] = static_cast<float>((c + l) % (1u << F.bits()));
    lane_store(ar::lane_small_value(ar::lane_load<V>(code), g), value);
    for (std::size_t l = 0; l < n; ++l) {
      const float want = ar::f32_from_small<F>(static_cast<std::uint8_t>(code[l]));
      if (std::isfinite(want)) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(value[l]), std::bit_cast<std::uint32_t>(want)) << code[l];
      }
    }
  }
}

template <small_format F>
void expect_on_all_lanes() {
  expect_codes_of_the_integer_code<F, float>("float");
  expect_codes_of_the_integer_code<F, ar::vec>("vec");
  expect_codes_of_the_integer_code<F, ar::xsimd_lane<>>("xsimd");
}

TEST(SmallLanes, E2M1) { expect_on_all_lanes<ar::e2m1>(); }
TEST(SmallLanes, E2M3) { expect_on_all_lanes<ar::e2m3>(); }
TEST(SmallLanes, E3M2) { expect_on_all_lanes<ar::e3m2>(); }
TEST(SmallLanes, E4M3) { expect_on_all_lanes<ar::e4m3fn>(); }
TEST(SmallLanes, E5M2) { expect_on_all_lanes<ar::e5m2>(); }
TEST(SmallLanes, UnsignedE5M3) { expect_on_all_lanes<ar::ue5m3>(); }

TEST(SmallLanes, IntegersAreTwosComplementWithoutTheMostNegative) {
  for (const int bits : {2, 4, 8}) {
    const ar::small_grid g = ar::integer_grid(bits);
    const float limit = static_cast<float>((1 << (bits - 1)) - 1), step = 1.0f / static_cast<float>(1 << (bits - 2));
    EXPECT_EQ(g.max, limit * step);
    for (float k = -limit; k <= limit; k += 1.0f) {
      EXPECT_EQ(ar::lane_round_small(k * step, g), k * step);
      EXPECT_EQ(ar::lane_small_code(k * step, g), k < 0.0f ? k + 2.0f * (limit + 1.0f) : k);
      EXPECT_EQ(ar::lane_small_value(ar::lane_small_code(k * step, g), g), k * step);
      const float tie = (k + 0.5f) * step;
      EXPECT_EQ(ar::lane_round_small(tie, g), std::min(std::nearbyint(k + 0.5f), limit) * step);
    }
    EXPECT_EQ(ar::lane_round_small(-5.0f, g), -g.max);
    EXPECT_EQ(ar::lane_small_code(-0.0f, g), 0.0f) << "integers have one zero";
  }
}

/// lane_test looks at the vectors of every target; xsimd's batch is here.
TEST(XsimdLane, NearestIntegerIsThatOfTheFloatLane) {
  using lane = ar::xsimd_lane<>;
  constexpr auto n = static_cast<std::size_t>(ar::lane_count<lane>);
  std::vector<float> x = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, -2.5f, 0.49999997f, 4194303.0f, -4194303.0f, 4194303.5f, 4194304.0f, 8388609.0f, 3e38f, -3e38f, 1e-45f,
                          std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  std::mt19937 random(5);
  for (int i = 0; i < 4000; ++i) x.push_back(std::ldexp(std::normal_distribution<float>()(random), i % 48 - 24));
  for (int i = -500; i < 500; ++i) x.push_back(static_cast<float>(i) * 0.25f);
  x.resize(x.size() / n * n);
  for (std::size_t i = 0; i < x.size(); i += n) {
    float got[n];
    lane_store(lane_nint(ar::lane_load<lane>(x.data() + i)), got);
    for (std::size_t l = 0; l < n; ++l) ASSERT_EQ(std::bit_cast<std::uint32_t>(got[l]), std::bit_cast<std::uint32_t>(ar::lane_nint(x[i + l]))) << x[i + l];
  }
}

static_assert(ar::lane_round_small(2.5f, ar::grid_of(ar::e2m1)) == 2.0f && ar::lane_small_code(-3.0f, ar::grid_of(ar::e2m1)) == 13.0f);

}  // namespace
