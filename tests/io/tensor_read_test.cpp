// links: ar_io
// Widening of tensors to float: exact for every half and bfloat16, rounded to nearest even for doubles, in ranges, at odd addresses, in parallel.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"
#include "io/tensor.hpp"

namespace {

using auto_round::error_kind;
using auto_round::io::all_finite;
using auto_round::io::dtype;
using auto_round::io::read_f32;
using auto_round::io::tensor_decl;
using auto_round::io::tensor_ref;

/// A tensor over `values`, whose bytes begin at an odd address. `bytes` keeps them.
template <class T>
tensor_ref tensor_of(dtype type, const std::vector<T>& values, std::vector<std::byte>& bytes) {
  bytes.resize(1 + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data() + 1, values.data(), values.size() * sizeof(T));
  return {"t", type, {values.size()}, std::span<const std::byte>(bytes).subspan(1), 0};
}

TEST(ReadTensor, EveryHalfAndEveryBfloat16IsExact) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<std::byte> bytes;
  const auto halves = read_f32(tensor_of(dtype::f16, all, bytes));
  ASSERT_TRUE(halves);
  for (std::size_t i = 0; i < all.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>((*halves)[i]), std::bit_cast<std::uint32_t>(ar::f32_from_f16(all[i]))) << i;
  const auto bfloats = read_f32(tensor_of(dtype::bf16, all, bytes));
  ASSERT_TRUE(bfloats);
  for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(std::bit_cast<std::uint32_t>((*bfloats)[i]), static_cast<std::uint32_t>(i) << 16) << i;
}

TEST(ReadTensor, FloatsAreCopiedAndDoublesRounded) {
  std::vector<std::byte> bytes;
  const std::vector<float> floats = {0.0f, -0.0f, 1.5f, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::infinity()};
  const auto same = read_f32(tensor_of(dtype::f32, floats, bytes));
  ASSERT_TRUE(same);
  EXPECT_EQ(std::memcmp(same->data(), floats.data(), sizeof(float) * floats.size()), 0);
  const auto rounded = read_f32(tensor_of(dtype::f64, std::vector<double>{1.0 + 0x1p-24, 1.0 + 0x1.8p-23, -0.1, 1e300}, bytes));
  ASSERT_TRUE(rounded);
  EXPECT_EQ(*rounded, (std::vector<float>{1.0f, 1.0f + 0x1p-22f, -0.1f, std::numeric_limits<float>::infinity()})) << "ties go to even";
}

TEST(ReadTensor, RangesAndTheirLimits) {
  std::vector<std::byte> bytes;
  const tensor_ref t = tensor_of(dtype::f32, std::vector<float>{0, 1, 2, 3, 4}, bytes);
  std::vector<float> out(2, -1.0f);
  ASSERT_TRUE(read_f32(t, 3, out));
  EXPECT_EQ(out, (std::vector<float>{3, 4}));
  EXPECT_FALSE(read_f32(t, 4, out));
  EXPECT_FALSE(read_f32(t, UINT64_MAX, out));
  EXPECT_TRUE(read_f32(t, 5, {}));
  EXPECT_EQ(out, (std::vector<float>{3, 4})) << "an error writes nothing";
}

TEST(ReadTensor, OtherTypesAreNoFloats) {
  std::vector<std::byte> bytes;
  for (const dtype type : {dtype::i8, dtype::u8, dtype::boolean, dtype::f8_e4m3}) {
    const auto r = read_f32(tensor_of(type, std::vector<std::uint8_t>{1}, bytes));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, error_kind::unsupported);
    EXPECT_EQ(r.error().tensor, "t");
  }
}

TEST(ReadTensor, ALargeTensorIsTheSameInParallel) {
  std::vector<std::uint16_t> values(1'000'003);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i * 40503);
  std::vector<std::byte> bytes;
  const auto wide = read_f32(tensor_of(dtype::bf16, values, bytes));
  ASSERT_TRUE(wide);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(std::bit_cast<std::uint32_t>((*wide)[i]), static_cast<std::uint32_t>(values[i]) << 16);
}

TEST(AllFinite, FindsOneBadValueAnywhere) {
  EXPECT_TRUE(all_finite({}));
  std::vector<float> values(400'000, std::numeric_limits<float>::max());
  values[17] = -0.0f;
  EXPECT_TRUE(all_finite(values));
  for (const std::size_t at : {std::size_t{0}, std::size_t{65'535}, std::size_t{65'536}, values.size() - 1}) {
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(),
                            std::bit_cast<float>(0x7F800001u), std::bit_cast<float>(0xFFFFFFFFu)}) {
      const float kept = values[at];
      values[at] = bad;
      EXPECT_FALSE(all_finite(values)) << at;
      values[at] = kept;
    }
  }
  EXPECT_TRUE(all_finite(values));
}

TEST(TensorSizes, ProductsThatWrapAreTheLargestNumber) {
  EXPECT_EQ((tensor_decl{"t", dtype::f32, {3, 5}}).bytes(), 60u);
  EXPECT_EQ((tensor_decl{"t", dtype::bf16, {}}).bytes(), 2u);
  EXPECT_EQ((tensor_decl{"t", dtype::f32, {0, 5}}).bytes(), 0u);
  EXPECT_EQ((tensor_decl{"t", dtype::f32, {std::uint64_t{1} << 62}}).bytes(), UINT64_MAX);
  EXPECT_EQ((tensor_ref{"t", dtype::u8, {std::uint64_t{1} << 33, std::uint64_t{1} << 33}, {}, 0}).elements(), UINT64_MAX);
}

}  // namespace
