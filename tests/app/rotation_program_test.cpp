// links: ar_export ar_transform ar_tune ar_model
// Rotation from the command line: what is written is read again with its online parts, whatever rotates and whoever tunes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "ar/scheme.hpp"
#include "export/export_format.hpp"
#include "support/distance.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"
#include "transform/rotation.hpp"
#include "tune/quantizer.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;
using std::size_t;
using support::run;
using support::tiny_model;
namespace fs = std::filesystem;

class RotationProgram : public testing::Test {
 protected:
  RotationProgram() : model_(dir_ / "model") {
    tiny_model m(5, true, true);  // tied head and biases, v's among them
    for (int l = 0; l < 2; ++l) m.set("model.layers." + std::to_string(l) + ".input_layernorm.weight", 7, 9.0f);  // an outlier
    m.write(model_);
  }

  std::vector<std::string> arguments(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> a = {"--model", model_, "--output_dir", out, "--scheme", "W8A16G32", "--iters", "0", "--disable_opt_rtn"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }

  static std::vector<float> logits(const std::string& path, bool float_inputs = false) {
    auto opened = exporting::open_model(path);
    EXPECT_TRUE(opened.has_value()) << (opened ? "" : opened.error().message);
    if (!opened) return {};
    if (float_inputs) (*opened)->read_float_inputs();
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 32; ++i) ids.push_back(i * 37 % 250);
    auto l = model::logits(**opened, ids);
    EXPECT_TRUE(l.has_value());
    return l ? *l : std::vector<float>();
  }

  support::temp_dir dir_;
  std::string model_;
};

TEST_F(RotationProgram, WhatIsSavedLoadsAgainAndComputesTheSame) {
  struct one {
    std::string name, formats;
    std::vector<std::string> options;
  };
  const std::vector<one> all = {
      {"quarot", "auto_round,fake", {"--algorithm", "quarot"}},
      {"everything", "auto_round,fake", {"--algorithm", "quarot", "--r3", "--r4"}},
      {"offline", "auto_round,fake", {"--algorithm", "quarot", "--no_online_r1_rotation"}},
      {"random",
       "auto_round,fake",
       {"--rotation_config", R"({"algorithm":"quarot","r3":true,"r4":true,"random_r1":true,"random_r2":true,"random_r3":true,"random_r4":true})"}},
      {"random offline",
       "auto_round,fake",
       {"--algorithm", "quarot", "--random_r1", "--random_r4", "--r4", "--no_online_r1_rotation", "--rotation_size", "32"}},
      {"matrices",
       "auto_round,fake",
       {"--algorithm", "quarot", "--r4", "--random_r1", "--random_r4", "--rotation_size", "32", "--rotation_matrices"}},
      {"in place", "fake", {"--rotation_type", "hadamard"}},
      {"in place, random", "fake", {"--rotation_config", "random_hadamard", "--rotation_block_size", "16"}},
      {"unfused", "fake", {"--algorithm", "hadamard", "--no_fuse_online_to_weight", "--rotation_block_size", "32"}},
      {"peer arithmetic", "auto_round,fake", {"--algorithm", "quarot", "--r4", "--compat"}},
  };
  const std::vector<float> expected = logits(model_);
  for (const one& r : all) {
    SCOPED_TRACE(r.name);
    const std::string out = dir_ / r.name;
    std::vector<std::string> options = r.options;
    options.insert(options.end(), {"--format", r.formats});
    const auto o = run(arguments(out, options));
    ASSERT_EQ(o.status, 0) << o.err;
    for (const std::string format : {"auto_round", "fake"}) {
      if (r.formats.find(format) == std::string::npos) continue;
      const std::string path = r.formats == "fake" ? out : out + "/" + (format == "auto_round" ? "auto-round" : format);
      // 8 bits and bfloat16 leave an error of two or three hundredths; without its online parts a rotated model computes something else.
      EXPECT_LT(support::rms_difference(logits(path), expected), 0.06) << format;
      EXPECT_EQ(run({"verify", "--model", path}).status, 0) << format;
      const auto compared = run({"verify", "--model", path, "--source", model_});
      EXPECT_EQ(compared.status, 0) << format << compared.err;
      // A configuration that does not mention the rotation must not load: buffers and signs remain. (Those in place without signs leave none.)
      auto config = golden::read_json(fs::path(path) / "config.json");
      config.erase("spinquant_config"), config.erase("rotation_config");
      if (config.contains("quantization_config")) config["quantization_config"].erase("spinquant_config");
      tiny_model::put(fs::path(path) / "config.json", config.dump(2));
      const bool leaves_traces = r.name != "in place" && r.name != "unfused" && r.name != "offline";
      if (leaves_traces) {
        EXPECT_EQ(run({"inspect", "--model", path}).status, 3) << format;
      } else if (r.name != "offline") {
        EXPECT_GT(support::rms_difference(logits(path), expected), 0.3) << "what the online parts are for";
      }
    }
  }
}

TEST_F(RotationProgram, TuningWorksOnTheRotatedModel) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(40));
  const std::vector<float> expected = logits(model_);
  for (const std::string how : {"gram", "block", "hybrid"}) {
    const auto quantize = [&](const std::string& out, const std::string& iters) {
      const auto o = run({"--model",
                          model_,
                          "--output_dir",
                          out,
                          "--scheme",
                          "W2A16G32",
                          "--iters",
                          iters,
                          "--disable_opt_rtn",
                          "--tuning",
                          how,
                          "--dataset",
                          dir_ / "calib.jsonl",
                          "--nsamples",
                          "32",
                          "--seqlen",
                          "32",
                          "--algorithm",
                          "quarot",
                          "--r3",
                          "--r4"});
      EXPECT_EQ(o.status, 0) << o.err;
      return support::rms_difference(logits(out), expected);
    };
    const double rounded = quantize(dir_ / ("rtn-" + how), "0"), tuned = quantize(dir_ / ("tuned-" + how), "40");
    EXPECT_LT(tuned, 0.95 * rounded) << how;
  }
}

/// The rotated model with its layers rounded, as the run holds it before anything is written.
class rounded_in_memory final : public model::weight_source {
 public:
  rounded_in_memory(const transform::rotated_source& base, const std::string& scheme) : base_(base), scheme_(*ar::find_preset(scheme)) {
    for (std::int64_t b = 0; b < spec().num_layers; ++b) {
      std::vector<float> scales(spec().linears.size(), -1.0f);
      for (size_t i = 0; i < scales.size(); ++i) {
        const model::linear_desc& d = spec().linears[i];
        const auto w = model::read_tensor(base_, spec().linear_name(b, static_cast<int>(i)) + ".weight", {static_cast<std::uint64_t>(d.out_features), static_cast<std::uint64_t>(d.in_features)});
        scales[i] = tune::own_global_scale(scheme_, w.value());
      }
      tune::share_global_scales(spec(), scales);
      for (size_t i = 0; i < scales.size(); ++i) {
        const model::linear_desc& d = spec().linears[i];
        const std::string layer = spec().linear_name(b, static_cast<int>(i));
        auto q = tune::quantize_layer(base_, layer, scheme_, static_cast<size_t>(d.out_features), static_cast<size_t>(d.in_features), {.global_scale = scales[i]});
        EXPECT_TRUE(q);
        weights_[layer + ".weight"] = std::move(q->weight);
      }
    }
  }
  const model::model_spec& spec() const override { return base_.spec(); }
  bool has(const std::string& name) const override { return base_.has(name); }
  result<void> read(const std::string& name, std::span<float> out) const override {
    const auto own = weights_.find(name);
    if (own != weights_.end()) {
      std::ranges::copy(own->second, out.begin());
      return {};
    }
    if (auto r = base_.read(name, out); !r) return r;
    if (name.ends_with(".bias")) std::ranges::transform(out, out.begin(), ar::round_to_f16);  // as packed layers have them
    return {};
  }
  std::shared_ptr<const model::block_rotations> rotations(std::int64_t layer) const override { return base_.rotations(layer); }

 private:
  const transform::rotated_source& base_;
  ar::scheme_fields scheme_;
  std::map<std::string, std::vector<float>> weights_;
};

TEST_F(RotationProgram, EveryLayerRotatedByItselfLoadsAsItWasInMemory) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(10));
  const std::vector<float> expected = logits(model_);
  struct one {
    std::string scheme, type;
    std::int64_t block = 0;  // 0: as the original, 32
    bool matrices = false;   // random ones in full, as the original stores them
  };
  for (const one& r : {one{"MXFP4", "hadamard"}, {"MXFP4", "random_hadamard"}, {"MXFP8", "hadamard", 16}, {"MXFP8", "random_hadamard", 16, true}, {"NVFP4", "hadamard", 16},
                       {"NVFP4", "random_hadamard", 0, true}}) {
    SCOPED_TRACE(r.scheme + " " + r.type + " " + std::to_string(r.block));
    const std::string out = dir_ / (r.scheme + r.type + std::to_string(r.block));
    std::vector<std::string> a = {"--model", model_, "--output_dir", out, "--scheme", r.scheme, "--iters", "0", "--disable_opt_rtn", "--rotation_type", r.type, "--format",
                                  "auto_round,fake", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"};
    if (r.block != 0) a.insert(a.end(), {"--rotation_block_size", std::to_string(r.block)});
    if (r.matrices) a.push_back("--rotation_matrices");
    const auto o = run(a);
    ASSERT_EQ(o.status, 0) << o.err;

    auto opened = exporting::open_model(model_);
    ASSERT_TRUE(opened);
    transform::rotation_options options{.family = transform::rotation_family::transform, .block_size = r.block, .seed = 42};
    if (r.type == "random_hadamard") options.type = transform::hadamard_type::random_hadamard;
    auto places = transform::place_rotations((*opened)->spec(), options, transform::drawn_signs(42));
    ASSERT_TRUE(places) << describe(places.error());
    const transform::rotated_source rotated(**opened, *places, {});
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 32; ++i) ids.push_back(i * 37 % 250);
    const auto in_memory = model::logits(rounded_in_memory(rotated, r.scheme), ids);
    ASSERT_TRUE(in_memory);
    // Rotated, but not rounded, the model is what it was.
    EXPECT_LT(support::rms_difference(*model::logits(rotated, ids), expected), 1e-5);

    const std::string packed = out + "/auto-round";
    // Weights alone, inputs are float on both sides. Elements times scales are exact for MX; NVFP4 divides a scale by the tensor's.
    EXPECT_LE(support::largest_difference(logits(packed, true), *in_memory), r.scheme == "NVFP4" ? 1e-4 : 0.0);
    EXPECT_LT(support::rms_difference(logits(out + "/fake", true), *in_memory), 0.02);  // bfloat16 weights
    EXPECT_EQ(run({"verify", "--model", packed, "--source", model_}).status, 0);

    // Without the configuration inputs stay as they are: matrices that are left over say so, else the model computes something else.
    auto config = golden::read_json(fs::path(packed) / "config.json");
    ASSERT_TRUE(config["quantization_config"].contains("rotation_config"));
    config["quantization_config"].erase("rotation_config");
    tiny_model::put(fs::path(packed) / "config.json", config.dump(2));
    if (r.matrices) {
      EXPECT_EQ(run({"inspect", "--model", packed}).status, 3);
    } else {
      EXPECT_GT(support::rms_difference(logits(packed), *in_memory), 0.3);
    }
  }
}

TEST_F(RotationProgram, TuningWorksBehindRotationsOfEveryLayer) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(40));
  const std::vector<float> expected = logits(model_);
  const auto quantize = [&](const std::string& out, const std::string& iters) {
    const auto o = run({"--model", model_, "--output_dir", dir_ / out, "--scheme", "MXFP4", "--iters", iters, "--disable_opt_rtn", "--dataset", dir_ / "calib.jsonl", "--nsamples", "16",
                        "--seqlen", "32", "--rotation_type", "random_hadamard"});
    EXPECT_EQ(o.status, 0) << o.err;
    return support::rms_difference(logits(dir_ / out), expected);
  };
  const double rounded = quantize("rounded", "0"), tuned = quantize("tuned", "20");
  // A loop that forgot the rotation would be several times as far off.
  EXPECT_LT(tuned, 1.1 * rounded);
}

TEST_F(RotationProgram, RefusalsNameTheReason) {
  const auto refused = [&](int status, const std::string& words, const std::vector<std::string>& options) {
    const auto o = run(arguments(dir_ / "no", options));
    EXPECT_EQ(o.status, status) << o.err;
    EXPECT_NE(o.err.find(words), std::string::npos) << "\"" << words << "\" is not in: " << o.err;
    EXPECT_FALSE(fs::exists(dir_ / "no"));
  };
  refused(5, "gguf", {"--algorithm", "quarot", "--format", "gguf:q4_0"});
  refused(5, "fake only", {"--rotation_type", "hadamard"});
  refused(2, "does not fit", {"--algorithm", "quarot", "--rotation_size", "24"});
  refused(2, "two", {"--algorithm", "quarot,hadamard"});
  refused(2, "need one", {"--r4"});
  refused(2, "unknown", {"--algorithm", "quarrot"});
  refused(2, "belong to", {"--algorithm", "hadamard", "--r4"});
  refused(2, "'r5'", {"--rotation_config", R"({"algorithm":"quarot","r5":true})"});
  refused(2, "MX", {"--rotation_type", "hadamard", "--rotation_backend", "transform"});
  refused(2, "head of its own", {"--algorithm", "quarot", "--no_online_r1_rotation", "--no_untie_embeddings"});
  refused(5, "smooth", {"--algorithm", "quarot", "--trainable_smooth"});
  refused(5, "svdquant", {"--algorithm", "svdquant"});
}

}  // namespace
