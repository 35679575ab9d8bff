// links: ar_transform ar_tune ar_model ar_text OpenMP::OpenMP_CXX
// AWQ over a model as a specification: the smoothed float model computes what it computed, quantized it is nearer; clipping never widens; threads,
// pieces and what lies behind seqlen change nothing; what is odd is refused or left alone.
#include "transform/awq.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "ar/numeric/half.hpp"
#include "model/block.hpp"
#include "support/distance.hpp"
#include "support/memory_source.hpp"
#include "tune/quantizer.hpp"

namespace {

using namespace auto_round;
using std::size_t;
using transform::awq_changes;
using transform::awq_options;
using transform::awq_source;
using transform::mapping_policy;

/// Some channels of the norms are far larger than the others, as in models.
support::memory_source random_model(std::int64_t kv_heads = 2, bool biases = false, unsigned seed = 5) {
  support::memory_source m;
  m.spec_ = support::llama_spec(64, 96, 4, kv_heads, 16, 40, 2, biases, biases);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto add = [&](const std::string& name, std::int64_t n, float scale, float offset = 0) {
    auto& t = m.tensors[name];
    t.resize(static_cast<size_t>(n));
    for (float& x : t) x = ar::round_to_bf16(offset + scale * normal(random));
  };
  add(m.spec_.embed_name, 40 * 64, 0.5f);
  add(m.spec_.head_name, 40 * 64, 0.1f);
  add(m.spec_.final_norm_name, 64, 0.1f, 1.0f);
  for (std::int64_t l = 0; l < 2; ++l) {
    const std::string p = m.spec_.block_prefix + std::to_string(l) + ".";
    for (const std::string& norm : {m.spec_.input_norm_name, m.spec_.post_attention_norm_name}) {
      add(p + norm, 64, 0.2f, 1.0f);
      for (const size_t c : {3u, 17u, 40u}) m.tensors[p + norm][c] *= 12.0f;
    }
    for (const auto& d : m.spec_.linears) {
      add(p + d.name + ".weight", d.out_features * d.in_features, 0.7f / std::sqrt(static_cast<float>(d.in_features)));
      if (d.bias) add(p + d.name + ".bias", d.out_features, 0.3f);
    }
  }
  return m;
}

text::calibration_set calibration(std::int64_t samples = 5, std::int64_t seqlen = 12) {
  text::calibration_set set;
  set.seqlen = seqlen;
  std::mt19937 random(3);
  for (std::int64_t i = 0; i < samples * seqlen; ++i) {
    set.ids.push_back(static_cast<std::int32_t>(random() % 40));
    set.valid.push_back(i % seqlen < seqlen - 2);
  }
  return set;
}

ar::scheme_fields scheme(int bits = 3, bool sym = true, int group = 32) { return {.bits = bits, .group_size = group, .sym = sym, .data_type = "int"}; }

transform::layer_schemes all_layers(const model::model_spec& spec, const ar::scheme_fields& s) {
  transform::layer_schemes all;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i) all[spec.linear_name(b, i)] = s;
  return all;
}

struct outcome {
  awq_changes changes;
  std::vector<std::string> warnings;
  std::vector<transform::awq_report> reports;
};

result<outcome> try_awq(const model::weight_source& m, const awq_options& o, const transform::layer_schemes& schemes, const text::calibration_set& set = calibration()) {
  outcome out;
  transform::awq_events events;
  events.on_warning = [&](const std::string& w) { out.warnings.push_back(w); };
  events.on_mapping = [&](const transform::awq_report& r) { out.reports.push_back(r); };
  auto changes = transform::run_awq(m, set, schemes, o, events);
  if (!changes) return forward_error(changes);
  out.changes = std::move(*changes);
  return out;
}
outcome awq(const support::memory_source& m, const awq_options& o = {}, const ar::scheme_fields& s = scheme(), const text::calibration_set& set = calibration()) {
  auto out = try_awq(m, o, all_layers(m.spec_, s), set);
  EXPECT_TRUE(out) << describe(out.error());
  return out ? std::move(*out) : outcome();
}

std::vector<float> logits_of(const model::weight_source& source) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 24; ++i) ids.push_back((i * 7 + 3) % 40);
  auto logits = model::logits(source, ids);
  EXPECT_TRUE(logits);
  return logits ? std::move(*logits) : std::vector<float>();
}

std::vector<float> tensor(const model::weight_source& source, const std::string& name, size_t n) {
  std::vector<float> v(n);
  EXPECT_TRUE(source.read(name, v)) << name;
  return v;
}

/// A source whose quantized layers are rounded.
class rounded final : public model::weight_source {
 public:
  rounded(const model::weight_source& base, const ar::scheme_fields& s) : base_(base), quantizer_(*transform::make_fake_quantizer(s, transform::search_quantizer::rtn)) {}
  const model::model_spec& spec() const override { return base_.spec(); }
  bool has(const std::string& name) const override { return base_.has(name); }
  result<void> read(const std::string& name, std::span<float> out) const override {
    if (auto r = base_.read(name, out); !r) return r;
    if (name.find("_proj.weight") == std::string::npos) return {};
    const size_t cols = name.find("down_proj") != std::string::npos ? 96 : 64;
    const ar::matrix_view<float> w(out.data(), out.size() / cols, cols);
    return quantizer_(w, {}, w);
  }

 private:
  const model::weight_source& base_;
  transform::fake_quantizer quantizer_;
};

/// One thread: the model is too small to share.
class AwqPass : public testing::Test {
 protected:
  void SetUp() override { omp_set_num_threads(1); }
};

TEST_F(AwqPass, TheSmoothedFloatModelComputesTheSame) {
  for (const std::int64_t kv : {4, 2, 1})
    for (const bool biases : {false, true}) {
      const auto m = random_model(kv, biases);
      const std::vector<float> expected = logits_of(m);
      for (const auto duo : {ar::awq::duo_scaling::off, ar::awq::duo_scaling::on, ar::awq::duo_scaling::both})
        for (const int rounds : {1, 2}) {
          SCOPED_TRACE(std::to_string(kv) + " kv heads" + (biases ? ", biases" : "") + ", rounds " + std::to_string(rounds));
          awq_options o;
          o.duo_scaling = duo;
          o.n_grid = 6;
          o.smooth_iters = rounds;
          // Norms stay in the checkpoint's type: what rounding them loses is made up for in the layers behind.
          o.stored = [](const std::string&) { return ar::real::bf16; };
          const outcome a = awq(m, o);
          const awq_source smoothed(m, a.changes);
          // Float sums in another order, two layers deep.
          EXPECT_LE(support::rms_difference(logits_of(smoothed), expected), 1e-5);
          EXPECT_TRUE(a.warnings.empty());
          EXPECT_EQ(a.reports.size(), static_cast<size_t>(2 * 4 * rounds)) << "grouped queries share the factors of their values";
          const std::string norm = "model.layers.0.input_layernorm.weight";
          EXPECT_TRUE(a.changes.touches(norm) && smoothed.changed(norm));
          for (const float v : tensor(smoothed, norm, 64)) EXPECT_EQ(ar::round_to_bf16(v), v);
          EXPECT_FALSE(smoothed.changed("model.norm.weight"));
        }
    }
}

TEST_F(AwqPass, QuantizedTheSmoothedModelIsNearer) {
  const auto m = random_model();
  const std::vector<float> expected = logits_of(m);
  for (const bool sym : {true, false}) {
    const ar::scheme_fields s = scheme(3, sym);
    awq_options o;
    const double plain = support::rms_difference(logits_of(rounded(m, s)), expected);
    const outcome a = awq(m, o, s);
    const double smoothed = support::rms_difference(logits_of(rounded(awq_source(m, a.changes), s)), expected);
    EXPECT_LT(smoothed, 0.8 * plain);
    for (const auto& r : a.reports) EXPECT_LE(r.loss, r.first_loss) << r.smooth;
    o.apply_smooth = false;
    const outcome nothing = awq(m, o, s);
    EXPECT_FALSE(nothing.changes.touches("model.layers.0.self_attn.q_proj.weight"));
    EXPECT_TRUE(nothing.reports.empty());
  }
}

/// The rows that `down` of the first block reads, [60 x 96].
std::vector<float> rows_of_down(const support::memory_source& m) {
  const auto w = model::read_block(m, 0).value();
  auto x = model::embed(m, calibration().ids).value();
  std::vector<float> rows;
  model::block_runner(m.spec_, linalg::precision::f32).forward(w, x.data(), 5, 12, x.data(), [&](int linear, const float* in, size_t tokens) {
    if (linear == m.spec_.down) rows.insert(rows.end(), in, in + tokens * 96);
  });
  return rows;
}

/// The mean squared difference of rows times weights, `down` as it is and as `q` that reads `qrows`.
double error_of_down(const support::memory_source& m, const std::vector<float>& rows, const std::vector<float>& qrows, const std::vector<float>& q) {
  const std::vector<float>& w = m.tensors.at("model.layers.0.mlp.down_proj.weight");
  double error = 0;
  for (size_t t = 0; t < rows.size() / 96; ++t)
    for (size_t r = 0; r < 64; ++r) {
      double d = 0;
      for (size_t i = 0; i < 96; ++i) d += static_cast<double>(qrows[t * 96 + i]) * static_cast<double>(q[r * 96 + i]) - static_cast<double>(rows[t * 96 + i]) * static_cast<double>(w[r * 96 + i]);
      error += d * d;
    }
  return error / static_cast<double>(rows.size() / 96 * 64);
}

std::vector<float> quantized_down(const support::memory_source& m, const ar::scheme_fields& s, transform::search_quantizer how, std::span<const float> importance = {}) {
  std::vector<float> q = m.tensors.at("model.layers.0.mlp.down_proj.weight");
  const auto quantizer = transform::make_fake_quantizer(s, how).value();
  EXPECT_TRUE(quantizer({q.data(), 64, 96}, importance, {q.data(), 64, 96}));
  return q;
}

/// The error before anything is smoothed, as the pass sees it.
double first_loss_of_down(const outcome& a) {
  const auto report = std::find_if(a.reports.begin(), a.reports.end(), [](const auto& r) { return r.block == 0 && r.smooth.ends_with("mlp.up_proj"); });
  EXPECT_NE(report, a.reports.end());
  return report == a.reports.end() ? 0 : report->first_loss;
}

TEST_F(AwqPass, TheErrorOfASingleLayerIsThatOfItsOutput) {
  // Through x'x here, and through the activations themselves there.
  const auto m = random_model();
  const std::vector<float> x = rows_of_down(m);
  const double expected = error_of_down(m, x, x, quantized_down(m, scheme(), transform::search_quantizer::rtn));
  // Smoothed before it, the same model with another rounding; the sum over tokens is in float.
  EXPECT_NEAR(first_loss_of_down(awq(m)), expected, 1e-4 * expected);
}

TEST_F(AwqPass, SearchedCandidatesAreWeightedByWhatTheLayersRead) {
  const auto m = random_model();
  const std::vector<float> x = rows_of_down(m);
  std::vector<float> importance(96, 0.0f);
  for (size_t i = 0; i < x.size(); ++i) importance[i % 96] += x[i] * x[i];
  for (const auto how : {transform::search_quantizer::init_scale, transform::search_quantizer::opt_rtn}) {
    awq_options o;
    o.search = how;
    o.apply_smooth = true;
    const double weighted = error_of_down(m, x, x, quantized_down(m, scheme(), how, importance)), alike = error_of_down(m, x, x, quantized_down(m, scheme(), how));
    EXPECT_NE(weighted, alike);
    // A scale of the search may fall to its neighbor by the last bits of the smoothed inputs.
    EXPECT_NEAR(first_loss_of_down(awq(m, o)), weighted, 0.01 * weighted);
    o.mapping.policy = mapping_policy::peer;
    EXPECT_NEAR(first_loss_of_down(awq(m, o)), alike, 0.01 * alike);
  }
}

ar::scheme_fields with_activations(int bits) {
  ar::scheme_fields s = scheme(4);
  s.act_bits = bits;
  s.act_group_size = 32;
  s.act_sym = true;
  s.act_data_type = "int";
  s.act_dynamic = true;
  return s;
}

TEST_F(AwqPass, WhereInputsAreQuantizedCandidatesAreComparedOnQuantizedInputs) {
  const auto m = random_model();
  const ar::scheme_fields s = with_activations(4);
  const std::vector<float> x = rows_of_down(m), q = quantized_down(m, s, transform::search_quantizer::rtn);
  std::vector<float> xq = x;
  ASSERT_TRUE(tune::fake_quantize_activations(xq.data(), s, xq.size() / 96, 96, ar::real::f16));
  const double expected = error_of_down(m, x, xq, q), on_floats = error_of_down(m, x, x, q);
  EXPECT_GT(expected, 1.5 * on_floats);
  awq_options o;
  // The inputs of `down` here are those of the smoothed model: numbers at the border between two steps fall to either side.
  EXPECT_NEAR(first_loss_of_down(awq(m, o, s)), expected, 0.02 * expected);
  o.quantize_inputs = false;
  EXPECT_NEAR(first_loss_of_down(awq(m, o, s)), on_floats, 1e-4 * on_floats);
  o.quantize_inputs = true;
  o.mapping.policy = mapping_policy::peer;
  EXPECT_NEAR(first_loss_of_down(awq(m, o, s)), on_floats, 1e-4 * on_floats);
}

/// The model with the inputs of its layers quantized, over the calibration set: how far the stream behind the last block is off.
double stream_error(const model::weight_source& quantized, const model::weight_source& exact, const ar::scheme_fields& s) {
  auto x = model::embed(exact, calibration().ids).value(), y = x;
  model::block_runner floats(exact.spec(), linalg::precision::f32), rounds(exact.spec(), linalg::precision::f32);
  rounds.set_input_filter([&](int linear, float* rows, size_t tokens) {
    EXPECT_TRUE(tune::fake_quantize_activations(rows, s, tokens, static_cast<size_t>(exact.spec().linears[static_cast<size_t>(linear)].in_features), ar::real::f16));
  });
  for (std::int64_t b = 0; b < 2; ++b) {
    const auto w = model::read_block(exact, b).value(), q = model::read_block(quantized, b).value();
    floats.forward(w, x.data(), 5, 12, x.data());
    rounds.forward(q, y.data(), 5, 12, y.data());
  }
  return support::rms_difference(y, x);
}

TEST_F(AwqPass, FactorsForQuantizedInputsServeThemBetter) {
  // Channels that stick out cost quantized inputs more than weights: compared on float inputs factors stay too small.
  double with = 0, without = 0, plain = 0;
  for (const unsigned seed : {5u, 6u, 7u, 8u}) {
    const auto m = random_model(2, false, seed);
    const ar::scheme_fields s = with_activations(4);
    awq_options o;
    plain += stream_error(rounded(m, s), m, s);
    const outcome a = awq(m, o, s);
    with += stream_error(rounded(awq_source(m, a.changes), s), m, s);
    o.quantize_inputs = false;
    const outcome b = awq(m, o, s);
    without += stream_error(rounded(awq_source(m, b.changes), s), m, s);
  }
  EXPECT_LT(with, without);
  EXPECT_LT(without, plain);
}

TEST_F(AwqPass, EveryKindOfInputsCanBeQuantized) {
  const auto m = random_model();
  for (const char* name : {"MXFP4", "MXFP8", "INT8", "NVFP4", "FP8_STATIC"}) {
    const ar::scheme_fields* const preset = ar::find_preset(name);
    ASSERT_NE(preset, nullptr) << name;
    const outcome a = awq(m, {}, *preset);
    for (const auto& r : a.reports) EXPECT_LE(r.loss, r.first_loss) << name << " " << r.smooth;
    EXPECT_FALSE(a.reports.empty()) << name;
  }
}

TEST_F(AwqPass, ClippingNeverWidensAndHelps) {
  const auto m = random_model();
  for (const bool classic : {false, true})
    for (const bool sym : {true, false}) {
      awq_options o;
      o.apply_smooth = false;
      o.apply_clip = true;
      o.classic_clip = classic;
      const outcome a = awq(m, o, scheme(2, sym));
      const awq_source clipped(m, a.changes);
      size_t smaller = 0;
      for (int i = 0; i < 7; ++i) {
        const std::string name = m.spec_.linear_name(1, i) + ".weight";
        const std::vector<float>& w = m.tensors.at(name);
        const std::vector<float> c = tensor(clipped, name, w.size());
        size_t here = 0;
        for (size_t k = 0; k < w.size(); ++k) {
          ASSERT_LE(std::fabs(c[k]), std::fabs(w[k])) << name;
          ASSERT_FALSE(std::signbit(c[k]) != std::signbit(w[k]) && c[k] != 0) << name;
          here += c[k] != w[k];
        }
        EXPECT_EQ(here == 0, i < 2) << "queries and keys are left alone: " << name;
        smaller += here;
      }
      EXPECT_GT(smaller, 0u);
    }
  // A start for tuning leaves the weights alone.
  awq_options o;
  o.apply_clip = o.clip_as_init = true;
  const outcome a = awq(m, o);
  const std::string down = "model.layers.0.mlp.down_proj.weight", q = "model.layers.0.self_attn.q_proj.weight";
  ASSERT_NE(a.changes.initial_ranges(down), nullptr);
  EXPECT_EQ(a.changes.initial_ranges(down)->step->size(), 64u * 3);
  EXPECT_EQ(a.changes.initial_ranges(q), nullptr);
}

TEST_F(AwqPass, ThreadsPiecesAndTheRestOfLongSamplesChangeNothing) {
  const auto m = random_model();
  const std::vector<std::string> names = {"model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"};
  awq_options o;
  o.apply_clip = true;
  o.seqlen = 12;
  const auto run = [&](const awq_options& options, const text::calibration_set& set, int threads) {
    omp_set_num_threads(threads);
    const outcome a = awq(m, options, scheme(), set);
    const awq_source s(m, a.changes);
    std::vector<float> all;
    for (const std::string& n : names) {
      const std::vector<float> v = tensor(s, n, m.tensors.at(n).size());
      all.insert(all.end(), v.begin(), v.end());
    }
    std::vector<float> part(100);
    EXPECT_TRUE(s.read_part(names[0], 64 * 64, 64, part));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 64)) << "read in pieces";
    return all;
  };
  const std::vector<float> one = run(o, calibration(), 1);
  EXPECT_EQ(run(o, calibration(), 3), one);
  auto longer = calibration(5, 20);
  const auto set = calibration();
  for (size_t s = 0; s < 5; ++s) std::copy_n(set.ids.begin() + static_cast<std::ptrdiff_t>(s * 12), 12, longer.ids.begin() + static_cast<std::ptrdiff_t>(s * 20));
  EXPECT_EQ(run(o, longer, 2), one);
  // Sums over the pieces of a search are taken in double.
  o.smooth_batch_size = 2;
  const std::vector<float> pieces = run(o, calibration(), 2);
  EXPECT_LE(support::rms_difference(pieces, one), 1e-6);
}

TEST_F(AwqPass, PaddingCanBeLeftOut) {
  const auto m = random_model();
  // With the ids of positions that do not count replaced, nothing changes if they are the last of their sample and left out.
  auto set = calibration(), other = set;
  for (size_t i = 0; i < set.ids.size(); ++i)
    if (set.valid[i] == 0) other.ids[i] = (other.ids[i] + 11) % 40;
  awq_options o;
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto weights = [&](const text::calibration_set& s) {
    const outcome a = awq(m, o, scheme(), s);
    return tensor(awq_source(m, a.changes), name, m.tensors.at(name).size());
  };
  EXPECT_NE(weights(set), weights(other)) << "padding counts in the original";
  o.leave_out_padding = true;
  EXPECT_EQ(weights(set), weights(other));
}

TEST_F(AwqPass, DeadChannelsAreHarmless) {
  auto m = random_model();
  m.tensors["model.layers.0.input_layernorm.weight"][9] = 0.0f;
  for (size_t i = 0; i < 64; ++i) m.tensors["model.layers.0.mlp.up_proj.weight"][5 * 64 + i] = 0.0f;
  const outcome a = awq(m);
  const awq_source smoothed(m, a.changes);
  for (const auto& [name, w] : m.tensors)
    for (const float v : tensor(smoothed, name, w.size())) ASSERT_TRUE(std::isfinite(v)) << name;
  EXPECT_LE(support::rms_difference(logits_of(smoothed), logits_of(m)), 1e-5);
  EXPECT_EQ(tensor(smoothed, "model.layers.0.input_layernorm.weight", 64)[9], 0.0f);
}

TEST_F(AwqPass, DamagedNumbersAreErrors) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const std::string name : {"model.layers.1.mlp.gate_proj.weight", "model.layers.0.input_layernorm.weight", "model.embed_tokens.weight"}) {
      auto m = random_model();
      m.tensors[name][m.tensors[name].size() - 7 * 64 / 8] = bad;
      m.tensors[name][0] = bad;
      if (name == "model.embed_tokens.weight") std::fill(m.tensors[name].begin(), m.tensors[name].end(), bad);
      const auto r = try_awq(m, {}, all_layers(m.spec_, scheme()));
      ASSERT_FALSE(r) << name;
      EXPECT_EQ(r.error().kind, error_kind::input) << r.error().message;
    }
}

TEST_F(AwqPass, LayersInSixteenBitsAndMixedSchemesAreNotSmoothed) {
  const auto m = random_model();
  auto schemes = all_layers(m.spec_, scheme());
  schemes.erase("model.layers.0.self_attn.k_proj");
  schemes["model.layers.1.mlp.up_proj"].bits = 4;
  const auto a = try_awq(m, {}, schemes);
  ASSERT_TRUE(a) << describe(a.error());
  EXPECT_EQ(a->warnings.size(), 2u);
  const awq_source s(m, a->changes);
  EXPECT_FALSE(a->changes.touches("model.layers.0.input_layernorm.weight"));
  EXPECT_TRUE(a->changes.touches("model.layers.0.post_attention_layernorm.weight"));
  EXPECT_FALSE(a->changes.touches("model.layers.1.post_attention_layernorm.weight"));
  EXPECT_LE(support::rms_difference(logits_of(s), logits_of(m)), 1e-5);
}

TEST_F(AwqPass, ThePeersPolicyRoundsAsItDoes) {
  const auto m = random_model(4);
  awq_options o;
  o.mapping.policy = mapping_policy::peer;
  o.stored = [](const std::string&) { return ar::real::bf16; };
  const outcome a = awq(m, o);
  const awq_source s(m, a.changes);
  for (const std::string name : {"model.layers.0.self_attn.v_proj.weight", "model.layers.0.mlp.down_proj.weight"})
    for (const float v : tensor(s, name, m.tensors.at(name).size())) ASSERT_EQ(ar::round_to_bf16(v), v) << name;
  const double difference = support::rms_difference(logits_of(s), logits_of(m));
  EXPECT_GT(difference, 1e-4) << "which is why the default does not";
  EXPECT_LT(difference, 5e-2);
  // Grouped queries: o is left alone.
  const auto grouped = random_model(2);
  EXPECT_EQ(awq(grouped, o).reports.size(), 6u);
}

TEST_F(AwqPass, WrongOptionsAreRefused) {
  const auto m = random_model();
  const auto refused = [&](auto change) {
    awq_options o;
    change(o);
    const auto r = try_awq(m, o, all_layers(m.spec_, scheme()));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, error_kind::usage);
  };
  refused([](awq_options& o) { o.n_grid = 0; });
  refused([](awq_options& o) { o.smooth_batch_size = -1; });
  refused([](awq_options& o) { o.clip_as_init = true; });
  refused([](awq_options& o) { o.clip_max_shrink = 1; });
  refused([](awq_options& o) { o.clip_n_grid = 0; });
  refused([](awq_options& o) { o.smooth_iters = 0; });
  refused([](awq_options& o) { o.clip_n_sample_token = 0; });
  EXPECT_EQ(try_awq(m, {}, all_layers(m.spec_, {.bits = 4, .group_size = 32, .data_type = "no_such_type"})).error().kind, error_kind::unsupported);
}

}  // namespace
