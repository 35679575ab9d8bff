// links: ar_report
// The program from outside: what it prints where, exit statuses, and that nothing is left behind when something is wrong.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "ar/numeric/half.hpp"
#include "io/checkpoint_dir.hpp"
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

// Exit statuses, as docs/guide.md lists them.
constexpr int usage = 2, bad_input = 3, bad_output = 4, unsupported = 5, failed_verification = 6;

class Program : public testing::Test {
 protected:
  Program() : model_(dir_ / "model"), out_(dir_ / "out") {}

  std::vector<std::string> quantize(std::vector<std::string> more = {}) const {
    std::vector<std::string> a = {"quantize", "--model", model_, "--output_dir", out_, "--scheme", "W4A16G32", "--iters", "0", "--disable_opt_rtn"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }

  /// Wrong input: the status, one line that names what is wrong, and no trace in the file system.
  void expect_refused(const outcome& o, int status, const std::vector<std::string>& words) {
    EXPECT_EQ(o.out, "");
    support::expect_error_line(o, status, words);
    EXPECT_FALSE(fs::exists(out_));
    for (const auto& e : fs::directory_iterator(dir_.path())) EXPECT_EQ(e.path().filename().string().find(".partial"), std::string::npos) << e.path();
  }

  void calibration() const { tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(64)); }

  support::temp_dir dir_;
  std::string model_, out_;
};

// --- what works ---------------------------------------------------------------------------------------------------------------------------------

TEST_F(Program, RoundsReportsAndReadsBack) {
  tiny_model().write(model_);
  const outcome o = run(quantize({"--json"}));
  ASSERT_EQ(o.status, 0) << o.err;
  const auto json = golden::parse_json(o.out);
  EXPECT_EQ(json["quantized_layers"], 14);
  EXPECT_EQ(json["output_dir"], out_);
  EXPECT_GT(json["peak_memory_bytes"].get<double>(), 0);
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
  EXPECT_EQ(run({"verify", "--model", out_}).status, 0);
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
  const outcome seen = run({"inspect", "--model", out_, "--json"});
  ASSERT_EQ(seen.status, 0) << seen.err;
  EXPECT_EQ(golden::parse_json(seen.out)["quantized_tensors"], 14);
}

TEST_F(Program, DryRunSizesAreTheSizesWritten) {
  for (const bool special : {false, true}) {  // with biases and a tied head, or without
    const fs::path model = dir_.path() / ("model" + std::to_string(special));
    tiny_model(7, special, special).write(model);
    for (const std::string format : {"auto_round", "fake", "gguf:q4_0", "gguf:q8_0", "gguf:q4_k_s", "auto_gptq,auto_awq,mlx,auto_round:gptqmodel,fake"}) {
      const std::string out = dir_ / ("out" + std::to_string(special) + format);
      const std::vector<std::string> arguments = {"--model", model.string(), "--format", format, "--output_dir", out, "--scheme", "W4A16G32",
                                                  "--iters", "0", "--disable_opt_rtn", "--max_shard_size", "40KB", "--json"};
      std::vector<std::string> dry = arguments;
      dry.emplace_back("--dry-run");
      const outcome planned = run(dry);
      ASSERT_EQ(planned.status, 0) << planned.err;
      EXPECT_FALSE(fs::exists(out)) << "a dry run writes nothing";
      ASSERT_EQ(run(arguments).status, 0) << format;
      const auto plan = golden::parse_json(planned.out);
      std::uint64_t total = 0;
      for (const auto& output : plan["outputs"]) {
        const fs::path folder = plan["outputs"].size() == 1 ? fs::path(out) : fs::path(out) / output["folder"].get<std::string>();
        std::size_t files = 0;
        for (const auto& f : output["files"]) {
          EXPECT_EQ(fs::file_size(folder / f["name"].get<std::string>()), f["bytes"].get<std::uint64_t>()) << f.dump();
          ++files;
        }
        EXPECT_EQ(static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator())), files) << folder;
        total += output["bytes"].get<std::uint64_t>();
      }
      EXPECT_EQ(plan["bytes"].get<std::uint64_t>(), total);
      if (plan["outputs"].size() == 1) {
        EXPECT_EQ(run({"verify", "--model", out, "--source", model.string()}).status, 0) << format;
      }
    }
  }
}

TEST_F(Program, SearchesScalesWithAndWithoutImportance) {
  tiny_model().write(model_);
  calibration();
  const auto quantize_to = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> a = {"--model", model_, "--output_dir", dir_ / name, "--scheme", "W4A16G32", "--iters", "0", "--nsamples", "16", "--seqlen", "32"};
    a.insert(a.end(), more.begin(), more.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return fs::exists(fs::path(dir_ / name) / "model.safetensors") ? golden::read_bytes(fs::path(dir_ / name) / "model.safetensors") : std::string();
  };
  const std::string data = dir_ / "calib.jsonl";
  const std::string plain = quantize_to("plain", {"--disable_opt_rtn"}), alone = quantize_to("alone", {"--enable_opt_rtn"});
  EXPECT_TRUE(quantize_to("neither", {}) == plain) << "a search for the weights alone must be asked for";
  const std::string with_text = quantize_to("text", {"--dataset", data, "--save_imatrix", dir_ / "im.gguf"});
  EXPECT_NE(plain, alone);
  EXPECT_NE(alone, with_text);
  for (const char* form : {"im.gguf", "im.dat"}) {
    if (std::string(form) == "im.dat") quantize_to("dat", {"--dataset", data, "--save_imatrix", dir_ / form});
    EXPECT_TRUE(quantize_to(std::string("from-") + form, {"--imatrix", dir_ / form}) == with_text) << "the file says what the text said";
  }
  // Data types beyond integers, to the fake format.
  for (const std::string scheme : {"MXFP4", "NVFP4", "FP8_STATIC", "INT8_W8A8"}) {
    const std::string out = dir_ / scheme;
    ASSERT_EQ(run({"--model", model_, "--output_dir", out, "--scheme", scheme, "--iters", "0", "--format", "fake"}).status, 0) << scheme;
    EXPECT_EQ(run({"verify", "--model", out, "--source", model_}).status, 0);
  }
  tiny_model(7, true, true).write(dir_ / "other");
  tiny_model::put(dir_ / "none.gguf", "GGUF");
  expect_refused(run({"--model", model_, "--output_dir", out_, "--scheme", "W4A16G32", "--iters", "0", "--imatrix", dir_ / "none.gguf"}), bad_input, {"none.gguf"});
}

TEST_F(Program, VerifyKnowsTensorsThatAreNoNumbersAndThoseThatAGgufFileHasNoPlaceFor) {
  tiny_model m;
  m.tensors["mtp.extra"] = support::tensor_of<float>("F32", {3}, {1, 2, 3});
  m.tensors["mtp.mask"] = {"BOOL", {2, 4}, std::string("\0\1\0\1\1\1\0\0", 8)};
  m.write(model_);
  ASSERT_EQ(run(quantize()).status, 0);
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
  tiny_model other = m;
  other.tensors["mtp.mask"].bytes[3] = '\0';
  other.write(dir_ / "other");
  support::expect_error_line(run({"verify", "--model", out_, "--source", dir_ / "other"}), failed_verification, {"mtp.mask", "not the source's"});
  other.tensors["mtp.mask"] = {"U8", {2, 4}, m.tensors["mtp.mask"].bytes};
  other.write(dir_ / "other");
  support::expect_error_line(run({"verify", "--model", out_, "--source", dir_ / "other"}), failed_verification, {"mtp.mask"});

  const std::string gguf = dir_ / "gguf";
  ASSERT_EQ(run({"quantize", "--model", model_, "--output_dir", gguf, "--format", "gguf:q8_0", "--iters", "0"}).status, 0);
  const outcome o = run({"verify", "--model", gguf, "--source", model_, "--json"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(golden::parse_json(o.out)["left_out"], (ordered_json{"mtp.extra", "mtp.mask"}));
  EXPECT_NE(run({"verify", "--model", gguf, "--source", model_}).out.find("no place: mtp.extra, mtp.mask"), std::string::npos);
}

TEST_F(Program, OneBitGoesToTheFakeFormatInEveryWayAndNowhereElse) {
  tiny_model().write(model_);
  calibration();
  const auto one_bit = [&](const std::vector<std::string>& more) {
    std::vector<std::string> a = {"quantize", "--model", model_, "--output_dir", out_, "--bits", "1", "--group_size", "32", "--dataset", dir_ / "calib.jsonl", "--nsamples", "8", "--seqlen", "32"};
    a.insert(a.end(), more.begin(), more.end());
    return run(a);
  };
  for (const std::string format : {"auto_round", "auto_round:auto_awq", "auto_gptq", "auto_awq", "mlx", "llm_compressor"})
    expect_refused(one_bit({"--format", format, "--iters", "0"}), unsupported, {format.substr(0, 4), "fake"});
  using arguments = std::vector<std::string>;
  for (const std::string side : {"", "--asym"})
    for (const arguments& way : {arguments{"--iters", "0", "--disable_opt_rtn"}, {"--iters", "0", "--enable_opt_rtn"}, {"--iters", "4", "--tuning", "gram"}, {"--iters", "4", "--tuning", "block"}, {"--iters", "4", "--tuning", "hybrid"}}) {
      arguments all = way;
      all.insert(all.end(), {"--format", "fake", "--overwrite"});
      if (!side.empty()) all.push_back(side);
      const outcome o = one_bit(all);
      ASSERT_EQ(o.status, 0) << side << way.back() << o.err;
      const golden::file file(fs::path(out_) / "model.safetensors");
      const std::vector<float> w = file["model.layers.1.mlp.up_proj.weight"].f32();
      for (std::size_t g = 0; g < w.size(); g += 32) {
        const std::set<float> values(w.begin() + static_cast<std::ptrdiff_t>(g), w.begin() + static_cast<std::ptrdiff_t>(g + 32));
        ASSERT_LE(values.size(), 2u) << side << way.back();
        ASSERT_TRUE(std::ranges::all_of(values, [](float x) { return std::isfinite(x); }));
      }
    }
}

TEST_F(Program, ValuesThatHalfPrecisionCannotHoldAreRefusedByTheirName) {
  tiny_model m;
  m.set("model.layers.0.mlp.up_proj.weight", 5, 70000.0f);
  m.write(model_);
  const outcome o = run({"quantize", "--model", model_, "--output_dir", out_, "--format", "gguf:q8_0", "--iters", "0", "--ignore_layers", "up_proj"});
  expect_refused(o, unsupported, {"blk.0.ffn_up.weight", "half precision", "65504"});
  m = tiny_model(1, false, true);
  m.set("model.layers.1.self_attn.q_proj.bias", 3, -1e9f);
  m.write(model_);
  expect_refused(run(quantize({"--disable_model_free"})), unsupported, {"model.layers.1.self_attn.q_proj.bias", "half precision"});
}

TEST_F(Program, AGgufFileAmongOtherFilesTakesOnlyItsOwnAlong) {
  tiny_model().write(model_);
  const fs::path downloads = dir_.path() / "downloads";
  ASSERT_EQ(run({"quantize", "--model", model_, "--output_dir", dir_ / "made", "--format", "gguf:q8_0", "--iters", "0"}).status, 0);
  fs::create_directories(downloads);
  for (const auto& e : fs::directory_iterator(dir_ / "made")) fs::copy_file(e.path(), downloads / (e.path().extension() == ".gguf" ? "m.gguf" : e.path().filename().string()));
  for (const char* mine : {"credentials.json", "notes.txt", "script.py", "paper.txt"}) tiny_model::put(downloads / mine, "mine");
  const auto names = [](const fs::path& folder) {
    std::set<std::string> all;
    for (const auto& e : fs::directory_iterator(folder)) all.insert(e.path().filename().string());
    return all;
  };
  const std::set<std::string> expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "SHA256SUMS"};
  ASSERT_EQ(run({"convert", "--model", downloads / "m.gguf", "--format", "fake", "--output_dir", dir_ / "converted"}).status, 0);
  EXPECT_EQ(names(dir_ / "converted"), expected);
  ASSERT_EQ(run({"quantize", "--model", downloads / "m.gguf", "--format", "fake", "--iters", "0", "--scheme", "W4A16G32", "--output_dir", dir_ / "quantized"}).status, 0);
  EXPECT_EQ(names(dir_ / "quantized"), expected);
  // Its bare name means this folder.
  tiny_model::put(dir_ / "lines.jsonl", "\"a b\"\n");
  const std::string here = "cd " + downloads.string() + ";";
  EXPECT_EQ(run({"generate", "m.gguf", "--prompt", "a", "--max_tokens", "2"}, here).status, 0);
  EXPECT_EQ(run({"tokenize", "m.gguf", "--file", dir_ / "lines.jsonl"}, here).status, 0);
}

TEST_F(Program, EvaluatesWhatItWroteInEveryFormat) {
  tiny_model().write(model_);
  calibration();
  const auto ppl = [&](const std::string& path) {
    const outcome o = run({"eval", "--model", path, "--ppl", dir_ / "calib.jsonl", "--seqlen", "64", "--max_tokens", "1024", "--ref", model_, "--json"});
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out) : ordered_json();
  };
  const auto original = ppl(model_);
  EXPECT_NEAR(original["kl"].get<double>(), 0, 1e-9);
  EXPECT_EQ(original["top1"], 1.0);
  EXPECT_EQ(original["tokens"], 16 * 63);
  for (const std::string format : {"auto_round", "auto_gptq", "mlx", "fake", "gguf:q4_0", "gguf:q8_0"}) {
    const std::string out = dir_ / ("out-" + format);
    ASSERT_EQ(run({"--model", model_, "--format", format, "--output_dir", out, "--scheme", "W8A16G32", "--iters", "0", "--disable_opt_rtn"}).status, 0);
    const auto e = ppl(out);
    const double kl = e["kl"].get<double>();
    EXPECT_LT(kl, format == "gguf:q4_0" ? 0.05 : 0.001) << format;
    EXPECT_GT(kl, 0) << format;
  }
}

TEST_F(Program, TunesAndIsReproducible) {
  tiny_model().write(model_);
  calibration();
  const std::vector<std::string> common = {"--model", model_, "--scheme", "W2A16G32", "--iters", "3", "--nsamples", "8", "--seqlen", "32",
                                           "--dataset", dir_ / "calib.jsonl", "--batch_size", "4", "--disable_amp", "--threads", "1"};
  std::vector<std::string> first = common, second = common;
  first.insert(first.end(), {"--output_dir", dir_ / "a", "--log_json", dir_ / "log.jsonl"});
  second.insert(second.end(), {"--output-dir", dir_ / "b"});
  const outcome o = run(first);
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(o.out, "");
  EXPECT_NE(o.err.find(", loss before: "), std::string::npos) << "coordinate descent has no iterations: " << o.err;
  EXPECT_EQ(o.err.find(", loss iter"), std::string::npos) << o.err;
  ASSERT_EQ(run(second).status, 0);
  for (const char* f : {"model.safetensors", "config.json", "quantization_config.json"}) {
    EXPECT_EQ(golden::read_bytes(dir_.path() / "a" / f), golden::read_bytes(dir_.path() / "b" / f)) << f;
  }
  const auto config = golden::read_json(dir_.path() / "a" / "quantization_config.json");
  EXPECT_EQ(config["iters"], 3);
  EXPECT_FALSE(config.contains("enable_quanted_input"));
  // Each line of the log is an object with an event.
  std::istringstream log(golden::read_bytes(dir_ / "log.jsonl"));
  std::vector<std::string> events;
  for (std::string line; std::getline(log, line);) events.push_back(golden::parse_json(line)["event"]);
  EXPECT_EQ(events, (std::vector<std::string>{"start", "block", "block", "end"}));
}

TEST_F(Program, TunedBlocksOfGgufAreBetterThanRoundedOnes) {
  tiny_model().write(model_);
  calibration();
  for (const std::string format : {"gguf:q4_0", "gguf:q4_1", "gguf:q5_1", "gguf:q8_0"}) {
    const auto divergence = [&](const std::string& name, const std::vector<std::string>& more) {
      std::vector<std::string> a = {"--model", model_, "--format", format, "--nsamples", "8", "--seqlen", "32", "--dataset", dir_ / "calib.jsonl", "--threads", "1",
                                    "--disable_amp", "--output_dir", dir_ / (name + format)};
      a.insert(a.end(), more.begin(), more.end());
      const outcome o = run(a);
      EXPECT_EQ(o.status, 0) << o.err;
      const outcome e = run({"eval", "--model", dir_ / (name + format), "--ppl", dir_ / "calib.jsonl", "--seqlen", "32", "--max_tokens", "512", "--ref", model_, "--json"});
      EXPECT_EQ(e.status, 0) << e.err;
      return e.status == 0 ? golden::parse_json(e.out)["kl"].get<double>() : 0.0;
    };
    const double rounded = divergence("rounded", {"--iters", "0", "--disable_opt_rtn"});
    EXPECT_LT(divergence("gram", {"--iters", "8", "--tuning", "gram"}), 0.9 * rounded) << format;
    EXPECT_LE(divergence("block", {"--iters", "8", "--tuning", "block"}), rounded) << format;
  }
}

TEST_F(Program, PoliciesOfTheGradientCanBeChosen) {
  // Activations so large that gradients of scales overflow half precision: "no step" for the reference.
  tiny_model m;
  for (std::size_t i = 0; i < 64; ++i) m.set("model.layers.0.post_attention_layernorm.weight", i, 30.0f);
  m.write(model_);
  calibration();
  const auto tuned = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> a = {"--model", model_, "--scheme", "W2A16G32", "--iters", "5", "--nsamples", "8", "--seqlen", "32", "--dataset", dir_ / "calib.jsonl",
                                  "--not_use_best_mse", "--disable_amp", "--threads", "1", "--tuning", "block", "--output_dir", dir_ / name};
    a.insert(a.end(), more.begin(), more.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return golden::read_bytes(dir_.path() / name / "model.safetensors");
  };
  const std::string plain = tuned("plain", {});
  EXPECT_TRUE(tuned("default", {"--clamp_gradient", "strict", "--scale-gradient", "reference"}) == plain);
  EXPECT_TRUE(tuned("closed", {"--clamp_gradient", "closed"}) != plain);
  EXPECT_TRUE(tuned("f32", {"--scale_gradient", "f32"}) != plain);
}

TEST_F(Program, BlocksEndAfterAGapWithoutABetterLoss) {
  tiny_model().write(model_);
  calibration();
  const outcome o = run({"--model", model_, "--output_dir", out_, "--scheme", "W4A16G32", "--iters", "100", "--nsamples", "8", "--seqlen", "32", "--batch_size", "2",
                         "--dataset", dir_ / "calib.jsonl", "--dynamic_max_gap", "3", "--log_json", dir_ / "log.jsonl"});
  ASSERT_EQ(o.status, 0) << o.err;
  std::istringstream log(golden::read_bytes(dir_ / "log.jsonl"));
  int blocks = 0;
  for (std::string line; std::getline(log, line);) {
    const auto event = golden::parse_json(line);
    if (event["event"] != "block") continue;
    ++blocks;
    EXPECT_LT(event["iterations"], 100);
    EXPECT_EQ(event["iterations"].get<int>() - 1, event["best_iteration"].get<int>() + 3);
  }
  EXPECT_EQ(blocks, 2);
}

TEST_F(Program, SmoothedModelsAreExportedWithTheirNormsAndLoad) {
  tiny_model(1, false, true).write(model_);
  calibration();
  const std::vector<std::string> small = {"--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32", "--batch_size", "2", "--threads", "1", "--json"};
  const auto quantized = [&](const std::string& out, std::vector<std::string> more) {
    std::vector<std::string> a = {"--model", model_, "--output_dir", dir_ / out, "--scheme", "W2A16G32"};
    a.insert(a.end(), small.begin(), small.end());
    a.insert(a.end(), more.begin(), more.end());
    if (out != "rounded") a.insert(a.end(), {"--awq_n_grid", "6"});
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out) : ordered_json();
  };
  const auto kl = [&](const std::string& folder) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "word" + std::to_string(i * 5 % 97) + " ";
    tiny_model::put(dir_ / "eval.txt", text);
    const outcome o = run({"eval", "--model", folder, "--ref", model_, "--ppl", dir_ / "eval.txt", "--seqlen", "32", "--json"});
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out)["kl"].get<double>() : 1e9;
  };
  // Without quantized layers in the way: the float model of the fake format differs by what is quantized alone, so every pipeline must load and come near.
  EXPECT_EQ(quantized("awq", {"--algorithm", "awq"})["method"], "AWQ, round to nearest");
  EXPECT_EQ(quantized("searched", {"--algorithm", "awq", "--enable_opt_rtn"})["method"], "AWQ, OPT-RTN (searched scales)");
  EXPECT_EQ(quantized("tuned", {"--algorithm", "awq,auto_round", "--iters", "3"})["method"], "AWQ, coordinate descent, 14 sweeps");
  quantized("extended", {"--algorithm", "awq,auto_round", "--iters", "3", "--enable_alg_ext"});
  quantized("rounded", {"--iters", "0", "--disable_opt_rtn"});
  const double rounded = kl(dir_ / "rounded");
  for (const std::string name : {"awq", "searched", "tuned", "extended"}) {
    EXPECT_LT(kl(dir_ / name), rounded) << name;
    EXPECT_EQ(run({"verify", "--model", dir_ / name}).status, 0);
  }
  // Every format writes the changed norms and biases.
  quantized("formats", {"--algorithm", "awq", "--awq_apply_clip", "--awq_duo_scaling", "both", "--format", "auto_round,fake"});
  EXPECT_NEAR(kl(dir_ / "formats/auto-round"), kl(dir_ / "formats/fake"), 0.1 * rounded);
  std::vector<std::string> gguf = {"--model", model_, "--output_dir", dir_ / "gguf", "--algorithm", "awq", "--format", "gguf:q4_0"};
  gguf.insert(gguf.end(), small.begin(), small.end());
  ASSERT_EQ(run(gguf).status, 0);
  for (const auto& e : fs::directory_iterator(dir_ / "gguf"))
    EXPECT_TRUE(e.path().extension() != ".gguf" || kl(e.path()) < rounded);
  // Ranges as a start for tuning: the weights are those of smoothing alone, the result is another one.
  quantized("start", {"--algorithm", "awq,auto_round", "--iters", "3", "--awq_apply_clip", "--awq_clip_as_init"});
  EXPECT_NE(kl(dir_ / "start"), kl(dir_ / "tuned"));
}

/// Candidates are quantized as the run will quantize: by searched scales where tuning begins with them, on quantized inputs where there are any.
TEST_F(Program, SmoothingSearchesForWhatComesBehindIt) {
  tiny_model().write(model_);
  calibration();
  int runs = 0;
  const auto first_losses = [&](std::vector<std::string> more) {
    const std::string name = std::to_string(++runs), log = dir_ / ("log" + name);
    std::vector<std::string> a = {"--model", model_, "--output_dir", dir_ / name, "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32", "--batch_size", "2",
                                  "--threads", "1", "--awq_n_grid", "3", "--log_json", log, "--format", "fake"};
    a.insert(a.end(), more.begin(), more.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    std::vector<double> losses;
    std::istringstream events(golden::read_bytes(log));
    for (std::string line; std::getline(events, line);)
      if (const ordered_json e = golden::parse_json(line); e["event"] == "smooth") losses.push_back(e["first_loss"]);
    return losses;
  };
  const auto tuned = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--algorithm", "awq,auto_round", "--iters", "2", "--scheme", "W2A16G32"});
    return first_losses(more);
  };
  const std::vector<double> plain = tuned({}), extended = tuned({"--enable_alg_ext"});
  ASSERT_EQ(plain.size(), extended.size());
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NE(extended[i], plain[i]) << i;

  const auto inputs = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--algorithm", "awq", "--scheme", "MXFP4"});
    return first_losses(more);
  };
  const std::vector<double> quantized = inputs({}), floats = inputs({"--awq_float_inputs"});
  ASSERT_EQ(quantized.size(), floats.size());
  for (std::size_t i = 0; i < floats.size(); ++i) EXPECT_GT(quantized[i], floats[i]) << i;
  EXPECT_EQ(inputs({"--awq_policy", "peer"}), inputs({"--awq_policy", "peer", "--awq_float_inputs"}));
}

TEST_F(Program, WrongUseOfAwqIsRefused) {
  tiny_model().write(model_);
  calibration();
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> a = {"quantize", "--model", model_, "--output_dir", out_, "--dataset", dir_ / "calib.jsonl"};
    a.insert(a.end(), more.begin(), more.end());
    return run(a);
  };
  expect_refused(with({"--algorithm", "awq", "--awq_duo_scaling", "maybe"}), usage, {"duo_scaling", "maybe"});
  expect_refused(with({"--algorithm", "awq", "--awq_clip_as_init"}), usage, {"awq_apply_clip"});
  expect_refused(with({"--algorithm", "awq", "--awq_n_grid", "0"}), usage, {"awq_n_grid"});
  expect_refused(with({"--algorithm", "awq", "--awq_smooth_batch_size", "-1"}), usage, {"awq_smooth_batch_size"});
  expect_refused(with({"--awq_apply_clip"}), usage, {"--algorithm awq"});
}

TEST_F(Program, GeneratesTheSameTextGreedily) {
  tiny_model().write(model_);
  const std::vector<std::string> arguments = {"generate", "--model", model_, "--prompt", "Once", "--max_tokens", "8", "--temperature", "0", "--json"};
  const outcome a = run(arguments), b = run(arguments);
  ASSERT_EQ(a.status, 0) << a.err;
  EXPECT_EQ(golden::parse_json(a.out)["ids"], golden::parse_json(b.out)["ids"]);
  EXPECT_LE(golden::parse_json(a.out)["ids"].size(), 8u);
}

TEST_F(Program, SideFilesAreCopiedByteForByteAndStaleOnesAreNot) {
  tiny_model().write(model_);
  tiny_model::put(model_ + "/chat_template.jinja", "{{ x }}\r\n");
  tiny_model::put(model_ + "/generation_config.json", "{\"temperature\":   0.6}");
  tiny_model::put(model_ + "/LICENSE", "mine");
  tiny_model::put(model_ + "/quantize_config.json", "{}");
  tiny_model::put(model_ + "/README.md", "about the float model");
  ASSERT_EQ(run(quantize()).status, 0);
  for (const char* f : {"chat_template.jinja", "generation_config.json", "LICENSE", "tokenizer.json"}) {
    EXPECT_EQ(golden::read_bytes(out_ + "/" + f), golden::read_bytes(model_ + "/" + f)) << f;
  }
  EXPECT_FALSE(fs::exists(out_ + "/quantize_config.json"));
  EXPECT_FALSE(fs::exists(out_ + "/README.md"));
}

// --- command lines ------------------------------------------------------------------------------------------------------------------------------

TEST_F(Program, OptionsMayBeSpelledAsInTheOriginal) {
  tiny_model().write(model_);
  // '-' and '_', '=', abbreviations, the positional model, the last of several values.
  const outcome o = run({model_, "--output-dir=" + out_, "--scheme", "W2A16", "--scheme=w4a16g32", "--it", "0", "--disable-opt-rtn", "--device_map", "0"});
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("note: --device_map"), std::string::npos) << o.err;
  EXPECT_EQ(golden::read_json(out_ + "/quantization_config.json")["bits"], 4);
}

TEST_F(Program, RecipesAreChosenByTheProgramsName) {
  tiny_model().write(model_);
  const outcome o = run({"--model", model_, "--output_dir", out_, "--scheme", "W4A16G32"}, "", "auto-round-rtn");
  EXPECT_EQ(o.status, 0) << o.err;
  ASSERT_EQ(run({"--model", model_, "--output_dir", out_ + "2", "--scheme", "W4A16G32"}, "", "auto-round-opt-rtn").status, 0);
  const auto weights = [](const std::string& folder) { return golden::read_bytes(fs::path(folder) / "model.safetensors"); };
  EXPECT_FALSE(weights(out_) == weights(out_ + "2")) << "scales are searched";
}

// The program starts itself once more to shorten the waits of threads, unless the environment says how they wait: nothing else may change.
TEST_F(Program, StartsTheSameWayWhateverTheEnvironmentSaysOfThreads) {
  const std::vector<std::vector<std::string>> lines = {{"--help"}, {"--version"}, {"--no_such_option"}, {}, {"list", "algorithms", ""}, {"inspect", "a folder with blanks"}};
  for (const char* program : {"auto-round", "auto-round-best"})
    for (const auto& line : lines) {
      const outcome plain = run(line, "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT", program), told = run(line, "env OMP_WAIT_POLICY=passive", program);
      EXPECT_EQ(plain.status, told.status);
      EXPECT_EQ(plain.out, told.out);
      EXPECT_EQ(plain.err, told.err);
    }
}

TEST_F(Program, WrongCommandLinesSayWhatIsWrong) {
  tiny_model().write(model_);
  EXPECT_EQ(run({}).status, usage);
  expect_refused(run({"quantize"}), usage, {"--model"});
  expect_refused(run(quantize({"--itters", "3"})), usage, {"--itters"});
  expect_refused(run(quantize({"--i", "3"})), usage, {"ambiguous"});
  expect_refused(run(quantize({"--bits", "x"})), usage, {"--bits", "'x'"});
  expect_refused(run(quantize({"--scheme", "W4A17"})), usage, {"W4A16"});
  expect_refused(run(quantize({"--max_shard_size", "5 apples"})), usage, {"5 apples"});
  expect_refused(run(quantize({"--group_size"})), usage, {"group_size"});
  expect_refused(run(quantize({"--clamp_gradient", "open"})), usage, {"--clamp_gradient", "\"open\"", "strict", "closed"});
  expect_refused(run(quantize({"--scale_gradient", "f16"})), usage, {"--scale_gradient", "\"f16\"", "reference", "f32"});
  expect_refused(run(quantize({"--dynamic_max_gap", "some"})), usage, {"--dynamic_max_gap", "'some'"});
  expect_refused(run({"list", "cars"}), usage, {"cars"});
  expect_refused(run({"list", "alg", "awc"}), usage, {"awc", "awq"});
  expect_refused(run({"list", "formats", "mlx"}), usage, {"list formats", "mlx"});
}

TEST_F(Program, WhatTheOriginalHasAndWeHaveNotIsRefusedNotIgnored) {
  tiny_model().write(model_);
  for (const char* option : {"--vllm_args", "--svdquant-rank", "--prompt"})
    expect_refused(run(quantize({option, "x"})), unsupported, {std::string(option).substr(2, 6)});
  expect_refused(run(quantize({"--format", "autoawq"})), unsupported, {"autoawq", "auto_awq", "auto_round"});
  expect_refused(run(quantize({"--scheme", "MXFP6"})), unsupported, {});
  expect_refused(run(quantize({"--scheme", "NVFP4"})), usage, {"NVFP4", "--dataset"});
  expect_refused(run(quantize({"--static_kv_dtype", "int8"})), usage, {"int8", "nvfp4"});
}

TEST_F(Program, TheFirstBlocksAloneAreAModelOfSoFew) {
  tiny_model().write(model_);
  calibration();
  const std::string first = dir_ / "first";
  const outcome o = run(quantize({"--num_hidden_layers", "1", "--output_dir", first}));
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("first 1 blocks"), std::string::npos) << o.err;
  EXPECT_EQ(golden::read_json(first + "/config.json")["num_hidden_layers"], 1);
  ASSERT_EQ(run(quantize()).status, 0);
  const auto whole = auto_round::io::checkpoint_dir::open(out_).value(), part = auto_round::io::checkpoint_dir::open(first).value();
  for (const auto& t : whole.tensors()) {
    const auto* same = part.find(t.name);
    EXPECT_EQ(same != nullptr, !t.name.starts_with("model.layers.1.")) << t.name;
    EXPECT_TRUE(same == nullptr || std::ranges::equal(t.bytes.pin(), same->bytes.pin())) << t.name;
  }
  EXPECT_EQ(run({"eval", "--model", first, "--ppl", dir_ / "calib.jsonl", "--seqlen", "64", "--max_tokens", "128"}).status, 0);
  fs::remove_all(out_);
  expect_refused(run(quantize({"--num_hidden_layers", "3"})), usage, {"--num_hidden_layers 3", "2 blocks"});
  expect_refused(run(quantize({"--num_hidden_layers", "0"})), usage, {"--num_hidden_layers 0"});
  expect_refused(run(quantize({"--num_hidden_layers", "1", "--model_free"})), usage, {"--model_free"});
}

TEST_F(Program, WeightsAreTakenInTheTypeThatIsAskedFor) {
  tiny_model().write(model_);  // of bfloat16
  const auto made = [&](const std::string& name, const std::string& model, const std::vector<std::string>& more) {
    std::vector<std::string> a = more;
    a.insert(a.end(), {"--output_dir", dir_ / name, "--model", model});
    const outcome o = run(quantize(a));
    EXPECT_EQ(o.status, 0) << o.err;
    return golden::read_bytes(fs::path(dir_ / name) / "model.safetensors");
  };
  const auto type_in = [&](const std::string& name) { return auto_round::io::checkpoint_dir::open(dir_ / name).value().find("model.norm.weight")->type; };
  made("halves", model_, {"--format", "fake", "--bits", "16", "--layer_config", "{q_proj:{bits:8}}", "--model_dtype", "fp16"});
  EXPECT_EQ(type_in("halves"), auto_round::io::dtype::f16);
  EXPECT_EQ(golden::read_json(dir_ / "halves/config.json")["torch_dtype"], "float16");
  const std::string as_stored = made("plain", model_, {});
  EXPECT_EQ(made("same", model_, {"--model_dtype", "bfloat16"}), as_stored);
  const std::string half = made("half", model_, {"--model_dtype", "float16"});
  EXPECT_NE(half, as_stored);
  EXPECT_EQ(type_in("half"), auto_round::io::dtype::f16);
  EXPECT_GT(made("wide", model_, {"--model_dtype", "fp32"}).size(), as_stored.size());
  EXPECT_EQ(type_in("wide"), auto_round::io::dtype::f32);
  // 1e6 fits bfloat16, not half precision.
  tiny_model large;
  large.set("model.layers.0.mlp.up_proj.weight", 5, 1e6f);
  large.write(dir_ / "large");
  expect_refused(run(quantize({"--model", dir_ / "large", "--model_dtype", "fp16"})), bad_input, {"up_proj", "F16", "--model_dtype"});
  expect_refused(run(quantize({"--model_dtype", "fp8"})), usage, {"fp8"});
}

TEST_F(Program, RulesForSingleLayersAreWritten) {
  tiny_model().write(model_);
  tiny_model::put(dir_ / "rules.json", R"({"down_proj": "W8A16G32", "model.layers.0.mlp.down_proj": {"bits": 2}, "v_proj": {"bits": 16}})");
  const outcome o = run(quantize({"--layer_config", dir_ / "rules.json", "--quant_lm_head", "--to_quant_block_names", "layers.0$,layers.1"}));
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("fuse them"), std::string::npos) << "v is kept, q and k are not: " << o.err;
  const auto extra = golden::read_json(out_ + "/quantization_config.json")["extra_config"];
  EXPECT_EQ(extra["model.layers.0.mlp.down_proj"]["bits"], 2) << "a layer's own name beats patterns";
  EXPECT_EQ(extra["model.layers.1.mlp.down_proj"]["bits"], 8);
  EXPECT_EQ(extra["model.layers.1.self_attn.v_proj"]["bits"], 16);
  EXPECT_EQ(extra["lm_head"]["bits"], 4);
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
  fs::remove_all(out_);
  // Nothing is ignored silently.
  expect_refused(run(quantize({"--layer_config", "{down_porj:{bits:8}}"})), usage, {"down_porj", "down_proj"});
  expect_refused(run(quantize({"--layer_config", "{down_proj:{bitz:8}}"})), usage, {"bitz", "group_size"});
  expect_refused(run(quantize({"--layer_config", "{down_proj:W9A16}"})), usage, {"W9A16", "W4A16"});
  expect_refused(run(quantize({"--layer_config", "{k_proj:{bits:8}}", "--fuse_check", "error"})), usage, {"fuse"});
  expect_refused(run(quantize({"--to_quant_block_names", "decoder"})), usage, {"decoder", "model.layers.0"});
}

// The original's BF16: what no rule names stays as it is. Every format of packed layers says it in its own words.
TEST_F(Program, ASchemeOf16BitsQuantizesWhatRulesName) {
  tiny_model().write(model_);
  const auto with = [&](const std::string& format, const std::string& rule) {
    return std::vector<std::string>{"--scheme", "BF16", "--format", format, "--layer_config", rule};
  };
  for (const char* format : {"auto_round", "auto_gptq", "auto_awq", "llm_compressor", "mlx", "fake"}) {
    const outcome o = run(quantize(with(format, "{down_proj: W4A16G32}")));
    ASSERT_EQ(o.status, 0) << format << ": " << o.err;
    EXPECT_NE(o.err.find("quantized 2/15"), std::string::npos) << o.err;
    EXPECT_NE(o.err.find("lm_head (head: stays in 16 bits)"), std::string::npos) << "what is kept, and why: " << o.err;
    EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0) << format;
    fs::remove_all(out_);
  }
  ASSERT_EQ(run(quantize(with("auto_round", "{down_proj: MXFP4}"))).status, 0);
  const auto config = golden::read_json(out_ + "/quantization_config.json");
  EXPECT_EQ(config["data_type"], "mx_fp") << "the scheme that most quantized layers have stands for the model, as loaders want one";
  EXPECT_EQ(config["extra_config"]["model.layers.0.mlp.up_proj"]["bits"], 16);
  fs::remove_all(out_);
  expect_refused(run(quantize(with("auto_awq", "{down_proj: W2A16G32}"))), unsupported, {"auto_awq", "not 2"});
  expect_refused(run(quantize({"--scheme", "BF16"})), usage, {"BF16", "no layer would be quantized"});
}

// What the original reads without a word, or what belongs to something that this run does not do.
TEST_F(Program, OptionsWithoutEffectAreNamed) {
  tiny_model().write(model_);
  calibration();
  const auto notes = [&](const std::vector<std::string>& more) {
    std::vector<std::string> a = more;
    a.emplace_back("--dry_run");
    const outcome o = run(quantize(a));
    EXPECT_EQ(o.status, 0) << o.err;
    return o.err;
  };
  EXPECT_EQ(notes({}), "");
  EXPECT_EQ(notes({"--lr", "0.1", "--bs", "4", "--nsamples", "3"}),
            "note: --batch_size, --lr: without effect, for nothing is tuned (--iters 0)\nnote: --nsamples: without effect, for this run reads no calibration text\n");
  EXPECT_EQ(notes({"--limit", "3"}), "note: --limit: without effect, for no task is asked (--tasks)\n");
  EXPECT_NE(notes({"--static_kv_granularity", "head"}).find("--static_kv_dtype"), std::string::npos);
  EXPECT_NE(notes({"--model_free", "--report", dir_ / "report"}).find("--report: without effect"), std::string::npos);
  const std::vector<std::string> tuned = {"--iters", "2", "--lr", "0.1", "--dataset", dir_ / "calib.jsonl", "--seqlen", "16"};
  EXPECT_NE(notes(tuned).find("--iters, --lr: without effect, for tuning by gram"), std::string::npos);
  std::vector<std::string> by_block = tuned;
  by_block.insert(by_block.end(), {"--tuning", "block"});
  EXPECT_EQ(notes(by_block).find("without effect"), std::string::npos);
}

// The original's eval has them; a flag must not take the model's name for its value.
TEST_F(Program, OptionsOfTheOriginalsEvalAreNamedOneByOne) {
  tiny_model().write(model_);
  tiny_model::put(dir_ / "text.jsonl", tiny_model::calibration(64));
  const outcome o = run({"eval", "--disable_trust_remote_code", model_, "--ppl", dir_ / "text.jsonl", "--seqlen", "16", "--seed", "4", "--mllm", "--eval_backend", "hf", "--limit", "2"});
  ASSERT_EQ(o.status, 0) << o.err;
  for (const char* word : {"note: --disable_trust_remote_code:", "note: --seed:", "note: --mllm:", "note: --limit: without effect"})
    EXPECT_NE(o.err.find(word), std::string::npos) << word << ": " << o.err;
  EXPECT_EQ(o.err.find("eval_model_dtype"), std::string::npos) << o.err;
  support::expect_error_line(run({"eval", model_, "--eval_backend", "vllm"}), unsupported, {"vllm"});
}

// Behind the last position of a model there is nothing that it could say.
TEST_F(Program, TextsThatAreLongerThanTheModelKnowsAreNamed) {
  tiny_model().write(model_);
  std::string words = "a";
  for (int i = 0; i < 5000; ++i) words += " a";
  support::expect_error_line(run({"generate", model_, "--prompt", words}), usage, {"positions", "--prompt"});
  const outcome o = run({"generate", model_, "--prompt", "a", "--max_tokens", "5000", "--ignore_eos"});
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("of 5000 tokens (--max_tokens): the model knows no more than"), std::string::npos) << o.err;
  EXPECT_EQ(run({"generate", model_, "--prompt", "a", "--max_tokens", "3", "--ignore_eos"}).err.find("the text ends"), std::string::npos);
}

TEST_F(Program, TheHeadIsTunedToo) {
  tiny_model().write(model_);
  calibration();
  const auto tune = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> a = {"--model", model_, "--output_dir", dir_ / name, "--scheme", "W4A16G32", "--dataset", dir_ / "calib.jsonl", "--nsamples", "8", "--seqlen", "32", "--quant_lm_head"};
    a.insert(a.end(), more.begin(), more.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return o;
  };
  tune("rounded", {"--iters", "0", "--disable_opt_rtn"});
  tune("tuned", {"--iters", "4"});
  const golden::file rounded(fs::path(dir_ / "rounded") / "model.safetensors"), tuned(fs::path(dir_ / "tuned") / "model.safetensors");
  EXPECT_NE(rounded["lm_head.qweight"].as<std::uint32_t>(), tuned["lm_head.qweight"].as<std::uint32_t>());
  EXPECT_EQ(run({"verify", "--model", dir_ / "tuned", "--source", model_}).status, 0);
  tiny_model(1, true).write(dir_ / "tied");
  const outcome tied = run({"--model", dir_ / "tied", "--output_dir", out_, "--scheme", "W4A16G32", "--iters", "0", "--quant_lm_head"});
  EXPECT_EQ(tied.status, 0) << tied.err;
  EXPECT_NE(tied.err.find("tied to the embedding"), std::string::npos) << tied.err;
}

// Files in the cache are links to blobs.
TEST_F(Program, NamesOfTheHubMeanItsLocalCache) {
  tiny_model().write(model_);
  const fs::path cached = dir_.path() / "hub/models--some-org--Tiny-1.0";
  fs::create_directories(cached / "blobs");
  fs::create_directories(cached / "refs");
  fs::create_directories(cached / "snapshots/0123abcd");
  for (const auto& e : fs::directory_iterator(model_)) {
    fs::copy(e.path(), cached / "blobs" / e.path().filename());
    fs::create_symlink("../../blobs" / e.path().filename(), cached / "snapshots/0123abcd" / e.path().filename());
  }
  tiny_model::put(cached / "refs/main", "0123abcd\n");
  const std::string cache = "HF_HUB_CACHE=" + (dir_ / "hub");
  const outcome o = run(quantize({"--model", "some-org/Tiny-1.0/", "--format", "gguf:q8_0"}), cache);
  ASSERT_EQ(o.status, 0) << o.err;
  const auto named = std::count_if(fs::directory_iterator(out_), fs::directory_iterator(), [](const auto& e) { return e.path().filename().string().starts_with("Tiny-1.0-"); });
  EXPECT_EQ(named, 1) << "after the model, not after its revision";
  EXPECT_EQ(run({"verify", out_, "--source", "some-org/Tiny-1.0"}, cache).status, 0);
  EXPECT_EQ(run({"inspect", "some-org/Tiny-1.0"}, "HF_HUB_CACHE= HF_HOME=" + dir_.path().string()).status, 0);
  fs::remove_all(out_);
  expect_refused(run(quantize({"--model", "some-org/Tiny-2.0"}), cache), bad_input, {"hf download some-org/Tiny-2.0", dir_ / "hub"});
  tiny_model::put(cached / "refs/main", "../../../model");
  expect_refused(run(quantize({"--model", "some-org/Tiny-1.0"}), cache), bad_input, {"hf download"});
}

// One that would change what the original writes must not pass in silence; the value that asks for what is done anyway may.
TEST_F(Program, VariablesThatWouldChangeTheResultAreRefused) {
  tiny_model().write(model_);
  expect_refused(run(quantize(), "AR_NVFP4_FUSED_LAYER_GLOBAL_SCALE=0"), unsupported, {"AR_NVFP4_FUSED_LAYER_GLOBAL_SCALE=0", "unset it"});
  expect_refused(run(quantize(), "AR_SEARCH_SCALE_RATIO=0.5"), unsupported, {"AR_SEARCH_SCALE_RATIO=0.5"});
  const outcome o = run(quantize({"--dry_run"}), "AR_NVFP4_FUSED_LAYER_GLOBAL_SCALE=True AR_ACT_SCALE=1.0 AR_MOE_ANYTHING=1");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(o.err, "note: environment variable AR_MOE_*: experts are always taken one by one\n");
}

TEST_F(Program, OptionsComeFromFilesAndTheEnvironmentToo) {
  tiny_model().write(model_);
  tiny_model::put(dir_ / "config.json", R"({"scheme": "W2A16G32", "iters": 0, "disable-opt-rtn": true, "quant_lm_head": false, "ignore_layers": "v_proj"})");
  const outcome o = run({"--config", dir_ / "config.json", "--model", model_, "--output_dir", out_, "--scheme", "W4A16G32"}, "AR_LOG_LEVEL=INFO AR_WORK_SPACE=here");
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("AR_WORK_SPACE"), std::string::npos) << o.err;
  const auto config = golden::read_json(out_ + "/quantization_config.json");
  EXPECT_EQ(config["bits"], 4) << "the command line has the last word";
  EXPECT_EQ(config["extra_config"]["model.layers.0.self_attn.v_proj"]["bits"], 16);
  fs::remove_all(out_);
  tiny_model::put(dir_ / "lists.json", R"({"scheme": "W4A16G32", "iters": 0, "format": ["auto_round", "fake"], "ignore_layers": ["v_proj", "q_proj"]})");
  const outcome lists = run({"--config", dir_ / "lists.json", "--model", model_, "--output_dir", out_});
  EXPECT_EQ(lists.status, 0) << "lists stand for commas: " << lists.err;
  EXPECT_TRUE(fs::exists(out_ + "/auto-round/config.json") && fs::exists(out_ + "/fake/config.json"));
  fs::remove_all(out_);
  const outcome printed = run({"--config", dir_ / "config.json", "--model", model_, "--scheme", "W4A16G32", "--print_config"});
  EXPECT_EQ(printed.status, 0);
  const auto options = golden::parse_json(printed.out);
  EXPECT_EQ(options["scheme"], "W4A16G32");
  EXPECT_EQ(options["iters"], "0");
  // What is printed means the same run: options that add up are all there, and of a flag and its negation the last one is.
  const outcome groups = run({model_, "--shared_layers", "q_proj", "k_proj", "--shared_layers", "gate_proj,up_proj", "o_proj", "--quant_lm_head", "--no_quant_lm_head", "--quant_lm_head", "--model", "other", "--print_config"});
  EXPECT_EQ(golden::parse_json(groups.out)["shared_layers"], "q_proj,k_proj;gate_proj,up_proj;o_proj");
  EXPECT_EQ(golden::parse_json(groups.out)["model"], model_) << "the argument without a name counts more";
  EXPECT_LT(groups.out.find("\"no_quant_lm_head\""), groups.out.find("\"quant_lm_head\""));
  tiny_model::put(dir_ / "printed.json", groups.out);
  EXPECT_EQ(run({"--config", dir_ / "printed.json", "--print_config"}).out, groups.out);
  tiny_model::put(dir_ / "wrong.json", R"({"schema": "W2A16G32"})");
  expect_refused(run({"--config", dir_ / "wrong.json", "--model", model_, "--output_dir", out_}), usage, {"schema", "wrong.json"});
  expect_refused(run(quantize(), "AR_OMP_NUM_THREADS=many"), usage, {"AR_OMP_NUM_THREADS", "many"});
}

// A run of hours must not end with a file that could never be written.
TEST_F(Program, FilesThatCannotBeWrittenAreRefusedBeforeAnyWork) {
  tiny_model().write(model_);
  calibration();
  tiny_model::put(dir_ / "there.gguf", "x");
  const std::vector<std::string> tuned = {"--model", model_, "--output_dir", out_, "--iters", "2", "--seqlen", "16", "--dataset", dir_ / "calib.jsonl"};
  for (const std::vector<std::string>& file : {std::vector<std::string>{"--save_imatrix", dir_ / "there.gguf"}, {"--save_imatrix", dir_ / "none/im.gguf"}, {"--save_imatrix", out_ + "/im.gguf"},
                                               {"--schemes", "W4A16G32,W8A16G32", "--bits", "5", "--autoscheme_json", dir_ / "none/x.json"}}) {
    std::vector<std::string> a = tuned;
    a.insert(a.end(), file.begin(), file.end());
    const outcome o = run(a);
    expect_refused(o, bad_output, {file[file.size() - 2], file.back(), "name another one"});
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << "before anything else was said: " << o.err;
    EXPECT_EQ(o.err.find("goes on"), std::string::npos) << o.err;
    EXPECT_FALSE(fs::exists(out_ + ".journal") || fs::exists(out_ + ".scores"));
  }
  EXPECT_EQ(golden::read_bytes(dir_ / "there.gguf"), "x");
  ASSERT_EQ(run(quantize({"--dry_run", "--dataset", dir_ / "calib.jsonl", "--seqlen", "16", "--save_imatrix", dir_ / "new.gguf"})).status, 0);
  EXPECT_FALSE(fs::exists(dir_ / "new.gguf")) << "nothing of the trial stays";
}

TEST_F(Program, ADryRunRefusesWhatTheRunWouldAndLeavesNothing) {
  tiny_model().write(model_);
  tiny_model::put(dir_ / "short.txt", "a\n");
  for (const char* folder : {"taken", "report"}) fs::create_directory(dir_ / folder);
  tiny_model::put(dir_ / "taken/file", "x");
  tiny_model::put(dir_ / "report/report.json", "x");
  const auto files = [&] {
    std::set<std::string> names;
    for (const auto& e : fs::recursive_directory_iterator(dir_.path())) names.insert(e.path().string());
    return names;
  };
  const std::vector<std::string> tuned = {"--iters", "2", "--seqlen", "16"};
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{"--dataset", dir_ / "none.jsonl"}, {"--dataset", dir_ / "short.txt"}, {"--output_dir", dir_ / "taken"}, {"--output_dir", dir_ / "taken", "--overwrite"}, {"--output_dir", "/proc/x"},
        {"--report", dir_ / "report"}, {"--model_free", "--output_dir", dir_ / "taken"}}) {
    std::vector<std::string> a = tuned;
    a.insert(a.end(), wrong.begin(), wrong.end());
    const auto before = files();
    const outcome real = run(quantize(a));
    a.emplace_back("--dry_run");
    const outcome dry = run(quantize(a));
    const auto last_line = [](const outcome& o) { return o.err.substr(std::min(o.err.rfind("error: "), o.err.size())); };
    EXPECT_NE(real.status, 0) << wrong.back();
    EXPECT_EQ(dry.status, real.status) << dry.err;
    EXPECT_EQ(last_line(dry), last_line(real));
    EXPECT_EQ(files(), before) << wrong.back();
  }
  const auto before = files();
  EXPECT_EQ(run(quantize({"--iters", "2", "--seqlen", "16", "--report", dir_ / "new", "--output_dir", dir_ / "deep/down/out", "--dry_run"})).status, 0);
  EXPECT_EQ(files(), before);
}

// A file that is opened gets the number of a stream that is closed, and would get its lines.
TEST_F(Program, ClosedStreamsGetNoFile) {
  tiny_model().write(model_);
  const std::string log = dir_ / "log.json";
  const std::string line = support::quoted(std::string(AR_BINARY_DIR) + "/bin/auto-round") + " " + support::quoted(model_) + " --output_dir " + support::quoted(out_) + " --iters 0 --scheme W4A16G32 --progress lines --log_json " +
                           support::quoted(log) + " 2>&- 1>&- 0<&-";
  ASSERT_EQ(std::system(line.c_str()), 0);
  std::istringstream events(golden::read_bytes(log));
  for (std::string event; std::getline(events, event);) EXPECT_TRUE(ordered_json::accept(event)) << event;
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
  for (const char* lost : {" >&-", " >/dev/full"}) {  // results that nobody gets
    const int raw = std::system((support::quoted(std::string(AR_BINARY_DIR) + "/bin/auto-round") + " list 2>/dev/null" + lost).c_str());
    EXPECT_EQ(WEXITSTATUS(raw), bad_output) << lost;
  }
}

TEST_F(Program, ContradictionsAndTyposAreNotTakenInSilence) {
  tiny_model().write(model_);
  expect_refused(run(quantize({"--model_free", "--disable_model_free"})), usage, {"--model_free", "--disable_model_free"});
  expect_refused(run(quantize({"--layer_config", "{lm_head: W8A16}", "--no_quant_lm_head"})), usage, {"lm_head", "--no_quant_lm_head"});
  expect_refused(run(quantize({"--iters", "2", "--descent_sweeps", "-1"})), usage, {"--descent_sweeps", "-1"});
  fs::create_directory(dir_ / "sets");
  tiny_model::put(dir_ / "sets/pile-10k.jsonl", tiny_model::calibration(64));
  const std::string file = dir_ / "sets/pile-10k.jsonl";
  for (const auto& [name, words] : {std::pair<std::string, std::string>{"txt/a", "\"txt/a\" is no file and is taken for the data set NeelNanda/pile-10k (" + file + ")"},
                                    {"pile-10k", "calibration text: NeelNanda/pile-10k (" + file + ")"}}) {
    const outcome o = run(quantize({"--iters", "2", "--seqlen", "16", "--dataset", name, "--dataset_dir", dir_ / "sets", "--dry_run"}));
    EXPECT_EQ(o.status, 0) << o.err;
    EXPECT_NE(o.err.find(words), std::string::npos) << o.err;
  }
  EXPECT_NE(run({"man"}).out.find("OUT.journal"), std::string::npos);
}

// A file is called as somebody likes; the model in it has a name.
TEST_F(Program, AGgufFileOfAGgufFileKeepsTheModelsName) {
  tiny_model().write(dir_ / "Some Model");
  ASSERT_EQ(run({dir_ / "Some Model", "--output_dir", dir_ / "first", "--format", "gguf:q8_0", "--iters", "0"}).status, 0);
  const auto file_in = [&](const std::string& folder) {
    for (const auto& e : fs::directory_iterator(dir_ / folder))
      if (e.path().extension() == ".gguf") return e.path();
    return fs::path();
  };
  EXPECT_TRUE(file_in("first").filename().string().starts_with("Some-Model-")) << file_in("first");
  fs::create_directory(dir_ / "dl");
  fs::copy(file_in("first"), dir_ / "dl/x.gguf");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fs::copy(dir_.path() / "first" / name, dir_.path() / "dl" / name);
  ASSERT_EQ(run({"convert", dir_ / "dl", "--output_dir", dir_ / "converted", "--format", "gguf:q8_0"}).status, 0);
  ASSERT_EQ(run({dir_ / "dl/x.gguf", "--output_dir", dir_ / "again", "--format", "gguf:q4_0", "--iters", "0"}).status, 0);
  for (const char* folder : {"converted", "again"}) {
    EXPECT_TRUE(file_in(folder).filename().string().starts_with("Some-Model-")) << file_in(folder);
    EXPECT_NE(golden::read_bytes(file_in(folder)).find("Some Model"), std::string::npos) << folder;
  }
}

TEST_F(Program, AFormatIsListedWithMixedIntegersOnlyIfItHoldsBothWidths) {
  const std::string listed = run({"list", "formats"}).out;
  for (const auto& [format, holds] : {std::pair<std::string, bool>{"auto_awq", false}, {"auto_round:auto_awq", false}, {"auto_round", true}, {"auto_gptq", true}}) {
    const std::size_t at = listed.find("\n" + format + "\n\t"), schemes = listed.find('\t', at);
    ASSERT_NE(at, std::string::npos) << format;
    EXPECT_EQ(listed.substr(schemes, listed.find('\n', schemes) - schemes).find("W4A16_MIXED") != std::string::npos, holds) << format;
  }
}

TEST_F(Program, HelpAndVersionGoToStandardOutput) {
  for (const std::vector<std::string>& a : {std::vector<std::string>{"--help"}, {"help"}, {"help", "eval"}, {"quantize", "--help"}, {"--version"}, {"list"}, {"list", "dataset"}, {"list", "alg"},
                                            {"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}, {"man"}}) {
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0);
    EXPECT_FALSE(o.out.empty());
    EXPECT_EQ(o.err, "");
  }
}

// What the shell does at the tabulator key, done by bash itself.
TEST_F(Program, BashCompletesCommandsOptionsAndTheirValues) {
  tiny_model::put(dir_ / "completion.bash", run({"completion", "bash"}).out);
  const auto completed = [&](const std::string& line) {
    tiny_model::put(dir_ / "ask.bash", "source " + (dir_ / "completion.bash") + "\nCOMP_LINE=" + support::quoted(line) + "\nCOMP_POINT=${#COMP_LINE}\n_auto_round\necho \"${COMPREPLY[@]}\"\n");
    const std::string to = dir_ / "answer";
    EXPECT_EQ(std::system(("bash " + support::quoted(dir_ / "ask.bash") + " >" + support::quoted(to) + " 2>&1").c_str()), 0) << line;
    return golden::read_bytes(to);
  };
  EXPECT_EQ(completed("auto-round ev"), "eval\n");
  EXPECT_EQ(completed("auto-round --model x --scheme W4A16G"), "W4A16G64 W4A16G32\n");
  EXPECT_EQ(completed("auto-round convert --format auto_a"), "auto_awq\n");
  EXPECT_EQ(completed("auto-round --format gguf:q4_k"), "q4_k_s q4_k_m\n") << "bash replaces what stands behind the colon";
  EXPECT_EQ(completed("auto-round eval --tasks piq"), "piqa\n");
  EXPECT_EQ(completed("auto-round --fuse-check "), "warn error off\n");
  EXPECT_EQ(completed("auto-round eval --ppl"), "--ppl\n");
  EXPECT_EQ(completed("auto-round-best --scale_d"), "--scale_dtype\n");
}

TEST_F(Program, ListsTheOptionsOfAnAlgorithm) {
  const auto options_of = [](const std::string& algorithm) { return run({"list", "algorithms", algorithm}).out; };
  EXPECT_NE(options_of("awq").find("--awq_n_grid"), std::string::npos);
  EXPECT_EQ(options_of("awq").find("--iters"), std::string::npos);
  EXPECT_NE(options_of("auto_round").find("--iters"), std::string::npos);
  EXPECT_NE(options_of("rtn").find("--disable_opt_rtn"), std::string::npos);
  EXPECT_EQ(options_of("rtn").find("--iters,"), std::string::npos);
  EXPECT_NE(options_of("spinquant").find("--rotation_iters"), std::string::npos);
}

// --- hostile input ------------------------------------------------------------------------------------------------------------------------------

TEST_F(Program, ATruncatedShardIsRefused) {
  tiny_model().write(model_, [](std::string& bytes) { bytes.resize(bytes.size() - 100); });
  expect_refused(run(quantize()), bad_input, {"model.safetensors"});
  tiny_model().write(model_, [](std::string& bytes) { bytes.resize(50); });
  expect_refused(run(quantize()), bad_input, {"model.safetensors"});
  tiny_model().write(model_, [](std::string& bytes) { bytes.clear(); });
  expect_refused(run(quantize()), bad_input, {"model.safetensors"});
}

TEST_F(Program, OffsetsPastTheEndAreRefused) {
  tiny_model().write(model_, [](std::string& bytes) {
    const std::size_t at = bytes.find("\"data_offsets\":[0,");
    bytes.replace(at + 18, 1, "9");
  });
  expect_refused(run(quantize()), bad_input, {"model.safetensors"});
}

TEST_F(Program, ShapesWhoseProductWrapsAreRefused) {
  tiny_model m;
  m.tensors["lm_head.weight"].shape = {std::uint64_t{1} << 63, 4};
  m.write(model_);
  expect_refused(run(quantize()), bad_input, {"lm_head.weight"});
}

TEST_F(Program, AMissingTensorIsNamed) {
  tiny_model m;
  m.tensors.erase("model.layers.1.mlp.up_proj.weight");
  m.write(model_);
  expect_refused(run(quantize()), bad_input, {"model.layers.1.mlp.up_proj.weight"});
}

TEST_F(Program, AWrongShapeIsNamed) {
  tiny_model m;
  m.add("model.layers.0.self_attn.k_proj.weight", 64, 32);
  m.write(model_);
  expect_refused(run(quantize()), bad_input, {"model.layers.0.self_attn.k_proj.weight", "[64, 32]", "[32, 64]"});
}

TEST_F(Program, WeightsThatAreNotFiniteAreNamed) {
  calibration();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const char* name : {"model.layers.1.mlp.down_proj.weight", "model.norm.weight"}) {
      tiny_model m;
      m.set(name, 3, bad);
      m.write(model_);
      expect_refused(run(quantize()), bad_input, {name});
      expect_refused(run(quantize({"--disable_model_free"})), bad_input, {name});
      expect_refused(run({"--model", model_, "--output_dir", out_, "--iters", "2", "--nsamples", "4", "--seqlen", "16", "--dataset", dir_ / "calib.jsonl"}), bad_input,
                     {name});
    }
  }
}

TEST_F(Program, AnUnknownArchitectureIsNamed) {
  tiny_model m;
  m.config["architectures"] = {"FancyForCausalLM"};
  m.config["model_type"] = "fancy";
  m.write(model_);
  expect_refused(run(quantize({"--disable_model_free"})), unsupported, {"FancyForCausalLM"});
}

TEST_F(Program, DamagedConfigurationsAreRefused) {
  tiny_model m;
  m.config["num_attention_heads"] = 0;
  m.write(model_);
  expect_refused(run(quantize()), bad_input, {"num_attention_heads"});
  tiny_model().write(model_);
  tiny_model::put(model_ + "/config.json", "{\"architectures\": [");
  expect_refused(run(quantize()), bad_input, {"config.json"});
  fs::remove(model_ + "/config.json");
  expect_refused(run(quantize()), unsupported, {model_});
  expect_refused(run({"--model", dir_ / "nowhere", "--output_dir", out_}), bad_input, {"nowhere"});
}

TEST_F(Program, CalibrationTextMustBeThereAndBeEnough) {
  tiny_model().write(model_);
  const std::vector<std::string> tune = {"--model", model_, "--output_dir", out_, "--iters", "2", "--seqlen", "32", "--nsamples", "4"};
  const auto with = [&](const std::string& dataset) {
    std::vector<std::string> a = tune;
    a.insert(a.end(), {"--dataset", dataset});
    return a;
  };
  const outcome builtin = run(tune);
  EXPECT_EQ(builtin.status, 0) << "a run needs neither file nor network: " << builtin.err;
  EXPECT_NE(builtin.err.find("built-in sample"), std::string::npos) << builtin.err;
  fs::remove_all(out_);
  expect_refused(run(with("pile-10k")), unsupported, {"pile-10k", "--dataset_dir"});
  tiny_model::put(dir_ / "empty.jsonl", "");
  expect_refused(run(with(dir_ / "empty.jsonl")), bad_input, {"empty.jsonl"});
  tiny_model::put(dir_ / "short.jsonl", "{\"text\": \"ten bytes.\"}\n");
  expect_refused(run(with(dir_ / "short.jsonl")), bad_input, {});
  expect_refused(run(with(dir_ / "missing.jsonl")), bad_input, {"missing.jsonl"});
  fs::remove(model_ + "/tokenizer.json");
  calibration();
  expect_refused(run(with(dir_ / "calib.jsonl")), unsupported, {"tokenizer.json"});
}

// --- the output ---------------------------------------------------------------------------------------------------------------------------------

TEST_F(Program, AnOutputFolderThatIsNotEmptyIsLeftAlone) {
  tiny_model().write(model_);
  fs::create_directories(out_);
  tiny_model::put(out_ + "/mine.txt", "precious");
  const outcome o = run(quantize());
  EXPECT_EQ(o.status, bad_output) << o.err;
  EXPECT_EQ(golden::read_bytes(out_ + "/mine.txt"), "precious");
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
}

TEST_F(Program, OverwriteReplacesWhatThisProgramMadeAndNothingElse) {
  tiny_model().write(model_);
  const auto overwrite = [&](std::vector<std::string> command) {
    command.push_back("--overwrite");
    return run(command);
  };
  fs::create_directories(out_);
  tiny_model::put(out_ + "/mine.txt", "precious");
  support::expect_error_line(overwrite(quantize()), bad_output, {out_, "was not made by this program"});
  EXPECT_EQ(golden::read_bytes(out_ + "/mine.txt"), "precious");
  fs::remove(out_ + "/mine.txt");
  ASSERT_EQ(overwrite(quantize()).status, 0) << "an empty folder is nobody's";
  const std::string before = golden::read_bytes(out_ + "/SHA256SUMS");
  support::expect_error_line(run(quantize()), bad_output, {});
  std::vector<std::string> other = quantize();
  other.insert(other.end(), {"--group_size", "16"});
  ASSERT_EQ(overwrite(other).status, 0);
  EXPECT_NE(golden::read_bytes(out_ + "/SHA256SUMS"), before);
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
  // What somebody put beside it since stays, the calibration text of this very run too.
  fs::create_directories(out_ + "/experiments");
  support::expect_error_line(overwrite(quantize()), bad_output, {out_ + "/experiments", "was not made by this program"});
  fs::remove(out_ + "/experiments");
  tiny_model::put(out_ + "/calib.jsonl", tiny_model::calibration(64));
  support::expect_error_line(overwrite(quantize({"--dataset", out_ + "/calib.jsonl"})), bad_output, {out_ + "/calib.jsonl"});
  EXPECT_TRUE(fs::exists(out_ + "/calib.jsonl"));
  fs::remove(out_ + "/calib.jsonl");
  // Several formats: one folder each.
  const std::string several = dir_ / "several";
  const std::vector<std::string> both = {"quantize", "--model", model_, "--output_dir", several, "--scheme", "W4A16G32", "--iters", "0", "--format", "auto_round,fake"};
  ASSERT_EQ(overwrite(both).status, 0);
  ASSERT_EQ(overwrite(both).status, 0);
  tiny_model::put(several + "/fake/notes.txt", "mine");
  support::expect_error_line(overwrite(both), bad_output, {several + "/fake/notes.txt"});
  support::expect_error_line(overwrite({"--model", model_, "--output_dir", fs::path(model_).parent_path().string(), "--iters", "0"}), usage, {"the model that is read"});
}

TEST_F(Program, AnUnwritablePlaceIsRefused) {
  tiny_model().write(model_);
  const outcome o = run({"--model", model_, "--output_dir", "/proc/nowhere/out", "--iters", "0", "--disable_opt_rtn"});
  EXPECT_EQ(o.status, bad_output) << o.err;
  tiny_model::put(dir_ / "file", "");
  EXPECT_EQ(run({"--model", model_, "--output_dir", (dir_ / "file") + "/out", "--iters", "0", "--disable_opt_rtn"}).status, bad_output);
}

TEST_F(Program, AFullDiskLeavesNothing) {
  tiny_model().write(model_);
  // Files may not grow beyond 32 KiB: the same path through the program as a full disk, without privileges.
  const outcome limited = run(quantize(), "ulimit -f 32;");
  expect_refused(limited, bad_output, {});
  if (geteuid() != 0) GTEST_SKIP() << "the rest mounts a small file system, which needs root";
  const std::string small = dir_ / "small";
  fs::create_directories(small);
  if (std::system(("mount -t tmpfs -o size=64k tmpfs " + support::quoted(small) + " 2>/dev/null").c_str()) != 0) GTEST_SKIP() << "no mount in this container";
  const outcome full = run({"--model", model_, "--output_dir", small + "/out", "--scheme", "W4A16G32", "--iters", "0", "--disable_opt_rtn"});
  EXPECT_EQ(full.status, bad_output) << full.err;
  EXPECT_TRUE(fs::is_empty(small));
  EXPECT_EQ(std::system(("umount " + support::quoted(small)).c_str()), 0);
}

TEST_F(Program, AnInterruptLeavesNothing) {
  tiny_model().write(model_);
  calibration();
  for (const auto& [signal, tuning] : std::vector<std::pair<std::string, std::string>>{{"INT", "gram"}, {"TERM", "block"}}) {
    // Nothing is tuned in block 0: when its line with the losses is in the log, the program is in the loop and has far to go. One signal exactly, which `timeout` would not send.
    const std::string log = dir_ / signal;
    const std::string prefix = "sh -c '\"$@\" & p=$!; while kill -0 $p && ! grep -qs first_loss " + log + "; do sleep 0.02; done; kill -s " + signal + " $p; wait $p' sh";
    const outcome o = run({"--model", model_, "--output_dir", out_, "--iters", "1000000", "--seqlen", "32", "--nsamples", "8", "--dataset", dir_ / "calib.jsonl",
                           "--scheme", "W4A16G32", "--ignore_layers", "model.layers.0", "--tuning", tuning, "--restart", "--descent_sweeps", "0", "--log_json", log}, prefix);
    expect_refused(o, 130, {"interrupted while tuning"});
    const std::string events = golden::read_bytes(log);
    EXPECT_NE(events.find("\"status\": 130"), std::string::npos) << "the run did not end in good order: " << events;
  }
}

TEST_F(Program, VerifyFindsEveryFlippedBit) {
  tiny_model().write(model_);
  ASSERT_EQ(run(quantize()).status, 0);
  const std::string file = out_ + "/model.safetensors";
  const std::string good = golden::read_bytes(file);
  for (const std::size_t at : {std::size_t{9}, good.size() / 3, good.size() / 2, good.size() - 1}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    tiny_model::put(file, bad);
    const outcome o = run({"verify", "--model", out_});
    EXPECT_TRUE(o.status == failed_verification || o.status == bad_input) << at << ": " << o.err;
  }
  tiny_model::put(file, good);
  EXPECT_EQ(run({"verify", "--model", out_}).status, 0);
}

TEST_F(Program, VerifyFindsAConfigurationThatContradictsTheTensors) {
  tiny_model().write(model_);
  ASSERT_EQ(run(quantize()).status, 0);
  fs::remove(out_ + "/SHA256SUMS");
  auto config = golden::read_json(out_ + "/config.json");
  config["quantization_config"]["extra_config"]["model.layers.0.mlp.up_proj"] = {{"bits", 16}, {"data_type", "float"}};
  tiny_model::put(out_ + "/config.json", config.dump());
  const outcome o = run({"verify", "--model", out_});
  EXPECT_NE(o.status, 0);
  EXPECT_NE(o.err.find("model.layers.0.mlp.up_proj"), std::string::npos) << o.err;
}

TEST_F(Program, VerifyComparesWithTheSource) {
  tiny_model(1).write(model_);
  tiny_model(2).write(dir_ / "other");
  ASSERT_EQ(run(quantize()).status, 0);
  support::expect_error_line(run({"verify", "--model", out_, "--source", dir_ / "other"}), failed_verification, {"which nothing explains"});
}

TEST_F(Program, VerifyKnowsWhatQuantizingDoesToWeights) {
  tiny_model m(1);
  m.write(model_);
  calibration();
  const auto verify = [&](const std::string& model) { return run({"verify", "--model", model, "--source", model_, "--json"}); };
  // Tuning at few bits moves a weight by more than it is large, to both sides.
  tiny_model moved = m;
  std::string& bytes = moved.tensors.at("model.layers.0.mlp.up_proj.weight").bytes;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    std::uint16_t h = 0;
    std::memcpy(&h, bytes.data() + i, 2);
    const float w = ar::f32_from_bf16(h);
    h = ar::bf16_from_f32(w + 1.4f * (i / 2 % 3 == 0 ? -w : i / 2 % 3 == 1 ? 0.5f * w : w));
    std::memcpy(bytes.data() + i, &h, 2);
  }
  moved.write(dir_ / "moved");
  EXPECT_EQ(verify(dir_ / "moved").status, 0);

  // Norms that were smoothed are named.
  ASSERT_EQ(run({"quantize", "--model", model_, "--output_dir", dir_ / "awq", "--scheme", "W4A16G32", "--algorithm", "awq", "--iters", "0", "--dataset", dir_ / "calib.jsonl", "--nsamples", "8", "--seqlen", "32"}).status, 0);
  const outcome smoothed = verify(dir_ / "awq");
  ASSERT_EQ(smoothed.status, 0) << smoothed.err;
  EXPECT_NE(smoothed.out.find("\"changed\": [\"model.layers.0.input_layernorm.weight\""), std::string::npos) << smoothed.out;
  EXPECT_NE(run({"verify", "--model", dir_ / "awq", "--source", model_}).out.find("model.layers.0.input_layernorm.weight"), std::string::npos);

  // Zero points that are off by one, as when the two forms of GPTQ words are taken for each other.
  ASSERT_EQ(run(quantize()).status, 0);
  for (const char* name : {"config.json", "quantization_config.json"}) {
    std::string text = golden::read_bytes(fs::path(out_) / name);
    text.replace(text.find("auto_round:auto_gptq"), std::string("auto_round:auto_gptq").size(), "auto_round:gptqmodel");
    tiny_model::put(fs::path(out_) / name, text);
  }
  fs::remove(out_ + "/SHA256SUMS");
  const outcome misread = verify(out_);
  support::expect_error_line(misread, failed_verification, {"zero points", "model.layers.0"});
  EXPECT_EQ(golden::parse_json(misread.out)["ok"], false);
  EXPECT_NE(golden::parse_json(misread.out)["error"].get<std::string>().find("zero points"), std::string::npos);
}

}  // namespace
