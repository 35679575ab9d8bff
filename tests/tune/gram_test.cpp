// links: ar_tune ar_model OpenMP::OpenMP_CXX
// Tuning on Gram matrices as a specification: the loss is the squared error of the layer's output, rows stand alone, what is kept is never worse than
// rounding; over a model, by gram and by hybrid alike, neither threads nor invalid tokens change a bit, and the block's output comes nearer to the
// float model's.
#include "tune/gram.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <random>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "support/random_model.hpp"
#include "tune/gram_rows.hpp"
#include "tune/input_quantizer.hpp"
#include "tune/quantizer.hpp"
#include "tune/run_parts.hpp"
#include "tune/tuned_layer.hpp"

namespace {

using namespace auto_round;
using std::size_t;
using namespace support;

std::vector<float> noise(size_t n, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

/// a^T b of [tokens x n] and [tokens x m].
std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, size_t n, size_t m) {
  std::vector<float> c(n * m);
  linalg::gemm_tn({a.data(), a.size() / n, n, n, false}, {b.data(), b.size() / m, m, m, false}, c.data(), m);
  return c;
}

TEST(RangeStart, RangesBeginWhereTheyAreToldButNeverWider) {
  const std::vector<float> w = {-1.0f, 3.0f, 0.5f, 2.0f, -4.0f, 1.0f, -2.0f, -1.0f};  // two rows of two groups
  float lo[4], hi[4];
  tune::range_start start;
  tune::find_ranges({w.data(), 2, 4}, 2, start, 0, lo, hi);
  EXPECT_EQ((std::vector<float>(lo, lo + 4)), (std::vector<float>{-1.0f, 0.0f, -4.0f, -2.0f}));
  EXPECT_EQ((std::vector<float>(hi, hi + 4)), (std::vector<float>{3.0f, 2.0f, 1.0f, 0.0f}));
  start.step = std::make_shared<std::vector<std::uint16_t>>(std::vector<std::uint16_t>{0, 10, 5, 15});
  start.n = 20;
  tune::find_ranges({w.data() + 4, 1, 4}, 2, start, 1, lo, hi);  // the second row: 3/4 of 4 and 1/4 of 2
  EXPECT_EQ((std::vector<float>(lo, lo + 2)), (std::vector<float>{-3.0f, -0.5f}));
  EXPECT_EQ((std::vector<float>(hi, hi + 2)), (std::vector<float>{1.0f, 0.0f}));
  start.symmetric = false;
  tune::find_ranges({w.data(), 2, 4}, 2, start, 0, lo, hi);
  EXPECT_EQ((std::vector<float>(lo, lo + 4)), (std::vector<float>{-1.0f, 0.0f, -3.0f, -0.5f}));
  EXPECT_EQ((std::vector<float>(hi, hi + 4)), (std::vector<float>{3.0f, 1.0f, 0.75f, 0.0f}));
}

// A layer of 70 rows (no whole number of pieces) and 96 inputs that 200 tokens have seen, with an error of its inputs or of its output.
class GramRows : public testing::TestWithParam<bool> {
 protected:
  static constexpr size_t rows = 70, cols = 96, tokens = 200;
  void SetUp() override {
    omp_set_num_threads(1);
    // Inputs with directions of very different size, as in models.
    for (size_t t = 0; t < tokens; ++t)
      for (size_t i = 0; i < cols; ++i) x_[t * cols + i] *= 1.0f + 4.0f / static_cast<float>(1 + i % 13) + common_[t];
    gram_ = product(x_, x_, cols, cols);
    cross_ = product(error_, x_, error_width(), cols);
    prepared_.set(false, {gram_.data(), cols, cols, cols, false}, tune::gram_rows::piece, rows);
  }
  bool of_inputs() const { return GetParam(); }
  size_t error_width() const { return of_inputs() ? cols : rows; }

  tune::gram_layer layer(int bits, bool sym) const {
    tune::gram_layer l;
    l.weight = weight_.data();
    l.rows = rows;
    l.cols = cols;
    l.group_size = 32;
    l.grid = *tune::grid_of(scheme(bits, sym, 32), ar::real::f16);
    l.grid.clamp = ar::clamp_gradient::closed;
    l.grid.scale_grad = ar::scale_gradient::f32;
    l.gram = &prepared_;
    l.gram_matrix = gram_.data();
    l.cross = cross_.data();
    l.cross_inputs = of_inputs();
    return l;
  }
  static tune::gram_options options(std::int64_t iters) { return {iters, 1.0 / static_cast<double>(iters), 1.0 / static_cast<double>(iters), true, true}; }
  static tune::quantized_layer output(const tune::gram_layer& l, int bits, bool sym) {
    tune::quantized_layer out;
    tune::size_output("layer", scheme(bits, sym, 32), l.grid, rows, cols, 32, out);
    return out;
  }
  tune::gram_loss run(const tune::gram_layer& l, const tune::gram_options& o, tune::quantized_layer& out, size_t step = tune::gram_rows::piece) const {
    tune::gram_rows tuner;
    tune::gram_loss sum;
    for (size_t r = 0; r < rows; r += step) {
      const tune::gram_loss part = tuner.run(l, r, std::min(step, rows - r), o, out);
      sum.first += part.first;
      sum.kept += part.kept;
    }
    return sum;
  }

  /// The squared error of the output for these weights, less that of the float weights.
  double squared_error(const std::vector<float>& wq) const {
    double sum = 0;
    for (size_t t = 0; t < tokens; ++t)
      for (size_t r = 0; r < rows; ++r) {
        double change = 0, before = of_inputs() ? 0 : static_cast<double>(error_[t * rows + r]);
        for (size_t i = 0; i < cols; ++i) {
          change += static_cast<double>(wq[r * cols + i] - weight_[r * cols + i]) * static_cast<double>(x_[t * cols + i]);
          if (of_inputs()) before += static_cast<double>(weight_[r * cols + i]) * static_cast<double>(error_[t * cols + i]);
        }
        sum += change * change + 2 * change * before;
      }
    return sum;
  }

  std::vector<float> weight_ = noise(rows * cols, 0.1f, 1), x_ = noise(tokens * cols, 1.0f, 2), common_ = noise(tokens, 1.0f, 3);
  std::vector<float> error_ = noise(tokens * error_width(), 0.05f, 4), gram_, cross_;
  linalg::prepared prepared_;
};

TEST_P(GramRows, TheFirstLossIsThatOfRounding) {
  const tune::gram_layer l = layer(3, true);
  tune::quantized_layer out = output(l, 3, true);
  const tune::gram_loss loss = run(l, options(1), out);
  const double want = squared_error(out.weight);
  EXPECT_NEAR(loss.first, want, 1e-4 * std::fabs(want));
  EXPECT_EQ(loss.first, loss.kept);
}

TEST_P(GramRows, TheLossThatIsKeptIsThatOfTheWeightsAndBelowRounding) {
  for (const bool sym : {true, false})
    for (const int bits : {2, 4}) {
      const tune::gram_layer l = layer(bits, sym);
      tune::quantized_layer out = output(l, bits, sym);
      const tune::gram_loss loss = run(l, options(60), out);
      EXPECT_NEAR(loss.kept, squared_error(out.weight), 1e-3 * std::fabs(loss.first)) << bits << sym;
      EXPECT_LT(loss.kept, 0.85 * loss.first) << bits << sym;
    }
}

TEST_P(GramRows, RowsDoNotDependOnTheirNeighbours) {
  const tune::gram_layer l = layer(4, false);
  tune::quantized_layer together = output(l, 4, false), alone = together;
  run(l, options(10), together);
  run(l, options(10), alone, 7);
  EXPECT_EQ(together.weight, alone.weight);
  EXPECT_EQ(together.code, alone.code);
  EXPECT_EQ(together.scale, alone.scale);
  EXPECT_EQ(together.zero_point, alone.zero_point);
}

TEST_P(GramRows, WeightsAreScaleTimesCode) {
  const tune::gram_layer l = layer(4, true);
  tune::quantized_layer out = output(l, 4, true);
  run(l, options(10), out);
  for (size_t i = 0; i < rows * cols; ++i) ASSERT_EQ(out.weight[i], out.scale[i / 32] * (static_cast<float>(out.code[i]) - 8.0f)) << i;
}

TEST_P(GramRows, WithoutFactorsScalesStayThoseOfRounding) {
  const tune::gram_layer l = layer(4, true);
  tune::quantized_layer rounded = output(l, 4, true), tuned = rounded, ranged = rounded;
  run(l, options(1), rounded);
  tune::gram_options o = options(20);
  run(l, o, ranged);
  o.factors = false;
  run(l, o, tuned);
  EXPECT_EQ(tuned.scale, rounded.scale);
  EXPECT_NE(tuned.code, rounded.code);
  EXPECT_NE(ranged.scale, rounded.scale);
}

TEST_P(GramRows, TheLastIterateIsAnotherOneThanTheBest) {
  const tune::gram_layer l = layer(2, true);
  tune::quantized_layer best = output(l, 2, true), last = best;
  tune::gram_options o = options(30);
  const double kept = run(l, o, best).kept;
  o.keep_best = false;
  const double ended = run(l, o, last).kept;
  EXPECT_LT(kept, ended);
  EXPECT_NEAR(ended, squared_error(last.weight), 1e-3 * std::fabs(ended));
}

// ---- coordinate descent ----

TEST_P(GramRows, SweepsLowerTheLossWhichIsThatOfTheWeights) {
  for (const bool sym : {true, false})
    for (const int bits : {2, 4, 8}) {
      const tune::gram_layer l = layer(bits, sym);
      tune::quantized_layer out = output(l, bits, sym);
      tune::gram_options o = options(20);
      const double before = run(l, o, out).kept;
      o.sweeps = 4;
      const double after = run(l, o, out).kept;
      EXPECT_LT(after, before - 0.1 * std::fabs(before)) << bits << sym;
      EXPECT_NEAR(after, squared_error(out.weight), 1e-3 * std::fabs(before)) << bits << sym;
      const float middle = static_cast<float>(1 << (bits - 1));
      for (size_t i = 0; i < rows * cols; ++i) {
        const float zero = sym ? middle : out.zero_point[i / 32];
        ASSERT_EQ(out.weight[i], out.scale[i / 32] * (static_cast<float>(out.code[i]) - zero)) << i;
      }
    }
}

/// What sweeps converge to: no single code can move and lower the loss.
TEST_P(GramRows, BehindManySweepsNoOtherCodeIsBetter) {
  tune::gram_layer l = layer(3, true);
  tune::quantized_layer out = output(l, 3, true);
  tune::gram_options o = options(10);
  o.sweeps = 60;
  const double best = run(l, o, out).kept;
  for (const size_t row : {size_t{0}, size_t{69}})
    for (size_t i = row * cols; i < (row + 1) * cols; ++i)
      for (const float by : {-1.0f, 1.0f}) {
        const float code = static_cast<float>(out.code[i]) + by;
        if (code < 0 || code > 7) continue;
        std::vector<float> other = out.weight;
        other[i] += by * out.scale[i / 32];
        EXPECT_GT(squared_error(other), best - 1e-4 * std::fabs(best)) << i << by;
      }
}

TEST_P(GramRows, SweepsOverOneColumnRoundToNearestWhereErrorsAreAbsent) {
  tune::gram_layer l = layer(4, true);
  std::vector<float> diagonal(cols * cols, 0.0f);
  for (size_t i = 0; i < cols; ++i) diagonal[i * cols + i] = i % 3 == 0 ? 0.0f : 1.0f + static_cast<float>(i);  // every third input is always zero
  prepared_.set(false, {diagonal.data(), cols, cols, cols, false}, tune::gram_rows::piece, rows);
  l.gram_matrix = diagonal.data();
  l.cross = nullptr;
  tune::quantized_layer rounded = output(l, 4, true), swept = rounded;
  tune::gram_options o = options(1);
  o.factors = false;  // else scales move
  run(l, o, rounded);
  o.sweeps = 2;
  run(l, o, swept);
  EXPECT_EQ(swept.weight, rounded.weight);
  EXPECT_EQ(swept.code, rounded.code);
}

TEST_P(GramRows, SweepsMoveScalesToWhereTheLossIsLower) {
  for (const bool sym : {true, false})
    for (const int bits : {2, 4}) {
      const tune::gram_layer l = layer(bits, sym);
      tune::quantized_layer kept = output(l, bits, sym), moved = kept;
      tune::gram_options o = options(1);
      o.sweeps = 6;
      o.factors = false;
      const double fixed = run(l, o, kept).kept;
      o.factors = true;
      const tune::gram_loss loss = run(l, o, moved);
      EXPECT_LT(loss.kept, fixed) << bits << sym;
      EXPECT_LT(loss.kept, loss.first);
      EXPECT_NE(moved.scale, kept.scale);
      // What is stored is what was found: numbers of the grid of the stored scale.
      for (size_t i = 0; i < moved.weight.size(); ++i) {
        const float zero = moved.zero_point.empty() ? static_cast<float>(1 << (bits - 1)) : moved.zero_point[i / 32];
        ASSERT_EQ(moved.weight[i], moved.scale[i / 32] * (static_cast<float>(moved.code[i]) - zero)) << i;
      }
    }
}

TEST_P(GramRows, SweepsServeEveryGrid) {
  for (const char* type : {"mx_fp4", "mx_fp6e3m2", "mx_fp8", "mx_int8", "nv_fp4", "int_sym_dq", "int_asym_dq"}) {
    const std::string name = type;
    ar::scheme_fields s = scheme(4, true, 32);
    s.data_type = name;
    if (name == "mx_fp6e3m2") s.bits = 6;
    if (name == "mx_fp8" || name == "mx_int8") s.bits = 8;
    if (name == "nv_fp4") s.group_size = 16;
    if (name.ends_with("dq")) {
      s.sym = name == "int_sym_dq";
      s.bits = s.sym ? 3 : 2;
      s.group_size = 16;
      s.super_bits = s.sym ? 6 : 4;
      s.super_group_size = 2;
    }
    auto grid = tune::grid_of(s, ar::real::f32);
    ASSERT_TRUE(grid.has_value()) << name;
    if (grid->facts != nullptr && grid->facts->two_level()) grid->global_scale = 448.0f * 6.0f / 0.5f;
    tune::gram_layer l = layer(4, true);
    l.grid = *grid;
    l.group_size = static_cast<size_t>(s.group_size);
    tune::quantized_layer out;
    tune::size_output("layer", s, l.grid, rows, cols, l.group_size, out);
    tune::gram_options o = options(10);
    const double before = run(l, o, out).kept;
    o.sweeps = 4;
    const double after = run(l, o, out).kept;
    EXPECT_LT(after, before) << name;
    EXPECT_NEAR(after, squared_error(out.weight), 1e-3 * std::fabs(before)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(ErrorOf, GramRows, testing::Values(false, true), [](const auto& test) { return test.param ? "Inputs" : "Output"; });

// ---- a model ----

struct outcome {
  tune::tuning_result result;
  std::vector<std::string> order;
  std::map<std::string, tune::quantized_layer> layers;
};

using tuner = decltype(&tune::run_gram);

/// What both ways promise; the parameter is the way.
class GramModel : public testing::TestWithParam<tuner> {
 protected:
  void SetUp() override { omp_set_num_threads(1); }
  void TearDown() override { omp_set_num_threads(1); }
  result<outcome> run(const tune::layer_choices& choices, const tune::signround_options& options, const text::calibration_set& set) const {
    outcome o;
    tune::tuning_events events;
    events.on_block = [&](const tune::block_result&, std::vector<tune::quantized_layer>&& layers) -> result<void> {
      for (tune::quantized_layer& l : layers) {
        o.order.push_back(l.name);
        o.layers[l.name] = std::move(l);
      }
      return {};
    };
    auto r = GetParam()(model_, set, choices, options, events);
    if (!r) return forward_error(r);
    o.result = std::move(*r);
    return o;
  }
  outcome must(const tune::layer_choices& choices, const tune::signround_options& options) const { return must(choices, options, set_); }
  outcome must(const tune::layer_choices& choices, const tune::signround_options& options, const text::calibration_set& set) const {
    auto r = run(choices, options, set);
    EXPECT_TRUE(r.has_value()) << describe(r.error());
    return r ? std::move(*r) : outcome{};
  }
  static void expect_equal(const outcome& a, const outcome& b) {
    ASSERT_EQ(a.order, b.order);
    for (const auto& [name, layer] : a.layers) {
      EXPECT_EQ(layer.weight, b.layers.at(name).weight) << name;
      EXPECT_EQ(layer.code, b.layers.at(name).code) << name;
      EXPECT_EQ(layer.scale, b.layers.at(name).scale) << name;
    }
  }

  random_model model_;
  text::calibration_set set_ = calibration();
  tune::layer_choices all_ = all_layers(model_.spec(), {scheme(2)});
};

TEST_P(GramModel, HandsOutEveryLayerOnceInTheOrderOfTheModel) {
  const outcome o = must(all_, quick());
  std::vector<std::string> names;
  for (std::int64_t b = 0; b < 2; ++b)
    for (int i = 0; i < 7; ++i) names.push_back(model_.spec().linear_name(b, i));
  EXPECT_EQ(o.order, names);
  ASSERT_EQ(o.result.blocks.size(), 2u);
  EXPECT_EQ(o.result.blocks[1].quantized, 7);
}

TEST_P(GramModel, NearerToTheFloatModelThanRounding) {
  for (const bool sym : {true, false}) {
    const auto choices = all_layers(model_.spec(), {scheme(2, sym)});
    tune::signround_options rounding = quick(1);
    rounding.descent_sweeps = 0;
    const outcome rounded = must(choices, rounding), tuned = must(choices, quick(40));
    for (size_t b = 0; b < 2; ++b) {
      EXPECT_LT(tuned.result.blocks[b].best_loss, 0.8 * rounded.result.blocks[b].best_loss) << b;
      EXPECT_LE(tuned.result.blocks[b].best_loss, tuned.result.blocks[b].first_loss) << b;
    }
  }
}

TEST_P(GramModel, TheLossIsThatOfTheBlocksOutput) {
  const outcome o = must(all_, quick(10));
  auto weights = model::read_block(model_, 0);
  ASSERT_TRUE(weights.has_value());
  model::block_weights quantized = *weights;
  for (int i = 0; i < 7; ++i) quantized.linears[static_cast<size_t>(i)] = o.layers.at(model_.spec().linear_name(0, i)).weight;
  const auto x = model::embed(model_, set_.ids);
  ASSERT_TRUE(x.has_value());
  std::vector<float> want(x->size()), got(x->size());
  model::block_runner runner(model_.spec(), linalg::precision::f32);
  runner.forward(*weights, x->data(), 6, 8, want.data());
  runner.forward(quantized, x->data(), 6, 8, got.data());
  double sum = 0, count = 0;
  for (size_t t = 0; t < set_.valid.size(); ++t) {
    if (set_.valid[t] == 0) continue;
    for (size_t i = t * 256; i < (t + 1) * 256; ++i) sum += std::pow(static_cast<double>(got[i] - want[i]), 2.0), ++count;
  }
  EXPECT_NEAR(o.result.blocks[0].best_loss, sum / count, 1e-3 * sum / count);
}

TEST_P(GramModel, QuantizedInputsAreThoseThatTheLossIsMadeOf) {
  for (const std::string_view name : {"MXFP4", "NVFP4", "FP8_STATIC", "INT8"}) {
    const auto preset = std::ranges::find(ar::presets, name, &ar::preset::name);
    ASSERT_NE(preset, std::ranges::end(ar::presets)) << name;
    ar::scheme_fields fields = preset->fields;
    if (name == "INT8") fields.bits = 2, fields.group_size = 32;  // W2A8, which the hybrid's loop is for
    const tune::layer_choices all = all_layers(model_.spec(), {fields});
    tune::signround_options options = quick(100), rounding = quick(1);
    rounding.descent_sweeps = 0;
    const outcome o = must(all, options), rounded = must(all, rounding);
    EXPECT_LT(o.result.blocks[0].best_loss, rounded.result.blocks[0].best_loss) << name;

    auto weights = model::read_block(model_, 0);
    auto plans = tune::plan_layers(model_.spec(), 0, all, options);
    ASSERT_TRUE(weights.has_value() && plans.has_value());
    auto inputs = tune::input_quantizer::make(model_.spec(), *plans);
    ASSERT_TRUE(inputs.has_value() && *inputs != nullptr) << name;
    model::block_weights quantized = *weights;
    for (int i = 0; i < 7; ++i) {
      const tune::quantized_layer& l = o.layers.at(model_.spec().linear_name(0, i));
      EXPECT_EQ(l.act_max >= 0, (*inputs)->needs_maximum(i)) << name << i;
      (*inputs)->restore(i, l.act_max);
      quantized.linears[static_cast<size_t>(i)] = l.weight;
    }
    const auto x = model::embed(model_, set_.ids);
    ASSERT_TRUE(x.has_value());
    std::vector<float> want(x->size()), got(x->size());
    model::block_runner runner(model_.spec(), linalg::precision::f32);
    runner.forward(*weights, x->data(), 6, 8, want.data());
    runner.set_input_filter([&](int linear, float* rows, size_t tokens) { (*inputs)->forward(linear, rows, tokens); });
    runner.forward(quantized, x->data(), 6, 8, got.data());
    double sum = 0, count = 0;
    for (size_t t = 0; t < set_.valid.size(); ++t) {
      if (set_.valid[t] == 0) continue;
      for (size_t i = t * 256; i < (t + 1) * 256; ++i) sum += std::pow(static_cast<double>(got[i] - want[i]), 2.0), ++count;
    }
    EXPECT_NEAR(o.result.blocks[0].best_loss, sum / count, 1e-2 * sum / count) << name << ": the float model's stream is rounded to 8 bits of what a block adds";
  }
}

TEST_P(GramModel, TheNumberOfThreadsChangesNothing) {
  for (const auto precision : {linalg::precision::f32, linalg::precision::bf16}) {
    tune::signround_options o = quick(3);
    o.precision = precision;
    o.bf16_activations = precision == linalg::precision::bf16;
    const outcome one = must(all_, o);
    omp_set_num_threads(3);
    expect_equal(one, must(all_, o));
    omp_set_num_threads(1);
  }
}

TEST_P(GramModel, InvalidTokensDoNotMatter) {
  text::calibration_set other = set_;
  for (size_t i = 7; i < other.ids.size(); i += 8) other.ids[i] = (other.ids[i] + 17) % 40;  // the last token of each sample, which no other sees
  ASSERT_NE(other.ids, set_.ids);
  expect_equal(must(all_, quick()), must(all_, quick(), other));
}

TEST_P(GramModel, LayersThatAreNotNamedStayInFloat) {
  tune::layer_choices some;
  for (const int i : {model_.spec().v, model_.spec().down}) some[model_.spec().linear_name(1, i)] = {scheme(2)};
  const outcome o = must(some, quick());
  EXPECT_EQ(o.order, (std::vector<std::string>{model_.spec().linear_name(1, model_.spec().v), model_.spec().linear_name(1, model_.spec().down)}));
  EXPECT_EQ(o.result.blocks[0].quantized, 0);
  EXPECT_LT(o.result.blocks[0].best_loss, 1e-5) << "only the float model's stream is rounded, to 8 bits of what a block adds";
}

TEST_P(GramModel, FloatInputsMakeBlocksIndependent) {
  tune::layer_choices second;
  for (const auto& [name, choice] : all_)
    if (name.starts_with("layers.1.")) second[name] = choice;
  tune::signround_options o = quick();
  o.enable_quanted_input = false;
  const outcome whole = must(all_, o), alone = must(second, o);
  for (const auto& [name, layer] : alone.layers) EXPECT_EQ(layer.weight, whole.layers.at(name).weight) << name;
}

TEST_P(GramModel, RefusesWhatBelongsToBlocks) {
  const auto refused = [&](auto change) {
    tune::signround_options o = quick();
    change(o);
    const auto r = run(all_, o, set_);
    return !r && r.error().kind == error_kind::usage;
  };
  EXPECT_TRUE(refused([](auto& o) { o.nblocks = 2; }));
  EXPECT_TRUE(refused([](auto& o) { o.gradient_accumulate_steps = 2; }));
  EXPECT_TRUE(refused([](auto& o) { o.momentum = 0.5; }));
  EXPECT_TRUE(refused([](auto& o) { o.dynamic_max_gap = 3; }));
  EXPECT_TRUE(refused([](auto& o) { o.iters = 0; }));
}

TEST_P(GramModel, StopsWhenAnEventSaysSo) {
  tune::tuning_events events;
  int calls = 0;
  events.on_iteration = [&](std::int64_t, std::int64_t, double) { return ++calls < 3; };
  const auto r = GetParam()(model_, set_, all_, quick(), events);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, error_kind::interrupted);
  EXPECT_EQ(calls, 3);
}

INSTANTIATE_TEST_SUITE_P(By, GramModel, testing::Values(&tune::run_gram, &tune::run_hybrid), [](const auto& test) { return test.index == 0 ? "Gram" : "Hybrid"; });

std::map<std::string, tune::quantized_layer> layers_of(tuner how, const model::weight_source& model, const tune::layer_choices& choices, tune::signround_options options) {
  std::map<std::string, tune::quantized_layer> layers;
  tune::tuning_events events;
  events.on_block = [&](const tune::block_result&, std::vector<tune::quantized_layer>&& done) -> result<void> {
    for (tune::quantized_layer& l : done) layers[l.name] = std::move(l);
    return {};
  };
  EXPECT_TRUE(how(model, calibration(), choices, options, events).has_value());
  return layers;
}

// ---- K types ----

TEST(Gram, KTypesBeginWithSearchedScalesAndKeepThem) {
  const random_model model;
  for (const std::string_view name : {"GGUF:Q2_K_S", "GGUF:Q6_K"}) {
    const auto preset = std::ranges::find(ar::presets, name, &ar::preset::name);
    ASSERT_NE(preset, std::ranges::end(ar::presets)) << name;
    const tune::layer_choices all = all_layers(model.spec(), {preset->fields});
    tune::signround_options one = quick();
    one.descent_sweeps = 1;
    const auto few = layers_of(&tune::run_gram, model, all, one), many = layers_of(&tune::run_gram, model, all, quick());
    const std::string q = model.spec().linear_name(0, model.spec().q);
    EXPECT_EQ(few.at(q).scale, many.at(q).scale) << name;  // sweeps do not move them
    EXPECT_NE(few.at(q).code, many.at(q).code) << name;
    for (const auto& [layer, l] : many) {
      const std::size_t size = static_cast<std::size_t>(preset->fields.group_size), block = 256 / size;
      ASSERT_EQ(l.d_scale.size() * block, l.scale.size()) << name;
      const float zero = l.wmin.empty() ? static_cast<float>(1 << (preset->fields.bits - 1)) : 0.0f;
      for (std::size_t i = 0; i < l.weight.size(); ++i) {
        const float minimum = l.wmin.empty() ? 0.0f : l.wmin[i / size];
        ASSERT_EQ(l.weight[i], l.scale[i / size] * (static_cast<float>(l.code[i]) - zero) - minimum) << name << layer << i;
      }
      for (std::size_t g = 0; g < l.scale.size(); ++g) {
        const float steps = l.d_scale[g / block] == 0.0f ? 0.0f : l.scale[g] / l.d_scale[g / block];
        ASSERT_NEAR(steps, std::round(steps), 1e-3f) << name << layer << g;
      }
    }
  }
}

// ---- the hybrid ----

TEST(Hybrid, GoesOnFromWhatGramFound) {
  // One iteration makes no step: weights that were moved to their numbers are rounded to them.
  const random_model model;
  for (const bool sym : {true, false}) {
    const tune::layer_choices all = all_layers(model.spec(), {scheme(2, sym)});
    const auto gram = layers_of(&tune::run_gram, model, all, quick(2)), hybrid = layers_of(&tune::run_hybrid, model, all, quick(2));
    for (const auto& [name, layer] : gram) {
      EXPECT_EQ(layer.weight, hybrid.at(name).weight) << name;
      EXPECT_EQ(layer.code, hybrid.at(name).code) << name;
      EXPECT_EQ(layer.scale, hybrid.at(name).scale) << name;
    }
  }
}

TEST(Hybrid, KeepsScalesAndLowersTheLossOfTheFirstBlock) {
  const random_model model;
  const tune::layer_choices all = all_layers(model.spec(), {scheme(2)});
  const auto gram = layers_of(&tune::run_gram, model, all, quick(200)), hybrid = layers_of(&tune::run_hybrid, model, all, quick(200));
  std::size_t flipped = 0;
  for (const auto& [name, layer] : gram) {
    if (!name.starts_with("layers.0.")) continue;  // the second block sees another first one
    EXPECT_EQ(layer.scale, hybrid.at(name).scale) << name;
    for (std::size_t i = 0; i < layer.code.size(); ++i) flipped += layer.code[i] != hybrid.at(name).code[i];
  }
  EXPECT_GT(flipped, 0u);
  const auto loss = [&](tuner how) { return how(model, calibration(), all, quick(200), {}).value().blocks[0].best_loss; };
  EXPECT_LT(loss(&tune::run_hybrid), loss(&tune::run_gram));
}

TEST(KeptRows, AreThoseThatWouldBeComputedAgain) {
  const random_model model;
  const tune::layer_choices all = all_layers(model.spec(), {scheme(2)});
  tune::signround_options none = quick(3);
  none.kept_bytes = 0;
  for (const tuner how : {&tune::run_gram, &tune::run_hybrid}) {
    const auto kept = layers_of(how, model, all, quick(3)), again = layers_of(how, model, all, none);
    for (const auto& [name, layer] : kept) EXPECT_EQ(layer.weight, again.at(name).weight) << name;
  }
}

TEST(Hybrid, TheSeedChoosesTheBatches) {
  const random_model model;
  const tune::layer_choices all = all_layers(model.spec(), {scheme(2)});
  tune::signround_options a = quick(100), b = a;
  b.seed = a.seed + 1;
  const auto first = layers_of(&tune::run_hybrid, model, all, a), second = layers_of(&tune::run_hybrid, model, all, b);
  const std::string q = model.spec().linear_name(0, model.spec().q);
  EXPECT_NE(first.at(q).weight, second.at(q).weight);
}

TEST(GramRule, IsPreferredFromThreeBitsOnAndForFewTokensOrIterations) {
  const random_model model;
  constexpr std::int64_t many = 32 * 256;
  EXPECT_FALSE(tune::prefer_gram(model.spec(), many, 50, 2));
  EXPECT_TRUE(tune::prefer_gram(model.spec(), many, 50, 3));
  EXPECT_FALSE(tune::prefer_gram(model.spec(), many, 1000, 4)) << "who asks for so many iterations gets them";
  EXPECT_TRUE(tune::prefer_gram(model.spec(), many, 1000, 5));
  EXPECT_TRUE(tune::prefer_gram(model.spec(), many, 49, 2));
  EXPECT_TRUE(tune::prefer_gram(model.spec(), many - 1, 50, 2));
}

}  // namespace
