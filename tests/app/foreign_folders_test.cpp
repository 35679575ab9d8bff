// links: ar_export
// Folders of packed integers as other programs write them: AutoGPTQ and GPTQModel, AutoAWQ, mlx-lm. Weights are what their own formulas say, packed
// here code by code; configurations that contradict the tensors, or that we cannot read, are errors and never other weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "ar/pack.hpp"
#include "export/export_format.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

constexpr std::size_t rows = 64, cols = 64;
const std::string layer = "model.layers.0.self_attn.q_proj";
/// Everything but that layer.
const char* others = "(?!model\\.layers\\.0\\.self_attn\\.q_proj)";

/// Codes, scales and zero points of the layer; its groups may own any columns.
struct contents {
  int bits = 4;
  std::size_t group_size = 32, groups = 2;
  std::vector<std::uint8_t> code = std::vector<std::uint8_t>(rows * cols);
  std::vector<std::int32_t> zero;      // [rows x groups]
  std::vector<float> scale;            // likewise, halves
  std::vector<std::int32_t> group_of;  // [cols]

  explicit contents(int width = 4, std::size_t group = 32) : bits(width), group_size(group), groups(cols / group) {
    for (std::size_t i = 0; i < code.size(); ++i) code[i] = static_cast<std::uint8_t>(i * 11 % 251 % (std::size_t{1} << bits));
    for (std::size_t i = 0; i < rows * groups; ++i) {
      zero.push_back(1 + static_cast<std::int32_t>(i * 5 % ((std::size_t{1} << bits) - 1)));  // without 0, which v1 cannot store
      scale.push_back(ar::round_to_f16(0.01f + 0.001f * static_cast<float>(i % 37)));
    }
    for (std::size_t k = 0; k < cols; ++k) group_of.push_back(static_cast<std::int32_t>(k / group));
  }
  std::vector<float> weight() const {
    std::vector<float> w(rows * cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) {
        const std::size_t g = r * groups + static_cast<std::size_t>(group_of[c]);
        w[r * cols + c] = scale[g] * static_cast<float>(code[r * cols + c] - zero[g]);
      }
    return w;
  }
};

std::vector<std::uint16_t> halves(const contents& c, const std::vector<float>& values, bool groups_first) {
  std::vector<std::uint16_t> out(values.size());
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t g = 0; g < c.groups; ++g) out[groups_first ? g * rows + r : r * c.groups + g] = ar::f16_from_f32(values[r * c.groups + g]);
  return out;
}

template <class Codec>
void add_words(support::tiny_model& m, const contents& c, ar::zero_convention convention, bool g_idx) {
  const ar::matrix_shape words = ar::packed_shape(Codec{}, c.bits, rows, cols), zeros = ar::packed_zero_shape(Codec{}, c.bits, rows, c.groups);
  std::vector<std::uint32_t> w(words.rows * words.cols), z(zeros.rows * zeros.cols);
  ASSERT_EQ(ar::pack(Codec{}, c.bits, ar::matrix_view<const std::uint8_t>(c.code.data(), rows, cols),
                     ar::matrix_view<std::uint32_t>(w.data(), words.rows, words.cols)),
            ar::errc::ok);
  ASSERT_EQ(ar::pack_zeros(Codec{}, convention, c.bits, ar::matrix_view<const std::int32_t>(c.zero.data(), rows, c.groups),
                           ar::matrix_view<std::uint32_t>(z.data(), zeros.rows, zeros.cols)),
            ar::errc::ok);
  m.tensors.erase(layer + ".weight");
  m.tensors[layer + ".qweight"] = support::tensor_of("I32", {words.rows, words.cols}, w);
  m.tensors[layer + ".qzeros"] = support::tensor_of("I32", {zeros.rows, zeros.cols}, z);
  m.tensors[layer + ".scales"] = support::tensor_of("F16", {c.groups, rows}, halves(c, c.scale, true));
  if (g_idx) m.tensors[layer + ".g_idx"] = support::tensor_of("I32", {cols}, c.group_of);
}

void add_mlx(support::tiny_model& m, const contents& c) {
  const ar::matrix_shape words = ar::packed_shape(ar::mlx_uint32{}, c.bits, rows, cols);
  std::vector<std::uint32_t> w(words.rows * words.cols);
  ASSERT_EQ(ar::pack(ar::mlx_uint32{}, c.bits, ar::matrix_view<const std::uint8_t>(c.code.data(), rows, cols),
                     ar::matrix_view<std::uint32_t>(w.data(), words.rows, words.cols)),
            ar::errc::ok);
  std::vector<float> bias(c.scale.size());
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = -0.125f * static_cast<float>(c.zero[i]);
  m.tensors[layer + ".weight"] = support::tensor_of("U32", {words.rows, words.cols}, w);
  m.tensors[layer + ".scales"] = support::tensor_of("F16", {rows, c.groups}, halves(c, c.scale, false));
  m.tensors[layer + ".biases"] = support::tensor_of("F16", {rows, c.groups}, halves(c, bias, false));
}

class ForeignFolders : public testing::Test {
 protected:
  ordered_json gptq(const ordered_json& more = {}) const {
    ordered_json q = {{"quant_method", "gptq"}, {"bits", 4},    {"group_size", 32},
                      {"desc_act", false},      {"sym", false}, {"dynamic", {{std::string("-:") + others + ".*", ordered_json::object()}}}};
    if (!more.is_null()) q.update(more);
    return q;
  }

  result<std::unique_ptr<exporting::stored_model>> open() {
    m_.write(dir_.path() / "model");
    return exporting::open_model(dir_ / "model");
  }
  void expect_weight(const std::vector<float>& expected, const std::string& name = layer) {
    auto opened = open();
    ASSERT_TRUE(opened.has_value()) << describe(opened.error());
    std::vector<float> read(expected.size());
    const auto r = (*opened)->read(name + ".weight", read);
    ASSERT_TRUE(r.has_value()) << describe(r.error());
    EXPECT_EQ(read, expected);
    const auto checked = (*opened)->check();
    EXPECT_TRUE(checked.has_value()) << describe(checked.error());
    const auto entries = (*opened)->entries();
    EXPECT_EQ(std::count_if(entries.begin(), entries.end(), [](const auto& e) { return e.quantized; }), 1);
  }
  void expect_error(error_kind kind, const std::vector<std::string>& says) {
    const auto opened = open();
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(opened.error().kind, kind) << describe(opened.error());
    for (const std::string& s : says) EXPECT_NE(describe(opened.error()).find(s), std::string::npos) << describe(opened.error());
  }

  support::temp_dir dir_;
  support::tiny_model m_;
};

TEST_F(ForeignFolders, GptqWithZeroPointsLessOneAndAsTheyAre) {
  for (const int bits : {2, 3, 4, 8}) {
    const contents c(bits);
    add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, true);
    m_.config["quantization_config"] = gptq({{"bits", bits}});
    expect_weight(c.weight());
    m_.config["quantization_config"] =
        gptq({{"bits", bits}, {"checkpoint_format", "gptq"}, {"pack_dtype", "int32"}, {"meta", {{"quantizer", {"gptqmodel:2.0.0"}}}}});
    expect_weight(c.weight());
    add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v2, false);
    m_.config["quantization_config"] = gptq({{"bits", bits}, {"checkpoint_format", "gptq_v2"}});
    expect_weight(c.weight());
  }
}

TEST_F(ForeignFolders, GptqInBitPlanes) {
  for (const int bits : {3, 4, 5, 6, 7}) {
    const contents c(bits);
    add_words<ar::gptq_planar>(m_, c, ar::zero_convention::v2, true);
    m_.config["quantization_config"] = gptq({{"bits", bits}, {"checkpoint_format", "gptq_p"}});
    expect_weight(c.weight());
    m_.config["quantization_config"] = gptq({{"bits", bits}, {"format", "gptq_p"}});
    expect_weight(c.weight());
  }
  m_.config["quantization_config"] = gptq({{"bits", 6}});
  expect_error(error_kind::unsupported, {"6 bits", "gptq_p"});
}

TEST_F(ForeignFolders, GptqWithColumnsInAnyOrderIsReadRightOrRefused) {
  contents c;
  for (std::size_t k = 0; k < cols; ++k) c.group_of[k] = static_cast<std::int32_t>(k * 13 % 64 / 32);
  add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, true);
  m_.config["quantization_config"] = gptq({{"desc_act", true}});
  expect_weight(c.weight());
  m_.config["quantization_config"] = gptq();
  expect_error(error_kind::input, {"desc_act", layer + ".g_idx"});
  for (const std::int32_t wrong : {2, -1, 1 << 30}) {
    contents broken = c;
    broken.group_of[5] = wrong;
    m_.tensors[layer + ".g_idx"] = support::tensor_of("I32", {cols}, broken.group_of);
    m_.config["quantization_config"] = gptq({{"desc_act", true}});
    expect_error(error_kind::input, {"column 5", "g_idx"});
  }
  m_.tensors[layer + ".g_idx"] = support::tensor_of("I32", {cols / 2}, std::vector<std::int32_t>(cols / 2));
  expect_error(error_kind::input, {"g_idx", "[32]"});
}

TEST_F(ForeignFolders, GptqConfigurationBesideTheModel) {
  const contents c;
  add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, true);
  expect_error(error_kind::input, {"no configuration"});
  ordered_json q = gptq();
  q.erase("quant_method");
  std::filesystem::create_directories(dir_.path() / "model");
  dir_.write("model/quantize_config.json", q.dump());
  expect_weight(c.weight());
  dir_.write("model/quantize_config.json", "[");
  expect_error(error_kind::input, {"quantize_config.json"});
}

TEST_F(ForeignFolders, AStaleConfigurationBesideFloatsIsNoQuantization) {
  std::filesystem::create_directories(dir_.path() / "model");
  dir_.write("model/quantize_config.json", gptq().dump());
  const auto opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  EXPECT_EQ((*opened)->format(), "safetensors");
}

TEST_F(ForeignFolders, GptqLayersWithRulesOfTheirOwn) {
  const contents c(8, 64);
  add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, false);
  ordered_json q = gptq();
  q["dynamic"] = {{"+:.*0\\.self_attn\\.q_proj", {{"bits", 8}, {"group_size", 64}}}, {"-:.*", ordered_json::object()}, {".*q_proj", {{"bits", 2}}}};
  m_.config["quantization_config"] = q;
  expect_weight(c.weight());
  // Patterns are matched at the start of a name.
  q["dynamic"] = {
      {"self_attn", {{"bits", 2}}}, {"+:model.*\\.0.self_attn.q_proj", {{"bits", 8}, {"group_size", 64}}}, {"-:.*", ordered_json::object()}};
  m_.config["quantization_config"] = q;
  expect_weight(c.weight());
  m_.config["quantization_config"] =
      gptq({{"bits", 8}, {"group_size", 64}, {"dynamic", ordered_json::object()}, {"modules_in_block_to_quantize", {{"self_attn.q_proj"}}}});
  const auto opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto checked = (*opened)->check();
  ASSERT_FALSE(checked.has_value()) << "q_proj of the second block is promised too";
  EXPECT_NE(describe(checked.error()).find("model.layers.1.self_attn.q_proj"), std::string::npos);
}

TEST_F(ForeignFolders, AwqOfAutoAwq) {
  const contents c;
  add_words<ar::awq_int32>(m_, c, ar::zero_convention::v2, false);
  const ordered_json kept = {"lm_head", std::string("^") + others};
  m_.config["quantization_config"] = {{"quant_method", "awq"}, {"bits", 4},         {"group_size", 32},
                                      {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", kept}};
  expect_weight(c.weight());
  m_.config["quantization_config"]["version"] = "gemv";
  expect_error(error_kind::unsupported, {"gemv"});
  m_.config["quantization_config"]["version"] = "GEMM";
  expect_weight(c.weight());
  m_.config.erase("quantization_config");
  std::filesystem::create_directories(dir_.path() / "model");
  dir_.write("model/quant_config.json",
             ordered_json{{"zero_point", true}, {"q_group_size", 32}, {"w_bit", 4}, {"version", "GEMM"}, {"modules_to_not_convert", kept}}.dump());
  expect_weight(c.weight());
}

TEST_F(ForeignFolders, MlxWithScalesAndBiases) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const contents c(bits);
    add_mlx(m_, c);
    m_.config["quantization"] = {{"group_size", 64}, {"bits", 4}, {"mode", "affine"}, {layer, {{"group_size", 32}, {"bits", bits}}}};
    std::vector<float> expected(rows * cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t k = 0; k < cols; ++k) {
        const std::size_t g = r * c.groups + k / 32;
        expected[r * cols + k] = c.scale[g] * static_cast<float>(c.code[r * cols + k]) + ar::round_to_f16(-0.125f * static_cast<float>(c.zero[g]));
      }
    expect_weight(expected);
    // mlx-lm writes the object a second time.
    m_.config["quantization_config"] = m_.config["quantization"];
    expect_weight(expected);
    m_.config.erase("quantization_config");
  }
  m_.config["quantization"] = {{"group_size", 32}, {"bits", 4}, {"mode", "mxfp4"}};
  expect_error(error_kind::unsupported, {"mxfp4"});
  m_.config["quantization"] = {{"group_size", 32}, {"bits", 4}, {layer, {{"group_size", 64}}}};
  expect_error(error_kind::input, {layer});
}

TEST_F(ForeignFolders, MlxPacksEmbeddingsToo) {
  support::tiny_model tied(3, true);
  tied.vocab = 256;
  const contents c;
  add_mlx(tied, c);
  // The same words as embedding of 64 of the 256 tokens would be another shape: all 256 are packed here, four times the layer.
  for (const char* part : {".weight", ".scales", ".biases"}) {
    support::tiny_tensor t = tied.tensors.at(layer + part);
    t.shape[0] *= 4;
    t.bytes = t.bytes + t.bytes + t.bytes + t.bytes;
    tied.tensors["model.embed_tokens" + std::string(part)] = t;
  }
  tied.config["quantization"] = {{"group_size", 32}, {"bits", 4}};
  m_ = tied;
  auto opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  std::vector<float> head(256 * 64), matrix(64 * 64);
  ASSERT_TRUE((*opened)->read("model.embed_tokens.weight", head).has_value());
  ASSERT_TRUE((*opened)->read(layer + ".weight", matrix).has_value());
  EXPECT_TRUE(std::equal(matrix.begin(), matrix.end(), head.begin() + 64 * 64));
  EXPECT_TRUE((*opened)->check().has_value());
}

TEST_F(ForeignFolders, ConfigurationsThatContradictTheTensorsAreErrors) {
  const contents c;
  add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, true);
  const auto refused = [&](const ordered_json& more, error_kind kind, const std::vector<std::string>& says) {
    SCOPED_TRACE(more.dump());
    m_.config["quantization_config"] = gptq(more);
    expect_error(kind, says);
  };
  refused({{"bits", 8}}, error_kind::input, {"[8, 64]", "[16, 64]"});
  refused({{"bits", 3}}, error_kind::input, {"qweight"});
  refused({{"group_size", 64}}, error_kind::input, {"qzeros"});
  refused({{"group_size", -1}}, error_kind::input, {"qzeros"});
  refused({{"group_size", 16}}, error_kind::input, {"qzeros"});
  refused({{"group_size", 0}}, error_kind::input, {"group_size"});
  refused({{"group_size", -7}}, error_kind::input, {"group_size"});
  refused({{"group_size", "32"}}, error_kind::input, {"group_size"});
  refused({{"group_size", 1e300}}, error_kind::input, {"group_size"});
  refused({{"bits", 0}}, error_kind::input, {"bits"});
  refused({{"bits", 99}}, error_kind::input, {"bits"});
  refused({{"bits", nullptr}}, error_kind::input, {"bits"});
  refused({{"bits", ordered_json::array({4})}}, error_kind::input, {"bits"});
  refused({{"checkpoint_format", "marlin"}}, error_kind::unsupported, {"marlin"});
  refused({{"is_marlin_format", true}}, error_kind::unsupported, {"Marlin"});
  refused({{"pack_dtype", "int8"}}, error_kind::unsupported, {"int8"});
  refused({{"dynamic", {{"+:([", ordered_json::object()}}}}, error_kind::input, {"(["});
  refused({{"dynamic", {{"+:.*", 5}}}}, error_kind::input, {"no object"});
  refused({{"quant_method", "gguf-like"}}, error_kind::unsupported, {"gguf-like"});
  refused({{"quant_method", 7}}, error_kind::input, {"quant_method"});
  refused({{"quant_method", "awq"}, {"version", "gemm"}}, error_kind::input, {"qweight"});
  m_.config["quantization_config"] = {{"bits", 4}, {"group_size", 32}};
  expect_error(error_kind::input, {"quant_method"});
  m_.config["quantization_config"] = gptq();
  m_.tensors[layer + ".scales"].dtype = "I16";
  expect_error(error_kind::input, {"scales", "I16"});
  m_.tensors.erase(layer + ".scales");
  expect_error(error_kind::input, {"missing", layer + ".scales"});
}

TEST_F(ForeignFolders, HostilePatternsEndInAnErrorAndInTime) {
  const contents c;
  add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, true);
  m_.config["quantization_config"] = gptq({{"dynamic", {{"+:(.*.*.*.*.*.*.*.*.*.*)*x$", ordered_json::object()}}}});
  (void)open();  // an error or not: it ends
  ordered_json many = ordered_json::object();
  for (int i = 0; i < 5000; ++i) many["+:a" + std::to_string(i)] = ordered_json::object();
  m_.config["quantization_config"] = gptq({{"dynamic", many}});
  expect_error(error_kind::input, {"patterns"});
}

TEST_F(ForeignFolders, CheckFindsWhatReadingDoesNot) {
  const contents c;
  add_words<ar::gptq_int32>(m_, c, ar::zero_convention::v1, true);
  m_.config["quantization_config"] = gptq({{"dynamic", {{"-:.*", ordered_json::object()}}}});
  auto opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  EXPECT_FALSE((*opened)->check().has_value()) << "said not to be packed, but it is";
  m_.config["quantization_config"] = gptq();
  m_.tensors["model.layers.7.self_attn.q_proj.qweight"] = m_.tensors.at(layer + ".qweight");
  opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  EXPECT_FALSE((*opened)->check().has_value()) << "words of no layer";
}

}  // namespace
