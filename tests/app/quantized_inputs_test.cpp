// links: ar_plan
// What layers of a checkpoint read: the configuration says how rows are quantized, a tensor with which static scale, and evaluations compute with just these
// numbers.
#include "export/export_quantized_inputs.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ar/numeric/small_float.hpp"
#include "export/export_format.hpp"
#include "model/head.hpp"
#include "model/likelihood.hpp"
#include "plan_inference_memory.hpp"
#include "support/distance.hpp"
#include "support/golden_json.hpp"
#include "support/likelihood.hpp"
#include "support/program.hpp"
#include "support/textbook_block.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

float to_fp8(float x) { return ar::f32_from_small<ar::e4m3fn>(ar::small_from_f32<ar::e4m3fn>(std::min(std::max(x, -448.0f), 448.0f))); }

/// A folder whose o_proj of block 0 is FP8 and reads FP8 rows of a static scale.
class StaticInputs : public testing::Test {
 protected:
  static constexpr std::size_t width = 64;
  const std::string layer_ = "model.layers.0.self_attn.o_proj";

  result<std::unique_ptr<exporting::stored_model>> open(const std::vector<float>& input_scale, const char* input_type = "float") {
    support::tiny_model m;
    m.tensors[layer_ + ".weight"] = {"F8_E4M3", {width, width}, std::string(width * width, '\x30')};
    m.tensors[layer_ + ".weight_scale"] = floats({1}, {0.5f});
    if (!input_scale.empty()) m.tensors[layer_ + ".input_scale"] = floats({input_scale.size()}, input_scale);
    const ordered_json weights = {{"num_bits", 8}, {"type", "float"}, {"symmetric", true}, {"strategy", "tensor"}, {"dynamic", false}};
    ordered_json inputs = weights;
    inputs["type"] = input_type;
    m.config["quantization_config"] = {{"config_groups", {{"group_0", {{"targets", {layer_}}, {"weights", weights}, {"input_activations", inputs}}}}},
                                       {"quant_method", "compressed-tensors"}, {"format", "float-quantized"}, {"ignore", {"lm_head"}}};
    m.write(dir_.path() / "model");
    return exporting::open_model(dir_ / "model");
  }
  static support::tiny_tensor floats(std::vector<std::uint64_t> shape, const std::vector<float>& values) {
    support::tiny_tensor t{"F32", std::move(shape), std::string(values.size() * sizeof(float), '\0')};
    std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
    return t;
  }
  support::temp_dir dir_;
};

TEST_F(StaticInputs, AreRoundedToTheGridOfTheStoredScale) {
  constexpr float scale = 0.25f;  // a power of two: quotients are exact
  const auto opened = open({scale});
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto filters = (*opened)->input_filters(0);
  ASSERT_TRUE(filters.has_value()) << describe(filters.error());
  ASSERT_TRUE(filters->filter);
  EXPECT_TRUE(filters->readers.empty());
  std::vector<float> x(2 * width);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(std::sin(static_cast<float>(i) + 0.5f), static_cast<int>(i % 9));  // up to 256: beyond 112 they saturate
  std::vector<float> rows = x, other = x;
  const int o = (*opened)->spec().o;
  filters->filter(o, rows.data(), 2);
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(rows[i], to_fp8(x[i] / scale) * scale) << x[i];
  }
  filters->filter((*opened)->spec().q, other.data(), 2);  // reads float rows
  EXPECT_EQ(other, x);
  const auto second = (*opened)->input_filters(1);
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(second->filter);
  (*opened)->read_float_inputs();
  EXPECT_FALSE((*opened)->input_filters(0)->filter);
}

TEST_F(StaticInputs, OfATypeThatIsNotUnderstoodAreRefused) {
  const auto opened = open({0.25f}, "int");
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto filters = (*opened)->input_filters(0);
  ASSERT_FALSE(filters.has_value());
  EXPECT_EQ(filters.error().kind, error_kind::unsupported);
}

TEST_F(StaticInputs, NeedAScaleThatIsAPositiveNumber) {
  for (const std::vector<float>& bad : {std::vector<float>{}, {0.0f}, {-1.0f}, {std::nanf("")}, {INFINITY}, {0.25f, 0.25f}}) {
    const auto opened = open(bad);
    ASSERT_TRUE(opened.has_value()) << describe(opened.error());
    const auto filters = (*opened)->input_filters(0);
    ASSERT_FALSE(filters.has_value());
    EXPECT_EQ(filters.error().kind, error_kind::input);
    EXPECT_NE(describe(filters.error()).find("input_scale"), std::string::npos) << describe(filters.error());
  }
}

/// Checkpoints in which layers that read the same rows quantize them in different ways, or only some of them do.
class MixedInputs : public testing::Test {
 protected:
  using scalar = std::function<void(std::vector<double>& rows, std::size_t width)>;

  static scalar fp8_of(float scale) {
    return [scale](std::vector<double>& rows, std::size_t) {
      for (double& v : rows) v = static_cast<double>(to_fp8(static_cast<float>(v) / scale) * scale);
    };
  }
  /// Groups of 32 with a power of two each, which puts the largest magnitude between 256 and 512.
  static void mxfp8(std::vector<double>& rows, std::size_t) {
    for (std::size_t g = 0; g < rows.size(); g += 32) {
      float largest = 0;
      for (std::size_t i = g; i < g + 32; ++i) largest = std::max(largest, std::fabs(static_cast<float>(rows[i])));
      const float scale = std::ldexp(1.0f, std::ilogb(largest) - 8);
      for (std::size_t i = g; i < g + 32; ++i) rows[i] = static_cast<double>(to_fp8(static_cast<float>(rows[i]) / scale) * scale);
    }
  }

  /// The model with every layer's rows quantized by themselves, in double; `inputs`: by the end of the layer's name.
  static std::vector<double> logits(const model::weight_source& m, std::span<const std::int32_t> ids, const std::map<std::string, scalar>& inputs) {
    const model::model_spec& spec = m.spec();
    const auto embedded = model::embed(m, ids);
    EXPECT_TRUE(embedded);
    std::vector<double> x(embedded->begin(), embedded->end());
    for (std::int64_t b = 0; b < spec.num_layers; ++b) {
      const auto w = model::read_block(m, b);
      EXPECT_TRUE(w);
      x = support::textbook_block(spec, support::doubles(*w), *w, x, 1, ids.size(), [&](int linear, std::vector<double>& rows) {
        for (const auto& [name, quantize] : inputs)
          if (spec.linear_name(b, linear).ends_with(name)) quantize(rows, rows.size() / ids.size());
      });
    }
    const auto head = model::read_head(m);
    EXPECT_TRUE(head);
    std::vector<float> rows(x.begin(), x.end()), scratch, out(ids.size() * static_cast<std::size_t>(spec.vocab_size));
    head->logits(rows.data(), ids.size(), scratch, out.data());
    return {out.begin(), out.end()};
  }

  support::temp_dir dir_;
};

TEST_F(MixedInputs, AreQuantizedForEachLayerInItsOwnWay) {
  support::tiny_model(5).write(dir_ / "model");
  support::tiny_model::put(dir_ / "calib.jsonl", support::tiny_model::calibration(16));
  const std::string out = dir_ / "out";
  // q and up read floats; k, v and gate do not, and k and v differ too.
  const support::outcome made = support::run({"quantize", "--model", dir_ / "model", "--output_dir", out, "--format", "llm_compressor", "--iters", "0", "--scheme", "W4A16G32", "--layer_config",
                                              "{k_proj:FP8_STATIC,v_proj:MXFP8,gate_proj:MXFP8,down_proj:FP8_STATIC}", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"});
  ASSERT_EQ(made.status, 0) << made.err;
  const auto opened = exporting::open_model(out);
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const model::model_spec& spec = (*opened)->spec();
  std::map<std::string, scalar> inputs = {{"v_proj", mxfp8}, {"gate_proj", mxfp8}};
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (const int linear : {spec.k, spec.down}) {
      const std::string layer = spec.linear_name(b, linear);
      const io::tensor_ref* t = (*opened)->directory()->find(layer + ".input_scale");
      ASSERT_NE(t, nullptr) << layer;
      float scale = 0;
      ASSERT_TRUE(io::read_f32(*t, 0, std::span(&scale, 1)));
      inputs[layer] = fp8_of(scale);
    }
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 24; ++i) ids.push_back(i * 37 % 250);
  const auto got = model::logits(**opened, ids);
  ASSERT_TRUE(got) << describe(got.error());
  // Sums in float put a value on the other side of a rounding now and then, which moves it by a sixteenth of itself.
  EXPECT_LT(support::largest_difference(*got, logits(**opened, ids, inputs)), 2e-3);
  for (const auto& [layer, quantize] : inputs) {
    std::map<std::string, scalar> without = inputs;
    without.erase(layer);
    EXPECT_GT(support::largest_difference(*got, logits(**opened, ids, without)), 1e-2) << layer << " matters";
  }

  // The same where texts are scored for tasks,
  const model::likelihood_request request{ids, ids.size() - 1};
  const auto scored = model::log_likelihoods(**opened, std::span(&request, 1));
  ASSERT_TRUE(scored) << describe(scored.error());
  EXPECT_NEAR(scored->front().sum, support::log_likelihood(*got, ids, static_cast<std::size_t>(spec.vocab_size)), 1e-4);
  // token by token,
  const auto floats = model::resident_model::read(**opened, model::weight_form::floats);
  ASSERT_TRUE(floats) << describe(floats.error());
  std::vector<std::int32_t> text(ids.begin(), ids.begin() + 9);
  const auto more = model::generate(*floats, text, {.max_tokens = 6});
  ASSERT_TRUE(more) << describe(more.error());
  EXPECT_EQ(more->size(), 6u);
  for (const std::int32_t token : *more) {
    const std::vector<double> all = logits(**opened, text, inputs);
    EXPECT_EQ(std::max_element(all.end() - spec.vocab_size, all.end()) - (all.end() - spec.vocab_size), token);
    text.push_back(token);
  }
  // and through the program, whose estimate of memory has the copies of what k and v read.
  const auto eval = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"eval", "--model", out, "--ppl", dir_ / "calib.jsonl", "--seqlen", "32", "--max_tokens", "256", "--json"});
    const support::outcome o = support::run(arguments);
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out)["nll"].get<double>() : -1;
  };
  EXPECT_NE(eval({}), eval({"--float_activations"}));
  EXPECT_EQ(support::run({"generate", "--model", out, "--prompt", "one", "--max_tokens", "4"}).status, 0);
  EXPECT_EQ(plan::sizes_of(**opened).quantized_row, static_cast<std::uint64_t>(spec.num_heads * spec.head_dim + 2 * spec.hidden_size) * sizeof(float));
  (*opened)->read_float_inputs();
  EXPECT_EQ(plan::sizes_of(**opened).quantized_row, 0u);
}

/// q and k have static scales of their own, which engines that fuse them would make one.
TEST_F(MixedInputs, HaveTheirOwnStaticScales) {
  support::tiny_model m;
  const std::string block = "model.layers.0.self_attn.";
  const std::map<std::string, float> scales = {{"q_proj", 0.25f}, {"k_proj", 0.5f}, {"v_proj", 0.5f}};
  for (const auto& [name, scale] : scales) {
    const std::uint64_t rows = m.tensors[block + name + ".weight"].shape[0];
    m.tensors[block + name + ".weight"] = {"F8_E4M3", {rows, 64}, std::string(rows * 64, '\x30')};
    for (const auto& [suffix, value] : {std::pair{".weight_scale", 0.5f}, {".input_scale", scale}}) {
      support::tiny_tensor t{"F32", {1}, std::string(sizeof value, '\0')};
      std::memcpy(t.bytes.data(), &value, sizeof value);
      m.tensors[block + name + suffix] = t;
    }
  }
  const ordered_json args = {{"num_bits", 8}, {"type", "float"}, {"symmetric", true}, {"strategy", "tensor"}, {"dynamic", false}};
  m.config["quantization_config"] = {{"config_groups", {{"group_0", {{"targets", {block + "q_proj", block + "k_proj", block + "v_proj"}}, {"weights", args}, {"input_activations", args}}}}},
                                     {"quant_method", "compressed-tensors"}, {"format", "float-quantized"}, {"ignore", {"lm_head"}}};
  m.write(dir_ / "model");
  const auto opened = exporting::open_model(dir_ / "model");
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto filters = (*opened)->input_filters(0);
  ASSERT_TRUE(filters.has_value()) << describe(filters.error());
  EXPECT_EQ(filters->readers, (std::vector<int>{0, 1, 1, 3, 4, 4, 6})) << "k and v share";
  for (const auto& [linear, scale] : {std::pair{0, 0.25f}, {1, 0.5f}}) {
    std::vector<float> rows(64);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = 200 * std::sin(static_cast<float>(i));
    const std::vector<float> x = rows;
    filters->filter(linear, rows.data(), 1);
    for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], to_fp8(x[i] / scale) * scale) << x[i];
  }
}

}  // namespace
