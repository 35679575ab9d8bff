// The arithmetic of AWQ as a specification: sums have one order whatever the lanes, grids hold the identity, factors are centered, folding and
// unfolding are inverse, ranges only shrink; wrong shapes and numbers are refused.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "ar/awq.hpp"
#include "ar/numeric/half.hpp"

namespace {

using std::size_t;
using vec = std::vector<float>;
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

vec noise(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  vec v(n);
  for (float& x : v) x = normal(random);
  return v;
}

TEST(Awq, StatisticsHaveTheSameBitsInEveryLane) {
  // Widths around the blocks of columns (8 and 32) and lanes; more rows than a level of the sum has.
  for (const size_t cols : {1u, 5u, 8u, 17u, 40u, 64u, 100u})
    for (const int group : {-1, 4, 24, 32}) {
      SCOPED_TRACE(std::to_string(cols) + " columns, groups of " + std::to_string(group));
      const vec x = noise(337 * cols, 1);
      const ar::matrix_view<const float> view(x.data(), 337, cols), first(x.data(), 300, cols), second(x.data() + 300 * cols, 37, cols);
      vec a(cols, 3.0f), b(cols, 4.0f);
      ASSERT_EQ(ar::awq::add_magnitudes_of<ar::native_lane>(view, true, a.data()), ar::errc::ok);
      ASSERT_EQ(ar::awq::add_magnitudes_of<float>(view, true, b.data()), ar::errc::ok);
      EXPECT_EQ(a, b);
      const size_t size = group < 0 ? cols : std::min(cols, static_cast<size_t>(group)), groups = ar::ceil_div(cols, size);
      vec maxima(337 * groups);
      ASSERT_EQ(ar::add_maxima(group, view, true, {maxima.data(), 337, groups}), ar::errc::ok);
      const ar::awq::stacked_weight stack[] = {{first, {maxima.data(), 300, groups}}, {second, {maxima.data() + 300 * groups, 37, groups}}};
      ASSERT_EQ(ar::awq::weight_mean_of<ar::native_lane>(stack, group, a.data()), ar::errc::ok);
      ASSERT_EQ(ar::awq::weight_mean_of<float>(stack, group, b.data()), ar::errc::ok);
      EXPECT_EQ(a, b);
      // Where the rows lie in the stack does not matter.
      const ar::awq::stacked_weight whole[] = {{view, {maxima.data(), 337, groups}}};
      ASSERT_EQ(ar::awq::weight_mean(whole, group, b.data()), ar::errc::ok);
      EXPECT_EQ(a, b);
      for (const float m : a) EXPECT_TRUE(m > 0.0f && m < 1.0f);
    }
}

TEST(Awq, GridsHaveTheIdentityAndTheWholeExponent) {
  using ar::awq::duo_scaling;
  for (const duo_scaling duo : {duo_scaling::off, duo_scaling::on, duo_scaling::both})
    for (int n = 1; n < 30; ++n) {
      int identities = 0;
      double largest = 0;
      for (size_t i = 0; i < ar::awq::grid_size(duo, n); ++i) {
        const ar::awq::candidate c = ar::awq::grid_point(duo, n, i);
        identities += c == ar::awq::candidate{0, false};
        largest = std::max(largest, c.ratio);
      }
      EXPECT_EQ(identities, 1) << n;
      EXPECT_EQ(largest, 1.0) << n;
    }
}

TEST(Awq, FactorsAreCenteredAndSurviveOddChannels) {
  vec x = {0.5f, 8.0f, 0.0f, 1e-3f, 100.0f}, w = {0.5f, 0.2f, 0.3f, 0.0f, 0.1f}, s(5);
  ar::awq::factors({0, false}, x.data(), nullptr, 5, s.data());
  EXPECT_EQ(s, vec(5, 1.0f)) << "the identity";
  ar::awq::factors({0.5, true}, x.data(), w.data(), 5, s.data());
  float least = s[0], largest = s[0];
  for (const float f : s) {
    EXPECT_TRUE(std::isfinite(f) && f > 0);
    least = std::min(least, f);
    largest = std::max(largest, f);
  }
  EXPECT_NEAR(least * largest, 1.0f, 1e-5f);
  EXPECT_EQ(s[2], least) << "nothing flows through a dead channel";
  x[1] = nan;
  ar::awq::factors({0.5, true}, x.data(), w.data(), 5, s.data());
  EXPECT_EQ(s, vec(5, 1.0f)) << "a candidate with NaN is the identity";
}

TEST(Awq, PowersAreThoseOfTheMathematicalLibrary) {
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    const float x = std::ldexp(static_cast<float>(random() % 1000003 + 1), static_cast<int>(random() % 200) - 120), e = static_cast<float>(random() % 1000) / 999.0f;
    ASSERT_EQ(ar::power(x, e), static_cast<float>(std::pow(static_cast<long double>(x), static_cast<long double>(e)))) << x << "^" << e;
  }
  EXPECT_EQ(ar::power(nan, 0.0f), 1.0f);
  EXPECT_TRUE(std::isnan(ar::power(nan, 0.5f)));
  EXPECT_EQ(ar::power(std::numeric_limits<float>::infinity(), 0.5f), std::numeric_limits<float>::infinity());
}

TEST(Awq, ARoundedNormKeepsTheFloatModel) {
  // What the norm gives times what the column takes is the same before and after, up to two roundings of float.
  vec before = noise(64, 5), s(64);
  before[3] = 0.0f;
  for (size_t i = 0; i < 64; ++i) s[i] = std::exp(before[63 - i]);
  for (const bool offset : {false, true}) {
    vec after = before, factor = s;
    if (offset) ar::awq::unscale_offset_norm(after.data(), s.data(), 64, ar::real::bf16);
    else ar::awq::unscale_norm(after.data(), s.data(), 64, ar::real::bf16);
    ar::awq::factors_after_rounding(before.data(), after.data(), 64, offset, factor.data());
    for (size_t i = 0; i < 64; ++i) {
      const float one = offset ? 1.0f : 0.0f;
      EXPECT_NEAR((one + after[i]) * factor[i], one + before[i], 2e-7f * std::fabs(one + before[i])) << i;
      EXPECT_TRUE(before[i] == after[i] || ar::round_to_bf16(after[i]) == after[i]);
      EXPECT_GT(factor[i], 0.0f);
    }
  }
}

TEST(Awq, ClippingOnlyShrinks) {
  const vec w = noise(6 * 40, 7);
  const ar::matrix_view<const float> view(w.data(), 6, 40);
  for (const bool symmetric : {true, false}) {
    vec lo(6 * 3), hi(6 * 3), out(w.size());
    const ar::matrix_view<float> l(lo.data(), 6, 3), h(hi.data(), 6, 3), o(out.data(), 6, 40);
    ASSERT_EQ(ar::awq::clip_range(view, 16, symmetric, l, h), ar::errc::ok);  // the last group is short
    ASSERT_EQ(ar::awq::clip(view, 16, l, h, 1.0f, ar::real::f32, o), ar::errc::ok);
    EXPECT_EQ(out, w) << "the whole range clips nothing";
    EXPECT_EQ(ar::awq::clip_factor(20, 0), 1.0f);
    ASSERT_EQ(ar::awq::clip(view, 16, l, h, ar::awq::clip_factor(20, 9), ar::real::f32, o), ar::errc::ok);
    size_t smaller = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      EXPECT_LE(std::fabs(out[i]), std::fabs(w[i]));
      smaller += out[i] != w[i];
    }
    EXPECT_GE(smaller, 18u) << "at least the extreme of each group";
  }
  EXPECT_EQ(ar::awq::clip_steps(20, 0.5), 10u);
  EXPECT_EQ(ar::awq::clip_steps(1, 0.1), 1u);
}

constexpr float scaled_and_back() {
  float w[4] = {1, 2, 3, 4}, sum[2] = {};
  const float s[2] = {2, 0.5f};
  const ar::matrix_view<float> v(w, 2, 2);
  if (ar::awq::scale_columns(v, s, ar::real::f32, v) != ar::errc::ok || ar::awq::unscale_columns(v, s, ar::real::f32, v) != ar::errc::ok) return -1;
  if (ar::awq::add_magnitudes(v, true, sum) != ar::errc::ok) return -1;
  return sum[0] + 10 * sum[1];
}
static_assert(scaled_and_back() == 64.0f);  // 1 + 3 and 2 + 4

TEST(Awq, WrongShapesAndNumbersAreRefused) {
  vec w = noise(64, 9), out(64), lo(8), hi(8), s(8, 1.0f);
  const ar::matrix_view<const float> view(w.data(), 8, 8);
  const ar::matrix_view<float> small(out.data(), 7, 8), l(lo.data(), 8, 1), h(hi.data(), 8, 1);
  using ar::errc;
  EXPECT_EQ(ar::awq::scale_columns(view, s.data(), ar::real::f32, small), errc::bad_shape);
  EXPECT_EQ(ar::awq::scale_columns(view, nullptr, ar::real::f32, {out.data(), 8, 8}), errc::bad_shape);
  EXPECT_EQ(ar::awq::unscale_rows({out.data(), 8, 8}, nullptr, s.data(), 9, ar::real::f32), errc::bad_shape);
  EXPECT_EQ(ar::awq::clip_range(view, 0, true, l, h), errc::bad_value);
  EXPECT_EQ(ar::awq::clip_range(view, 4, true, l, h), errc::bad_shape);
  EXPECT_EQ(ar::awq::weight_mean({}, 4, lo.data()), errc::bad_shape);
  EXPECT_EQ(ar::awq::pseudo_quantize(view, 3, 4, true, ar::real::f32, {out.data(), 8, 8}), errc::bad_shape);
  EXPECT_EQ(ar::awq::pseudo_quantize(view, 4, 9, true, ar::real::f32, {out.data(), 8, 8}), errc::bad_value);
  w[5] = nan;
  lo.assign(8, 7.0f);
  EXPECT_EQ(ar::awq::add_magnitudes(view, true, lo.data()), errc::non_finite);
  EXPECT_EQ(ar::awq::clip_range(view, -1, true, l, h), errc::non_finite);
  EXPECT_EQ(lo, vec(8, 7.0f)) << "nothing is written";
}

}  // namespace
