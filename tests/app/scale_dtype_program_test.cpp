// links: ar_report
// What --scale_dtype and the key scale_dtype of --layer_config mean: scales of integers are rounded to that type before codes are found, in every way of
// quantizing; where a format stores scales in the type that they have (compressed-tensors) the file has it, where it has float16 only the user is told.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "ar/quantize.hpp"
#include "support/golden.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using support::outcome;
using support::run;
using support::tiny_model;

constexpr int usage = 2, bad_input = 3, unsupported = 5;
constexpr std::size_t rows = 64, cols = 64, group = 32, groups = cols / group;
const std::string layer = "model.layers.0.self_attn.q_proj";

/// A tensor's type and its numbers.
struct numbers {
  std::string type;
  std::vector<float> values;
};
numbers read(const std::string& folder, const std::string& tensor) {
  const golden::file file(fs::path(folder) / "model.safetensors");
  return {file[tensor].dtype, file[tensor].f32()};
}

/// The scales that the library finds for a float matrix. Asymmetric, and not in the arithmetic of bfloat16: there all types hold what comes out.
template <ar::real Scale>
std::vector<float> scales_of(const std::vector<float>& weight) {
  std::vector<float> scale(rows * groups), zero(rows * groups);
  const ar::scheme<ar::int_asym<4, ar::real::f32, Scale>, ar::group<group>> s;
  EXPECT_EQ(ar::fit(s, {weight.data(), rows, cols}, {scale.data(), rows, groups}, {zero.data(), rows, groups}), ar::errc::ok);
  return scale;
}

bool all_bf16(const std::vector<float>& x) {
  return std::ranges::all_of(x, [](float v) { return ar::round_to_bf16(v) == v; });
}

class ScaleType : public testing::Test {
 protected:
  ScaleType() : model_(dir_ / "model"), out_(dir_ / "out") {
    tiny_model().write(model_);
    tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(64));
  }
  std::vector<std::string> line(const std::vector<std::string>& more) const {
    std::vector<std::string> a = {"quantize", "--model", model_, "--output_dir", out_, "--scheme", "W4A16G32", "--overwrite"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }
  outcome quantize(std::vector<std::string> more) const {
    more.insert(more.end(), {"--iters", "0", "--disable_opt_rtn"});
    return run(line(more));
  }
  support::temp_dir dir_;
  std::string model_, out_;
};

TEST_F(ScaleType, RoundedScalesAreTheLibrarysAndCompressedTensorsKeepsTheirType) {
  const std::vector<float> weight = read(model_, layer + ".weight").values;
  ASSERT_EQ(weight.size(), rows * cols);
  const auto scales = [&](const std::string& type) {
    const outcome o = quantize({"--format", "llm_compressor", "--asym", "--model_dtype", "fp32", "--scale_dtype", type});
    EXPECT_EQ(o.status, 0) << o.err;
    EXPECT_EQ(o.err.find("warning"), std::string::npos) << o.err;
    EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0) << type;
    return read(out_, layer + ".weight_scale");
  };
  const numbers half = scales("fp16"), brain = scales("bf16"), full = scales("float32");
  EXPECT_EQ(half.type, "F16");
  EXPECT_EQ(brain.type, "BF16");
  EXPECT_EQ(full.type, "F32");
  EXPECT_EQ(half.values, scales_of<ar::real::f16>(weight));
  EXPECT_EQ(brain.values, scales_of<ar::real::bf16>(weight));
  EXPECT_EQ(full.values, scales_of<ar::real::f32>(weight));
  EXPECT_NE(half.values, brain.values);
  EXPECT_NE(half.values, full.values);
}

TEST_F(ScaleType, FormatsOfFloat16HoldRoundedScalesAndSayWhatIsLost) {
  const std::vector<float> weight = read(model_, layer + ".weight").values;
  const auto transposed = [](const std::vector<float>& x) {
    std::vector<float> out(x.size());
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t g = 0; g < groups; ++g) out[g * rows + r] = x[r * groups + g];
    return out;
  };
  outcome o = quantize({"--scale_dtype", "bfloat16", "--asym", "--model_dtype", "fp32", "--format", "auto_round:gptqmodel"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(golden::read_json(out_ + "/quantization_config.json")["scale_dtype"], "torch.bfloat16");
  numbers stored = read(out_, layer + ".scales");
  EXPECT_EQ(stored.type, "F16");
  EXPECT_EQ(stored.values, transposed(scales_of<ar::real::bf16>(weight)));

  o = quantize({"--scale_dtype", "fp32", "--asym", "--model_dtype", "fp32", "--format", "auto_gptq"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("float16"), std::string::npos) << "rounding behind the codes is said: " << o.err;
  std::vector<float> expected = scales_of<ar::real::f32>(weight);
  for (float& x : expected) x = ar::round_to_f16(x);
  EXPECT_EQ(read(out_, layer + ".scales").values, transposed(expected));
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
}

// The grid of tuning, the searches and the activations have the same scales as the file.
TEST_F(ScaleType, HoldsForSearchesAndTuning) {
  const std::vector<std::string> text = {"--format", "llm_compressor", "--asym", "--scale_dtype", "bf16", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"};
  const std::vector<std::vector<std::string>> ways = {{"--iters", "0", "--enable_opt_rtn"},
                                                      {"--iters", "3", "--tuning", "block"},
                                                      {"--iters", "3", "--tuning", "gram"},
                                                      {"--iters", "3", "--tuning", "hybrid"}};
  for (const auto& way : ways) {
    std::vector<std::string> a = text;
    a.insert(a.end(), way.begin(), way.end());
    const outcome o = run(line(a));
    ASSERT_EQ(o.status, 0) << way.back() << ": " << o.err;
    const numbers stored = read(out_, layer + ".weight_scale");
    EXPECT_EQ(stored.type, "BF16") << way.back();
    EXPECT_EQ(run({"verify", "--model", out_}).status, 0) << way.back();
    // The same run with float16 scales in a file of float16 has others: those of bfloat16 were not rounded on the way into the file.
    std::vector<std::string> half = a;
    half.insert(half.end(), {"--scale_dtype", "fp16"});
    ASSERT_EQ(run(line(half)).status, 0);
    EXPECT_FALSE(all_bf16(read(out_, layer + ".weight_scale").values)) << way.back();
    // In a file of float16 they are numbers of bfloat16.
    std::vector<std::string> packed = a;
    packed.insert(packed.end(), {"--format", "auto_round"});
    ASSERT_EQ(run(line(packed)).status, 0);
    EXPECT_TRUE(all_bf16(read(out_, layer + ".scales").values)) << way.back();
  }
}

TEST_F(ScaleType, ActivationsHaveItToo) {
  const outcome half = quantize({"--scheme", "INT8", "--format", "llm_compressor"});
  ASSERT_EQ(half.status, 0) << half.err;
  const outcome o = quantize({"--scheme", "INT8", "--format", "llm_compressor", "--scale_dtype", "bf16"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(read(out_, layer + ".weight_scale").type, "BF16");
}

TEST_F(ScaleType, RulesOfSingleLayersMaySayIt) {
  const outcome o = quantize({"--format", "llm_compressor", "--layer_config", "{q_proj: {scale_dtype: bf16}, k_proj: {scale_dtype: torch.float32, bits: 8}}"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(read(out_, layer + ".weight_scale").type, "BF16");
  EXPECT_EQ(read(out_, "model.layers.0.self_attn.k_proj.weight_scale").type, "F32");
  EXPECT_EQ(read(out_, "model.layers.0.self_attn.v_proj.weight_scale").type, "F16");
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
  EXPECT_EQ(run({"eval", out_, "--ppl", dir_ / "calib.jsonl", "--seqlen", "32"}).status, 0);
  support::expect_error_line(quantize({"--layer_config", "{q_proj: {scale_dtype: fp8}}"}), usage, {"q_proj", "scale_dtype", "bf16"});
}

TEST_F(ScaleType, WhereItMeansNothingItIsNamedOrRefused) {
  EXPECT_NE(quantize({"--scheme", "MXFP4", "--format", "llm_compressor", "--scale_dtype", "bf16"}).err.find("note: --scale_dtype: without effect"), std::string::npos);
  EXPECT_NE(run(line({"--format", "gguf:q4_0", "--iters", "0", "--scale_dtype", "fp16"})).err.find("note: --scale_dtype: without effect"), std::string::npos);
  support::expect_error_line(quantize({"--model_free", "--scale_dtype", "bf16"}), unsupported, {"--scale_dtype", "float16"});
  support::expect_error_line(quantize({"--scale_dtype", "fp8"}), usage, {"scale_dtype", "bf16"});
}

// A scale of bfloat16 may be larger than any number of float16.
TEST_F(ScaleType, ScalesThatAFileCannotHoldAreRefused) {
  tiny_model m;
  m.set(layer + ".weight", 5, 1e6f);
  m.write(model_);
  for (const char* format : {"auto_gptq", "auto_awq", "mlx"})
    support::expect_error_line(quantize({"--overwrite", "--format", format, "--scale_dtype", "bf16"}), bad_input, {layer + ".weight", "half precision"});
  EXPECT_EQ(quantize({"--format", "llm_compressor", "--scale_dtype", "bf16"}).status, 0);
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
}

}  // namespace
