// links: ar_report
// AutoScheme through the program: mixed checkpoints that verify, bits that are really written, scores kept for the next target, data for others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/faults.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using support::outcome;
using support::run;
using support::tiny_model;

constexpr int usage = 2, bad_output = 4, unsupported = 5;

class AutoScheme : public testing::Test {
 protected:
  AutoScheme() : model_(dir_ / "model"), out_(dir_ / "out"), text_(dir_ / "calib.jsonl") {
    tiny_model().write(model_);
    tiny_model::put(text_, tiny_model::calibration(16));
  }

  std::vector<std::string> choose(const std::string& schemes, const std::string& target, std::vector<std::string> more = {}) const {
    std::vector<std::string> a = {"quantize", "--model", model_, "--output_dir", out_, "--schemes", schemes, "--avg_bits", target, "--dataset", text_,
                                  "--score_nsamples", "4", "--score_seqlen", "16", "--score_batch_size", "2", "--iters", "0", "--disable_opt_rtn", "--json"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }

  /// The result of a run that must work; what it wrote must verify, and is removed.
  ordered_json chosen(const std::vector<std::string>& arguments) {
    const outcome o = run(arguments);
    EXPECT_EQ(o.status, 0) << o.err;
    if (o.status != 0) return {};
    const outcome checked = run({"verify", "--model", out_, "--source", model_});
    EXPECT_EQ(checked.status, 0) << checked.err;
    fs::remove_all(out_);
    return golden::parse_json(o.out);
  }

  static std::map<std::string, std::string> schemes_of(const ordered_json& result) {
    std::map<std::string, std::string> all;
    for (const ordered_json& l : result["autoscheme"]["layers"]) all[l["name"]] = l["scheme"].is_null() ? std::string() : l["scheme"].get<std::string>();
    return all;
  }
  static std::set<std::string> kinds(const ordered_json& result) {
    std::set<std::string> all;
    for (const auto& [name, scheme] : schemes_of(result)) all.insert(scheme);
    return all;
  }

  void expect_refused(const outcome& o, int status, const std::vector<std::string>& words) {
    EXPECT_EQ(o.status, status) << o.err;
    const std::size_t at = o.err.rfind("error: ");
    ASSERT_NE(at, std::string::npos) << o.err;
    for (const std::string& w : words) EXPECT_NE(o.err.find(w, at), std::string::npos) << "\"" << w << "\" is not in: " << o.err.substr(at);
    EXPECT_FALSE(fs::exists(out_));
  }

  support::temp_dir dir_;
  std::string model_, out_, text_;
};

const std::string integers = "W2A16G32,W4A16G32,W8A16G32";

TEST_F(AutoScheme, WritesAMixWhoseBitsAreThoseThatWereAskedFor) {
  const outcome o = run(choose(integers, "4.9", {"--bits_accounting", "exact"}));
  ASSERT_EQ(o.status, 0) << o.err;
  const ordered_json json = golden::parse_json(o.out);
  const double average = json["autoscheme"]["avg_bits"];
  EXPECT_LE(average, 4.9);
  EXPECT_GT(average, 4.5);  // the sums of 14 small layers lie close together
  EXPECT_NEAR(json["formats"][0]["bits_per_quantized_weight"].get<double>(), average, 1e-9);
  EXPECT_GE(kinds(json).size(), 2u);
  EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);

  // The configuration names every layer that differs from the first option, and the packed words have that width.
  const ordered_json config = golden::read_json(fs::path(out_) / "config.json")["quantization_config"];
  EXPECT_EQ(config["bits"], 2);
  for (const auto& [name, scheme] : schemes_of(json)) {
    const int bits = scheme[1] - '0';
    const bool listed = config.contains("extra_config") && config["extra_config"].contains(name);
    EXPECT_EQ(listed, bits != 2) << name;
    if (listed) {
      EXPECT_EQ(config["extra_config"][name]["bits"], bits) << name;
    }
  }
  const outcome seen = run({"eval", "--model", out_, "--ppl", text_, "--seqlen", "16", "--max_tokens", "64", "--ref", model_, "--json"});
  EXPECT_EQ(seen.status, 0) << seen.err;
}

TEST_F(AutoScheme, AnotherTargetTakesNoPass) {
  const std::string cache = dir_ / "cache";
  const ordered_json first = chosen(choose(integers, "4.0", {"--score_cache", cache}));
  EXPECT_EQ(first["autoscheme"]["options_from_cache"], 0);
  EXPECT_GT(first["autoscheme"]["scoring_seconds"].get<double>(), 0);
  const ordered_json second = chosen(choose(integers, "6.0", {"--score_cache", cache}));
  EXPECT_EQ(second["autoscheme"]["options_from_cache"], 3);
  EXPECT_EQ(second["autoscheme"]["scoring_seconds"], 0.0);
  EXPECT_GT(second["autoscheme"]["avg_bits"], first["autoscheme"]["avg_bits"]);
  EXPECT_LT(second["autoscheme"]["loss"], first["autoscheme"]["loss"]);
  EXPECT_EQ(schemes_of(second), schemes_of(chosen(choose(integers, "6.0"))));

  // A further option is scored alone; other text, another rule and damaged files are not taken for the same.
  EXPECT_EQ(chosen(choose(integers + ",W3A16G32", "4.0", {"--score_cache", cache}))["autoscheme"]["options_from_cache"], 3);
  EXPECT_EQ(chosen(choose(integers, "4.0", {"--score_cache", cache, "--seed", "7"}))["autoscheme"]["options_from_cache"], 0);
  EXPECT_EQ(chosen(choose(integers, "4.0", {"--score_cache", cache, "--score_gradient", "quantized"}))["autoscheme"]["options_from_cache"], 0);
  for (const auto& file : fs::directory_iterator(cache)) tiny_model::put(file.path(), "{\"version\": 1, \"layer_scores\": {\"");
  EXPECT_EQ(chosen(choose(integers, "4.0", {"--score_cache", cache}))["autoscheme"]["options_from_cache"], 0);
}

TEST_F(AutoScheme, TheFrontierHoldsTheAnswerToEveryTarget) {
  const std::string file = dir_ / "frontier.json";
  const std::string log = dir_ / "log.jsonl";
  const ordered_json json = chosen(choose(integers, "5.1", {"--autoscheme_json", file, "--log_json", log}));
  const ordered_json data = golden::read_json(file);
  std::istringstream events(golden::read_bytes(log));
  ordered_json event;
  for (std::string line; std::getline(events, line) && event["event"] != "autoscheme";) event = golden::parse_json(line);
  EXPECT_EQ(event["frontier"], data["frontier"]);
  EXPECT_EQ(data["frontier"], json["autoscheme"]["frontier"]);
  ASSERT_TRUE(data["frontier"]["complete"].get<bool>());
  const ordered_json* answer = nullptr;
  double bits = 0, loss = 1e300;
  for (const ordered_json& p : data["frontier"]["points"]) {
    EXPECT_GT(p["avg_bits"], bits);
    EXPECT_LT(p["loss"], loss);
    bits = p["avg_bits"];
    loss = p["loss"];
    if (bits <= 5.1) answer = &p;
  }
  ASSERT_NE(answer, nullptr);
  EXPECT_EQ((*answer)["bits"], data["bits"]);
  EXPECT_EQ((*answer)["loss"], data["loss"]);
  // Whoever wants to choose by himself has what it takes.
  for (const ordered_json& l : data["layers"]) {
    EXPECT_EQ(l["scores"].size(), 3u);
    EXPECT_EQ(l["bits"].size(), 3u);
    EXPECT_GT(l["scores"][0], l["scores"][2]);
  }
}

TEST_F(AutoScheme, SharedAndIgnoredLayersKeepTheirPlace) {
  const ordered_json json = chosen(choose(integers, "6.5", {"--shared_layers", "q_proj,k_proj,v_proj;gate_proj,up_proj", "--ignore_layers", "layers.0.mlp.down_proj"}));
  std::map<std::string, std::string> s = schemes_of(json);
  for (const std::string block : {"model.layers.0.", "model.layers.1."}) {
    EXPECT_EQ(s[block + "self_attn.q_proj"], s[block + "self_attn.k_proj"]);
    EXPECT_EQ(s[block + "self_attn.q_proj"], s[block + "self_attn.v_proj"]);
    EXPECT_EQ(s[block + "mlp.gate_proj"], s[block + "mlp.up_proj"]);
  }
  EXPECT_EQ(s["model.layers.0.mlp.down_proj"], "");
  EXPECT_LE(json["autoscheme"]["avg_bits"], 6.5);  // its 16 bits included
}

TEST_F(AutoScheme, GgufTypesAreMixedWithTheirFallbacksCounted) {
  // Rows of 64 and 96: no K type fits, and the types that take their place are inside the budget.
  const ordered_json json = chosen(choose("GGUF:Q2_K_S,GGUF:Q4_K_S,GGUF:Q6_K", "6.0", {"--format", "gguf:q4_k_s", "--bits_accounting", "exact"}));
  EXPECT_LE(json["autoscheme"]["avg_bits"], 6.0);
  double bits = 0, weights = 0;
  for (const ordered_json& l : json["autoscheme"]["layers"]) {
    const double stored = l["stored_bits"];
    EXPECT_TRUE(stored == 4 || stored == 5 || stored == 8) << l;
    weights += l["weights"].get<double>();
    bits += l["weights"].get<double>() * (stored + (stored == 4 ? 1 : 0.5));  // q4_1 has a minimum, too; q5_0 and q8_0 have a scale
  }
  EXPECT_NEAR(bits / weights, json["autoscheme"]["avg_bits"].get<double>(), 1e-9);
}

/// Everything that a gguf file quantizes is paid from one budget: the average is that of the file.
TEST_F(AutoScheme, GgufHeadAndEmbeddingAreInTheBudget) {
  for (const bool tied : {false, true}) {
    fs::remove_all(model_);
    tiny_model(1, tied, false, 256, 256).write(model_);
    const ordered_json json = chosen(choose("GGUF:Q2_K_S,GGUF:Q4_K_S,GGUF:Q6_K", "4.6", {"--format", "gguf:q2_k_s", "--bits_accounting", "exact"}));
    const double average = json["autoscheme"]["avg_bits"];
    EXPECT_LE(average, 4.6);
    EXPECT_GT(average, 4.2);
    EXPECT_NEAR(json["formats"][0]["bits_per_quantized_weight"].get<double>(), average, 1e-9);
    std::map<std::string, std::string> s = schemes_of(json);
    EXPECT_EQ(s.count("lm_head"), tied ? 0u : 1u);
    if (!tied) {
      EXPECT_EQ(s["lm_head"], "GGUF:Q6_K");  // 6 bits or more, where there are
    }
    // An embedding that is the head, too, takes the option of least loss with at most 6 bits, else what its codes' share of the target is.
    EXPECT_EQ(s["model.embed_tokens"], tied ? "GGUF:Q6_K" : "GGUF:Q4_K_S");
    EXPECT_EQ(s.size(), tied ? 15u : 16u);
    for (const ordered_json& l : json["autoscheme"]["layers"]) {
      const bool embedding = l["name"] == "model.embed_tokens";
      EXPECT_EQ(l["scores"][0] == 0.0, embedding) << l["name"];
    }
  }
  // Rows of 64: an embedding falls back like any layer, for the original's rules, too.
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--compat"}}) {
    fs::remove_all(model_);
    tiny_model().write(model_);
    std::vector<std::string> a = {"--format", "gguf:q2_k_s"};
    a.insert(a.end(), more.begin(), more.end());
    const ordered_json result = chosen(choose("GGUF:Q2_K_S,GGUF:Q4_K_S,GGUF:Q6_K", "5.9", a));
    for (const ordered_json& l : result["autoscheme"]["layers"]) EXPECT_FALSE(l["scheme"].is_null()) << l["name"];
  }
}

TEST_F(AutoScheme, AHeadThatIsQuantizedIsACandidate) {
  EXPECT_FALSE(schemes_of(chosen(choose(integers, "5.0"))).contains("lm_head"));
  const ordered_json wanted = chosen(choose(integers, "5.0", {"--quant_lm_head", "--bits_accounting", "exact"}));
  EXPECT_EQ(schemes_of(wanted)["lm_head"], "W8A16G32");
  EXPECT_NEAR(wanted["formats"][0]["bits_per_quantized_weight"].get<double>(), wanted["autoscheme"]["avg_bits"].get<double>(), 1e-9);
  EXPECT_GT(wanted["autoscheme"]["layers"].back()["scores"][0], 0.0);
  // What the user says of it is counted, but not chosen.
  const ordered_json fixed = chosen(choose(integers, "5.0", {"--layer_config", "{lm_head:{bits:4,group_size:32}}", "--bits_accounting", "exact"}));
  const ordered_json& head = fixed["autoscheme"]["layers"].back();
  EXPECT_EQ(head["name"], "lm_head");
  EXPECT_TRUE(head["scheme"].is_null());
  EXPECT_EQ(head["stored_bits"], 4);
  EXPECT_NEAR(fixed["formats"][0]["bits_per_quantized_weight"].get<double>(), fixed["autoscheme"]["avg_bits"].get<double>(), 1e-9);
}

TEST_F(AutoScheme, ScoresAreThereForARunThatGoesOn) {
  const std::vector<std::string> arguments = choose("W2A16G32,W4A16G32,W8A16G32", "4.0");
  const ordered_json whole = chosen(arguments);
  EXPECT_EQ(whole["autoscheme"]["options_from_cache"], 0);
  EXPECT_FALSE(fs::exists(out_ + ".scores"));
  const long all = support::calls_that_change_the_disk(arguments);
  fs::remove_all(out_);
  ASSERT_EQ(support::run_with_fault(arguments, "kill:" + std::to_string(all / 2)).status, 137);
  ASSERT_TRUE(fs::exists(out_ + ".scores"));
  tiny_model::put(out_ + ".scores/mine.txt", "a file of somebody else");
  const ordered_json again = chosen(arguments);
  EXPECT_EQ(again["autoscheme"]["options_from_cache"], 3);
  EXPECT_EQ(again["autoscheme"]["layers"], whole["autoscheme"]["layers"]);
  // What the program made is gone, and nothing else.
  std::vector<std::string> left;
  for (const auto& file : fs::directory_iterator(out_ + ".scores")) left.push_back(file.path().filename());
  EXPECT_EQ(left, std::vector<std::string>{"mine.txt"});
}

/// Files of a folder whose names begin so.
long files_like(const fs::path& folder, const std::string& name) {
  if (!fs::exists(folder)) return 0;
  return std::ranges::count_if(fs::directory_iterator(folder), [&](const auto& f) { return f.path().filename().string().starts_with(name); });
}

TEST_F(AutoScheme, APassThatWasCutShortGoesOn) {
  const std::string folder = out_ + ".scores";
  std::vector<std::string> weighted = choose("GGUF:Q2_K_S,GGUF:Q4_K_S", "4", {"--format", "gguf:q2_k_s", "--nsamples", "8", "--seqlen", "32"});
  weighted.erase(std::find(weighted.begin(), weighted.end(), "--disable_opt_rtn"));
  for (const std::vector<std::string>& arguments : {choose("W2A16G32,W4A16G32,W8A16G32", "4.0"), weighted}) {
    if (arguments == weighted) {
      fs::remove_all(model_);
      tiny_model(1, false, false, 256, 256).write(model_);  // rows of whole blocks
    }
    const ordered_json whole = chosen(arguments);
    EXPECT_FALSE(fs::exists(folder));
    long cut = 0;
    for (long n = 1; files_like(folder, "scores_") == 0; n += support::fault_stride()) {
      fs::remove_all(out_);
      fs::remove_all(folder);
      ASSERT_EQ(support::run_with_fault(arguments, "kill:" + std::to_string(n)).status, 137);
      if (files_like(folder, "pass_") == 0 || files_like(folder, "scores_") != 0) continue;
      const auto again = run(arguments);
      ASSERT_EQ(again.status, 0) << again.err;
      cut += again.err.find("going on with a pass that was cut short: ") != std::string::npos;
      EXPECT_EQ(ordered_json::parse(again.out)["autoscheme"]["layers"], whole["autoscheme"]["layers"]);
      EXPECT_FALSE(fs::exists(folder)) << "killed at call " << n;
    }
    EXPECT_GT(cut, 12 / support::fault_stride());
    fs::remove_all(out_);
    fs::remove_all(folder);
  }
}

/// The scores of an option in all layers, by its number.
std::vector<double> scores_of(const ordered_json& result, std::size_t option) {
  std::vector<double> all;
  for (const ordered_json& l : result["autoscheme"]["layers"])
    if (l.contains("scores")) all.push_back(l["scores"][option]);
  return all;
}

TEST_F(AutoScheme, KTypesAreScoredWithTheImportanceThatTheyAreWrittenWith) {
  fs::remove_all(model_);
  tiny_model(1, false, false, 256, 256).write(model_);
  const std::string cache = dir_ / "cache", matrix = dir_ / "importance.gguf";
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> a = choose("GGUF:Q2_K_S,GGUF:Q4_K_S", "4", {"--format", "gguf:q2_k_s", "--score_cache", cache, "--nsamples", "8", "--seqlen", "32"});
    a.erase(std::find(a.begin(), a.end(), "--disable_opt_rtn"));
    a.insert(a.end(), more.begin(), more.end());
    return chosen(a);
  };
  const ordered_json plain = with({"--disable_opt_rtn"}), text = with({"--save_imatrix", matrix});
  EXPECT_EQ(plain["autoscheme"]["importance"], "none");
  EXPECT_EQ(text["autoscheme"]["importance"], "text");
  EXPECT_EQ(text["autoscheme"]["options_from_cache"], 0);  // scores without importance are others
  const std::vector<double> a = scores_of(plain, 0), b = scores_of(text, 0);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i + 2 < a.size(); ++i) EXPECT_NE(a[i], b[i]) << i;
  EXPECT_EQ(a[a.size() - 2], b[b.size() - 2]);  // of the head nobody knows an importance
  EXPECT_EQ(with({})["autoscheme"]["options_from_cache"], 2);
  EXPECT_EQ(with({"--nsamples", "4"})["autoscheme"]["options_from_cache"], 0);  // another importance

  // The same matrix from a file weights alike; its numbers are means over tokens, which moves the search by nothing but rounding.
  const ordered_json file = with({"--imatrix", matrix});
  EXPECT_EQ(file["autoscheme"]["importance"], "file");
  const std::vector<double> c = scores_of(file, 0);
  for (std::size_t i = 0; i < b.size(); ++i) EXPECT_NEAR(c[i], b[i], 1e-3 * b[i]) << i;

  // Tuning begins with searched scales; the original weights whatever it does with the K types.
  EXPECT_EQ(with({"--iters", "1", "--batch_size", "2"})["autoscheme"]["importance"], "text");
  EXPECT_EQ(with({"--disable_opt_rtn", "--compat"})["autoscheme"]["importance"], "text");
}

/// Folders of tests/data have no tokenizer; words with numbers are enough.
void write_word_tokenizer(const fs::path& folder, int words) {
  ordered_json vocab = {{"[UNK]", 0}};
  for (int i = 1; i < words; ++i) vocab["word" + std::to_string(i)] = i;
  const ordered_json tokenizer = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", ordered_json::array()}, {"normalizer", nullptr},
                                  {"pre_tokenizer", {{"type", "WhitespaceSplit"}}}, {"post_processor", nullptr}, {"decoder", nullptr},
                                  {"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "[UNK]"}}}};
  tiny_model::put(folder / "tokenizer.json", tokenizer.dump());
  tiny_model::put(folder / "tokenizer_config.json", "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}");
}

class AutoSchemeOfMixtures : public AutoScheme, public testing::WithParamInterface<std::string> {};

TEST_P(AutoSchemeOfMixtures, ExpertsOfALayerGetOneSchemeAndRoutersNone) {
  fs::remove_all(model_);
  fs::copy(fs::path(AR_TEST_DATA) / "architectures" / GetParam(), model_);
  fs::remove(fs::path(model_) / "expected.safetensors");
  write_word_tokenizer(model_, 64);
  std::set<std::string> all;
  for (const std::string target : {"4.5", "5.5", "7"}) {
    std::vector<std::string> a = choose("W2A16,W4A16,W8A16", target, {"--group_size", "32"});
    const outcome o = run(a);
    ASSERT_EQ(o.status, 0) << o.err;
    EXPECT_EQ(run({"verify", "--model", out_, "--source", model_}).status, 0);
    EXPECT_EQ(o.err.find("experts of"), std::string::npos) << o.err;  // no warning of experts that differ
    const ordered_json json = golden::parse_json(o.out);
    EXPECT_LE(json["autoscheme"]["avg_bits"], std::stod(target));
    std::map<std::string, std::set<std::string>> of_experts;
    for (const auto& [name, scheme] : schemes_of(json)) {
      all.insert(scheme);
      EXPECT_FALSE(name.ends_with(".gate")) << name;
      const std::size_t at = name.find(".experts.");
      if (at != std::string::npos) of_experts[name.substr(0, at)].insert(scheme);
    }
    EXPECT_FALSE(of_experts.empty());
    for (const auto& [block, schemes] : of_experts) EXPECT_EQ(schemes.size(), 1u) << block;
    // Routers are what they were.
    const std::string before = golden::read_bytes(fs::path(model_) / "model.safetensors"), after = golden::read_bytes(fs::path(out_) / "model.safetensors");
    const auto tensor = [](const std::string& bytes, const std::string& name) {
      std::uint64_t header = 0;
      std::memcpy(&header, bytes.data(), 8);
      const ordered_json t = golden::parse_json(bytes.substr(8, header)).value(name, ordered_json());
      if (t.is_null()) return std::string();
      const std::size_t first = t["data_offsets"][0], last = t["data_offsets"][1];
      return bytes.substr(8 + header + first, last - first);
    };
    const std::string router = GetParam() == "mixtral" ? "model.layers.1.block_sparse_moe.gate.weight" : "model.layers.1.mlp.gate.weight";
    EXPECT_FALSE(tensor(before, router).empty());
    EXPECT_EQ(tensor(before, router), tensor(after, router));
    fs::remove_all(out_);
  }
  EXPECT_GE(all.size(), 3u);  // the targets did choose
}

INSTANTIATE_TEST_SUITE_P(Tiny, AutoSchemeOfMixtures, testing::Values("qwen3_moe", "mixtral"), [](const auto& p) { return p.param; });

TEST_F(AutoScheme, FakeTakesEveryMix) {
  const ordered_json json = chosen(choose("MXFP4,MXFP8,W4A16G32", "6.0", {"--format", "fake"}));
  EXPECT_LE(json["autoscheme"]["avg_bits"], 6.0);
  EXPECT_GE(kinds(json).size(), 2u);
}

TEST_F(AutoScheme, ADryRunShowsTheMixAndWritesNothing) {
  const outcome o = run(choose(integers, "5.0", {"--dry_run"}));
  ASSERT_EQ(o.status, 0) << o.err;
  std::set<std::string> types;
  const ordered_json plan = golden::parse_json(o.out);
  for (const ordered_json& t : plan["outputs"][0]["tensors"])
    if (t["action"] == "quantize") types.insert(t["to"]);
  EXPECT_GE(types.size(), 2u);
  EXPECT_TRUE(types.contains("W4 g32 sym"));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(AutoScheme, CompatFollowsTheOriginal) {
  const ordered_json ours = chosen(choose(integers, "5.0")), theirs = chosen(choose(integers, "5.0", {"--compat"}));
  EXPECT_EQ(ours["autoscheme"]["gradient"], "float");
  EXPECT_EQ(theirs["autoscheme"]["gradient"], "quantized");
  EXPECT_LE(theirs["autoscheme"]["avg_bits"], 5.0);
}

TEST_F(AutoScheme, AnOutputFolderInUseIsRefusedBeforeAnyPass) {
  fs::create_directory(out_);
  tiny_model::put(fs::path(out_) / "file", "x");
  const outcome o = run(choose(integers, "5"));
  EXPECT_EQ(o.status, bad_output) << o.err;
  EXPECT_EQ(o.err.find("scoring"), std::string::npos) << o.err;
  EXPECT_FALSE(fs::exists(out_ + ".partial"));
}

TEST_F(AutoScheme, WhatDoesNotFitTogetherIsRefusedBeforeAnyPass) {
  expect_refused(run(choose(integers, "2.1")), usage, {"2.100", "W2A16G32 2.562"});
  expect_refused(run(choose(integers, "9")), usage, {"9.000", "W8A16G32 8.750"});
  expect_refused(run(choose(integers, "6", {"--bits", "6", "--avg_bits", "5"})), usage, {"--bits", "--avg_bits sets 5"});
  expect_refused(run(choose(integers, "5", {"--scheme", "W3A16"})), usage, {"--scheme"});
  expect_refused(run(choose("W2A16,W9A16", "5")), usage, {"W9A16"});
  expect_refused(run(choose("BF16", "16")), usage, {"BF16"});
  expect_refused(run(choose("GGUF:Q4_0,GGUF:Q8_0", "6")), usage, {"GGUF:Q4_0", "--format"});
  expect_refused(run(choose(integers, "5", {"--format", "gguf:q4_0"})), usage, {"W2A16G32", "GGUF:"});
  expect_refused(run(choose("W4A16G32,MXFP8", "6")), unsupported, {"auto_round"});
  expect_refused(run(choose(integers, "5", {"--shared_layers", "q_proj;;"})), usage, {"--shared_layers"});
  expect_refused(run(choose(integers, "5", {"--shared_layers", "q_proj,k_porj"})), usage, {"--shared_layers", "k_porj", "near names are", "k_proj"});
  expect_refused(run(choose(integers, "5", {"--score_gradient", "both"})), usage, {"both"});
  tiny_model::put(dir_ / "there", "x");
  expect_refused(run(choose(integers, "5", {"--autoscheme_json", dir_ / "there"})), bad_output, {"--autoscheme_json"});
  expect_refused(run({"quantize", "--model", model_, "--output_dir", out_, "--schemes", integers}), usage, {"--avg_bits"});
}

}  // namespace
