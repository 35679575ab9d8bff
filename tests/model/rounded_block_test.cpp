// links: ar_model OpenMP::OpenMP_CXX
// The block as transformers computes it in bfloat16. That it gives the original's own numbers is seen where they decide bytes (golden/formats_*); here:
// all that it gives is in bfloat16 and near the exact block, and it shows and lets change what the exact block does.
#include "model/rounded_block.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "ar/numeric/half.hpp"
#include "support/distance.hpp"

namespace {

using namespace auto_round;
using model::block_part;
using model::block_runner;
using model::block_weights;
using model::model_spec;
using model::rounded_block;

std::vector<float> noise(std::size_t n, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(n);
  for (float& x : v) x = ar::round_to_bf16(normal(random));
  return v;
}

class RoundedBlock : public testing::Test {
 protected:
  RoundedBlock() {
    s_.hidden_size = 48, s_.intermediate_size = 80, s_.num_layers = 1, s_.num_heads = 6, s_.num_kv_heads = 2, s_.head_dim = 8;
    s_.vocab_size = 64, s_.max_position_embeddings = 4096, s_.rms_norm_eps = 1e-5;
    s_.linears = {{"self_attn.q_proj", 48, 48, true}, {"self_attn.k_proj", 16, 48, true}, {"self_attn.v_proj", 16, 48, true}, {"self_attn.o_proj", 48, 48, false},
                  {"mlp.gate_proj", 80, 48, false},   {"mlp.up_proj", 80, 48, false},     {"mlp.down_proj", 48, 80, false}};
    unsigned seed = 0;
    for (const auto& d : s_.linears) {
      w_.linears.push_back(noise(static_cast<std::size_t>(d.out_features * d.in_features), 1.2f / std::sqrt(static_cast<float>(d.in_features)), ++seed));
      w_.bias.push_back(d.bias ? noise(static_cast<std::size_t>(d.out_features), 0.3f, ++seed) : std::vector<float>());
    }
    w_.input_norm = w_.post_attention_norm = noise(48, 0.5f, ++seed);
    w_.part(block_part::query_norm) = w_.part(block_part::key_norm) = noise(8, 0.5f, ++seed);
  }

  model_spec s_;
  block_weights w_;
};

TEST_F(RoundedBlock, IsInBfloat16AndNearTheExactBlock) {
  ASSERT_TRUE(rounded_block::covers(s_));
  for (const std::size_t seqlen : {1u, 65u, 1100u}) {  // torch looks at keys in blocks of 512
    SCOPED_TRACE(seqlen);
    const std::vector<float> x = noise(2 * seqlen * 48, 1.0f, 99);
    std::vector<float> exact(x.size()), y(x.size());
    std::map<int, std::vector<float>> read_exact, read;
    const auto append = [&](std::map<int, std::vector<float>>& to) {
      return [&](int i, const float* rows, std::size_t n) {
        to[i].insert(to[i].end(), rows, rows + n * static_cast<std::size_t>(s_.linears[static_cast<std::size_t>(i)].in_features));
      };
    };
    block_runner(s_, linalg::precision::f32).forward(w_, x.data(), 2, seqlen, exact.data(), append(read_exact));
    rounded_block(s_).forward(w_, x.data(), 2, seqlen, y.data(), append(read));
    EXPECT_TRUE(std::ranges::all_of(y, [](float v) { return v == ar::round_to_bf16(v); }));
    EXPECT_LT(support::rms_difference(y, exact), 1e-2);
    EXPECT_GT(support::rms_difference(y, exact), 1e-4) << "nothing was rounded";
    for (int i = 0; i < 7; ++i) EXPECT_LT(support::rms_difference(read[i], read_exact[i]), 1e-2) << i;
  }
}

TEST_F(RoundedBlock, ShowsWhatAttentionReadsAndLetsItBeChanged) {
  const std::vector<float> x = noise(3 * 20 * 48, 1.0f, 5);
  block_weights doubled = w_;
  for (auto* values : {&doubled.linears[2], &doubled.bias[2]})
    for (float& v : *values) v *= 2;
  std::vector<float> y(x.size()), expected(x.size());
  rounded_block(s_).forward(doubled, x.data(), 3, 20, expected.data());
  rounded_block block(s_);
  std::vector<std::size_t> heads;
  block.set_attention_filter([&](std::span<const block_runner::attention_rows> rows) {
    for (const auto& r : rows) {
      heads.push_back(r.kv_head);
      EXPECT_EQ(r.q.size(), 20u * 3 * 8);
      for (float& v : r.v) v *= 2;
    }
  });
  block.forward(w_, x.data(), 3, 20, y.data());
  EXPECT_EQ(heads, (std::vector<std::size_t>{0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(y, expected);
}

TEST_F(RoundedBlock, GivesTheSameBitsWithAnyNumberOfThreads) {
  const std::vector<float> x = noise(3 * 70 * 48, 1.0f, 6);
  const int before = omp_get_max_threads();
  std::vector<float> one(x.size());
  omp_set_num_threads(1);
  rounded_block(s_).forward(w_, x.data(), 3, 70, one.data());
  for (const int threads : {2, 3, 7}) {
    omp_set_num_threads(threads);
    std::vector<float> y(x.size());
    rounded_block(s_).forward(w_, x.data(), 3, 70, y.data());
    EXPECT_EQ(y, one) << threads;
  }
  omp_set_num_threads(before);
}

TEST_F(RoundedBlock, CoversPlainModelsWithoutWindows) {
  const auto covered = [&](auto change) {
    model_spec s = s_;
    change(s);
    return rounded_block::covers(s);
  };
  EXPECT_TRUE(covered([](model_spec&) {}));
  EXPECT_FALSE(covered([](model_spec& s) { s.windows = {16}; }));
  EXPECT_FALSE(covered([](model_spec& s) { s.unit_offset = true; }));
  EXPECT_FALSE(covered([](model_spec& s) { s.attention_cap = 50; }));
  EXPECT_FALSE(covered([](model_spec& s) { s.hidden_act = "gelu"; }));
  EXPECT_FALSE(covered([](model_spec& s) { s.attention_scale = 0.1; }));
}

}  // namespace
