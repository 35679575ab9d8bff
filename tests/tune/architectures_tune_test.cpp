// links: ar_tune ar_arch ar_model ar_text OpenMP::OpenMP_CXX
// Tuning on tiny models of every architecture: every linear layer comes out once and in its scheme, experts that no token reached too; what is tuned is
// nearer than what is rounded; ways of tuning that need LLaMA's layout say so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/tiny_checkpoint.hpp"
#include "tune/gram.hpp"
#include "tune/importance.hpp"
#include "tune/signround.hpp"
#include "tune/static_scales.hpp"
#include "tune/unseen_experts.hpp"

namespace {

using namespace auto_round;
using support::checkpoint;

text::calibration_set calibration(std::int64_t vocab, int samples = 6, int seqlen = 16) {
  text::calibration_set set;
  set.seqlen = seqlen;
  std::mt19937 random(3);
  for (int i = 0; i < samples * seqlen; ++i) {
    set.ids.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab)));
    set.valid.push_back(1);
  }
  return set;
}

class Tuning : public testing::TestWithParam<std::string> {
 protected:
  checkpoint model_{support::architecture_folder(GetParam())};
  const model::model_spec& spec_ = model_.source.spec();

  tune::layer_choices choices(const ar::scheme_fields& scheme) const {
    tune::layer_choices all;
    for (std::int64_t b = 0; b < spec_.num_layers; ++b)
      for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i)
        if (spec_.has_linear(b, i)) all[spec_.linear_name(b, i)] = {scheme};
    return all;
  }
};

TEST_P(Tuning, BlockLoopTunesEveryLayer) {
  for (const int act_bits : {16, 8}) {
    const ar::scheme_fields scheme{.bits = 3, .group_size = 16, .sym = true, .data_type = "int", .act_bits = act_bits, .act_group_size = -1, .act_sym = true,
                                   .act_data_type = act_bits == 8 ? "int" : "float", .act_dynamic = true};
    const auto all = choices(scheme);
    tune::signround_options o;
    o.iters = 12;
    o.batch_size = 3;
    std::map<std::string, int> seen;
    double first = 0, best = 0;
    tune::tuning_events events;
    events.on_block = [&](const tune::block_result& b, std::vector<tune::quantized_layer>&& layers) -> result<void> {
      for (const auto& l : layers) {
        ++seen[l.name];
        EXPECT_EQ(l.scheme.bits, 3);
        EXPECT_EQ(l.weight.size(), l.rows * l.cols);
      }
      EXPECT_EQ(b.quantized, b.layers);
      first += b.first_loss;
      best += b.best_loss;
      return {};
    };
    const auto done = tune::run_signround(model_.source, calibration(spec_.vocab_size), all, o, events);
    ASSERT_TRUE(done) << describe(done.error());
    EXPECT_EQ(seen.size(), all.size());
    for (const auto& [name, times] : seen) EXPECT_EQ(times, 1) << name;
    EXPECT_LT(best, first);
  }
}

TEST_P(Tuning, ImportanceKnowsEveryLayer) {
  tune::importance_options o;
  o.batch_size = 2;
  // One sample of two tokens: some experts see none.
  const auto few = tune::collect_importance(model_.source, calibration(spec_.vocab_size, 1, 2), o);
  ASSERT_TRUE(few) << describe(few.error());
  const auto many = tune::collect_importance(model_.source, calibration(spec_.vocab_size), o);
  ASSERT_TRUE(many);
  EXPECT_EQ(few->size(), choices({}).size());
  std::int64_t unseen = 0;
  for (const auto& [name, c] : *few) unseen += c.tokens == 0;
  if (spec_.mixture.experts > 0) EXPECT_GT(unseen, 0);
  else EXPECT_EQ(unseen, 0);
  for (std::int64_t b = 0; b < spec_.num_layers; ++b)
    for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i) {
      if (!spec_.has_linear(b, i)) continue;
      const auto& c = many->at(spec_.linear_name(b, i));
      EXPECT_EQ(c.sum.size(), static_cast<std::size_t>(spec_.linears[static_cast<std::size_t>(i)].in_features));
      EXPECT_EQ(c.sum, many->at(spec_.linear_name(b, spec_.reader(i))).sum);
    }
}

/// What is counted is what the gates of the experts read, whoever makes the pass.
TEST_P(Tuning, TokensOfExpertsAreCounted) {
  const model::mixture_spec& m = spec_.mixture;
  const text::calibration_set set = calibration(spec_.vocab_size);
  tune::expert_tokens searched, tuned;
  tune::importance_options o;
  o.experts = &searched;
  o.batch_size = 2;
  const auto matrix = tune::collect_importance(model_.source, set, o);
  ASSERT_TRUE(matrix) << describe(matrix.error());
  for (std::int64_t b = 0; b < spec_.num_layers; ++b) {
    const bool mixture = m.experts > 0 && spec_.has_linear(b, m.first);
    ASSERT_EQ(searched.contains(b), mixture);
    for (std::int64_t e = 0; mixture && e < m.experts; ++e)
      EXPECT_EQ(searched[b].at(static_cast<std::size_t>(e)), static_cast<std::uint64_t>(matrix->at(spec_.linear_name(b, m.first + 3 * static_cast<int>(e))).tokens)) << b << " " << e;
  }
  tune::signround_options options;
  options.iters = 1;
  options.batch_size = 3;
  options.nblocks = 2;
  tune::tuning_events events;
  events.experts = &tuned;
  events.on_block = [](const tune::block_result&, std::vector<tune::quantized_layer>&&) { return result<void>(); };
  ASSERT_TRUE(tune::run_signround(model_.source, set, choices({.bits = 4, .group_size = 16, .sym = true, .data_type = "int"}), options, events));
  EXPECT_EQ(tuned, searched);
}

/// Two tokens reach at most two times so many experts as one: of some nothing is known.
TEST_P(Tuning, ExpertsThatNoTokenReachedGetWhatTheOthersHave) {
  const model::mixture_spec& m = spec_.mixture;
  if (m.experts == 0) return;
  const text::calibration_set few = calibration(spec_.vocab_size, 1, 2);
  std::vector<std::string> names;
  for (const auto& [name, choice] : choices(*ar::find_preset("FP8_STATIC"))) names.push_back(name);
  tune::maxima_collector collector(spec_, names, {});
  tune::importance_options io;
  io.maxima = &collector;
  const auto importance = tune::collect_importance(model_.source, few, io);
  ASSERT_TRUE(importance);
  tune::static_maxima filled = collector.maxima();
  tune::fill_unseen_experts(spec_, filled);
  std::map<std::string, float> tuned;
  tune::signround_options o;
  o.iters = 2;
  o.batch_size = 1;
  tune::tuning_events events;
  events.on_block = [&](const tune::block_result&, std::vector<tune::quantized_layer>&& layers) -> result<void> {
    for (const auto& l : layers) tuned[l.name] = l.act_max;
    return {};
  };
  ASSERT_TRUE(tune::run_signround(model_.source, few, choices(*ar::find_preset("FP8_STATIC")), o, events));
  int unseen = 0;
  for (std::int64_t b = 0; b < spec_.num_layers; ++b) {
    if (!spec_.has_linear(b, m.first)) continue;
    for (int part = 0; part < 3; ++part) {
      const auto name = [&](std::int64_t e) { return spec_.linear_name(b, m.first + 3 * static_cast<int>(e) + part); };
      float largest = 0;
      for (std::int64_t e = 0; e < m.experts; ++e) largest = std::max(largest, collector.maxima().inputs.at(name(e)));
      EXPECT_GT(largest, 0);
      for (std::int64_t e = 0; e < m.experts; ++e) {
        const bool reached = importance->at(name(e)).tokens > 0;
        unseen += reached ? 0 : 1;
        EXPECT_EQ(collector.maxima().inputs.at(name(e)) > 0, reached) << name(e);
        EXPECT_EQ(filled.inputs.at(name(e)), reached ? collector.maxima().inputs.at(name(e)) : largest) << name(e);
        EXPECT_EQ(tune::importance_of(*importance, name(e)).empty(), !reached) << name(e);  // all columns alike
        EXPECT_GT(tuned.at(name(e)), 0) << name(e);
      }
    }
  }
  EXPECT_GT(unseen, 0);
}

TEST_P(Tuning, LayerByLayerWherePlain) {
  tune::signround_options o;
  o.iters = 4;
  for (const auto run : {tune::run_gram, tune::run_hybrid}) {
    const auto done = run(model_.source, calibration(spec_.vocab_size), choices({.bits = 4, .group_size = 16, .sym = true, .data_type = "int"}), o, {});
    if (spec_.plain()) {
      EXPECT_TRUE(done) << describe(done.error());
    } else {
      ASSERT_FALSE(done);
      EXPECT_EQ(done.error().kind, error_kind::unsupported);
      EXPECT_THAT(done.error().message, testing::HasSubstr("block loop"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Tuning, testing::ValuesIn(support::architectures()), [](const auto& p) { return p.param; });

}  // namespace
