// links: ar_tune ar_model
// SignRound block by block against the reference: a two-block LLaMA tuned in sequence. The signs of the first two iterations are the
// reference's; after that a gradient next to zero may take another turn, so whole runs are compared by their losses. (spec: signround.md 13)
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "model/decoder.hpp"
#include "support/golden_json.hpp"
#include "tune/importance.hpp"
#include "tune/initial_scales.hpp"
#include "tune/input_quantizer.hpp"
#include "tune/outside_layer.hpp"
#include "tune/run_parts.hpp"
#include "tune/signround.hpp"
#include "tune/tuned_vector.hpp"

namespace {

using namespace auto_round;
using std::size_t;

/// The model of block_data.safetensors.
class golden_model final : public model::weight_source {
 public:
  explicit golden_model(const golden::file& data) : data_(data) {
    const auto c = golden::parse_json(data.metadata().at("config"));
    spec_.hidden_size = c["hidden"];
    spec_.intermediate_size = c["intermediate"];
    spec_.num_layers = c["layers"];
    spec_.num_heads = c["heads"];
    spec_.num_kv_heads = c["kv_heads"];
    spec_.head_dim = c["head_dim"];
    spec_.vocab_size = c["vocab"];
    spec_.max_position_embeddings = 2048;
    spec_.rms_norm_eps = c["rms_eps"];
    spec_.rope.theta = c["rope_theta"];
    spec_.embed_name = "model.embed_tokens.weight";
    spec_.final_norm_name = "model.norm.weight";
    spec_.head_name = "lm_head.weight";
    spec_.block_prefix = "model.layers.";
    spec_.input_norm_name = "input_layernorm.weight";
    spec_.post_attention_norm_name = "post_attention_layernorm.weight";
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      const golden::tensor& w = data["model.layers.0." + std::string(name) + ".weight"];
      spec_.linears.push_back({name, static_cast<std::int64_t>(w.rows()), static_cast<std::int64_t>(w.cols()), false});
    }
  }
  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return data_.has(name); }
  result<void> read(const std::string& name, std::span<float> out) const override {
    if (!data_.has(name) || data_[name].size() != out.size()) return fail(error_kind::input, "no such tensor", "block_data.safetensors", name);
    std::ranges::copy(data_[name].f32(), out.begin());
    return {};
  }

 private:
  const golden::file& data_;
  model::model_spec spec_;
};

struct run_facts {
  ar::scheme_fields scheme;
  tune::signround_options options;
};

run_facts read_facts(const golden::file& run) {
  run_facts facts;
  const auto& meta = run.metadata();
  const auto over = golden::parse_json(meta.at("overrides"));
  facts.scheme = *ar::find_preset(meta.at("scheme"));
  facts.scheme.group_size = over.value("group_size", facts.scheme.group_size);
  facts.scheme.sym = over.value("sym", facts.scheme.sym);
  facts.options.iters = std::stoll(meta.at("iters"));
  facts.options.batch_size = std::stoll(meta.at("batch_size"));
  facts.options.seed = std::stoll(meta.at("seed"));
  facts.options.enable_quanted_input = over.value("enable_quanted_input", true);
  facts.options.enable_alg_ext = over.value("enable_alg_ext", false);
  facts.options.enable_norm_bias_tuning = over.value("enable_norm_bias_tuning", false);
  facts.options.compat = true;
  return facts;
}

/// f(file name, run, facts) for every run.
template <class F>
int for_each_run(const F& f) {
  int runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "signround")) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("block_", 0) != 0 || name == "block_data.safetensors") continue;
    const golden::file run("signround", name);
    SCOPED_TRACE(name);
    f(run, read_facts(run));
    ++runs;
  }
  return runs;
}

tune::layer_choices choose_all(const model::model_spec& spec, const ar::scheme_fields& scheme) {
  tune::layer_choices choices;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i) choices[spec.linear_name(b, i)] = {scheme};
  return choices;
}

/// The elements that the loss of few bits leaves out.
std::vector<bool> outliers(const std::vector<float>& errors, bool any) {
  std::vector<bool> out(errors.size(), false);
  if (!any) return out;
  std::vector<size_t> order(errors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return std::abs(errors[i]); });
  for (size_t i = 0; i < std::max<size_t>(1, errors.size() / 1000); ++i) out[order[i]] = true;
  return out;
}

void expect_near(const std::vector<float>& ours, const std::vector<float>& theirs, float relative, const std::string& what) {
  ASSERT_EQ(ours.size(), theirs.size()) << what;
  for (size_t i = 0; i < ours.size(); ++i) ASSERT_NEAR(ours[i], theirs[i], relative * std::abs(theirs[i])) << what << " " << i;
}

struct parameters {
  tune::initial_values initial;
  std::vector<float> wmin, wmax, v, min_scale, max_scale, wq, grad;
  ar::tune_layer view;
};

/// The first two iterations of one block on the stored inputs and targets.
void check_first_iterations(const golden::file& data, const golden_model& model, const golden::file& run, const run_facts& facts, int block) {
  const std::string id = "b" + std::to_string(block) + ".";
  const model::model_spec& spec = model.spec();
  const size_t layers = spec.linears.size();
  auto weights = model::read_block(model, block);
  ASSERT_TRUE(weights.has_value()) << describe(weights.error());
  const std::vector<float> input = run[run.has(id + "q_in") ? id + "q_in" : id + "fp_in"].f32(), target = run[id + "fp_out"].f32(), mask = data["valid_mask"].f32();
  const size_t seq = run[id + "fp_out"].shape[1], hidden = run[id + "fp_out"].shape[2];
  const std::vector<std::int32_t> indices = run[id + "indices"].as<std::int32_t>();
  const size_t batch = run[id + "indices"].shape[1];

  const bool nvfp4 = facts.scheme.data_type == "nv_fp";
  const tune::layer_choices choices = choose_all(spec, facts.scheme);
  auto plans = tune::plan_layers(spec, block, choices, facts.options);
  ASSERT_TRUE(plans.has_value()) << describe(plans.error());
  tune::set_global_scales(spec, *weights, true, *plans);
  auto inputs = tune::input_quantizer::make(spec, *plans);
  ASSERT_TRUE(inputs.has_value()) << describe(inputs.error());

  // What the float block's layers read, in both chains: importances and static scales.
  model::block_runner runner(spec, linalg::precision::f32);
  const std::vector<float> floats = run[id + "fp_in"].f32();
  std::vector<float> away(floats.size());
  std::vector<tune::column_importance> importance(layers);
  const auto in_features = [&](int i) { return static_cast<size_t>(spec.linears[static_cast<size_t>(i)].in_features); };
  runner.forward(*weights, floats.data(), floats.size() / seq / hidden, seq, away.data(),
                 [&](int i, const float* x, size_t n) { ASSERT_EQ(importance[static_cast<size_t>(i)].add(x, n, in_features(i)), ar::errc::ok); });
  if (*inputs != nullptr && (*inputs)->needs_maxima())
    runner.forward(*weights, input.data(), input.size() / seq / hidden, seq, away.data(), [&](int i, const float* x, size_t n) { (*inputs)->observe(i, x, n); });

  std::vector<parameters> p(layers);
  model::block_weights quantized = *weights;
  std::vector<float*> grads;
  for (size_t i = 0; i < layers; ++i) {
    tune::layer_plan& plan = (*plans)[i];
    const std::string layer = id + spec.linears[i].name + ".";
    if (run.has(layer + "weight_global_scale")) {
      EXPECT_EQ(plan.grid.global_scale, run[layer + "weight_global_scale"].f32()[0]) << layer;
    }
    if (run.has(layer + "act_max")) {
      EXPECT_NEAR((*inputs)->maximum(static_cast<int>(i)), run[layer + "act_max"].f32()[0], 1e-5f * run[layer + "act_max"].f32()[0]) << layer;
    }
    if (facts.options.enable_alg_ext) {
      const std::vector<float> theirs = run[layer + "imatrix"].f32();
      expect_near(importance[i].sum, theirs, 1e-4f, layer + "imatrix");
      auto found = tune::search_initial(plan, weights->linears[i].data(), theirs, true);
      ASSERT_TRUE(found.has_value()) << describe(found.error());
      p[i].initial = std::move(*found);
      EXPECT_EQ(p[i].initial.scale, run[layer + "init_scale"].f32()) << layer;
    }
    ar::tune_layer& l = p[i].view;
    l.rows = plan.rows;
    l.cols = plan.cols;
    l.group_size = plan.group_size;
    const size_t groups = plan.rows * l.groups();
    p[i].wmin.resize(groups);
    p[i].wmax.resize(groups);
    p[i].v.resize(plan.rows * plan.cols);
    p[i].min_scale.assign(groups, 1.0f);
    p[i].max_scale.assign(groups, 1.0f);
    p[i].grad.resize(plan.rows * plan.cols);
    l.weight = weights->linears[i].data();
    ASSERT_EQ(ar::group_extrema({l.weight, plan.rows, plan.cols}, l.group_size, p[i].wmin.data(), p[i].wmax.data()), ar::errc::ok);
    l.wmin = p[i].wmin.data();
    l.wmax = p[i].wmax.data();
    l.v = p[i].v.data();
    l.min_scale = p[i].min_scale.data();
    l.max_scale = p[i].max_scale.data();
    if (!p[i].initial.scale.empty()) l.init_scale = p[i].initial.scale.data();
    grads.push_back(p[i].grad.data());
  }
  if (*inputs != nullptr)
    runner.set_input_filter([&](int i, float* x, size_t n) { (*inputs)->forward(i, x, n); },
                            [&](int i, const float* x, float* d, size_t first, size_t n) { (*inputs)->backward(i, x, d, first, n); });
  tune::tuned_vector norms[] = {tune::tuned_vector(weights->input_norm), tune::tuned_vector(weights->post_attention_norm)};
  const bool tunes_norms = facts.options.enable_norm_bias_tuning;
  const bool drops = facts.options.enable_alg_ext && (facts.scheme.bits < 4 || facts.scheme.act_bits.value_or(16) <= 4);
  ar::linear_schedule schedule(ar::default_learning_rate(static_cast<int>(facts.options.iters), facts.scheme.bits), static_cast<int>(facts.options.iters));
  ar::linear_schedule norm_schedule(ar::default_learning_rate(static_cast<int>(facts.options.iters), 16), static_cast<int>(facts.options.iters));
  const auto losses = run[id + "loss"].as<double>();
  for (int t = 0; t < 2; ++t) {
    std::vector<float> x(batch * seq * hidden), y(x.size());
    double valid = 0, loss = 0;
    for (size_t s = 0; s < batch; ++s) {
      const auto sample = static_cast<size_t>(indices[static_cast<size_t>(t) * batch + s]);
      std::copy_n(input.data() + sample * seq * hidden, seq * hidden, x.data() + s * seq * hidden);
      for (size_t k = 0; k < seq; ++k) valid += mask[sample * seq + k];
    }
    for (size_t i = 0; i < layers; ++i)
      ASSERT_EQ(ar::fake_quantize((*plans)[i].grid, p[i].view, 0, p[i].view.rows, quantized.linears[i].data()), ar::errc::ok);
    if (tunes_norms) {
      norms[0].apply(quantized.input_norm);
      norms[1].apply(quantized.post_attention_norm);
    }
    runner.forward_train(quantized, x.data(), batch, seq, y.data());
    const double elements = static_cast<double>(y.size());
    const auto place = [&](size_t i) { return static_cast<size_t>(indices[static_cast<size_t>(t) * batch + i / (seq * hidden)]) * seq * hidden + i % (seq * hidden); };
    for (size_t i = 0; i < y.size(); ++i) y[i] -= target[place(i)];
    const std::vector<bool> out = outliers(y, drops);
    for (size_t i = 0; i < y.size(); ++i) {
      const float d = out[i] ? 0.0f : y[i] * mask[place(i) / hidden];
      loss += static_cast<double>(d) * static_cast<double>(d) / elements / valid;
      y[i] = static_cast<float>(2000.0 / elements) * d;
    }
    EXPECT_NEAR(loss, losses[static_cast<size_t>(t)], 1e-5 * losses[static_cast<size_t>(t)]) << id << " iteration " << t;
    model::vector_gradients vectors;
    runner.backward(quantized, y.data(), grads, false, nullptr, {}, tunes_norms ? &vectors : nullptr);
    if (tunes_norms) {
      norms[0].step(vectors.input_norm, norm_schedule.lr(), 0, false, t + 1);
      norms[1].step(vectors.post_attention_norm, norm_schedule.lr(), 0, false, t + 1);
      norm_schedule.advance();
      const std::string names[] = {"input_layernorm", "post_attention_layernorm"};
      for (size_t k = 0; k < 2; ++k) EXPECT_EQ(norms[k].offsets(), run[id + names[k] + ".step" + std::to_string(t + 1) + ".v"].f32()) << names[k] << " iteration " << t;
    }
    for (size_t i = 0; i < layers; ++i) {
      const std::string layer = id + spec.linears[i].name + ".";
      std::vector<float> d_v(p[i].v.size()), d_min(p[i].min_scale.size()), d_max(d_min.size());
      ASSERT_EQ(ar::tune_gradient((*plans)[i].grid, p[i].view, 0, p[i].view.rows, p[i].grad.data(), true, false, {d_v.data(), d_min.data(), d_max.data()}), ar::errc::ok);
      const auto signs = run[layer + "sign_iter" + std::to_string(t)].as<std::int8_t>();
      ASSERT_EQ(signs.size(), d_v.size());
      size_t wrong = 0;
      for (size_t k = 0; k < signs.size(); ++k) wrong += signs[k] != (d_v[k] > 0) - (d_v[k] < 0);
      // Four-bit activations at a tie round either way; section 13 asks for all signs of the others, and for 60 % in NVFP4's second block.
      EXPECT_LE(wrong, nvfp4 ? signs.size() * (block == 0 ? 2 : 40) / 100 : 0) << layer << " signs of iteration " << t;
      if (nvfp4 && wrong != 0) return;
      ASSERT_EQ(ar::tune_step((*plans)[i].grid, p[i].view, 0, p[i].view.rows, p[i].grad.data(), true, schedule.lr(), schedule.lr(),
                              {p[i].v.data(), p[i].min_scale.data(), p[i].max_scale.data()}),
                ar::errc::ok);
      const std::string step = layer + "step" + std::to_string(t + 1) + ".";
      if (facts.scheme.data_type == "int" && run.has(step + "min_scale")) {
        EXPECT_EQ(p[i].min_scale, run[step + "min_scale"].f32()) << step;
      }
      EXPECT_EQ(p[i].max_scale, run[step + "max_scale"].f32()) << step;
    }
    schedule.advance();
  }
}

TEST(SignRoundBlockGolden, SignsOfTheFirstIterationsAreTheReferences) {
  const golden::file data("signround", "block_data.safetensors");
  const golden_model model(data);
  const int runs = for_each_run([&](const golden::file& run, const run_facts& facts) {
    for (int block = 0; block < 2; ++block)
      if (run.has("b" + std::to_string(block) + ".loss")) check_first_iterations(data, model, run, facts, block);
  });
  EXPECT_GE(runs, 1) << "no block_* run to check";
}

TEST(SignRoundBlockGolden, WholeRunsReachTheReferencesLosses) {
  const golden::file data("signround", "block_data.safetensors");
  const golden_model model(data);
  text::calibration_set set;
  set.seqlen = static_cast<std::int64_t>(data["tokens"].shape[1]);
  set.ids = data["tokens"].as<std::int32_t>();
  set.valid = data["valid_mask"].as<std::uint8_t>();
  const int runs = for_each_run([&](const golden::file& run, const run_facts& facts) {
    const tune::layer_choices choices = choose_all(model.spec(), facts.scheme);
    std::map<std::int64_t, std::vector<double>> losses;
    std::map<std::string, tune::quantized_layer> layers;
    tune::tuning_events events;
    events.on_iteration = [&](std::int64_t block, std::int64_t, double loss) {
      losses[block].push_back(loss);
      return true;
    };
    events.on_block = [&](const tune::block_result&, std::vector<tune::quantized_layer>&& done) -> result<void> {
      for (tune::quantized_layer& l : done) layers[l.name] = std::move(l);
      return {};
    };
    const auto tuned = tune::run_signround(model, set, choices, facts.options, events);
    ASSERT_TRUE(tuned.has_value()) << describe(tuned.error());
    for (const tune::block_result& block : tuned->blocks) {
      const std::string id = "b" + std::to_string(block.first_block) + ".";
      if (!run.has(id + "loss")) continue;
      const auto theirs = run[id + "loss"].as<double>();
      const std::vector<double>& ours = losses[block.first_block];
      ASSERT_EQ(ours.size(), theirs.size());
      // The input of block 1 depends on every step of block 0, unless the float chain feeds it.
      const double tolerance = block.first_block == 0 || !facts.options.enable_quanted_input ? 1e-5 : 0.1;
      EXPECT_NEAR(ours[0], theirs[0], tolerance * theirs[0]) << id;
      EXPECT_EQ(block.first_loss, ours[0]);
      const double best = *std::min_element(theirs.begin(), theirs.end());
      // Four-bit activations separate from the reference's after ten iterations or so, and end up to a tenth apart.
      EXPECT_NEAR(block.best_loss, best, (facts.scheme.data_type == "nv_fp" ? 0.2 : 0.1) * best) << id;
      // Follows the reference exactly for a while: the sampler, the chains and the schedule are the same.
      size_t same = 0;
      while (same < ours.size() && std::abs(ours[same] - theirs[same]) <= 1e-4 * theirs[same]) ++same;
      if (tolerance < 0.1) {
        EXPECT_GE(same, 3u) << id;
      }
      std::printf("[ note     ] %s losses agree for %zu of %zu iterations; best %.4e, reference %.4e\n", id.c_str(), same, ours.size(), block.best_loss, best);
    }
    for (const auto& [name, layer] : layers) {
      if (facts.scheme.data_type != "int") continue;
      ASSERT_EQ(layer.code.size(), layer.rows * layer.cols) << name;
      const int top = (1 << facts.scheme.bits) - 1;
      EXPECT_LE(*std::max_element(layer.code.begin(), layer.code.end()), top);
      const size_t groups = layer.scale.size() / layer.rows;
      for (size_t i = 0; i < layer.code.size(); ++i) {
        const size_t g = i / layer.cols * groups + i % layer.cols / static_cast<size_t>(facts.scheme.group_size);
        const float zero = layer.zero_point.empty() ? static_cast<float>(1 << (facts.scheme.bits - 1)) : layer.zero_point[g];
        ASSERT_EQ(layer.weight[i], layer.scale[g] * (static_cast<float>(layer.code[i]) - zero)) << name << " element " << i;
      }
    }
  });
  EXPECT_GE(runs, 1) << "no block_* run to check";
}

TEST(SignRoundBlockGolden, TheHeadIsTunedOnItsOwn) {
  int runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "signround")) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("lm_head_", 0) != 0) continue;
    SCOPED_TRACE(name);
    const golden::file run("signround", name);
    const size_t rows = run["weight"].rows(), cols = run["weight"].cols(), samples = run["q_in"].shape[0], drawn = run["indices"].shape[1];
    ar::scheme_fields scheme = *ar::find_preset("W4A16");
    scheme.group_size = static_cast<int>(rows * cols / run["step1.min_scale"].size());
    tune::signround_options options;
    options.iters = std::stoll(run.metadata().at("iters"));
    options.batch_size = static_cast<std::int64_t>(drawn);
    const tune::layer_choices choices{{"lm_head", {scheme}}};
    auto plan = tune::plan_layer("lm_head", rows, cols, choices, options);
    ASSERT_TRUE(plan.has_value()) << describe(plan.error());
    text::calibration_set set;
    set.seqlen = static_cast<std::int64_t>(run["q_in"].shape[1]);
    for (const float m : run["valid_mask"].f32()) set.valid.push_back(m != 0);
    set.ids.resize(set.valid.size());
    tune::activations floats, quantized;
    for (const auto& [chain, tensor] : {std::pair{&floats, "fp_in"}, {&quantized, "q_in"}}) {
      ASSERT_TRUE(chain->reset(samples, run[tensor].size() / samples, false));
      chain->store(0, samples, run[tensor].f32().data());
    }
    const std::vector<float> weight = run["weight"].f32();
    const std::vector<std::int32_t> indices = run["indices"].as<std::int32_t>();
    size_t at = 0;
    std::vector<double> losses;
    tune::tuning_events events;
    events.on_iteration = [&](std::int64_t, std::int64_t, double loss) {
      losses.push_back(loss);
      return true;
    };
    tune::block_result summary;
    const auto layer = tune::tune_outside(*plan, {weight.data(), &floats, &quantized, &set, [&] { return indices.data() + drawn * at++; }}, options, events, summary);
    ASSERT_TRUE(layer.has_value()) << describe(layer.error());
    const auto theirs = run["loss"].as<double>();
    ASSERT_EQ(losses.size(), theirs.size());
    for (size_t t = 0; t < 3; ++t) EXPECT_NEAR(losses[t], theirs[t], 1e-5 * theirs[t]) << "iteration " << t;
    const double best = *std::ranges::min_element(theirs);
    EXPECT_NEAR(summary.best_loss, best, 0.1 * best);
    ++runs;
  }
  EXPECT_GE(runs, 1) << "no lm_head_* run to check";
}

}  // namespace
