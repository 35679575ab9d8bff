// links: ar_tune ar_model OpenMP::OpenMP_CXX
// Layers quantized from their weights, and the importance that weights a search: every preset gives its grid, a search is not worse than rounding,
// threads change nothing, importance is the sum of squares of what a layer reads.
#include "tune/quantizer.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <set>

#include "ar/scheme.hpp"
#include "model/block.hpp"
#include "support/random_model.hpp"
#include "tune/importance.hpp"

namespace {

using namespace auto_round;
using std::size_t;
using namespace support;

constexpr size_t rows = 256, cols = 512;

/// Heavy-tailed: a search finds something.
std::vector<float> weights() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> w(rows * cols);
  for (float& x : w) {
    const float a = normal(random);
    x = a * (1.0f + 200.0f * a * a);
  }
  return w;
}

std::vector<float> importances() {
  std::mt19937 random(4);
  std::uniform_real_distribution<float> uniform(0.01f, 4.0f);
  std::vector<float> im(cols);
  for (float& x : im) x = uniform(random);
  return im;
}

double error(const std::vector<float>& w, const std::vector<float>& q, const std::vector<float>& im) {
  double e = 0;
  for (size_t i = 0; i < w.size(); ++i) e += im[i % cols] * std::pow(static_cast<double>(w[i]) - q[i], 2);
  return e;
}

tune::quantized_layer must(const std::vector<float>& w, const ar::scheme_fields& s, const tune::rounding& how) {
  auto q = tune::quantize_layer(w.data(), "layer", s, rows, cols, how);
  EXPECT_TRUE(q.has_value()) << describe(q.error());
  return q ? std::move(*q) : tune::quantized_layer{};
}

TEST(QuantizeLayer, EveryPresetHasAGridAndASearchIsNotWorse) {
  const std::vector<float> w = weights(), im = importances();
  int better = 0;
  for (const ar::preset& p : ar::presets) {
    if (p.fields.bits >= 16) continue;
    SCOPED_TRACE(std::string(p.name));
    tune::rounding how;
    how.scale_type = p.name.starts_with("GGUF") ? ar::real::f32 : ar::real::f16;
    const tune::quantized_layer plain = must(w, p.fields, how);
    how.search = true;
    how.importance = im;
    const tune::quantized_layer searched = must(w, p.fields, how);
    ASSERT_EQ(plain.weight.size(), w.size());
    ASSERT_EQ(searched.weight.size(), w.size());
    // As many values in a group as codes, at most.
    const size_t group = p.fields.group_size > 0 ? static_cast<size_t>(p.fields.group_size) : cols;
    for (const auto* q : {&plain, &searched}) {
      const std::set<float> values(q->weight.begin(), q->weight.begin() + static_cast<std::ptrdiff_t>(group));
      EXPECT_LE(values.size(), size_t{1} << p.fields.bits);
    }
    const double before = error(w, plain.weight, im), after = error(w, searched.weight, im);
    // Scales are stored in half precision after the search, and a K type's are quantized once more.
    EXPECT_LE(after, before * (p.fields.super_bits ? 1.02 : 1.0002));
    better += after < 0.98 * before;
  }
  EXPECT_GE(better, 20);
}

TEST(QuantizeLayer, DoesNotDependOnThreads) {
  const std::vector<float> w = weights(), im = importances();
  for (const char* name : {"W4A16", "W2A16G32", "NVFP4", "FP8_BLOCK", "FPW8A16", "MXFP4", "GGUF:Q4_K_S"}) {
    std::vector<tune::quantized_layer> q;
    for (const int threads : {1, 3}) {
      omp_set_num_threads(threads);
      q.push_back(must(w, *ar::find_preset(name), {.search = true, .importance = im}));
    }
    EXPECT_EQ(q[0].weight, q[1].weight) << name;
    EXPECT_EQ(q[0].scale, q[1].scale) << name;
    EXPECT_EQ(q[0].code, q[1].code) << name;
  }
}

TEST(QuantizeLayer, CompatibilityMeansNoSearchWhereTheOriginalHasNone) {
  const std::vector<float> w = weights(), im = importances();
  ar::scheme_fields asym = *ar::find_preset("W4A16G32");
  asym.sym = false;
  for (const ar::scheme_fields& s : {asym, *ar::find_preset("FP8_STATIC")}) {
    EXPECT_FALSE(tune::searches_by_default(s, true));
    EXPECT_TRUE(tune::searches_by_default(s, false));
    EXPECT_EQ(must(w, s, {.search = true, .importance = im, .reference = true}).weight, must(w, s, {}).weight);
    EXPECT_LT(error(w, must(w, s, {.search = true, .importance = im}).weight, im), error(w, must(w, s, {}).weight, im));
  }
  EXPECT_FALSE(tune::searches_by_default(*ar::find_preset("W8A16"), false)) << "8 bits gain nothing";
}

TEST(QuantizeLayer, NamesWhatItCannotDo) {
  const std::vector<float> w = weights();
  ar::scheme_fields s = *ar::find_preset("MXFP4");
  s.bits = 3;
  const auto none = tune::quantize_layer(w.data(), "layer", s, rows, cols);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, error_kind::unsupported);
  const auto odd = tune::quantize_layer(w.data(), "layer", *ar::find_preset("GGUF:Q4_K_S"), rows, 500);
  ASSERT_FALSE(odd);
  EXPECT_EQ(odd.error().kind, error_kind::unsupported);
  std::vector<float> nan = w;
  nan[7] = std::nanf("");
  const auto damaged = tune::quantize_layer(nan.data(), "layer", *ar::find_preset("NVFP4"), rows, cols);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().kind, error_kind::input);
  const std::vector<float> few(3, 1.0f);
  EXPECT_FALSE(tune::quantize_layer(w.data(), "layer", *ar::find_preset("W4A16"), rows, cols, {.search = true, .importance = few}));
}

TEST(GlobalScales, AreSharedByLayersThatEnginesFuse) {
  const random_model m;
  std::vector<float> scales = {5, 3, 4, 7, 2, 1, 6};
  tune::share_global_scales(m.spec(), scales);
  EXPECT_EQ(scales, (std::vector<float>{3, 3, 3, 7, 1, 1, 6}));
  scales = {5, 0, -1, 7, 0, 0, 6};  // zeros: a layer of zeros; negative: not of this type
  tune::share_global_scales(m.spec(), scales);
  EXPECT_EQ(scales, (std::vector<float>{5, 5, -1, 7, 0, 0, 6}));
  tune::share_global_scales(m.spec(), scales = {5, 0, 4, 7, 2, 1, 6}, true);
  EXPECT_EQ(scales[0], 0.0f) << "as the original, whose partners of a layer of zeros become zeros";
}

TEST(Importance, IsTheSumOfSquaresOfWhatALayerReads) {
  const random_model m;
  const text::calibration_set set = calibration();
  omp_set_num_threads(1);
  const auto all = tune::collect_importance(m, set, {.batch_size = 3});
  ASSERT_TRUE(all.has_value()) << describe(all.error());
  ASSERT_EQ(all->size(), 14u);
  // Once more, with plain sums in double.
  const auto tokens = static_cast<size_t>(set.rows() * set.seqlen);
  auto x = model::embed(m, set.ids);
  ASSERT_TRUE(x.has_value());
  model::block_runner runner(m.spec(), linalg::precision::f32);
  for (std::int64_t b = 0; b < 2; ++b) {
    std::map<int, std::vector<double>> sums;
    const auto w = model::read_block(m, b);
    runner.forward(*w, x->data(), static_cast<size_t>(set.rows()), static_cast<size_t>(set.seqlen), x->data(), [&](int linear, const float* in, size_t n) {
      std::vector<double>& s = sums[linear];
      s.resize(256);
      for (size_t i = 0; i < n * 256; ++i) s[i % 256] += static_cast<double>(in[i]) * in[i];
    });
    for (int i = 0; i < 7; ++i) {
      const tune::column_importance& c = all->at(m.spec().linear_name(b, i));
      EXPECT_EQ(c.tokens, static_cast<std::int64_t>(tokens));
      EXPECT_EQ(c.sequences, set.rows());
      for (size_t k = 0; k < 256; ++k) ASSERT_NEAR(c.sum[k], sums[i][k], 1e-5 * sums[i][k]) << i;
    }
  }
  omp_set_num_threads(3);
  const auto again = tune::collect_importance(m, set, {.batch_size = 3});
  for (const auto& [name, c] : *again) EXPECT_EQ(c.sum, all->at(name).sum);
}

}  // namespace
