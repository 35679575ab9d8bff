// links: ar_dispatch
// MX, NVFP4 and FP8 against the reference's own results (golden/data-types: mx_rtn, nvfp4, fp8): scales and fake-quantized weights bit for bit,
// signs of zero included, by the float lane and by every SIMD target of this machine. Cases are found by their names.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/quantize.hpp"
#include "support/golden.hpp"
#include "support/pattern.hpp"

namespace {

using ar::real;

struct problem {
  std::vector<float> w;
  std::size_t rows = 0, cols = 0;
  ar::group_shape group{};
  ar::tensor_values tensor{};

  ar::matrix_view<const float> weights() const { return {w.data(), rows, cols}; }
  std::size_t scale_rows() const { return group.size == 0 ? 1 : ar::ceil_div(rows, static_cast<std::size_t>(group.rows)); }
  std::size_t scale_cols() const { return group.size <= 0 ? 1 : ar::ceil_div(cols, static_cast<std::size_t>(group.size)); }
};

struct result {
  std::vector<float> scale, qdq, decoded;
};

/// Everything that a type can do with p. `with(values)` gives an object with the functions of a kernel table.
template <class Calls>
result run(const problem& p, const Calls& calls, float global_scale) {
  result r;
  r.scale.resize(p.scale_rows() * p.scale_cols());
  r.qdq.resize(p.w.size());
  r.decoded.resize(p.w.size());
  std::vector<std::uint8_t> code(p.w.size()), encoded(p.w.size());
  const ar::matrix_view<float> scale(r.scale.data(), p.scale_rows(), p.scale_cols());
  ar::type_values given(0, p.tensor);
  EXPECT_EQ(calls.qdq(given, p.group, p.weights(), ar::matrix_view<float>(r.qdq.data(), p.rows, p.cols)), ar::errc::ok);
  if (global_scale >= 0.0f && given.tensor.unset()) given.tensor.global_scale = global_scale;
  EXPECT_EQ(calls.quantize(given, p.group, p.weights(), ar::matrix_view<std::uint8_t>(code.data(), p.rows, p.cols), scale, ar::matrix_view<float>()), ar::errc::ok);
  EXPECT_EQ(calls.encode(given, p.group, p.weights(), scale, ar::matrix_view<float>(), ar::matrix_view<std::uint8_t>(encoded.data(), p.rows, p.cols)), ar::errc::ok);
  EXPECT_EQ(calls.dequantize(given, p.group, ar::matrix_view<const std::uint8_t>(code.data(), p.rows, p.cols), scale, ar::matrix_view<float>(),
                             ar::matrix_view<float>(r.decoded.data(), p.rows, p.cols)),
            ar::errc::ok);
  EXPECT_EQ(code, encoded);
  return r;
}

/// The float lane with the functions of a kernel table.
struct float_lane {
  const ar::scaled_facts* facts;
  ar::any_scaled type(const ar::type_values& v) const {
    ar::any_scaled t;
    t.the_facts = *facts;
    t.the_tensor = v.tensor;
    return t;
  }
  template <class... A>
  ar::errc quantize(const ar::type_values& v, A... a) const {
    return ar::rows::quantize<ar::any_scaled, float>(type(v), a...);
  }
  template <class... A>
  ar::errc encode(const ar::type_values& v, A... a) const {
    return ar::rows::encode<ar::any_scaled, float>(type(v), a...);
  }
  template <class... A>
  ar::errc dequantize(const ar::type_values& v, A... a) const {
    return ar::rows::dequantize<ar::any_scaled, float>(type(v), a...);
  }
  template <class... A>
  ar::errc qdq(const ar::type_values& v, A... a) const {
    return ar::rows::qdq<ar::any_scaled, float>(type(v), a...);
  }
};

::testing::AssertionResult same_bits(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << got.size() << " values, expected " << want.size();
  for (std::size_t i = 0; i < got.size(); ++i)
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i]))
      return ::testing::AssertionFailure() << "value " << i << " is " << got[i] << ", expected " << want[i];
  return ::testing::AssertionSuccess();
}

/// Counts cases per target and compares each with what the reference recorded.
class comparison {
 public:
  comparison() : targets_(ar::all_kernels(tables_, 16)) {}

  /// An empty scale is not compared.
  void check(const std::string& type, real weight, const problem& p, const result& want) {
    const ar::range_kernels* first = tables_[0]->range_type(type, weight);
    ASSERT_NE(first, nullptr) << type;
    ++cases;
    float largest = 0.0f;
    for (const float x : p.w) largest = std::max(largest, std::abs(x));
    const float global = first->two_level() ? first->global_scale(largest) : -1.0f;
    compare(run(p, float_lane{first->facts}, global), want, "float lane");
    for (std::size_t t = 0; t < targets_; ++t) compare(run(p, *tables_[t]->range_type(type, weight), global), want, tables_[t]->target);
  }
  std::size_t cases = 0;

 private:
  static void compare(const result& got, const result& want, const std::string& who) {
    SCOPED_TRACE(who);
    EXPECT_TRUE(want.scale.empty() || same_bits(got.scale, want.scale)) << "scale";
    EXPECT_TRUE(same_bits(got.qdq, want.qdq)) << "qdq";
    // What a reader of the codes sees is the same, but for the sign of zero.
    for (std::size_t i = 0; i < got.qdq.size(); ++i) ASSERT_EQ(got.decoded[i], got.qdq[i]) << i;
  }
  const ar::kernel_table* tables_[16];
  std::size_t targets_;
};

real format_of(const std::string& s) { return s == "f32" ? real::f32 : s == "f16" ? real::f16 : real::bf16; }

/// The weight matrix of a file with this shape and format.
problem weights_of(const golden::file& file, const std::string& shape, const std::string& dtype, ar::group_shape group) {
  for (const auto& [name, t] : file.tensors())
    if (name.rfind("w." + shape + "." + dtype + ".", 0) == 0) return {t.f32(), t.rows(), t.cols(), group, {}};
  throw std::runtime_error("no weight " + shape + " " + dtype);
}

/// Names of all tensors that end in `.qdq`, without that ending.
std::vector<std::string> cases_of(const golden::file& file) {
  std::vector<std::string> names;
  for (const auto& [name, t] : file.tensors())
    if (name.size() > 4 && name.substr(name.size() - 4) == ".qdq") names.push_back(name.substr(0, name.size() - 4));
  return names;
}

/// mx_fp8e5m2 -> mxfp8e5m2: our names are the reference's without underscores.
std::string without_underscores(std::string s) {
  std::erase(s, '_');
  return s;
}

TEST(MxTypes, EqualTheReferenceBitForBit) {
  const golden::file file("data-types", "mx_rtn.safetensors");
  const support::pattern name("(rtn|rceil|rceil_v2)\\.([0-9]+x[0-9]+)\\.(f32|f16|bf16)\\.([a-z0-9_]+)");
  comparison all;
  for (const std::string& key : cases_of(file)) {
    if (key.rfind("tuned.", 0) == 0 || key.rfind("uint.", 0) == 0) continue;  // with rounding offsets; a type that no preset selects
    SCOPED_TRACE(key);
    const std::vector<std::string> m = name.match(key);
    ASSERT_FALSE(m.empty()) << "a case that this test does not understand";
    std::string type = without_underscores(m[4]);
    if (m[4] == "mx_fp6e2m3" || m[4] == "mx_fp8e4m3") type.resize(5);  // the default of its width
    if (m[1] != "rtn") type += "_" + m[1];
    result want;
    want.qdq = file[key + ".qdq"].f32();
    for (const float e : file[key + ".exp"].f32()) want.scale.push_back(std::ldexp(1.0f, static_cast<int>(e)));
    all.check(type, format_of(m[3]), weights_of(file, m[2], m[3], 32), want);
  }
  EXPECT_GT(all.cases, 0u);
  std::printf("%zu cases\n", all.cases);
}

TEST(MxTypes, ElementsRoundAsInTheReference) {
  const golden::file file("data-types", "mx_rtn.safetensors");
  const std::vector<float> x = file["element.x"].f32();
  int formats = 0;
  for (const auto& [key, tensor] : file.tensors()) {
    if (key.rfind("element.mx", 0) != 0) continue;
    std::string type = without_underscores(key.substr(8));
    if (type == "mxfp6e2m3" || type == "mxfp8e4m3") type.resize(5);
    const ar::range_kernels* k = ar::kernels().range_type(type);
    ASSERT_NE(k, nullptr) << type;
    ar::any_scaled t;
    t.the_facts = *k->facts;
    std::vector<float> got;
    for (const float f : x) got.push_back(t.encode(f, t.complete<float>({1.0f, 0.0f, 0.0f})));
    EXPECT_TRUE(same_bits(got, tensor.f32())) << key;
    ++formats;
  }
  EXPECT_GE(formats, 8);
}

TEST(Nvfp4Types, EqualTheReferenceBitForBit) {
  const golden::file file("data-types", "nvfp4.safetensors");
  const support::pattern name("(rtn|rtn_halfgs|static|v2|v2gs)\\.([0-9]+x[0-9]+)\\.(f32|f16|bf16)");
  comparison all;
  for (const std::string& key : cases_of(file)) {
    if (key.rfind("tuned.", 0) == 0 || key.rfind("fused.", 0) == 0 || key.find("opt") != std::string::npos) continue;
    SCOPED_TRACE(key);
    const std::vector<std::string> m = name.match(key);
    ASSERT_FALSE(m.empty()) << "a case that this test does not understand";
    problem p = weights_of(file, m[2], m[3], 16);
    const std::string shape_and_type = m[2] + "." + m[3];
    const float global = file["rtn." + shape_and_type + ".global_scale"].f32()[0];
    if (m[1] == "rtn_halfgs") p.tensor.global_scale = global * 0.5f;
    if (m[1] == "static") p.tensor.maximum = file[key + ".tensor_max"].f32()[0];
    result want;
    want.qdq = file[key + ".qdq"].f32();
    want.scale = file[key + ".scale"].f32();
    all.check(m[1] == "v2" ? "nvfp4v2" : m[1] == "v2gs" ? "nvfp4v2_global" : "nvfp4", format_of(m[3]), p, want);
    float largest = 0.0f;
    for (const float x : p.w) largest = std::max(largest, std::abs(x));
    EXPECT_EQ(ar::kernels().range_type("nvfp4")->global_scale(largest), global);
    if (m[1] == "v2") {
      const auto codes = file[key + ".scale_e5m3"].as<std::uint8_t>();
      for (std::size_t i = 0; i < codes.size(); ++i) EXPECT_EQ(ar::small_from_f32<ar::ue5m3>(want.scale[i]), codes[i]);
    }
  }
  EXPECT_GT(all.cases, 0u);
  std::printf("%zu cases\n", all.cases);
}

TEST(Fp8Types, EqualTheReferenceBitForBit) {
  const golden::file file("data-types", "fp8.safetensors");
  const support::pattern name("(fp8|fp8_e5m2|fp8_unit_scale|fp8_e5m2_unit_scale|fp8_static_max0\\.11|block)\\.([0-9]+x[0-9]+)\\.(f32|f16|bf16)(?:\\.g(-?[0-9]+))?");
  comparison all;
  for (const std::string& key : cases_of(file)) {
    if (key.find("tuned.") != std::string::npos || key.rfind("fp8_to_int", 0) == 0) continue;
    SCOPED_TRACE(key);
    const std::vector<std::string> m = name.match(key);
    ASSERT_FALSE(m.empty()) << "a case that this test does not understand";
    const std::string kind = m[1];
    problem p = weights_of(file, m[2], m[3], !m[4].empty() ? ar::group_shape(std::stoi(m[4])) : kind == "block" ? ar::group_shape(128, 128) : ar::group_shape(0));
    std::string type = kind == "fp8_e5m2" ? "fp8e5m2" : kind == "block" ? "fp8_block" : kind == "fp8_unit_scale" ? "fp8_unit" : kind == "fp8_e5m2_unit_scale" ? "fp8e5m2_unit" : "fp8";
    if (kind == "fp8_static_max0.11") p.tensor.maximum = 0.11f;
    result want;
    want.qdq = file[key + ".qdq"].f32();
    if (file.has(key + ".scale")) want.scale = file[key + ".scale"].f32();
    all.check(type, format_of(m[3]), p, want);
  }
  EXPECT_GT(all.cases, 0u);
  std::printf("%zu cases\n", all.cases);
}

}  // namespace
