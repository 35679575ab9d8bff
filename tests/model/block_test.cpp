// links: ar_arch ar_model OpenMP::OpenMP_CXX
// The decoder block: gradients equal torch's autograd and central differences in double; results do not depend on how a batch is split or on
// the number of threads; the rounded (bfloat16) block stays near the exact one.
#include "model/block.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "ar/numeric/half.hpp"
#include "model/linalg.hpp"
#include "model/rope.hpp"
#include "support/distance.hpp"
#include "support/golden.hpp"
#include "support/textbook_block.hpp"

namespace {

using namespace auto_round;
using model::block_runner;
using model::block_weights;
using model::model_spec;
using linalg::precision;

model_spec make_spec(std::int64_t hidden, std::int64_t inner, std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim, bool bias) {
  model_spec s;
  s.hidden_size = hidden, s.intermediate_size = inner, s.num_layers = 1, s.num_heads = heads, s.num_kv_heads = kv_heads, s.head_dim = head_dim;
  s.vocab_size = 64, s.max_position_embeddings = 4096, s.rms_norm_eps = 1e-5;
  const std::int64_t q = heads * head_dim, kv = kv_heads * head_dim;
  s.linears = {{"self_attn.q_proj", q, hidden, bias},   {"self_attn.k_proj", kv, hidden, bias}, {"self_attn.v_proj", kv, hidden, bias},
               {"self_attn.o_proj", hidden, q, bias},   {"mlp.gate_proj", inner, hidden, bias}, {"mlp.up_proj", inner, hidden, bias},
               {"mlp.down_proj", hidden, inner, bias}};
  return s;
}

std::vector<float> noise(std::size_t n, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

block_weights make_weights(const model_spec& s, unsigned seed) {
  block_weights w;
  for (const auto& d : s.linears) {
    const auto out = static_cast<std::size_t>(d.out_features), in = static_cast<std::size_t>(d.in_features);
    w.linears.push_back(noise(out * in, 1.2f / std::sqrt(static_cast<float>(in)), ++seed));
    w.bias.push_back(d.bias ? noise(out, 0.3f, ++seed) : std::vector<float>());
  }
  for (auto* norm : {&w.input_norm, &w.post_attention_norm}) {
    *norm = noise(static_cast<std::size_t>(s.hidden_size), 0.2f, ++seed);
    for (float& x : *norm) x += 1.0f;
  }
  return w;
}

/// support::textbook_block, with `changes[i]`, where there is one, added to the rows that linear layer i reads.
std::vector<double> reference(const model_spec& s, const std::vector<std::vector<double>>& weights, const block_weights& w, const std::vector<double>& x,
                              std::size_t sequences, std::size_t seqlen, const std::vector<std::vector<float>>& changes = {}) {
  return support::textbook_block(s, weights, w, x, sequences, seqlen, [&](int i, std::vector<double>& rows) {
    for (std::size_t j = 0; !changes.empty() && j < rows.size(); ++j) rows[j] += static_cast<double>(changes[static_cast<std::size_t>(i)][j]);
  });
}

struct gradients {
  std::vector<std::vector<float>> d;
  std::vector<float> dx, y;
};

/// Forward and backward of a batch by `runner`, which may have filters.
gradients run(const model_spec& s, block_runner& runner, const block_weights& w, const std::vector<float>& x, const std::vector<float>& dy, std::size_t sequences,
              std::size_t seqlen) {
  gradients g;
  std::vector<float*> pointers;
  for (const auto& d : s.linears) g.d.emplace_back(static_cast<std::size_t>(d.out_features * d.in_features));
  for (auto& d : g.d) pointers.push_back(d.data());
  g.dx.resize(x.size());
  g.y.resize(x.size());
  runner.forward_train(w, x.data(), sequences, seqlen, g.y.data());
  runner.backward(w, dy.data(), pointers, false, g.dx.data());
  return g;
}
gradients run(const model_spec& s, const block_weights& w, precision p, const std::vector<float>& x, const std::vector<float>& dy, std::size_t sequences,
              std::size_t seqlen) {
  block_runner runner(s, p);
  return run(s, runner, w, x, dy, sequences, seqlen);
}

TEST(Block, EqualsTorchForwardAndBackward) {
  const golden::file data(std::filesystem::path(AR_TEST_DATA) / "backward" / "llama_block.safetensors");
  const model_spec s = make_spec(32, 48, 4, 2, 8, false);
  block_weights w;
  for (const auto& d : s.linears) w.linears.push_back(data["weight." + d.name].f32());
  w.bias.resize(s.linears.size());
  w.input_norm = data["weight.input_layernorm"].f32();
  w.post_attention_norm = data["weight.post_attention_layernorm"].f32();
  const gradients g = run(s, w, precision::f32, data["input"].f32(), data["upstream"].f32(), 2, 12);
  // torch's own float result differs from its double one by up to 1e-5 of the largest entry (the recording script checks it).
  EXPECT_LT(support::largest_difference(g.y, data["output.f64"].as<double>()), 1e-5);
  for (std::size_t i = 0; i < s.linears.size(); ++i)
    EXPECT_LT(support::largest_difference(g.d[i], data["grad.f64." + s.linears[i].name].as<double>()), 1e-5) << s.linears[i].name;
  EXPECT_LT(support::largest_difference(g.dx, data["grad.f64.input"].as<double>()), 1e-5);
}

/// A filter that doubles, triples, ... what linear layers read is the same as weights that are so much larger.
TEST(Block, BackwardGoesThroughTheFilter) {
  for (const precision p : {precision::f32, precision::bf16}) {
    const model_spec s = make_spec(32, 48, 4, 2, 8, true);
    block_weights w = make_weights(s, 21), scaled = w;
    const std::size_t sequences = 3, seqlen = 100, tokens = sequences * seqlen;  // more than one tile
    const float factor[] = {2, 2, 2, 4, 0.5f, 0.5f, 2};
    for (std::size_t i = 0; i < scaled.linears.size(); ++i)
      for (float& x : scaled.linears[i]) x *= factor[i];
    const std::vector<float> x = noise(tokens * 32, 1, 22), dy = noise(x.size(), 1, 23);
    const gradients want = run(s, scaled, p, x, dy, sequences, seqlen);
    block_runner runner(s, p);
    const auto width = [&](int linear) { return static_cast<std::size_t>(s.linears[static_cast<std::size_t>(linear)].in_features); };
    std::vector<float> seen[7];
    runner.set_input_filter(
        [&](int linear, float* rows, std::size_t n) {
          seen[linear].assign(rows, rows + n * width(linear));
          for (std::size_t i = 0; i < n * width(linear); ++i) rows[i] *= factor[linear];
        },
        [&](int linear, const float* rows, float* d, std::size_t first, std::size_t n) {
          for (std::size_t i = 0; i < n * width(linear); ++i) {
            if (rows[i] != seen[linear][first * width(linear) + i]) d[i] = NAN;  // the rows as the filter was given them
            d[i] *= factor[linear];
          }
        });
    gradients g = run(s, runner, w, x, dy, sequences, seqlen);
    EXPECT_EQ(g.y, want.y);
    EXPECT_LT(support::largest_difference(g.dx, want.dx), p == precision::f32 ? 1e-6 : 1e-2);
    for (std::size_t i = 0; i < g.d.size(); ++i) {
      for (float& d : g.d[i]) d /= factor[i];
      EXPECT_LT(support::largest_difference(g.d[i], want.d[i]), p == precision::f32 ? 1e-6 : 1e-2) << i;
    }
  }
}

TEST(Block, GradientsOfNormsAndBiasesEqualCentralDifferences) {
  const model_spec s = make_spec(12, 10, 4, 2, 4, true);
  block_weights w = make_weights(s, 31);
  const std::size_t sequences = 2, seqlen = 150;  // two tiles
  const std::vector<float> x = noise(sequences * seqlen * 12, 1, 32), dy = noise(x.size(), 1, 33);
  std::vector<float*> none(s.linears.size(), nullptr);
  std::vector<float> y(x.size());
  auto_round::model::vector_gradients g;
  block_runner runner(s, precision::f32);
  for (int pass = 0; pass < 2; ++pass) {
    runner.forward_train(w, x.data(), sequences, seqlen, y.data());
    runner.backward(w, dy.data(), none, pass == 1, nullptr, {}, &g);  // the second adds to the first
  }
  const auto loss = [&] {
    const std::vector<double> out = reference(s, support::doubles(w), w, {x.begin(), x.end()}, sequences, seqlen);
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * static_cast<double>(dy[i]);
    return sum;
  };
  const auto check = [&](std::vector<float>& value, const std::vector<float>& ours, const std::string& what) {
    ASSERT_EQ(ours.size(), value.size()) << what;
    double largest = 0;
    for (const float d : ours) largest = std::max(largest, std::fabs(static_cast<double>(d)));
    for (std::size_t i = 0; i < value.size(); i += 3) {
      const float kept = value[i];
      value[i] = kept + 0x1p-10f;
      const double high = static_cast<double>(value[i]), above = loss();
      value[i] = kept - 0x1p-10f;
      const double low = static_cast<double>(value[i]), slope = (above - loss()) / (high - low);
      value[i] = kept;
      // The curvature of a step of 2^-10, and float sums over 300 tokens.
      EXPECT_NEAR(static_cast<double>(ours[i]), 2 * slope, 1e-4 * largest) << what << " " << i;
    }
  };
  check(w.input_norm, g.input_norm, "input norm");
  check(w.post_attention_norm, g.post_attention_norm, "norm behind attention");
  for (std::size_t i = 0; i < s.linears.size(); ++i) {
    if (s.linears[i].name == "self_attn.k_proj") continue;  // softmax does not see a shift of all keys: nothing but rounding
    check(w.bias[i], g.bias[i], s.linears[i].name + " bias");
  }
}

TEST(Block, ForwardEqualsTheTextbookInDouble) {
  for (const bool bias : {false, true}) {
    const model_spec s = make_spec(40, 56, 6, 2, 12, bias);
    const block_weights w = make_weights(s, 1);
    for (const std::size_t seqlen : {1u, 7u, 64u, 70u, 150u}) {
      const std::vector<float> x = noise(2 * seqlen * 40, 1, 2);
      std::vector<float> y(x.size());
      block_runner(s, precision::f32).forward(w, x.data(), 2, seqlen, y.data());
      const std::vector<double> want = reference(s, support::doubles(w), w, {x.begin(), x.end()}, 2, seqlen);
      EXPECT_LT(support::largest_difference(y, want), 2e-6) << "seqlen " << seqlen;
    }
  }
}

TEST(Block, BackwardEqualsCentralDifferencesInDouble) {
  for (const auto& [heads, kv_heads, bias] : {std::tuple{4, 2, true}, std::tuple{2, 2, false}, std::tuple{3, 1, false}}) {
    const model_spec s = make_spec(12, 10, heads, kv_heads, 4, bias);
    const block_weights w = make_weights(s, 3);
    const std::size_t sequences = 2, seqlen = 5;
    const std::vector<float> x = noise(sequences * seqlen * 12, 1, 4), dy = noise(x.size(), 1, 5);
    const gradients g = run(s, w, precision::f32, x, dy, sequences, seqlen);
    const auto loss = [&](const std::vector<std::vector<double>>& weights, const std::vector<double>& in) {
      const std::vector<double> y = reference(s, weights, w, in, sequences, seqlen);
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(dy[i]);
      return sum;
    };
    const double step = 1e-5;  // the differences are good to about 1e-9 then
    std::vector<std::vector<double>> weights = support::doubles(w);
    std::vector<double> in(x.begin(), x.end());
    for (std::size_t l = 0; l < weights.size(); ++l) {
      std::vector<double> want(weights[l].size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double kept = weights[l][i];
        weights[l][i] = kept + step;
        const double above = loss(weights, in);
        weights[l][i] = kept - step;
        want[i] = (above - loss(weights, in)) / (2 * step);
        weights[l][i] = kept;
      }
      EXPECT_LT(support::largest_difference(g.d[l], want), 5e-6) << s.linears[l].name;
    }
    std::vector<double> want(in.size());
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double kept = in[i];
      in[i] = kept + step;
      const double above = loss(weights, in);
      in[i] = kept - step;
      want[i] = (above - loss(weights, in)) / (2 * step);
      in[i] = kept;
    }
    EXPECT_LT(support::largest_difference(g.dx, want), 5e-6);
  }
}

TEST(Block, BackwardTakesAFilteredInputForTheInputPlusAConstant) {
  const model_spec s = make_spec(12, 10, 4, 2, 4, true);
  const block_weights w = make_weights(s, 3);
  const std::size_t sequences = 2, seqlen = 5, tokens = sequences * seqlen;
  const std::vector<float> x = noise(tokens * 12, 1, 4), dy = noise(x.size(), 1, 5);
  // q, k and v share a change, gate and up another: a filter changes rows, not layers.
  std::vector<std::vector<float>> changes(7);
  for (const auto& [first, last, width] : {std::tuple{0, 2, 12}, std::tuple{3, 3, 16}, std::tuple{4, 5, 12}, std::tuple{6, 6, 10}})
    for (int i = first; i <= last; ++i) changes[static_cast<std::size_t>(i)] = noise(tokens * static_cast<std::size_t>(width), 0.3f, 50 + static_cast<unsigned>(first));
  std::vector<int> order;
  gradients g;
  std::vector<float*> pointers;
  for (const auto& d : s.linears) g.d.emplace_back(static_cast<std::size_t>(d.out_features * d.in_features));
  for (auto& d : g.d) pointers.push_back(d.data());
  g.dx.resize(x.size());
  g.y.resize(x.size());
  block_runner runner(s, precision::f32);
  runner.set_input_filter([&](int linear, float* rows, std::size_t n) {
    order.push_back(linear);
    ASSERT_EQ(n, tokens);
    const std::vector<float>& change = changes[static_cast<std::size_t>(linear)];
    for (std::size_t i = 0; i < change.size(); ++i) rows[i] += change[i];
  });
  runner.forward_train(w, x.data(), sequences, seqlen, g.y.data());
  EXPECT_EQ(order, (std::vector<int>{0, 3, 4, 6}));
  std::vector<std::vector<float>> products(7);
  runner.backward(w, dy.data(), pointers, false, g.dx.data(), [&](int linear, const float* d, const float* in, std::size_t n) {
    const auto i = static_cast<std::size_t>(linear);
    const auto rows = static_cast<std::size_t>(s.linears[i].out_features), cols = static_cast<std::size_t>(s.linears[i].in_features);
    products[i].resize(rows * cols);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c) products[i][r * cols + c] += d[t * rows + r] * in[t * cols + c];
  });

  EXPECT_LT(support::largest_difference(g.y, reference(s, support::doubles(w), w, {x.begin(), x.end()}, sequences, seqlen, changes)), 2e-6);
  const auto loss = [&](const std::vector<std::vector<double>>& weights, const std::vector<double>& in) {
    const std::vector<double> y = reference(s, weights, w, in, sequences, seqlen, changes);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(dy[i]);
    return sum;
  };
  const double step = 1e-5;  // as above
  std::vector<std::vector<double>> weights = support::doubles(w);
  std::vector<double> in(x.begin(), x.end());
  const auto difference = [&](double& value) {
    const double kept = value;
    value = kept + step;
    const double above = loss(weights, in);
    value = kept - step;
    const double slope = (above - loss(weights, in)) / (2 * step);
    value = kept;
    return slope;
  };
  for (std::size_t l = 0; l < weights.size(); ++l) {
    std::vector<double> want(weights[l].size());
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = difference(weights[l][i]);
    EXPECT_LT(support::largest_difference(g.d[l], want), 5e-6) << s.linears[l].name;
    EXPECT_LT(support::largest_difference(products[l], g.d[l]), 2e-6) << s.linears[l].name;  // the hook's factors, summed in another order
  }
  std::vector<double> want(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) want[i] = difference(in[i]);
  EXPECT_LT(support::largest_difference(g.dx, want), 5e-6);
}

TEST(Block, AFilterThatChangesNothingChangesNoBit) {
  const model_spec s = make_spec(64, 96, 4, 2, 16, true);
  const block_weights w = make_weights(s, 6);
  const std::vector<float> x = noise(4 * 80 * 64, 1, 7);
  for (const precision p : {precision::f32, precision::bf16}) {
    std::vector<float> a(x.size()), b(x.size()), h(x.size());
    block_runner(s, p).forward(w, x.data(), 4, 80, a.data());
    block_runner runner(s, p);
    runner.set_input_filter([](int, float*, std::size_t) {});
    runner.forward(w, x.data(), 4, 80, b.data());
    EXPECT_EQ(a, b);
    runner.add_linear(w, s.o, runner.attend(w, x.data(), 4, 80), x.data(), h.data());
    runner.add_linear(w, s.down, runner.gate(w, h.data(), 4 * 80), h.data(), h.data());
    EXPECT_EQ(h, a);
  }
}

TEST(Block, TrainingForwardIsTheForward) {
  const model_spec s = make_spec(64, 96, 4, 2, 16, true);
  const block_weights w = make_weights(s, 6);
  const std::vector<float> x = noise(4 * 80 * 64, 1, 7);
  for (const precision p : {precision::f32, precision::bf16}) {
    std::vector<float> a(x.size()), b(x.size());
    block_runner(s, p).forward(w, x.data(), 4, 80, a.data());
    block_runner(s, p).forward_train(w, x.data(), 4, 80, b.data());
    EXPECT_EQ(a, b);
    std::vector<float> in_place = x;
    block_runner(s, p).forward(w, in_place.data(), 4, 80, in_place.data());
    EXPECT_EQ(in_place, a);
  }
}

TEST(Block, ItsStepsAreTheForward) {
  for (const std::size_t seqlen : {std::size_t{7}, std::size_t{80}}) {
    const model_spec s = make_spec(64, 96, 4, 2, 16, true);
    const block_weights w = make_weights(s, 6);
    const std::vector<float> x = noise(4 * seqlen * 64, 1, 7);
    for (const precision p : {precision::f32, precision::bf16}) {
      std::vector<float> whole(x.size()), h(x.size());
      block_runner(s, p).forward(w, x.data(), 4, seqlen, whole.data());
      block_runner runner(s, p);
      runner.add_linear(w, s.o, runner.attend(w, x.data(), 4, seqlen), x.data(), h.data());
      runner.add_linear(w, s.down, runner.gate(w, h.data(), 4 * seqlen), h.data(), h.data());
      EXPECT_EQ(h, whole);
    }
  }
}

TEST(Block, TheSensitivityOfAttentionIsItsFormula) {
  const std::size_t hidden = 24, heads = 4, kv_heads = 2, d = 8, sequences = 2, seqlen = 19;
  const model_spec s = make_spec(24, 32, 4, 2, 8, true);
  const block_weights w = make_weights(s, 41);
  const std::vector<float> x = noise(sequences * seqlen * hidden, 1, 42);
  std::vector<std::uint8_t> counts(sequences * seqlen, 1);
  counts[5] = counts[seqlen + 18] = 0;
  model::attention_sensitivity got;
  got.counts = counts.data();
  block_runner(s, precision::f32).attend(w, x.data(), sequences, seqlen, &got);
  ASSERT_EQ(got.query.size(), sequences * seqlen);

  model::rope_table rope;
  rope.prepare(s, 0, seqlen, seqlen);
  const auto project = [&](int linear, const std::vector<double>& n, std::size_t head, std::size_t position, bool turn) {
    std::vector<double> y(d);
    const auto at = static_cast<std::size_t>(linear);
    for (std::size_t i = 0; i < d; ++i) {
      y[i] = static_cast<double>(w.bias[at][head * d + i]);
      for (std::size_t k = 0; k < hidden; ++k) y[i] += static_cast<double>(w.linears[at][(head * d + i) * hidden + k]) * n[k];
    }
    if (!turn) return y;
    std::vector<double> z(d);
    for (std::size_t i = 0; i < d / 2; ++i) {
      const double c = static_cast<double>(rope.cos[position * d / 2 + i]), sn = static_cast<double>(rope.sin[position * d / 2 + i]);
      z[i] = y[i] * c - y[i + d / 2] * sn;
      z[i + d / 2] = y[i + d / 2] * c + y[i] * sn;
    }
    return z;
  };
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for (std::size_t q = 0; q < sequences; ++q) {
    std::vector<double> query(seqlen), key(seqlen);
    for (std::size_t h = 0; h < heads; ++h) {
      std::vector<std::vector<double>> qs, ks, vs;
      for (std::size_t t = 0; t < seqlen; ++t) {
        std::vector<double> n(hidden);
        const float* row = x.data() + (q * seqlen + t) * hidden;
        double square = 0;
        for (std::size_t i = 0; i < hidden; ++i) square += static_cast<double>(row[i]) * static_cast<double>(row[i]);
        for (std::size_t i = 0; i < hidden; ++i)
          n[i] = static_cast<double>(row[i]) / std::sqrt(square / static_cast<double>(hidden) + 1e-5) * static_cast<double>(w.input_norm[i]);
        const std::size_t kv = h / (heads / kv_heads);
        qs.push_back(project(s.q, n, h, t, true));
        ks.push_back(project(s.k, n, kv, t, true));
        vs.push_back(project(s.v, n, kv, t, false));
      }
      double scale = 0;  // of the columns of o that read this head
      for (std::size_t r = 0; r < hidden; ++r)
        for (std::size_t i = 0; i < d; ++i) scale += std::pow(static_cast<double>(w.linears[static_cast<std::size_t>(s.o)][r * heads * d + h * d + i]), 2.0);
      for (std::size_t t = 0; t < seqlen; ++t) {
        if (counts[q * seqlen + t] == 0) continue;
        std::vector<double> p(t + 1), o(d);
        double sum = 0;
        for (std::size_t k = 0; k <= t; ++k) sum += p[k] = std::exp(dot(qs[t], ks[k]) / std::sqrt(static_cast<double>(d)));
        for (std::size_t k = 0; k <= t; ++k)
          for (std::size_t i = 0; i < d; ++i) o[i] += p[k] / sum * vs[k][i];
        for (std::size_t k = 0; k <= t; ++k) {
          double apart = 0;
          for (std::size_t i = 0; i < d; ++i) apart += std::pow(vs[k][i] - o[i], 2.0);
          const double moved = scale * std::pow(p[k] / sum, 2.0) * apart;
          query[t] += moved * dot(ks[k], ks[k]);
          key[k] += moved * dot(qs[t], qs[t]);
        }
      }
    }
    for (std::size_t t = 0; t < seqlen; ++t) {
      EXPECT_NEAR(static_cast<double>(got.query[q * seqlen + t]), query[t], 1e-3 * query[t] + 1e-3) << t;
      EXPECT_NEAR(static_cast<double>(got.key[q * seqlen + t]), key[t], 1e-3 * key[t] + 1e-3) << t;
    }
  }
}

TEST(Block, SequencesDoNotSeeEachOther) {
  const model_spec s = make_spec(64, 96, 4, 2, 16, false);
  const block_weights w = make_weights(s, 8);
  const std::size_t seqlen = 96, sequences = 30;  // more than forward takes at once
  const std::vector<float> x = noise(sequences * seqlen * 64, 1, 9);
  for (const precision p : {precision::f32, precision::bf16}) {
    std::vector<float> whole(x.size()), parts(x.size());
    block_runner runner(s, p);
    runner.forward(w, x.data(), sequences, seqlen, whole.data());
    for (std::size_t first = 0, n = 1; first < sequences; first += n, n = std::min<std::size_t>(n + 1, sequences - first))
      runner.forward(w, x.data() + first * seqlen * 64, n, seqlen, parts.data() + first * seqlen * 64);
    // Not the same bits: a backend may sum in another order for another number of rows. bfloat16 then rounds an activation to its neighbor.
    EXPECT_LT(support::rms_difference(parts, whole), p == precision::f32 ? 1e-6 : 1e-3);
  }
}

TEST(Block, LaterTokensDoNotChangeEarlierOnes) {
  const model_spec s = make_spec(48, 64, 4, 4, 12, false);
  const block_weights w = make_weights(s, 10);
  std::vector<float> x = noise(100 * 48, 1, 11), a(x.size()), b(x.size());
  block_runner runner(s, precision::f32);
  runner.forward(w, x.data(), 1, 100, a.data());
  for (std::size_t i = 71 * 48; i < x.size(); ++i) x[i] = 1e3f;
  runner.forward(w, x.data(), 1, 100, b.data());
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 71 * 48, b.begin()));
}

TEST(Block, GivesTheSameBitsWithAnyNumberOfThreads) {
  const model_spec s = make_spec(96, 160, 6, 2, 16, true);
  const block_weights w = make_weights(s, 12);
  const std::vector<float> x = noise(5 * 150 * 96, 1, 13), dy = noise(x.size(), 1, 14);
  const int before = omp_get_max_threads();
  for (const precision p : {precision::f32, precision::bf16}) {
    omp_set_num_threads(1);
    const gradients one = run(s, w, p, x, dy, 5, 150);
    for (const int threads : {2, 3, 8}) {
      omp_set_num_threads(threads);
      const gradients many = run(s, w, p, x, dy, 5, 150);
      EXPECT_EQ(one.y, many.y);
      EXPECT_EQ(one.d, many.d);
      EXPECT_EQ(one.dx, many.dx);
    }
  }
  omp_set_num_threads(before);
}

TEST(Block, RoundedInputsStayNearTheExactResult) {
  const model_spec s = make_spec(128, 256, 4, 2, 32, true);
  const block_weights w = make_weights(s, 15);
  const std::vector<float> x = noise(3 * 130 * 128, 1, 16), dy = noise(x.size(), 1, 17);
  const gradients exact = run(s, w, precision::f32, x, dy, 3, 130), rounded = run(s, w, precision::bf16, x, dy, 3, 130);
  // bfloat16 rounds by up to 2^-9; a product of two rounded operands errs by about 2^-8.5 / sqrt(3) = 1.6e-3 of a term, and three or four
  // products follow each other.
  EXPECT_LT(support::rms_difference(rounded.y, exact.y), 6e-3);
  for (std::size_t i = 0; i < exact.d.size(); ++i) EXPECT_LT(support::rms_difference(rounded.d[i], exact.d[i]), 2e-2) << s.linears[i].name;
  EXPECT_LT(support::rms_difference(rounded.dx, exact.dx), 2e-2);
  EXPECT_GT(support::rms_difference(rounded.y, exact.y), 1e-4) << "nothing was rounded";
}

TEST(Block, TakesWeightsThatAreAlreadyRounded) {
  const model_spec s = make_spec(64, 96, 4, 2, 16, false);
  const block_weights w = make_weights(s, 18);
  block_weights ready = w;
  ready.linears_bf16.resize(w.linears.size());
  for (std::size_t i = 0; i < w.linears.size(); ++i) {
    for (const float v : w.linears[i]) ready.linears_bf16[i].push_back(ar::bf16_from_f32(v));
    ready.linears[i].clear();
  }
  const std::vector<float> x = noise(2 * 70 * 64, 1, 19), dy = noise(x.size(), 1, 20);
  const gradients a = run(s, w, precision::bf16, x, dy, 2, 70), b = run(s, ready, precision::bf16, x, dy, 2, 70);
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(a.d, b.d);
  EXPECT_EQ(a.dx, b.dx);
}

TEST(Block, AccumulatesAndSkipsLayersAsAsked) {
  const model_spec s = make_spec(32, 48, 4, 2, 8, false);
  const block_weights w = make_weights(s, 21);
  const std::vector<float> x = noise(3 * 20 * 32, 1, 22), dy = noise(x.size(), 1, 23);
  const gradients whole = run(s, w, precision::f32, x, dy, 3, 20);
  std::vector<std::vector<float>> d;
  std::vector<float*> pointers;
  for (const auto& l : s.linears) d.emplace_back(static_cast<std::size_t>(l.out_features * l.in_features));
  for (auto& v : d) pointers.push_back(v.data());
  pointers[1] = nullptr;
  block_runner runner(s, precision::f32);
  std::vector<float> y(x.size());
  for (std::size_t q = 0; q < 3; ++q) {
    runner.forward_train(w, x.data() + q * 20 * 32, 1, 20, y.data());
    runner.backward(w, dy.data() + q * 20 * 32, pointers, q > 0);
  }
  for (std::size_t i = 0; i < d.size(); ++i) {
    if (i == 1)
      EXPECT_EQ(d[i], std::vector<float>(d[i].size())) << "a skipped layer was written";
    else
      EXPECT_LT(support::largest_difference(d[i], whole.d[i]), 1e-5);
  }
}

TEST(Block, ShowsTheInputOfEveryLayer) {
  const model_spec s = make_spec(32, 48, 4, 2, 8, false);
  const block_weights w = make_weights(s, 24);
  const std::vector<float> x = noise(4 * 20 * 32, 1, 25);
  std::vector<float> y(x.size());
  for (const precision p : {precision::f32, precision::bf16}) {
    std::vector<std::vector<float>> seen(7);
    block_runner(s, p).forward(w, x.data(), 4, 20, y.data(), [&](int linear, const float* in, std::size_t tokens) {
      const auto i = static_cast<std::size_t>(linear);
      seen[i].insert(seen[i].end(), in, in + tokens * static_cast<std::size_t>(s.linears[i].in_features));
    });
    for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(seen[i].size(), 80u * static_cast<std::size_t>(s.linears[i].in_features));
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_EQ(seen[0], seen[2]);
    EXPECT_EQ(seen[4], seen[5]);
    // The first: the normed input. Its mean square is that of the norm's weights, about 1.04.
    double squares = 0;
    for (const float v : seen[0]) squares += static_cast<double>(v) * static_cast<double>(v);
    EXPECT_NEAR(squares / static_cast<double>(seen[0].size()), 1.04, 0.2);
  }
}

TEST(Block, CachedTokensEqualTheWholeSequence) {
  const model_spec s = make_spec(48, 64, 6, 2, 8, true);
  const block_weights w = make_weights(s, 26);
  const std::size_t tokens = 90;
  const std::vector<float> x = noise(tokens * 48, 1, 27);
  std::vector<float> whole(x.size()), steps(x.size());
  block_runner runner(s, precision::f32);
  std::vector<float> plain;
  for (const bool filtered : {false, true}) {
    if (filtered) {
      runner.set_input_filter([&](int linear, float* rows, std::size_t n) {
        for (std::size_t i = 0; i < n * static_cast<std::size_t>(s.linears[static_cast<std::size_t>(linear)].in_features); ++i) rows[i] *= 0.5f + 0.125f * static_cast<float>(linear);
      });
    }
    runner.forward(w, x.data(), 1, tokens, whole.data());
    model::kv_cache cache;
    std::size_t at = 0;
    for (const std::size_t n : {70u, 1u, 1u, 15u, 3u}) {
      runner.forward_cached(w, x.data() + at * 48, n, cache, steps.data() + at * 48);
      at += n;
    }
    ASSERT_EQ(at, tokens);
    EXPECT_EQ(cache.tokens, tokens);
    EXPECT_LT(support::largest_difference(steps, whole), 2e-6);
    if (!filtered) plain = steps;
  }
  EXPECT_GT(support::largest_difference(steps, plain), 1e-2);
}

/// Weights behind rotated inputs: each row times M, and the same of a gradient.
void rotate_inputs(const model_spec& s, const model::block_rotations& by, std::vector<std::vector<float>>& linears) {
  const model::row_rotation* const of[7] = {by.attention_input.get(), by.attention_input.get(), by.attention_input.get(), by.o_input.get(),
                                            by.mlp_input.get(),       by.mlp_input.get(),       by.down_input.get()};
  for (std::size_t i = 0; i < 7; ++i)
    if (of[i] != nullptr) of[i]->rows(linears[i].data(), static_cast<std::size_t>(s.linears[i].out_features), static_cast<std::size_t>(s.linears[i].in_features));
}

TEST(Block, OnlineRotationsChangeNothingButWhatProductsRead) {
  // Sizes with and without a table; rotations full, in chunks, random, across heads and dense.
  const model_spec s = make_spec(48, 96, 6, 2, 8, true);
  const auto rule = ar::hadamard_rule::any;
  const auto shared = [](result<model::row_rotation> r) { return std::make_shared<const model::row_rotation>(std::move(*r)); };
  std::vector<std::int8_t> signs(16, 1);
  for (std::size_t i = 0; i < 16; i += 3) signs[i] = -1;
  auto rotations = std::make_shared<model::block_rotations>();
  rotations->attention_input = shared(model::row_rotation::hadamard(48, rule));
  rotations->o_input = shared(model::row_rotation::hadamard(2, rule)->across(24));
  rotations->mlp_input = shared(model::row_rotation::random(16, rule, signs)->transposed());
  std::vector<float> dense(96 * 96, 0.0f);  // a permutation with signs
  for (std::size_t i = 0; i < 96; ++i) dense[i * 96 + (i * 35 + 3) % 96] = i % 2 == 0 ? 1.0f : -1.0f;
  rotations->down_input = std::make_shared<const model::row_rotation>(model::row_rotation::dense(96, dense));
  rotations->query_key = shared(model::row_rotation::random(8, rule, {1, -1, -1, 1, 1, 1, -1, 1}));

  const block_weights plain = make_weights(s, 90);
  block_weights rotated = plain;
  rotate_inputs(s, *rotations, rotated.linears);
  rotated.rotations = rotations;
  constexpr std::size_t sequences = 3, seqlen = 100, tokens = sequences * seqlen;  // more than one tile of rows
  const std::vector<float> x = noise(tokens * 48, 1.0f, 5), dy = noise(tokens * 48, 1.0f, 6);
  struct run {
    std::vector<float> y, dx;
    std::vector<std::vector<float>> gradients, inputs;
  };
  const auto evaluate = [&](const block_weights& w, precision p) {
    run r{std::vector<float>(x.size()), std::vector<float>(x.size()), {}, std::vector<std::vector<float>>(7)};
    block_runner runner(s, p);
    runner.forward(w, x.data(), sequences, seqlen, r.y.data(), [&](int i, const float* in, std::size_t n) {
      auto& to = r.inputs[static_cast<std::size_t>(i)];
      to.insert(to.end(), in, in + n * static_cast<std::size_t>(s.linears[static_cast<std::size_t>(i)].in_features));
    });
    std::vector<float> trained(x.size());
    runner.forward_train(w, x.data(), sequences, seqlen, trained.data());
    EXPECT_EQ(trained, r.y);
    std::vector<float*> pointers;
    for (const auto& l : w.linears) r.gradients.emplace_back(l.size());
    for (auto& g : r.gradients) pointers.push_back(g.data());
    runner.backward(w, dy.data(), pointers, false, r.dx.data());
    return r;
  };
  for (const precision p : {precision::f32, precision::bf16}) {
    const double bound = p == precision::f32 ? 1e-5 : 2e-2;  // float sums; products of bfloat16 round at 2^-9, several in a row
    run a = evaluate(plain, p);
    const run b = evaluate(rotated, p);
    EXPECT_LT(support::rms_difference(b.y, a.y), bound);
    EXPECT_LT(support::rms_difference(b.dx, a.dx), bound);
    rotate_inputs(s, *rotations, a.gradients);
    for (std::size_t i = 0; i < 7; ++i) {
      EXPECT_LT(support::rms_difference(b.gradients[i], a.gradients[i]), bound) << s.linears[i].name;
      EXPECT_GT(support::rms_difference(b.inputs[i], a.inputs[i]), 0.1) << s.linears[i].name << " reads rotated rows";
    }
    if (p == precision::bf16) continue;
    // Token by token with a cache, and in the steps of the layer-wise tuner.
    block_runner runner(s, p);
    model::kv_cache cache;
    std::vector<float> y(seqlen * 48), h(seqlen * 48);
    runner.forward_cached(rotated, x.data(), 90, cache, y.data());
    for (std::size_t t = 90; t < seqlen; ++t) runner.forward_cached(rotated, x.data() + t * 48, 1, cache, y.data() + t * 48);
    EXPECT_LT(support::rms_difference(y, std::vector<float>(a.y.begin(), a.y.begin() + seqlen * 48)), bound);
    model::attention_sensitivity sensitivity, expected;
    runner.add_linear(rotated, s.o, runner.attend(rotated, x.data(), 1, seqlen, &sensitivity), x.data(), h.data());
    runner.add_linear(rotated, s.down, runner.gate(rotated, h.data(), seqlen), h.data(), y.data());
    EXPECT_LT(support::rms_difference(y, std::vector<float>(a.y.begin(), a.y.begin() + seqlen * 48)), bound);
    runner.attend(plain, x.data(), 1, seqlen, &expected);
    // Keys and queries keep their lengths and attention its scores.
    EXPECT_LT(support::rms_difference(sensitivity.query, expected.query), bound);
    EXPECT_LT(support::rms_difference(sensitivity.key, expected.key), bound);
  }
}

// Doubled values and keys are those of doubled weights (rotary embedding is linear), and every sequence and head is seen once, as it lies.
TEST(Block, WhatAttentionReadsCanBeChanged) {
  const model_spec s = make_spec(48, 96, 6, 2, 8, false);
  const block_weights w = make_weights(s, 7);
  block_weights doubled = w;
  for (const int i : {s.k, s.v})
    for (float& x : doubled.linears[static_cast<std::size_t>(i)]) x *= 2;
  constexpr std::size_t sequences = 3, seqlen = 20;
  const std::vector<float> x = noise(sequences * seqlen * 48, 1.0f, 5);
  for (const precision p : {precision::f32, precision::bf16}) {
    std::vector<float> y(x.size()), expected(x.size()), plain(x.size());
    block_runner runner(s, p);
    runner.forward(w, x.data(), sequences, seqlen, plain.data());
    runner.forward(doubled, x.data(), sequences, seqlen, expected.data());
    std::vector<std::size_t> heads;
    runner.set_attention_filter([&](std::span<const block_runner::attention_rows> rows) {
      for (const auto& r : rows) {
        heads.push_back(r.kv_head);
        EXPECT_EQ(r.q.size(), seqlen * 3 * 8);
        EXPECT_EQ(r.k.size(), seqlen * 8);
        for (float& k : r.k) k *= 2;
        for (float& v : r.v) v *= 2;
      }
    });
    runner.forward(w, x.data(), sequences, seqlen, y.data());
    EXPECT_EQ(heads, (std::vector<std::size_t>{0, 1, 0, 1, 0, 1}));
    EXPECT_EQ(y, expected);
    EXPECT_NE(y, plain);
    runner.set_attention_filter({});
    runner.forward(w, x.data(), sequences, seqlen, y.data());
    EXPECT_EQ(y, plain);
  }
}

}  // namespace
