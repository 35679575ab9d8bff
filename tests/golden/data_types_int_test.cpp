// links: ar_dispatch
// Integer data types against the reference's own results (golden/data-types/int_rtn): scales, zero points, codes and fake-quantized weights bit
// for bit, signs of zero included, by the float lane and by every SIMD target of this machine. Cases are found by their names.
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <string>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/quantize.hpp"
#include "support/golden.hpp"
#include "support/pattern.hpp"

namespace {

using ar::real;

struct result {
  std::vector<float> scale, zero_point, qdq, decoded;
  std::vector<std::uint8_t> code, encoded;
};

struct problem {
  std::vector<float> w;
  std::size_t rows = 0, cols = 0;
  int group = 0, bits = 0;

  std::size_t group_rows() const { return group == 0 ? 1 : rows; }
  std::size_t groups() const {
    if (group == 0 || group == -1 || static_cast<std::size_t>(group) > cols) return 1;
    return ar::ceil_div(cols, static_cast<std::size_t>(group));
  }
  ar::matrix_view<const float> weights() const { return {w.data(), rows, cols}; }
};

/// Runs all functions of one data type; `calls` offers them with the signatures of a kernel table.
template <class Calls>
result run(const problem& p, bool has_zero_point, const Calls& calls) {
  const std::size_t n = p.group_rows() * p.groups();
  result r;
  r.scale.resize(n);
  r.zero_point.resize(has_zero_point ? n : 0);
  r.code.resize(p.w.size());
  r.encoded.resize(p.w.size());
  r.qdq.resize(p.w.size());
  r.decoded.resize(p.w.size());
  const ar::matrix_view<float> scale(r.scale.data(), p.group_rows(), p.groups());
  const ar::matrix_view<float> zero = has_zero_point ? ar::matrix_view<float>(r.zero_point.data(), p.group_rows(), p.groups()) : ar::matrix_view<float>();
  EXPECT_EQ(calls.quantize(p.bits, p.group, p.weights(), ar::matrix_view<std::uint8_t>(r.code.data(), p.rows, p.cols), scale, zero), ar::errc::ok);
  EXPECT_EQ(calls.encode(p.bits, p.group, p.weights(), scale, zero, ar::matrix_view<std::uint8_t>(r.encoded.data(), p.rows, p.cols)), ar::errc::ok);
  EXPECT_EQ(calls.dequantize(p.bits, p.group, ar::matrix_view<const std::uint8_t>(r.code.data(), p.rows, p.cols), scale, zero,
                             ar::matrix_view<float>(r.decoded.data(), p.rows, p.cols)),
            ar::errc::ok);
  EXPECT_EQ(calls.qdq(p.bits, p.group, p.weights(), ar::matrix_view<float>(r.qdq.data(), p.rows, p.cols)), ar::errc::ok);
  return r;
}

/// The float lane with the signatures of a kernel table.
template <class T>
struct float_lane {
  static T type(int bits) {
    T t;
    t.width = ar::extent<ar::dynamic>(bits);
    return t;
  }
  template <class... A>
  ar::errc quantize(int bits, A... a) const {
    return ar::rows::quantize<T, float>(type(bits), a...);
  }
  template <class... A>
  ar::errc encode(int bits, A... a) const {
    return ar::rows::encode<T, float>(type(bits), a...);
  }
  template <class... A>
  ar::errc dequantize(int bits, A... a) const {
    return ar::rows::dequantize<T, float>(type(bits), a...);
  }
  template <class... A>
  ar::errc qdq(int bits, A... a) const {
    return ar::rows::qdq<T, float>(type(bits), a...);
  }
};

template <template <int, real, real> class Type>
result run_float_lane(const problem& p, real weight, real scale) {
  auto with = [&](auto tag) { return run(p, ar::rows::has_zero_point<decltype(tag)>, float_lane<decltype(tag)>{}); };
  constexpr int d = ar::dynamic;
  switch (weight) {
    case real::f32:
      if (scale == real::f32) return with(Type<d, real::f32, real::f32>{});
      return scale == real::f16 ? with(Type<d, real::f32, real::f16>{}) : with(Type<d, real::f32, real::bf16>{});
    case real::f16:
      if (scale == real::f32) return with(Type<d, real::f16, real::f32>{});
      return scale == real::f16 ? with(Type<d, real::f16, real::f16>{}) : with(Type<d, real::f16, real::bf16>{});
    case real::bf16:
      if (scale == real::f32) return with(Type<d, real::bf16, real::f32>{});
      return scale == real::f16 ? with(Type<d, real::bf16, real::f16>{}) : with(Type<d, real::bf16, real::bf16>{});
  }
  return {};
}

::testing::AssertionResult same_bits(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << got.size() << " values, expected " << want.size();
  for (std::size_t i = 0; i < got.size(); ++i)
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i]))
      return ::testing::AssertionFailure() << "value " << i << " is " << got[i] << ", expected " << want[i];
  return ::testing::AssertionSuccess();
}

/// One case of the file: everything that the reference recorded about one quantizer call.
struct expectation {
  std::map<std::string, const golden::tensor*> outputs;  // "qdq", "scale", "zp", "code"
};

void compare(const result& r, const expectation& want, int offset, const std::string& who) {
  for (const auto& [what, tensor] : want.outputs) {
    SCOPED_TRACE(who + " " + what);
    if (what == "scale") {
      EXPECT_TRUE(same_bits(r.scale, tensor->f32()));
    } else if (what == "zp") {
      EXPECT_TRUE(same_bits(r.zero_point, tensor->f32()));
    } else if (what == "qdq") {
      EXPECT_TRUE(same_bits(r.qdq, tensor->f32()));
      // What a reader of the codes sees is the same, but for the sign of zero, which a code cannot hold.
      for (std::size_t i = 0; i < r.qdq.size(); ++i) ASSERT_EQ(r.decoded[i], r.qdq[i]) << i;
    } else if (what == "code") {
      std::vector<float> code(r.code.size());
      for (std::size_t i = 0; i < code.size(); ++i) code[i] = static_cast<float>(static_cast<int>(r.code[i]) - offset);
      EXPECT_EQ(code, tensor->f32());
      EXPECT_EQ(r.code, r.encoded);
    } else {
      ADD_FAILURE() << "unknown output " << what;
    }
  }
}

real format_of(const std::string& s) { return s == "f32" ? real::f32 : s == "f16" ? real::f16 : real::bf16; }

TEST(IntegerTypes, EqualTheReferenceBitForBit) {
  const golden::file file("data-types", "int_rtn.safetensors");
  const support::pattern name("(sym|asym|symgptq)(?:_s(f32|bf16))?\\.([0-9]+x[0-9]+)\\.g(-?[0-9]+)\\.(f32|f16|bf16)\\.b([0-9]+)\\.([a-z]+)");
  std::map<std::string, expectation> cases;
  std::size_t tensors = 0;
  for (const auto& [key, tensor] : file.tensors()) {
    if (key.rfind("w.", 0) == 0) continue;
    ASSERT_FALSE(name.match(key).empty()) << "a tensor that this test does not understand: " << key;
    cases[key.substr(0, key.rfind('.'))].outputs[key.substr(key.rfind('.') + 1)] = &tensor;
    ++tensors;
  }
  ASSERT_GT(cases.size(), 0u) << "int_rtn.safetensors holds no case";

  const ar::kernel_table* tables[16];
  const std::size_t targets = ar::all_kernels(tables, 16);
  ASSERT_GT(targets, 0u);
  std::map<std::string, int> ran;

  for (const auto& [key, want] : cases) {
    SCOPED_TRACE(key);
    const std::vector<std::string> m = name.match(key + ".x");
    ASSERT_FALSE(m.empty());
    const std::string kind = m[1], size = m[3], dtype = m[5];
    const real scale = !m[2].empty() ? format_of(m[2]) : real::f16, weight = format_of(dtype);
    const golden::tensor* input = nullptr;
    const std::string prefix = "w." + size + "." + dtype + ".";
    for (const auto& [n, t] : file.tensors())
      if (n.rfind(prefix, 0) == 0) input = &t;
    ASSERT_NE(input, nullptr) << "no input " << prefix << "*";
    const problem p{input->f32(), input->rows(), input->cols(), std::stoi(m[4]), std::stoi(m[6])};
    const int offset = kind == "asym" ? 0 : 1 << (p.bits - 1);

    const result r = kind == "sym"    ? run_float_lane<ar::int_sym>(p, weight, scale)
                     : kind == "asym" ? run_float_lane<ar::int_asym>(p, weight, scale)
                                      : run_float_lane<ar::int_sym_gptq>(p, weight, scale);
    compare(r, want, offset, "float lane");
    ++ran["float"];
    for (std::size_t t = 0; t < targets; ++t) {
      const ar::range_kernels* k = tables[t]->range_type(kind == "symgptq" ? "int_sym_gptq" : "int_" + kind, weight, scale);
      if (k == nullptr) continue;
      compare(run(p, k->has_zero_point, *k), want, offset, tables[t]->target);
      ++ran[tables[t]->target];
    }
  }
  for (const auto& [target, n] : ran) std::printf("%-8s %d of %zu cases\n", target.c_str(), n, cases.size());
  for (std::size_t t = 0; t < targets; ++t) EXPECT_GT(ran[tables[t]->target], 0);
  std::printf("%zu tensors compared\n", tensors);
}

}  // namespace
