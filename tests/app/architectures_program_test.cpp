// links: ar_export ar_arch ar_model
// The program on tiny models of every architecture: rounds them, keeps every tensor of the source or says why not, and reads back what it wrote; experts
// in one tensor become experts of their own; GGUF is refused where names are not known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <tuple>

#include "arch/architecture.hpp"
#include "export/export_format.hpp"
#include "io/file.hpp"
#include "io/gguf.hpp"
#include "model/block.hpp"
#include "model/decoder.hpp"
#include "support/distance.hpp"
#include "support/golden.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_checkpoint.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;
using support::checkpoint;
using support::run;
using support::tiny_tensor;

constexpr int unsupported = 5;

std::vector<float> logits_of(const std::string& path) {
  auto opened = exporting::open_model(path);
  EXPECT_TRUE(opened) << describe(opened.error());
  if (!opened) return {};
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 20; ++i) ids.push_back((i * 7 + 3) % 64);
  auto logits = model::logits(**opened, ids);
  EXPECT_TRUE(logits) << describe(logits.error());
  return logits ? std::move(*logits) : std::vector<float>();
}

std::map<std::string, tiny_tensor> tensors_of(const io::checkpoint_dir& dir) {
  std::map<std::string, tiny_tensor> all;
  for (const io::tensor_ref& t : dir.tensors()) {
    const io::pinned_bytes stored = t.bytes.pin();
    all[t.name] = {std::string(io::name_of(t.type)), t.shape, std::string(reinterpret_cast<const char*>(stored.data()), stored.size())};
  }
  return all;
}

/// Every tensor of the source lies in the folder, as it is or packed.
void expect_all(const checkpoint& source, const std::string& folder, const std::vector<std::string>& also = {}) {
  const auto out = checkpoint::open(folder);
  std::vector<std::string> names = also;
  for (const io::tensor_ref& t : source.dir.tensors()) names.push_back(t.name);
  for (const std::string& name : names) {
    if (name == source.source.spec().head_name && source.source.spec().tie_word_embeddings) continue;
    const std::string packed = name.substr(0, name.rfind('.')) + ".qweight";
    EXPECT_TRUE(out.find(name) != nullptr || (name.ends_with(".weight") && out.find(packed) != nullptr)) << name;
  }
}

class ArchitectureProgram : public testing::TestWithParam<std::string> {
 protected:
  support::temp_dir dir_;
  std::string model_ = support::architecture_folder(GetParam()).string();
};

TEST_P(ArchitectureProgram, RoundsKeepsAllTensorsAndReadsBack) {
  const checkpoint source(model_);
  const std::vector<float> expected = logits_of(model_);
  for (const std::string format : {"auto_round", "fake"}) {
    const std::string out = dir_ / format;
    const auto done = run({"--model", model_, "--output_dir", out, "--bits", "8", "--group_size", "16", "--iters", "0", "--format", format});
    ASSERT_EQ(done.status, 0) << done.err;
    EXPECT_EQ(run({"verify", "--model", out, "--source", model_}).status, 0);
    expect_all(source, out);
    // 8 bits: errors of about 1/256 of a group's range in every layer. Experts that change places where scores are close may cost more.
    EXPECT_LT(support::rms_difference(logits_of(out), expected), source.source.spec().mixture.experts > 0 ? 0.2 : 0.05) << format;
  }
  const auto gguf = run({"--model", model_, "--output_dir", dir_ / "gguf", "--format", "gguf:q8_0", "--iters", "0"});
  // Those that are written need a tokenizer, which these folders lack.
  if (arch::gguf_of(source.source.spec()).name.empty()) {
    EXPECT_EQ(gguf.status, 5);
    EXPECT_THAT(gguf.err, testing::HasSubstr("GGUF"));
  }
}

/// Said by the plan already, before any text is read.
TEST_P(ArchitectureProgram, ATunerThatTheBlocksDoNotFitIsRefused) {
  const bool fits = checkpoint(model_).source.spec().plain();
  for (const char* tuning : {"gram", "hybrid"}) {
    const auto o = run({"--model", model_, "--output_dir", dir_ / "out", "--bits", "4", "--group_size", "16", "--tuning", tuning, "--dry_run"});
    if (fits) support::expect_error_line(o, unsupported, {"tokenizer.json"});  // the plan is right; there is no tokenizer for the text
    else support::expect_error_line(o, unsupported, {"is not laid out as LLaMA", "--tuning block"});
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, ArchitectureProgram, testing::ValuesIn(support::architectures()), [](const auto& p) { return p.param; });

/// The tiny model with a tokenizer, as GGUF files need one, and experts in every block.
void write_for_gguf(const std::string& architecture, const fs::path& to, const std::string& more_config = {}) {
  const fs::path from = support::architecture_folder(architecture);
  const checkpoint source(from);
  auto tensors = tensors_of(source.dir);
  const std::string dense = "model.layers.0.mlp.", mixture = "model.layers.1.mlp.";
  if (architecture == "qwen3_moe") {
    std::erase_if(tensors, [&](const auto& t) { return t.first.starts_with(dense); });
    for (const auto& [name, t] : std::map(tensors))
      if (name.starts_with(mixture)) tensors[dense + name.substr(mixture.size())] = t;
  }
  const support::tiny_model tokenizer;  // of 256 tokens: the first 64 are the model's, then they are again
  for (const char* name : {"lm_head.weight", "model.embed_tokens.weight"}) {
    if (!tensors.contains(name)) continue;
    tiny_tensor& t = tensors.at(name);
    t.shape[0] = 256;
    for (int i = 0; i < 2; ++i) t.bytes += t.bytes;
  }
  auto config = golden::read_json(from / "config.json");
  config["vocab_size"] = 256;
  if (architecture == "qwen3_moe") config["mlp_only_layers"] = nlohmann::json::array();
  if (!more_config.empty()) config.update(golden::parse_json(more_config));
  fs::create_directories(to);
  support::tiny_model::put(to / "config.json", config.dump());
  support::tiny_model::put(to / "model.safetensors", support::tiny_model::safetensors(tensors));
  support::tiny_model::put(to / "tokenizer.json", tokenizer.tokenizer.dump());
  support::tiny_model::put(to / "tokenizer_config.json", tokenizer.tokenizer_config.dump());
}

/// What llama.cpp takes for granted: the tiny models are otherwise.
const std::map<std::string, std::string> as_in_llama_cpp = {{"mistral", R"({"sliding_window": null})"}, {"qwen2", R"({"use_sliding_window": false})"},
                                                            {"gemma2", R"({"query_pre_attn_scalar": 8})"}, {"gemma3", R"({"query_pre_attn_scalar": 8, "sliding_window_pattern": 6})"}};

class ArchitectureGguf : public testing::TestWithParam<std::string> {};

TEST_P(ArchitectureGguf, SaysAllThatConfigJsonSays) {
  const support::temp_dir dir;
  const std::string model = dir / "model", out = dir / "out", back = dir / "back";
  const auto edit = as_in_llama_cpp.find(GetParam());
  write_for_gguf(GetParam(), model, edit == as_in_llama_cpp.end() ? "" : edit->second);
  const auto done = run({"--model", model, "--output_dir", out, "--format", "gguf:q8_0", "--iters", "0", "--disable_opt_rtn"});
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_EQ(run({"verify", "--model", out, "--source", model}).status, 0);
  const bool mixture = checkpoint(model).source.spec().mixture.experts > 0;
  EXPECT_LT(support::rms_difference(logits_of(out), logits_of(model)), mixture ? 0.2 : 0.05);
  // And out of the file again: a folder whose config.json was made of the metadata.
  const auto folder = run({"convert", "--model", out, "--output_dir", back, "--format", "fake"});
  ASSERT_EQ(folder.status, 0) << folder.err;
  EXPECT_LT(support::rms_difference(logits_of(back), logits_of(out)), 0.01) << "half precision";
}

std::vector<std::string> written_as_gguf() {
  std::vector<std::string> names = support::architectures();
  std::erase_if(names, [](const std::string& name) { return arch::gguf_of(checkpoint::spec_of(checkpoint::open(support::architecture_folder(name)))).name.empty(); });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Tiny, ArchitectureGguf, testing::ValuesIn(written_as_gguf()), [](const auto& p) { return p.param; });

TEST(ArchitectureGguf, WhatLlamaCppWouldComputeOtherwiseIsRefused) {
  for (const auto& [architecture, config, word] : {std::tuple{"gemma2", "", "query_pre_attn_scalar"}, {"gemma2", R"({"query_pre_attn_scalar": 8, "final_logit_softcapping": null})", "capped"},
                                                   {"gemma3", R"({"query_pre_attn_scalar": 8})", "five of six"},
                                                   {"gemma3", R"({"query_pre_attn_scalar": 8, "sliding_window_pattern": 6, "hidden_activation": "gelu"})", "gelu_pytorch_tanh"},
                                                   {"qwen3_moe", R"({"norm_topk_prob": false})", "norm_topk_prob"}}) {
    const support::temp_dir dir;
    write_for_gguf(architecture, dir / "model", config);
    support::expect_error_line(run({"--model", dir / "model", "--format", "gguf:q8_0", "--iters", "0", "--output_dir", dir / "out"}), 5, {word});
    EXPECT_FALSE(fs::exists(dir / "out"));
  }
}

TEST(ArchitectureGguf, WindowsThatLlamaCppDoesNotKnowAreWarnedOf) {
  const support::temp_dir dir;
  write_for_gguf("mistral", dir / "model");
  const auto done = run({"--model", dir / "model", "--format", "gguf:q8_0", "--iters", "0", "--output_dir", dir / "out"});
  EXPECT_EQ(done.status, 0);
  EXPECT_THAT(done.err, testing::HasSubstr("see a window of"));
}

TEST(MixtureGguf, ExpertsOfABlockShareATensor) {
  for (const std::string architecture : {"mixtral", "qwen3_moe"}) {
    SCOPED_TRACE(architecture);
    const support::temp_dir dir;
    const std::string model = dir / "model", out = dir / "out";
    write_for_gguf(architecture, model);
    const std::vector<std::string> quantize = {"--model", model, "--format", "gguf:q8_0", "--iters", "0", "--disable_opt_rtn", "--output_dir"};
    const auto with = [&](const std::string& folder, const std::vector<std::string>& more) {
      std::vector<std::string> a = quantize;
      a.push_back(dir / folder);
      a.insert(a.end(), more.begin(), more.end());
      return run(a);
    };
    ASSERT_EQ(with("out", {}).status, 0) << with("out", {}).err;
    // What others read: three tensors of three dimensions a block, and what chooses experts in float.
    std::string path;
    for (const auto& e : fs::directory_iterator(out))
      if (e.path().extension() == ".gguf") path = e.path().string();
    const auto file = io::mapped_file::open(path).value();
    const auto contents = io::parse_gguf(file.bytes(), path).value();
    std::map<std::string, const io::gguf_tensor_ref*> tensors;
    for (const auto& t : contents.tensors) tensors[t.name] = &t;
    for (const char* part : {"gate", "up", "down"}) {
      const auto at = tensors.find(std::string("blk.1.ffn_") + part + "_exps.weight");
      ASSERT_NE(at, tensors.end()) << part;
      EXPECT_EQ(at->second->ne, (std::vector<std::uint64_t>{32, 32, 4}));
    }
    ASSERT_TRUE(tensors.contains("blk.0.ffn_gate_inp.weight"));
    EXPECT_EQ(tensors["blk.0.ffn_gate_inp.weight"]->type, io::gguf_type::f32);
    // Importance of experts: rows of one entry. A file that was written says what the text said.
    support::tiny_model::put(dir / "calib.jsonl", support::tiny_model::calibration(12));
    const std::vector<std::string> search = {"--format", "gguf:q4_0", "--enable_opt_rtn"};
    const auto weighted = [&](const std::string& folder, std::vector<std::string> more) {
      more.insert(more.end(), search.begin(), search.end());
      std::vector<std::string> a = {"--model", model, "--iters", "0", "--output_dir", dir / folder};
      a.insert(a.end(), more.begin(), more.end());
      const auto done = run(a);
      EXPECT_EQ(done.status, 0) << done.err;
      return logits_of(dir / folder);
    };
    const auto by_text = weighted("by_text", {"--dataset", dir / "calib.jsonl", "--nsamples", "8", "--seqlen", "16", "--save_imatrix", dir / "im.gguf"});
    EXPECT_EQ(weighted("by_file", {"--imatrix", dir / "im.gguf"}), by_text);
    EXPECT_NE(weighted("by_none", {}), by_text);

    const std::string expert = architecture == "mixtral" ? "model.layers.1.block_sparse_moe.experts.2.w2" : "model.layers.1.mlp.experts.2.down_proj";
    support::expect_error_line(with("other", {"--layer_config", "{\"" + expert + "\": \"GGUF:Q4_0\"}"}), 5, {expert, "share one tensor"});
    EXPECT_FALSE(fs::exists(dir / "other"));
    ASSERT_EQ(with("mixed", {"--format", "gguf:q2_k_mixed"}).status, 0);
    EXPECT_EQ(run({"verify", "--model", dir / "mixed"}).status, 0);
  }
}

/// MXFP4 as gpt-oss has it: the experts of a block in one tensor of four-bit floats. The values are those that `fake` says.
TEST(MixtureGguf, ExpertsInFourBitFloatsReadAsTheyWereRounded) {
  for (const std::string architecture : {"mixtral", "qwen3_moe"}) {
    SCOPED_TRACE(architecture);
    const support::temp_dir dir;
    const std::string model = dir / "model", out = dir / "out", back = dir / "back", text = dir / "text.jsonl";
    write_for_gguf(architecture, model);
    support::tiny_model::put(text, support::tiny_model::calibration(8));
    const auto done = run({"--model", model, "--output_dir", out, "--format", "gguf:mxfp4,fake", "--iters", "0", "--disable_opt_rtn"});
    ASSERT_EQ(done.status, 0) << done.err;
    const std::string file = out + "/gguf-mxfp4", fake = out + "/fake";
    std::string path;
    for (const auto& e : fs::directory_iterator(file))
      if (e.path().extension() == ".gguf") path = e.path().string();
    const auto mapped = io::mapped_file::open(path).value();
    const auto contents = io::parse_gguf(mapped.bytes(), path).value();
    int experts = 0;
    for (const auto& t : contents.tensors) {
      if (t.name.find("_exps.") == std::string::npos) continue;
      ++experts;
      EXPECT_EQ(t.type, io::gguf_type::mxfp4) << t.name;
      EXPECT_EQ(t.ne, (std::vector<std::uint64_t>{32, 32, 4})) << t.name;
    }
    EXPECT_EQ(experts, 6);
    EXPECT_EQ(run({"verify", "--model", file, "--source", model}).status, 0);
    const auto eval = [&](const std::string& what, const std::string& reference) {
      const auto o = run({"eval", "--model", what, "--ref", reference, "--ppl", text, "--seqlen", "16", "--max_tokens", "128", "--float_activations", "--json"});
      EXPECT_EQ(o.status, 0) << o.err;
      return o.status == 0 ? golden::parse_json(o.out)["kl"].get<double>() : -1.0;
    };
    const auto packed = exporting::open_model(file).value(), floats = exporting::open_model(fake).value();
    for (std::int64_t b = 0; b < packed->spec().num_layers; ++b) {
      const auto read = model::read_block(*packed, b), rounded = model::read_block(*floats, b);
      ASSERT_TRUE(read && rounded);
      EXPECT_EQ(read->linears, rounded->linears) << b;
    }
    const double head_alone = eval(file, fake), all = eval(file, model);
    EXPECT_GT(all, 0);
    EXPECT_LT(head_alone, all / 10) << "embedding and head of the file are Q8_0, everything else is alike";
    EXPECT_EQ(run({"generate", "--model", file, "--prompt", "abc", "--max_tokens", "4", "--temperature", "0"}).status, 0);
    // A folder of the same numbers.
    const auto folder = run({"convert", "--model", file, "--output_dir", back, "--format", "llm_compressor"});
    ASSERT_EQ(folder.status, 0) << folder.err;
    EXPECT_NEAR(eval(back, file), 0, 1e-6);
  }
}

/// A Qwen3-MoE whose experts are one tensor for gate and up and one for down, with blocks of a next-token head behind the model's own.
TEST(ArchitectureProgram, FusedExpertsAndExtraBlocks) {
  const support::temp_dir dir;
  const fs::path from = support::architecture_folder("qwen3_moe");
  const checkpoint source(from);
  auto tensors = tensors_of(source.dir);
  tiny_tensor gate_up{"BF16", {4, 64, 32}, {}}, down{"BF16", {4, 32, 32}, {}};
  const std::string experts = "model.layers.1.mlp.experts.";
  for (int e = 0; e < 4; ++e)
    for (const auto& [part, to] : {std::pair{"gate_proj", &gate_up}, {"up_proj", &gate_up}, {"down_proj", &down}}) {
      const std::string name = experts + std::to_string(e) + "." + part + ".weight";
      to->bytes += tensors.at(name).bytes;
      tensors.erase(name);
    }
  tensors[experts + "gate_up_proj"] = gate_up;
  tensors[experts + "down_proj"] = down;
  const std::vector<std::string> extra = {"model.layers.2.eh_proj.weight", "model.layers.2.self_attn.q_proj.weight", "mtp.norm.weight"};
  for (const std::string& name : extra) tensors[name] = {"BF16", {32, 32}, std::string(2048, '\1')};
  fs::create_directories(dir / "model");
  support::tiny_model::put(dir / "model/model.safetensors", support::tiny_model::safetensors(tensors));
  fs::copy_file(from / "config.json", dir / "model/config.json");

  EXPECT_EQ(logits_of(dir / "model"), logits_of(from.string()));
  for (const std::string format : {"auto_round", "fake"}) {
    const std::string out = dir / format;
    const auto done = run({"--model", dir / "model", "--output_dir", out, "--bits", "4", "--group_size", "16", "--iters", "0", "--format", format});
    ASSERT_EQ(done.status, 0) << done.err;
    expect_all(source, out, extra);
    const auto same = run({"--model", from.string(), "--output_dir", dir / ("whole_" + format), "--bits", "4", "--group_size", "16", "--iters", "0", "--format", format});
    ASSERT_EQ(same.status, 0) << same.err;
    EXPECT_EQ(logits_of(out), logits_of(dir / ("whole_" + format)));
    const auto fused = checkpoint::open(out), whole = checkpoint::open(dir / ("whole_" + format));
    for (const io::tensor_ref& t : whole.tensors()) {
      const io::tensor_ref* const other = fused.find(t.name);
      ASSERT_NE(other, nullptr) << t.name;
      EXPECT_TRUE(std::ranges::equal(std::span<const std::byte>(t.bytes.pin()), std::span<const std::byte>(other->bytes.pin()))) << t.name;
    }
  }
}

}  // namespace
