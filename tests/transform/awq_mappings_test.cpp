// links: ar_transform
// Which layers AWQ balances under the default policy: every reader of a norm is in the set, so that the float model stays what it is; what cannot be
// known is left alone. (The sets of the original, right or wrong, are golden data.)
#include "transform/awq_mappings.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>

#include "support/golden_json.hpp"

namespace {

using namespace auto_round;
using transform::awq_mapping;
using transform::mapping_facts;
using transform::mapping_options;
using transform::mapping_policy;
using transform::module_info;
using names = std::set<std::string>;

struct block_builder {
  std::vector<module_info> modules;
  block_builder& linear(const std::string& name, std::uint64_t rows, std::uint64_t cols) {
    modules.push_back({name, true, {rows, cols}});
    return *this;
  }
  block_builder& other(const std::string& name, std::vector<std::uint64_t> shape) {
    modules.push_back({name, false, std::move(shape)});
    return *this;
  }
  block_builder& norm(const std::string& name) { return other(name, {64}); }
  block_builder& attention(const std::string& p, std::uint64_t kv = 64) {
    return linear(p + "q_proj", 64, 64).linear(p + "k_proj", kv, 64).linear(p + "v_proj", kv, 64).linear(p + "o_proj", 64, 64);
  }
  block_builder& mlp(const std::string& p, std::uint64_t inner = 128) {
    return linear(p + "gate_proj", inner, 64).linear(p + "up_proj", inner, 64).linear(p + "down_proj", 64, inner);
  }
};

std::map<std::string, awq_mapping> resolve(const block_builder& b, const mapping_facts& facts, const mapping_options& options = {},
                                           std::vector<std::string>* warnings = nullptr) {
  auto list = transform::resolve_mappings(b.modules, facts, options);
  EXPECT_TRUE(list) << describe(list.error());
  std::map<std::string, awq_mapping> all;
  if (!list) return all;
  if (warnings != nullptr) *warnings = list->warnings;
  for (const awq_mapping& m : list->mappings) all[m.smooth] = m;
  return all;
}

names readers(const awq_mapping& m) {
  names all(m.balance.begin(), m.balance.end());
  all.insert(m.others.begin(), m.others.end());
  return all;
}

/// All modules of a block below `room` that read vectors of 64, by hand.
names below(const block_builder& b, const std::string& room, const names& but) {
  names all;
  for (const module_info& m : b.modules)
    if (m.name.starts_with(room) && m.shape.size() == 2 && m.shape[1] == 64 && !but.contains(m.name.substr(m.name.rfind('.') + 1))) all.insert(m.name);
  return all;
}

block_builder moe_block(const std::string& router, const std::string& shared) {
  block_builder b;
  b.attention("model.layers.0.self_attn.");
  for (int e = 0; e < 3; ++e) b.mlp("model.layers.0.mlp.experts." + std::to_string(e) + ".", 32);
  b.other("model.layers.0.mlp." + router, {3, 64});
  if (!shared.empty()) b.mlp("model.layers.0.mlp." + shared + ".", 32);
  return b.norm("model.layers.0.input_layernorm").norm("model.layers.0.post_attention_layernorm");
}

TEST(AwqMappings, RoutersAndAllExpertsAreScaledWithTheNorm) {
  for (const auto& [model_class, shared] : {std::pair<std::string, std::string>{"DeepseekV3ForCausalLM", "shared_experts"}, {"Qwen2MoeForCausalLM", "shared_expert"}, {"Qwen3MoeForCausalLM", ""}})
    for (const bool skip : {true, false}) {
      SCOPED_TRACE(model_class + (skip ? " without experts" : " with experts"));
      block_builder b = moe_block("gate", shared);
      if (model_class.starts_with("Qwen2")) b.linear("model.layers.0.mlp.shared_expert_gate", 1, 64);
      mapping_options o;
      o.skip_moe = skip;
      const auto all = resolve(b, {.model_class = model_class}, o);
      const auto m = all.find("model.layers.0.post_attention_layernorm");
      if (skip && !model_class.starts_with("Deepseek")) {
        EXPECT_EQ(m, all.end()) << "there is no layer to search for";
        continue;
      }
      ASSERT_NE(m, all.end());
      EXPECT_EQ(readers(m->second), below(b, "model.layers.0.mlp.", {"down_proj"}));
      // Routers are not quantized, and with skip_moe experts are not searched.
      for (const std::string& n : m->second.balance) {
        EXPECT_TRUE(n.ends_with("gate_proj") || n.ends_with("up_proj")) << n;
        EXPECT_TRUE(!skip || n.find(".experts.") == std::string::npos) << n;
      }
      EXPECT_EQ(all.contains("model.layers.0.mlp.experts.1.up_proj"), !skip);
    }
}

TEST(AwqMappings, AMixtureOfExpertsComputesTheSame) {
  // norm -> router -> the best expert's gate and up, in double; the original's set changes the result, ours does not.
  const block_builder b = moe_block("gate", "");
  std::mt19937 random(4);
  std::normal_distribution<double> normal;
  std::map<std::string, std::vector<double>> w;
  for (const module_info& m : b.modules) {
    std::vector<double>& v = w[m.name];
    v.resize(m.shape.size() == 2 ? m.shape[0] * m.shape[1] : m.shape[0]);
    for (double& x : v) x = normal(random);
  }
  std::vector<double> x(64), s(64);
  for (double& v : x) v = normal(random);
  for (double& v : s) v = std::exp(normal(random));
  const std::string p = "model.layers.0.mlp.";
  const auto output = [&](const std::map<std::string, std::vector<double>>& weights) {
    std::vector<double> h(64), y;
    for (size_t i = 0; i < 64; ++i) h[i] = x[i] * weights.at("model.layers.0.post_attention_layernorm")[i];
    const auto dot = [&](const std::string& name, size_t row) {
      double sum = 0;
      for (size_t i = 0; i < 64; ++i) sum += weights.at(name)[row * 64 + i] * h[i];
      return sum;
    };
    for (size_t e = 0; e < 3; ++e) y.push_back(dot(p + "gate", e));
    const size_t best = static_cast<size_t>(std::max_element(y.begin(), y.end()) - y.begin());
    for (size_t r = 0; r < 32; ++r) {
      const std::string e = p + "experts." + std::to_string(best);
      const double g = dot(e + ".gate_proj", r);
      y.push_back(g / (1 + std::exp(-g)) * dot(e + ".up_proj", r));
    }
    return y;
  };
  const std::vector<double> expected = output(w);
  for (const mapping_policy policy : {mapping_policy::strict, mapping_policy::peer}) {
    const auto all = resolve(b, {.model_class = "Qwen3MoeForCausalLM"}, {.policy = policy, .skip_moe = false, .rules = {}});
    const awq_mapping& m = all.at("model.layers.0.post_attention_layernorm");
    auto folded = w;
    for (size_t i = 0; i < 64; ++i) folded[m.smooth][i] /= s[i];
    for (const std::string& n : readers(m))
      for (size_t i = 0; i < folded[n].size(); ++i) folded[n][i] *= s[i % 64];
    const std::vector<double> y = output(folded);
    double error = 0;
    for (size_t i = 0; i < y.size(); ++i) error = std::max(error, std::fabs(y[i] - expected[i]));
    if (policy == mapping_policy::strict) EXPECT_LT(error, 1e-11);
    else EXPECT_GT(error, 0.1) << "this is why the default is another one";
  }
}

TEST(AwqMappings, HybridAttentionHasRulesOfItsOwn) {
  block_builder b;
  b.linear("model.layers.0.linear_attn.in_proj_qkvz", 128, 64).linear("model.layers.0.linear_attn.in_proj_ba", 8, 64).linear("model.layers.0.linear_attn.out_proj", 64, 64);
  b.other("model.layers.0.linear_attn.conv1d", {128, 1, 4}).mlp("model.layers.0.mlp.").norm("model.layers.0.input_layernorm").norm("model.layers.0.post_attention_layernorm");
  b.attention("model.layers.1.self_attn.").mlp("model.layers.1.mlp.").norm("model.layers.1.input_layernorm").norm("model.layers.1.post_attention_layernorm");
  const auto all = resolve(b, {.model_class = "Qwen3NextForCausalLM", .layer_types = {"linear_attention", "full_attention"}});
  EXPECT_EQ(readers(all.at("model.layers.0.input_layernorm")),
            (names{"model.layers.0.linear_attn.in_proj_qkvz", "model.layers.0.linear_attn.in_proj_ba"}));
  EXPECT_EQ(readers(all.at("model.layers.1.input_layernorm")).size(), 3u);
  EXPECT_EQ(readers(all.at("model.layers.1.post_attention_layernorm")).size(), 2u);
  EXPECT_TRUE(all.contains("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(all.contains("model.layers.1.self_attn.v_proj")) << "as in the original";
}

TEST(AwqMappings, GroupedQueriesAndFusedLayersAreSmoothedToo) {
  block_builder b;
  b.attention("model.layers.0.self_attn.", 32).mlp("model.layers.0.mlp.").norm("model.layers.0.input_layernorm").norm("model.layers.0.post_attention_layernorm");
  const mapping_facts llama{.model_class = "LlamaForCausalLM", .activation = "silu", .heads = 4, .kv_heads = 2};
  const auto all = resolve(b, llama);
  const awq_mapping& v = all.at("model.layers.0.self_attn.v_proj");
  EXPECT_EQ(v.rows, 32u);
  EXPECT_EQ(v.tied, 2u);
  EXPECT_EQ(v.head, 16u);
  EXPECT_FALSE(resolve(b, llama, {.policy = mapping_policy::peer, .skip_moe = true, .rules = {}}).contains("model.layers.0.self_attn.v_proj"));
  block_builder phi;
  phi.linear("model.layers.0.self_attn.o_proj", 64, 64).linear("model.layers.0.self_attn.qkv_proj", 192, 64).linear("model.layers.0.mlp.gate_up_proj", 256, 64);
  phi.linear("model.layers.0.mlp.down_proj", 64, 128).norm("model.layers.0.input_layernorm").norm("model.layers.0.post_attention_layernorm");
  const auto fused = resolve(phi, {.model_class = "Phi3ForCausalLM", .activation = "silu", .heads = 4, .kv_heads = 4});
  EXPECT_EQ(fused.at("model.layers.0.mlp.gate_up_proj").rows, 128u) << "the upper half";
  EXPECT_EQ(fused.at("model.layers.0.self_attn.qkv_proj").rows, 64u) << "the values";
}

TEST(AwqMappings, WhatWouldChangeTheModelIsLeftAlone) {
  const std::string p = "model.layers.0.";
  std::vector<std::string> warnings;
  // A norm behind attention, in a class that is not known.
  block_builder olmo;
  olmo.attention(p + "self_attn.").mlp(p + "mlp.").norm(p + "post_attention_layernorm").norm(p + "post_feedforward_layernorm");
  auto all = resolve(olmo, {.model_class = "SomeForCausalLM"}, {}, &warnings);
  EXPECT_FALSE(all.contains(p + "post_attention_layernorm"));
  EXPECT_TRUE(all.contains(p + "mlp.up_proj"));
  EXPECT_EQ(warnings.size(), 2u) << "the class, and the norm";
  // One norm for attention and MLP.
  block_builder parallel;
  parallel.attention(p + "self_attn.").mlp(p + "mlp.").norm(p + "input_layernorm");
  EXPECT_FALSE(resolve(parallel, {.model_class = "SomeForCausalLM"}).contains(p + "input_layernorm"));
  EXPECT_EQ(readers(resolve(parallel, {.model_class = "CohereForCausalLM"}).at(p + "input_layernorm")).size(), 5u);
  // Values that are normed, a reader without a known name, GELU.
  block_builder odd;
  odd.attention(p + "self_attn.").norm(p + "self_attn.v_norm").linear(p + "mlp.mystery", 8, 64).mlp(p + "mlp.").norm(p + "input_layernorm").norm(p + "post_attention_layernorm");
  all = resolve(odd, {.model_class = "LlamaForCausalLM"});
  EXPECT_FALSE(all.contains(p + "self_attn.v_proj"));
  EXPECT_FALSE(all.contains(p + "post_attention_layernorm"));
  EXPECT_TRUE(all.contains(p + "input_layernorm"));
  const std::string o = "model.decoder.layers.0.";
  for (const std::string activation : {"relu", "gelu"}) {
    block_builder opt;
    opt.linear(o + "self_attn.k_proj", 64, 64).linear(o + "self_attn.v_proj", 64, 64).linear(o + "self_attn.q_proj", 64, 64).linear(o + "self_attn.out_proj", 64, 64);
    opt.norm(o + "self_attn_layer_norm").linear(o + "fc1", 128, 64).linear(o + "fc2", 64, 128).norm(o + "final_layer_norm");
    all = resolve(opt, {.model_class = "OPTForCausalLM", .activation = activation});
    EXPECT_EQ(all.contains(o + "fc1"), activation == "relu");
    EXPECT_TRUE(all.contains(o + "final_layer_norm"));
  }
}

TEST(AwqMappings, DenseModelsOfTheGoldenSetKeepTheirMappings) {
  // Where the original is right, the default policy takes at least as much.
  const auto all = golden::parse_json(golden::read_bytes(golden::root() / "awq" / "mappings.json"));
  for (const auto& [name, a] : all.items()) {
    if (a["is_moe"].get<bool>()) continue;
    SCOPED_TRACE(name);
    block_builder b;
    for (const auto& m : a["modules"]) b.modules.push_back({m[0].get<std::string>(), m[1] == "linear", m[2].get<std::vector<std::uint64_t>>()});
    mapping_facts facts{.model_class = a["model_class"].get<std::string>(), .activation = "relu"};
    if (a["layer_types"].is_array()) facts.layer_types = a["layer_types"].get<std::vector<std::string>>();
    const auto ours = resolve(b, facts);
    for (const auto& theirs : a["skip_moe"]) {
      const auto m = ours.find(theirs["smooth"].get<std::string>());
      ASSERT_NE(m, ours.end()) << theirs["smooth"];
      EXPECT_EQ(m->second.balance, theirs["balance"].get<std::vector<std::string>>());
      EXPECT_TRUE(m->second.others.empty());
    }
  }
}

TEST(AwqMappings, RulesOfOnesOwn) {
  block_builder b;
  b.attention("model.layers.0.self_attn.").mlp("model.layers.0.mlp.").norm("model.layers.0.input_layernorm").norm("model.layers.0.post_attention_layernorm");
  const mapping_facts facts{.model_class = "LlamaForCausalLM"};
  mapping_options o;
  o.rules = {{"input_layernorm$", {"q_proj$"}}};
  const auto all = resolve(b, facts, o);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(readers(all.begin()->second).size(), 3u) << "completed";
  o.rules = {{"no_such_layer$", {"q_proj$"}}};
  EXPECT_EQ(transform::resolve_mappings(b.modules, facts, o).error().kind, error_kind::unsupported);
  o.rules = {{"input_layernorm(", {"q_proj$"}}};
  EXPECT_EQ(transform::resolve_mappings(b.modules, facts, o).error().kind, error_kind::usage);
}

}  // namespace
