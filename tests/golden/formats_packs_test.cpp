// Packed layouts against the packers that define them (golden/formats/packs): AWQ, GPTQModel's planes, compressed-tensors, MLX, FP8 and the
// four-bit floats; byte for byte, and back. GPTQ's are in formats_gptq_test.cpp. Files are found by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <string>
#include <vector>

#include "ar/numeric/small_float.hpp"
#include "ar/pack.hpp"
#include "support/golden.hpp"

namespace {

using ar::errc;

std::vector<std::filesystem::path> packs(const std::string& pattern) {
  std::vector<std::filesystem::path> found;
  const auto folder = golden::root() / "formats" / "packs";
  if (std::filesystem::is_directory(folder))
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (std::regex_match(entry.path().filename().string(), std::regex(pattern))) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

int bits_in(const std::string& name) {
  std::smatch m;
  return std::regex_search(name, m, std::regex("w([1-8])")) ? std::stoi(m[1]) : 0;
}

/// Codes as the originals hold them (I32, or signed I8 that is `offset` less).
std::vector<std::uint8_t> codes_of(const golden::tensor& t, int offset = 0) {
  std::vector<std::uint8_t> code;
  for (const float c : t.f32()) code.push_back(static_cast<std::uint8_t>(static_cast<int>(c) + offset));
  return code;
}

std::vector<std::uint8_t> transposed(const std::vector<std::uint8_t>& m, std::size_t rows, std::size_t cols) {
  std::vector<std::uint8_t> t(m.size());
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) t[c * rows + r] = m[r * cols + c];
  return t;
}

template <class C>
void expect_codes(C codec, int bits, const std::vector<std::uint8_t>& code, std::size_t rows, std::size_t cols, const golden::tensor& packed) {
  using word = typename C::word;
  const auto want = packed.as<word>();
  const ar::matrix_shape s = ar::packed_shape(codec, bits, rows, cols);
  ASSERT_EQ(s, (ar::matrix_shape{packed.rows(), packed.cols()}));
  std::vector<word> words(want.size());
  ASSERT_EQ(ar::pack(codec, bits, {code.data(), rows, cols}, {words.data(), s.rows, s.cols}), errc::ok);
  EXPECT_EQ(words, want);
  std::vector<std::uint8_t> back(code.size());
  ASSERT_EQ(ar::unpack(codec, bits, {want.data(), s.rows, s.cols}, {back.data(), rows, cols}), errc::ok);
  EXPECT_EQ(back, code);
}

template <class C>
void expect_zeros(C codec, int bits, const std::vector<std::uint8_t>& zp, std::size_t rows, std::size_t groups, const golden::tensor& packed) {
  const std::vector<std::int32_t> zero(zp.begin(), zp.end());
  const auto want = packed.as<std::uint32_t>();
  const ar::matrix_shape s = ar::packed_zero_shape(codec, bits, rows, groups);
  ASSERT_EQ(s, (ar::matrix_shape{packed.rows(), packed.cols()}));
  std::vector<std::uint32_t> words(want.size());
  ASSERT_EQ(ar::pack_zeros(codec, ar::zero_convention::v2, bits, {zero.data(), rows, groups}, {words.data(), s.rows, s.cols}), errc::ok);
  EXPECT_EQ(words, want);
  std::vector<std::int32_t> back(zero.size());
  ASSERT_EQ(ar::unpack_zeros(codec, ar::zero_convention::v2, bits, {want.data(), s.rows, s.cols}, {back.data(), rows, groups}), errc::ok);
  EXPECT_EQ(back, zero);
}

TEST(Packs, AwqEqualsAutoRound) {
  const auto files = packs("awq_w[4-7]\\.safetensors");
  ASSERT_FALSE(files.empty());
  for (const auto& path : files) {
    SCOPED_TRACE(path.filename().string());
    const golden::file f(path);
    const int bits = bits_in(path.stem().string());
    const auto& codes = f["in.codes"];
    const auto& zp = f["in.zp"];
    for (const std::string kind : {"asym", "sym"}) {
      expect_codes(ar::awq_int32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f[kind + ".qweight"]);
      const auto zero = kind == "asym" ? codes_of(zp) : std::vector<std::uint8_t>(zp.size(), static_cast<std::uint8_t>(1 << (bits - 1)));
      expect_zeros(ar::awq_int32{}, bits, zero, zp.rows(), zp.cols(), f[kind + ".qzeros"]);
    }
    EXPECT_EQ(ar::scale_shape(ar::awq_int32{}, 32, codes.rows(), codes.cols()), (ar::matrix_shape{f["asym.scales"].rows(), f["asym.scales"].cols()}));
  }
}

TEST(Packs, PlanesEqualGptqModel) {
  const auto files = packs("gptqmodel_planar\\.safetensors");
  ASSERT_FALSE(files.empty());
  const golden::file f(files[0]);
  int cases = 0;
  for (const auto& [name, codes] : f.tensors()) {
    if (!name.ends_with(".codes_kn")) continue;
    SCOPED_TRACE(name);
    const int bits = bits_in(name);
    const std::string w = name.substr(0, 2);
    expect_codes(ar::gptq_planar{}, bits, transposed(codes_of(codes), codes.rows(), codes.cols()), codes.cols(), codes.rows(), f[w + ".rows"]);
    const auto& zeros = f[w + ".zeros_gn"];
    expect_zeros(ar::gptq_planar{}, bits, transposed(codes_of(zeros), zeros.rows(), zeros.cols()), zeros.cols(), zeros.rows(), f[w + ".cols"]);
    ++cases;
  }
  EXPECT_EQ(cases, 7);
}

TEST(Packs, PackedIntegersEqualCompressedTensors) {
  const auto files = packs("ct_pack\\.safetensors");
  ASSERT_FALSE(files.empty());
  const golden::file f(files[0]);
  int cases = 0;
  for (const auto& [name, codes] : f.tensors()) {
    if (!name.ends_with(".codes")) continue;
    SCOPED_TRACE(name);
    const int bits = bits_in(name), offset = 1 << (bits - 1);
    const std::string stem = name.substr(0, name.find('.'));
    expect_codes(ar::ct_int32{}, bits, codes_of(codes, offset), codes.rows(), codes.cols(), f[stem + ".packed"]);
    const auto& zp = f[stem + ".zp"];
    expect_zeros(ar::ct_int32{}, bits, codes_of(zp, offset), zp.rows(), zp.cols(), f[stem + ".zp_packed_dim0"]);
    ++cases;
  }
  EXPECT_EQ(cases, 16);
}

/// rint(w / scale + zero), clamped: how the originals find the codes again that they pack.
std::vector<std::uint8_t> recomputed(const golden::tensor& weight, const golden::tensor& scale, const std::vector<float>& zero, int bits) {
  const auto w = weight.f32(), s = scale.f32();
  const std::size_t groups = scale.cols(), size = weight.cols() / groups;
  std::vector<std::uint8_t> code(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::size_t g = i / weight.cols() * groups + i % weight.cols() / size;
    const float z = zero.size() == 1 ? zero[0] : zero[g], q = std::nearbyint(w[i] / s[g] + z);
    code[i] = static_cast<std::uint8_t>(std::clamp(q, 0.0f, static_cast<float>((1 << bits) - 1)));
  }
  return code;
}

TEST(Packs, WholeLayersEqualCompressedTensors) {
  const auto files = packs("ct_compress_w[48]_a?sym\\.safetensors");
  ASSERT_FALSE(files.empty());
  for (const auto& path : files) {
    SCOPED_TRACE(path.filename().string());
    const golden::file f(path);
    const int bits = bits_in(path.stem().string());
    const auto& weight = f["in.weight"];
    std::vector<float> zero = f["in.zp"].f32();
    for (float& z : zero) z += static_cast<float>(1 << (bits - 1));
    expect_codes(ar::ct_int32{}, bits, recomputed(weight, f["in.scale"], zero, bits), weight.rows(), weight.cols(), f["out.weight_packed"]);
    EXPECT_EQ(f["out.weight_shape"].as<std::int64_t>(), (std::vector<std::int64_t>{static_cast<std::int64_t>(weight.rows()), static_cast<std::int64_t>(weight.cols())}));
    if (f.has("out.weight_zero_point"))
      expect_zeros(ar::ct_int32{}, bits, codes_of(f["in.zp"], 1 << (bits - 1)), weight.rows(), f["in.zp"].cols(), f["out.weight_zero_point"]);
  }
}

TEST(Packs, SignedBytesEqualCompressedTensors) {
  const auto files = packs("ct_int8_channel\\.safetensors");
  ASSERT_FALSE(files.empty());
  const golden::file f(files[0]);
  const auto& weight = f["in.weight"];
  expect_codes(ar::int8_bytes{}, 8, recomputed(weight, f["in.scale"], {128.0f}, 8), weight.rows(), weight.cols(), f["out.weight"]);
}

TEST(Packs, WordsEqualMlx) {
  const auto files = packs("mlx_w[2-8]\\.safetensors");
  ASSERT_FALSE(files.empty());
  int cases = 0;
  for (const auto& path : files) {
    SCOPED_TRACE(path.filename().string());
    const golden::file f(path);
    const int bits = bits_in(path.stem().string());
    const auto& codes = f["raw.codes"];
    if (!ar::mlx_uint32::has_bits(bits)) {
      // auto-round's packer has a width that MLX refuses: it is the bit stream, but no layout of ours.
      expect_codes(ar::ct_int32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f["raw.packed"]);
      continue;
    }
    expect_codes(ar::mlx_uint32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f["raw.packed"]);
    for (const std::string kind : {"asym", "sym"})
      expect_codes(ar::mlx_uint32{}, bits, recomputed(f[kind + ".in.weight"], f[kind + ".in.scale"], f[kind + ".in.zp"].f32(), bits), codes.rows(), codes.cols(),
                   f[kind + ".weight"]);
    ++cases;
  }
  EXPECT_EQ(cases, 6);
}

/// The E2M1 code whose magnitude is nearest, the lower one of two that are equally near; the sign bit of the float.
std::uint8_t nearest_e2m1(float x) {
  std::uint8_t best = 0;
  for (std::uint8_t c = 1; c < 8; ++c)
    if (std::abs(ar::f32_from_small<ar::e2m1>(c) - std::abs(x)) < std::abs(ar::f32_from_small<ar::e2m1>(best) - std::abs(x))) best = c;
  return static_cast<std::uint8_t>(best | (std::signbit(x) ? 8 : 0));
}
/// The same for MXINT4: magnitudes of 0, 0.25, ... 1.75.
std::uint8_t nearest_mxint4(float x) {
  std::uint8_t best = 0;
  for (std::uint8_t c = 1; c < 8; ++c)
    if (std::abs(0.25f * c - std::abs(x)) < std::abs(0.25f * best - std::abs(x))) best = c;
  return static_cast<std::uint8_t>(best | (std::signbit(x) ? 8 : 0));
}

TEST(Packs, NibblesEqualAutoRound) {
  const auto files = packs("fp_codes\\.safetensors");
  ASSERT_FALSE(files.empty());
  const golden::file f(files[0]);
  const auto expect = [&](const char* in, const char* out, auto code_of) {
    SCOPED_TRACE(out);
    const auto x = f[in].f32();
    std::vector<std::uint8_t> code;
    for (const float v : x) code.push_back(code_of(v));
    expect_codes(ar::mxfp4_nibbles{}, 4, code, f[in].rows(), f[in].cols(), f[out]);
    expect_codes(ar::nvfp4_nibbles{}, 4, code, f[in].rows(), f[in].cols(), f[out]);
  };
  expect("fp4.in", "fp4.direct_pack_nearest_lower_tie", nearest_e2m1);
  expect("fp4.in_bf16", "fp4.bf16_direct_pack", nearest_e2m1);
  expect("fp4.cast_values", "fp4.cast_then_pack", nearest_e2m1);
  expect("mxint4.in", "mxint4.packed", nearest_mxint4);
}

TEST(Packs, LayersOfSmallFloatsEqualAutoRoundAndDecodeAsCompressedTensors) {
  const auto files = packs("fp_pack\\.safetensors");
  ASSERT_FALSE(files.empty());
  const golden::file f(files[0]);
  const auto layer = [&](auto codec, const std::string& name, int bits, std::size_t group, auto code_of) {
    SCOPED_TRACE(name);
    const auto& weight = f[name + ".in.weight"];
    const auto w = weight.f32();
    const std::size_t groups = weight.cols() / group;
    std::vector<std::uint8_t> code;
    for (std::size_t i = 0; i < w.size(); ++i) code.push_back(code_of(w[i], i / weight.cols() * groups + i % weight.cols() / group));
    expect_codes(codec, bits, code, weight.rows(), weight.cols(), f[name + (bits == 4 ? ".weight_packed" : ".weight")]);
    if (f.has(name + ".weight_scale")) {
      const auto& scale = f[name + ".weight_scale"];
      EXPECT_EQ(ar::scale_shape(codec, static_cast<int>(group), weight.rows(), weight.cols()), (ar::matrix_shape{scale.rows(), scale.cols()}));
    }
  };
  for (const char* name : {"mxfp4", "mxint4"}) {
    const auto e = f[std::string(name) + ".in.exp"].f32();
    const bool integer = std::string(name) == "mxint4";
    layer(ar::mxfp4_nibbles{}, name, 4, 32, [&](float w, std::size_t g) {
      const float x = w / std::ldexp(1.0f, static_cast<int>(e[g]));
      return integer ? nearest_mxint4(x) : nearest_e2m1(x);
    });
  }
  const auto e8 = f["mxfp8.in.exp"].f32();
  layer(ar::mxfp8_bytes{}, "mxfp8", 8, 32, [&](float w, std::size_t g) { return ar::small_from_f32<ar::e4m3fn>(w / std::ldexp(1.0f, static_cast<int>(e8[g]))); });
  // What compressed-tensors decodes from the bytes: our codes and their scales give the same.
  const auto decoded = [&](auto codec, const std::string& name, int bits, std::size_t group, auto value_of) {
    SCOPED_TRACE(name);
    const auto& packed = f[name + (bits == 4 ? ".weight_packed" : ".weight")];
    const auto& want = f[name + ".ct_dequant"];
    const auto bytes = packed.as<std::uint8_t>();
    std::vector<std::uint8_t> code(want.size());
    ASSERT_EQ(ar::unpack(codec, bits, {bytes.data(), packed.rows(), packed.cols()}, {code.data(), want.rows(), want.cols()}), errc::ok);
    expect_codes(codec, bits, code, want.rows(), want.cols(), packed);
    const auto value = want.f32();
    const std::size_t groups = want.cols() / group;
    for (std::size_t i = 0; i < code.size(); ++i)
      ASSERT_EQ(ar::round_to_bf16(value_of(code[i], i / want.cols() * groups + i % want.cols() / group)), value[i]) << i;
  };
  const auto mx4 = f["mxfp4.weight_scale"].as<std::uint8_t>(), mx8 = f["mxfp8.weight_scale"].as<std::uint8_t>(), nv = f["nvfp4.weight_scale"].as<std::uint8_t>();
  decoded(ar::mxfp4_nibbles{}, "mxfp4", 4, 32, [&](std::uint8_t c, std::size_t g) { return ar::f32_from_small<ar::e2m1>(c) * ar::f32_from_e8m0(mx4[g]); });
  decoded(ar::mxfp8_bytes{}, "mxfp8", 8, 32, [&](std::uint8_t c, std::size_t g) { return ar::f32_from_small<ar::e4m3fn>(c) * ar::f32_from_e8m0(mx8[g]); });
  const float global = f["nvfp4.weight_global_scale"].f32()[0];
  decoded(ar::nvfp4_nibbles{}, "nvfp4", 4, 16, [&](std::uint8_t c, std::size_t g) { return ar::f32_from_small<ar::e2m1>(c) * (ar::f32_from_small<ar::e4m3fn>(nv[g]) / global); });
}

TEST(Packs, BlocksOfFp8EqualCompressedTensors) {
  const auto files = packs("ct_fp8_block\\.safetensors");
  ASSERT_FALSE(files.empty());
  const golden::file f(files[0]);
  const auto& weight = f["in.weight"];
  const auto& scale = f["in.scale"];
  EXPECT_EQ(ar::scale_shape(ar::fp8_block_bytes{}, 128, weight.rows(), weight.cols()), (ar::matrix_shape{scale.rows(), scale.cols()}));
  const auto w = weight.f32(), s = scale.f32();
  std::vector<std::uint8_t> code;
  for (std::size_t i = 0; i < w.size(); ++i)
    code.push_back(ar::small_from_f32<ar::e4m3fn>(w[i] / s[i / weight.cols() / 128 * scale.cols() + i % weight.cols() / 128]));
  expect_codes(ar::fp8_block_bytes{}, 8, code, weight.rows(), weight.cols(), f["out.weight"]);
  expect_codes(ar::fp8_bytes{}, 8, code, weight.rows(), weight.cols(), f["out.weight"]);
}

}  // namespace
