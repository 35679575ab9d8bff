// SignRound against the reference's own runs: fake quantization and gradients of every grid family bit for bit, the sampler, the learning rates,
// and whole tuning runs of a linear layer. (spec: signround.md; acceptance bounds from its section 13.)
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ar/tune.hpp"
#include "support/golden_json.hpp"
#include "support/tuned_layer.hpp"

namespace {

using std::size_t;
using golden::grid_of, golden::layer_buffers, golden::named_grid;

/// Equal values (0 == -0), NaN equal to NaN.
void expect_same(const std::vector<float>& ours, const std::vector<float>& theirs, const std::string& what) {
  ASSERT_EQ(ours.size(), theirs.size()) << what;
  size_t bad = 0, first = 0;
  for (size_t i = 0; i < ours.size(); ++i)
    if (!(ours[i] == theirs[i] || (std::isnan(ours[i]) && std::isnan(theirs[i]))) && bad++ == 0) first = i;
  EXPECT_EQ(bad, 0u) << what << ": first difference at " << first << " of " << ours.size() << ": " << (bad != 0 ? ours[first] : 0) << " instead of "
                     << (bad != 0 ? theirs[first] : 0);
}

TEST(SignRoundGolden, FakeQuantizationAndGradientsAreTheReferencesBits) {
  const golden::file file("signround", "fakequant_vectors.safetensors");
  const auto cases = golden::parse_json(file.metadata().at("cases"));
  int checked = 0;
  for (const auto& [name, facts] : cases.items()) {
    named_grid named = grid_of(name);
    ASSERT_TRUE(named.known) << name;
    ar::tune_grid& grid = named.grid;
    if (!facts["scale_dtype"].is_null())
      grid.scale_type = facts["scale_dtype"] == "fp32" ? ar::real::f32 : facts["scale_dtype"] == "bf16" ? ar::real::bf16 : ar::real::f16;
    grid.factor_min = facts["minmax_bound"][0].get<float>();
    grid.factor_max = facts["minmax_bound"][1].get<float>();
    const auto group_size = facts["group_size"].get<size_t>();
    for (const std::string dtype : {"f32", "bf16"}) {
      const std::string id = name + "." + dtype + ".";
      if (!file.has(id + "weight")) continue;
      SCOPED_TRACE(id);
      layer_buffers layer;
      layer.weight = file[id + "weight"].f32();
      layer.v = file[id + "v"].f32();
      layer.min_scale = file[id + "min_scale"].f32();
      layer.max_scale = file[id + "max_scale"].f32();
      if (file.has(id + "init_scale")) layer.init_scale = file[id + "init_scale"].f32();
      if (file.has(id + "global_scale")) grid.global_scale = file[id + "global_scale"].f32()[0];
      const size_t groups = layer.min_scale.size();
      // Groups of a super-block lie side by side in a row.
      const size_t per_row = static_cast<size_t>(grid.superblock_groups);
      ASSERT_EQ(layer.weight.size(), groups * group_size);
      layer.attach(groups / per_row, per_row * group_size, group_size);

      std::vector<float> wq(layer.weight.size());
      ASSERT_EQ(ar::fake_quantize(grid, layer.view, 0, layer.view.rows, wq.data()), ar::errc::ok);
      if (dtype == "bf16")
        for (float& x : wq) x = ar::round_to_bf16(x);
      expect_same(wq, file[id + "wq"].f32(), "wq");

      std::vector<float> scale(groups), zp(groups), minimum(groups), d_scale(groups / per_row), d_minimum(groups / per_row);
      ASSERT_EQ(ar::tune_quantize(grid, layer.view, 0, layer.view.rows,
                                  {nullptr, nullptr, scale.data(), zp.data(), minimum.data(), d_scale.data(), d_minimum.data()}),
                ar::errc::ok);
      if (file.has(id + "shared_exp")) {  // of MX types the reference returns the exponent
        std::vector<float> theirs = file[id + "shared_exp"].f32();
        for (float& e : theirs) e = std::exp2(e);
        expect_same(scale, theirs, "scale");
      } else {
        expect_same(scale, file[id + "scale"].f32(), "scale");
      }
      if (grid.family == ar::tune_family::asymmetric) expect_same(zp, file[id + "zp"].f32(), "zp");
      if (grid.family == ar::tune_family::superblock_asymmetric) {
        expect_same(minimum, file[id + "wmin"].f32(), "wmin");
        expect_same(d_minimum, file[id + "d_wmin"].f32(), "d_wmin");
      }
      if (per_row > 1) expect_same(d_scale, file[id + "d_scale"].f32(), "d_scale");

      const std::vector<float> grad = file[id + "grad_wq"].f32();
      std::vector<float> d_v(wq.size()), d_min(groups), d_max(groups);
      ASSERT_EQ(ar::tune_gradient(grid, layer.view, 0, layer.view.rows, grad.data(), true, false, {d_v.data(), d_min.data(), d_max.data()}),
                ar::errc::ok);
      expect_same(d_v, file[id + "d_v"].f32(), "d_v");
      if (file.has(id + "d_min_scale")) expect_same(d_min, file[id + "d_min_scale"].f32(), "d_min_scale");
      expect_same(d_max, file[id + "d_max_scale"].f32(), "d_max_scale");
      ++checked;
    }
  }
  EXPECT_GE(checked, 2) << "no case in the file";
}

/// One linear layer tuned as the reference's block loop does it, with its drawn indices.
class linear_run {
 public:
  linear_run(const golden::file& data, const golden::file& run) : run_(run) {
    const auto& meta = run.metadata();
    const auto scheme = golden::parse_json(meta.at("scheme"));
    config_ = golden::parse_json(meta.at("config"));
    iters_ = std::stoi(meta.at("iters"));
    accumulate_ = std::stoi(meta.at("gradient_accumulate_steps"));
    micro_ = std::stoul(meta.at("batch_size"));
    grid_.bits = scheme["bits"].get<int>();
    const bool sym = scheme["sym"].get<bool>();
    grid_.family = sym ? ar::tune_family::symmetric : ar::tune_family::asymmetric;
    const auto type = scheme["data_type"].get<std::string>();
    if (type.rfind("int", 0) != 0) grid_ = grid_of(type + std::to_string(grid_.bits)).grid;
    if (run.has("init.weight_global_scale")) grid_.global_scale = run["init.weight_global_scale"].f32()[0];
    if (scheme.contains("super_bits")) {
      grid_.family = sym ? ar::tune_family::superblock_symmetric : ar::tune_family::superblock_asymmetric;
      grid_.super_bits = scheme["super_bits"].get<int>();
      grid_.superblock_groups = scheme["super_group_size"].get<int>();
    }
    if (meta.at("scale_dtype") == "float32") grid_.scale_type = ar::real::f32;
    const auto& w = data["weight"];
    rows_ = w.rows();
    cols_ = w.cols();
    layer_.weight = w.f32();
    if (run.has("init.init_scale")) {
      layer_.init_scale = run["init.init_scale"].f32();
      grid_.factor_max = 2.0f;
    }
    const int group_size = scheme["group_size"].get<int>();
    layer_.fresh(rows_, cols_, group_size < 0 ? cols_ : static_cast<size_t>(group_size));
    const std::string kind = meta.at("class");
    adam_ = kind == "AdamRound";
    const bool extended = kind.rfind("SignRoundV2", 0) == 0;
    outliers_ = extended && sym && grid_.bits < 4 && !scheme.contains("super_bits");
    if (extended && scheme.contains("super_bits")) {  // scales that were searched once; the search itself is checked with the GGUF types
      grid_.family = sym ? ar::tune_family::fixed_symmetric : ar::tune_family::fixed_asymmetric;
      layer_.init_scale = run["final.scale"].f32();
      if (!sym) layer_.init_minimum = run["final.w_wmin"].f32();
      layer_.attach(rows_, cols_, layer_.view.group_size);
      fixed_ = true;
    }
    x_ = data["x"].f32();
    if (scheme.value("act_bits", 16) <= 8) quantize_inputs(scheme);
    target_ = data["y_ref"].f32();
    mask_ = data["valid_mask"].f32();
    tokens_ = data["x"].shape[1];
  }

  /// A layer outside the blocks: micro-batches of one sample, summed errors, the target from the float model's input, and a divisor from the
  /// first samples instead of the drawn ones.
  explicit linear_run(const golden::file& run) : run_(run), config_(nlohmann::ordered_json::object()), micro_(1), outside_(true) {
    iters_ = std::stoi(run.metadata().at("iters"));
    accumulate_ = static_cast<int>(run["indices"].shape[1]);
    rows_ = run["weight"].rows();
    cols_ = run["weight"].cols();
    layer_.weight = run["weight"].f32();
    layer_.fresh(rows_, cols_, rows_ * cols_ / run["step1.min_scale"].size());
    x_ = run["q_in"].f32();
    mask_ = run["valid_mask"].f32();
    tokens_ = run["q_in"].shape[1];
    const std::vector<float> float_x = run["fp_in"].f32();
    target_.resize(mask_.size() * rows_);
    for (size_t t = 0; t < mask_.size(); ++t)
      for (size_t r = 0; r < rows_; ++r) {
        double y = 0;
        for (size_t c = 0; c < cols_; ++c) y += static_cast<double>(float_x[t * cols_ + c]) * static_cast<double>(layer_.weight[r * cols_ + c]);
        target_[t * rows_ + r] = static_cast<float>(y);
      }
  }

  /// The layer reads quantized rows.
  void quantize_inputs(const nlohmann::ordered_json& scheme) {
    const ar::tune_grid grid = grid_of(scheme["act_data_type"].get<std::string>() + std::to_string(scheme["act_bits"].get<int>())).grid;
    layer_buffers rows;
    rows.weight = x_;
    rows.fresh(x_.size() / cols_, cols_, scheme["act_group_size"].get<size_t>());
    ASSERT_EQ(ar::fake_quantize(grid, rows.view, 0, rows.view.rows, x_.data()), ar::errc::ok);
  }

  void tune() {
    const std::vector<std::int32_t> indices = run_["indices"].as<std::int32_t>();
    const size_t drawn = run_["indices"].shape[1];
    const auto loss = run_["loss"].as<double>();
    const bool factors = config_.value("enable_minmax_tuning", true) && !fixed_, last = config_.value("not_use_best_mse", false);
    const int gap = config_.value("dynamic_max_gap", -1);
    const float momentum = config_.value("momentum", 0.0f);
    const double lr = config_.contains("lr") ? config_["lr"].get<double>() : ar::default_learning_rate(iters_, grid_.bits);
    ar::linear_schedule schedule(lr, iters_);
    const size_t n = rows_ * cols_, groups = layer_.min_scale.size();
    std::vector<float> wq(n), grad(n), d_v(n), d_min(groups), d_max(groups), b_v(n), b_min(groups), b_max(groups);
    std::vector<float> best_v, best_min, best_max, last_v, last_min, last_max;
    double best = 1e300;
    int best_iter = 0;
    bool on_path = true;  // until a sign near zero differs, losses must agree to rounding
    for (int t = 0; t < iters_; ++t) {
      ASSERT_EQ(ar::fake_quantize(grid_, layer_.view, 0, rows_, wq.data()), ar::errc::ok);
      const std::int32_t* idx = indices.data() + static_cast<size_t>(t) * drawn;
      double valid = 0, total = 0;
      for (size_t i = 0; i < drawn; ++i)
        for (size_t k = 0; k < tokens_; ++k) valid += static_cast<double>(mask_[(outside_ ? i : static_cast<size_t>(idx[i])) * tokens_ + k]);
      for (size_t first = 0; first < drawn; first += micro_) {
        total += micro_batch(wq, idx + first, grad) / valid;
        ASSERT_EQ(ar::tune_gradient(grid_, layer_.view, 0, rows_, grad.data(), factors, first != 0, {d_v.data(), d_min.data(), d_max.data()}),
                  ar::errc::ok);
      }
      if (on_path && t < static_cast<int>(loss.size())) {
        on_path = std::abs(total - loss[static_cast<size_t>(t)]) <= 1e-5 * loss[static_cast<size_t>(t)];
        EXPECT_TRUE(on_path || t > 10) << "loss of iteration " << t << ": " << total << " instead of " << loss[static_cast<size_t>(t)];
      }
      if (total < best) {
        best = total;
        best_iter = t;
        best_v = layer_.v;
        best_min = layer_.min_scale;
        best_max = layer_.max_scale;
      } else if (!last && gap > 0 && t - best_iter >= gap) {
        EXPECT_EQ(static_cast<size_t>(t) + 1, loss.size()) << "stopped early";
        break;
      }
      std::tie(last_v, last_min, last_max) = std::tie(layer_.v, layer_.min_scale, layer_.max_scale);
      if (t == 0 && momentum == 0.0f && accumulate_ == 1 && !adam_) expect_fused_step_is_the_same(grad, d_v, d_min, d_max, factors, schedule.lr());
      const bool first = t == 0;
      if (adam_) {
        for (auto& [p, d, moments] : {std::tuple{&layer_.v, &d_v, 0}, {&layer_.min_scale, &d_min, 1}, {&layer_.max_scale, &d_max, 2}}) {
          mean_[moments].resize(p->size());
          square_[moments].resize(p->size());
          if (moments != 0)
            for (float& f : *p) f = std::min(std::max(f, grid_.factor_min), grid_.factor_max);
          ar::adam_step(p->data(), d->data(), p->size(), schedule.lr(), t + 1, mean_[moments].data(), square_[moments].data());
        }
        schedule.advance();
        continue;
      }
      ar::sign_step(layer_.v.data(), d_v.data(), n, schedule.lr(), momentum, momentum != 0 ? b_v.data() : nullptr, first);
      if (factors) {
        for (std::vector<float>* p : {&layer_.min_scale, &layer_.max_scale})
          for (float& f : *p) f = std::min(std::max(f, grid_.factor_min), grid_.factor_max);
        ar::sign_step(layer_.min_scale.data(), d_min.data(), groups, schedule.lr(), momentum, momentum != 0 ? b_min.data() : nullptr, first);
        ar::sign_step(layer_.max_scale.data(), d_max.data(), groups, schedule.lr(), momentum, momentum != 0 ? b_max.data() : nullptr, first);
      }
      schedule.advance();
      on_path = compare(t + 1, momentum) && on_path;
    }
    if (last) {  // the parameters that the last iteration ran with
      layer_.v = last_v;
      layer_.min_scale = last_min;
      layer_.max_scale = last_max;
      expect_final();
      return;
    }
    EXPECT_NEAR(best, *std::min_element(loss.begin(), loss.end()), 0.1 * best);
    if (!on_path) return;
    if (adam_) {  // smooth steps: no sign amplifies what rounding left
      const std::vector<float> theirs = run_["best.value"].f32();
      ASSERT_EQ(theirs.size(), best_v.size());
      size_t apart = 0;
      for (size_t i = 0; i < theirs.size(); ++i) apart += std::abs(theirs[i] - best_v[i]) > 1e-3f;
      // A code that flips earlier or later changes a gradient; few do.
      EXPECT_LE(apart, theirs.size() / 100);
      return;
    }
    if (run_.has("best.value")) {
      expect_same(best_v, run_["best.value"].f32(), "best.value");
      for (float& f : best_min) f = std::min(std::max(f, grid_.factor_min), grid_.factor_max);
      for (float& f : best_max) f = std::min(std::max(f, grid_.factor_min), grid_.factor_max);
      if (run_.has("best.min_scale")) expect_same(best_min, run_["best.min_scale"].f32(), "best.min_scale");
      if (run_.has("best.max_scale")) expect_same(best_max, run_["best.max_scale"].f32(), "best.max_scale");
    }
    layer_.v = best_v;
    layer_.min_scale = best_min;
    layer_.max_scale = best_max;
    expect_final();
  }

 private:
  void expect_final() {
    layer_.attach(rows_, cols_, layer_.view.group_size);
    std::vector<float> weight(rows_ * cols_), scale(layer_.min_scale.size());
    ASSERT_EQ(ar::tune_quantize(grid_, layer_.view, 0, rows_, {weight.data(), nullptr, scale.data()}), ar::errc::ok);
    expect_same(weight, run_["final.weight"].f32(), "final.weight");
    if (fixed_) return;
    std::vector<float> theirs = run_["final.scale"].f32();
    if (grid_.facts != nullptr && !grid_.facts->two_level())
      for (float& e : theirs) e = std::exp2(e);  // of MX types the reference returns the exponent
    expect_same(scale, theirs, "final.scale");
  }

  /// Elements of a micro-batch that the loss of few bits leaves out: the thousandth that is farthest off.
  std::vector<bool> outliers(const std::vector<float>& errors) const {
    std::vector<bool> out(errors.size(), false);
    if (!outliers_) return out;
    std::vector<size_t> order(errors.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return std::abs(errors[a]) > std::abs(errors[b]); });
    for (size_t i = 0; i < std::max<size_t>(1, errors.size() / 1000); ++i) out[order[i]] = true;
    return out;
  }

  /// Loss of one micro-batch in the reference's reduction; grad = d(1000 loss)/dwq.
  double micro_batch(const std::vector<float>& wq, const std::int32_t* idx, std::vector<float>& grad) const {
    std::vector<double> sum(grad.size());
    const double elements = static_cast<double>(micro_ * tokens_ * rows_), scale = accumulate_ == 1 || outliers_ ? 1.0 / elements : 1.0;
    const auto token_of = [&](size_t i) { return static_cast<size_t>(idx[i / tokens_]) * tokens_ + i % tokens_; };
    std::vector<float> errors(micro_ * tokens_ * rows_);
    for (size_t i = 0; i < micro_ * tokens_; ++i) {
      const float* x = x_.data() + token_of(i) * cols_;
      for (size_t r = 0; r < rows_; ++r) {
        double y = 0;
        for (size_t c = 0; c < cols_; ++c) y += static_cast<double>(x[c]) * static_cast<double>(wq[r * cols_ + c]);
        errors[i * rows_ + r] = static_cast<float>(y - static_cast<double>(target_[token_of(i) * rows_ + r]));
      }
    }
    const std::vector<bool> out = outliers(errors);
    const double factor = adam_ ? 2.0 : 2000.0;
    double loss = 0;
    for (size_t i = 0; i < micro_ * tokens_; ++i) {
      if (mask_[token_of(i)] == 0.0f) continue;
      const float* x = x_.data() + token_of(i) * cols_;
      for (size_t r = 0; r < rows_; ++r) {
        if (out[i * rows_ + r]) continue;
        const double diff = static_cast<double>(errors[i * rows_ + r]);
        loss += diff * diff * scale;
        for (size_t c = 0; c < cols_; ++c) sum[r * cols_ + c] += factor * scale * diff * static_cast<double>(x[c]);
      }
    }
    for (size_t i = 0; i < grad.size(); ++i) grad[i] = static_cast<float>(sum[i]);
    return loss;
  }

  void expect_fused_step_is_the_same(const std::vector<float>& grad, const std::vector<float>& d_v, const std::vector<float>& d_min,
                                     const std::vector<float>& d_max, bool factors, float lr) const {
    std::vector<float> v = layer_.v, lo = layer_.min_scale, hi = layer_.max_scale, fused_v(v.size()), fused_lo(lo.size(), 1.0f), fused_hi = fused_lo;
    ar::sign_step(v.data(), d_v.data(), v.size(), lr);
    if (factors) {
      ar::sign_step(lo.data(), d_min.data(), lo.size(), lr);
      ar::sign_step(hi.data(), d_max.data(), hi.size(), lr);
    }
    ASSERT_EQ(ar::tune_step(grid_, layer_.view, 0, rows_, grad.data(), factors, lr, lr, {fused_v.data(), fused_lo.data(), fused_hi.data()}),
              ar::errc::ok);
    expect_same(fused_v, v, "fused v");
    expect_same(fused_lo, lo, "fused min_scale");
    expect_same(fused_hi, hi, "fused max_scale");
  }

  /// Exact after 1, 2 and 10 steps (1 with momentum, whose buffers sum what rounding left). Later a trajectory either coincides or has separated
  /// at a gradient next to zero; false then, and only losses can be compared.
  bool compare(int step, float momentum) const {
    const std::string id = "step" + std::to_string(step) + ".";
    size_t apart = 0;
    for (const auto& [name, ours] : {std::pair<std::string, const std::vector<float>*>{"value", &layer_.v},
                                     {"min_scale", &layer_.min_scale},
                                     {"max_scale", &layer_.max_scale}}) {
      if (!run_.has(id + name)) continue;
      const std::vector<float> theirs = run_[id + name].f32();
      EXPECT_EQ(theirs.size(), ours->size()) << id + name;
      if (theirs.size() != ours->size()) return false;
      size_t differ = 0;
      for (size_t i = 0; i < theirs.size(); ++i) differ += (*ours)[i] != theirs[i];
      if (step == 1 || (step <= 10 && momentum == 0.0f)) {
        EXPECT_EQ(differ, 0u) << id + name << " of " << theirs.size();
      }
      apart += differ;
    }
    return apart == 0;
  }

  const golden::file& run_;
  nlohmann::ordered_json config_;
  ar::tune_grid grid_;
  layer_buffers layer_;
  std::vector<float> x_, target_, mask_;
  size_t rows_ = 0, cols_ = 0, tokens_ = 0, micro_ = 1;
  int iters_ = 0, accumulate_ = 1;
  bool outside_ = false, adam_ = false, outliers_ = false, fixed_ = false;
  std::vector<float> mean_[3], square_[3];
};

TEST(SignRoundGolden, LinearLayersFollowTheReferencesPath) {
  const golden::file data("signround", "linear_data.safetensors");
  int runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "signround")) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("linear_", 0) != 0 || name == "linear_data.safetensors") continue;
    const golden::file run("signround", name);
    SCOPED_TRACE(name);
    linear_run(data, run).tune();
    ++runs;
  }
  EXPECT_GE(runs, 2) << "no linear_* run to check";
}

TEST(SignRoundGolden, ALayerOutsideTheBlocksFollowsTheReferencesPath) {
  int runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "signround")) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("lm_head_", 0) != 0) continue;
    const golden::file run("signround", name);
    SCOPED_TRACE(name);
    linear_run(run).tune();
    ++runs;
  }
  EXPECT_GE(runs, 1) << "no lm_head_* run to check";
}

TEST(SignRoundGolden, SamplerDrawsTheReferencesIndices) {
  const auto file = golden::read_json(golden::root() / "signround" / "sampler.json");
  ASSERT_FALSE(file["cases"].empty());
  for (const auto& run : file["cases"]) {
    const auto seed = run["seed"].get<std::uint64_t>();
    ar::python_random words(seed);
    for (const auto& word : run["first_uint32"]) EXPECT_EQ(words.next(), word.get<std::uint32_t>()) << "seed " << seed;
    ar::python_random random(seed);
    for (const auto& block : run["blocks"]) {
      const auto samples = block["nsamples"].get<size_t>(), batch = block["batch"].get<size_t>();
      std::vector<std::int32_t> order(samples);
      ar::batch_sampler sampler(random, order.data(), samples, batch);
      for (const auto& draw : block["draws"]) {
        const std::int32_t* got = sampler.next();
        EXPECT_EQ(std::vector<std::int32_t>(got, got + batch), draw.get<std::vector<std::int32_t>>()) << "seed " << seed << ", " << samples << " samples";
      }
    }
  }
}

TEST(SignRoundGolden, LearningRatesAreTheReferencesBits) {
  const auto file = golden::read_json(golden::root() / "signround" / "lr_tables.json");
  ASSERT_FALSE(file["tables"].empty());
  for (const auto& table : file["tables"]) {
    const int iters = table["iters"].get<int>();
    ar::linear_schedule schedule(table["lr"].get<double>(), iters);
    int t = 0;
    for (const auto& hex : table["hex"]) {
      const auto bits = static_cast<std::uint32_t>(std::stoul(hex.get<std::string>(), nullptr, 16));
      EXPECT_EQ(std::bit_cast<std::uint32_t>(schedule.lr()), bits) << "iteration " << t << " of " << iters;
      schedule.advance();
      ++t;
    }
  }
}

}  // namespace
