// links: ar_dispatch ar_float_search
// What holds for every search and tuned forward, found by walking the kernel tables; where the default deviates from the reference, and why that is
// right. The reference's own numbers are compared in golden/data_types_search_test.cpp.
#include "ar/search.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <type_traits>

#include "support/every_target.hpp"

namespace {

using namespace every_target;
using ar::errc;
using ar::real;

constexpr std::uint32_t seed = 20261125;

std::vector<const ar::kernel_table*> targets() {
  std::vector<const ar::kernel_table*> t(16);
  t.resize(ar::all_kernels(t.data(), t.size()));
  return t;
}

std::string label(const ar::range_kernels& k) {
  const char* const formats[] = {"f32", "f16", "bf16"};
  return std::string(k.name) + " computed in " + formats[static_cast<int>(k.weight_format)] + ", scales in " +
         formats[static_cast<int>(k.scale_format)];
}

float rounded(real format, float x) { return ar::detail::rounded_to(format, x); }

/// Heavy-tailed weights: there a search finds something.
matrix weights(std::size_t rows, std::size_t cols, real format, std::uint32_t salt = 0) {
  std::mt19937 random(seed + salt);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  matrix w(std::vector<float>(rows * cols), rows, cols);
  for (float& x : w.v) {
    const float a = normal(random);
    x = rounded(format, a * (1.0f + 200.0f * a * a));
  }
  return w;
}

std::vector<float> importances(std::size_t cols, std::uint32_t salt = 0) {
  std::mt19937 random(seed + 1 + salt);
  std::uniform_real_distribution<float> uniform(0.01f, 4.0f);
  std::vector<float> im(cols);
  for (float& x : im) x = uniform(random);
  return im;
}

/// Bits, and for two-level types the maximum that the global scale follows from.
ar::type_values values(const ar::range_kernels& k, const matrix& w) {
  ar::type_values v(4);
  if (k.two_level()) v.tensor.maximum = w.largest();
  v.facts = k.facts;
  return v;
}

double weighted_error(const matrix& w, const std::vector<float>& q, const std::vector<float>& im) {
  double sum = 0.0;
  for (std::size_t i = 0; i < w.v.size(); ++i) {
    const double d = static_cast<double>(q[i]) - static_cast<double>(w.v[i]);
    sum += d * d * static_cast<double>(im[i % w.cols]);
  }
  return sum;
}

TEST(Search, EveryTargetAndTheFloatLaneGiveTheSameBits) {
  const ar::kernel_table& best = ar::kernels();
  for (std::size_t number = 0; number < best.range_type_count; ++number) {
    const ar::range_kernels& k = best.range_types[number];
    if (k.weight_format == real::f16 && k.facts != nullptr) continue;  // as bf16: only the result is rounded
    for (const int group : {-1, 7, 32, 0}) {
      SCOPED_TRACE(label(k) + ", group " + std::to_string(group));
      const matrix w = weights(3, 45, k.weight_format, static_cast<std::uint32_t>(number));
      std::vector<float> im = importances(45);
      im[3] = im[4] = 0.0f;
      const quantizer q{k.name, k.weight_format, k.scale_format, 3, group, {}};
      for (const ar::search_options& how : {ar::search_options{}, ar::search_options{.importance = im.data(), .neuqi = true}}) {
        room want(w, q);
        ASSERT_EQ(float_search()[number].search(values(k, w), q.group, w.view(), how, want.views()), errc::ok);
        for (const ar::kernel_table* t : targets()) {
          room got(w, q);
          ASSERT_EQ(t->range_types[number].search(values(k, w), q.group, w.view(), how, got.views()), errc::ok);
          compare(got.r, want.r, t->target);
          EXPECT_EQ(got.code, want.code);
        }
      }
    }
  }
}

TEST(Search, OneBitTriesTheZeroPointsThatThereAre) {
  const matrix w = weights(16, 128, real::f32);
  const std::vector<float> im = importances(128);
  std::vector<float> plain(w.v.size()), searched(w.v.size()), scalar(w.v.size()), scale(16 * 4), zero(16 * 4);
  const auto check = [&](const auto& s, const ar::search_options& how) {
    ASSERT_EQ(ar::qdq(s, w.view(), {plain.data(), w.rows, w.cols}), errc::ok);
    ASSERT_EQ(ar::search(s, w.view(), how, {.scale = {scale.data(), 16, 4}, .zero_point = {zero.data(), 16, 4}, .weight = {searched.data(), w.rows, w.cols}}), errc::ok);
    EXPECT_LT(weighted_error(w, searched, im), weighted_error(w, plain, im));
    for (const float z : zero) EXPECT_TRUE(z == 0.0f || z == 1.0f) << z;
    ASSERT_EQ((ar::searches::search<std::decay_t<decltype(s.type)>, float>(s.type, s.shape(), w.view(), how, {.weight = {scalar.data(), w.rows, w.cols}})), errc::ok);
    EXPECT_EQ(scalar, searched);
  };
  check(ar::scheme<ar::int_sym<1>, ar::group<32>>{}, {.importance = im.data()});
  check(ar::scheme<ar::int_sym<1>, ar::group<32>>{}, {.importance = im.data(), .neuqi = true});
  check(ar::scheme<ar::int_asym<1>, ar::group<32>>{}, {.importance = im.data(), .neuqi = true});
}

TEST(Search, IsNotWorseThanTheRangeAndFindsSomething) {
  // The plain range is among the candidates, and results of float weights are not rounded once more (scales of f16 are, so a search may lose a
  // little).
  int better = 0, types = 0;
  for (std::size_t number = 0; number < ar::kernels().range_type_count; ++number) {
    const ar::range_kernels& k = ar::kernels().range_types[number];
    if (k.weight_format != real::f32) continue;
    SCOPED_TRACE(label(k));
    const matrix w = weights(16, 128, real::f32);
    const std::vector<float> im = importances(128);
    std::vector<float> plain(w.v.size()), searched(w.v.size());
    ASSERT_EQ(k.qdq(values(k, w), 32, w.view(), {plain.data(), w.rows, w.cols}), errc::ok);
    ASSERT_EQ(k.search(values(k, w), 32, w.view(), {.importance = im.data()}, {.weight = {searched.data(), w.rows, w.cols}}), errc::ok);
    const double before = weighted_error(w, plain, im), after = weighted_error(w, searched, im);
    EXPECT_LE(after, before * 1.0001);
    better += after < 0.98 * before ? 1 : 0;
    ++types;
  }
  EXPECT_GE(better, 8);
  std::printf("%d of %d types gain more than 2 %%\n", better, types);
}

TEST(Search, CodesScalesAndWeightsBelongTogether) {
  for (std::size_t number = 0; number < ar::kernels().range_type_count; ++number) {
    const ar::range_kernels& k = ar::kernels().range_types[number];
    SCOPED_TRACE(label(k));
    const matrix w = weights(4, 70, k.weight_format);
    const quantizer q{k.name, k.weight_format, k.scale_format, 4, 32, {}};
    room o(w, q);
    const ar::group_output out = o.views();
    ASSERT_EQ(k.search(values(k, w), 32, w.view(), {}, out), errc::ok);
    std::vector<float> back(w.v.size());
    ASSERT_EQ(k.dequantize(values(k, w), 32, out.code, out.scale, out.zero_point, {back.data(), w.rows, w.cols}), errc::ok);
    for (std::size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], o.r.weight[i]) << i;
    // Any subset of the outputs is the same.
    std::vector<float> only(w.v.size());
    ASSERT_EQ(k.search(values(k, w), 32, w.view(), {}, {.weight = {only.data(), w.rows, w.cols}}), errc::ok);
    EXPECT_TRUE(same_bits(only, o.r.weight));
    std::vector<float> in_place = w.v;
    ASSERT_EQ(k.search(values(k, w), 32, {in_place.data(), w.rows, w.cols}, {}, {.weight = {in_place.data(), w.rows, w.cols}}), errc::ok);
    EXPECT_TRUE(same_bits(in_place, o.r.weight));
  }
}

TEST(Search, WorksInConstantExpressions) {
  constexpr float scale = [] {
    float w[8] = {0.1f, -0.7f, 0.3f, 0.2f, -0.1f, 0.05f, 0.6f, 0.0f}, s[1] = {};
    return ar::search(ar::scheme<ar::int_sym<3>, ar::group<8>>{}, {w, 1, 8}, {}, {.scale = {s, 1, 1}}) == errc::ok ? s[0] : 0.0f;
  }();
  static_assert(scale > 0.0f, "the larger side is the negative one");
}

TEST(Search, OddArgumentsAreErrorsAndNothingIsWritten) {
  const ar::range_kernels& k = *ar::kernels().range_type("int_sym");
  const matrix w = weights(2, 64, real::f32);
  std::vector<float> out(w.v.size(), 7.0f), scale(4, 7.0f), im(64, 1.0f);
  const ar::group_output o{.scale = {scale.data(), 2, 2}, .weight = {out.data(), 2, 64}};
  EXPECT_EQ(k.search(9, 32, w.view(), {}, o), errc::bad_value);
  EXPECT_EQ(k.search(4, 32, w.view(), {.neuqi_fine = 0}, o), errc::bad_value);
  EXPECT_EQ(k.search(4, 32, w.view(), {.scale_ratio = 1.5}, o), errc::bad_value);
  EXPECT_EQ(k.search(4, 32, w.view(), {.least_scale = -1.0f}, o), errc::bad_value);
  EXPECT_EQ(k.search(4, 32, w.view(), {.reference = true}, o), errc::bad_value) << "scales are of the weights' format there";
  EXPECT_EQ(k.search(4, {32, 2}, w.view(), {}, o), errc::unsupported);
  EXPECT_EQ(k.search(4, 16, w.view(), {}, o), errc::bad_shape);
  EXPECT_EQ(k.search(4, 32, w.view(), {}, {.code = {nullptr, 2, 64}, .weight = {out.data(), 2, 63}}), errc::bad_shape);
  for (const float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    im[63] = bad;
    EXPECT_EQ(k.search(4, 32, w.view(), {.importance = im.data()}, o), errc::bad_value);
    matrix odd = w;
    if (bad < 0.0f) continue;
    odd.v[5] = bad;
    EXPECT_EQ(k.search(4, 32, odd.view(), {}, o), errc::non_finite);
    EXPECT_EQ(k.quantize_tuned(4, 32, odd.view(), {}, o), errc::non_finite);
    EXPECT_EQ(k.quantize_tuned(4, 32, w.view(), {.v = odd.view()}, o), errc::bad_value);
  }
  EXPECT_EQ(k.quantize_tuned(4, 32, w.view(), {.max_scale = {im.data(), 1, 2}}, o), errc::bad_shape);
  const ar::range_kernels& two = *ar::kernels().range_type("nvfp4");
  std::vector<float> scales(8, 7.0f);
  EXPECT_EQ(two.search(4, 16, w.view(), {}, {.scale = {scales.data(), 2, 4}}), errc::bad_value) << "nobody would know the global scale";
  for (const auto* written : {&out, &scale, &scales})
    for (const float x : *written) ASSERT_EQ(x, 7.0f);
  EXPECT_EQ(k.search(4, 32, {nullptr, 0, 64}, {}, {}), errc::ok) << "nothing to do";
  EXPECT_EQ(k.search(4, 32, {nullptr, 3, 0}, {.importance = im.data()}, {}), errc::ok);
}

TEST(Tuned, WithoutValuesItIsRoundingToNearest) {
  for (std::size_t number = 0; number < ar::kernels().range_type_count; ++number) {
    const ar::range_kernels& k = ar::kernels().range_types[number];
    // Block FP8 of half formats: a tuned layer's scale is float, that of rounding to nearest is not.
    if (k.facts != nullptr && k.facts->scale != real::f32) continue;
    SCOPED_TRACE(label(k));
    const matrix w = weights(4, 70, k.weight_format);
    std::vector<float> nearest(w.v.size()), tuned(w.v.size());
    ASSERT_EQ(k.qdq(values(k, w), 32, w.view(), {nearest.data(), w.rows, w.cols}), errc::ok);
    ASSERT_EQ(k.quantize_tuned(values(k, w), 32, w.view(), {}, {.weight = {tuned.data(), w.rows, w.cols}}), errc::ok);
    for (std::size_t i = 0; i < tuned.size(); ++i) ASSERT_EQ(tuned[i], nearest[i]) << i;
  }
}

// ---- Where the default is right and the reference is not ----

TEST(Deviation, IntegersAreSearchedInFloat) {
  // A bfloat16 model has bfloat16 scales and errors in the reference, too coarse for 8 bits.
  const matrix w = weights(8, 256, real::bf16);
  const std::vector<float> flat(256, 1.0f);
  std::vector<float> nearest(w.v.size()), right(w.v.size()), reference(w.v.size());
  const ar::range_kernels& k = *ar::kernels().range_type("int_sym", real::bf16, real::f16);
  ASSERT_EQ(k.qdq(8, 128, w.view(), {nearest.data(), w.rows, w.cols}), errc::ok);
  ASSERT_EQ(k.search(8, 128, w.view(), {}, {.weight = {right.data(), w.rows, w.cols}}), errc::ok);
  ASSERT_EQ(ar::kernels()
                .range_type("int_sym", real::bf16, real::bf16)
                ->search(8, 128, w.view(), {.least_scale = 1e-5f, .reference = true}, {.weight = {reference.data(), w.rows, w.cols}}),
            errc::ok);
  EXPECT_LE(weighted_error(w, right, flat), weighted_error(w, nearest, flat) * 1.0001);
  EXPECT_LT(weighted_error(w, right, flat), weighted_error(w, reference, flat));
  std::printf("squared error: nearest %.3g, searched in float %.3g, in bfloat16 %.3g\n", weighted_error(w, nearest, flat),
              weighted_error(w, right, flat), weighted_error(w, reference, flat));
}

TEST(Deviation, OneUnseenColumnDoesNotDiscardTheImportanceOfTheOthers) {
  // With groups that are rows the reference replaces the whole importance by |w| because of one zero.
  const matrix w = weights(4, 96, real::f32);
  std::vector<float> im = importances(96), without;
  for (std::size_t i = 0; i < 96; i += 3) im[i] *= 100.0f;
  im[7] = 0.0f;
  std::vector<float> right(w.v.size()), reference(w.v.size()), mean_given(w.v.size());
  const ar::range_kernels& k = *ar::kernels().range_type("int_sym", real::f32, real::f32);
  ASSERT_EQ(k.search(4, -1, w.view(), {.importance = im.data()}, {.weight = {right.data(), w.rows, w.cols}}), errc::ok);
  ASSERT_EQ(k.search(4, -1, w.view(), {.importance = im.data(), .reference = true}, {.weight = {reference.data(), w.rows, w.cols}}), errc::ok);
  EXPECT_LT(weighted_error(w, right, im), weighted_error(w, reference, im));
  // The column gets the mean of the others, no more and no less.
  const float sum = ar::detail::rowsum(im.data(), 96);
  im[7] = sum / 95.0f;
  ASSERT_EQ(k.search(4, -1, w.view(), {.importance = im.data()}, {.weight = {mean_given.data(), w.rows, w.cols}}), errc::ok);
  EXPECT_TRUE(same_bits(right, mean_given));
}

TEST(Deviation, FloatsOfEightBitsAreSearchedToo) {
  // The reference has no search for FP8: there the range decides.
  const matrix w = weights(8, 128, real::f32);
  const std::vector<float> flat(128, 1.0f);
  for (const char* type : {"fp8", "fp8e5m2"}) {
    const ar::range_kernels& k = *ar::kernels().range_type(type);
    std::vector<float> nearest(w.v.size()), right(w.v.size()), reference(w.v.size());
    ASSERT_EQ(k.qdq(8, -1, w.view(), {nearest.data(), w.rows, w.cols}), errc::ok);
    ASSERT_EQ(k.search(8, -1, w.view(), {}, {.weight = {right.data(), w.rows, w.cols}}), errc::ok);
    ASSERT_EQ(k.search(8, -1, w.view(), {.reference = true}, {.weight = {reference.data(), w.rows, w.cols}}), errc::ok);
    EXPECT_TRUE(same_bits(reference, nearest));
    EXPECT_LT(weighted_error(w, right, flat), weighted_error(w, nearest, flat));
  }
}

TEST(Deviation, TwoLevelScalesAreSearchedWithTheGlobalScaleThatIsUsed) {
  // Layers that share a global scale: the reference searches with the layer's own one.
  const matrix w = weights(8, 128, real::f32);
  const ar::range_kernels& k = *ar::kernels().range_type("nvfp4");
  ar::type_values shared = values(k, w);
  shared.tensor = {.global_scale = k.global_scale(w.largest()) * 0.013f};  // a partner with far larger weights: block scales are subnormal
  const std::vector<float> flat(128, 1.0f);
  std::vector<float> right(w.v.size()), reference(w.v.size());
  ASSERT_EQ(k.search(shared, 16, w.view(), {}, {.weight = {right.data(), w.rows, w.cols}}), errc::ok);
  ASSERT_EQ(k.search(shared, 16, w.view(), {.reference = true}, {.weight = {reference.data(), w.rows, w.cols}}), errc::ok);
  EXPECT_LT(weighted_error(w, right, flat), weighted_error(w, reference, flat));
}

}  // namespace
