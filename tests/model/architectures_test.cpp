// links: ar_arch ar_model OpenMP::OpenMP_CXX
// Tiny random models of every architecture: logits equal those of transformers (tests/peers/record_architectures.py), a key-value cache gives the same,
// and every block's backward equals central differences of its forward.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include "arch/architecture.hpp"
#include "model/decoder.hpp"
#include "model/head.hpp"
#include "model/likelihood.hpp"
#include "support/distance.hpp"
#include "support/golden.hpp"
#include "support/likelihood.hpp"
#include "support/tiny_checkpoint.hpp"

namespace {

using namespace auto_round;
using linalg::precision;
using support::checkpoint;

class Architectures : public testing::TestWithParam<std::string> {
 protected:
  checkpoint model_{support::architecture_folder(GetParam())};
  golden::file expected_{support::architecture_folder(GetParam()) / "expected.safetensors"};

  std::vector<std::int32_t> ids() const {
    const auto wide = expected_["ids"].as<std::int64_t>();
    return {wide.begin(), wide.end()};
  }
};

TEST_P(Architectures, LogitsEqualTransformers) {
  const auto got = model::logits(model_.source, ids());
  ASSERT_TRUE(got) << describe(got.error());
  EXPECT_LT(support::largest_difference(*got, expected_["logits"].as<float>()), 1e-5);
}

TEST_P(Architectures, CacheGivesWhatTheWholeSequenceGives) {
  const model::model_spec& spec = model_.source.spec();
  auto all = ids();
  // Beyond its original context longrope turns earlier tokens otherwise; generate begins anew there.
  if (spec.rope.type == model::rope_spec::kind::longrope) all.resize(static_cast<std::size_t>(spec.rope.original_max_position));
  const auto whole = model::logits(model_.source, all);
  ASSERT_TRUE(whole);
  model::block_runner runner(spec, precision::f32);
  std::vector<model::kv_cache> caches(static_cast<std::size_t>(spec.num_layers));
  const auto hidden = static_cast<std::size_t>(spec.hidden_size), vocab = static_cast<std::size_t>(spec.vocab_size);
  auto x = model::embed(model_.source, all);
  ASSERT_TRUE(x);
  const auto head = model::read_head(model_.source);
  ASSERT_TRUE(head);
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    const auto w = model::read_block(model_.source, l);
    ASSERT_TRUE(w);
    // A prompt, two tokens at once, then one after the other.
    for (std::size_t at = 0, n = 9; at < all.size(); at += n, n = at < 11 ? 2 : 1)
      runner.forward_cached(*w, x->data() + at * hidden, n, caches[static_cast<std::size_t>(l)], x->data() + at * hidden);
  }
  std::vector<float> scratch, logits(all.size() * vocab);
  head->logits(x->data(), all.size(), scratch, logits.data());
  EXPECT_LT(support::largest_difference(logits, *whole), 1e-5);
}

TEST_P(Architectures, TextsOfManyLengthsAreScoredAsEachByItself) {
  const auto all = ids();
  const auto vocab = static_cast<std::size_t>(model_.source.spec().vocab_size);
  std::vector<model::likelihood_request> requests;
  for (const std::size_t n : {std::size_t{5}, std::size_t{14}, std::size_t{15}, std::size_t{9}}) requests.push_back({{all.begin() + 2, all.begin() + 2 + static_cast<std::ptrdiff_t>(n)}, n - 1});
  requests.front().ids.front() = all.front();  // begins no other text
  const auto scored = model::log_likelihoods(model_.source, requests);
  ASSERT_TRUE(scored) << describe(scored.error());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto& text = requests[i].ids;
    const auto logits = model::logits(model_.source, std::span(text).first(text.size() - 1));
    ASSERT_TRUE(logits);
    EXPECT_NEAR((*scored)[i].sum, support::log_likelihood(*logits, text, vocab), 1e-4) << text.size();
  }
}

TEST_P(Architectures, GenerationContinuesAsTheWholeSequenceDoes) {
  std::vector<std::int32_t> text = ids();
  text.resize(13);
  model::generation_options options;
  options.max_tokens = 6;
  const auto more = model::generate(model_.source, text, options);
  ASSERT_TRUE(more) << describe(more.error());
  const auto vocab = static_cast<std::ptrdiff_t>(model_.source.spec().vocab_size);
  for (const std::int32_t token : *more) {
    const auto logits = model::logits(model_.source, text);
    ASSERT_TRUE(logits);
    EXPECT_EQ(std::max_element(logits->end() - vocab, logits->end()) - (logits->end() - vocab), token);
    text.push_back(token);
  }
  EXPECT_EQ(more->size(), 6u);
}

TEST_P(Architectures, BackwardEqualsCentralDifferences) {
  const model::model_spec& spec = model_.source.spec();
  const auto all = ids();
  const std::size_t sequences = 2, seqlen = all.size() / 2;
  const auto x = model::embed(model_.source, all, seqlen);
  ASSERT_TRUE(x);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> dy(x->size());
  for (float& v : dy) v = normal(random);
  model::block_runner runner(spec, precision::f32);
  std::vector<float> stream = *x;
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    auto w = model::read_block(model_.source, l);
    ASSERT_TRUE(w);
    std::vector<std::vector<float>> gradients;
    std::vector<float*> pointers;
    for (const auto& weight : w->linears) gradients.emplace_back(weight.size(), NAN);
    for (std::size_t i = 0; i < gradients.size(); ++i) pointers.push_back(gradients[i].empty() ? nullptr : gradients[i].data());
    std::vector<float> y(x->size()), dx(x->size()), in = stream;
    runner.forward_train(*w, in.data(), sequences, seqlen, y.data());
    runner.backward(*w, dy.data(), pointers, false, dx.data());
    const auto loss = [&] {
      runner.forward(*w, in.data(), sequences, seqlen, y.data());
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(y[i]) * static_cast<double>(dy[i]);
      return sum;
    };
    // Along a random direction: differences of a float forward see many values at once better than one. The step is 2^-13 of the values' size: large
    // enough for the rounding of the loss (1e-7 of its terms, over the step), and small enough that few ReLUs switch and no token changes its experts.
    const auto check = [&](std::vector<float>& value, const std::vector<float>& gradient, const std::string& what) {
      const std::vector<float> kept = value;
      std::vector<float> direction(value.size());
      double size = 0, slope = 0, length = 0;
      for (float& d : direction) d = normal(random);
      for (const float v : value) size += static_cast<double>(v) * static_cast<double>(v);
      const double step = std::sqrt(size / static_cast<double>(value.size())) / 8192;
      for (std::size_t i = 0; i < value.size(); ++i) {
        slope += static_cast<double>(gradient[i]) * static_cast<double>(direction[i]);
        length += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
      }
      const auto at = [&](double t) {
        for (std::size_t i = 0; i < value.size(); ++i) value[i] = kept[i] + static_cast<float>(t * step) * direction[i];
        return loss();
      };
      const double above = at(1), difference = (above - at(-1)) / (2 * step);
      value = kept;
      EXPECT_NEAR(difference, slope, 1e-2 * std::sqrt(length) + 1e-6) << what;
    };
    for (std::size_t i = 0; i < gradients.size(); ++i)
      if (!gradients[i].empty()) check(w->linears[i], gradients[i], spec.linear_name(l, static_cast<int>(i)));
    check(in, dx, "input of block " + std::to_string(l));
    runner.forward(*w, stream.data(), sequences, seqlen, stream.data());
  }
}

/// Blocks of bfloat16 products stay near the exact ones, forward and backward.
TEST_P(Architectures, RoundedProductsStayNear) {
  const model::model_spec& spec = model_.source.spec();
  const auto all = ids();
  const auto x = model::embed(model_.source, all);
  ASSERT_TRUE(x);
  const auto w = model::read_block(model_.source, 0);
  ASSERT_TRUE(w);
  std::vector<float> y[2], dx[2];
  for (const int narrow : {0, 1}) {
    model::block_runner runner(spec, narrow ? precision::bf16 : precision::f32);
    y[narrow].resize(x->size());
    dx[narrow].resize(x->size());
    runner.forward_train(*w, x->data(), 1, all.size(), y[narrow].data());
    const std::vector<float*> none(spec.linears.size(), nullptr);
    runner.backward(*w, x->data(), none, false, dx[narrow].data());
  }
  EXPECT_LT(support::largest_difference(y[1], y[0]), 0.03);
  EXPECT_LT(support::largest_difference(dx[1], dx[0]), 0.08);
}

/// A filter that doubles, halves, ... what layers read is the same as weights that are so much larger, also where layers that share an input want it
/// changed in different ways; powers of two, so the bits are the same.
TEST_P(Architectures, LayersMayReadTheSameRowsInDifferentWays) {
  const model::model_spec& spec = model_.source.spec();
  const std::size_t sequences = 2, seqlen = 150, tokens = sequences * seqlen, hidden = static_cast<std::size_t>(spec.hidden_size);  // more than one tile
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(tokens * hidden);
  for (float& v : x) v = normal(random);
  const std::vector<std::vector<float>> ways = {{1, 2, 0.5f}, {2, 0.5f, 2}, {0.5f, 2, 2}};  // what i % 3 reads: q, k and v; gate, up and down
  bool apart = false;
  for (const auto& by_layer : ways) {
    const auto factor = [&](int linear) { return by_layer[static_cast<std::size_t>(linear % 3)]; };
    const int n = static_cast<int>(spec.linears.size());
    std::vector<int> readers;
    for (int i = 0; i < n; ++i) {
      int own = spec.reader(i);
      if (factor(own) != factor(i))
        for (own = 0; spec.reader(own) != spec.reader(i) || factor(own) != factor(i);) ++own;
      readers.push_back(own);
      apart = apart || own != spec.reader(i);
    }
    for (std::int64_t l = 0; l < spec.num_layers; ++l) {
      const auto w = model::read_block(model_.source, l);
      ASSERT_TRUE(w);
      auto scaled = *w;
      for (int i = 0; i < n; ++i)
        for (float& v : scaled.linears[static_cast<std::size_t>(i)]) v *= factor(i);
      for (const precision p : {precision::f32, precision::bf16}) {
        model::block_runner plain(spec, p), filtered(spec, p);
        filtered.set_input_filters({[&](int linear, float* rows, std::size_t count) {
                                      EXPECT_EQ(readers[static_cast<std::size_t>(linear)], linear) << "layers that read alike share a call";
                                      const std::size_t values = count * static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(linear)].in_features);
                                      for (std::size_t i = 0; i < values; ++i) rows[i] *= factor(linear);
                                    },
                                    readers});
        std::vector<float> want(x.size()), got(x.size());
        plain.forward(scaled, x.data(), sequences, seqlen, want.data());
        filtered.forward(*w, x.data(), sequences, seqlen, got.data());
        EXPECT_EQ(got, want) << "block " << l;
        if (p == precision::bf16) continue;
        model::kv_cache one, other;
        for (std::size_t at = 0, count = 9; at < 12; at += count, count = 1) {
          plain.forward_cached(scaled, x.data() + at * hidden, count, one, want.data());
          filtered.forward_cached(*w, x.data() + at * hidden, count, other, got.data());
          EXPECT_EQ(got, want) << "block " << l << " behind " << at << " tokens";
        }
      }
    }
  }
  EXPECT_TRUE(apart || spec.fused != model::fused_heads::none) << "no layers that share an input";
}

INSTANTIATE_TEST_SUITE_P(Tiny, Architectures, testing::ValuesIn(support::architectures()), [](const auto& p) { return p.param; });

TEST(ArchitectureList, HasAModelForEach) {
  std::vector<std::string> seen = {"llama"};
  for (const std::string& name : support::architectures()) seen.push_back(checkpoint(support::architecture_folder(name)).source.spec().architecture);
  for (const arch::architecture* a : arch::all()) EXPECT_THAT(seen, testing::Contains(std::string(a->name)));
}

}  // namespace
