// links: ar_export
// Folders of compressed-tensors and of block FP8 as other programs write them: weights are what their own formulas say, packed here code by code. Which
// layer a config_group means (class, name, pattern, ignore list), in which layout and with which scales; configurations that contradict the tensors, or
// that we cannot compute, are errors and never other weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
#include "export/export_format.hpp"
#include "export/export_unpacked_source.hpp"
#include "support/golden.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

constexpr std::size_t rows = 64, cols = 64;
const std::string layer = "model.layers.0.self_attn.q_proj";
const std::string others = "re:(?!model\\.layers\\.0\\.self_attn\\.q_proj$)";  // everything but that layer

std::vector<std::uint16_t> halves(const std::vector<float>& values) {
  std::vector<std::uint16_t> out;
  for (const float v : values) out.push_back(ar::f16_from_f32(v));
  return out;
}

/// Signed codes of `bits` bits, and the field that each is stored in.
std::vector<int> codes(int bits) {
  std::vector<int> c(rows * cols);
  for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<int>(i * 11 % 251 % (std::size_t{1} << bits)) - (1 << (bits - 1));
  return c;
}

/// Fields one behind the other, the first in the lowest bits of the first word of a row.
std::vector<std::uint32_t> stream(const std::vector<int>& code, std::size_t n_rows, std::size_t n, int bits) {
  const std::size_t width = static_cast<std::size_t>(bits), words = (n * width + 31) / 32;
  std::vector<std::uint32_t> out(n_rows * words);
  for (std::size_t r = 0; r < n_rows; ++r)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t b = 0; b < width; ++b) {
        const auto field = static_cast<std::uint32_t>(code[r * n + i] + (1 << (bits - 1)));
        out[r * words + (i * width + b) / 32] |= (field >> b & 1u) << ((i * width + b) % 32);
      }
  return out;
}

std::vector<float> scales(std::size_t n) {
  std::vector<float> s;
  for (std::size_t i = 0; i < n; ++i) s.push_back(ar::round_to_f16(0.01f + 0.001f * static_cast<float>(i % 37)));
  return s;
}

class CompressedTensors : public testing::Test {
 protected:
  static ordered_json weights(int bits, const char* type, const char* strategy, const ordered_json& group_size, bool symmetric = true) {
    return {{"num_bits", bits}, {"type", type}, {"symmetric", symmetric}, {"group_size", group_size}, {"strategy", strategy}, {"dynamic", false}};
  }
  static ordered_json group(const ordered_json& targets, const ordered_json& args, const ordered_json& format = nullptr) {
    return {{"targets", targets}, {"weights", args}, {"input_activations", nullptr}, {"output_activations", nullptr}, {"format", format}};
  }
  void configure(const ordered_json& groups, const char* format, const ordered_json& ignore, const ordered_json& more = ordered_json::object()) {
    ordered_json q = {{"config_groups", groups}, {"quant_method", "compressed-tensors"}, {"kv_cache_scheme", nullptr}, {"format", format}, {"quantization_status", "compressed"},
                      {"ignore", ignore}};
    q.update(more);
    m_.config["quantization_config"] = q;
  }
  void configure(const ordered_json& args, const char* format) { configure({{"group_0", group({"Linear"}, args)}}, format, {others, "lm_head"}); }

  result<std::unique_ptr<exporting::stored_model>> open() {
    m_.write(dir_.path() / "model");
    return exporting::open_model(dir_ / "model");
  }
  void expect_weight(const std::vector<float>& expected, const std::string& type, const std::string& name = layer) {
    auto opened = open();
    ASSERT_TRUE(opened.has_value()) << describe(opened.error());
    std::vector<float> read(expected.size());
    const auto r = (*opened)->read(name + ".weight", read);
    ASSERT_TRUE(r.has_value()) << describe(r.error());
    EXPECT_EQ(read, expected);
    const auto checked = (*opened)->check();
    EXPECT_TRUE(checked.has_value()) << describe(checked.error());
    for (const auto& e : (*opened)->entries()) {
      if (e.name == name + ".weight") {
        EXPECT_TRUE(e.quantized);
        EXPECT_EQ(e.type, type);
      }
    }
  }
  void expect_error(error_kind kind, const std::string& says) {
    const auto opened = open();
    ASSERT_FALSE(opened.has_value()) << "opened without " << says;
    EXPECT_EQ(opened.error().kind, kind) << describe(opened.error());
    EXPECT_NE(describe(opened.error()).find(says), std::string::npos) << describe(opened.error());
  }

  /// pack-quantized; zero points (signed) [rows x groups], or empty.
  std::vector<float> pack_integers(int bits, std::size_t group, const std::vector<int>& zero = {}, const std::string& name = layer) {
    const std::size_t groups = cols / group;
    const std::vector<int> c = codes(bits);
    const std::vector<float> s = scales(rows * groups);
    m_.tensors.erase(name + ".weight");
    const auto words = stream(c, rows, cols, bits);
    m_.tensors[name + ".weight_packed"] = support::tensor_of("I32", {rows, words.size() / rows}, words);
    m_.tensors[name + ".weight_scale"] = support::tensor_of("F16", {rows, groups}, halves(s));
    m_.tensors[name + ".weight_shape"] = support::tensor_of<std::int64_t>("I64", {2}, {rows, cols});
    if (!zero.empty()) {  // a stream along the rows
      std::vector<int> turned(zero.size());
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t g = 0; g < groups; ++g) turned[g * rows + r] = zero[r * groups + g];
      const auto z = stream(turned, groups, rows, bits);
      const std::size_t high = z.size() / groups;
      std::vector<std::uint32_t> words_of_zeros(z.size());
      for (std::size_t g = 0; g < groups; ++g)
        for (std::size_t w = 0; w < high; ++w) words_of_zeros[w * groups + g] = z[g * high + w];
      m_.tensors[name + ".weight_zero_point"] = support::tensor_of("I32", {high, groups}, words_of_zeros);
    }
    std::vector<float> w(rows * cols);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t g = i / cols * groups + i % cols / group;
      w[i] = static_cast<float>(c[i] - (zero.empty() ? 0 : zero[g])) * s[g];
    }
    return w;
  }

  /// FP8 codes, one byte each, with a scale for block_rows x block_cols.
  std::vector<float> store_fp8(std::size_t block_rows, std::size_t block_cols, const char* scale_name, std::vector<std::uint64_t> scale_shape) {
    std::vector<std::uint8_t> bytes(rows * cols);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 % 127 + (i % 2 == 0 ? 0 : 128));
    const std::size_t across = (cols + block_cols - 1) / block_cols;
    std::uint64_t n = 1;
    for (const std::uint64_t d : scale_shape) n *= d;
    const std::vector<float> s = scales(static_cast<std::size_t>(n));
    m_.tensors[layer + ".weight"] = support::tensor_of("F8_E4M3", {rows, cols}, bytes);
    m_.tensors[layer + "." + scale_name] = support::tensor_of("F32", std::move(scale_shape), s);
    std::vector<float> w(rows * cols);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = ar::f32_from_small<ar::e4m3fn>(bytes[i]) * s[i / cols / block_rows * across + i % cols / block_cols];
    return w;
  }

  support::temp_dir dir_;
  support::tiny_model m_;
};

TEST_F(CompressedTensors, PackedIntegersOfEveryWidth) {
  for (int bits = 1; bits <= 8; ++bits) {
    SCOPED_TRACE(bits);
    configure(weights(bits, "int", "group", 32), "pack-quantized");
    expect_weight(pack_integers(bits, 32), "W" + std::to_string(bits) + " g32 sym");
  }
  configure(weights(4, "int", "channel", nullptr), "pack-quantized");
  expect_weight(pack_integers(4, cols), "W4 per row sym");
  // A scale for the whole matrix.
  configure(weights(4, "int", "tensor", nullptr), "pack-quantized");
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(codes(4)[i]) * 0.5f;
  m_.tensors[layer + ".weight_scale"] = support::tensor_of<std::uint16_t>("BF16", {1}, {ar::bf16_from_f32(0.5f)});
  expect_weight(w, "W4 per tensor sym");
}

TEST_F(CompressedTensors, ZeroPointsPackedAndAsBytes) {
  std::vector<int> zero(rows * 2);
  for (std::size_t i = 0; i < zero.size(); ++i) zero[i] = static_cast<int>(i * 5 % 16) - 8;
  configure(weights(4, "int", "group", 32, false), "pack-quantized");
  const std::vector<float> w = pack_integers(4, 32, zero);
  expect_weight(w, "W4 g32 asym");
  std::vector<std::int8_t> bytes(zero.begin(), zero.end());
  m_.tensors[layer + ".weight_zero_point"] = support::tensor_of("I8", {rows, 2}, bytes);
  expect_weight(w, "W4 g32 asym");
  m_.tensors.erase(layer + ".weight_zero_point");
  expect_error(error_kind::input, "weight_zero_point");
}

/// Layers that compressed-tensors 0.13 stored, and what it reads from them.
TEST_F(CompressedTensors, ColumnsInTheOrderOfActivationsAsTheirWriterReadsThem) {
  struct recorded {
    const char *name, *format, *type;
    int bits, group;
    bool symmetric;
  };
  const recorded all[] = {
      {"int4", "pack-quantized", "W4 g16 sym act-order", 4, 16, true},   {"int4_asym", "pack-quantized", "W4 g32 asym act-order", 4, 32, false},
      {"int8", "int-quantized", "INT8 g32 act-order", 8, 32, true},      {"fp8", "float-quantized", "FP8 g16 act-order", 8, 16, true},
      {"int4_unset", "pack-quantized", "W4 g16 sym", 4, 16, true},  // no order: one group is not set
  };
  const golden::file file(std::filesystem::path(AR_TEST_DATA) / "actorder" / "layers.safetensors");
  const auto own = m_.tensors;
  for (const recorded& r : all) {
    SCOPED_TRACE(r.name);
    m_.tensors = own;
    m_.tensors.erase(layer + ".weight");
    std::vector<float> expected;
    for (const auto& [name, t] : file.tensors()) {
      const std::string part = name.substr(name.find('.') + 1);
      if (name.substr(0, name.find('.')) != r.name) continue;
      if (part == "expected") expected = t.f32();
      else m_.tensors[layer + "." + part] = {t.dtype, {t.shape.begin(), t.shape.end()}, std::string(reinterpret_cast<const char*>(t.data), t.bytes)};
    }
    ordered_json args = weights(r.bits, std::string(r.name) == "fp8" ? "float" : "int", "group", r.group, r.symmetric);
    for (const ordered_json& word : {ordered_json("group"), ordered_json("Dynamic"), ordered_json(true), ordered_json("weight"), ordered_json(nullptr)}) {
      args["actorder"] = word;
      configure(args, r.format);
      expect_weight(expected, r.type);
    }
  }
}

TEST_F(CompressedTensors, ColumnsInAnOrderThatIsNotThereAreRefused) {
  ordered_json args = weights(4, "int", "group", 32);
  const std::vector<float> in_order = pack_integers(4, 32);
  // An order of the work leaves no trace.
  for (const ordered_json& word : {ordered_json("weight"), ordered_json("STATIC"), ordered_json(false), ordered_json(nullptr)}) {
    args["actorder"] = word;
    configure(args, "pack-quantized");
    expect_weight(in_order, "W4 g32 sym");
  }
  args["actorder"] = "group";
  configure(args, "pack-quantized");
  expect_error(error_kind::input, layer + ".weight_g_idx");
  std::vector<std::int32_t> order(cols);
  const auto store = [&] { m_.tensors[layer + ".weight_g_idx"] = support::tensor_of("I32", {cols}, order); };
  for (std::size_t c = 0; c < cols; ++c) order[c] = static_cast<std::int32_t>(c / 32);
  store();
  expect_weight(in_order, "W4 g32 sym");  // one that is none
  std::swap(order[0], order[63]);
  order[3] = 2;
  store();
  expect_error(error_kind::input, "column 3 is assigned to group 2, but there are 2");
  m_.tensors[layer + ".weight_g_idx"] = support::tensor_of("I32", {cols / 2}, std::vector<std::int32_t>(cols / 2));
  expect_error(error_kind::input, "[32]");
  m_.tensors.erase(layer + ".weight_g_idx");
  for (const ordered_json& word : {ordered_json("columns"), ordered_json(3)}) {
    args["actorder"] = word;
    configure(args, "pack-quantized");
    expect_error(error_kind::input, "actorder");
  }
}

TEST_F(CompressedTensors, AnOrderThatWasLeftBehindWhenWeightsWereStoredNeedsNothing) {
  const std::vector<float> w = pack_integers(4, 32);
  for (const ordered_json& order : {ordered_json("weight"), ordered_json("static"), ordered_json(nullptr)}) {
    ordered_json args = weights(4, "int", "group", 32);
    args["actorder"] = order;
    configure(args, "pack-quantized");
    expect_weight(w, "W4 g32 sym");
  }
  // What compressed-tensors makes for columns in an order before it is known.
  m_.tensors[layer + ".weight_g_idx"] = support::tensor_of("I32", {cols}, std::vector<std::int32_t>(cols, -1));
  expect_weight(w, "W4 g32 sym");
}

TEST_F(CompressedTensors, BytesOfIntegers) {
  const std::vector<int> c = codes(8);
  const std::vector<float> s = scales(rows);
  std::vector<std::int8_t> bytes(c.begin(), c.end()), zero(rows);
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(c[i]) * s[i / cols];
  m_.tensors[layer + ".weight"] = support::tensor_of("I8", {rows, cols}, bytes);
  m_.tensors[layer + ".weight_scale"] = support::tensor_of("F32", {rows, 1}, s);
  for (const char* format : {"int-quantized", "naive-quantized"}) {
    configure(weights(8, "int", "channel", nullptr), format);
    expect_weight(w, "INT8 per row");
  }
  for (std::size_t r = 0; r < rows; ++r) zero[r] = static_cast<std::int8_t>(r % 7) ;
  m_.tensors[layer + ".weight_zero_point"] = support::tensor_of("I8", {rows, 1}, zero);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(c[i] - zero[i / cols]) * s[i / cols];
  configure(weights(8, "int", "channel", nullptr, false), "int-quantized");
  expect_weight(w, "INT8 per row");
}

TEST_F(CompressedTensors, Fp8OfEveryStrategy) {
  configure(weights(8, "float", "tensor", nullptr), "float-quantized");
  expect_weight(store_fp8(rows, cols, "weight_scale", {1}), "FP8 per tensor");
  expect_weight(store_fp8(rows, cols, "weight_scale", {}), "FP8 per tensor");
  configure(weights(8, "float", "channel", nullptr), "naive-quantized");
  expect_weight(store_fp8(1, cols, "weight_scale", {rows, 1}), "FP8 per row");
  configure(weights(8, "float", "group", 16), "float-quantized");
  expect_weight(store_fp8(1, 16, "weight_scale", {rows, 4}), "FP8 g16");
  ordered_json block = weights(8, "float", "block", nullptr);
  block["block_structure"] = {48, 24};  // short ones at both ends
  configure(block, "float-quantized");
  expect_weight(store_fp8(48, 24, "weight_scale", {2, 3}), "FP8 48x24");
  // The scale of inputs belongs to the layer and changes nothing.
  m_.tensors[layer + ".input_scale"] = support::tensor_of<float>("F32", {1}, {0.5f});
  expect_weight(store_fp8(48, 24, "weight_scale", {2, 3}), "FP8 48x24");
  block["block_structure"] = {48, 0};
  configure(block, "float-quantized");
  expect_error(error_kind::input, "blocks");
}

TEST_F(CompressedTensors, FourBitFloatsUnderTheirScales) {
  std::vector<std::uint8_t> bytes(rows * cols / 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 % 256);
  const auto code = [&](std::size_t i) { return static_cast<std::uint8_t>(i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4); };
  std::vector<float> w(rows * cols);
  m_.tensors.erase(layer + ".weight");
  m_.tensors[layer + ".weight_packed"] = support::tensor_of("U8", {rows, cols / 2}, bytes);

  std::vector<std::uint8_t> exponent(rows * 2);
  for (std::size_t i = 0; i < exponent.size(); ++i) exponent[i] = static_cast<std::uint8_t>(110 + i % 9);
  m_.tensors[layer + ".weight_scale"] = support::tensor_of("U8", {rows, 2}, exponent);
  configure(weights(4, "float", "group", 32), "mxfp4-pack-quantized");
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = ar::f32_from_small<ar::e2m1>(code(i)) * std::ldexp(1.0f, exponent[i / 32] - 127);
  expect_weight(w, "MXFP4");
  // Groups of columns are stored with such layers, too, but compressed-tensors does not look at them: whose scales are right nobody knows.
  std::vector<std::int32_t> order(cols, 0);
  std::fill(order.begin(), order.begin() + 32, 1);
  m_.tensors[layer + ".weight_g_idx"] = support::tensor_of("I32", {cols}, order);
  expect_error(error_kind::unsupported, "MXFP4 in an order of their own");
  m_.tensors.erase(layer + ".weight_g_idx");
  exponent[5] = 255;  // NaN
  m_.tensors[layer + ".weight_scale"] = support::tensor_of("U8", {rows, 2}, exponent);
  auto opened = open();
  ASSERT_TRUE(opened.has_value());
  EXPECT_FALSE((*opened)->read(layer + ".weight", w).has_value());

  std::vector<std::uint8_t> small(rows * 4);
  for (std::size_t i = 0; i < small.size(); ++i) small[i] = static_cast<std::uint8_t>(60 + i % 40);
  m_.tensors[layer + ".weight_scale"] = support::tensor_of("F8_E4M3", {rows, 4}, small);
  m_.tensors[layer + ".weight_global_scale"] = support::tensor_of<float>("F32", {1}, {320.0f});
  m_.tensors[layer + ".input_global_scale"] = support::tensor_of<float>("F32", {1}, {5.0f});
  configure(weights(4, "float", "tensor_group", 16), "nvfp4-pack-quantized");
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = ar::f32_from_small<ar::e2m1>(code(i)) * (ar::f32_from_small<ar::e4m3fn>(small[i / 16]) / 320.0f);
  expect_weight(w, "NVFP4");
  m_.tensors.erase(layer + ".weight_global_scale");
  expect_error(error_kind::input, "weight_global_scale");
  configure(weights(4, "float", "group", 32), "nvfp4-pack-quantized");
  expect_error(error_kind::input, "groups of 16");
}

TEST_F(CompressedTensors, SeveralGroupsAndTheirTargets) {
  // A name counts more than a pattern, a pattern more than a class; each group may have a format of its own.
  const std::string k = "model.layers.1.self_attn.q_proj";
  const std::vector<float> four = pack_integers(4, 32), eight = pack_integers(8, 64, {}, k);
  const ordered_json w4 = weights(4, "int", "group", 32), w8 = weights(8, "int", "channel", nullptr), fp8 = weights(8, "float", "tensor", nullptr);
  const std::string rest = "re:(?!.*q_proj$)";
  configure({{"a", group({"Linear"}, fp8, "float-quantized")}, {"b", group({"re:.*q_proj$"}, w4, "pack-quantized")}, {"c", group({k}, w8, "pack-quantized")}}, "mixed-precision", {rest});
  expect_weight(four, "W4 g32 sym");
  expect_weight(eight, "W8 per row sym", k);
  // Patterns match at the beginning of a name only.
  configure({{"b", group({"re:self_attn"}, w4, "pack-quantized")}}, "mixed-precision", {rest});
  expect_error(error_kind::input, "does not say how");
  configure({{"b", group({"Linear"}, w4, "pack-quantized")}}, "mixed-precision", {"re:.*"});
  expect_error(error_kind::input, "does not say how");
}

TEST_F(CompressedTensors, WhatIsPromisedMustBeThere) {
  pack_integers(4, 32);
  configure({{"group_0", group({"Linear"}, weights(4, "int", "group", 32))}}, "pack-quantized", {"lm_head"});
  auto opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto checked = (*opened)->check();
  ASSERT_FALSE(checked.has_value());
  EXPECT_EQ(checked.error().kind, error_kind::verification);
}

TEST_F(CompressedTensors, WhatCannotBeComputedIsRefused) {
  pack_integers(4, 32);
  const ordered_json w4 = weights(4, "int", "group", 32);
  const ordered_json groups = {{"group_0", group({"Linear"}, w4)}};
  configure(groups, "marlin-24", {others});
  expect_error(error_kind::unsupported, "marlin-24");
  configure(groups, "pack-quantized", {others}, {{"sparsity_config", {{"format", "sparse-24-bitmask"}}}});
  expect_error(error_kind::unsupported, "sparse");
  configure(groups, "pack-quantized", {others}, {{"transform_config", {{"config_groups", {{"R4", {{"type", "hadamard"}}}}}}}});
  expect_error(error_kind::unsupported, "transform");
}

TEST_F(CompressedTensors, ContradictionsAreErrors) {
  pack_integers(4, 32);
  const auto with = [&](const char* key, const ordered_json& value) {
    ordered_json args = weights(4, "int", "group", 32);
    args[key] = value;
    configure(args, "pack-quantized");
  };
  with("num_bits", 5);
  expect_error(error_kind::input, "weight_packed");
  with("num_bits", 64);
  expect_error(error_kind::input, "64 bits");
  with("group_size", 24);
  expect_error(error_kind::input, "no multiple");
  with("group_size", -7);
  expect_error(error_kind::input, "positive group_size");
  with("group_size", "many");
  expect_error(error_kind::input, "group_size");
  with("type", "float");
  expect_error(error_kind::input, "cannot hold");
  with("strategy", "attn_head");
  expect_error(error_kind::unsupported, "attn_head");
  configure(ordered_json::object(), "pack-quantized", ordered_json::array());
  expect_error(error_kind::input, "config_groups");
  configure({{"group_0", group("Linear", weights(4, "int", "group", 32))}}, "pack-quantized", {others});
  expect_error(error_kind::input, "targets");
  configure({{"group_0", group({"re:(("}, weights(4, "int", "group", 32))}}, "pack-quantized", {others});
  expect_error(error_kind::input, "((");
  configure(weights(4, "int", "group", 32), "pack-quantized");
  m_.tensors[layer + ".weight_shape"] = support::tensor_of<std::int64_t>("I64", {2}, {rows, cols + 1});
  expect_error(error_kind::input, "64 x 65");
}

TEST_F(CompressedTensors, BlockFp8AsDeepSeekPublishesIt) {
  m_.config["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}, {"weight_block_size", {32, 48}}};
  expect_weight(store_fp8(32, 48, "weight_scale_inv", {2, 2}), "FP8 32x48");
  m_.tensors.erase(layer + ".weight_scale_inv");
  expect_error(error_kind::input, "a part of a packed layer is missing");
  // One scale for the matrix, or one for each row, without tiles.
  m_.config["quantization_config"].erase("weight_block_size");
  expect_weight(store_fp8(rows, cols, "weight_scale", {}), "FP8 per tensor");
  expect_weight(store_fp8(1, cols, "weight_scale", {rows, 1}), "FP8 per row");
  // Powers of two as bytes.
  m_.config["quantization_config"]["weight_block_size"] = {32, 32};
  std::vector<float> w = store_fp8(32, 32, "weight_scale_inv", {2, 2});
  const std::vector<float> s = scales(4);
  m_.tensors.erase(layer + ".weight_scale");
  m_.tensors[layer + ".weight_scale_inv"] = support::tensor_of<std::uint8_t>("F8_E8M0", {2, 2}, {120, 121, 122, 123});
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::size_t block = i / cols / 32 * 2 + i % cols / 32;
    w[i] = ar::f32_from_small<ar::e4m3fn>(static_cast<std::uint8_t>(i * 7 % 127 + (i % 2 == 0 ? 0 : 128))) * std::ldexp(1.0f, static_cast<int>(block) - 7);
  }
  expect_weight(w, "FP8 32x32");
  for (const ordered_json& bad : {ordered_json{{"weight_block_size", {0, 32}}}, ordered_json{{"weight_block_size", 5}}, ordered_json{{"weight_block_size", {16, 16}}}}) {
    m_.config["quantization_config"].update(bad);
    const auto opened = open();
    ASSERT_FALSE(opened.has_value()) << bad;
    EXPECT_EQ(opened.error().kind, error_kind::input);
  }
}

TEST_F(CompressedTensors, APackedFolderIsASourceOfPlainTensors) {
  m_.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {32, 48}}};
  const std::vector<float> w = store_fp8(32, 48, "weight_scale_inv", {2, 2});
  auto opened = open();
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  ASSERT_TRUE(exporting::has_packed_layers(**opened));
  auto source = exporting::unpacked_source(std::move(*opened));
  ASSERT_TRUE(source.has_value()) << describe(source.error());
  EXPECT_FALSE(exporting::has_packed_layers(**source));
  const io::checkpoint_dir& dir = *(*source)->directory();
  EXPECT_EQ(dir.find(layer + ".weight_scale_inv"), nullptr);
  ASSERT_NE(dir.find(layer + ".weight"), nullptr);
  EXPECT_EQ(dir.find(layer + ".weight")->type, io::dtype::bf16);
  EXPECT_TRUE(dir.config().at("quantization_config").is_null());
  EXPECT_TRUE((*source)->changed(layer + ".weight"));
  EXPECT_FALSE((*source)->changed("model.norm.weight"));
  std::vector<float> read(w.size());
  ASSERT_TRUE((*source)->read(layer + ".weight", read).has_value());
  EXPECT_EQ(read, w);
}

}  // namespace
