// links: ar_export
// Packed checkpoints as sources of the shard-wise route, whose layers are told by names, types and shapes of tensors alone: the output is that of the same
// checkpoint with its weights written in bfloat16. Folders of our own exporters, and the forms of ModelOpt, Kimi K2.5 and DeepSeek V4, made here.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
#include "support/checkpoint_files.hpp"
#include "support/golden.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using support::outcome;
using support::run;
using support::tiny_model;
using support::tiny_tensor;
using tensors = std::map<std::string, tiny_tensor>;

constexpr int bad_input = 3, unsupported = 5;

/// Writes the tensors of a layer [rows x cols] and says what they stand for, in float.
using maker = std::function<std::vector<float>(const std::string& layer, std::size_t rows, std::size_t cols, tensors& out)>;

/// Numbers that look like chance.
std::vector<std::uint8_t> bytes_of_chance(std::size_t n, std::uint32_t seed) {
  std::vector<std::uint8_t> all(n);
  for (std::uint8_t& b : all) b = static_cast<std::uint8_t>((seed = seed * 1664525u + 1013904223u) >> 24);
  return all;
}
std::vector<std::uint8_t> fp8_codes(std::size_t n, std::uint32_t seed) {
  std::vector<std::uint8_t> all = bytes_of_chance(n, seed);
  for (std::uint8_t& b : all) b = (b & 0x7f) == 0x7f ? 0 : b;  // no NaN
  return all;
}
float fp4_at(const std::vector<std::uint8_t>& packed, std::size_t i) {
  return ar::f32_from_small<ar::e2m1>(static_cast<std::uint8_t>(packed[i / 2] >> (i % 2 * 4) & 15));
}

class PackedSource : public testing::Test {
 protected:
  PackedSource() { model_ = tiny_model(5, false, false, 128, 256); }

  outcome shard_wise(const std::string& model, const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> a = {"--model", dir_ / model, "--output_dir", dir_ / out, "--model_free", "--scheme", "W4A16G32", "--overwrite"};
    a.insert(a.end(), more.begin(), more.end());
    return run(a);
  }

  void expect_same_tensors(const std::string& a, const std::string& b, const std::string& about) const {
    support::expect_same_tensors(fs::path(dir_ / a) / "model.safetensors", fs::path(dir_ / b) / "model.safetensors", about);
  }

  /// The model with its linear layers as `make` stores them, and with what they stand for in bfloat16.
  void write_both(const maker& make, const ordered_json& config) const {
    tiny_model packed = model_, plain = model_;
    packed.config["quantization_config"] = config;
    for (const auto& [name, t] : model_.tensors) {
      if (name.find("_proj.weight") == std::string::npos) continue;
      const std::vector<float> w = make(name.substr(0, name.size() - 7), t.shape[0], t.shape[1], packed.tensors);
      if (packed.tensors[name].dtype == "BF16") packed.tensors.erase(name);  // its codes have another name
      for (std::size_t i = 0; i < w.size(); ++i) plain.set(name, i, w[i]);
    }
    packed.write(dir_ / "packed");
    plain.write(dir_ / "plain");
  }

  void expect_equal_output(const std::vector<std::string>& options, const std::string& about) const {
    const outcome a = shard_wise("packed", "a", options), b = shard_wise("plain", "b", options);
    ASSERT_EQ(a.status, 0) << about << ": " << a.err;
    ASSERT_EQ(b.status, 0) << about << ": " << b.err;
    expect_same_tensors("a", "b", about);
    // Kept layers are listed in the order of the file.
    const auto config = [&](const char* folder) { return nlohmann::json::parse(golden::read_bytes(fs::path(dir_ / folder) / "config.json")); };
    EXPECT_EQ(config("a"), config("b")) << about;
  }

  tiny_model model_;
  support::temp_dir dir_;
};

TEST_F(PackedSource, FoldersOfCompressedTensorsGiveWhatTheirFloatsGive) {
  model_.write(dir_ / "model");
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(64));
  const std::vector<std::vector<std::string>> sources = {
      {"--scheme", "W4A16G32", "--format", "llm_compressor"},           {"--scheme", "W3A16G32", "--asym", "--format", "llm_compressor"},
      {"--scheme", "W8A16", "--group_size", "-1", "--format", "llm_compressor"}, {"--scheme", "INT8", "--format", "llm_compressor"},
      {"--scheme", "MXFP4", "--format", "llm_compressor"},              {"--scheme", "MXFP8", "--format", "auto_round"},
      {"--scheme", "NVFP4", "--format", "llm_compressor", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"},
      {"--scheme", "NVFP4_E5M3", "--format", "auto_round"},             {"--scheme", "MXINT4", "--format", "auto_round"},
      {"--scheme", "FP8_BLOCK", "--format", "llm_compressor"},          {"--scheme", "FPW8A16", "--format", "llm_compressor"},
      {"--scheme", "MXFP4", "--format", "llm_compressor", "--layer_config", "{down_proj: MXFP8, q_proj: {bits: 16}}"}};
  for (const auto& source : sources) {
    const std::string about = source[1] + " " + source.back();
    std::vector<std::string> a = {"quantize", "--model", dir_ / "model", "--output_dir", dir_ / "packed", "--iters", "0", "--disable_opt_rtn", "--overwrite"};
    a.insert(a.end(), source.begin(), source.end());
    const outcome made = run(a);
    ASSERT_EQ(made.status, 0) << about << ": " << made.err;
    const outcome plain = run({"convert", "--model", dir_ / "packed", "--output_dir", dir_ / "plain", "--format", "fake", "--allow_loss", "--overwrite"});
    ASSERT_EQ(plain.status, 0) << about << ": " << plain.err;
    expect_equal_output({"--scheme", "W4A16G32"}, about);
    expect_equal_output({"--scheme", "W2A16G32", "--asym", "--ignore_layers", "self_attn"}, about + ", some layers kept");
    expect_equal_output({"--format", "fake"}, about + ", fake");
  }
}

/// Codes of the target's own type are not rounded again, whatever their scales are.
TEST_F(PackedSource, CodesOfTheSameTypeAreCarriedOver) {
  model_.write(dir_ / "model");
  for (const std::string scheme : {"MXFP4", "MXFP8", "NVFP4_E5M3"}) {
    ASSERT_EQ(run({"quantize", "--model", dir_ / "model", "--output_dir", dir_ / "packed", "--iters", "0", "--scheme", scheme, "--format", "auto_round", "--overwrite"}).status, 0);
    // Scales that rounding would not choose: one more, and codes of half the size.
    for (const char* format : {"auto_round", "llm_compressor"}) {
      const outcome o = shard_wise("packed", "out", {"--scheme", scheme, "--format", format, "--disable_opt_rtn"});
      ASSERT_EQ(o.status, 0) << o.err;
      expect_same_tensors("packed", "out", scheme);
      EXPECT_EQ(run({"verify", "--model", dir_ / "out"}).status, 0);
    }
  }
}

TEST_F(PackedSource, ModelOptNvfp4UnderBothOfItsNames) {
  for (const bool compressed : {false, true}) {
    const maker make = [compressed](const std::string& layer, std::size_t rows, std::size_t cols, tensors& out) {
      const std::vector<std::uint8_t> codes = bytes_of_chance(rows * cols / 2, 7);
      std::vector<std::uint8_t> scales = bytes_of_chance(rows * cols / 16, 9);
      for (std::uint8_t& s : scales) s = static_cast<std::uint8_t>(s & 0x7f) == 0x7f ? 0x30 : s & 0x7f;
      const float whole = 0.000123f;
      const std::string weight = layer + ".weight";
      out[weight] = support::tensor_of("U8", {rows, cols / 2}, codes);
      out[weight + (compressed ? ".scale" : "_scale")] = support::tensor_of("F8_E4M3", {rows, cols / 16}, scales);
      out[weight + (compressed ? ".scale2" : "_scale_2")] = support::tensor_of<float>("F32", {}, {whole});
      out[compressed ? weight + ".input_amax" : layer + ".input_scale"] = support::tensor_of<float>("F32", {}, {0.5f});
      if (compressed) out[weight + ".original_shape"] = support::tensor_of<std::int64_t>("I64", {2}, {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols)});
      std::vector<float> w(rows * cols);
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = fp4_at(codes, i) * ar::f32_from_small<ar::e4m3fn>(scales[i / 16]) * whole;
      return w;
    };
    write_both(make, {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}});
    tiny_model::put(fs::path(dir_ / "packed") / "hf_quant_config.json", "{\"quantization\": {\"quant_algo\": \"NVFP4\"}}");
    expect_equal_output({}, compressed ? "compressed" : "exported");
    EXPECT_FALSE(fs::exists(fs::path(dir_ / "a") / "hf_quant_config.json")) << "it says what no longer holds";
    expect_equal_output({"--scheme", "MXFP8", "--format", "llm_compressor"}, "to MXFP8");
  }
}

/// Kimi K2.5: words without a shape, which therefore have eight codes each; older ones two codes in a byte.
TEST_F(PackedSource, IntegersOfFourBitsWithoutAShape) {
  for (const bool words : {true, false}) {
    const maker make = [words](const std::string& layer, std::size_t rows, std::size_t cols, tensors& out) {
      const std::vector<std::uint8_t> codes = bytes_of_chance(rows * cols / 2, 11);
      std::vector<std::uint16_t> scales;
      for (std::size_t i = 0; i < rows * cols / 32; ++i) scales.push_back(ar::bf16_from_f32(0.01f + 0.001f * static_cast<float>(i % 37)));
      if (words) {
        out[layer + ".weight_packed"] = support::tensor_of("I32", {rows, cols / 8}, codes);
      } else {
        out[layer + ".weight_packed"] = support::tensor_of("U8", {rows, cols / 2}, codes);
      }
      out[layer + ".weight_scale"] = support::tensor_of("BF16", {rows, cols / 32}, scales);
      std::vector<float> w(rows * cols);
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>((codes[i / 2] >> (i % 2 * 4) & 15) - 8) * ar::f32_from_bf16(scales[i / 32]);
      return w;
    };
    write_both(make, {{"quant_method", "compressed-tensors"}});
    expect_equal_output({"--scheme", "W8A16G32"}, words ? "words" : "bytes");
  }
}

/// DeepSeek V3.2 and V4: FP8 under powers of two for tiles, as numbers or as exponents; FP4 in signed bytes under powers of two for groups of 32.
TEST_F(PackedSource, DeepSeekTilesAreRewrittenAsMxfp8AndBytesAsMxfp4) {
  const std::string layer = "model.layers.0.mlp.gate_proj";
  enum class scales_of { v32_numbers, v32_exponents, v4 };
  scales_of version = scales_of::v4;
  const maker fp8 = [&version](const std::string& name, std::size_t rows, std::size_t cols, tensors& out) {
    const std::size_t high = (rows + 127) / 128, wide = (cols + 127) / 128;
    const std::vector<std::uint8_t> codes = fp8_codes(rows * cols, 13);
    std::vector<std::uint8_t> scales;
    for (std::size_t i = 0; i < high * wide; ++i) scales.push_back(static_cast<std::uint8_t>(115 + i));
    std::vector<float> numbers;
    for (const std::uint8_t s : scales) numbers.push_back(std::ldexp(1.0f, s - 127));
    out[name + ".weight"] = support::tensor_of("F8_E4M3", {rows, cols}, codes);
    if (version == scales_of::v32_numbers) out[name + ".weight_scale_inv"] = support::tensor_of("F32", {high, wide}, numbers);
    else out[name + (version == scales_of::v4 ? ".scale" : ".weight_scale_inv")] = support::tensor_of("F8_E8M0", {high, wide}, scales);
    std::vector<float> w(rows * cols);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = ar::f32_from_small<ar::e4m3fn>(codes[i]) * std::ldexp(1.0f, scales[i / cols / 128 * wide + i % cols / 128] - 127);
    return w;
  };
  for (const scales_of v : {scales_of::v32_numbers, scales_of::v32_exponents, scales_of::v4}) {
    version = v;
    write_both(fp8, {{"quant_method", "fp8"}, {"scale_fmt", "ue8m0"}, {"weight_block_size", {128, 128}}});
    expect_equal_output({}, "FP8");
    ASSERT_EQ(shard_wise("packed", "out", {"--scheme", "MXFP8", "--format", "llm_compressor"}).status, 0);
    const golden::file source(fs::path(dir_ / "packed") / "model.safetensors"), out(fs::path(dir_ / "out") / "model.safetensors");
    for (const std::string& name : {layer, std::string("model.layers.0.mlp.down_proj")}) {  // tiles below and beside each other
      EXPECT_EQ(source[name + ".weight"].as<unsigned char>(), out[name + ".weight"].as<unsigned char>()) << "codes stay";
      const auto groups = out[name + ".weight_scale"].as<unsigned char>();
      const std::size_t in_row = name == layer ? 4 : 8;
      ASSERT_EQ(groups.size(), 256u * 4);
      for (std::size_t i = 0; i < groups.size(); ++i) ASSERT_EQ(groups[i], 115 + (name == layer ? i / in_row / 128 : i % in_row / 4)) << name << " " << i;
    }
  }
  const maker fp4 = [](const std::string& name, std::size_t rows, std::size_t cols, tensors& out) {
    const std::vector<std::uint8_t> codes = bytes_of_chance(rows * cols / 2, 17);
    std::vector<std::uint8_t> scales;
    for (std::size_t i = 0; i < rows * cols / 32; ++i) scales.push_back(static_cast<std::uint8_t>(118 + i % 5));
    out[name + ".weight"] = support::tensor_of("I8", {rows, cols / 2}, codes);
    out[name + ".scale"] = support::tensor_of("F8_E8M0", {rows, cols / 32}, scales);
    std::vector<float> w(rows * cols);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = fp4_at(codes, i) * std::ldexp(1.0f, scales[i / 32] - 127);
    return w;
  };
  write_both(fp4, {{"quant_method", "fp8"}});
  expect_equal_output({}, "FP4");
  ASSERT_EQ(shard_wise("packed", "out", {"--scheme", "MXFP4", "--format", "llm_compressor"}).status, 0);
  const golden::file source(fs::path(dir_ / "packed") / "model.safetensors"), out(fs::path(dir_ / "out") / "model.safetensors");
  EXPECT_EQ(source[layer + ".weight"].as<unsigned char>(), out[layer + ".weight_packed"].as<unsigned char>());
  EXPECT_EQ(source[layer + ".scale"].as<unsigned char>(), out[layer + ".weight_scale"].as<unsigned char>());
}

/// Parts of a layer may lie in several files: it is written where its codes are.
TEST_F(PackedSource, ScalesMayLieInAnotherFileThanTheirCodes) {
  model_.write(dir_ / "model");
  ASSERT_EQ(run({"quantize", "--model", dir_ / "model", "--output_dir", dir_ / "packed", "--iters", "0", "--scheme", "MXFP4", "--format", "llm_compressor"}).status, 0);
  ASSERT_EQ(shard_wise("packed", "whole").status, 0);
  tensors all;
  {
    const golden::file packed(fs::path(dir_ / "packed") / "model.safetensors");
    for (const auto& [name, t] : packed.tensors()) all[name] = support::tensor_of(t.dtype.c_str(), {t.shape.begin(), t.shape.end()}, t.as<unsigned char>());
  }
  support::write_two_files(dir_ / "packed", all, [](const std::string& name) { return name.ends_with("_scale"); });
  const outcome o = shard_wise("packed", "out");
  ASSERT_EQ(o.status, 0) << o.err;
  // The first file that the index names comes first.
  support::expect_same_tensors(fs::path(dir_ / "whole") / "model.safetensors", fs::path(dir_ / "out") / "model-00001-of-00002.safetensors");
}

TEST_F(PackedSource, DamagedAndUnknownLayersAreRefusedBeforeAnyWork) {
  const std::string layer = "model.layers.1.mlp.up_proj";
  const maker good = [](const std::string& name, std::size_t rows, std::size_t cols, tensors& out) {
    out[name + ".weight_packed"] = support::tensor_of("U8", {rows, cols / 2}, bytes_of_chance(rows * cols / 2, 3));
    out[name + ".weight_scale"] = support::tensor_of("U8", {rows, cols / 32}, std::vector<std::uint8_t>(rows * cols / 32, 120));
    return std::vector<float>();
  };
  const auto refused = [&](const std::string& about, int status, const std::vector<std::string>& words, const std::function<void(tensors&, ordered_json&)>& edit) {
    tiny_model packed = model_;
    ordered_json config = {{"quant_method", "compressed-tensors"}};
    for (const auto& [name, t] : model_.tensors) {
      if (name.find("_proj.weight") == std::string::npos) continue;
      good(name.substr(0, name.size() - 7), t.shape[0], t.shape[1], packed.tensors);
      packed.tensors.erase(name);
    }
    edit(packed.tensors, config);
    packed.config["quantization_config"] = config;
    packed.write(dir_ / "packed");
    SCOPED_TRACE(about);
    support::expect_error_line(shard_wise("packed", "out"), status, words);
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    fs::remove_all(dir_ / "packed");
  };
  refused("no scales", bad_input, {layer, "scale"}, [&](tensors& t, ordered_json&) { t.erase(layer + ".weight_scale"); });
  refused("no codes", bad_input, {layer + ".weight_scale"}, [&](tensors& t, ordered_json&) { t.erase(layer + ".weight_packed"); });
  refused("scales of another shape", bad_input, {layer + ".weight_scale"}, [&](tensors& t, ordered_json&) { t[layer + ".weight_scale"].shape = {128, 8}; });
  refused("scales of another type", bad_input, {layer + ".weight_scale"}, [&](tensors& t, ordered_json&) { t[layer + ".weight_scale"].dtype = "I8"; });
  refused("floats beside the codes", bad_input, {layer + ".weight"}, [&](tensors& t, ordered_json&) { t[layer + ".weight"] = model_.tensors.at(layer + ".weight"); });
  refused("two-level scales without the second", bad_input, {layer + ".weight_global_scale"}, [&](tensors& t, ordered_json&) {
    t[layer + ".weight_scale"] = support::tensor_of("F8_E4M3", {256, 8}, std::vector<std::uint8_t>(256 * 8, 0x30));
  });
  for (const float whole : {0.0f, -1.0f, INFINITY, NAN})
    refused("a second level of " + std::to_string(whole), bad_input, {layer + ".weight_global_scale"}, [&](tensors& t, ordered_json&) {
      t[layer + ".weight_scale"] = support::tensor_of("F8_E4M3", {256, 8}, std::vector<std::uint8_t>(256 * 8, 0x30));
      t[layer + ".weight_global_scale"] = support::tensor_of<float>("F32", {1}, {whole});
    });
  refused("a scale that is no number", bad_input, {layer + ".weight", "NaN"}, [&](tensors& t, ordered_json&) { t[layer + ".weight_scale"].bytes[3] = '\xff'; });
  refused("codes of experts in one", bad_input, {layer + ".weight_packed"}, [&](tensors& t, ordered_json&) { t[layer + ".weight_packed"].shape = {2, 128, 64}; });
  refused("rotated layers", unsupported, {"transform_config"}, [&](tensors&, ordered_json& c) { c["transform_config"] = {{"config_groups", {{"R1", {{"type", "hadamard"}}}}}}; });
  refused("words of GPTQ", unsupported, {"gptq"}, [&](tensors& t, ordered_json& c) {
    c = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}};
    t = model_.tensors;
  });
}

}  // namespace
