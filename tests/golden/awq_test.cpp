// links: ar_transform ar_model ar_dispatch OpenMP::OpenMP_CXX
// AWQ against the reference's own runs (golden/awq): statistics, grid, folding and clamping bit for bit, factors within 4 units in the last place,
// losses and the choice of factor and range within what awq.md section 15 allows; mappings of every architecture; AutoAWQ's quantizer and clipping.
// Each stage gets the recorded result of the one before it.
#include "ar/awq.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/golden_json.hpp"
#include "transform/awq_mappings.hpp"
#include "transform/awq_search.hpp"

namespace {

using namespace auto_round;
using std::size_t;
namespace fs = std::filesystem;
using vec = std::vector<float>;

std::vector<fs::path> files_of(const std::string& prefix, bool starts) {
  std::vector<fs::path> files;
  for (const auto& e : fs::directory_iterator(golden::root() / "awq"))
    if (e.path().extension() == ".safetensors" && e.path().filename().string().starts_with(prefix) == starts) files.push_back(e.path());
  std::sort(files.begin(), files.end());
  return files;
}

void expect_equal(const vec& ours, const vec& theirs, const std::string& what) {
  ASSERT_EQ(ours.size(), theirs.size()) << what;
  size_t bad = 0, first = 0;
  for (size_t i = 0; i < ours.size(); ++i)
    if (ours[i] != theirs[i] && bad++ == 0) first = i;
  EXPECT_EQ(bad, 0u) << what << ": first at " << first << ", " << (bad ? ours[first] : 0) << " instead of " << (bad ? theirs[first] : 0);
}

long ulps(float a, float b) { return std::labs(static_cast<long>(std::bit_cast<std::int32_t>(a)) - static_cast<long>(std::bit_cast<std::int32_t>(b))); }

// ---- the parents' outputs in plain double arithmetic, [tokens x hidden] ----

struct parent_model {
  const golden::file& file;
  const nlohmann::ordered_json& info;
  size_t call;

  using rows = std::vector<double>;
  static rows linear(const rows& x, size_t in, const vec& w, const vec& bias) {
    const size_t tokens = x.size() / in, out = w.size() / in;
    rows y(tokens * out);
    for (size_t t = 0; t < tokens; ++t)
      for (size_t o = 0; o < out; ++o) {
        double sum = bias.empty() ? 0.0 : static_cast<double>(bias[o]);
        for (size_t i = 0; i < in; ++i) sum += x[t * in + i] * static_cast<double>(w[o * in + i]);
        y[t * out + o] = sum;
      }
    return y;
  }
  /// Causal attention, with rotary embeddings where the file has them.
  rows attention(const rows& x, const std::map<std::string, vec>& w, const std::map<std::string, vec>& bias, const std::string& o) const {
    const auto heads = info["heads"].get<size_t>(), kv = info["kv"].get<size_t>(), d = info["head_dim"].get<size_t>(), hidden = info["hidden"].get<size_t>();
    rows q = linear(x, hidden, w.at("q_proj"), bias.at("q_proj")), k = linear(x, hidden, w.at("k_proj"), bias.at("k_proj"));
    const rows v = linear(x, hidden, w.at("v_proj"), bias.at("v_proj"));
    const size_t tokens = x.size() / hidden, seqlen = file["in.hidden.0"].shape[1];
    if (file.has("in.cos")) {
      const vec cos = file["in.cos"].f32(), sin = file["in.sin"].f32();
      for (auto [values, count] : {std::pair{&q, heads}, std::pair{&k, kv}})
        for (size_t t = 0; t < tokens; ++t)
          for (size_t h = 0; h < count; ++h) {
            double* p = values->data() + (t * count + h) * d;
            for (size_t i = 0; i < d / 2; ++i) {
              const double a = p[i], b = p[i + d / 2], c = static_cast<double>(cos[t % seqlen * d + i]), s = static_cast<double>(sin[t % seqlen * d + i]);
              p[i] = a * c - b * s;
              p[i + d / 2] = b * c + a * s;
            }
          }
    }
    rows out(tokens * heads * d, 0.0), score(seqlen);
    for (size_t t = 0; t < tokens; ++t)
      for (size_t h = 0; h < heads; ++h) {
        const size_t g = h / (heads / kv), first = t / seqlen * seqlen;
        double largest = -1e300, sum = 0;
        for (size_t s = first; s <= t; ++s) {
          double dot = 0;
          for (size_t i = 0; i < d; ++i) dot += q[(t * heads + h) * d + i] * k[(s * kv + g) * d + i];
          largest = std::max(largest, score[s - first] = dot / std::sqrt(static_cast<double>(d)));
        }
        for (size_t s = first; s <= t; ++s) sum += score[s - first] = std::exp(score[s - first] - largest);
        for (size_t s = first; s <= t; ++s)
          for (size_t i = 0; i < d; ++i) out[(t * heads + h) * d + i] += score[s - first] / sum * v[(s * kv + g) * d + i];
      }
    return linear(out, heads * d, w.at(o), bias.at(o));
  }
  rows gated_mlp(const rows& x, const std::map<std::string, vec>& w) const {
    const auto hidden = info["hidden"].get<size_t>(), inter = info["inter"].get<size_t>();
    rows gate = linear(x, hidden, w.at("gate_proj"), {});
    const rows up = linear(x, hidden, w.at("up_proj"), {});
    const bool gelu = info["model_class"].get<std::string>().starts_with("Gemma");
    for (size_t i = 0; i < gate.size(); ++i) {
      const double g = gate[i];
      gate[i] = up[i] * (gelu ? 0.5 * g * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) : g / (1 + std::exp(-g)));
    }
    return linear(gate, inter, w.at("down_proj"), {});
  }
};

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

/// One decoder block that the reference smoothed.
class recorded_block {
 public:
  explicit recorded_block(const fs::path& path) : file_(path), info_(golden::parse_json(file_.metadata().at("info"))) {
    for (const auto& [name, t] : file_.tensors())
      if (name.starts_with("w0.")) now_[name.substr(3)] = t.f32();
    const auto& s = info_["scheme"];
    scheme_.bits = s["bits"].get<int>();
    scheme_.group_size = s["group_size"].get<int>();
    scheme_.sym = s["sym"].get<bool>();
    type_ = s.value("data_type", "int");
    scheme_.data_type = type_;
    bf16_ = std::any_of(file_.tensors().begin(), file_.tensors().end(), [](const auto& t) { return t.first.starts_with("w0.") && t.second.dtype == "BF16"; });
    gemma_ = info_["model_class"].get<std::string>().starts_with("Gemma");
    const std::string name = info_["case"].get<std::string>();
    how_ = name.ends_with("optrtn")    ? transform::search_quantizer::opt_rtn
           : name.ends_with("v2scale") ? transform::search_quantizer::init_scale
                                       : transform::search_quantizer::rtn;
    const auto& awq = info_["awq"];
    n_grid_ = awq.value("n_grid", 20);
    if (awq.contains("duo_scaling"))
      duo_ = awq["duo_scaling"].is_string() ? ar::awq::duo_scaling::both : awq["duo_scaling"].get<bool>() ? ar::awq::duo_scaling::on : ar::awq::duo_scaling::off;
    auto q = transform::make_fake_quantizer(scheme_, how_);
    EXPECT_TRUE(q);
    if (q) quantizer_ = std::move(*q);
  }

  void check() {
    for (size_t k = 0; k < info_["mappings"].size(); ++k) {
      SCOPED_TRACE("mapping " + std::to_string(k));
      if (file_.has("map" + std::to_string(k) + ".x_sum")) check_mapping(k);
    }
    for (const auto& [name, w] : now_)
      if (file_.has("w1." + name)) expect_equal(w, tensor("w1." + name), "folded " + name);
    check_clips();
  }
  static int statistics, losses, folds, clips;

 private:
  vec tensor(const std::string& name) const { return file_[name].f32(); }
  std::string local(const std::string& module) const {
    const std::string smooth = info_["mappings"][0]["smooth"].get<std::string>(), block = smooth.substr(0, smooth.find(".0.") + 3);
    return module.substr(block.size());
  }
  ar::matrix_view<const float> weight(const std::string& name) const {
    const vec& w = now_.at(name + ".weight");
    const auto& t = file_["w0." + name + ".weight"];
    return {w.data(), t.rows(), t.cols()};
  }
  ar::real format() const { return bf16_ ? ar::real::bf16 : ar::real::f32; }

  void check_mapping(size_t k) {
    const auto& m = info_["mappings"][k];
    const std::string id = "map" + std::to_string(k) + ".";
    const std::string smooth = local(m["smooth"].get<std::string>());
    std::vector<std::string> names;
    for (const auto& b : m["balance"]) names.push_back(local(b.get<std::string>()));

    // Statistics. Calls are summed on their own.
    const size_t channels = file_[id + "x_sum"].size();
    vec sum(channels, 0.0f), x;
    size_t tokens = 0;
    for (size_t call = 0; file_.has(id + "x." + std::to_string(call)); ++call) {
      const auto& t = file_[id + "x." + std::to_string(call)];
      const vec part = t.f32();
      ASSERT_EQ(ar::awq::add_magnitudes({part.data(), t.rows(), t.cols()}, call == 0, sum.data()), ar::errc::ok);
      tokens += t.rows();
      x.insert(x.end(), part.begin(), part.end());
    }
    ASSERT_EQ(tokens, m["x_count"].get<size_t>());
    expect_equal(sum, tensor(id + "x_sum"), "x_sum");
    for (float& s : sum) s /= static_cast<float>(tokens);
    const vec x_mean = tensor(id + "x_mean");
    expect_equal(sum, x_mean, "x_mean");
    std::vector<transform::balance_layer> layers;
    for (const std::string& n : names) layers.push_back({weight(n), &quantizer_, format()});
    vec w_mean;
    if (duo_ != ar::awq::duo_scaling::off) {
      auto ours = transform::weight_statistic(layers, scheme_.group_size);
      ASSERT_TRUE(ours);
      w_mean = tensor(id + "w_mean");
      expect_equal(*ours, w_mean, "w_mean");
    }
    ++statistics;

    // Grid and factors.
    const vec scales = tensor(id + "scales");
    const auto ratio = file_[id + "ratio"].as<double>();
    const auto duo = file_[id + "duo"].as<std::uint8_t>();
    ASSERT_EQ(ar::awq::grid_size(duo_, n_grid_), ratio.size());
    vec s(channels);
    for (size_t i = 0; i < ratio.size(); ++i) {
      EXPECT_EQ(ar::awq::grid_point(duo_, n_grid_, i), (ar::awq::candidate{ratio[i], duo[i] != 0}));
      ar::awq::factors({ratio[i], duo[i] != 0}, x_mean.data(), w_mean.data(), channels, s.data());
      for (size_t c = 0; c < channels; ++c) ASSERT_LE(ulps(s[c], scales[i * channels + c]), 4) << "candidate " << i << ", channel " << c;
    }

    check_losses(m, id, names, x, x_mean, w_mean, layers);
    fold(m, smooth, names, {scales.data() + m["best_index"].get<size_t>() * channels, channels}, x);
  }

  /// Losses of all candidates, from the parent in double arithmetic.
  void check_losses(const nlohmann::ordered_json& m, const std::string& id, const std::vector<std::string>& names, const vec& x, const vec& x_mean, const vec& w_mean,
                    const std::vector<transform::balance_layer>& layers) {
    const std::string parent = local(m["parent"].get<std::string>());
    // Gemma's attention (soft capping) is not rebuilt here, and a part of a file may lack layers of the parent.
    const bool attention = parent == "self_attn", mlp = parent == "mlp";
    const std::string output = now_.contains("self_attn.out_proj.weight") ? "out_proj" : "o_proj";
    if ((attention && (gemma_ || !now_.contains("self_attn." + output + ".weight"))) || (mlp && !now_.contains("mlp.down_proj.weight"))) return;
    const parent_model model{file_, info_, 0};
    const auto run = [&](const std::map<std::string, vec>& changed) {
      std::map<std::string, vec> w, bias;
      const std::string room = names.front().find('.') == std::string::npos ? "" : names.front().substr(0, names.front().rfind('.') + 1);
      for (const auto& [name, values] : now_)
        if (name.starts_with(room) && name.ends_with(".weight")) {
          const std::string part = name.substr(room.size(), name.size() - room.size() - 7);
          w[part] = values;
          const auto b = now_.find(room + part + ".bias");
          bias[part] = b == now_.end() ? vec() : b->second;
        }
      for (const auto& [name, values] : changed) w[last_part(name)] = values;
      const parent_model::rows input(x.begin(), x.end());
      if (attention) return model.attention(input, w, bias, output);
      if (mlp) return model.gated_mlp(input, w);
      const std::string part = last_part(names.front());
      return parent_model::linear(input, weight(names.front()).cols, w[part], bias[part]);
    };
    const parent_model::rows reference = run({});
    double size_of_output = 0;
    for (const double r : reference) size_of_output += r * r / static_cast<double>(reference.size());
    const auto measure = [&](std::span<const vec> weights, std::span<const float>) -> result<double> {
      std::map<std::string, vec> changed;
      for (size_t i = 0; i < names.size(); ++i) changed[names[i]] = weights[i];
      const parent_model::rows out = run(changed);
      double error = 0;
      for (size_t i = 0; i < out.size(); ++i) error += (out[i] - reference[i]) * (out[i] - reference[i]);
      return error / static_cast<double>(out.size());
    };
    auto choice = transform::search_factors(layers, x_mean, w_mean, {}, duo_, n_grid_, measure);
    ASSERT_TRUE(choice) << describe(choice.error());
    ASSERT_TRUE(*choice);
    const auto theirs = file_[id + "loss"].as<double>();
    const vec scales = tensor(id + "scales");
    std::vector<vec> weights;
    for (size_t i = 0; i < theirs.size(); ++i) {
      ASSERT_TRUE(transform::candidate_weights(layers, {scales.data() + i * x_mean.size(), x_mean.size()}, weights));
      const double ours = measure(weights, {}).value();
      // The reference subtracts outputs of its own type: what their rounding leaves weighs more where candidates are near.
      const double bound = (bf16_ ? 1e-2 : 1e-5) + (bf16_ ? 0x1p-9 : 0x1p-21) * std::sqrt(size_of_output / ours);
      EXPECT_NEAR(ours, theirs[i], bound * theirs[i]) << "candidate " << i;
    }
    const bool clear = m["rel_gap_to_second"].get<double>() >= (bf16_ ? 1e-2 : 1e-3);
    EXPECT_TRUE(!clear || (*choice)->index == m["best_index"].get<size_t>()) << (*choice)->index;
    ++losses;
  }

  void fold(const nlohmann::ordered_json& m, const std::string& smooth, const std::vector<std::string>& names, std::span<const float> s, vec& x) {
    for (const std::string& n : names) {
      vec& w = now_.at(n + ".weight");
      const ar::matrix_view<float> v(w.data(), w.size() / s.size(), s.size());
      ASSERT_EQ(ar::awq::scale_columns(v, s.data(), format(), v), ar::errc::ok);
    }
    vec& w = now_.at(smooth + ".weight");
    const auto bias = now_.find(smooth + ".bias");
    if (file_["w0." + smooth + ".weight"].shape.size() == 1) {
      if (gemma_) ar::awq::unscale_offset_norm(w.data(), s.data(), s.size(), format(), true);
      else ar::awq::unscale_norm(w.data(), s.data(), s.size(), format());
      if (bias != now_.end()) ar::awq::unscale_norm(bias->second.data(), s.data(), s.size(), format());
    } else {
      const size_t rows = file_["w0." + smooth + ".weight"].rows();
      ASSERT_EQ(ar::awq::unscale_rows({w.data(), rows, w.size() / rows}, bias == now_.end() ? nullptr : bias->second.data(), s.data(), s.size(), format()),
                ar::errc::ok);
    }
    for (size_t i = 0; i < x.size(); ++i) x[i] /= s[i % s.size()];
    for (const std::string& n : names) features_[n] = x;
    static_cast<void>(m);
    ++folds;
  }

  void check_clips() {
    for (const auto& [name, features] : features_) {
      SCOPED_TRACE("clip " + name);
      const std::string id = "clip." + name + ".";
      if (file_.has(id + "feat")) expect_equal(features, tensor(id + "feat"), "features");
      if (!file_.has(id + "min")) continue;
      const ar::matrix_view<const float> w = weight(name);
      const transform::clip_options options{.n_grid = 20, .max_shrink = 0.5, .symmetric = scheme_.sym, .reference = true};
      const auto step = transform::search_clips(w, scheme_.group_size, {features.data(), features.size() / w.cols, w.cols}, quantizer_, options);
      ASSERT_TRUE(step) << describe(step.error());
      vec clipped(w.data, w.data + w.size()), lo, hi;
      ASSERT_TRUE(transform::apply_clips({clipped.data(), w.rows, w.cols}, scheme_.group_size, *step, options, format(), &lo, &hi));
      const vec their_lo = tensor(id + "min"), their_hi = tensor(id + "max");
      size_t other = 0;
      for (size_t i = 0; i < lo.size(); ++i) other += lo[i] != their_lo[i] || hi[i] != their_hi[i];
      // Two steps of a group whose errors agree within 1e-5 may change places.
      EXPECT_LE(other, lo.size() / 500) << other << " of " << lo.size() << " groups have another range";
      // Clamping itself is exact for the recorded ranges.
      const ar::matrix_view<const float> lows(their_lo.data(), w.rows, lo.size() / w.rows), highs(their_hi.data(), w.rows, lo.size() / w.rows);
      vec exact(w.size());
      ASSERT_EQ(ar::awq::clip(w, scheme_.group_size > 0 ? scheme_.group_size : -1, lows, highs, 1.0f, format(), {exact.data(), w.rows, w.cols}), ar::errc::ok);
      expect_equal(exact, file_.has("w2." + name + ".weight") ? tensor("w2." + name + ".weight") : vec(w.data, w.data + w.size()), "clipped");
      clips += static_cast<int>(lo.size());
    }
  }

  golden::file file_;
  nlohmann::ordered_json info_;
  ar::scheme_fields scheme_;
  std::string type_;
  transform::search_quantizer how_ = transform::search_quantizer::rtn;
  ar::awq::duo_scaling duo_ = ar::awq::duo_scaling::on;
  int n_grid_ = 20;
  bool bf16_ = false, gemma_ = false;
  transform::fake_quantizer quantizer_;
  std::map<std::string, vec> now_, features_;
};
int recorded_block::statistics = 0, recorded_block::losses = 0, recorded_block::folds = 0, recorded_block::clips = 0;

TEST(AwqGolden, BlocksAreSmoothedAndClippedAsRecorded) {
  for (const fs::path& path : files_of("autoawq", false)) {
    SCOPED_TRACE(path.filename().string());
    recorded_block(path).check();
  }
  std::printf("%d statistics, %d searches, %d foldings, %d clipped groups\n", recorded_block::statistics, recorded_block::losses, recorded_block::folds,
              recorded_block::clips);
  EXPECT_GE(recorded_block::statistics, 6);
  EXPECT_GE(recorded_block::losses, 4);
  EXPECT_GE(recorded_block::clips, 256);
}

TEST(AwqGolden, MappingsAreThePeersUnderItsPolicy) {
  const auto all = golden::parse_json(golden::read_bytes(golden::root() / "awq" / "mappings.json"));
  for (const auto& [name, a] : all.items())
    for (const bool skip : {true, false}) {
      SCOPED_TRACE(name + (skip ? " without experts" : " with experts"));
      std::vector<transform::module_info> modules;
      for (const auto& m : a["modules"]) modules.push_back({m[0].get<std::string>(), m[1] == "linear", m[2].get<std::vector<std::uint64_t>>()});
      transform::mapping_facts facts;
      facts.model_class = a["model_class"].get<std::string>();
      if (a["layer_types"].is_array()) facts.layer_types = a["layer_types"].get<std::vector<std::string>>();
      const auto ours = transform::resolve_mappings(modules, facts, {.policy = transform::mapping_policy::peer, .skip_moe = skip, .rules = {}});
      ASSERT_TRUE(ours) << describe(ours.error());
      EXPECT_EQ(ours->warnings.empty(), a["in_registry"].get<bool>());
      const auto& theirs = a[skip ? "skip_moe" : "with_moe"];
      ASSERT_EQ(ours->mappings.size(), theirs.size());
      for (size_t i = 0; i < theirs.size(); ++i) {
        const transform::awq_mapping& m = ours->mappings[i];
        EXPECT_EQ(m.smooth, theirs[i]["smooth"].get<std::string>());
        EXPECT_EQ(m.balance, theirs[i]["balance"].get<std::vector<std::string>>());
        EXPECT_EQ(m.parent, theirs[i]["parent"].get<std::string>());
        EXPECT_TRUE(m.others.empty());
      }
    }
}

TEST(AwqGolden, AutoAwqsQuantizerAndSearches) {
  int files = 0, clips = 0, searches = 0;
  for (const fs::path& path : files_of("autoawq", true)) {
    SCOPED_TRACE(path.filename().string());
    const golden::file file(path);
    const auto info = golden::parse_json(file.metadata().at("info"));
    const int bits = info["bits"].get<int>(), group = info["group_size"].get<int>();
    const bool zero_point = info["zero_point"].get<bool>();
    const ar::real format = file["w"].dtype == "F16" ? ar::real::f16 : ar::real::f32;
    const vec w = file["w"].f32();
    const size_t rows = file["w"].rows(), cols = file["w"].cols(), groups = cols / static_cast<size_t>(group);
    const ar::matrix_view<const float> view(w.data(), rows, cols);
    vec q(w.size()), scale(rows * groups), zero(rows * groups);
    const ar::awq::pseudo_parameters p{{scale.data(), rows, groups}, {zero.data(), rows, groups}};
    ASSERT_EQ(ar::awq::pseudo_quantize(view, group, bits, zero_point, format, {q.data(), rows, cols}, p), ar::errc::ok);
    expect_equal(q, file["pq.w"].f32(), "pq.w");
    expect_equal(scale, file["pq.scales"].f32(), "pq.scales");
    if (zero_point) expect_equal(zero, file["pq.zeros"].f32(), "pq.zeros");
    ++files;
    const transform::fake_quantizer quantizer = [&](ar::matrix_view<const float> in, std::span<const float>, ar::matrix_view<float> out) -> result<void> {
      if (ar::awq::pseudo_quantize(in, group, bits, zero_point, format, out) != ar::errc::ok) return fail(error_kind::internal, "pseudo_quantize");
      return {};
    };
    if (file.has("clip.max")) {
      // Tokens are thinned to about 512, ranges are symmetric with and without zero points.
      const vec x = file["x"].f32();
      const size_t step = transform::sample_step(file["x"].rows(), 512), tokens = ar::ceil_div(file["x"].rows(), step);
      const transform::clip_options options{.n_grid = 20, .max_shrink = 0.5, .symmetric = true, .reference = true};
      const auto found = transform::search_clips(view, group, {x.data(), tokens, cols, step * cols}, quantizer, options);
      ASSERT_TRUE(found) << describe(found.error());
      vec clipped = w, hi;
      ASSERT_TRUE(transform::apply_clips({clipped.data(), rows, cols}, group, *found, options, format, nullptr, &hi));
      const vec theirs = file["clip.max"].f32();
      size_t other = 0;
      for (size_t i = 0; i < hi.size(); ++i) other += hi[i] != theirs[i];
      EXPECT_LE(other, hi.size() / 200);
      if (other == 0) expect_equal(clipped, file["clip.w"].f32(), "clip.w");
      ++clips;
    }
    if (!file.has("scale.loss")) continue;
    // The classic search of one linear layer.
    const vec x = file["x"].f32();
    const auto losses = file["scale.loss"].as<double>();
    const size_t tokens = file["x"].rows();
    const bool duo = info["duo_scaling"].get<bool>();
    vec x_mean(cols), w_mean;
    ASSERT_EQ(ar::awq::add_magnitudes({x.data(), tokens, cols}, true, x_mean.data()), ar::errc::ok);
    for (float& m : x_mean) m /= static_cast<float>(tokens);
    const transform::balance_layer layer{view, &quantizer, format};
    if (duo) w_mean = transform::weight_statistic({&layer, 1}, group).value();
    size_t best = 0;
    double least = 1e300;
    for (size_t i = 0; i < losses.size(); ++i) {
      vec s(cols), candidate(w.size());
      ar::awq::factors(ar::awq::classic_grid_point(duo, 20, i), x_mean.data(), w_mean.data(), cols, s.data());
      const ar::matrix_view<float> c(candidate.data(), rows, cols);
      ASSERT_EQ(ar::awq::scale_columns(view, s.data(), format, c), ar::errc::ok);
      ASSERT_TRUE(quantizer(c, {}, c));
      ASSERT_EQ(ar::awq::unscale_columns(c, s.data(), format, c), ar::errc::ok);
      double loss = 0;
      for (size_t t = 0; t < tokens; ++t)
        for (size_t r = 0; r < rows; ++r) {
          double d = 0;
          for (size_t i2 = 0; i2 < cols; ++i2) d += static_cast<double>(x[t * cols + i2]) * static_cast<double>(candidate[r * cols + i2] - w[r * cols + i2]);
          loss += d * d;
        }
      loss /= static_cast<double>(tokens * rows);
      EXPECT_NEAR(loss, losses[i], 1e-5 * losses[i]) << i;
      if (loss < least) {
        least = loss;
        best = i;
      }
    }
    EXPECT_EQ(best, info["scale_best_index"].get<size_t>());
    ++searches;
  }
  EXPECT_GE(files, 1);
  std::printf("%d files, %d clips, %d searches\n", files, clips, searches);
}

}  // namespace
