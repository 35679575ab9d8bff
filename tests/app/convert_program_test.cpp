// links: ar_export
// The command convert: layers keep their bits from one format to another, loss is told and must be allowed, and what cannot be done leaves nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "ar/numeric/half.hpp"
#include "export/export_format.hpp"
#include "io/checkpoint_dir.hpp"
#include "io/file.hpp"
#include "io/gguf.hpp"
#include "support/golden.hpp"
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
    const io::pinned_bytes stored = t.bytes.pin();
    const auto* raw = reinterpret_cast<const char*>(stored.data());
    all[t.name] = {std::string(io::name_of(t.type)), t.shape, std::string(raw, raw + stored.size())};
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
    const io::pinned_bytes stored = t.data.pin();
    const auto* raw = reinterpret_cast<const char*>(stored.data());
    all[t.name] = std::string(raw, raw + stored.size());
  }
  return all;
}

/// The file of a folder once more, with other numbers in a tensor of float32, or with a tensor more.
void set_floats(const fs::path& folder, const std::string& name, std::vector<float> values) {
  const fs::path path = gguf_file(folder);
  std::string copy = golden::read_bytes(path);
  const auto contents = io::parse_gguf(std::as_bytes(std::span(copy)), path.string());
  ASSERT_TRUE(contents.has_value());
  std::vector<io::gguf_tensor_decl> declared;
  for (const io::gguf_tensor_ref& t : contents->tensors)
    if (t.name != name) declared.push_back(t);
  declared.push_back({name, io::gguf_type::f32, {values.size()}});
  fs::remove(path);
  auto writer = io::gguf_writer::create(path.string(), contents->metadata, declared);
  ASSERT_TRUE(writer.has_value());
  for (const io::gguf_tensor_ref& t : contents->tensors)
    if (t.name != name) {
      ASSERT_TRUE(writer->write(t.name, t.data.pin()).has_value());
    }
  ASSERT_TRUE(writer->write(name, std::as_bytes(std::span(values))).has_value());
  ASSERT_TRUE(writer->finish().has_value());
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
    if ((!e.quantized && (e.type.starts_with("I") || e.type.starts_with("U"))) || e.name == "rope_freqs.weight") continue;
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

/// The scales of K types are products of two numbers, and their minima no multiples of them: float32 holds both.
TEST_F(Convert, BlocksOfKTypesGoWhereScalesInFloatDo) {
  const fs::path golden = fs::path(AR_TEST_DATA) / "golden/gguf", models = golden / "models/llama3_tiny";
  const auto folder_of = [&](const std::string& file) {
    const fs::path to = dir_.path() / file;
    fs::create_directories(to);
    fs::copy(golden / file, to / "model.gguf");
    for (const char* f : {"tokenizer.json", "tokenizer_config.json"}) fs::copy(models / f, to / f);
    return to;
  };
  const fs::path two = folder_of("llama3_tiny.autoround_rtn.Q2_K_S.gguf");
  expect_refused(convert(two.string(), "auto_gptq", out_), unsupported, {"auto_gptq", "_proj", "biases"});
  expect_refused(convert(two.string(), "llm_compressor", out_), unsupported, {"biases", "_proj"});
  expect_refused(convert(two.string(), "gguf:q4_0", out_), unsupported, {"Q2_K"});
  ASSERT_EQ(convert(two.string(), "gguf:q2_k_s", out_).status, 0);
  EXPECT_TRUE(gguf_tensors(out_) == gguf_tensors(two));
  fs::remove_all(out_);
  const outcome o = convert(two.string(), "mlx", out_);
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_TRUE(weights(out_) == weights(two));
  EXPECT_EQ(tensors_of(out_).at("model.layers.0.self_attn.q_proj.scales").dtype, "F32");
  EXPECT_NE(o.err.find("groups of 32, 64 and 128"), std::string::npos) << "Q2_K has groups of 16: " << o.err;
}

/// Every bit of a K type's block, with numbers by chance: both readers compute the same.
TEST_F(Convert, AllKTypesOfAFileAreReadAlikeElsewhere) {
  const support::tiny_model wide(1, false, false, 256, 256);
  wide.write(dir_ / "wide");
  model_ = dir_ / "wide";
  for (const auto& [format, others] : std::vector<std::pair<std::string, std::string>>{
           {"gguf:q2_k_s", "mlx"}, {"gguf:q3_k_s", "mlx,llm_compressor"}, {"gguf:q4_k_m", "mlx"}, {"gguf:q5_k_m", "mlx"}, {"gguf:q6_k", "mlx,llm_compressor"}}) {
    SCOPED_TRACE(format);
    const std::string file = quantized(format, {}, folder(format)), to = dir_ / ("of-" + folder(format));
    const auto expected = weights(file);
    const outcome o = convert(file, others, to);
    ASSERT_EQ(o.status, 0) << o.err;
    for (const std::string other : {"mlx", "llm_compressor"}) {
      if (others.find(other) == std::string::npos) continue;
      EXPECT_TRUE(weights(others == other ? fs::path(to) : fs::path(to) / folder(other)) == expected) << other;
    }
  }
}

/// Sign, magnitude and power of two mean the same; nibbles lie in another order.
TEST_F(Convert, Mxfp4BetweenFilesAndFolders) {
  for (const std::string format : {"auto_round", "llm_compressor"}) {
    SCOPED_TRACE(format);
    const std::string source = quantized(format, {"--scheme", "MXFP4"}, "mx-" + format), file = dir_ / ("file-" + format), back = dir_ / ("back-" + format), other = dir_ / ("other-" + format);
    expect_refused(convert(source, "gguf:mxfp4", out_), unsupported, {"gguf:mxfp4", "no longer quantized", "--allow_loss", "_proj"});
    expect_refused(convert(source, "gguf:q4_0", out_), unsupported, {"MXFP4", "gguf:mxfp4"});
    const outcome o = convert(source, "gguf:mxfp4", file, {"--allow_loss", "--json"});
    ASSERT_EQ(o.status, 0) << o.err;
    const auto told = golden::parse_json(o.out)["formats"][0];
    EXPECT_EQ(told["largest_difference"], 0) << "what is lost is that inputs are quantized";
    EXPECT_EQ(told["lossy"].size(), 14u);
    EXPECT_TRUE(weights(file) == weights(source));
    // Back, inputs are floats, and the bits of all layers what they were.
    const outcome again = convert(file, format, back, {"--json"});
    ASSERT_EQ(again.status, 0) << again.err;
    EXPECT_EQ(golden::parse_json(again.out)["formats"][0]["layers_without_loss"], 14);
    EXPECT_TRUE(same(of_layers(tensors_of(back)), of_layers(tensors_of(source))));
    EXPECT_EQ(run({"verify", "--model", back}).status, 0);
    ASSERT_EQ(convert(back, "gguf:mxfp4", other).status, 0) << "float inputs need no leave";
    EXPECT_TRUE(gguf_tensors(other) == gguf_tensors(file));
    ASSERT_EQ(convert(file, "gguf:mxfp4", other + "-copy").status, 0);
    EXPECT_TRUE(gguf_tensors(other + "-copy") == gguf_tensors(file));
  }
}

/// The block of 32 that a file stores for codes and a power of two, by the words of the format: byte e, then weight i in the low half of byte i, i + 16 in its high half.
TEST_F(Convert, Mxfp4BlocksAreThoseOfTheFormat) {
  const std::string source = quantized("llm_compressor", {"--scheme", "MXFP4"}, "mx");
  auto all = tensors_of(source);
  const std::string layer = "model.layers.1.mlp.down_proj";  // rows keep their order
  std::string& codes = all.at(layer + ".weight_packed").bytes;
  std::string& scales = all.at(layer + ".weight_scale").bytes;
  for (std::size_t i = 0; i < 16; ++i) codes[i] = static_cast<char>(i % 16 * 17);  // weights 2 i and 2 i + 1 have code i
  scales[0] = '\x05';
  scales[1] = '\x00';  // 2^-127, which float holds without its first bit
  scales[2] = '\xfb';
  tiny_model::put(fs::path(source) / "model.safetensors", tiny_model::safetensors(all));
  ASSERT_EQ(convert(source, "gguf:mxfp4", out_, {"--allow_loss"}).status, 0);
  const std::string block = gguf_tensors(out_).at("blk.1.ffn_down.weight").substr(0, 35);
  std::string expected = "\x05";
  for (std::size_t i = 0; i < 16; ++i) expected += static_cast<char>(i / 2 | (8 + i / 2) << 4);
  EXPECT_EQ(block.substr(0, 17), expected);
  EXPECT_EQ(block[17], '\x00');
  EXPECT_EQ(block[34], '\xfb');
  EXPECT_TRUE(weights(out_) == weights(source));
}

/// A file multiplies by the reciprocal of what a folder divides by: the last bit of a weight may differ, but for powers of two.
TEST_F(Convert, Nvfp4BetweenFilesAndFolders) {
  support::tiny_model m(1, false, false, 64, 128);
  m.write(model_);
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  const std::vector<std::string> scheme = {"--scheme", "NVFP4", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"};
  for (const std::string format : {"auto_round", "llm_compressor"}) {
    SCOPED_TRACE(format);
    const std::string source = quantized(format, scheme, "nv-" + format), file = dir_ / ("file-" + format), back = dir_ / ("back-" + format), exact = dir_ / ("exact-" + format);
    expect_refused(convert(source, "gguf:nvfp4", out_), unsupported, {"--allow_loss", "no longer quantized"});
    ASSERT_EQ(convert(source, "gguf:nvfp4", file, {"--allow_loss"}).status, 0);
    const auto before = weights(source), after = weights(file);
    for (const auto& [name, w] : before)
      for (std::size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(after.at(name)[i], w[i], std::abs(w[i]) * 0x1p-22f) << name;
    // With scales of the whole tensor that are powers of two, and no word on inputs, everything is exact.
    auto all = tensors_of(source);
    for (auto it = all.begin(); it != all.end();) {
      const float power = 512;
      if (it->first.ends_with(".weight_global_scale")) std::memcpy(it->second.bytes.data(), &power, 4);
      it = it->first.ends_with(".input_global_scale") ? all.erase(it) : std::next(it);
    }
    tiny_model::put(fs::path(source) / "model.safetensors", tiny_model::safetensors(all));
    auto config = golden::read_json(fs::path(source) / "config.json");
    ordered_json& q = config["quantization_config"];
    if (format == "llm_compressor") q["config_groups"]["group_0"]["input_activations"] = nullptr;
    else q["act_bits"] = 16;
    tiny_model::put(fs::path(source) / "config.json", config.dump());
    ASSERT_EQ(convert(source, "gguf:nvfp4", exact).status, 0);
    EXPECT_TRUE(weights(exact) == weights(source));
    const outcome o = convert(exact, format, back);
    ASSERT_EQ(o.status, 0) << o.err;
    EXPECT_TRUE(same(of_layers(tensors_of(back)), of_layers(all)));
    // From file to file everything stays, whatever the scale.
    ASSERT_EQ(convert(file, "gguf:nvfp4", file + "-copy").status, 0);
    EXPECT_TRUE(gguf_tensors(file + "-copy") == gguf_tensors(file));
  }
  // llama.cpp's blocks have 64 weights.
  const std::string narrow = dir_ / "narrow", packed = dir_ / "narrow-nv";
  support::tiny_model(1, false, false, 64, 96).write(narrow);
  std::vector<std::string> a = {"quantize", "--model", narrow, "--output_dir", packed, "--format", "llm_compressor", "--iters", "0", "--threads", "1"};
  a.insert(a.end(), scheme.begin(), scheme.end());
  ASSERT_EQ(run(a).status, 0);
  expect_refused(convert(packed, "gguf:nvfp4", out_, {"--allow_loss"}), unsupported, {"down_proj", "96", "64"});
}

/// All bytes that a scale can have: from 256 to 448 too, which ggml's own quantizer leaves out.
TEST_F(Convert, Nvfp4KeepsAllBytesOfScales) {
  support::tiny_model(1, false, false, 64, 128).write(model_);
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  const std::string source = quantized("llm_compressor", {"--scheme", "NVFP4", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"}, "nv"), back = dir_ / "back";
  auto all = tensors_of(source);
  for (auto& [name, t] : all) {
    const float one = 1;
    if (name.ends_with(".weight_global_scale")) std::memcpy(t.bytes.data(), &one, 4);
    if (name.ends_with(".weight_scale"))
      for (std::size_t i = 0; i < t.bytes.size(); ++i) t.bytes[i] = static_cast<char>(i % 127);
  }
  tiny_model::put(fs::path(source) / "model.safetensors", tiny_model::safetensors(all));
  ASSERT_EQ(convert(source, "gguf:nvfp4", out_, {"--allow_loss"}).status, 0);
  EXPECT_TRUE(weights(out_) == weights(source));
  ASSERT_EQ(convert(out_, "llm_compressor", back).status, 0);
  const auto returned = tensors_of(back);
  for (const auto& [name, t] : of_layers(all))
    if (name.ends_with(".weight_scale") || name.ends_with(".weight_packed")) {
      EXPECT_EQ(returned.at(name).bytes, t.bytes) << name;
    }
  // A scale below 0 has no byte there.
  all.at("model.layers.0.mlp.up_proj.weight_scale").bytes[0] = '\xb0';
  tiny_model::put(fs::path(source) / "model.safetensors", tiny_model::safetensors(all));
  fs::remove_all(out_);
  expect_refused(convert(source, "gguf:nvfp4", out_, {"--allow_loss"}), unsupported, {"up_proj", "NVFP4"});
}

/// Beside blocks lies what the whole tensor is multiplied by, in evaluations too.
TEST_F(Convert, ScalesOfWholeTensorsInFilesCount) {
  support::tiny_model(1, false, true, 64, 128).write(model_);
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  const std::string source = quantized("llm_compressor", {"--scheme", "NVFP4", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"}, "nv");
  ASSERT_EQ(convert(source, "gguf:nvfp4", out_, {"--allow_loss"}).status, 0);
  EXPECT_EQ(gguf_tensors(out_).at("blk.0.ffn_up.scale").size(), 4u);
  const outcome o = run({"eval", "--model", source, "--float_activations", "--ref", out_, "--ppl", dir_ / "calib.jsonl", "--seqlen", "32", "--max_tokens", "256", "--json"});
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NEAR(golden::parse_json(o.out)["kl"].get<double>(), 0, 1e-7) << "weights differ in their last bits";
  // Twice the scale, twice the weights; biases are added behind the product.
  const auto before = weights(out_), of_source = weights(source);
  for (const auto& [name, w] : of_source) {
    if (name.ends_with(".bias")) {
      EXPECT_EQ(before.at(name), w) << name;
    }
  }
  EXPECT_TRUE(of_source.contains("model.layers.0.mlp.up_proj.bias") || of_source.contains("model.layers.0.self_attn.q_proj.bias"));
  float scale = 0;
  std::memcpy(&scale, gguf_tensors(out_).at("blk.0.ffn_up.scale").data(), 4);
  set_floats(out_, "blk.0.ffn_up.scale", {2 * scale});
  const auto after = weights(out_);
  for (const auto& [name, w] : before)
    for (std::size_t i = 0; i < w.size(); ++i) ASSERT_EQ(after.at(name)[i], name == "model.layers.0.mlp.up_proj.weight" ? 2 * w[i] : w[i]) << name;
  // What llama.cpp's converter writes beside it has no place, and is named.
  set_floats(out_, "blk.0.ffn_up.input_scale", {0.5f});
  const outcome named = convert(out_, "gguf:nvfp4", dir_ / "copy");
  ASSERT_EQ(named.status, 0) << named.err;
  EXPECT_NE(named.err.find("blk.0.ffn_up.input_scale"), std::string::npos) << named.err;
  for (const std::vector<float>& bad : {std::vector<float>{1, 1}, {std::nanf("")}, {INFINITY}}) {
    set_floats(out_, "blk.0.ffn_up.scale", bad);
    const outcome refused = run({"inspect", "--model", out_});
    support::expect_error_line(refused, bad_input, {"ffn_up.scale"});
  }
}

/// GPTQ's columns in the order of their activations have a place where each column's group is stored.
TEST_F(Convert, ColumnsInAnOrderOfTheirOwnGoWhereGroupsOfColumnsAreStored) {
  for (const bool asym : {false, true}) {
    SCOPED_TRACE(asym);
    const fs::path words = quantized("auto_gptq", asym ? std::vector<std::string>{"--scheme", "W4A16G32", "--asym"} : std::vector<std::string>{"--scheme", "W4A16G32"}, asym ? "asym" : "words");
    auto all = tensors_of(words);
    for (auto& [name, t] : all) {
      if (!name.ends_with(".g_idx")) continue;
      std::vector<std::int32_t> group(t.bytes.size() / 4);
      std::memcpy(group.data(), t.bytes.data(), t.bytes.size());
      for (std::size_t i = 0; i < group.size(); ++i) group[i] = static_cast<std::int32_t>(i * 7 % group.size() / 32);
      if (name.find("layers.1.self_attn.v_proj") == std::string::npos) std::memcpy(t.bytes.data(), group.data(), t.bytes.size());
    }
    tiny_model::put(words / "model.safetensors", tiny_model::safetensors(all));
    auto config = golden::read_json(words / "config.json");
    config["quantization_config"]["desc_act"] = true;
    tiny_model::put(words / "config.json", config.dump());
    for (const std::string format : {"auto_round", "auto_round:gptqmodel", "auto_awq", "mlx", "gguf:q4_0"})
      expect_refused(convert(words.string(), format, out_, {"--allow_loss"}), unsupported, {"desc_act", "fake", "llm_compressor", "_proj"});
    const fs::path ct = dir_.path() / (asym ? "ct-asym" : "ct"), back = dir_.path() / (asym ? "back-asym" : "back");
    const outcome o = convert(words.string(), "llm_compressor,fake", ct.string(), {"--allow_loss"});
    ASSERT_EQ(o.status, 0) << o.err;
    EXPECT_NE(o.err.find("warning: columns in an order of their own"), std::string::npos) << o.err;
    EXPECT_TRUE(weights(ct / "llm-compressor") == weights(words));
    // One layer lies in order, and is said to.
    const auto converted = tensors_of(ct / "llm-compressor");
    EXPECT_TRUE(converted.contains("model.layers.0.self_attn.v_proj.weight_g_idx"));
    EXPECT_FALSE(converted.contains("model.layers.1.self_attn.v_proj.weight_g_idx"));
    const auto said = golden::read_json(ct / "llm-compressor" / "config.json");
    EXPECT_EQ(said["quantization_config"]["config_groups"].size(), 2u);
    for (const auto& [name, group] : said["quantization_config"]["config_groups"].items())
      EXPECT_EQ(group["weights"].value("actorder", ""), group["targets"].size() == 1 ? "" : "group") << name;
    // Every command reads them.
    const std::string folder = ct / "llm-compressor";
    EXPECT_EQ(run({"verify", "--model", folder}).status, 0);
    EXPECT_EQ(run({"inspect", "--model", folder}).status, 0);
    tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(8));
    const outcome same_numbers = run({"eval", "--model", folder, "--ref", ct / "fake", "--ppl", dir_ / "calib.jsonl", "--seqlen", "32", "--max_tokens", "256", "--json"});
    ASSERT_EQ(same_numbers.status, 0) << same_numbers.err;
    EXPECT_NEAR(golden::parse_json(same_numbers.out)["kl"].get<double>(), 0, 1e-7) << "panels multiply in another order than floats";
    const auto told = [&](const std::string& model) { return run({"generate", "--model", model, "--prompt", "abc", "--max_tokens", "8", "--temperature", "0"}); };
    const outcome words_of = told(folder);
    EXPECT_EQ(words_of.status, 0) << words_of.err;
    EXPECT_EQ(words_of.out, told(ct / "fake").out);
    ASSERT_EQ(convert(folder, "auto_gptq", back.string()).status, 0);
    EXPECT_TRUE(same(tensors_of(back), all));
    EXPECT_EQ(golden::read_json(back / "config.json")["quantization_config"]["desc_act"], true);
    EXPECT_EQ(run({"verify", "--model", back.string()}).status, 0);
  }
}

/// Layers that compressed-tensors 0.13 wrote with actorder "group", through every command.
TEST_F(Convert, ColumnsInTheOrderOfTheirActivationsAreReadByEveryCommand) {
  const golden::file file(fs::path(AR_TEST_DATA) / "actorder" / "layers.safetensors");
  const std::tuple<const char*, const char*, const char*, int, int> places[] = {
      {"int4", "model.layers.0.self_attn.q_proj", "pack-quantized", 4, 16},
      {"int4_asym", "model.layers.0.self_attn.o_proj", "pack-quantized", 4, 32},
      {"int8", "model.layers.1.self_attn.q_proj", "int-quantized", 8, 32},
      {"fp8", "model.layers.1.self_attn.o_proj", "float-quantized", 8, 16},
  };
  tiny_model packed, plain;
  ordered_json groups;
  for (const auto& [name, layer, format, bits, size] : places) {
    packed.tensors.erase(layer + std::string(".weight"));
    for (const auto& [tensor, t] : file.tensors()) {
      if (!tensor.starts_with(name + std::string("."))) continue;
      const std::string part = tensor.substr(tensor.find('.') + 1);
      (part == "expected" ? plain : packed).tensors[layer + ("." + (part == "expected" ? "weight" : part))] = {t.dtype, {t.shape.begin(), t.shape.end()},
                                                                                                                    std::string(reinterpret_cast<const char*>(t.data), t.bytes)};
    }
    const ordered_json args = {{"num_bits", bits}, {"type", std::string(name) == "fp8" ? "float" : "int"}, {"symmetric", std::string(name) != "int4_asym"},
                               {"group_size", size}, {"strategy", "group"}, {"actorder", "group"}};
    groups[name] = {{"targets", {layer}}, {"weights", args}, {"format", format}};
  }
  packed.config["quantization_config"] = {{"config_groups", groups}, {"quant_method", "compressed-tensors"}, {"format", "mixed-precision"}, {"ignore", {"lm_head"}}};
  const std::string source = dir_ / "ct", floats = dir_ / "plain", text = dir_ / "text.jsonl";
  packed.write(source);
  plain.write(floats);
  tiny_model::put(text, tiny_model::calibration(4));

  EXPECT_TRUE(weights(source) == weights(floats));
  const outcome seen = run({"inspect", "--model", source});
  for (const char* type : {"W4 g16 sym act-order", "W4 g32 asym act-order", "INT8 g32 act-order", "FP8 g16 act-order"}) EXPECT_NE(seen.out.find(type), std::string::npos) << seen.out << seen.err;
  EXPECT_EQ(run({"verify", "--model", source}).status, 0);
  const outcome scored = run({"eval", "--model", source, "--ref", floats, "--ppl", text, "--seqlen", "16", "--max_tokens", "64", "--json"});
  ASSERT_EQ(scored.status, 0) << scored.err;
  EXPECT_LT(std::abs(golden::parse_json(scored.out)["kl"].get<double>()), 1e-9) << scored.out;  // sums in another order
  const auto continued = [&](const std::string& model) { return run({"generate", "--model", model, "--prompt", "once", "--max_tokens", "8", "--temperature", "0"}); };
  const outcome words = continued(source);
  EXPECT_EQ(words.status, 0) << words.err;
  EXPECT_EQ(words.out, continued(floats).out);

  const outcome converted = convert(source, "llm_compressor", out_);
  ASSERT_EQ(converted.status, 0) << converted.err;
  EXPECT_TRUE(weights(out_) == weights(floats));
  const auto all = tensors_of(out_);
  for (const auto& [name, layer, format, bits, size] : places) EXPECT_EQ(all.at(layer + std::string(".weight_g_idx")).bytes, packed.tensors.at(layer + std::string(".weight_g_idx")).bytes) << name;
  const outcome again = run({"quantize", "--model", source, "--output_dir", dir_ / "again", "--format", "fake", "--iters", "0", "--disable_opt_rtn", "--scheme", "W8A16G32"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_FALSE(tensors_of(dir_ / "again").contains("model.layers.0.self_attn.q_proj.weight_g_idx"));
}

/// Weights are the same wherever a format has no word for quantized inputs; that they are not quantized any more is told.
TEST_F(Convert, QuantizedInputsAreDroppedWithLeaveOnly) {
  const std::string source = quantized("llm_compressor", {"--scheme", "INT8"});
  expect_refused(convert(source, "auto_round", out_), unsupported, {"no longer quantized; --allow_loss"});
  for (const std::string format : {"auto_round", "gguf:q8_0"}) {
    ASSERT_EQ(convert(source, format, out_, {"--allow_loss"}).status, 0);
    EXPECT_TRUE(weights(out_) == weights(source)) << format;
    fs::remove_all(out_);
  }
}

/// What stands beside the blocks of a file, and what cannot be.
TEST_F(Convert, DamagedFilesOfFloatingBlocksAreRefused) {
  const std::string source = quantized("gguf:mxfp4", {}, "mx");
  const fs::path file = gguf_file(source);
  const std::string good = golden::read_bytes(file);
  const std::size_t at = good.find(gguf_tensors(source).at("blk.0.ffn_up.weight"));
  ASSERT_NE(at, std::string::npos);
  std::string bad = good;
  bad[at] = '\xff';  // no exponent
  tiny_model::put(file, bad);
  expect_refused(convert(source, "llm_compressor", out_), bad_input, {"ffn_up", "no finite number"});
  tiny_model::put(file, good.substr(0, good.size() - 40));
  expect_refused(convert(source, "llm_compressor", out_), bad_input, {file.filename().string()});
}

/// Static scales of keys, values and queries go where the configuration has words for them, and are named where it has none.
TEST_F(Convert, ScalesOfAttentionAreCarriedOrNamed) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  const std::vector<std::string> data = {"--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"};
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--static_kv_dtype", "fp8"}, {"--static_kv_dtype", "fp8", "--static_kv_granularity", "head"}, {"--static_kv_dtype", "nvfp4"}, {"--static_attention_dtype", "fp8"}}) {
    SCOPED_TRACE(more[1] + more.back());
    std::vector<std::string> scheme = {"--scheme", "FP8_STATIC"};
    scheme.insert(scheme.end(), data.begin(), data.end());
    scheme.insert(scheme.end(), more.begin(), more.end());
    const fs::path both = quantized("auto_round,llm_compressor", scheme, "both");
    const auto q = [](const fs::path& folder) { return golden::read_json(folder / "config.json")["quantization_config"]; };
    const fs::path ours = dir_.path() / "ours", theirs = dir_.path() / "theirs";
    ASSERT_EQ(convert((both / "llm-compressor").string(), "auto_round", ours.string()).status, 0);
    ASSERT_EQ(convert((both / "auto-round").string(), "llm_compressor", theirs.string()).status, 0);
    EXPECT_TRUE(same(tensors_of(ours), tensors_of(both / "auto-round")));
    EXPECT_TRUE(same(tensors_of(theirs), tensors_of(both / "llm-compressor")));
    for (const char* key : {"kv_cache_scheme", "attention_input_activations"}) EXPECT_EQ(q(theirs).value(key, ordered_json()), q(both / "llm-compressor").value(key, ordered_json())) << key;
    for (const char* key : {"static_attention_dtype", "static_attention_granularity"}) EXPECT_EQ(q(ours).value(key, ordered_json()), q(both / "auto-round").value(key, ordered_json())) << key;
    if (more[0] == "--static_kv_dtype") {
      for (const char* key : {"static_kv_dtype", "static_kv_granularity"}) EXPECT_EQ(q(ours).value(key, ordered_json()), q(both / "auto-round").value(key, ordered_json())) << key;
    }
    for (const fs::path& p : {both, ours, theirs}) fs::remove_all(p);
  }
  std::vector<std::string> scheme = {"--scheme", "W4A16G32", "--static_kv_dtype", "fp8"};
  scheme.insert(scheme.end(), data.begin(), data.end());
  const std::string source = quantized("llm_compressor", scheme, "words");
  for (const std::string format : {"mlx", "gguf:q4_0", "auto_gptq"}) {
    SCOPED_TRACE(format);
    expect_refused(convert(source, format, out_), unsupported, {"scales of attention", "self_attn", "--allow_loss"});
    const outcome o = convert(source, format, out_, {"--allow_loss"});
    ASSERT_EQ(o.status, 0) << o.err;
    EXPECT_NE(o.err.find("k_scale"), std::string::npos) << o.err;
    EXPECT_TRUE(weights(out_).size() + 4 == weights(source).size()) << "of two blocks";
    fs::remove_all(out_);
  }
  auto config = golden::read_json(fs::path(source) / "config.json");
  config["quantization_config"]["kv_cache_scheme"]["type"] = "int";
  tiny_model::put(fs::path(source) / "config.json", config.dump());
  expect_refused(convert(source, "auto_round", out_), unsupported, {"kv_cache_scheme", "fake"});
}

/// Weights of `fake` are floats; where layers read quantized rows, evaluations of the folder quantize them as those of packed ones do.
TEST_F(Convert, FakeFoldersSayHowLayersRead) {
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  const std::vector<std::string> data = {"--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"};
  const auto kl = [&](const fs::path& model, const fs::path& reference, const std::vector<std::string>& more = {}) {
    std::vector<std::string> a = {"eval", "--model", model.string(), "--ref", reference.string(), "--ppl", dir_ / "calib.jsonl", "--seqlen", "32", "--max_tokens", "256", "--json"};
    a.insert(a.end(), more.begin(), more.end());
    const outcome o = run(a);
    EXPECT_EQ(o.status, 0) << o.err;
    return o.status == 0 ? golden::parse_json(o.out)["kl"].get<double>() : -1;
  };
  for (const std::string scheme : {"MXFP4", "NVFP4", "FP8_STATIC"}) {
    SCOPED_TRACE(scheme);
    std::vector<std::string> a = {"--scheme", scheme, "--model_dtype", "fp32"};  // which holds weights and scales as they are
    a.insert(a.end(), data.begin(), data.end());
    const fs::path both = quantized("llm_compressor,fake", a, "both-" + scheme), fake = both / "fake", packed = both / "llm-compressor", converted = dir_.path() / ("converted-" + scheme);
    const auto config = golden::read_json(fake / "config.json")["quantization_config"];
    EXPECT_EQ(config["packing_format"], "auto_round:fake");
    EXPECT_FALSE(fs::exists(fake / "quantization_config.json"));
    const char* input = scheme == "NVFP4" ? "input_global_scale" : "input_scale";
    const std::string name = std::string("model.layers.1.mlp.up_proj.") + input;
    EXPECT_EQ(tensors_of(fake).contains(name), scheme != "MXFP4");
    EXPECT_NEAR(kl(fake, packed), 0, 1e-7);  // NVFP4: the quantizer multiplies, readers divide, and last bits differ
    EXPECT_GT(kl(fake, packed, {"--float_activations"}), 1e-5);
    EXPECT_EQ(run({"verify", "--model", fake.string()}).status, 0);
    EXPECT_EQ(run({"inspect", "--model", fake.string()}).status, 0);
    // Converted, it is the same folder but for what it was made by.
    ASSERT_EQ(convert(packed.string(), "fake", converted.string()).status, 0);
    EXPECT_TRUE(weights(converted) == weights(packed));
    EXPECT_NEAR(kl(converted, packed), 0, 1e-12);
    EXPECT_EQ(golden::read_json(converted / "config.json")["quantization_config"]["packing_format"], "auto_round:fake");
    expect_refused(convert(fake.string(), "llm_compressor", out_), unsupported, {"floats", "quantize --model"});
  }
  // Static scales need text; without any, weights are all there is.
  const std::string alone = quantized("fake", {"--scheme", "NVFP4"}, "alone");
  EXPECT_FALSE(golden::read_json(fs::path(alone) / "config.json").contains("quantization_config"));
  // Inputs in floats need no word.
  const std::string words = quantized("fake", {"--scheme", "W4A16G32"}, "words");
  EXPECT_FALSE(golden::read_json(fs::path(words) / "config.json").contains("quantization_config"));
}

bool same_rope(const model::rope_spec& a, const model::rope_spec& b) {
  const auto numbers = [](const model::rope_spec& r) {
    return std::tuple(r.type, r.theta, r.factor, r.low_freq_factor, r.high_freq_factor, r.original_max_position, r.attention_factor, r.beta_fast, r.beta_slow, r.short_factor, r.long_factor);
  };
  return numbers(a) == numbers(b);
}

/// mlx-lm has other places for the rope's parameters than transformers, and its readers, this program among them, look there.
TEST_F(Convert, RotaryFrequenciesAreTheSameInMlxFolders) {
  const ordered_json llama3 = {{"rope_type", "llama3"}, {"rope_theta", 500000.0}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};
  const ordered_json yarn = {{"rope_type", "yarn"}, {"rope_theta", 20000.0}, {"factor", 4.0}, {"original_max_position_embeddings", 32}, {"beta_fast", 16.0}};
  ordered_json older = llama3;
  older.erase("rope_theta");
  struct form {
    const char *name, *key;
    ordered_json value;
  };
  for (const form& f : {form{"llama3", "rope_parameters", llama3}, {"yarn", "rope_parameters", yarn}, {"plain", "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}, {"older", "rope_scaling", older}}) {
    SCOPED_TRACE(f.name);
    support::tiny_model m;
    for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters"}) m.config.erase(key);
    m.config[f.key] = f.value;
    if (f.key == std::string("rope_scaling")) m.config["rope_theta"] = 500000.0;
    model_ = dir_ / f.name;
    m.write(model_);
    const std::string mlx = quantized("mlx", {"--scheme", "W4A16G32"}, std::string(f.name) + "-mlx");
    const auto before = exporting::open_model(model_), after = exporting::open_model(mlx);
    ASSERT_TRUE(before && after);
    EXPECT_TRUE(same_rope((*before)->spec().rope, (*after)->spec().rope));
    auto config = golden::read_json(fs::path(mlx) / "config.json");
    const bool scaled = f.name != std::string("plain");
    EXPECT_EQ(config.contains("rope_scaling"), scaled);
    if (scaled) {
      EXPECT_EQ(config["rope_scaling"]["rope_type"], f.value["rope_type"]) << "where mlx-lm looks";
    }
    if (f.key == std::string("rope_scaling")) continue;
    // The original's folders have the parameters in the configuration itself, and nothing else.
    config.erase("rope_scaling");
    tiny_model::put(fs::path(mlx) / "config.json", config.dump());
    const auto original = exporting::open_model(mlx);
    ASSERT_TRUE(original);
    EXPECT_TRUE(same_rope((*before)->spec().rope, (*original)->spec().rope));
  }
  // Gemma 3 has one for its windows.
  const fs::path gemma = dir_.path() / "gemma";
  fs::copy(fs::path(AR_TEST_DATA) / "architectures/gemma3", gemma);
  auto config = golden::read_json(gemma / "config.json");
  for (const char* key : {"rope_theta", "rope_scaling", "rope_local_base_freq"}) config.erase(key);
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 300000.0}}}, {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 7000.0}}}};
  fs::permissions(gemma / "config.json", fs::perms::owner_write, fs::perm_options::add);
  tiny_model::put(gemma / "config.json", config.dump());
  model_ = gemma.string();
  const std::string mlx = quantized("mlx", {"--scheme", "W4A16G32"}, "gemma-mlx");
  const auto before = exporting::open_model(model_), after = exporting::open_model(mlx);
  ASSERT_TRUE(before && after);
  EXPECT_EQ((*after)->spec().rope.factor, 4.0);
  EXPECT_EQ((*after)->spec().window_rope.theta, 7000.0);
  EXPECT_TRUE(same_rope((*before)->spec().rope, (*after)->spec().rope));
  EXPECT_TRUE(same_rope((*before)->spec().window_rope, (*after)->spec().window_rope));
}

/// quantize reads a file as it reads a folder with the same numbers.
TEST_F(Convert, AFileIsQuantizedLikeTheFolderMadeOfIt) {
  support::tiny_model(2, false, false, 64, 128).write(model_);
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(16));
  const std::string file = quantized("gguf:q8_0", {"--scheme", "GGUF:Q8_0"}, "file"), made = dir_ / "made";
  ASSERT_EQ(convert(file, "fake", made).status, 0);
  auto all = tensors_of(made);  // rounded to the model's type
  for (const auto& [name, w] : weights(file)) {
    tiny_tensor& t = all.at(name);
    t.dtype = "F32";
    t.bytes.assign(reinterpret_cast<const char*>(w.data()), w.size() * sizeof(float));
  }
  tiny_model::put(fs::path(made) / "model.safetensors", tiny_model::safetensors(all));
  const std::vector<std::vector<std::string>> ways = {{"--iters", "0", "--disable_opt_rtn", "--disable_model_free"},
                                                      {"--tuning", "gram", "--dataset", dir_ / "calib.jsonl", "--nsamples", "4", "--seqlen", "32"}};
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const auto quantize = [&](const std::string& source, const std::string& to) {
      std::vector<std::string> a = {"quantize", "--model", source, "--output_dir", to, "--scheme", "W4A16G32", "--threads", "1"};
      a.insert(a.end(), ways[i].begin(), ways[i].end());
      return run(a);
    };
    const std::string direct = dir_ / ("direct" + std::to_string(i)), by_folder = dir_ / ("by-folder" + std::to_string(i));
    const outcome o = quantize(file, direct);
    ASSERT_EQ(o.status, 0) << o.err;
    EXPECT_NE(o.err.find("quantized already (gguf)"), std::string::npos) << o.err;
    ASSERT_EQ(quantize(made, by_folder).status, 0);
    EXPECT_TRUE(same(of_layers(tensors_of(direct)), of_layers(tensors_of(by_folder))));
  }
  expect_refused(run({"quantize", "--model", file, "--output_dir", out_, "--model_dtype", "float32", "--iters", "0"}), unsupported, {"--model_dtype", "safetensors"});
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
