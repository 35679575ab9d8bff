// links: ar_plan
// Memory of the program from outside: what it says that a run will take, what the run takes, and that --max_memory is kept or refused.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "plan.hpp"
#include "support/checkpoint_files.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;
using nlohmann::ordered_json;
using support::outcome;
using support::run;

constexpr int usage = 2;
constexpr std::uint64_t mib = std::uint64_t{1} << 20;

// What a sanitizer adds to memory and address space is no part of any estimate.
#if defined(AR_SANITIZED)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

const std::string tiny_stories = std::string(AR_SOURCE_DIR) + "/examples/data/tiny-stories";

using arguments = std::vector<std::string>;

/// The ways of quantizing, each short: what it takes hardly depends on iterations.
const std::map<std::string, arguments>& ways() {
  static const arguments text = {"--dataset", tiny_stories + "/calib.jsonl", "--nsamples", "24", "--seqlen", "128"};
  const auto with_text = [](arguments more) {
    more.insert(more.begin(), text.begin(), text.end());
    return more;
  };
  static const std::map<std::string, arguments> all = {
      {"round to nearest", {"--iters", "0", "--disable_opt_rtn"}},
      {"two formats", {"--iters", "0", "--disable_opt_rtn", "--format", "auto_round,fake"}},
      {"model-free", {"--model_free"}},
      {"searched scales", with_text({"--iters", "0"})},
      {"searched as the original", with_text({"--iters", "0", "--compat"})},
      {"gguf", {"--iters", "0", "--format", "gguf:q4_k_s"}},
      {"gram", with_text({"--tuning", "gram", "--descent_sweeps", "1"})},
      {"gguf by gram", with_text({"--tuning", "gram", "--descent_sweeps", "1", "--format", "gguf:q4_k_s"})},
      {"hybrid", with_text({"--tuning", "hybrid", "--descent_sweeps", "1", "--iters", "2"})},
      {"block", with_text({"--tuning", "block", "--iters", "2"})},
      {"awq", with_text({"--algorithm", "awq", "--awq_n_grid", "2"})},
      {"autoscheme", with_text({"--schemes", "W4A16,W8A16", "--avg_bits", "6", "--iters", "0", "--disable_opt_rtn"})},
      {"autoscheme, searched and tuned", with_text({"--schemes", "W2A16,W4A16", "--avg_bits", "3", "--tuning", "gram", "--descent_sweeps", "1", "--score_nsamples", "4"})},
      {"autoscheme of activations", with_text({"--schemes", "MXFP4,MXFP8", "--avg_bits", "6", "--iters", "0", "--score_gradient", "quantized", "--score_nsamples", "4"})},
      {"rotated", {"--algorithm", "quarot", "--no_online_r1_rotation", "--iters", "0", "--disable_opt_rtn"}},
      {"trained rotation", with_text({"--algorithm", "spinquant", "--rotation_iters", "2", "--iters", "0", "--disable_opt_rtn"})},
  };
  return all;
}

class Memory : public testing::Test {
 protected:
  arguments quantize(const arguments& way, const std::string& out, const arguments& more = {}) const {
    arguments a = {"quantize", "--model", tiny_stories, "--output_dir", dir_ / out, "--threads", "1", "--quiet"};
    a.insert(a.end(), way.begin(), way.end());
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }

  /// "peak_memory_bytes" of a run, or of its plan.
  std::uint64_t peak(const arguments& a, const std::string& prefix = "") const {
    arguments told = a;
    told.push_back("--json");
    const outcome o = run(told, prefix);
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out)["peak_memory_bytes"].get<std::uint64_t>() : 0;
  }
  std::uint64_t estimate(const arguments& way, const arguments& more = {}) const {
    arguments all = more;
    all.push_back("--dry_run");
    return peak(quantize(way, "planned", all));
  }

  static std::string read(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string sums(const std::string& out) const { return read((dir_ / out) + "/SHA256SUMS"); }

  support::temp_dir dir_;
};

arguments limit(std::uint64_t bytes) { return {"--max_memory", std::to_string(bytes)}; }

TEST_F(Memory, ThePlanSaysWithinATenthWhatARunTakes) {
  if (sanitized) GTEST_SKIP() << "sanitizers add memory of their own";
  for (const auto& [name, way] : ways()) {
    const auto planned = static_cast<double>(estimate(way)), taken = static_cast<double>(peak(quantize(way, name)));
    EXPECT_NEAR(planned, taken, 0.1 * taken) << name;
  }
}

TEST_F(Memory, ALimitOfWhatThePlanSaysIsKept) {
  if (sanitized) GTEST_SKIP() << "sanitizers add memory of their own";
  for (const auto& [name, way] : ways()) {
    // A little more than the plan says: what is resident before a run differs from start to start, by a MiB and more.
    const std::uint64_t planned = estimate(way), most = planned + planned / 20 + 2 * mib;
    EXPECT_LE(peak(quantize(way, name, limit(most))), most + planned / 10) << name;
    EXPECT_EQ(run(quantize(way, name + " refused", limit(planned / 4))).status, usage) << name;
  }
}

TEST_F(Memory, ARunUnderALimitedAddressSpaceIsDoneOrRefusedBeforeItBegins) {
  if (sanitized) GTEST_SKIP() << "sanitizers map terabytes";
  // The least room that a plan is accepted under is enough for the run.
  for (const auto& [name, way] : ways()) {
    std::uint64_t refused = 32, accepted = 512;  // MiB
    const auto under = [](std::uint64_t n) { return "ulimit -v " + std::to_string(n * 1024) + ";"; };
    while (accepted - refused > 16) {
      const std::uint64_t middle = (refused + accepted) / 2;
      (run(quantize(way, "planned", {"--dry_run"}), under(middle)).status == 0 ? accepted : refused) = middle;
    }
    EXPECT_LT(accepted, 400u) << name;
    const outcome o = run(quantize(way, name), under(accepted + 8));
    EXPECT_EQ(o.status, 0) << name << " with " << accepted << " MiB: " << o.err;
  }
  const outcome o = run(quantize(ways().at("gram"), "narrow"), "ulimit -v 131072;");
  support::expect_error_line(o, usage, {"address space", "ulimit -v", "128 MiB", "--max_memory"});
  EXPECT_FALSE(fs::exists(dir_ / "narrow"));
}

TEST_F(Memory, AModelLargerThanTheAddressSpaceIsReadPieceByPiece) {
  if (sanitized) GTEST_SKIP() << "sanitizers map terabytes";
  // A second file with a tensor that nothing multiplies with, 320 MiB of zeros (a hole in the file), for 256 MiB of addresses.
  const std::string model = dir_ / "model", large = "model-00002-of-00002.safetensors";
  support::tiny_model m;
  m.write(model);
  support::write_two_files(model, m.tensors, [](const std::string&) { return true; });
  constexpr std::uint64_t size = 320 * mib;
  std::string header = R"({"mtp.extra":{"dtype":"U8","shape":[335544320],"data_offsets":[0,335544320]}})", length(8, '\0');
  const std::uint64_t header_bytes = header.size();
  std::memcpy(length.data(), &header_bytes, 8);
  support::tiny_model::put(fs::path(model) / large, length + header);
  fs::resize_file(fs::path(model) / large, 8 + header_bytes + size);
  auto index = golden::parse_json(read(model + "/model.safetensors.index.json"));
  index["weight_map"]["mtp.extra"] = large;
  support::tiny_model::put(fs::path(model) / "model.safetensors.index.json", index.dump());

  const std::string limited = "ulimit -v 262144;";
  for (const arguments& way : {arguments{"--model_free"}, arguments{"--disable_model_free"}}) {
    arguments a = {"quantize", "--model", model, "--output_dir", dir_ / "out", "--scheme", "W4A16G32", "--iters", "0", "--disable_opt_rtn", "--overwrite", "--threads", "1"};
    a.insert(a.end(), way.begin(), way.end());
    const outcome o = run(a, limited);
    ASSERT_EQ(o.status, 0) << way.back() << o.err;
    EXPECT_EQ(run({"verify", "--model", dir_ / "out", "--source", model}, limited).status, 0) << way.back();
  }
  EXPECT_EQ(run({"convert", "--model", dir_ / "out", "--format", "mlx", "--output_dir", dir_ / "converted"}, limited).status, 0);
  support::tiny_model::put(dir_ / "text.jsonl", support::tiny_model::calibration(8));
  EXPECT_EQ(run({"eval", "--model", dir_ / "out", "--ref", model, "--ppl", dir_ / "text.jsonl", "--seqlen", "32"}, limited).status, 0);
}

TEST_F(Memory, ALowLimitChangesHowButNotWhat) {
  // What is wanted of a way, MiB: 96 x 256 x 256 numbers, once at least, in two bytes at least, are what a scratch file saves; scoring keeps 4 x 4 MiB, one of which
  // stays; two starts of the program differ by one or two.
  const arguments text = {"--dataset", tiny_stories + "/calib.jsonl", "--seqlen", "256", "--nsamples"};
  struct way_and_saving {
    arguments way;
    const char* samples;
    std::uint64_t saves;
  };
  for (const auto& [way, samples, saves] : std::vector<way_and_saving>{
           {{"--tuning", "gram", "--descent_sweeps", "1"}, "96", 11},
           {{"--tuning", "block", "--iters", "2"}, "96", 11},
           {{"--iters", "0"}, "96", 11},
           {{"--schemes", "W4A16,W8A16", "--avg_bits", "6", "--score_batch_size", "16", "--iters", "0", "--disable_opt_rtn"}, "16", 7},
           {{"--algorithm", "spinquant", "--rotation_iters", "1", "--iters", "0", "--disable_opt_rtn"}, "10", 11}}) {
    if (sanitized && (way[0] == "--schemes" || way[0] == "--algorithm")) continue;  // their own tests do it
    arguments all = text;
    all.push_back(samples);
    all.insert(all.end(), way.begin(), way.end());
    const std::uint64_t without = estimate(all);
    const std::uint64_t lower = without - saves * mib;
    const std::string name = way[1] + " ";
    const arguments least = limit(lower + lower / 20 + 21);  // an estimate and a twentieth of it must fit
    EXPECT_LE(estimate(all, least), lower);
    peak(quantize(all, name + "free"));
    const std::uint64_t taken = peak(quantize(all, name + "limited", least));
    if (!sanitized) {
      EXPECT_LE(taken, lower + lower / 10);
    }
    EXPECT_EQ(sums(name + "free"), sums(name + "limited"));
    EXPECT_NE(sums(name + "free"), "");
  }
}

TEST_F(Memory, FewerThreadsWorkAtATimeWhereTheLimitIsLow) {
  const std::uint64_t one = estimate({"--model_free"}), four = estimate({"--model_free", "--threads", "4"});
  EXPECT_GT(four, one);
  // Half way between both: what is resident before a run differs from start to start, by a MiB under sanitizers.
  const std::uint64_t most = (one + four) / 2;
  EXPECT_LE(estimate({"--model_free", "--threads", "4"}, limit(most + most / 20 + 21)), most);
}

TEST_F(Memory, ARefusalSaysWhatIsNeededAndWhatWouldLowerIt) {
  const outcome o = run(quantize(ways().at("block"), "refused", {"--max_memory", "20MiB", "--nsamples", "128", "--seqlen", "512"}));
  support::expect_error_line(o, usage, {"--max_memory 20.0 MiB", "this run takes about", "a batch on its way through a block", "--batch_size", "--tuning gram"});
  EXPECT_FALSE(fs::exists(dir_ / "refused"));
  support::expect_error_line(run(quantize({"--iters", "0"}, "refused", {"--max_memory", "4 apples"})), usage, {"--max_memory", "4 apples", "GiB"});
  // Before any sample is scored, and before any step of training.
  support::expect_error_line(run(quantize(ways().at("autoscheme"), "refused", limit(30 * mib))), usage, {"--max_memory 30.0 MiB", "scoring options", "--score_batch_size"});
  support::expect_error_line(run(quantize(ways().at("trained rotation"), "refused", limit(30 * mib))), usage, {"--max_memory 30.0 MiB", "training a rotation", "nothing was done"});
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

TEST_F(Memory, ConvertRefusesToo) {
  ASSERT_EQ(run(quantize({"--iters", "0", "--disable_opt_rtn"}, "packed")).status, 0);
  const auto convert = [&](const std::string& most) { return run({"convert", "--model", dir_ / "packed", "--output_dir", dir_ / "converted", "--format", "fake", "--quiet", "--max_memory", most}); };
  support::expect_error_line(convert("1MB"), usage, {"--max_memory", "the program"});
  EXPECT_FALSE(fs::exists(dir_ / "converted"));
  EXPECT_EQ(convert("4GB").status, 0);
}

/// Eight experts with two for each token, in the sizes of the small model: rows are gathered for experts, and laid out beside them.
TEST_F(Memory, ThePlanKnowsMixturesOfExperts) {
  if (sanitized) GTEST_SKIP() << "sanitizers add memory of their own";
  constexpr std::int64_t hidden = 256, inner = 384, experts = 8, layers = 3;
  support::tiny_model m;
  m.tensors.clear();
  m.vocab = golden::parse_json(read(tiny_stories + "/config.json"))["vocab_size"];
  m.add("model.embed_tokens.weight", m.vocab, hidden);
  m.add("lm_head.weight", m.vocab, hidden);
  m.add("model.norm.weight", 1, hidden);
  for (std::int64_t l = 0; l < layers; ++l) {
    const std::string block = "model.layers." + std::to_string(l) + ".";
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) m.add(block + norm + ".weight", 1, hidden);
    for (const char* name : {"q", "k", "v", "o"}) m.add(block + "self_attn." + name + "_proj.weight", *name == 'q' || *name == 'o' ? hidden : hidden / 2, hidden);
    m.add(block + "block_sparse_moe.gate.weight", experts, hidden);
    for (std::int64_t e = 0; e < experts; ++e)
      for (const char* name : {"w1", "w2", "w3"}) {
        const bool down = std::string(name) == "w2";
        m.add(block + "block_sparse_moe.experts." + std::to_string(e) + "." + name + ".weight", down ? hidden : inner, down ? inner : hidden);
      }
  }
  for (auto& [name, tensor] : m.tensors)
    if (tensor.shape.front() == 1) tensor.shape.erase(tensor.shape.begin());
  m.config = {{"architectures", {"MixtralForCausalLM"}}, {"model_type", "mixtral"}, {"vocab_size", m.vocab}, {"hidden_size", hidden}, {"intermediate_size", inner},
              {"num_hidden_layers", layers}, {"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"max_position_embeddings", 512}, {"num_local_experts", experts},
              {"num_experts_per_tok", 2}, {"rms_norm_eps", 1e-5}, {"tie_word_embeddings", false}, {"torch_dtype", "bfloat16"}};
  m.write(dir_.path() / "model");
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) fs::copy_file(fs::path(tiny_stories) / file, dir_.path() / "model" / file, fs::copy_options::overwrite_existing);
  for (const char* name : {"round to nearest", "searched scales", "block", "awq", "autoscheme"}) {
    arguments way = ways().at(name);
    way.insert(way.end(), {"--model", dir_ / "model"});
    const auto planned = static_cast<double>(estimate(way)), taken = static_cast<double>(peak(quantize(way, name)));
    EXPECT_NEAR(planned, taken, 0.1 * taken) << name;
  }
  const outcome o = run({"eval", dir_ / "model", "--ppl", tiny_stories + "/eval.jsonl", "--seqlen", "128", "--max_tokens", "12288", "--json"}, "OMP_NUM_THREADS=1");
  ASSERT_EQ(o.status, 0) << o.err;
  const ordered_json told = golden::parse_json(o.out);
  const double planned = told["planned_memory_bytes"], taken = told["peak_memory_bytes"];
  EXPECT_NEAR(planned, taken, 0.1 * taken);
}

/// What the model reads and says: evaluations and generation, each with text enough that it fills a limit.
class Inference : public Memory {
 protected:
  void SetUp() override {
    ASSERT_EQ(run(quantize({"--iters", "0", "--disable_opt_rtn"}, "packed")).status, 0);
    ASSERT_EQ(run(quantize({"--iters", "0", "--disable_opt_rtn", "--format", "gguf:q8_0"}, "gguf")).status, 0);
    std::ofstream tasks(dir_ / "wikitext.jsonl");
    std::ifstream text(tiny_stories + "/eval.jsonl");
    std::string line;
    for (int i = 0; i < 60 && std::getline(text, line); ++i) tasks << R"({"page": )" << golden::parse_json(line)["text"].dump() << "}\n";
  }

  /// Models as they are stored: 16 bits that stay in the file, and words of 4 bits.
  std::map<std::string, arguments> commands() const {
    const std::string packed = dir_ / "packed", text = tiny_stories + "/eval.jsonl";
    return {
        {"perplexity", {"eval", tiny_stories, "--ppl", text, "--seqlen", "128", "--max_tokens", "12288"}},
        {"perplexity of packed weights", {"eval", packed, "--ppl", text, "--seqlen", "128", "--max_tokens", "12288"}},
        {"perplexity of a GGUF file", {"eval", dir_ / "gguf", "--ppl", text, "--seqlen", "128", "--max_tokens", "12288"}},
        {"comparison", {"eval", packed, "--ref", tiny_stories, "--ppl", text, "--seqlen", "256", "--max_tokens", "12288"}},
        {"task", {"eval", packed, "--tasks", "wikitext", "--task_dir", dir_.path()}},
        {"task of a GGUF file", {"eval", dir_ / "gguf", "--tasks", "wikitext", "--task_dir", dir_.path()}},
        {"generation", {"generate", tiny_stories, "--prompt", "Once upon a time", "--max_tokens", "200", "--ignore_eos"}},
        {"generation from packed weights", {"generate", packed, "--prompt", "Once upon a time", "--max_tokens", "200", "--ignore_eos"}},
    };
  }

  ordered_json told(arguments a, const arguments& more = {}) const {
    a.insert(a.end(), more.begin(), more.end());
    a.push_back("--json");
    const outcome o = run(a, "OMP_NUM_THREADS=1");
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out) : ordered_json();
  }
};

TEST_F(Inference, SaysBeforeTheStartWhatItTakes) {
  if (sanitized) GTEST_SKIP() << "sanitizers add memory of their own";
  for (const auto& [name, command] : commands()) {
    const ordered_json o = told(command);
    const double planned = o["planned_memory_bytes"], taken = o["peak_memory_bytes"];
    EXPECT_NEAR(planned, taken, 0.1 * taken) << name;
  }
}

TEST_F(Inference, ALowLimitChangesHowButNotWhat) {
  for (const auto& [name, command] : commands()) {
    if (name.starts_with("generation") || (sanitized && name.starts_with("perplexity"))) continue;  // a comparison does what perplexities do
    const ordered_json free = told(command);
    const std::uint64_t lower = free["planned_memory_bytes"].get<std::uint64_t>() - 6 * mib;
    const ordered_json limited = told(command, limit(lower));
    EXPECT_LE(limited["planned_memory_bytes"].get<std::uint64_t>(), lower) << name;
    if (!sanitized) {
      EXPECT_LE(limited["peak_memory_bytes"].get<std::uint64_t>(), lower + lower / 10) << name;
    }
    for (const char* number : {"ppl", "nll", "tokens", "kl", "top1"}) EXPECT_EQ(free.value(number, ordered_json()), limited.value(number, ordered_json())) << name << " " << number;
    if (!name.starts_with("task")) {
      EXPECT_TRUE(free.contains("ppl")) << name;
      continue;
    }
    // Other texts share a product then, which may move sums of floats.
    const double a = free["results"]["wikitext"]["word_perplexity,none"], b = limited["results"]["wikitext"]["word_perplexity,none"];
    EXPECT_NEAR(a, b, 1e-5 * a);
  }
}

TEST_F(Inference, TasksBehindAQuantizationKeepItsLimit) {
  const auto run_with = [&](const std::string& out, const arguments& more) {
    return told(quantize({"--iters", "0", "--disable_opt_rtn", "--tasks", "wikitext", "--task_dir", dir_.path(), "--quiet"}, out), more);
  };
  const ordered_json free = run_with("free", {});
  const std::uint64_t lower = free["evaluation"]["planned_memory_bytes"].get<std::uint64_t>() - 6 * mib;
  const ordered_json limited = run_with("limited", limit(lower));
  EXPECT_LE(limited["evaluation"]["planned_memory_bytes"].get<std::uint64_t>(), lower);
  const double a = free["evaluation"]["results"]["wikitext"]["word_perplexity,none"], b = limited["evaluation"]["results"]["wikitext"]["word_perplexity,none"];
  EXPECT_NEAR(a, b, 1e-5 * a);
  if (sanitized) return;  // sanitizers add memory of their own
  // Where tasks (some 36 MiB) do not fit behind a quantization (some 20) that does, what is finished stays.
  const outcome o = run(quantize({"--iters", "0", "--disable_opt_rtn", "--tasks", "wikitext", "--task_dir", dir_.path(), "--max_memory", "28MiB"}, "short"), "OMP_NUM_THREADS=1");
  support::expect_error_line(o, usage, {"the output is finished", "--max_memory"});
  EXPECT_TRUE(fs::exists(fs::path(dir_ / "short") / "config.json"));
}

TEST_F(Inference, ALimitTooLowIsRefusedBeforeAnythingIsSaid) {
  for (auto [name, command] : commands()) {
    command.insert(command.end(), {"--max_memory", "4MiB"});
    const outcome o = run(command);
    support::expect_error_line(o, usage, {"--max_memory 4.00 MiB", "this run takes about", "nothing was done"});
    EXPECT_EQ(o.out, "") << name;
  }
}

TEST(Sizes, AreBinaryWithOrWithoutAnI) {
  EXPECT_EQ(plan::parse_bytes("2GiB").value(), std::uint64_t{2} << 30);
  EXPECT_EQ(plan::parse_bytes("2GB").value(), std::uint64_t{2} << 30);
  EXPECT_EQ(plan::parse_bytes("512 mib").value(), std::uint64_t{512} << 20);
  EXPECT_EQ(plan::parse_bytes("3KiB").value(), std::uint64_t{3} << 10);
  EXPECT_EQ(plan::parse_bytes("4096").value(), 4096u);
  for (const char* bad : {"2i", "2iB", "2Gi", "GiB", "-1MiB", "1.5GiB", "2GiBs"}) EXPECT_FALSE(plan::parse_bytes(bad).has_value()) << bad;
}

}  // namespace
