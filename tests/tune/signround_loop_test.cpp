// links: ar_tune ar_model OpenMP::OpenMP_CXX
// The block loop as a specification, on a random two-block model: what it hands out, what it leaves alone, and that neither threads nor the way
// of storing things change it. (That it follows the reference is tested by tests/golden/signround_block_test.cpp.)
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "model/block.hpp"
#include "support/random_model.hpp"
#include "tune/quantizer.hpp"
#include "tune/signround.hpp"
#include "tune/vector_source.hpp"

namespace {

using namespace auto_round;
using std::size_t;
using namespace support;

struct outcome {
  tune::tuning_result result;
  std::map<std::string, tune::quantized_layer> layers;
  std::vector<double> losses;
  int units = 0;
};

class SignRoundLoop : public testing::Test {
 protected:
  // One thread unless a test says otherwise: products this small only wait for each other on a busy machine.
  void SetUp() override { omp_set_num_threads(1); }
  result<outcome> run(const tune::layer_choices& choices, const tune::signround_options& options) {
    outcome o;
    tune::tuning_events events;
    events.on_iteration = [&](std::int64_t, std::int64_t, double loss) {
      o.losses.push_back(loss);
      return true;
    };
    events.on_block = [&](const tune::block_result&, std::vector<tune::quantized_layer>&& layers) -> result<void> {
      ++o.units;
      for (tune::quantized_layer& l : layers) o.layers[l.name] = std::move(l);
      return {};
    };
    auto r = tune::run_signround(model_, set_, choices, options, events);
    if (!r) return forward_error(r);
    o.result = std::move(*r);
    return o;
  }
  outcome must(const tune::layer_choices& choices, const tune::signround_options& options) {
    auto r = run(choices, options);
    EXPECT_TRUE(r.has_value()) << describe(r.error());
    return r ? std::move(*r) : outcome{};
  }

  random_model model_;
  text::calibration_set set_ = calibration();
};

TEST_F(SignRoundLoop, HandsOutEveryLayerOfEveryBlockOnce) {
  const auto choices = all_layers(model_.spec(), {scheme(4, false)});
  const outcome o = must(choices, quick());
  EXPECT_EQ(o.units, 2);
  EXPECT_EQ(o.layers.size(), choices.size());
  EXPECT_EQ(o.losses.size(), 8u);
  ASSERT_EQ(o.result.blocks.size(), 2u);
  EXPECT_EQ(o.result.blocks[1].first_block, 1);
  EXPECT_EQ(o.result.blocks[1].quantized, 7);
  EXPECT_EQ(o.result.blocks[0].first_loss, o.losses[0]);
  EXPECT_EQ(o.result.blocks[0].best_loss, *std::min_element(o.losses.begin(), o.losses.begin() + 4));
  for (const auto& [name, l] : o.layers) {
    EXPECT_EQ(l.weight.size(), l.rows * l.cols) << name;
    EXPECT_EQ(l.code.size(), l.rows * l.cols);
    EXPECT_EQ(l.scale.size(), l.rows * l.cols / 64);
    EXPECT_EQ(l.zero_point.size(), l.scale.size());
    for (size_t i = 0; i < l.code.size(); ++i) ASSERT_EQ(l.weight[i], l.scale[i / 64] * (static_cast<float>(l.code[i]) - l.zero_point[i / 64]));
  }
}

TEST_F(SignRoundLoop, TuningLowersTheLossBelowRounding) {
  const outcome o = must(all_layers(model_.spec(), {scheme(3)}), quick(60));
  for (const tune::block_result& b : o.result.blocks) EXPECT_LT(b.best_loss, 0.8 * b.first_loss);
}

TEST_F(SignRoundLoop, LayersThatAreNotChosenStayInFloat) {
  auto choices = all_layers(model_.spec(), {scheme(4)});
  choices["layers.0.o"].scheme.bits = 16;
  choices.erase("layers.1.down");
  choices["layers.1.q"].scheme = scheme(8, false, 32);
  const outcome o = must(choices, quick());
  EXPECT_EQ(o.layers.size(), 12u);
  EXPECT_EQ(o.layers.count("layers.0.o"), 0u);
  EXPECT_EQ(o.layers.count("layers.1.down"), 0u);
  EXPECT_EQ(o.layers.at("layers.1.q").scheme.bits, 8);
  EXPECT_EQ(o.result.blocks[0].quantized, 6);
  EXPECT_EQ(o.result.blocks[0].layers, 7);
}

TEST_F(SignRoundLoop, ABlockWithoutChosenLayersPassesThrough) {
  tune::layer_choices choices;
  for (int i = 0; i < 7; ++i) choices[model_.spec().linear_name(1, i)] = {scheme(4)};
  const outcome o = must(choices, quick());
  EXPECT_EQ(o.losses.size(), 4u) << "only block 1 is tuned";
  EXPECT_EQ(o.result.blocks[0].quantized, 0);
  EXPECT_EQ(o.layers.size(), 7u);
}

TEST_F(SignRoundLoop, TheNumberOfThreadsChangesNothing) {
  const auto choices = all_layers(model_.spec(), {scheme(4, false)});
  std::vector<outcome> runs;
  for (int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    runs.push_back(must(choices, quick()));
  }
  for (const outcome& o : runs) {
    EXPECT_EQ(o.losses, runs[0].losses);
    for (const auto& [name, l] : o.layers) {
      EXPECT_EQ(l.code, runs[0].layers.at(name).code) << name;
      EXPECT_EQ(l.scale, runs[0].layers.at(name).scale) << name;
    }
  }
}

TEST_F(SignRoundLoop, BfloatProductsAndActivationsStayCloseToFloat) {
  const auto choices = all_layers(model_.spec(), {scheme(3)});
  const outcome exact = must(choices, quick(20));
  tune::signround_options o = quick(20);
  o.precision = linalg::precision::bf16;
  o.bf16_activations = true;
  const outcome narrow = must(choices, o);
  for (size_t b = 0; b < 2; ++b) {
    EXPECT_NEAR(narrow.result.blocks[b].first_loss, exact.result.blocks[b].first_loss, 0.1 * exact.result.blocks[b].first_loss);
    EXPECT_NEAR(narrow.result.blocks[b].best_loss, exact.result.blocks[b].best_loss, 0.2 * exact.result.blocks[b].best_loss);
  }
}

TEST_F(SignRoundLoop, BlocksCanBeTunedTogether) {
  tune::signround_options o = quick(30);
  o.nblocks = 2;
  const outcome together = must(all_layers(model_.spec(), {scheme(3)}), o);
  EXPECT_EQ(together.units, 1);
  EXPECT_EQ(together.layers.size(), 14u);
  EXPECT_EQ(together.result.blocks[0].blocks, 2);
  EXPECT_LT(together.result.blocks[0].best_loss, together.result.blocks[0].first_loss);
}

TEST_F(SignRoundLoop, AccumulationMomentumAndFloatInputsRun) {
  const auto choices = all_layers(model_.spec(), {scheme(3)});
  for (int variant = 0; variant < 5; ++variant) {
    SCOPED_TRACE(variant);
    tune::signround_options o = quick(20);
    o.batch_size = 6;  // all samples, so that losses can be compared between iterations
    if (variant <= 1) o.batch_size = 3, o.gradient_accumulate_steps = 2;
    if (variant == 1) o.scale_gradient = ar::scale_gradient::f32;
    if (variant == 2) o.momentum = 0.5;
    if (variant == 3) o.enable_quanted_input = false;
    if (variant == 4) o.enable_minmax_tuning = false;
    const outcome r = must(choices, o);
    ASSERT_EQ(r.result.blocks.size(), 2u);
    for (const tune::block_result& b : r.result.blocks) EXPECT_LT(b.best_loss, b.first_loss);
  }
}

TEST_F(SignRoundLoop, MicroBatchesAddUpWhereverTheirGradientsMeet) {
  // The reference adds the parameters' gradients, without rounding of scale gradients the weights' gradients may be added: the same but for rounding.
  const auto choices = all_layers(model_.spec(), {scheme(4)});
  tune::signround_options stored = quick(3), fused = quick(3);
  for (tune::signround_options* o : {&stored, &fused}) {
    o->gradient_accumulate_steps = 3;
    o->enable_minmax_tuning = false;
  }
  fused.scale_gradient = ar::scale_gradient::f32;
  const outcome a = must(choices, stored), b = must(choices, fused);
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(a.losses[i], b.losses[i], 1e-3 * a.losses[i]);
}

TEST_F(SignRoundLoop, WithoutIterationsToSpareTheResultIsRounding) {
  // One iteration: its parameters are the start, and the best.
  const outcome o = must(all_layers(model_.spec(), {scheme(4)}), quick(1));
  for (const auto& [name, l] : o.layers) {
    const auto rounded = tune::quantize_layer(model_, name, l.scheme, l.rows, l.cols);
    ASSERT_TRUE(rounded.has_value()) << describe(rounded.error());
    EXPECT_EQ(l.code, rounded->code) << name;
    EXPECT_EQ(l.scale, rounded->scale) << name;
    EXPECT_EQ(l.weight, rounded->weight) << name;
  }
}

TEST_F(SignRoundLoop, StopsWhenTheLossNoLongerImproves) {
  tune::signround_options o = quick(200);
  o.lr = 1e-9;  // nothing moves, so the losses of the three batches come again and again
  o.dynamic_max_gap = 5;
  const outcome r = must(all_layers(model_.spec(), {scheme(4)}), o);
  for (const tune::block_result& b : r.result.blocks) EXPECT_LT(b.iterations, 60);
}

TEST_F(SignRoundLoop, TheLastIterateIsKeptOnRequest) {
  tune::signround_options o = quick(6);
  o.not_use_best_mse = true;
  const outcome r = must(all_layers(model_.spec(), {scheme(4)}), o);
  EXPECT_EQ(r.result.blocks[0].best_iteration, 6);
  EXPECT_EQ(r.result.blocks[0].best_loss, r.losses[5]);
}

TEST_F(SignRoundLoop, SuperBlocksOfGgufAreTuned) {
  const outcome o = must(all_layers(model_.spec(), {*ar::find_preset("GGUF:Q4_K_S"), ar::real::f32}), quick(30));
  const tune::quantized_layer& l = o.layers.at("layers.0.gate");
  EXPECT_EQ(l.scale.size(), 256u * 8);
  EXPECT_EQ(l.wmin.size(), 256u * 8);
  EXPECT_EQ(l.d_scale.size(), 256u);
  EXPECT_EQ(l.d_wmin.size(), 256u);
  for (const tune::block_result& b : o.result.blocks) EXPECT_LT(b.best_loss, b.first_loss);
}

/// Small steps on all samples at once, so that losses can be compared.
tune::signround_options careful(std::int64_t iters) {
  tune::signround_options o = quick(iters);
  o.batch_size = 64;
  o.lr = 0.004;
  return o;
}

/// What an engine makes of codes and scales is what the following blocks saw.
void expect_decodes(const tune::quantized_layer& l, const ar::range_kernels& k) {
  ar::type_values type(l.scheme.bits);
  type.tensor.global_scale = l.global_scale;
  const ar::group_shape group(l.scheme.group_size, std::max(1, l.scheme.group_rows));
  const bool whole = l.scheme.group_size == 0;
  const size_t bands = whole ? 1 : ar::ceil_div(l.rows, static_cast<size_t>(group.rows));
  std::vector<float> out(l.weight.size());
  ASSERT_EQ(l.scale.size() % bands, 0u);
  const ar::matrix_view<const float> scale(l.scale.data(), bands, l.scale.size() / bands), zero(l.zero_point.data(), l.zero_point.empty() ? 0 : bands, scale.cols);
  ASSERT_EQ(k.dequantize(type, group, {l.code.data(), l.rows, l.cols}, scale, zero, {out.data(), l.rows, l.cols}), ar::errc::ok) << l.name;
  for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], l.weight[i]) << l.name << " element " << i;
}

TEST_F(SignRoundLoop, EveryPresetIsTunedAndWhatIsStoredIsWhatWasTuned) {
  int tuned = 0, fixed = 0;
  for (const ar::preset& p : ar::presets) {
    SCOPED_TRACE(p.name);
    const ar::scheme_fields& s = p.fields;
    const ar::range_kernels* k = tune::tuned_kernels(s.data_type, s.bits, s.sym, s.group_rows > 0);
    if (s.bits >= 16 || s.super_bits || k == nullptr) continue;
    const outcome o = must(all_layers(model_.spec(), {s}), careful(12));
    ASSERT_EQ(o.layers.size(), 14u);
    for (const tune::block_result& b : o.result.blocks) EXPECT_LT(b.best_loss, b.first_loss);
    for (const auto& [name, l] : o.layers) {
      expect_decodes(l, *k);
      fixed += l.act_max > 0;
    }
    if (k->two_level()) {
      EXPECT_EQ(o.layers.at("layers.0.q").global_scale, o.layers.at("layers.0.v").global_scale);
    }
    ++tuned;
  }
  EXPECT_GE(tuned, 10);
  EXPECT_GE(fixed, 14) << "some preset has static scales of activations";
}

TEST_F(SignRoundLoop, TheExtensionAdamAndNormsLowerTheLossToo) {
  tune::signround_options plain = careful(10), extended = plain, adam = plain, norms = plain;
  extended.enable_alg_ext = true;
  adam.enable_adam = true;
  norms.enable_norm_bias_tuning = true;
  for (const auto& s : {scheme(2), *ar::find_preset("MXFP4"), *ar::find_preset("NVFP4"), *ar::find_preset("GGUF:Q4_K_S")}) {
    SCOPED_TRACE(std::string(s.data_type));
    const bool superblocks = s.super_bits.has_value();
    const auto choices = all_layers(model_.spec(), {s, superblocks ? ar::real::f32 : ar::real::f16});
    for (const tune::signround_options* o : {&extended, &adam, &norms}) {
      const outcome r = must(choices, *o);
      for (const tune::block_result& b : r.result.blocks) {
        EXPECT_LT(b.best_loss, b.first_loss);
        EXPECT_EQ(b.vectors.size(), o == &norms ? 2u : 0u);
      }
    }
    // Searched scales begin nearer than those of the range, which weights of a normal distribution do not need at two bits alone.
    EXPECT_NE(must(choices, extended).losses[0], must(choices, plain).losses[0]);
  }
}

TEST_F(SignRoundLoop, TunedNormsAreReadFromTheirSource) {
  tune::vector_source source(model_);
  tune::signround_options o = careful(10);
  o.enable_norm_bias_tuning = true;
  const outcome r = must(all_layers(model_.spec(), {scheme(3)}), o);
  for (const tune::block_result& b : r.result.blocks)
    for (const auto& [name, values] : b.vectors) {
      EXPECT_TRUE(source.changed(name)) << name;
      std::vector<float> before(256), after(256), part(100);
      ASSERT_TRUE(source.read(name, before).has_value());
      EXPECT_NE(before, values) << "tuning moved it";
      for (size_t i = 0; i < 256; ++i) EXPECT_NEAR(before[i], values[i], 0.1f) << "but not far: offsets are below half a step of a fifteenth of its range";
      source.set(name, values);
      ASSERT_TRUE(source.read(name, after).has_value());
      EXPECT_EQ(after, values);
      ASSERT_TRUE(source.read_part(name, 256, 150, part).has_value());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 150));
    }
  EXPECT_FALSE(source.changed("layers.0.q.weight"));
}

TEST_F(SignRoundLoop, LayersThatReadTheSameRowsQuantizeThemAlike) {
  auto choices = all_layers(model_.spec(), {*ar::find_preset("MXFP4")});
  choices["layers.1.v"].scheme.act_bits = 16;
  const auto r = run(choices, quick());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, error_kind::unsupported);
  EXPECT_EQ(r.error().tensor, "layers.1.v");
}

TEST_F(SignRoundLoop, ErrorsSayWhatIsWrong) {
  const auto choices = all_layers(model_.spec(), {scheme(4)});
  const auto kind = [&](const tune::layer_choices& c, const tune::signround_options& o) {
    const auto r = run(c, o);
    return r ? error_kind::internal : r.error().kind;
  };
  tune::signround_options o = quick();
  o.iters = 0;
  EXPECT_EQ(kind(choices, o), error_kind::usage);
  o = quick();
  o.nblocks = 0;
  EXPECT_EQ(kind(choices, o), error_kind::usage);
  auto unknown = choices;
  unknown["layers.9.q"] = {scheme(4)};
  EXPECT_EQ(kind(unknown, quick()), error_kind::input);
  auto odd = choices;
  odd["layers.1.up"].scheme.data_type = "no_type";
  const auto r = run(odd, quick());
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, error_kind::unsupported);
  EXPECT_EQ(r.error().tensor, "layers.1.up");
  set_.ids[5] = 4000;
  EXPECT_EQ(kind(choices, quick()), error_kind::input) << "a token outside the vocabulary";
  set_ = {};
  EXPECT_EQ(kind(choices, quick()), error_kind::usage) << "no calibration data";
}

TEST_F(SignRoundLoop, CallbacksCanStopTheRun) {
  tune::tuning_events events;
  events.on_iteration = [](std::int64_t, std::int64_t iteration, double) { return iteration < 1; };
  auto r = tune::run_signround(model_, set_, all_layers(model_.spec(), {scheme(4)}), quick(), events);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, error_kind::interrupted);
  events.on_iteration = {};
  events.on_block = [](const tune::block_result&, std::vector<tune::quantized_layer>&&) -> result<void> { return fail(error_kind::output, "disk full"); };
  r = tune::run_signround(model_, set_, all_layers(model_.spec(), {scheme(4)}), quick(), events);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, error_kind::output);
}

}  // namespace
