// links: ar_export
// The command convert: layers keep their bits from one format to another, loss is told and must be allowed, and what cannot be done leaves nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "export/export_format.hpp"
#include "io/checkpoint_dir.hpp"
#include "io/file.hpp"
#include "io/gguf.hpp"
#include "support/golden_json.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;
using nlohmann::ordered_json;
using support::outcome;
using support::run;
using support::tiny_model;
using support::tiny_tensor;

// Exit statuses, as docs/guide.md lists them.
constexpr int usage = 2, bad_input = 3, bad_output = 4, unsupported = 5;

std::map<std::string, tiny_tensor> tensors_of(const fs::path& folder) {
  std::map<std::string, tiny_tensor> all;
  const auto dir = io::checkpoint_dir::open(folder.string());
  EXPECT_TRUE(dir.has_value()) << (dir ? "" : describe(dir.error()));
  if (!dir) return all;
  for (const io::tensor_ref& t : dir->tensors()) {
    const auto* raw = reinterpret_cast<const char*>(t.bytes.data());
    all[t.name] = {std::string(io::name_of(t.type)), t.shape, std::string(raw, raw + t.bytes.size())};
  }
  return all;
}

fs::path gguf_file(const fs::path& folder) {
  for (const auto& e : fs::directory_iterator(folder))
    if (e.path().extension() == ".gguf") return e.path();
  return {};
}

/// Bytes by tensor; a type and its length go together.
std::map<std::string, std::string> gguf_tensors(const fs::path& folder) {
  std::map<std::string, std::string> all;
  const auto file = io::mapped_file::open(gguf_file(folder).string());
  EXPECT_TRUE(file.has_value()) << folder;
  if (!file) return all;
  const auto contents = io::parse_gguf(file->bytes(), file->path());
  EXPECT_TRUE(contents.has_value()) << folder;
  if (!contents) return all;
  for (const io::gguf_tensor_ref& t : contents->tensors) {
    const auto* raw = reinterpret_cast<const char*>(t.data.data());
    all[t.name] = std::string(raw, raw + t.data.size());
  }
  return all;
}

/// The tensors of linear layers inside the blocks.
template <class T>
std::map<std::string, T> of_layers(const std::map<std::string, T>& all) {
  std::map<std::string, T> some;
  for (const auto& [name, t] : all)
    if (name.find("_proj.") != std::string::npos || (name.starts_with("blk.") && name.find("norm") == std::string::npos)) some.emplace(name, t);
  return some;
}

bool same(const std::map<std::string, tiny_tensor>& a, const std::map<std::string, tiny_tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.dtype == y.second.dtype && x.second.shape == y.second.shape && x.second.bytes == y.second.bytes;
  });
}

/// Every weight of the model as its reader computes it.
std::map<std::string, std::vector<float>> weights(const fs::path& path) {
  std::map<std::string, std::vector<float>> all;
  const auto model = exporting::open_model(path.string());
  EXPECT_TRUE(model.has_value()) << (model ? "" : describe(model.error()));
  if (!model) return all;
  for (const auto& e : (*model)->entries()) {
    std::uint64_t n = 1;
    for (const std::uint64_t d : e.shape) n *= d;
    std::vector<float> values(static_cast<std::size_t>(n));
    if (e.type.starts_with("I") || e.type.starts_with("U")) continue;
    const auto r = (*model)->read(e.name, values);
    EXPECT_TRUE(r.has_value()) << (r ? "" : describe(r.error()));
    all.emplace(e.name, std::move(values));
  }
  return all;
}

class Convert : public testing::Test {
 protected:
  Convert() : model_(dir_ / "float"), out_(dir_ / "out") { tiny_model().write(model_); }

  /// One quantization in all these formats; the folder of one of them.
  std::string quantized(const std::string& formats, const std::vector<std::string>& scheme, const std::string& name = "source") {
    std::vector<std::string> a = {"quantize", "--model", model_, "--output_dir", dir_ / name, "--format", formats, "--iters", "0", "--disable_opt_rtn", "--disable_model_free", "--threads", "1"};
    a.insert(a.end(), scheme.begin(), scheme.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return dir_ / name;
  }
  static std::string folder(std::string format) {
    std::replace_if(format.begin(), format.end(), [](char c) { return c == ':' || c == '_'; }, '-');
    return format;
  }
  outcome convert(const std::string& from, const std::string& format, const std::string& to, std::vector<std::string> more = {}) const {
    std::vector<std::string> a = {"convert", "--model", from, "--format", format, "--output_dir", to, "--threads", "1"};
    a.insert(a.end(), more.begin(), more.end());
    return run(a);
  }
  /// No trace of an output.
  void expect_refused(const outcome& o, int status, const std::vector<std::string>& words) const {
    support::expect_error_line(o, status, words);
    EXPECT_FALSE(fs::exists(out_));
    EXPECT_FALSE(fs::exists(out_ + ".partial"));
  }
  /// Converted, every format has the tensors that quantize writes for it.
  void expect_all_pairs(const std::vector<std::string>& formats, const std::vector<std::string>& scheme) {
    std::string list;
    for (const std::string& f : formats) list += (list.empty() ? "" : ",") + f;
    const fs::path source = quantized(list, scheme);
    for (const std::string& from : formats) {
      std::string others;
      for (const std::string& f : formats)
        if (f != from) others += (others.empty() ? "" : ",") + f;
      const fs::path to = dir_.path() / ("from-" + folder(from));
      const outcome o = convert((source / folder(from)).string(), others, to.string(), {"--json"});
      ASSERT_EQ(o.status, 0) << from << ": " << o.err;
      const auto json = golden::parse_json(o.out);
      for (const auto& format : json["formats"]) {
        EXPECT_EQ(format["layers_without_loss"], 14) << from << format;
        EXPECT_TRUE(format["lossy"].empty()) << from << format;
      }
      for (const std::string& f : formats) {
        if (f == from) continue;
        const fs::path folder_of_one = formats.size() == 2 ? to : to / folder(f);
        EXPECT_TRUE(same(tensors_of(folder_of_one), tensors_of(source / folder(f)))) << from << " -> " << f;
        EXPECT_EQ(run({"verify", "--model", folder_of_one.string(), "--source", model_}).status, 0);
      }
    }
    fs::remove_all(source);
  }

  support::temp_dir dir_;
  std::string model_, out_;
};

TEST_F(Convert, SymmetricIntegersBetweenAllFormatsOfWords) {
  expect_all_pairs({"auto_round", "auto_round:gptqmodel", "auto_round:auto_awq", "auto_gptq", "auto_awq", "mlx", "llm_compressor"}, {"--scheme", "W4A16G32"});
}

TEST_F(Convert, OtherWidthsAndGroups) {
  expect_all_pairs({"auto_round", "auto_gptq", "mlx", "llm_compressor"}, {"--scheme", "W2A16G32"});
  for (const auto& e : fs::directory_iterator(dir_.path()))
    if (e.path().filename() != "float") fs::remove_all(e.path());
  expect_all_pairs({"auto_round", "auto_gptq", "mlx", "llm_compressor"}, {"--scheme", "W8A16", "--group_size", "-1"});
}

TEST_F(Convert, AsymmetricIntegersBetweenFormatsOfZeroPoints) {
  // Without a group whose zero point is 0, which auto_gptq has no field for: every group of gaussian weights has both signs.
  expect_all_pairs({"auto_round", "auto_round:gptqmodel", "auto_gptq", "auto_awq", "llm_compressor"}, {"--scheme", "W4A16G32", "--asym"});
}

TEST_F(Convert, FloatingLayoutsBetweenAutoRoundAndCompressedTensors) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  for (const std::string scheme : {"MXFP4", "MXFP8", "NVFP4", "NVFP4_E5M3", "FP8_STATIC"}) {
    SCOPED_TRACE(scheme);
    expect_all_pairs({"auto_round", "llm_compressor"}, {"--scheme", scheme, "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"});
    fs::remove_all(dir_.path() / "from-auto-round");
    fs::remove_all(dir_.path() / "from-llm-compressor");
  }
  expect_all_pairs({"auto_round", "llm_compressor", "fp8"}, {"--scheme", "FP8_BLOCK"});
}

TEST_F(Convert, TypesOfScalesAreKeptWhereLayoutsLeaveAChoice) {
  // One scale for a matrix is F32 in compressed-tensors and BF16 in auto_round, by themselves.
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{{"auto_round", "llm_compressor"}, {"llm_compressor", "auto_round"}}) {
    const std::string source = quantized(from, {"--scheme", "FPW8A16"}, "fp8-" + from), other = dir_ / ("to-" + to), back = other + "-back";
    ASSERT_EQ(convert(source, to, other).status, 0);
    ASSERT_EQ(convert(other, from, back).status, 0);
    EXPECT_TRUE(weights(other) == weights(source));
    EXPECT_TRUE(same(tensors_of(back), tensors_of(source)));
  }
  expect_all_pairs({"llm_compressor", "auto_round:llm_compressor"}, {"--scheme", "INT8"});
  // Others write scales of integers in bfloat16 and float32.
  const fs::path words = quantized("llm_compressor", {"--scheme", "W4A16G32"}, "words");
  auto all = tensors_of(words);
  const auto with_scales = [&](const char* dtype, float factor) {
    auto changed = all;
    for (auto& [name, t] : changed) {
      if (!name.ends_with(".weight_scale")) continue;
      std::vector<std::uint16_t> halves(t.bytes.size() / 2);
      std::memcpy(halves.data(), t.bytes.data(), t.bytes.size());
      t.dtype = dtype;
      t.bytes.clear();
      for (const std::uint16_t h : halves) {
        const float f = ar::f32_from_f16(h) * factor;
        const std::uint16_t b = ar::bf16_from_f32(f);
        t.bytes.append(t.dtype == "F32" ? reinterpret_cast<const char*>(&f) : reinterpret_cast<const char*>(&b), t.dtype == "F32" ? 4 : 2);
      }
    }
    tiny_model::put(words / "model.safetensors", tiny_model::safetensors(changed));
    return changed;
  };
  const auto brain = with_scales("BF16", 1.0f);
  ASSERT_EQ(convert(words.string(), "auto_round,auto_round:llm_compressor", out_).status, 0) << "half precision holds these numbers of bfloat16";
  EXPECT_TRUE(weights(fs::path(out_) / "auto-round") == weights(words));
  EXPECT_TRUE(same(of_layers(tensors_of(fs::path(out_) / "auto-round-llm-compressor")), of_layers(brain)));
  fs::remove_all(out_);
  with_scales("F32", 1.0f + 0x1p-20f);
  expect_refused(convert(words.string(), "auto_gptq", out_), unsupported, {"--allow_loss", "scales"});
  ASSERT_EQ(convert(words.string(), "auto_round:llm_compressor", out_).status, 0);
  EXPECT_TRUE(weights(out_) == weights(words));
}

TEST_F(Convert, GgufBlocksToWordsAndBack) {
  for (const auto& [format, scheme] : std::vector<std::pair<std::string, std::string>>{{"gguf:q4_0", "W4A16G32"}, {"gguf:q8_0", "W8A16G32"}}) {
    SCOPED_TRACE(format);
    const std::string name = folder(format);
    const std::string file = quantized(format, {}, name);
    for (const std::string other : {"auto_round", "mlx", "llm_compressor"}) {
      const std::string to = dir_ / (name + other), back = to + "-back";
      const outcome o = convert(file, other, to);
      ASSERT_EQ(o.status, 0) << o.err;
      EXPECT_NE(o.err.find("layers without loss"), std::string::npos) << o.err;
      // Head and embedding are blocks in the file; they become floats that hold the same values.
      EXPECT_NE(o.err.find("expanded to floats"), std::string::npos) << o.err;
      EXPECT_TRUE(weights(to) == weights(file));
      ASSERT_EQ(convert(to, format, back).status, 0);
      EXPECT_TRUE(of_layers(gguf_tensors(back)) == of_layers(gguf_tensors(file)));
      EXPECT_TRUE(weights(back) == weights(file));
    }
    // And the other way round.
    const std::string words = quantized("auto_round", {"--scheme", scheme}, name + "-words"), to = dir_ / (name + "-of-words"), back = to + "-back";
    ASSERT_EQ(convert(words, format, to).status, 0);
    ASSERT_EQ(convert(to, "auto_round", back).status, 0);
    EXPECT_TRUE(same(of_layers(tensors_of(back)), of_layers(tensors_of(words))));
    EXPECT_TRUE(weights(to) == weights(words));
  }
}

TEST_F(Convert, WiderGroupsAreSplitAndMinimaAreBiases) {
  const std::string wide = quantized("auto_round", {"--scheme", "W4A16G64"}, "wide");
  const outcome o = convert(wide, "gguf:q4_0", out_);
  // down_proj has rows of 96 values: a short group of 32 is a group of 32, too.
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_TRUE(weights(out_) == weights(wide));
  // Q4_1 stores a scale and a minimum in half precision, as MLX does.
  const std::string file = quantized("gguf:q4_1", {}, "minima"), to = dir_ / "mlx", back = dir_ / "back";
  ASSERT_EQ(convert(file, "mlx", to).status, 0);
  ASSERT_EQ(convert(to, "gguf:q4_1", back).status, 0);
  EXPECT_TRUE(of_layers(gguf_tensors(back)) == of_layers(gguf_tensors(file)));
  EXPECT_TRUE(weights(to) == weights(file));
}

TEST_F(Convert, TheModelComputesTheSame) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(8));
  const std::string words = quantized("auto_round", {"--scheme", "W4A16G32"}, "words");
  ASSERT_EQ(convert(words, "gguf:q4_0,fake", out_, {"--allow_loss"}).status, 0);
  const outcome o = run({"eval", "--model", dir_.path() / "out" / "gguf-q4-0", "--ref", words, "--ppl", dir_ / "calib.jsonl", "--seqlen", "32", "--max_tokens", "256", "--json"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NEAR(golden::parse_json(o.out)["kl"].get<double>(), 0, 1e-12) << "equal weights give equal logits; the sum of p log(p / p) rounds";
}

TEST_F(Convert, LossIsToldAndMustBeAllowed) {
  const std::string words = quantized("auto_round", {"--scheme", "W4A16G32", "--asym"}, "words");
  // MLX stores scale * zero point in half precision.
  expect_refused(convert(words, "mlx", out_), unsupported, {"mlx", "--allow_loss", "_proj"});
  const outcome dry = convert(words, "mlx", out_, {"--dry_run", "--json"});
  ASSERT_EQ(dry.status, 0) << dry.err;
  EXPECT_FALSE(fs::exists(out_));
  const outcome o = convert(words, "mlx", out_, {"--allow_loss", "--json"});
  ASSERT_EQ(o.status, 0) << o.err;
  const auto told = golden::parse_json(o.out)["formats"][0];
  EXPECT_EQ(golden::parse_json(dry.out)["loss"][0]["largest_difference"], told["largest_difference"]);
  EXPECT_EQ(golden::parse_json(dry.out)["bytes"], told["bytes"]);
  const auto before = weights(words), after = weights(out_);
  double largest = 0;
  for (const auto& [name, w] : before)
    for (std::size_t i = 0; i < w.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(w[i]) - static_cast<double>(after.at(name)[i])));
  EXPECT_GT(largest, 0);
  EXPECT_EQ(told["largest_difference"].get<double>(), largest);
  EXPECT_GT(told["lossy"].size(), 0u);
  EXPECT_EQ(told["lossy"].size() + told["layers_without_loss"].get<std::size_t>(), 14u);
}

TEST_F(Convert, FakeIsAlwaysPossible) {
  const std::string words = quantized("auto_round", {"--scheme", "W4A16G32"}, "words");
  ASSERT_EQ(convert(words, "fake", out_).status, 0);
  const auto all = tensors_of(out_);
  EXPECT_EQ(all.size(), tiny_model().tensors.size());
  for (const auto& [name, t] : all) EXPECT_EQ(t.dtype, "BF16") << name;
  EXPECT_FALSE(golden::read_json(dir_.path() / "out" / "config.json").contains("quantization_config"));
  fs::remove_all(out_);
  const std::string file = quantized("gguf:q2_k_s", {}, "k");  // falls back to Q5_0 and Q8_0 in rows of 64
  ASSERT_EQ(convert(file, "fake", out_).status, 0);
}

TEST_F(Convert, BlocksOfKTypesGoFromFileToFileOnly) {
  const fs::path golden_file = fs::path(AR_TEST_DATA) / "golden/gguf/llama3_tiny.autoround_rtn.Q2_K_S.gguf", models = fs::path(AR_TEST_DATA) / "golden/gguf/models/llama3_tiny";
  const fs::path folder = dir_.path() / "k";
  fs::create_directories(folder);
  fs::copy(golden_file, folder / "model.gguf");
  for (const char* f : {"tokenizer.json", "tokenizer_config.json"}) fs::copy(models / f, folder / f);
  expect_refused(convert(folder.string(), "auto_gptq", out_), unsupported, {"auto_gptq", "_proj", "gguf:q2_k_s", "--format fake"});
  expect_refused(convert(folder.string(), "gguf:q4_0", out_), unsupported, {"Q2_K"});
  const outcome o = convert(folder.string(), "gguf:q2_k_s", out_);
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_TRUE(gguf_tensors(out_) == gguf_tensors(folder));
}

TEST_F(Convert, ColumnsInAnOrderOfTheirOwnAreUnpackedOnly) {
  const fs::path words = quantized("auto_gptq", {"--scheme", "W4A16G32"}, "words");
  auto all = tensors_of(words);
  for (auto& [name, t] : all) {
    if (!name.ends_with(".g_idx")) continue;
    std::vector<std::int32_t> group(t.bytes.size() / 4);
    std::memcpy(group.data(), t.bytes.data(), t.bytes.size());
    std::reverse(group.begin(), group.end());
    std::memcpy(t.bytes.data(), group.data(), t.bytes.size());
  }
  tiny_model::put(words / "model.safetensors", tiny_model::safetensors(all));
  auto config = golden::read_json(words / "config.json");
  config["quantization_config"]["desc_act"] = true;
  tiny_model::put(words / "config.json", config.dump());
  expect_refused(convert(words.string(), "auto_round", out_), unsupported, {"desc_act", "fake"});
  ASSERT_EQ(convert(words.string(), "fake", out_).status, 0);
}

TEST_F(Convert, RefusesWhatIsNoConversion) {
  expect_refused(convert(model_, "auto_round", out_), usage, {"not quantized", "quantize"});
  expect_refused(convert(dir_ / "nowhere", "auto_round", out_), bad_input, {"nowhere"});
  expect_refused(convert(model_, "gptq", out_), unsupported, {"gptq"});
  expect_refused(run({"convert", "--model", model_, "--output_dir", out_}), usage, {"--format"});
  const std::string words = quantized("auto_round", {"--scheme", "W3A16G32"}, "words");
  expect_refused(convert(words, "auto_awq", out_), unsupported, {"auto_awq", "4", "llm_compressor"});
  expect_refused(convert(words, "gguf:q3_k_s", out_), unsupported, {"quantize --model"});
  expect_refused(convert(words, "fp8", out_), unsupported, {"fp8"});
  // An existing folder is left alone.
  fs::create_directories(out_);
  tiny_model::put(fs::path(out_) / "mine", "mine");
  const outcome o = convert(words, "auto_gptq", out_);
  EXPECT_EQ(o.status, bad_output) << o.err;
  EXPECT_EQ(golden::read_bytes(fs::path(out_) / "mine"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(out_), fs::directory_iterator()), 1);
}

TEST_F(Convert, DamagedSourcesLeaveNoOutput) {
  const fs::path words = quantized("auto_round", {"--scheme", "W4A16G32"}, "words");
  const auto good = tensors_of(words);
  const auto config = golden::read_json(words / "config.json");
  const auto damaged = [&](const std::map<std::string, tiny_tensor>& tensors, const ordered_json& said, const std::vector<std::string>& words_of_error, std::size_t cut = 0) {
    std::string bytes = tiny_model::safetensors(tensors);
    bytes.resize(bytes.size() - cut);
    tiny_model::put(words / "model.safetensors", bytes);
    tiny_model::put(words / "config.json", said.dump());
    expect_refused(convert(words.string(), "auto_gptq", out_), bad_input, words_of_error);
  };
  const std::string layer = "model.layers.1.mlp.down_proj";
  damaged(good, config, {"model.safetensors"}, 100);
  ordered_json other = config;
  other["quantization_config"]["bits"] = 8;
  damaged(good, other, {"qweight"});
  other = config;
  other["quantization_config"]["group_size"] = 16;
  damaged(good, other, {"qzeros"});
  auto less = good;
  less.erase(layer + ".scales");
  damaged(less, config, {layer, "missing"});
  auto infinite = good;
  infinite.at(layer + ".scales").bytes.replace(0, 2, std::string("\x00\x7c", 2));
  damaged(infinite, config, {layer, "NaN or infinity"});
  auto nan = good;
  nan.at("model.norm.weight").bytes.replace(0, 2, "\xc0\x7f");
  damaged(nan, config, {"model.norm.weight", "NaN or infinity"});
}

}  // namespace
