// links: ar_report
// Model-free mode from outside: the same tensors as by the route that knows the model, sources that this one cannot read, runs that end early.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
#include "support/checkpoint_files.hpp"
#include "support/faults.hpp"
#include "support/golden_json.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using support::outcome;
using support::run;
using support::tiny_model;

class ModelFree : public testing::Test {
 protected:
  std::vector<std::string> arguments(const std::string& model, const std::string& out, std::vector<std::string> more = {}) const {
    std::vector<std::string> a = {"--model", dir_ / model, "--output_dir", dir_ / out, "--model_free", "--scheme", "W4A16G32"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }

  void expect_same_tensors(const std::string& a, const std::string& b) const {
    support::expect_same_tensors(fs::path(dir_ / a) / "model.safetensors", fs::path(dir_ / b) / "model.safetensors");
  }

  /// Splits the model into two files; the second holds the larger part.
  void write_two_files(const std::string& name) const {
    const tiny_model model;
    model.write(dir_ / name);
    support::write_two_files(dir_ / name, model.tensors, [](const std::string& tensor) { return tensor.starts_with("lm_head"); });
  }

  /// A run of two files, one after the other.
  support::disturbed_run disturbed() const {
    write_two_files("model");
    EXPECT_EQ(run(arguments("model", "whole", {"--threads", "2"})).status, 0);
    return {arguments("model", "out", {"--threads", "2"}), dir_ / "out", support::files_in(dir_ / "whole"), {dir_ / "out.shards", dir_ / "out.partial"}};
  }

  support::temp_dir dir_;
};

TEST_F(ModelFree, GivesTheBitsOfTheOtherRouteForAnyNumberOfThreads) {
  tiny_model(3, false, true).write(dir_ / "model");
  for (const std::string scheme : {"W4A16G32", "W2A16G32", "W8A16G32"}) {
    ASSERT_EQ(run({"--model", dir_ / "model", "--output_dir", dir_ / ("regular" + scheme), "--scheme", scheme, "--iters", "0", "--disable_opt_rtn"}).status, 0);
    for (const char* threads : {"1", "5"}) {
      const std::string out = "free" + scheme + threads;
      const outcome o = run(arguments("model", out, {"--scheme", scheme, "--threads", threads, "--json"}));
      ASSERT_EQ(o.status, 0) << o.err;
      EXPECT_EQ(golden::parse_json(o.out)["quantized_layers"], 14);
      expect_same_tensors("regular" + scheme, out);
    }
  }
  EXPECT_EQ(run({"verify", "--model", dir_ / "freeW4A16G321", "--source", dir_ / "model"}).status, 0) << "it is a checkpoint like any other";
}

/// Tensors and configuration are those of the route that knows the model, where that stands in for the original's shard-wise one. That route alone has a
/// search of scales for this type.
TEST_F(ModelFree, FourBitFloatsWithScalesOfTheirOwn) {
  tiny_model(3).write(dir_ / "model");
  const auto written = [&](const std::string& out, const std::string& format, const std::vector<std::string>& more) {
    std::vector<std::string> a = {"--model", dir_ / "model", "--output_dir", dir_ / out, "--scheme", "NVFP4_E5M3", "--iters", "0", "--format", format};
    a.insert(a.end(), more.begin(), more.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return golden::read_json(fs::path(dir_ / out) / "config.json");
  };
  const auto free = written("free", "auto_round", {"--disable_opt_rtn", "--model_free"});
  const auto by_itself = written("own", "auto_round", {"--disable_opt_rtn"});
  expect_same_tensors("own", "free");
  EXPECT_EQ(free.dump(), by_itself.dump());
  const auto packed = written("packed", "llm_compressor", {"--disable_opt_rtn", "--model_free"}), legacy = written("legacy", "llm_compressor", {"--disable_opt_rtn", "--disable_model_free"});
  expect_same_tensors("free", "packed");
  EXPECT_EQ(packed["quantization_config"]["format"], "nvfp4-e5m3-pack-quantized");
  EXPECT_EQ(packed["quantization_config"]["config_groups"], legacy["quantization_config"]["config_groups"]);
  EXPECT_EQ(run({"verify", "--model", dir_ / "packed", "--source", dir_ / "model"}).status, 0);
  written("fake", "fake", {"--disable_opt_rtn", "--model_free"});
  written("rounded", "fake", {"--disable_opt_rtn", "--disable_model_free", "--compat"});
  expect_same_tensors("fake", "rounded");

  written("searched", "fake", {"--enable_opt_rtn", "--model_free"});
  const golden::file source(fs::path(dir_ / "model") / "model.safetensors");
  const auto error_of = [&](const std::string& folder) {
    const golden::file rounded(fs::path(dir_ / folder) / "model.safetensors");
    double sum = 0;
    for (const auto& [name, t] : rounded.tensors()) {
      const auto x = t.as<std::uint16_t>(), y = source[name].as<std::uint16_t>();
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double d = static_cast<double>(ar::f32_from_bf16(x[i])) - static_cast<double>(ar::f32_from_bf16(y[i]));
        sum += d * d;
      }
    }
    return sum;
  };
  const double plain = error_of("fake"), searched = error_of("searched");
  EXPECT_GT(searched, 0);
  EXPECT_LT(searched, 0.98 * plain);
  // A group is 16 columns wide.
  tiny_model(3, false, false, 64, 88).write(dir_ / "odd");
  const outcome odd = run(arguments("odd", "out", {"--scheme", "NVFP4_E5M3", "--json"}));
  ASSERT_EQ(odd.status, 0) << odd.err;
  EXPECT_EQ(golden::parse_json(odd.out)["quantized_layers"], 12) << odd.err;
  EXPECT_NE(odd.out.find("88 columns are no multiple of 16"), std::string::npos) << odd.out;
  const outcome mixed = run(arguments("model", "mixed", {"--scheme", "NVFP4_E5M3", "--layer_config", "{q_proj:{bits:4,group_size:32,data_type:mx_fp}}"}));
  EXPECT_EQ(mixed.status, 5) << mixed.err;
  EXPECT_FALSE(fs::exists(dir_ / "mixed"));
}

TEST_F(ModelFree, LeavesTheLayersInFloatThatTheTuningFlowLeaves) {
  tiny_model(3, false, false, 64, 88).write(dir_ / "odd");  // up and gate have 88 rows, down 88 columns
  for (const char* format : {"auto_round", "fake"}) {
    const outcome odd = run(arguments("odd", "out", {"--scheme", "W4A16G32", "--format", format, "--json", "--overwrite"}));
    ASSERT_EQ(odd.status, 0) << odd.err;
    EXPECT_EQ(golden::parse_json(odd.out)["quantized_layers"], 8) << odd.err;
    EXPECT_NE(odd.out.find("must be multiples of 32"), std::string::npos) << odd.out;
    EXPECT_EQ(run({"verify", "--model", dir_ / "out", "--source", dir_ / "odd"}).status, 0);
    EXPECT_EQ(run({"generate", "--model", dir_ / "out", "--prompt", "a", "--max_tokens", "2"}).status, 0);
  }
  const outcome named = run(arguments("odd", "named", {"--scheme", "W4A16G32", "--layer_config", R"({"model.layers.0.mlp.up_proj":{"bits":8}})", "--json"}));
  ASSERT_EQ(named.status, 0) << named.err;
  EXPECT_EQ(golden::parse_json(named.out)["quantized_layers"], 8) << "a rule does not change that, as in the tuning flow";
}

/// NVFP4_E5M3 against auto-round 0.16.1's own export, and its formats against each other.
TEST_F(ModelFree, FourBitFloatsUnderUnsignedScales) {
  const fs::path formats = golden::root() / "formats";
  const auto round = [&](const std::string& name, const std::string& format, const std::string& search, const std::string& threads) {
    const outcome o = run({"--model", formats / "models" / "llama64", "--output_dir", dir_ / name, "--model_free", "--scheme", "NVFP4_E5M3", "--format", format, search, "--threads", threads});
    ASSERT_EQ(o.status, 0) << o.err;
  };
  round("plain", "auto_round", "--disable_opt_rtn", "3");
  const golden::file expected(formats / "exports" / "nvfp4e5m3_ar_modelfree" / "model.safetensors"), ours(fs::path(dir_ / "plain") / "model.safetensors");
  std::size_t packed = 0;
  for (const auto& [name, t] : expected.tensors()) {  // plain copies are left out there
    SCOPED_TRACE(name);
    ASSERT_EQ(ours[name].shape, t.shape);
    auto a = t.as<std::uint8_t>(), b = ours[name].as<std::uint8_t>();
    if (name.ends_with(".weight_packed")) {
      ++packed;
      const auto scale = ours[name.substr(0, name.size() - 6) + "scale"].as<std::uint8_t>();
      for (std::size_t i = 0; i < a.size(); ++i)
        if (scale[i / 8] == 0) a[i] = 0;  // under scales of 0 the original has codes of 6; they are 0 here
    }
    EXPECT_TRUE(a == b);
  }
  EXPECT_EQ(packed, 14u);
  for (const char* file : {"config.json", "quantization_config.json"})
    EXPECT_EQ(golden::read_json(fs::path(dir_ / "plain") / file).dump(), golden::read_json(formats / "exports" / "nvfp4e5m3_ar_modelfree" / file).dump()) << file;

  for (const std::string search : {"--disable_opt_rtn", "--enable_opt_rtn"}) {
    SCOPED_TRACE(search);
    for (const std::string format : {"auto_round", "llm_compressor", "fake"}) round(format + search, format, search, "1");
    if (search == "--disable_opt_rtn") expect_same_tensors("plain", "auto_round" + search);
    expect_same_tensors("auto_round" + search, "llm_compressor" + search);
    // Two bits times four are eight: fake holds the weights as they are packed.
    ASSERT_EQ(run({"convert", "--model", dir_ / ("auto_round" + search), "--format", "fake", "--allow_loss", "--output_dir", dir_ / ("unpacked" + search)}).status, 0);
    expect_same_tensors("unpacked" + search, "fake" + search);
    EXPECT_EQ(run({"verify", "--model", dir_ / ("llm_compressor" + search)}).status, 0);
    EXPECT_FALSE(golden::read_json(fs::path(dir_ / ("fake" + search)) / "config.json").contains("quantization_config"));
  }
  EXPECT_NE(golden::read_bytes(fs::path(dir_ / "fake--enable_opt_rtn") / "model.safetensors"), golden::read_bytes(fs::path(dir_ / "fake--disable_opt_rtn") / "model.safetensors"));
  const auto compressed = golden::read_json(fs::path(dir_ / "llm_compressor--enable_opt_rtn") / "quantization_config.json");
  std::vector<std::string> keys;
  for (const auto& [key, value] : compressed.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"config_groups", "format", "global_compression_ratio", "ignore", "kv_cache_scheme", "quant_method", "quantization_status", "provider"}));
  EXPECT_EQ(compressed["format"], "nvfp4-e5m3-pack-quantized");
  EXPECT_EQ(compressed["ignore"].size(), 2u) << "head and embedding: " << compressed["ignore"];
  // Another group is another type, and types are not mixed.
  tiny_model().write(dir_ / "model");
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--group_size", "32"}, {"--format", "auto_round:auto_gptq"}, {"--layer_config", "{down_proj:{bits:4,data_type:mx_fp,group_size:32}}"}}) {
    std::vector<std::string> a = {"--scheme", "NVFP4_E5M3"};
    a.insert(a.end(), more.begin(), more.end());
    EXPECT_EQ(run(arguments("model", "out", a)).status, 5) << more[0];
  }
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

/// What the original's shard-wise route does not know, the other one does: the same tensors.
TEST_F(ModelFree, FloatsWhoseScalesFollowFromAGroup) {
  tiny_model(3).write(dir_ / "model");
  for (const std::vector<std::string>& type : {std::vector<std::string>{"MXFP4_RCEIL", "llm_compressor"}, {"MXFP8_RCEIL", "auto_round"}, {"MXFP4", "fake"}, {"MXFP8", "fake"}}) {
    const std::string free = type[0] + type[1];
    const outcome o = run(arguments("model", free, {"--scheme", type[0], "--format", type[1], "--disable_opt_rtn"}));
    ASSERT_EQ(o.status, 0) << o.err;
    ASSERT_EQ(run({"--model", dir_ / "model", "--output_dir", dir_ / (free + "_known"), "--scheme", type[0], "--format", type[1], "--iters", "0", "--disable_opt_rtn", "--disable_model_free"}).status, 0);
    expect_same_tensors(free, free + "_known");
  }
}

TEST_F(ModelFree, ReadsAnyArchitecture) {
  tiny_model model;
  model.config["architectures"] = {"NobodyKnowsForCausalLM"};
  model.config["model_type"] = "nobody_knows";
  model.write(dir_ / "model");
  const outcome asked = run(arguments("model", "out"));
  EXPECT_EQ(asked.status, 0) << asked.err;
  // Rounding takes this way by itself where it is the only one; tuning cannot.
  const outcome by_itself = run({"--model", dir_ / "model", "--output_dir", dir_ / "own", "--scheme", "W4A16G32", "--iters", "0", "--disable_opt_rtn"});
  EXPECT_EQ(by_itself.status, 0) << by_itself.err;
  EXPECT_NE(by_itself.err.find("--model_free"), std::string::npos) << by_itself.err;
  expect_same_tensors("out", "own");
  EXPECT_EQ(run({"--model", dir_ / "model", "--output_dir", dir_ / "tuned", "--iters", "2"}).status, 5);
}

/// An FP8 weight is its code times the scale of its tile, both in bfloat16: the same checkpoint written that way gives the same output.
TEST_F(ModelFree, Fp8TilesAreDequantizedFirst) {
  tiny_model fp8;
  fp8.config["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {32, 48}}};
  tiny_model plain = fp8;
  plain.config.erase("quantization_config");
  const auto names = [&] {
    std::vector<std::string> all;
    for (const auto& [name, t] : fp8.tensors) {
      if (name.find("_proj.weight") != std::string::npos) all.push_back(name);
    }
    return all;
  }();
  for (const std::string& name : names) {
    support::tiny_tensor& t = fp8.tensors[name];
    const std::size_t rows = t.shape[0], cols = t.shape[1], tile_rows = (rows + 31) / 32, tile_cols = (cols + 47) / 48;
    support::tiny_tensor scale{"F32", {tile_rows, tile_cols}, std::string(tile_rows * tile_cols * 4, '\0')};
    std::vector<float> s(tile_rows * tile_cols);
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = 0.00123f * static_cast<float>(i + 1);  // not representable in bfloat16
    std::memcpy(scale.bytes.data(), s.data(), scale.bytes.size());
    std::string codes(rows * cols, '\0');
    for (std::size_t i = 0; i < codes.size(); ++i) {
      std::uint16_t half = 0;
      std::memcpy(&half, t.bytes.data() + 2 * i, 2);
      const float tile = s[i / cols / 32 * tile_cols + i % cols / 48];
      const std::uint8_t code = ar::small_from_f32<ar::e4m3fn>(ar::f32_from_bf16(half) / tile);
      codes[i] = static_cast<char>(code);
      plain.set(name, i, ar::round_to_bf16(ar::f32_from_small<ar::e4m3fn>(code) * ar::round_to_bf16(tile)));
    }
    t = {"F8_E4M3", {rows, cols}, codes};
    fp8.tensors[name.substr(0, name.size() - 7) + ".weight_scale_inv"] = scale;
  }
  fp8.write(dir_ / "fp8");
  plain.write(dir_ / "plain");
  for (const char* ignored : {"", "self_attn"}) {
    const outcome a = run(arguments("fp8", std::string("a") + ignored, {"--ignore_layers", ignored})), b = run(arguments("plain", std::string("b") + ignored, {"--ignore_layers", ignored}));
    ASSERT_EQ(a.status, 0) << a.err;
    ASSERT_EQ(b.status, 0) << b.err;
    expect_same_tensors(std::string("a") + ignored, std::string("b") + ignored);
  }
  fp8.tensors.erase("model.layers.1.mlp.up_proj.weight_scale_inv");
  fp8.write(dir_ / "torn");
  const outcome torn = run(arguments("torn", "no"));
  EXPECT_EQ(torn.status, 3) << torn.err;
  EXPECT_NE(torn.err.find("model.layers.1.mlp.up_proj"), std::string::npos) << torn.err;
}

TEST_F(ModelFree, ARunThatEndedEarlyGoesOnBehindFinishedFiles) {
  write_two_files("model");
  ASSERT_EQ(run(arguments("model", "whole")).status, 0);
  const auto reused = [&](const std::string& log) {
    int n = 0;
    std::string text = golden::read_bytes(dir_ / log);
    for (std::size_t at = 0; (at = text.find("\"reused\"", at)) != std::string::npos; ++at) ++n;
    return n;
  };
  const auto same_as_whole = [&](const std::string& out) {
    for (const char* f : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json", "model.safetensors.index.json", "SHA256SUMS"})
      EXPECT_TRUE(golden::read_bytes(fs::path(dir_ / out) / f) == golden::read_bytes(fs::path(dir_ / "whole") / f)) << f;
    EXPECT_FALSE(fs::exists(dir_ / (out + ".shards")));
  };
  // A limit on the size of files between those of the two stops the second one: in blocks of 512 bytes.
  const auto small = fs::file_size(fs::path(dir_ / "whole") / "model-00001-of-00002.safetensors"), large = fs::file_size(fs::path(dir_ / "whole") / "model-00002-of-00002.safetensors");
  ASSERT_LT(small + 4096, large);
  const std::string limit = "ulimit -f " + std::to_string((small + large) / 2 / 512) + ";";
  const outcome stopped = run(arguments("model", "out", {}), limit);
  ASSERT_EQ(stopped.status, 4) << stopped.err;
  EXPECT_FALSE(fs::exists(dir_ / "out"));
  EXPECT_TRUE(fs::exists(fs::path(dir_ / "out.shards") / "journal.json"));
  fs::copy(dir_ / "out.shards", dir_ / "flipped.shards");
  fs::copy(dir_ / "out.shards", dir_ / "torn.shards");
  fs::copy(dir_ / "out.shards", dir_ / "other.shards");

  const outcome resumed = run(arguments("model", "out", {"--log_json", dir_ / "log"}));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(reused("log"), 1);
  same_as_whole("out");

  // A finished file that is not what was written is done again, and so is one of other options.
  std::string bytes = golden::read_bytes(fs::path(dir_ / "flipped.shards") / "model-00001-of-00002.safetensors");
  bytes[bytes.size() / 2] ^= 1;
  tiny_model::put(fs::path(dir_ / "flipped.shards") / "model-00001-of-00002.safetensors", bytes);
  ASSERT_EQ(run(arguments("model", "flipped", {"--log_json", dir_ / "log2"})).status, 0);
  EXPECT_EQ(reused("log2"), 0);
  same_as_whole("flipped");
  tiny_model::put(fs::path(dir_ / "torn.shards") / "journal.json", "{\"version\": 1, \"run\": \"");
  ASSERT_EQ(run(arguments("model", "torn", {"--log_json", dir_ / "log3"})).status, 0);
  EXPECT_EQ(reused("log3"), 0);
  same_as_whole("torn");
  fs::copy(dir_ / "other.shards", dir_ / "restarted.shards");
  ASSERT_EQ(run(arguments("model", "restarted", {"--restart", "--log_json", dir_ / "log5"})).status, 0);
  EXPECT_EQ(reused("log5"), 0);
  same_as_whole("restarted");
  const outcome other = run(arguments("model", "other", {"--scheme", "W2A16G32", "--log_json", dir_ / "log4"}));
  ASSERT_EQ(other.status, 0) << other.err;
  EXPECT_EQ(reused("log4"), 0);
  EXPECT_NE(other.err.find("starts anew"), std::string::npos) << other.err;
}

TEST_F(ModelFree, KilledAtAnyCallThatChangesTheDiskItGoesOn) {
  long half_done = 0;
  EXPECT_GT(support::kill_everywhere(disturbed(), [&] { half_done += fs::exists(fs::path(dir_ / "out.shards") / "journal.json"); }, [](const outcome&) {}), 20);
  EXPECT_GT(half_done, 0);
}

TEST_F(ModelFree, TheDiskBecomesFullAtAnyCall) { support::fill_the_disk_everywhere(disturbed()); }

TEST_F(ModelFree, WhatItCannotDoIsRefusedBeforeAnyWork) {
  tiny_model().write(dir_ / "model");
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--scheme", "W3A16"}, {"--format", "gguf:q4_0"}, {"--scheme", "NVFP4"}, {"--format", "llm_compressor"}}) {
    const outcome o = run(arguments("model", "out", more));
    EXPECT_EQ(o.status, 5) << o.err;
    EXPECT_FALSE(fs::exists(dir_ / "out"));
  }
  EXPECT_EQ(run(arguments("model", "out", {"--algorithm", "quarot"})).status, 2);
  // Scales of a KV cache would have been left out in silence.
  support::expect_error_line(run(arguments("model", "out", {"--static_kv_dtype", "fp8"})), 2, {"KV cache"});
  EXPECT_EQ(run(arguments("model", "out", {"--layer_config", "{down_porj:{bits:8}}"})).status, 2);
  // A dry run shows the sizes that are written.
  const outcome dry = run(arguments("model", "out", {"--dry_run", "--json"}));
  ASSERT_EQ(dry.status, 0) << dry.err;
  ASSERT_EQ(run(arguments("model", "out")).status, 0);
  const auto plan = golden::parse_json(dry.out);
  std::uint64_t all = 0;
  for (const auto& f : plan["files"]) {
    EXPECT_EQ(f["bytes"].get<std::uint64_t>(), fs::file_size(fs::path(dir_ / "out") / f["name"].get<std::string>())) << f;
    all += f["bytes"].get<std::uint64_t>();
  }
  EXPECT_EQ(plan["bytes"].get<std::uint64_t>(), all);
  EXPECT_EQ(static_cast<std::size_t>(std::distance(fs::directory_iterator(dir_ / "out"), {})), plan["files"].size());
}

}  // namespace
