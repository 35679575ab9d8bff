// links: ar_export
// Evaluation and generation on packed weights: for every family of formats logits equal those from expanded weights, and what is held in memory is about
// what the files hold.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "export/export_format.hpp"
#include "io/gguf.hpp"
#include "model/decoder.hpp"
#include "model/linalg.hpp"
#include "support/program.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;
using support::run;

struct packed_case {
  std::string name;
  std::vector<std::string> options;  // of quantize
  bool stories = false;              // K types need rows of 256
};

void PrintTo(const packed_case& c, std::ostream* out) { *out << c.name; }

std::unique_ptr<exporting::stored_model> open(const std::string& path) {
  auto m = exporting::open_model(path);
  EXPECT_TRUE(m) << describe(m.error());
  return m ? std::move(*m) : nullptr;
}

class PackedWeights : public testing::TestWithParam<packed_case> {
 protected:
  // Of this backend the bits do not depend on the shape of a product, so panels of decoded rows give what the whole matrix gives.
  static void SetUpTestSuite() { ASSERT_TRUE(linalg::initialize(linalg::backend::highway)); }
  static void TearDownTestSuite() { ASSERT_TRUE(linalg::initialize(linalg::backend::automatic)); }

  static std::string quantize(const support::temp_dir& dir, const packed_case& c) {
    const std::string source = c.stories ? std::string(AR_SOURCE_DIR) + "/examples/data/tiny-stories" : dir / "model", out = dir / "out";
    if (!c.stories) {
      support::tiny_model m(11);
      m.write(source);
    }
    std::vector<std::string> arguments = {"quantize", "--model", source, "--output_dir", out, "--iters", "0", "--disable_opt_rtn"};
    arguments.insert(arguments.end(), c.options.begin(), c.options.end());
    const auto o = run(arguments);
    EXPECT_EQ(o.status, 0) << o.err;
    return out;
  }
};

TEST_P(PackedWeights, LogitsEqualThoseOfExpandedWeights) {
  const support::temp_dir dir;
  const auto m = open(quantize(dir, GetParam()));
  ASSERT_NE(m, nullptr);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(i * 37 % 250);
  const auto expanded = model::logits(*m, ids, model::weight_form::floats), packed = model::logits(*m, ids);
  ASSERT_TRUE(expanded) << describe(expanded.error());
  ASSERT_TRUE(packed) << describe(packed.error());
  ASSERT_EQ(packed->size(), expanded->size());
  EXPECT_EQ(*packed, *expanded);

  // Token by token, sums have another order: the same text as long as no two logits lie within a rounding of each other.
  const auto floats = model::resident_model::read(*m, model::weight_form::floats), resident = model::resident_model::read(*m);
  ASSERT_TRUE(floats) << describe(floats.error());
  ASSERT_TRUE(resident) << describe(resident.error());
  const auto want = model::generate(*floats, std::span(ids).first(7), {.max_tokens = 12}), got = model::generate(*resident, std::span(ids).first(7), {.max_tokens = 12});
  ASSERT_TRUE(want) << describe(want.error());
  ASSERT_TRUE(got) << describe(got.error());
  EXPECT_EQ(*got, *want);

  // What is held is what is stored. Zero points take 16 bits, norms 32, and codes of small floats have a table of up to 256 numbers for each of the 14
  // matrices; all of that is much beside a tiny model.
  std::uint64_t stored = 0;
  for (const auto& e : m->entries()) stored += e.bytes;
  if (m->format() == "gguf") EXPECT_EQ(resident->weight_bytes(), stored);
  else EXPECT_LT(static_cast<double>(resident->weight_bytes()), 1.1 * static_cast<double>(stored) + 14 * 1024);
  EXPECT_LT(2 * resident->weight_bytes(), floats->weight_bytes());
}

std::vector<packed_case> cases() {
  std::vector<packed_case> all;
  const auto add = [&](std::string format, std::string scheme, std::vector<std::string> more = {}) {
    packed_case c{format + "_" + scheme, {"--format", format, "--scheme", scheme}};
    for (const std::string& m : more) c.name += "_" + m;
    c.options.insert(c.options.end(), more.begin(), more.end());
    for (char& ch : c.name)
      if (std::isalnum(static_cast<unsigned char>(ch)) == 0) ch = '_';
    all.push_back(std::move(c));
  };
  for (const char* scheme : {"W2A16G32", "W3A16G32", "W4A16G32", "W8A16G32"}) add("auto_round", scheme);
  add("auto_gptq", "W4A16G32", {"--asym"});
  add("auto_round:gptqmodel", "W3A16G32");
  add("auto_awq", "W4A16G32", {"--asym"});
  for (const char* scheme : {"W2A16G32", "W3A16G32", "W4A16G32", "W5A16G32", "W6A16G32", "W8A16G32"}) add("mlx", scheme);
  add("llm_compressor", "W4A16G32", {"--asym"});
  add("llm_compressor", "W5A16G32");
  for (const char* scheme : {"MXFP4", "MXFP8", "MXINT4", "FP8_BLOCK"}) add("auto_round", scheme);
  for (const char* format : {"auto_round", "llm_compressor"}) add(format, "NVFP4", {"--act_bits", "16"});
  add("llm_compressor", "MXFP4");
  for (const char* type : {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}) all.push_back({std::string("gguf_") + type, {"--format", std::string("gguf:") + type}});
  for (const char* type : {"q2_k_s", "q4_k_s", "q6_k"}) all.push_back({std::string("gguf_") + type, {"--format", std::string("gguf:") + type}, true});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedWeights, testing::ValuesIn(cases()), [](const auto& each) { return each.param.name; });

TEST(PackedWeightsDamaged, AScaleThatIsNoNumberIsTheSameErrorInBothForms) {
  const support::temp_dir dir;
  const std::string source = dir / "model", out = dir / "out";
  support::tiny_model(3).write(source);
  const auto o = run({"quantize", "--model", source, "--output_dir", out, "--format", "gguf:q4_0", "--iters", "0", "--disable_opt_rtn"});
  ASSERT_EQ(o.status, 0) << o.err;
  std::string file;
  for (const auto& e : fs::directory_iterator(out))
    if (e.path().extension() == ".gguf") file = e.path().string();
  std::ifstream in(file, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  in.close();
  const auto contents = io::parse_gguf(std::as_bytes(std::span(bytes)), file);
  ASSERT_TRUE(contents);
  for (const io::gguf_tensor_ref& t : contents->tensors) {
    if (t.name != "blk.1.ffn_down.weight") continue;
    const auto at = static_cast<std::size_t>(reinterpret_cast<const char*>(t.data.memory()) - bytes.data());
    bytes[at + 1] = '\x7c';  // the scale of the first block: infinite or no number
  }
  support::tiny_model::put(file, bytes);
  const auto m = open(file);
  ASSERT_NE(m, nullptr);
  const std::vector<std::int32_t> ids = {1, 2, 3};
  const auto floats = model::logits(*m, ids, model::weight_form::floats), packed = model::logits(*m, ids);
  ASSERT_FALSE(floats);
  ASSERT_FALSE(packed);
  EXPECT_EQ(describe(packed.error()), describe(floats.error()));
  EXPECT_NE(describe(packed.error()).find("blk.1.ffn_down.weight"), std::string::npos);
  EXPECT_NE(describe(packed.error()).find("NaN or infinity"), std::string::npos);
}

}  // namespace
