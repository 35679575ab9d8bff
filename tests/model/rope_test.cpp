// links: ar_arch ar_model OpenMP::OpenMP_CXX
// Rotary embeddings: for every variant that a LLaMA config.json can ask for, in old keys and new, the inverse frequencies and the logits of a
// small model equal what transformers computed (tests/peers/record_rope.py). Configurations that make no sense are refused with the key's name.
#include "model/rope.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "arch/architecture.hpp"
#include "io/checkpoint_dir.hpp"
#include "model/decoder.hpp"
#include "support/float_source.hpp"
#include "support/golden.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fs::path(AR_TEST_DATA) / "rope"))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class Rope : public testing::TestWithParam<std::string> {};

TEST_P(Rope, EqualsTransformers) {
  const fs::path folder = fs::path(AR_TEST_DATA) / "rope" / GetParam();
  const auto dir = io::checkpoint_dir::open(folder.string());
  ASSERT_TRUE(dir) << describe(dir.error());
  const auto spec = arch::read_spec(dir->config(), "config.json");
  ASSERT_TRUE(spec) << describe(spec.error());
  const support::float_source source(*dir, *spec);
  const golden::file expected(folder / "expected.safetensors");
  for (const std::string length : {"short", "long"}) {
    const auto wide = expected["ids." + length].as<std::int64_t>();
    const std::vector<std::int32_t> ids(wide.begin(), wide.end());
    const model::rope_frequencies f = model::compute_rope(*spec, static_cast<std::int64_t>(ids.size()));
    const std::vector<float> inverse = expected["inv_freq." + length].f32();
    ASSERT_EQ(f.inverse.size(), inverse.size());
    for (std::size_t i = 0; i < inverse.size(); ++i) EXPECT_NEAR(f.inverse[i], inverse[i], 5e-7f * inverse[i]) << length << " pair " << i;
    EXPECT_NEAR(f.scaling, expected["attention_scaling." + length].f32()[0], 2e-7f);

    const auto got = model::logits(source, ids);
    ASSERT_TRUE(got) << describe(got.error());
    const std::vector<float> want = expected["logits." + length].f32();
    ASSERT_EQ(got->size(), want.size());
    float worst = 0, largest = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::fabs((*got)[i] - want[i]));
      largest = std::max(largest, std::fabs(want[i]));
    }
    EXPECT_LT(worst, 1e-4f * largest) << length << ", relative to the largest logit";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Rope, testing::ValuesIn(cases()), [](const auto& c) { return c.param; });

TEST(RopeCases, AreThere) { EXPECT_GE(cases().size(), 20u); }

std::string config_with(const std::string& extra) {
  return R"({"architectures":["LlamaForCausalLM"],"vocab_size":64,"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,)"
         R"("num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64)" +
         (extra.empty() ? "" : "," + extra) + "}";
}

result<model::model_spec> read(const std::string& text) {
  const auto config = io::parse_json(text, "config.json");
  EXPECT_TRUE(config);
  return arch::read_spec(*config, "config.json");
}

TEST(LlamaConfig, FillsInTheDefaultsOfTransformers) {
  const auto s = read(config_with(""));
  ASSERT_TRUE(s) << describe(s.error());
  EXPECT_EQ(s->head_dim, 8);
  EXPECT_EQ(s->rope.theta, 10000.0);
  EXPECT_EQ(s->rms_norm_eps, 1e-6);
  EXPECT_FALSE(s->tie_word_embeddings);
  ASSERT_EQ(s->linears.size(), 7u);
  EXPECT_EQ(s->linear_name(1, s->down), "model.layers.1.mlp.down_proj");
  EXPECT_EQ(s->linears[1].out_features, 16);
}

TEST(LlamaConfig, RefusesWhatItCannotRunAndNamesTheKey) {
  const struct {
    const char* extra;
    const char* key;
    error_kind kind;
  } bad[] = {
      {R"("hidden_act":"gelu")", "hidden_act", error_kind::unsupported},
      {R"("head_dim":7)", "head_dim", error_kind::input},
      {R"("head_dim":0)", "head_dim", error_kind::input},
      {R"("head_dim":16777216)", "num_attention_heads", error_kind::input},
      {R"("rms_norm_eps":-1)", "rms_norm_eps", error_kind::input},
      {R"("rms_norm_eps":"NaN")", "rms_norm_eps", error_kind::input},
      {R"("attention_bias":"yes")", "attention_bias", error_kind::input},
      {R"("rope_theta":0)", "rope_theta", error_kind::input},
      {R"("rope_theta":"big")", "rope_theta", error_kind::input},
      {R"("rope_scaling":[1])", "rope_scaling", error_kind::input},
      {R"("rope_scaling":{"type":"linear"})", "rope_scaling.factor", error_kind::input},
      {R"("rope_scaling":{"type":"linear","factor":-2})", "rope_scaling.factor", error_kind::input},
      {R"("rope_scaling":{"type":"new_kind","factor":2})", "rope_scaling.rope_type", error_kind::unsupported},
      {R"("rope_parameters":{"rope_type":3})", "rope_parameters.rope_type", error_kind::input},
      {R"("rope_parameters":{"rope_type":"llama3","factor":8})", "rope_parameters.low_freq_factor", error_kind::input},
      {R"("rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4})", "rope_parameters.high_freq_factor",
       error_kind::input},
      {R"("rope_parameters":{"rope_type":"longrope","short_factor":[1,1],"long_factor":[1,1,1,1]})", "rope_parameters.short_factor", error_kind::input},
      {R"("rope_parameters":{"rope_type":"longrope","short_factor":[1,1,1,1],"long_factor":[1,1,1,0]})", "rope_parameters.long_factor", error_kind::input},
      {R"("rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5})", "partial_rotary_factor", error_kind::unsupported},
  };
  for (const auto& b : bad) {
    const auto s = read(config_with(b.extra));
    ASSERT_FALSE(s) << b.extra;
    EXPECT_EQ(s.error().kind, b.kind) << b.extra;
    EXPECT_THAT(s.error().message, testing::HasSubstr(b.key)) << b.extra;
    EXPECT_EQ(s.error().file, "config.json");
  }
}

TEST(LlamaConfig, RefusesSizesOutsideTheirRange) {
  for (const std::string key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                                "max_position_embeddings"})
    for (const std::string value : {"0", "-1", "1.5", "9223372036854775807", "1e300", "\"4\"", "[4]"}) {
      std::string text = config_with("");
      const std::size_t at = text.find("\"" + key + "\":") + key.size() + 3;
      text.replace(at, text.find_first_of(",}", at) - at, value);
      const auto s = read(text);
      ASSERT_FALSE(s) << text;
      EXPECT_THAT(s.error().message, testing::HasSubstr(key)) << text;
    }
}

TEST(LlamaConfig, RefusesHeadsThatDoNotDivide) {
  std::string text = config_with("");
  text.replace(text.find("\"num_key_value_heads\":2"), 23, "\"num_key_value_heads\":3");
  EXPECT_FALSE(read(text));
  text = config_with("");
  text.replace(text.find("\"hidden_size\":32"), 16, "\"hidden_size\":30");
  EXPECT_FALSE(read(text));
}

TEST(Architecture, ListsWhatIsSupportedWhenAskedForAnother) {
  const auto s = read(R"({"architectures":["FalconForCausalLM"]})");
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().kind, error_kind::unsupported);
  EXPECT_THAT(s.error().message, testing::AllOf(testing::HasSubstr("FalconForCausalLM"), testing::HasSubstr("LlamaForCausalLM")));
  EXPECT_FALSE(read("{}"));
  EXPECT_FALSE(read(R"({"architectures":"LlamaForCausalLM"})"));
  EXPECT_FALSE(read(R"({"architectures":[7]})"));
  EXPECT_NE(arch::find("llama"), nullptr);
  EXPECT_EQ(arch::find("no such"), nullptr);
}

}  // namespace
