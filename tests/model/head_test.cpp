// links: ar_model
// The loss of a causal language model and its gradients, against the textbook in double and central differences.
#include "model/head.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace {

using namespace auto_round;

struct problem {
  model::output_head head;
  std::vector<float> x;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> valid;
  std::size_t seqlen = 0;
};

problem make_problem(std::size_t sequences, std::size_t seqlen, bool masked) {
  problem p;
  p.seqlen = seqlen;
  p.head.hidden = 12, p.head.vocab = 19, p.head.eps = 1e-5f;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& v, std::size_t n, float scale, float offset) {
    v.resize(n);
    for (float& e : v) e = offset + scale * normal(random);
  };
  fill(p.head.norm, 12, 0.2f, 1);
  fill(p.head.weight, 12 * 19, 0.5f, 0);
  fill(p.x, sequences * seqlen * 12, 1, 0);
  for (std::size_t t = 0; t < sequences * seqlen; ++t) {
    p.ids.push_back(static_cast<std::int32_t>(random() % 19));
    if (masked) p.valid.push_back(random() % 3 != 0);
  }
  return p;
}

double textbook(const problem& p, const std::vector<double>& x, const std::vector<double>& weight) {
  const std::size_t hidden = p.head.hidden, vocab = p.head.vocab;
  double sum = 0;
  int count = 0;
  for (std::size_t t = 0; t < p.ids.size(); ++t) {
    if ((t + 1) % p.seqlen == 0 || (!p.valid.empty() && p.valid[t + 1] == 0)) continue;
    double squares = 0, total = 0;
    for (std::size_t i = 0; i < hidden; ++i) squares += x[t * hidden + i] * x[t * hidden + i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(hidden) + static_cast<double>(p.head.eps));
    std::vector<double> logits(vocab);
    for (std::size_t v = 0; v < vocab; ++v) {
      for (std::size_t i = 0; i < hidden; ++i) logits[v] += weight[v * hidden + i] * x[t * hidden + i] * inverse * static_cast<double>(p.head.norm[i]);
      total += std::exp(logits[v]);
    }
    sum += std::log(total) - logits[static_cast<std::size_t>(p.ids[t + 1])];
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

TEST(CausalLoss, EqualsTheTextbookAndItsSlopes) {
  for (const bool masked : {false, true}) {
    const problem p = make_problem(3, 5, masked);
    std::vector<float> dx(p.x.size(), 9.0f), dw(p.head.weight.size(), 9.0f);  // what was there must not matter
    const double loss = model::causal_loss(p.head, p.x.data(), p.ids, p.valid, p.seqlen, dx.data(), dw.data());
    std::vector<double> x(p.x.begin(), p.x.end()), w(p.head.weight.begin(), p.head.weight.end());
    EXPECT_NEAR(loss, textbook(p, x, w), 1e-6);
    const double step = 1e-5;  // slopes are good to about 1e-9 then
    const auto slopes = [&](std::vector<double>& of, const std::vector<float>& got) {
      double worst = 0, largest = 0;
      for (std::size_t i = 0; i < of.size(); ++i) {
        const double kept = of[i];
        of[i] = kept + step;
        const double above = textbook(p, x, w);
        of[i] = kept - step;
        const double want = (above - textbook(p, x, w)) / (2 * step);
        of[i] = kept;
        worst = std::max(worst, std::abs(want - static_cast<double>(got[i])));
        largest = std::max(largest, std::abs(want));
      }
      return worst / largest;
    };
    EXPECT_LT(slopes(x, dx), 5e-6);
    EXPECT_LT(slopes(w, dw), 5e-6);
  }
}

TEST(CausalLoss, ManyRowsAreDoneInPieces) {
  // 600 rows are more than are alive at a time; the mean of the parts is the loss of the whole.
  const problem p = make_problem(1, 601, false);
  ASSERT_LT(p.head.rows_at_once(), 600u);
  std::vector<float> dx(p.x.size());
  const std::vector<double> x(p.x.begin(), p.x.end()), w(p.head.weight.begin(), p.head.weight.end());
  EXPECT_NEAR(model::causal_loss(p.head, p.x.data(), p.ids, {}, p.seqlen, dx.data()), textbook(p, x, w), 1e-6);
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(dx[600 * 12 + i], 0.0f);  // the last token predicts nothing
  EXPECT_NE(dx[599 * 12], 0.0f);
}

TEST(CausalLoss, NothingToPredictIsNoLoss) {
  problem p = make_problem(2, 4, false);
  p.valid.assign(8, 0);
  std::vector<float> dx(p.x.size(), 1.0f);
  EXPECT_EQ(model::causal_loss(p.head, p.x.data(), p.ids, p.valid, p.seqlen, dx.data()), 0.0);
  for (const float d : dx) EXPECT_EQ(d, 0.0f);
}

}  // namespace
