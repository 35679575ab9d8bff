// links: ar_command
// GGUF files rounded by auto-round (golden/gguf/autoround_rtn_listing.json): ours are the same files, byte for byte: metadata, order, type mix, blocks.
#include <gtest/gtest.h>

#include <array>
#include <cctype>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "command/quantize_run.hpp"
#include "export/export_checksums.hpp"
#include "export/export_format.hpp"
#include "io/file.hpp"
#include "io/gguf.hpp"
#include "support/golden_json.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct golden_file {
  friend std::ostream& operator<<(std::ostream& out, const golden_file& f) { return out << f.model << " " << f.format; }
  std::string model, format;
  ordered_json facts;
};

std::string lower(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

/// Listed as "<model>:<FTYPE>"; the formats that this program writes, of models that are in the folder.
std::vector<golden_file> files() {
  std::vector<golden_file> found;
  const ordered_json listing = golden::read_json(golden::root() / "gguf" / "autoround_rtn_listing.json");
  for (const auto& [key, facts] : listing["files"].items()) {
    const std::size_t colon = key.find(':');
    golden_file f{key.substr(0, colon), "gguf:" + lower(key.substr(colon + 1)), facts};
    if (auto_round::exporting::find(f.format) != nullptr && fs::exists(golden::root() / "gguf" / "models" / f.model)) found.push_back(std::move(f));
  }
  return found;
}

/// The original computes in bfloat16 on a CPU: it rounds float16 checkpoints to that first, which this program does not. So it gets such a
/// checkpoint rounded already.
void write_in_bfloat16(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    if (entry.path().extension() != ".safetensors") {
      fs::copy_file(entry.path(), to / entry.path().filename());
      continue;
    }
    const golden::file file(entry.path());
    std::map<std::string, support::tiny_tensor> tensors;
    for (const auto& [name, t] : file.tensors()) {
      support::tiny_tensor rounded;
      rounded.shape.assign(t.shape.begin(), t.shape.end());
      for (const float v : t.f32()) {
        const std::uint16_t h = ar::bf16_from_f32(v);
        rounded.bytes.append(reinterpret_cast<const char*>(&h), 2);
      }
      tensors[name] = std::move(rounded);
    }
    support::tiny_model::put(to / entry.path().filename(), support::tiny_model::safetensors(tensors));
  }
}

class GgufExport : public testing::TestWithParam<golden_file> {};

TEST_P(GgufExport, IsTheFileOfTheOriginal) {
  const golden_file& f = GetParam();
  const support::temp_dir dir;
  auto_round::command::run_options o;
  o.model = dir / f.model;
  write_in_bfloat16(golden::root() / "gguf" / "models" / f.model, o.model);
  o.output_dir = dir / "out";
  o.progress = auto_round::report::progress_style::none;
  o.request.formats = {f.format};
  o.request.how = auto_round::exporting::method::rtn;
  o.request.iters = 0;
  o.compat = true;  // Q4_1 and Q5_1: scales rounded to bfloat16, as the original rounds them
  const auto outcome = auto_round::command::run_quantize(o);
  ASSERT_TRUE(outcome.has_value()) << auto_round::describe(outcome.error());
  const fs::path path = fs::path(o.output_dir) / f.facts["file"].get<std::string>();
  ASSERT_TRUE(fs::exists(path)) << path << " was not written under this name";
  const auto file = auto_round::io::mapped_file::open(path.string());
  ASSERT_TRUE(file.has_value());
  // First the parts, so that a failure says what differs.
  const auto contents = auto_round::io::parse_gguf(file->bytes(), path.string());
  ASSERT_TRUE(contents.has_value()) << auto_round::describe(contents.error());
  std::vector<std::string> keys, golden_keys;
  for (const auto& kv : contents->metadata) keys.push_back(kv.first);
  for (const auto& kv : f.facts["kv"]) golden_keys.push_back(kv["key"].get<std::string>());
  EXPECT_EQ(keys, golden_keys);
  ASSERT_EQ(contents->tensors.size(), f.facts["tensors"].size());
  for (std::size_t i = 0; i < contents->tensors.size(); ++i) {
    const auto& t = contents->tensors[i];
    const auto& g = f.facts["tensors"][i];
    EXPECT_EQ(t.name, g["name"].get<std::string>());
    EXPECT_EQ(auto_round::io::gguf_type_info(static_cast<std::uint32_t>(t.type)).name, g["type"].get<std::string>()) << t.name;
    EXPECT_EQ(auto_round::exporting::sha256_hex(t.data.pin()), g["sha256"].get<std::string>()) << t.name;
  }
  EXPECT_EQ(file->bytes().size(), f.facts["file_size"].get<std::size_t>());
  EXPECT_EQ(auto_round::exporting::sha256_hex(file->bytes()), f.facts["file_sha256"].get<std::string>()) << "some metadata value differs";
}

INSTANTIATE_TEST_SUITE_P(Files, GgufExport, testing::ValuesIn(files()), [](const auto& test) {
  std::string name = test.param.model + "_" + test.param.format.substr(5);
  return name;
});

TEST(GgufExportScope, EachFormatHasAFile) {
  std::vector<std::string> missing;
  for (const std::string_view spelling : auto_round::exporting::find("gguf:q4_0")->spellings) {
    bool seen = spelling == "gguf:mxfp4" || spelling == "gguf:nvfp4";  // the original writes none of them
    for (const golden_file& f : files()) seen |= f.format == spelling;
    if (!seen) missing.emplace_back(spelling);
  }
  EXPECT_TRUE(missing.empty()) << "no golden file for " << testing::PrintToString(missing);
}

/// Files of llama.cpp's converter: what it calls things and stacks, in its words. (Its weights are rounded in another way, and only the larger golden set has the models.)
TEST(GgufConverter, MetadataNamesAndShapesAreThoseOfLlamaCpp) {
  const fs::path folder = golden::root() / "gguf";
  if (!fs::exists(folder / "convert_listing.json")) GTEST_SKIP() << "set AR_GOLDEN_DIR to the whole golden set";
  const ordered_json listing = golden::read_json(folder / "convert_listing.json")["files"];
  for (const auto& [model, converted] : {std::pair{"mistral_tiny", "f16"}, {"mixtral_tiny", "q8_0"}, {"qwen2_tiny", "f16"}, {"qwen3_tiny", "f16"}, {"qwen3moe_tiny", "f16"}, {"gemma2_tiny", "f16"},
                                         {"gemma3_tiny", "f16"}, {"phi3_tiny", "f16"}}) {
    SCOPED_TRACE(model);
    const ordered_json& facts = listing[std::string(model) + "." + converted];
    const support::temp_dir dir;
    auto_round::command::run_options o;
    o.model = (folder / "models" / model).string();
    o.output_dir = dir / "out";
    o.progress = auto_round::report::progress_style::none;
    o.request.formats = {"gguf:q8_0"};
    o.request.how = auto_round::exporting::method::rtn;
    o.request.iters = 0;
    const auto outcome = auto_round::command::run_quantize(o);
    ASSERT_TRUE(outcome.has_value()) << auto_round::describe(outcome.error());
    std::string path;
    for (const auto& e : fs::directory_iterator(o.output_dir))
      if (e.path().extension() == ".gguf") path = e.path().string();
    const auto file = auto_round::io::mapped_file::open(path);
    const auto contents = auto_round::io::parse_gguf(file->bytes(), path);
    ASSERT_TRUE(contents.has_value()) << auto_round::describe(contents.error());
    std::vector<std::string> keys, expected;
    for (const auto& kv : contents->metadata) keys.push_back(kv.first);
    for (const auto& kv : facts["kv"]) {
      const std::string key = kv["key"].get<std::string>();
      expected.push_back(key);
      const auto* value = contents->find(key);
      ASSERT_NE(value, nullptr) << key;
      if (key == "general.name" || key == "general.file_type") continue;
      if (const auto* u = std::get_if<std::uint32_t>(value)) {
        EXPECT_EQ(*u, kv["value"].get<std::uint32_t>()) << key;
      }
      if (const auto* x = std::get_if<float>(value)) {
        EXPECT_EQ(*x, kv["value"].get<float>()) << key;
      }
      if (const auto* t = std::get_if<std::string>(value)) {
        EXPECT_EQ(*t, kv["value"].get<std::string>()) << key;
      }
    }
    EXPECT_EQ(keys, expected);
    std::map<std::string, const auto_round::io::gguf_tensor_ref*> tensors;
    for (const auto& t : contents->tensors) tensors[t.name] = &t;
    EXPECT_EQ(tensors.size(), facts["tensors"].size());
    for (const auto& g : facts["tensors"]) {
      const std::string name = g["name"].get<std::string>();
      ASSERT_TRUE(tensors.contains(name)) << name;
      EXPECT_EQ(tensors[name]->ne, g["ne"].get<std::vector<std::uint64_t>>()) << name;
      if (g["type"] == "F32") {
        EXPECT_EQ(auto_round::exporting::sha256_hex(tensors[name]->data.pin()), g["sha256"].get<std::string>()) << name;
      }
    }
  }
}

}  // namespace
