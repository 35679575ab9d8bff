// AWQ words: the definition, bit by bit; the documented word of 4 bits; shapes. AutoAWQ's own words are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::awq_int32 codec;

/// Logical column i of eight lies at this place of the stream.
constexpr std::size_t slot[8] = {0, 4, 1, 5, 2, 6, 3, 7};

support::place along_outputs(std::size_t row, std::size_t n, std::size_t t, std::size_t bits) {
  const std::size_t at = (n / 8 * 8 + slot[n % 8]) * bits + t;
  return {row, at / 32, at % 32};
}

TEST(AwqInt32, EveryWidthAndShapeFollowsTheDefinition) {
  const auto at = [](std::size_t n, std::size_t k, std::size_t t, std::size_t bits) { return along_outputs(k, n, t, bits); };
  support::expect_definition(codec, {4}, {{8, 1}, {8, 16}, {24, 33}, {136, 64}, {160, 130}}, at);
  support::expect_definition(codec, {4, 5, 6, 7}, {{32, 1}, {32, 16}, {64, 33}, {160, 130}, {288, 70}}, at);
}

TEST(AwqInt32, ZeroPointsHaveTheSameOrder) {
  const auto at = [](std::size_t n, std::size_t g, std::size_t t, std::size_t bits) { return along_outputs(g, n, t, bits); };
  support::expect_zero_definition(codec, {4}, {{8, 1}, {40, 3}}, at);
  support::expect_zero_definition(codec, {4, 5, 6, 7}, {{32, 1}, {96, 3}}, at);
}

TEST(AwqInt32, EightCodesOfFourBitsMakeTheKnownWord) {
  const std::uint8_t code[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  std::uint32_t word = 0;
  ASSERT_EQ(ar::pack(codec, 4, {code, 8, 1}, {&word, 1, 1}), ar::errc::ok);
  EXPECT_EQ(word, 0x75316420u);
}

TEST(AwqInt32, OutputsAreWholeWords) {
  EXPECT_EQ(ar::packed_shape(codec, 4, 24, 10), (ar::matrix_shape{10, 3}));
  EXPECT_EQ(ar::packed_shape(codec, 4, 12, 10), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 5, 24, 10), ar::matrix_shape()) << "5 bits: a multiple of 32";
  for (const int bits : {2, 3, 8}) EXPECT_EQ(ar::packed_shape(codec, bits, 32, 10), ar::matrix_shape()) << "no such width";
  std::int32_t zero[32] = {};
  std::uint32_t words[4] = {};
  EXPECT_EQ(ar::pack_zeros(codec, ar::zero_convention::v1, 4, {zero, 32, 1}, {words, 1, 4}), ar::errc::unsupported);
}

}  // namespace
