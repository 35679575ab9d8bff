// Packed layouts against the packers that define them (golden/formats/packs): GPTQ, AWQ, GPTQModel's planes, compressed-tensors, MLX, FP8 and the
// four-bit floats; codes, zero points, scales, biases and g_idx byte for byte, and back; what the originals decode, number for number. Every tensor
// of every file is looked at: the last test here fails for one that is not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "ar/numeric/small_float.hpp"
#include "ar/pack.hpp"
#include "ar/quantize.hpp"
#include "support/golden.hpp"
#include "support/pattern.hpp"

namespace {

using ar::errc;

int bits_in(const std::string& name) {
  const std::vector<std::string> m = support::pattern("w([1-8])").search(name);
  return m.empty() ? 0 : std::stoi(m[1]);
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

/// Zero points [rows x groups] to their words, and what a reader makes of them: `lossless` false where z = 0 reads back as 1.
template <class C>
void expect_zeros(C codec, int bits, const std::vector<std::uint8_t>& zp, std::size_t rows, std::size_t groups, const golden::tensor& packed,
                  ar::zero_convention convention = ar::zero_convention::v2, bool lossless = true) {
  const std::vector<std::int32_t> zero(zp.begin(), zp.end());
  const auto want = packed.as<std::uint32_t>();
  const ar::matrix_shape s = ar::packed_zero_shape(codec, bits, rows, groups);
  ASSERT_EQ(s, (ar::matrix_shape{packed.rows(), packed.cols()}));
  std::vector<std::uint32_t> words(want.size());
  ASSERT_EQ(ar::pack_zeros(codec, convention, bits, {zero.data(), rows, groups}, {words.data(), s.rows, s.cols}), errc::ok);
  EXPECT_EQ(words, want);
  std::vector<std::int32_t> back(zero.size());
  ASSERT_EQ(ar::unpack_zeros(codec, convention, bits, {want.data(), s.rows, s.cols}, {back.data(), rows, groups}), errc::ok);
  for (std::size_t i = 0; i < zero.size(); ++i) EXPECT_EQ(back[i], !lossless && zero[i] == 0 ? 1 : zero[i]) << i;
}

/// The numbers of `t`, each after `f`, are those of `want`.
template <class F>
void expect_numbers(const golden::tensor& t, const golden::tensor& want, F f) {
  std::vector<float> x = t.f32();
  for (float& v : x) v = f(v);
  EXPECT_EQ(x, want.f32());
}
void expect_f16(const golden::tensor& t, const golden::tensor& want) { expect_numbers(t, want, ar::round_to_f16); }
/// Scales of an input [rows x groups], as a layout [groups x rows] stores them.
void expect_transposed(const golden::tensor& scale, const golden::tensor& want) {
  ASSERT_EQ(ar::matrix_shape({want.rows(), want.cols()}), ar::matrix_shape({scale.cols(), scale.rows()}));
  const auto a = scale.as<std::uint16_t>(), b = want.as<std::uint16_t>();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i], b[i % scale.cols() * scale.rows() + i / scale.cols()]);
}
/// scale * (code - zero), rounded to half precision once: what readers of integer layouts compute in their own type.
void expect_decoded(const std::vector<std::uint8_t>& code, const std::vector<float>& zero, const golden::tensor& scale, const golden::tensor& want) {
  const auto s = scale.f32(), w = want.f32();
  const std::size_t groups = scale.cols(), size = ar::ceil_div(want.cols(), groups);
  for (std::size_t i = 0; i < code.size(); ++i) {
    const std::size_t g = i / want.cols() * groups + i % want.cols() / size;
    ASSERT_EQ(ar::round_to_f16(s[g] * (static_cast<float>(code[i]) - zero[g])), w[i]) << i;
  }
}
void expect_g_idx(int group, const golden::tensor& want) {
  const auto g_idx = want.as<std::int32_t>();
  std::vector<std::int32_t> mine(g_idx.size());
  ar::gptq_int32::write_g_idx(group, mine);
  EXPECT_EQ(mine, g_idx);
  EXPECT_TRUE(ar::gptq_int32::is_plain_g_idx(group, g_idx));
}
std::vector<float> floats(const std::vector<std::uint8_t>& v) { return {v.begin(), v.end()}; }

/// Fields of `bits` bits with `amount` taken from each as one number a word, as GPTQModel and AutoAWQ do: a field of 0 borrows from the next one.
std::vector<std::uint32_t> less_one(std::vector<std::uint32_t> words, int bits) {
  std::uint32_t ones = 0;
  for (int i = 0; i < 32; i += bits) ones |= 1u << i;
  for (auto& w : words) w -= ones;
  return words;
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

// One function for each kind of file. -----------------------------------------------------------------------------------------------------------

void gptq(const golden::file& f, int bits) {
  const golden::tensor &codes = f["in.codes"], &zp = f["in.zp"], &scale = f["in.scale"];
  const auto code = codes_of(codes), zero = codes_of(zp), zero0 = codes_of(f["zp0.in.zp"]);
  const std::vector<std::uint8_t> middle(zero.size(), static_cast<std::uint8_t>(1 << (bits - 1)));
  const bool wraps = bits >= 5 && bits <= 7;
  for (const auto& [v, convention] : {std::pair<std::string, ar::zero_convention>{"v1", ar::zero_convention::v1}, {"v2", ar::zero_convention::v2}}) {
    const bool lossless = convention == ar::zero_convention::v2 || wraps;
    for (const auto& [kind, z] : {std::pair{"asym.", &zero}, {"sym.", &middle}, {"zp0.", &zero0}}) {
      SCOPED_TRACE(kind + v);
      expect_codes(ar::gptq_int32{}, bits, code, codes.rows(), codes.cols(), f[kind + v + ".qweight"]);
      expect_zeros(ar::gptq_int32{}, bits, *z, zp.rows(), zp.cols(), f[kind + v + ".qzeros"], convention, lossless);
      std::vector<float> seen = floats(*z);
      // The original's reader of v1 does not mask: a field of all ones is 2^bits to it, and z = 0 of 5 to 7 bits is written as that field.
      if (convention == ar::zero_convention::v1)
        for (float& x : seen) x = x != 0.0f ? x : wraps ? static_cast<float>(1 << bits) : 1.0f;
      expect_decoded(code, seen, scale, f[kind + v + ".dequant"]);
    }
    expect_transposed(scale, f["asym." + v + ".scales"]);
    expect_g_idx(32, f["asym." + v + ".g_idx"]);
    expect_f16(f["in.bias"], f["asym." + v + ".bias"]);
  }
}

void gptq_ragged(const golden::file& f, int bits) {
  for (const auto& [k, group] : {std::pair<std::string, int>{"k160g64.", 64}, {"k96gm1.", -1}}) {
    SCOPED_TRACE(k);
    const golden::tensor &codes = f[k + "in.codes"], &zp = f[k + "in.zp"];
    expect_codes(ar::gptq_int32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f[k + "v1.qweight"]);
    expect_zeros(ar::gptq_int32{}, bits, codes_of(zp), zp.rows(), zp.cols(), f[k + "v1.qzeros"], ar::zero_convention::v1, false);
    expect_transposed(f[k + "in.scale"], f[k + "v1.scales"]);
    expect_g_idx(group, f[k + "v1.g_idx"]);
    EXPECT_EQ(ar::scale_shape(ar::gptq_int32{}, group, codes.rows(), codes.cols()), (ar::matrix_shape{zp.cols(), zp.rows()}));
  }
}

/// Weights off the grid saturate. For 5 to 7 bits the original takes the low bits of what is out of range, which corrupts the weight: the layout is
/// the same, and the library's own codes do not do that.
void gptq_saturation(const golden::file& f, int) {
  const float step = std::stof(f.metadata().at("scale"));
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string name = "w" + std::to_string(bits);
    SCOPED_TRACE(name);
    const golden::tensor& weight = f[name + ".in.W"];
    const auto w = weight.f32();
    const std::vector<float> scale(weight.rows(), step);
    std::vector<std::uint8_t> code(w.size()), low_bits;
    const ar::scheme s{ar::int_sym<ar::dynamic, ar::real::f32, ar::real::f32>{ar::extent<ar::dynamic>(bits)}, ar::group<-1>{}};
    ASSERT_EQ(ar::encode(s, {w.data(), weight.rows(), weight.cols()}, {scale.data(), weight.rows(), 1}, {}, {code.data(), weight.rows(), weight.cols()}), errc::ok);
    const int top = (1 << bits) - 1;
    for (const float x : w) low_bits.push_back(static_cast<std::uint8_t>((static_cast<int>(std::nearbyint(x / step)) + (1 << (bits - 1))) & top));
    expect_codes(ar::gptq_int32{}, bits, bits >= 5 && bits <= 7 ? low_bits : code, weight.rows(), weight.cols(), f[name + ".qweight"]);
    EXPECT_NE(code, low_bits);
  }
}

void gptqmodel(const golden::file& f, int) {
  for (const int bits : {2, 3, 4, 8}) {
    const std::string w = "w" + std::to_string(bits);
    SCOPED_TRACE(w);
    const golden::file in("formats/packs", "gptq_" + w + ".safetensors");
    const golden::tensor &codes = in["in.codes"], &zp = in["in.zp"], &zp0 = in["zp0.v1.qzeros"];
    expect_codes(ar::gptq_int32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f[w + ".qweight"]);
    expect_zeros(ar::gptq_int32{}, bits, codes_of(zp), zp.rows(), zp.cols(), f[w + ".qzeros_v2"]);
    // Its v1 takes one from every field, and what is 0 borrows; ours agrees where nothing is 0.
    if (bits != 3) {
      EXPECT_EQ(f[w + ".qzeros_v1"].as<std::uint32_t>(), less_one(f[w + ".qzeros_v2"].as<std::uint32_t>(), bits));
    } else if (const auto z = codes_of(zp); std::count(z.begin(), z.end(), 0) == 0) {
      expect_zeros(ar::gptq_int32{}, bits, z, zp.rows(), zp.cols(), f[w + ".qzeros_v1"], ar::zero_convention::v1);
    } else {
      (void)f[w + ".qzeros_v1"];  // borrows cross words of 3 bits
    }
    const auto words = zp0.as<std::uint32_t>();
    std::vector<std::int32_t> zero(zp.size());
    ASSERT_EQ(ar::unpack_zeros(ar::gptq_int32{}, ar::zero_convention::v1, bits, {words.data(), zp0.rows(), zp0.cols()}, {zero.data(), zp.rows(), zp.cols()}), errc::ok);
    expect_zeros(ar::gptq_int32{}, bits, std::vector<std::uint8_t>(zero.begin(), zero.end()), zp.rows(), zp.cols(), f[w + ".zp0_v1_to_v2"]);
  }
}

void planes(const golden::file& f, int) {
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string w = "w" + std::to_string(bits);
    SCOPED_TRACE(w);
    const golden::tensor &codes = f[w + ".codes_kn"], &zeros = f[w + ".zeros_gn"];
    expect_codes(ar::gptq_planar{}, bits, transposed(codes_of(codes), codes.rows(), codes.cols()), codes.cols(), codes.rows(), f[w + ".rows"]);
    expect_zeros(ar::gptq_planar{}, bits, transposed(codes_of(zeros), zeros.rows(), zeros.cols()), zeros.cols(), zeros.rows(), f[w + ".cols"]);
  }
}

void awq(const golden::file& f, int bits) {
  const golden::tensor &codes = f["in.codes"], &zp = f["in.zp"];
  const auto code = codes_of(codes), zero = codes_of(zp);
  for (const std::string kind : {"asym", "sym"}) {
    SCOPED_TRACE(kind);
    expect_codes(ar::awq_int32{}, bits, code, codes.rows(), codes.cols(), f[kind + ".qweight"]);
    expect_zeros(ar::awq_int32{}, bits, kind == "asym" ? zero : std::vector<std::uint8_t>(zp.size(), static_cast<std::uint8_t>(1 << (bits - 1))), zp.rows(), zp.cols(),
                 f[kind + ".qzeros"]);
  }
  expect_transposed(f["in.scale"], f["asym.scales"]);
  expect_f16(f["in.bias"], f["asym.bias"]);
  expect_decoded(code, floats(zero), f["in.scale"], f["asym.dequant_f16"]);
  EXPECT_EQ(ar::scale_shape(ar::awq_int32{}, 32, codes.rows(), codes.cols()), (ar::matrix_shape{f["asym.scales"].rows(), f["asym.scales"].cols()}));
  if (bits != 4) return;
  // AutoAWQ's way to GPTQ v1: the same codes; zero points less one, where 0 borrows. More in formats_convert_test.cpp.
  expect_codes(ar::gptq_int32{}, bits, code, codes.rows(), codes.cols(), f["asym.to_gptq_v1.qweight"]);
  const std::vector<std::int32_t> z(zero.begin(), zero.end());
  std::vector<std::uint32_t> plain(f["asym.to_gptq_v1.qzeros"].size());
  ASSERT_EQ(ar::pack_zeros(ar::gptq_int32{}, ar::zero_convention::v2, 4, {z.data(), zp.rows(), zp.cols()}, {plain.data(), zp.cols(), zp.rows() / 8}), errc::ok);
  EXPECT_EQ(less_one(plain, 4), f["asym.to_gptq_v1.qzeros"].as<std::uint32_t>());
}

void ct_pack(const golden::file& f, int) {
  for (int bits = 1; bits <= 8; ++bits)
    for (const char* variant : {"a", "b"}) {
      const std::string stem = "w" + std::to_string(bits) + variant;
      SCOPED_TRACE(stem);
      const int offset = 1 << (bits - 1);
      const golden::tensor &codes = f[stem + ".codes"], &zp = f[stem + ".zp"];
      expect_codes(ar::ct_int32{}, bits, codes_of(codes, offset), codes.rows(), codes.cols(), f[stem + ".packed"]);
      expect_zeros(ar::ct_int32{}, bits, codes_of(zp, offset), zp.rows(), zp.cols(), f[stem + ".zp_packed_dim0"]);
    }
}

void ct_compress(const golden::file& f, int bits) {
  const golden::tensor& weight = f["in.weight"];
  const int offset = 1 << (bits - 1);
  const auto zero = codes_of(f["in.zp"], offset);
  const auto code = recomputed(weight, f["in.scale"], floats(zero), bits);
  expect_codes(ar::ct_int32{}, bits, code, weight.rows(), weight.cols(), f["out.weight_packed"]);
  EXPECT_EQ(f["out.weight_shape"].as<std::int64_t>(), (std::vector<std::int64_t>{static_cast<std::int64_t>(weight.rows()), static_cast<std::int64_t>(weight.cols())}));
  EXPECT_EQ(f["out.weight_scale"].as<std::uint16_t>(), f["in.scale"].as<std::uint16_t>());
  EXPECT_EQ(ar::scale_shape(ar::ct_int32{}, 32, weight.rows(), weight.cols()), (ar::matrix_shape{f["in.scale"].rows(), f["in.scale"].cols()}));
  if (f.has("out.weight_zero_point")) expect_zeros(ar::ct_int32{}, bits, zero, weight.rows(), f["in.zp"].cols(), f["out.weight_zero_point"]);
  expect_decoded(code, floats(zero), f["in.scale"], f["dequant"]);
}

void ct_int8(const golden::file& f, int) {
  const golden::tensor& weight = f["in.weight"];
  expect_codes(ar::int8_bytes{}, 8, recomputed(weight, f["in.scale"], {128.0f}, 8), weight.rows(), weight.cols(), f["out.weight"]);
  EXPECT_EQ(f["out.weight_scale"].as<std::uint16_t>(), f["in.scale"].as<std::uint16_t>());
  EXPECT_EQ(ar::scale_shape(ar::int8_bytes{}, -1, weight.rows(), weight.cols()), (ar::matrix_shape{f["in.scale"].rows(), f["in.scale"].cols()}));
}

void mlx(const golden::file& f, int bits) {
  const golden::tensor& codes = f["raw.codes"];
  if (!ar::mlx_uint32::has_bits(bits)) {
    // auto-round's packer has a width that MLX refuses: it is the bit stream, but no layout of ours.
    expect_codes(ar::ct_int32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f["raw.packed"]);
    return;
  }
  expect_codes(ar::mlx_uint32{}, bits, codes_of(codes), codes.rows(), codes.cols(), f["raw.packed"]);
  for (const std::string kind : {"asym.", "sym."}) {
    SCOPED_TRACE(kind);
    const golden::tensor &weight = f[kind + "in.weight"], &scale = f[kind + "in.scale"];
    const auto zero = f[kind + "in.zp"].f32(), s = scale.f32();
    expect_codes(ar::mlx_uint32{}, bits, recomputed(weight, scale, zero, bits), codes.rows(), codes.cols(), f[kind + "weight"]);
    EXPECT_EQ(f[kind + "scales"].as<std::uint16_t>(), scale.as<std::uint16_t>());
    std::vector<float> bias;
    for (std::size_t i = 0; i < s.size(); ++i) bias.push_back(ar::round_to_f16(-s[i] * (zero.size() == 1 ? zero[0] : zero[i])));
    EXPECT_EQ(bias, f[kind + "biases"].f32());
    expect_f16(f[kind + "in.bias"], f[kind + "bias"]);
    EXPECT_EQ(ar::scale_shape(ar::mlx_uint32{}, 32, codes.rows(), codes.cols()), (ar::matrix_shape{scale.rows(), scale.cols()}));
  }
}

void gptq_to_mlx(const golden::file& f, int) {
  for (const int bits : {2, 3, 4, 8}) {
    const std::string w = "w" + std::to_string(bits) + ".";
    SCOPED_TRACE(w);
    const golden::tensor &qweight = f[w + "in.qweight"], &qzeros = f[w + "in.qzeros"], &scales = f[w + "in.scales"], &weight = f[w + "weight"];
    const std::size_t rows = weight.rows(), cols = qweight.rows() * 32 / static_cast<std::size_t>(bits), groups = scales.rows();
    std::vector<std::uint8_t> code(rows * cols);
    std::vector<std::int32_t> zero(rows * groups);
    const auto words = qweight.as<std::uint32_t>(), fields = qzeros.as<std::uint32_t>();
    ASSERT_EQ(ar::unpack(ar::gptq_int32{}, bits, {words.data(), qweight.rows(), qweight.cols()}, {code.data(), rows, cols}), errc::ok);
    ASSERT_EQ(ar::unpack_zeros(ar::gptq_int32{}, ar::zero_convention::v1, bits, {fields.data(), qzeros.rows(), qzeros.cols()}, {zero.data(), rows, groups}), errc::ok);
    expect_codes(ar::mlx_uint32{}, bits, code, rows, cols, weight);
    expect_transposed(f[w + "scales"], scales);
    const auto s = f[w + "scales"].f32();
    std::vector<float> bias;
    for (std::size_t i = 0; i < s.size(); ++i) bias.push_back(ar::round_to_f16(-s[i] * static_cast<float>(zero[i] % (1 << bits))));
    EXPECT_EQ(bias, f[w + "biases"].f32());
  }
}

void fp_codes(const golden::file& f, int) {
  const auto nibbles = [&](const char* in, const char* out, auto code_of) {
    SCOPED_TRACE(out);
    const auto x = f[in].f32();
    std::vector<std::uint8_t> code;
    for (const float v : x) code.push_back(code_of(v));
    expect_codes(ar::mxfp4_nibbles{}, 4, code, f[in].rows(), f[in].cols(), f[out]);
    expect_codes(ar::nvfp4_nibbles{}, 4, code, f[in].rows(), f[in].cols(), f[out]);
  };
  nibbles("fp4.in", "fp4.direct_pack_nearest_lower_tie", nearest_e2m1);
  nibbles("fp4.in_bf16", "fp4.bf16_direct_pack", nearest_e2m1);
  nibbles("fp4.cast_values", "fp4.cast_then_pack", nearest_e2m1);
  nibbles("mxint4.in", "mxint4.packed", nearest_mxint4);
  expect_numbers(f["fp4.in"], f["fp4.cast_values"], [](float x) { return ar::f32_from_small<ar::e2m1>(ar::small_from_f32<ar::e2m1>(x)); });
  // The values of all codes, and the codes of numbers in and out of range.
  const auto e4m3 = f["e4m3.table"].f32(), ue5m3 = f["ue5m3.table"].f32();
  for (int c = 0; c < 256; ++c) {
    const float a = ar::f32_from_small<ar::e4m3fn>(static_cast<std::uint8_t>(c)), b = ar::f32_from_small<ar::ue5m3>(static_cast<std::uint8_t>(c));
    EXPECT_TRUE(a == e4m3[static_cast<std::size_t>(c)] || (std::isnan(a) && std::isnan(e4m3[static_cast<std::size_t>(c)]))) << c;
    EXPECT_TRUE(b == ue5m3[static_cast<std::size_t>(c)] || (std::isnan(b) && std::isnan(ue5m3[static_cast<std::size_t>(c)]))) << c;
  }
  std::vector<std::uint8_t> code;
  for (const float x : f["e4m3.in"].f32()) code.push_back(ar::small_from_f32<ar::e4m3fn>(x));
  EXPECT_EQ(code, f["e4m3.clamped_cast"].as<std::uint8_t>());
  code.clear();
  for (const float x : f["ue5m3.in"].f32()) code.push_back(ar::small_from_f32<ar::ue5m3>(x));
  EXPECT_EQ(code, f["ue5m3.encoded"].as<std::uint8_t>());
}

float reciprocal(float x) { return x == 0.0f ? 0.0f : 1.0f / x; }

/// NVFP4 layers: the original clamps x to 6 in magnitude, rounds half to even, and takes the sign of zero for positive.
std::uint8_t cast_e2m1(float x) { return x == 0.0f ? std::uint8_t{0} : ar::small_from_f32<ar::e2m1>(std::clamp(x, -6.0f, 6.0f)); }

void fp_pack(const golden::file& f, int) {
  const auto layer = [&](auto codec, const std::string& name, int bits, std::size_t group, auto code_of) {
    SCOPED_TRACE(name);
    const auto& weight = f[name + ".in.weight"];
    const auto w = weight.f32();
    const std::size_t groups = weight.cols() / group;
    std::vector<std::uint8_t> code;
    for (std::size_t i = 0; i < w.size(); ++i) code.push_back(code_of(w[i], i / weight.cols() * groups + i % weight.cols() / group));
    expect_codes(codec, bits, code, weight.rows(), weight.cols(), f[name + (bits == 4 ? ".weight_packed" : ".weight")]);
    const auto& scale = f[name + ".weight_scale"];
    EXPECT_EQ(ar::scale_shape(codec, static_cast<int>(group), weight.rows(), weight.cols()), (ar::matrix_shape{scale.rows(), scale.cols()}));
  };
  const auto bytes = [&](const std::string& in, const std::string& out, auto byte_of) {
    SCOPED_TRACE(out);
    std::vector<std::uint8_t> b;
    for (const float x : f[in].f32()) b.push_back(byte_of(x));
    EXPECT_EQ(b, f[out].as<std::uint8_t>());
  };
  const auto e8m0 = [](float e) { return static_cast<std::uint8_t>(std::clamp(e + 127.0f, 0.0f, 255.0f)); };
  bytes("e8m0.in.exp", "e8m0.out", e8m0);
  for (const std::string name : {"mxfp4", "mxfp8", "mxint4"}) {
    bytes(name + ".in.exp", name + ".weight_scale", e8m0);
    for (const float e : f[name + ".in.exp"].f32()) EXPECT_EQ(ar::f32_from_e8m0(e8m0(e)), std::ldexp(1.0f, std::max(static_cast<int>(e), -127)));
  }
  bytes("nvfp4.in.scale", "nvfp4.weight_scale", [](float s) { return ar::small_from_f32<ar::e4m3fn>(s); });
  bytes("nvfp4e5m3.in.scale", "nvfp4e5m3.weight_scale", [](float s) { return ar::small_from_f32<ar::ue5m3>(s); });
  EXPECT_EQ(f["nvfp4.weight_global_scale"].f32(), f["nvfp4.in.global_scale"].f32());
  EXPECT_EQ(f["nvfp4.input_global_scale"].size(), 1u) << "a number of the activations, stored as it is given";

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
  const auto ns = f["nvfp4.in.scale"].f32(), us = f["nvfp4e5m3.in.scale"].f32();
  const float global = f["nvfp4.weight_global_scale"].f32()[0];
  layer(ar::nvfp4_nibbles{}, "nvfp4", 4, 16, [&](float w, std::size_t g) { return cast_e2m1(w * reciprocal(ns[g] * reciprocal(global))); });
  layer(ar::nvfp4_nibbles{}, "nvfp4e5m3", 4, 16, [&](float w, std::size_t g) { return us[g] == 0.0f && w == 0.0f ? std::uint8_t{0} : cast_e2m1(w / us[g]); });

  // What compressed-tensors decodes from the bytes: our codes and their scales give the same.
  const auto decoded = [&](auto codec, const std::string& name, int bits, std::size_t group, auto value_of) {
    SCOPED_TRACE(name);
    const auto& packed = f[name + (bits == 4 ? ".weight_packed" : ".weight")];
    const auto& want = f[name + ".ct_dequant"];
    const auto words = packed.template as<std::uint8_t>();
    std::vector<std::uint8_t> code(want.size());
    ASSERT_EQ(ar::unpack(codec, bits, {words.data(), packed.rows(), packed.cols()}, {code.data(), want.rows(), want.cols()}), errc::ok);
    const auto value = want.f32();
    const std::size_t groups = want.cols() / group;
    for (std::size_t i = 0; i < code.size(); ++i)
      ASSERT_EQ(ar::round_to_bf16(value_of(code[i], i / want.cols() * groups + i % want.cols() / group)), value[i]) << i;
  };
  const auto mx4 = f["mxfp4.weight_scale"].as<std::uint8_t>(), mx8 = f["mxfp8.weight_scale"].as<std::uint8_t>(), nv = f["nvfp4.weight_scale"].as<std::uint8_t>();
  decoded(ar::mxfp4_nibbles{}, "mxfp4", 4, 32, [&](std::uint8_t c, std::size_t g) { return ar::f32_from_small<ar::e2m1>(c) * ar::f32_from_e8m0(mx4[g]); });
  decoded(ar::mxfp8_bytes{}, "mxfp8", 8, 32, [&](std::uint8_t c, std::size_t g) { return ar::f32_from_small<ar::e4m3fn>(c) * ar::f32_from_e8m0(mx8[g]); });
  decoded(ar::nvfp4_nibbles{}, "nvfp4", 4, 16, [&](std::uint8_t c, std::size_t g) { return ar::f32_from_small<ar::e2m1>(c) * (ar::f32_from_small<ar::e4m3fn>(nv[g]) / global); });
}

void fp8_block(const golden::file& f, int) {
  const auto& weight = f["in.weight"];
  const auto& scale = f["in.scale"];
  EXPECT_EQ(ar::scale_shape(ar::fp8_block_bytes{}, 128, weight.rows(), weight.cols()), (ar::matrix_shape{scale.rows(), scale.cols()}));
  EXPECT_EQ(f["out.weight_scale"].f32(), scale.f32());
  const auto w = weight.f32(), s = scale.f32(), decoded = f["dequant"].f32();
  std::vector<std::uint8_t> code;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const float block = s[i / weight.cols() / 128 * scale.cols() + i % weight.cols() / 128];
    code.push_back(ar::small_from_f32<ar::e4m3fn>(w[i] / block));
    ASSERT_EQ(ar::f32_from_small<ar::e4m3fn>(code.back()) * block, decoded[i]) << i;
  }
  expect_codes(ar::fp8_block_bytes{}, 8, code, weight.rows(), weight.cols(), f["out.weight"]);
  expect_codes(ar::fp8_bytes{}, 8, code, weight.rows(), weight.cols(), f["out.weight"]);
}

struct kind {
  const char* files;
  std::size_t count;  ///< how many of these files there are at least
  void (*check)(const golden::file&, int bits);
};
const kind kinds[] = {{"gptq_w[2-8]", 7, gptq},         {"gptq_ragged_w[48]", 2, gptq_ragged}, {"gptq_saturation", 1, gptq_saturation}, {"gptqmodel_pack", 1, gptqmodel},
                      {"gptqmodel_planar", 1, planes},  {"awq_w[4-7]", 4, awq},                {"ct_pack", 1, ct_pack},                 {"ct_compress_w[48]_a?sym", 4, ct_compress},
                      {"ct_int8_channel", 1, ct_int8},  {"ct_fp8_block", 1, fp8_block},        {"mlx_w[2-8]", 7, mlx},                  {"gptq_v1_to_mlx", 1, gptq_to_mlx},
                      {"fp_codes", 1, fp_codes},        {"fp_pack", 1, fp_pack}};

TEST(Packs, EveryTensorOfEveryFileIsThePeers) {
  std::vector<std::size_t> count(std::size(kinds));
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "formats" / "packs")) {
    const std::string stem = entry.path().stem().string();
    SCOPED_TRACE(stem);
    const golden::file f(entry.path());
    const auto k = std::find_if(std::begin(kinds), std::end(kinds), [&](const kind& x) { return !support::pattern(x.files).match(stem).empty(); });
    ASSERT_NE(k, std::end(kinds)) << "no test reads this file";
    ++count[static_cast<std::size_t>(k - std::begin(kinds))];
    k->check(f, bits_in(stem));
    EXPECT_EQ(f.unread(), std::vector<std::string>()) << "tensors that no test reads";
  }
  for (std::size_t i = 0; i < count.size(); ++i) EXPECT_GE(count[i], kinds[i].count) << kinds[i].files;
}

}  // namespace
