// links: ar_autoscheme ar_tune OpenMP::OpenMP_CXX
// Scores of one pass over the float model for all options, and what they have to do with those at the quantized points.
#include "autoscheme/delta_loss.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <filesystem>
#include <vector>

#include "autoscheme/fake_quantizer.hpp"
#include "model/block.hpp"
#include "model/head.hpp"
#include "support/random_model.hpp"
#include "support/scored_layers.hpp"
#include "support/temp_dir.hpp"
#include "tune/quantizer.hpp"

namespace {

using namespace auto_round;
using namespace auto_round::autoscheme;

/// The random model with a final norm of ones and its embedding as head.
class tied_model final : public model::weight_source {
 public:
  tied_model() : spec_(model_.spec()) { spec_.tie_word_embeddings = true; }
  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return name == spec_.final_norm_name || model_.has(name); }
  result<void> read(const std::string& name, std::span<float> out) const override {
    if (name != spec_.final_norm_name) return model_.read(name, out);
    std::fill(out.begin(), out.end(), 1.0f);
    return {};
  }

  std::vector<layer> layers() const { return support::scored_layers(spec_); }

 private:
  support::random_model model_;
  model::model_spec spec_;
};

const ar::scheme_fields& preset(const char* name) { return *ar::find_preset(name); }

score_table scores(const tied_model& m, const std::vector<layer>& layers, const std::vector<ar::scheme_fields>& schemes, const score_options& options) {
  std::vector<std::vector<ar::scheme_fields>> table;
  for (const ar::scheme_fields& s : schemes) table.emplace_back(layers.size(), s);
  text::calibration_set set = support::calibration();
  set.batch_rows = {4, 0, 2};
  auto t = delta_loss(m, set, layers, table, options);
  if (!t) throw std::runtime_error(describe(t.error()));
  return *t;
}

TEST(DeltaLoss, OnePassScoresAllOptionsAsIfEachWereAlone) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<ar::scheme_fields> schemes = {preset("W2A16G64"), preset("W4A16G64"), preset("MXFP4"), preset("BF16")};
  const score_table all = scores(m, layers, schemes, {});
  ASSERT_EQ(all.losses.size(), 1u);
  EXPECT_EQ(all.losses[0].size(), 2u);  // an empty batch is none
  for (std::size_t o = 0; o < schemes.size(); ++o) EXPECT_EQ(scores(m, layers, {schemes[o]}, {}).scores[0], all.scores[o]) << o;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    EXPECT_GT(all.scores[0][l], 3 * all.scores[1][l]) << layers[l].name;  // two bits fewer: steps four times as long
    EXPECT_GT(all.scores[1][l], 0) << layers[l].name;
    EXPECT_EQ(all.scores[3][l], 0) << layers[l].name;  // 16 bits cost nothing
  }
}

TEST(DeltaLoss, APassThatIsCutShortAnywhereGoesOnWithTheSameScores) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  std::vector<std::vector<ar::scheme_fields>> table;
  for (const char* name : {"W2A16G64", "BF16", "MXFP4"}) table.emplace_back(layers.size(), preset(name));
  text::calibration_set set = support::calibration();
  set.batch_rows = {4, 2};
  for (const bool at_quantized : {false, true})
    for (const bool spilled : {false, true}) {
      const support::temp_dir dir;
      score_options options{.gradient_at_quantized = at_quantized, .scratch_folder = spilled ? dir / "" : std::string()};
      std::int64_t all = 0;
      const auto whole = delta_loss(m, set, layers, table, options, [&](std::int64_t, std::int64_t steps) -> result<void> {
        all = steps;
        return {};
      });
      ASSERT_TRUE(whole);
      EXPECT_EQ(all, at_quantized ? 16 : 8);  // forward and back through two blocks, for each batch
      for (std::int64_t cut = 1; cut <= all; ++cut) {
        SCOPED_TRACE(cut);
        const auto pass = [&](std::int64_t end, std::vector<std::int64_t>& steps) {
          auto file = tune::pass_file::open(dir / "pass", io::json(io::json::object{}));
          EXPECT_TRUE(file);
          options.kept = &*file;
          auto scores = delta_loss(m, set, layers, table, options, [&](std::int64_t done, std::int64_t) -> result<void> {
            steps.push_back(done);
            if (done == end) return fail(error_kind::interrupted, "enough");
            return {};
          });
          if (scores) file->remove();
          return scores;
        };
        std::vector<std::int64_t> before, behind;
        ASSERT_FALSE(pass(cut, before));
        const auto rest = pass(0, behind);
        ASSERT_TRUE(rest);
        EXPECT_EQ(rest->scores, whole->scores);
        EXPECT_EQ(rest->losses, whole->losses);
        // Again: the forward half of the batch, and no block that was scored. (What was scored last is not kept by itself: the pass is done.)
        std::vector<std::int64_t> expected;
        const std::int64_t batch = cut == all ? all - 4 : cut / 4 * 4, scored = cut == all ? 1 : std::max<std::int64_t>(0, cut % 4 - 2);
        for (std::int64_t s = batch + 1; s <= batch + 2; ++s) expected.push_back(s);
        for (std::int64_t s = batch + 3 + scored; s <= all; ++s) expected.push_back(s);
        EXPECT_EQ(behind, expected);
      }
    }
}

struct last_gradient {
  std::vector<float> g;
  double loss = 0;
};

/// dL/dW of `down` of the last block, all samples as one batch: everything behind it is final norm and head.
last_gradient gradient_of_last_down(const tied_model& m) {
  text::calibration_set set = support::calibration();
  auto x = model::embed(m, set.ids);
  model::block_runner runner(m.spec(), linalg::precision::f32);
  const auto first = model::read_block(m, 0), last = model::read_block(m, 1);
  runner.forward(*first, x->data(), 6, 8, x->data());
  const std::vector<float> input = *x;
  runner.forward_train(*last, input.data(), 6, 8, x->data());
  const auto head = model::read_head(m);
  std::vector<float> d(x->size());
  last_gradient out{std::vector<float>(256 * 256)};
  out.loss = model::causal_loss(*head, x->data(), set.ids, set.valid, 8, d.data());
  std::vector<float*> wanted(7, nullptr);
  wanted[6] = out.g.data();
  runner.backward(*last, d.data(), wanted, false);
  return out;
}

double by_hand(const last_gradient& of, const std::vector<float>& weight, const std::vector<float>& rounded) {
  double sum = 0;
  for (std::size_t i = 0; i < of.g.size(); ++i) sum += std::abs(static_cast<double>(of.g[i]) * (static_cast<double>(weight[i]) - static_cast<double>(rounded[i])));
  return sum;
}

TEST(DeltaLoss, AScoreIsGradientTimesDifference) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<std::vector<ar::scheme_fields>> table = {std::vector<ar::scheme_fields>(layers.size(), preset("W4A16G64"))};
  auto got = delta_loss(m, support::calibration(), layers, table, {});  // no batch_rows: one batch
  ASSERT_TRUE(got);
  const last_gradient expected = gradient_of_last_down(m);
  EXPECT_EQ(got->losses[0][0], expected.loss);
  const auto weight = model::read_tensor(m, "layers.1.down.weight", {256, 256});
  const auto rounded = fake_quantize_weight(weight->data(), "down", preset("W4A16G64"), 256, 256);
  const double sum = by_hand(expected, *weight, *rounded);
  EXPECT_NEAR(got->scores[0][13], sum, 1e-5 * sum);
}

TEST(DeltaLoss, SearchedSchemesAreScoredAsTheyAreWritten) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<ar::scheme_fields> schemes = {preset("GGUF:Q2_K_S"), preset("W2A16G64"), preset("W8A16G64")};
  tune::importance_matrix importance;
  for (const layer& l : layers) {
    if (l.name == "layers.1.up") continue;  // an expert that no token chose has none, either
    tune::column_importance& c = importance[l.name];
    c.sequences = c.tokens = 1;
    for (std::uint64_t i = 0; i < l.cols; ++i) c.sum.push_back(i % 16 == 0 ? 40.0f : 0.1f);
  }
  importance["layers.1.gate"].tokens = 0;
  score_options options{.searched = [](const ar::scheme_fields& s) { return s.bits < 8; }, .importance = &importance};
  const score_table plain = scores(m, layers, schemes, {}), searched = scores(m, layers, schemes, options);
  options.importance = nullptr;
  const score_table alike = scores(m, layers, schemes, options);
  EXPECT_EQ(searched.scores[2], plain.scores[2]);  // not searched
  EXPECT_EQ(alike.scores[0], plain.scores[0]);     // K types search always; what is added is the importance
  EXPECT_NE(alike.scores[1], plain.scores[1]);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const bool unseen = layers[l].name == "layers.1.up" || layers[l].name == "layers.1.gate";
    EXPECT_EQ(searched.scores[0][l] == alike.scores[0][l], unseen) << layers[l].name;
    EXPECT_EQ(searched.scores[1][l] == alike.scores[1][l], unseen) << layers[l].name;
  }

  // `down` of the last block by hand, with the values that a run with this importance writes.
  const auto weight = model::read_tensor(m, "layers.1.down.weight", {256, 256});
  const std::vector<float> columns = tune::importance_of(importance, "layers.1.down");
  const auto written = tune::quantize_layer(weight->data(), "layers.1.down", schemes[0], 256, 256, {.scale_type = ar::real::f32, .search = true, .importance = columns});
  ASSERT_TRUE(written);
  const std::vector<std::vector<ar::scheme_fields>> table = {std::vector<ar::scheme_fields>(layers.size(), schemes[0])};
  options.importance = &importance;
  const auto got = delta_loss(m, support::calibration(), layers, table, options);
  ASSERT_TRUE(got);
  const double sum = by_hand(gradient_of_last_down(m), *weight, written->weight);
  EXPECT_NEAR(got->scores[0].back(), sum, 1e-5 * sum);
}

TEST(DeltaLoss, BothPointsAgreeWhereRoundingIsFine) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<ar::scheme_fields> schemes = {preset("W8A16G32")};
  const score_table here = scores(m, layers, schemes, {}), there = scores(m, layers, schemes, {.gradient_at_quantized = true});
  // 8 bits move the loss by little, and with it the gradients: a hundredth is far more than they move, and far less than a wrong point would give.
  for (std::size_t l = 0; l < layers.size(); ++l) EXPECT_NEAR(here.scores[0][l], there.scores[0][l], 0.02 * here.scores[0][l]) << layers[l].name;
  EXPECT_NEAR(here.losses[0][0], there.losses[0][0], 0.01 * here.losses[0][0]);
}

TEST(DeltaLoss, ActivationsCountWhereTheyAreRounded) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<ar::scheme_fields> schemes = {preset("W4A16G32"), preset("MXFP4"), preset("MXFP8")};
  for (const bool quantized : {false, true}) {
    const score_table with = scores(m, layers, schemes, {.gradient_at_quantized = quantized});
    const score_table without = scores(m, layers, schemes, {.gradient_at_quantized = quantized, .activations = false});
    EXPECT_EQ(with.scores[0], without.scores[0]);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const double four = with.scores[1][l] - without.scores[1][l], eight = with.scores[2][l] - without.scores[2][l];
      EXPECT_GT(eight, 0) << layers[l].name;
      EXPECT_GT(four, 3 * eight) << layers[l].name;  // one bit of mantissa against three
    }
  }
}

TEST(DeltaLoss, FixedLayersStayInFloat) {
  const tied_model m;
  std::vector<layer> layers = m.layers();
  const std::vector<ar::scheme_fields> schemes = {preset("W2A16G64")};
  for (layer& l : layers)
    if (l.name != "layers.1.down") l.fixed = preset("W2A16G64");
  const score_table t = scores(m, layers, schemes, {.gradient_at_quantized = true});
  for (std::size_t l = 0; l + 1 < layers.size(); ++l) EXPECT_EQ(t.scores[0][l], 0);
  EXPECT_GT(t.scores[0].back(), 0);
  // Only the last layer is rounded, so that the loss is near that of the float model.
  const score_table all = scores(m, m.layers(), schemes, {.gradient_at_quantized = true}), none = scores(m, layers, schemes, {});
  EXPECT_LT(std::abs(t.losses[0][0] - none.losses[0][0]), std::abs(all.losses[0][0] - none.losses[0][0]));
}

TEST(DeltaLoss, DoesNotDependOnThreads) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<ar::scheme_fields> schemes = {preset("W3A16G64"), preset("NVFP4"), preset("GGUF:Q4_K_S")};
  const int threads = omp_get_max_threads();
  const score_table a = scores(m, layers, schemes, {});
  omp_set_num_threads(3);
  const score_table b = scores(m, layers, schemes, {});
  omp_set_num_threads(threads);
  EXPECT_EQ(a.scores, b.scores);
}

TEST(DeltaLoss, InputsInAFileGiveTheSameScores) {
  const tied_model m;
  const std::vector<ar::scheme_fields> schemes = {preset("W2A16G64"), preset("MXFP4")};
  const support::temp_dir folder;
  for (const bool quantized : {false, true}) {
    const score_table memory = scores(m, m.layers(), schemes, {.gradient_at_quantized = quantized});
    const score_table file = scores(m, m.layers(), schemes, {.gradient_at_quantized = quantized, .scratch_folder = folder.path()});
    EXPECT_EQ(memory.scores, file.scores);
    EXPECT_EQ(memory.losses, file.losses);
    EXPECT_NE(memory.scores[0], memory.scores[1]);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  text::calibration_set set = support::calibration();
  const auto lost = delta_loss(m, set, m.layers(), std::vector(1, std::vector(m.layers().size(), preset("W4A16G64"))), {.scratch_folder = folder / "missing"});
  ASSERT_FALSE(lost.has_value());
  EXPECT_EQ(lost.error().kind, error_kind::output);
}

TEST(DeltaLoss, TellsItsProgressAndStopsWhenAsked) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<std::vector<ar::scheme_fields>> table = {std::vector<ar::scheme_fields>(layers.size(), preset("W4A16G64"))};
  text::calibration_set set = support::calibration();
  std::int64_t last = 0;
  ASSERT_TRUE(delta_loss(m, set, layers, table, {}, [&](std::int64_t done, std::int64_t all) -> result<void> {
    EXPECT_EQ(done, last + 1);
    EXPECT_EQ(all, 4);
    last = done;
    return {};
  }));
  EXPECT_EQ(last, 4);
  const auto stopped = delta_loss(m, set, layers, table, {}, [](std::int64_t done, std::int64_t) -> result<void> {
    if (done == 2) return fail(error_kind::interrupted, "enough");
    return {};
  });
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().kind, error_kind::interrupted);
}

TEST(DeltaLoss, WhatCannotBeScoredIsRefused) {
  const tied_model m;
  const std::vector<layer> layers = m.layers();
  const std::vector<std::vector<ar::scheme_fields>> table = {std::vector<ar::scheme_fields>(layers.size(), preset("W4A16G64"))};
  const auto nothing = delta_loss(m, text::calibration_set{}, layers, table, {});
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().kind, error_kind::input);
  ar::scheme_fields odd = preset("W4A16G64");
  odd.data_type = "unknown";
  const std::vector<std::vector<ar::scheme_fields>> wrong = {std::vector<ar::scheme_fields>(layers.size(), odd)};
  const auto unknown = delta_loss(m, support::calibration(), layers, wrong, {});
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().kind, error_kind::unsupported);
}

}  // namespace
