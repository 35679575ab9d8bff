// links: ar_autoscheme
// DeltaLoss scores against auto-round 0.16.1 on a small Llama (golden/autoscheme/score_model): 17 schemes, the losses of the quantized models too.
#include <gtest/gtest.h>

#include <cmath>

#include "autoscheme/delta_loss.hpp"
#include "support/golden_json.hpp"
#include "support/scored_layers.hpp"

namespace {

using namespace auto_round;
using namespace auto_round::autoscheme;
using json = nlohmann::ordered_json;

/// The model as the golden set describes it; `bf16`: its weights rounded to bfloat16.
class score_model final : public model::weight_source {
 public:
  explicit score_model(bool bf16 = false) : file_("autoscheme", "score_model.safetensors"), bf16_(bf16) {
    spec_.hidden_size = 64, spec_.intermediate_size = 128, spec_.num_layers = 2, spec_.num_heads = 4, spec_.num_kv_heads = 2, spec_.head_dim = 16;
    spec_.vocab_size = 64, spec_.max_position_embeddings = 64, spec_.rms_norm_eps = 1e-6;
    spec_.embed_name = "model.embed_tokens.weight", spec_.final_norm_name = "model.norm.weight", spec_.head_name = "lm_head.weight";
    spec_.block_prefix = "model.layers.", spec_.input_norm_name = "input_layernorm.weight", spec_.post_attention_norm_name = "post_attention_layernorm.weight";
    spec_.linears = {{"self_attn.q_proj", 64, 64}, {"self_attn.k_proj", 32, 64}, {"self_attn.v_proj", 32, 64}, {"self_attn.o_proj", 64, 64},
                     {"mlp.gate_proj", 128, 64},   {"mlp.up_proj", 128, 64},     {"mlp.down_proj", 64, 128}};
  }
  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return file_.has(name); }
  result<void> read(const std::string& name, std::span<float> out) const override {
    const std::vector<float> values = file_[name].f32();
    for (std::size_t i = 0; i < values.size(); ++i) out[i] = bf16_ ? ar::round_to_bf16(values[i]) : values[i];
    return {};
  }
  /// Two batches of two rows of 16 tokens.
  text::calibration_set batches() const {
    text::calibration_set set;
    set.seqlen = 16;
    for (const std::string name : {"ids.0", "ids.1"}) {
      for (const std::int64_t id : file_[name].as<std::int64_t>()) set.ids.push_back(static_cast<std::int32_t>(id));
      set.batch_rows.push_back(2);
    }
    return set;
  }
  std::vector<layer> layers() const {
    std::vector<layer> all = support::scored_layers(spec_);
    all.push_back({"lm_head", 64, 64});
    return all;
  }

 private:
  golden::file file_;
  bool bf16_;
  model::model_spec spec_;
};

ar::scheme_fields scheme_of(std::string name) {
  const bool asym = name.ends_with("_asym");
  name = name.substr(0, name.find(asym ? "_asym" : "_bf16model"));
  ar::scheme_fields s = *ar::find_preset(name);
  if (asym) s.sym = false;
  return s;
}

score_table scores_of(const score_model& m, const std::vector<ar::scheme_fields>& schemes, const score_options& options) {
  const std::vector<layer> layers = m.layers();
  std::vector<std::vector<ar::scheme_fields>> table;
  for (const ar::scheme_fields& s : schemes) table.emplace_back(layers.size(), s);
  auto scores = delta_loss(m, m.batches(), layers, table, options);
  if (!scores) throw std::runtime_error(describe(scores.error()));
  return *scores;
}

TEST(DeltaLoss, EqualsAutoRoundAtTheQuantizedPoint) {
  const json data = golden::read_json(golden::root() / "autoscheme" / "scores.json");
  const score_model exact, rounded(true);
  const std::vector<layer> layers = exact.layers();
  int schemes = 0;
  for (const auto& [name, expected] : data["schemes"].items()) {
    SCOPED_TRACE(name);
    // auto-round runs a bfloat16 model in bfloat16 and rounds every sum to it: 8 bits, twice over for its two batches.
    const bool bf16 = name.ends_with("_bf16model");
    const double tolerance = bf16 ? 0.02 : 1e-4;
    const score_table got = scores_of(bf16 ? rounded : exact, {scheme_of(name)}, {.gradient_at_quantized = true, .activations = false});
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const json& want = expected["scores"][layers[l].name];
      EXPECT_NEAR(got.scores[0][l], want[1].get<double>(), tolerance * want[1].get<double>()) << layers[l].name;
      EXPECT_EQ(bits_of(layers[l], scheme_of(name), false, {}), want[0].get<std::uint64_t>()) << layers[l].name;
    }
    if (expected.contains("losses")) {
      ASSERT_EQ(got.losses[0].size(), 2u);
      for (std::size_t b = 0; b < 2; ++b) EXPECT_NEAR(got.losses[0][b], expected["losses"][b].get<double>(), 1e-5) << b;
    }
    ++schemes;
  }
  EXPECT_GE(schemes, 17);
}

}  // namespace
