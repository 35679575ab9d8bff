// Number formats, logarithms and sums against the reference's own (golden/data-types: primitives, and the casts in fp8 and nvfp4).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "ar/detail/importance.hpp"
#include "ar/detail/rowsum.hpp"
#include "ar/detail/search-inl.h"
#include "ar/detail/small_lane-inl.h"
#include "ar/numeric/log2.hpp"
#include "ar/numeric/small_float.hpp"
#include "support/golden.hpp"

namespace {

TEST(Primitives, WholePartsOfLogarithms) {
  const golden::file file("data-types", "primitives.safetensors");
  const std::vector<float> x = file["log2.x"].f32(), low = file["log2.floor"].f32(), high = file["log2.ceil"].f32();
  ASSERT_GT(x.size(), 0u);
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(static_cast<float>(ar::floor_log2_rounded(x[i])), low[i]) << std::hexfloat << x[i];
    ASSERT_EQ(static_cast<float>(ar::ceil_log2_rounded(x[i])), high[i]) << std::hexfloat << x[i];
  }
}

TEST(Primitives, RowSums) {
  const golden::file file("data-types", "primitives.safetensors");
  int sums = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    if (name.rfind("sum.", 0) != 0 || name.back() != 'x') continue;
    const std::vector<float> x = tensor.f32(), want = file[name.substr(0, name.size() - 1) + "y"].f32();
    ASSERT_EQ(want.size(), tensor.rows());
    for (std::size_t r = 0; r < want.size(); ++r) EXPECT_EQ(ar::detail::rowsum(x.data() + r * tensor.cols(), tensor.cols()), want[r]) << name;
    ++sums;
  }
  EXPECT_GT(sums, 0);
}

TEST(Primitives, RowSumsOfHalfFormats) {
  const golden::file file("data-types", "primitives.safetensors");
  int sums = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    if (name.rfind("sum", 0) != 0 || name.back() != 'x') continue;
    const ar::real format = tensor.dtype == "F32" ? ar::real::f32 : tensor.dtype == "F16" ? ar::real::f16 : ar::real::bf16;
    const std::vector<float> x = tensor.f32(), want = file[name.substr(0, name.size() - 1) + "y"].f32();
    for (std::size_t r = 0; r < want.size(); ++r) {
      const float* row = x.data() + r * tensor.cols();
      EXPECT_EQ(ar::detail::sum_in_format(format, tensor.cols(), [row](std::size_t i) { return row[i]; }), want[r]) << name;
    }
    ++sums;
  }
  EXPECT_GT(sums, 0);
}

template <ar::real R>
void expect_inverses(const golden::file& file, const std::string& name) {
  const std::vector<float> x = file[name + ".x"].f32(), want = file[name + ".y"].f32();
  ASSERT_GT(x.size(), 0u);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(ar::searches::guarded_inverse<R>(x[i]), want[i]) << name << " " << x[i];
}
TEST(Primitives, GuardedReciprocals) {
  const golden::file file("data-types", "primitives.safetensors");
  expect_inverses<ar::real::f32>(file, "recip.f32");
  expect_inverses<ar::real::bf16>(file, "recip.bf16");
  expect_inverses<ar::real::f16>(file, "recip.f16");
}

template <ar::small_format F, ar::overflow Policy>
void expect_codes(const golden::file& file, const std::string& x, const std::string& code) {
  const std::vector<float> in = file[x].f32();
  const std::vector<std::uint8_t> want = file[code].as<std::uint8_t>();
  ASSERT_EQ(in.size(), want.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (std::isnan(ar::f32_from_small<F>(want[i]))) {
      ASSERT_TRUE(std::isnan(ar::f32_from_small<F>(ar::small_from_f32<F, Policy>(in[i])))) << in[i];
    } else {
      ASSERT_EQ((ar::small_from_f32<F, Policy>(in[i])), want[i]) << in[i];
    }
  }
}

template <ar::small_format F>
void expect_values(const std::vector<float>& want) {
  ASSERT_EQ(want.size(), 256u);
  for (std::size_t c = 0; c < 256; ++c) {
    const float got = ar::f32_from_small<F>(static_cast<std::uint8_t>(c));
    if (std::isnan(want[c])) {
      EXPECT_TRUE(std::isnan(got)) << c;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(want[c])) << c;
    }
  }
}

TEST(Primitives, Float8Casts) {
  const golden::file file("data-types", "fp8.safetensors");
  expect_codes<ar::e4m3fn, ar::overflow::to_special>(file, "e4m3fn.x", "e4m3fn.code");
  expect_codes<ar::e5m2, ar::overflow::to_special>(file, "e4m3fn.x", "e5m2.code");
  expect_values<ar::e4m3fn>(file["e4m3fn.dec_all"].f32());
  expect_values<ar::e5m2>(file["e5m2.dec_all"].f32());
}

TEST(Primitives, Float4AndScaleCasts) {
  const golden::file file("data-types", "nvfp4.safetensors");
  const std::vector<float> x = file["e2m1.x"].f32(), want = file["e2m1.y"].f32();
  ASSERT_EQ(x.size(), want.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(ar::lane_round_small(x[i], ar::grid_of(ar::e2m1))), std::bit_cast<std::uint32_t>(want[i])) << x[i];
  expect_codes<ar::ue5m3, ar::overflow::saturate>(file, "ue5m3.x", "ue5m3.code");
  expect_values<ar::ue5m3>(file["ue5m3.dec_all"].f32());
}

}  // namespace
