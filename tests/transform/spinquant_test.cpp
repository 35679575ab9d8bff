// links: ar_transform ar_model
// Training of rotations moves, lowers the loss, stays orthogonal, and leaves the float model what it was.
#include "transform/spinquant.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "support/memory_source.hpp"
#include "support/random_model.hpp"
#include "support/temp_dir.hpp"
#include "transform/orthogonal.hpp"

namespace {

using namespace auto_round;
using std::size_t;

support::memory_source outlier_model() {
  support::memory_source m;
  m.spec_ = support::llama_spec(32, 64, 2, 1, 16, 64, 2, true);
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  const auto add = [&](const std::string& name, std::int64_t n, float scale, float offset = 0) {
    auto& t = m.tensors[name];
    t.resize(static_cast<size_t>(n));
    for (float& x : t) x = offset + scale * normal(random);
  };
  const auto& s = m.spec_;
  add(s.embed_name, s.vocab_size * s.hidden_size, 0.5f);
  add(s.head_name, s.vocab_size * s.hidden_size, 0.4f);
  add(s.final_norm_name, s.hidden_size, 0.2f, 1.0f);
  for (std::int64_t l = 0; l < s.num_layers; ++l) {
    const std::string prefix = s.block_prefix + std::to_string(l) + ".";
    add(prefix + s.input_norm_name, s.hidden_size, 0.2f, 1.0f);
    add(prefix + s.post_attention_norm_name, s.hidden_size, 0.2f, 1.0f);
    for (const auto& d : s.linears) {
      add(prefix + d.name + ".weight", d.out_features * d.in_features, 0.25f);
      if (d.bias) add(prefix + d.name + ".bias", d.out_features, 0.2f);
    }
  }
  return m;
}

text::calibration_set tokens() { return support::calibration(8, 16, 64); }

TEST(Spinquant, TheLossFallsAndTheFloatModelStaysWhatItIs) {
  const auto model = outlier_model();
  tune::layer_choices choices;
  for (std::int64_t l = 0; l < 2; ++l)
    for (int i = 0; i < 7; ++i) choices[model.spec().linear_name(l, i)] = {{.bits = 4, .group_size = -1, .sym = true}};
  transform::rotation_options o;
  o.online_r1 = false, o.trained = true;
  auto places = transform::place_rotations(model.spec(), o, transform::drawn_signs(1));
  ASSERT_TRUE(places.has_value());
  const auto before = places->residual;
  transform::spinquant_options t;
  t.iters = 60, t.batch_size = 8;
  int steps = 0;
  transform::rotation_events events;
  events.on_step = [&](std::int64_t, double loss) {
    EXPECT_TRUE(std::isfinite(loss));
    ++steps;
    return true;
  };
  const auto trained = transform::train_rotation(model, tokens(), choices, t, *places, events);
  ASSERT_TRUE(trained.has_value()) << trained.error().message;
  EXPECT_EQ(steps, 60);
  EXPECT_LT(trained->last_loss, 0.97 * trained->first_loss);  // random weights have few outliers left behind the Hadamard matrix
  EXPECT_NE(places->residual, before);
  EXPECT_LT(transform::orthogonality_error(trained->r1, 32), 1e-6);
  EXPECT_LT(transform::orthogonality_error(trained->r2, 16), 1e-6);

  const transform::rotated_source rotated(model, *places, {});
  std::vector<std::int32_t> ids = {1, 5, 9, 33, 62, 7, 7, 20};
  const auto a = model::logits(model, ids), b = model::logits(rotated, ids);
  ASSERT_TRUE(a.has_value() && b.has_value());
  double error = 0, norm = 0;
  for (size_t i = 0; i < a->size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>((*a)[i]) - static_cast<double>((*b)[i])));
    norm = std::max(norm, std::abs(static_cast<double>((*a)[i])));
  }
  EXPECT_LE(error, 1e-5 * norm);
}

TEST(Spinquant, OneBlockAtATimeInMemoryGivesTheSameBits) {
  const auto model = outlier_model();
  tune::layer_choices choices;
  for (std::int64_t l = 0; l < 2; ++l)
    for (int i = 1; i < 7; ++i) choices[model.spec().linear_name(l, i)] = {{.bits = 4, .group_size = 16, .sym = l == 0}};
  transform::rotation_options o;
  o.online_r1 = false, o.trained = true;
  const support::temp_dir folder;
  std::vector<float> r1, r2;
  double first = 0, last = 0;
  for (const bool in_file : {false, true}) {
    auto places = transform::place_rotations(model.spec(), o, transform::drawn_signs(1));
    ASSERT_TRUE(places.has_value());
    transform::spinquant_options t;
    t.iters = 4, t.batch_size = 3;  // the last batch of a pass over all samples is smaller
    if (in_file) t.scratch_folder = folder.path();
    const auto trained = transform::train_rotation(model, tokens(), choices, t, *places);
    ASSERT_TRUE(trained.has_value()) << trained.error().message;
    if (in_file) {
      EXPECT_EQ(trained->r1, r1);
      EXPECT_EQ(trained->r2, r2);
      EXPECT_EQ(trained->first_loss, first);
      EXPECT_EQ(trained->last_loss, last);
    }
    r1 = trained->r1, r2 = trained->r2, first = trained->first_loss, last = trained->last_loss;
  }
  EXPECT_NE(first, last);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Spinquant, StepsStayOrthogonalAndGoDownhill) {
  // f(x) = <x, c>: its minimum over orthogonal matrices is minus the sum of singular values.
  constexpr size_t n = 24;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> c(n * n), x(n * n, 0.0f), momentum;
  for (float& v : c) v = normal(random);
  for (size_t i = 0; i < n; ++i) x[i * n + i] = 1.0f;
  const auto value = [&] {
    double sum = 0;
    for (size_t i = 0; i < n * n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(c[i]);
    return sum;
  };
  double last = value();
  for (int step = 0; step < 300; ++step) {
    transform::cayley_step(x, c, n, 0.3 * (1.0 - step / 300.0), 0.0, momentum);
    EXPECT_LT(transform::orthogonality_error(x, n), 1e-3);
    if (step < 20) {
      EXPECT_LT(value(), last) << step;  // near the minimum a step of given length overshoots
    }
    last = value();
  }
  EXPECT_LT(last, -98.0);  // about -8 / (3 pi) n sqrt(n) = -99.8 for such matrices
}

TEST(Spinquant, RefusalsSayWhy) {
  const auto model = outlier_model();
  transform::rotation_options o;
  o.r1 = o.r2 = false, o.online_r1 = false;
  auto places = transform::place_rotations(model.spec(), o, transform::drawn_signs(1));
  auto r = transform::train_rotation(model, tokens(), {}, {}, *places);
  ASSERT_FALSE(r.has_value());
  EXPECT_NE(r.error().message.find("nothing"), std::string::npos) << r.error().message;
  o.r1 = o.online_r1 = true;
  places = transform::place_rotations(model.spec(), o, transform::drawn_signs(1));
  r = transform::train_rotation(model, tokens(), {}, {}, *places);
  ASSERT_FALSE(r.has_value());
  EXPECT_NE(r.error().message.find("offline"), std::string::npos) << r.error().message;
}

}  // namespace
