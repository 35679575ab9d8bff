// links: ar_transform ar_model
// Rotated models compute what they computed before, whatever is rotated and however the model is made; or the rotation is refused with a reason.
#include "transform/rotation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "support/distance.hpp"
#include "support/memory_source.hpp"

namespace {

using namespace auto_round;
using std::size_t;
using transform::hadamard_type;
using transform::rotation_family;
using transform::rotation_options;

support::memory_source random_model(const model::model_spec& spec, bool tied, unsigned seed) {
  support::memory_source m;
  m.spec_ = spec;
  m.spec_.tie_word_embeddings = tied;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto add = [&](const std::string& name, std::int64_t n, float scale, float offset = 0) {
    auto& t = m.tensors[name];
    t.resize(static_cast<size_t>(n));
    for (float& x : t) x = ar::round_to_bf16(offset + scale * normal(random));
  };
  add(spec.embed_name, spec.vocab_size * spec.hidden_size, 0.5f);
  if (!tied) add(spec.head_name, spec.vocab_size * spec.hidden_size, 0.5f / std::sqrt(static_cast<float>(spec.hidden_size)));
  add(spec.final_norm_name, spec.hidden_size, 0.3f, 1.0f);
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    const std::string prefix = spec.block_prefix + std::to_string(l) + ".";
    add(prefix + spec.input_norm_name, spec.hidden_size, 0.3f, 1.0f);
    add(prefix + spec.post_attention_norm_name, spec.hidden_size, 0.3f, 1.0f);
    for (const auto& d : spec.linears) {
      add(prefix + d.name + ".weight", d.out_features * d.in_features, 1.0f / std::sqrt(static_cast<float>(d.in_features)));
      if (d.bias) add(prefix + d.name + ".bias", d.out_features, 0.5f);
    }
  }
  return m;
}

struct named_options {
  std::string name;
  rotation_options o;
};

std::vector<named_options> all_options() {
  std::vector<named_options> all;
  const auto spinquant = [&](const std::string& name, auto change) {
    rotation_options o;
    change(o);
    all.push_back({name, o});
  };
  spinquant("quarot", [](rotation_options&) {});
  spinquant("offline", [](rotation_options& o) { o.online_r1 = false; });
  spinquant("everything online", [](rotation_options& o) { o.r3 = o.r4 = true; });
  spinquant("everything offline", [](rotation_options& o) { o.r3 = o.r4 = true, o.online_r1 = false; });
  spinquant("random", [](rotation_options& o) { o.r3 = o.r4 = o.random_r1 = o.random_r2 = o.random_r3 = o.random_r4 = true; });
  spinquant("random offline", [](rotation_options& o) { o.r4 = o.random_r1 = o.random_r2 = o.random_r4 = true, o.online_r1 = false; });
  spinquant("blocks", [](rotation_options& o) { o.r4 = true, o.rotation_size = 12; });
  spinquant("blocks offline", [](rotation_options& o) { o.r4 = o.random_r1 = true, o.rotation_size = 12, o.online_r1 = false; });
  spinquant("R2 alone", [](rotation_options& o) { o.r1 = false; });
  for (const hadamard_type type : {hadamard_type::hadamard, hadamard_type::random_hadamard, hadamard_type::quarot_hadamard})
    for (const std::int64_t block : {0, 8})
      for (const bool fused : {true, false}) {
        rotation_options o;
        o.family = rotation_family::inplace, o.type = type, o.block_size = block, o.fused = fused;
        all.push_back({"in place, type " + std::to_string(static_cast<int>(type)) + " block " + std::to_string(block) + (fused ? " fused" : ""), o});
      }
  for (const hadamard_type type : {hadamard_type::hadamard, hadamard_type::random_hadamard}) {
    rotation_options o;
    o.family = rotation_family::transform, o.type = type, o.block_size = 8;
    all.push_back({"transform " + std::to_string(static_cast<int>(type)), o});
  }
  return all;
}

std::vector<float> logits_of(const model::weight_source& source) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 24; ++i) ids.push_back(i * 7 % static_cast<std::int32_t>(source.spec().vocab_size));
  auto l = model::logits(source, ids);
  EXPECT_TRUE(l.has_value()) << (l ? "" : l.error().message + " " + l.error().tensor);
  return l ? *l : std::vector<float>();
}

TEST(Rotation, NoModelComputesSomethingElse) {
  // With and without biases (the reference forgets v's), own or tied head, heads wider than the stream, sizes 2^k and 12 * 2^k.
  struct shape {
    std::int64_t hidden, inner, heads, kv_heads, head_dim;
    bool attention_bias, mlp_bias, tied;
  };
  for (const shape& s :
       {shape{64, 96, 4, 2, 16, true, true, true}, shape{48, 120, 4, 1, 24, true, false, false}, shape{48, 192, 12, 4, 8, false, true, true}}) {
    const auto base =
        random_model(support::llama_spec(s.hidden, s.inner, s.heads, s.kv_heads, s.head_dim, 40, 2, s.attention_bias, s.mlp_bias), s.tied, 11);
    const std::vector<float> expected = logits_of(base);
    for (const auto& [name, options] : all_options()) {
      SCOPED_TRACE(name + " of hidden size " + std::to_string(s.hidden) + ", heads of " + std::to_string(s.head_dim));
      if (options.rotation_size != 0 && s.hidden % options.rotation_size != 0) {
        const auto refused = transform::place_rotations(base.spec(), options, transform::drawn_signs(1));
        ASSERT_FALSE(refused.has_value());
        EXPECT_EQ(refused.error().kind, error_kind::usage);
        EXPECT_NE(refused.error().message.find("12"), std::string::npos) << refused.error().message;
        continue;
      }
      auto places = transform::place_rotations(base.spec(), options, transform::drawn_signs(1));
      ASSERT_TRUE(places.has_value()) << places.error().message;
      const bool residual = places->residual != nullptr;
      const transform::rotated_source rotated(base, std::move(*places), {});
      // Float sums in another order, two layers deep; the textbook bound would be some hundred roundings of 6e-8.
      EXPECT_LE(support::largest_difference(logits_of(rotated), expected), 1e-5);
      EXPECT_EQ(rotated.spec().tie_word_embeddings, s.tied && !residual);
      const std::string down = base.spec().linear_name(0, base.spec().down);
      EXPECT_EQ(rotated.changed(base.spec().embed_name), residual);
      EXPECT_EQ(rotated.changed(down + ".weight"), residual || options.r4 || options.family != rotation_family::spinquant);
      // Norms are whole again where their weights went into the layers.
      std::vector<float> norm(static_cast<size_t>(s.hidden));
      ASSERT_TRUE(rotated.read(base.spec().final_norm_name, norm).has_value());
      EXPECT_EQ(std::all_of(norm.begin(), norm.end(), [](float v) { return v == 1.0f; }), residual);
      // What is read in pieces is what is read at once.
      for (const std::string& tensor : {base.spec().embed_name, down + ".weight"}) {
        std::vector<float> whole(base.tensors.at(tensor).size()), piece(static_cast<size_t>(s.inner));
        ASSERT_TRUE(rotated.read(tensor, whole).has_value());
        const size_t cols = tensor == base.spec().embed_name ? static_cast<size_t>(s.hidden) : static_cast<size_t>(s.inner);
        piece.resize(3 * cols);
        ASSERT_TRUE(rotated.read_part(tensor, whole.size(), 5 * cols, piece).has_value());
        EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + static_cast<std::ptrdiff_t>(5 * cols)));
      }
    }
  }
}

TEST(Rotation, OutliersOfActivationsAreSpread) {
  auto base = random_model(support::llama_spec(64, 128, 4, 2, 16, 40, 2), false, 4);
  auto& norm = base.tensors.at("model.layers.0.input_layernorm.weight");
  norm[5] = 60.0f;
  const auto peak = [](const model::weight_source& source) {
    model::block_runner runner(source.spec(), linalg::precision::f32);
    const auto w = model::read_block(source, 0);
    const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 8};
    auto x = model::embed(source, ids);
    double largest = 0, squares = 0;
    size_t n = 0;
    runner.forward(*w, x->data(), 1, ids.size(), x->data(), [&](int i, const float* in, size_t tokens) {
      if (i != 0) return;
      n = tokens * 64;
      for (size_t j = 0; j < n; ++j) {
        largest = std::max(largest, std::abs(static_cast<double>(in[j])));
        squares += std::pow(static_cast<double>(in[j]), 2);
      }
    });
    return largest / std::sqrt(squares / static_cast<double>(n));
  };
  auto places = transform::place_rotations(base.spec(), {}, transform::drawn_signs(1));
  ASSERT_TRUE(places.has_value());
  const transform::rotated_source rotated(base, std::move(*places), {});
  EXPECT_GT(peak(base), 7.0) << "one channel dominates: at most sqrt(64) = 8";
  EXPECT_LT(peak(rotated), 4.0);
}

TEST(Rotation, KeptTensorsHaveTheTypeTheyAreStoredIn) {
  const auto base = random_model(support::llama_spec(64, 96, 4, 2, 16, 40, 1, true, true), true, 3);
  rotation_options o;
  o.online_r1 = false, o.random_r1 = true;
  auto places = transform::place_rotations(base.spec(), o, transform::drawn_signs(2));
  ASSERT_TRUE(places.has_value());
  const transform::rotated_source rotated(base, std::move(*places), {[](const std::string&) { return ar::real::bf16; }, false});
  const auto is_bf16 = [&](const std::string& name, size_t n) {
    std::vector<float> v(n);
    EXPECT_TRUE(rotated.read(name, v).has_value()) << name;
    return std::all_of(v.begin(), v.end(), [](float x) { return ar::round_to_bf16(x) == x; });
  };
  EXPECT_TRUE(is_bf16("model.embed_tokens.weight", 40 * 64));
  EXPECT_TRUE(rotated.has("lm_head.weight")) << "a tied head becomes one of its own";
  EXPECT_TRUE(is_bf16("lm_head.weight", 40 * 64));
  EXPECT_TRUE(is_bf16("model.layers.0.self_attn.v_proj.bias", 32));
  EXPECT_FALSE(is_bf16("model.layers.0.mlp.down_proj.weight", 64 * 96)) << "what is quantized need not be rounded before";
}

TEST(Rotation, RefusalsSayWhy) {
  const auto message = [](const model::model_spec& spec, const rotation_options& o, error_kind kind) {
    const auto r = transform::place_rotations(spec, o, transform::drawn_signs(1));
    EXPECT_FALSE(r.has_value());
    if (r) return std::string();
    EXPECT_EQ(r.error().kind, kind);
    return r.error().message;
  };
  rotation_options o;
  auto spec = support::llama_spec(64, 96, 4, 2, 16, 40, 1);
  spec.architecture = "gemma2";
  spec.unit_offset = true;
  EXPECT_NE(message(spec, o, error_kind::unsupported).find("gemma2"), std::string::npos);
  o.family = rotation_family::inplace;
  EXPECT_NE(message(support::llama_spec(576, 1536, 9, 3, 64, 40, 1), o, error_kind::unsupported).find("9 of them"), std::string::npos);
  o.block_size = 7;
  EXPECT_NE(message(support::llama_spec(64, 96, 4, 2, 16, 40, 1), o, error_kind::usage).find("blocks of 7"), std::string::npos);
  o = {};
  o.r4 = true;
  EXPECT_NE(message(support::llama_spec(64, 97, 4, 2, 16, 40, 1), o, error_kind::unsupported).find("97"), std::string::npos);
  // Rows without a matrix of their own are rotated in the largest blocks that have one.
  const auto r = transform::place_rotations(support::llama_spec(64, 29568, 4, 2, 16, 40, 1), o, transform::drawn_signs(1));
  ASSERT_TRUE(r.has_value());
  ASSERT_EQ(r->notes.size(), 1u);
  EXPECT_EQ(r->online.down_input->order(), 4224u);
}

}  // namespace
