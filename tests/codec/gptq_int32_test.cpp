// GPTQ words: the definition of the bit stream, bit by bit; the classic 3-bit layout; zero points of both conventions; wrong shapes and values.
// The peers' own words are in golden/formats_packs_test.cpp.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "ar/pack.hpp"

namespace {

using ar::errc;
using codec = ar::gptq_int32;
constexpr codec gptq;

/// qweight as the definition says it: code k of output n at stream bits [k * bits, (k + 1) * bits) of column n.
std::vector<std::uint32_t> by_definition(const std::vector<std::uint8_t>& code, std::size_t rows, std::size_t cols, std::size_t bits) {
  std::vector<std::uint32_t> words(cols / 32 * bits * rows);
  for (std::size_t n = 0; n < rows; ++n)
    for (std::size_t k = 0; k < cols; ++k)
      for (std::size_t t = 0; t < bits; ++t)
        if ((code[n * cols + k] >> t & 1) != 0) words[(k * bits + t) / 32 * rows + n] |= 1u << (k * bits + t) % 32;
  return words;
}

std::vector<std::uint8_t> random_codes(std::size_t n, std::size_t bits) {
  std::mt19937 random(static_cast<std::uint32_t>(11 + n + bits));
  std::vector<std::uint8_t> code(n);
  for (auto& c : code) c = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
  return code;
}

TEST(GptqInt32, EveryWidthAndShapeFollowsTheDefinition) {
  for (std::size_t bits = 2; bits <= 8; ++bits)
    for (std::size_t rows : {1u, 15u, 16u, 17u, 40u})
      for (std::size_t cols : {32u, 64u, 256u, 288u, 576u}) {
        SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(rows) + " x " + std::to_string(cols));
        const auto code = random_codes(rows * cols, bits);
        const std::size_t words_rows = codec::packed_rows(rows, cols, static_cast<int>(bits));
        std::vector<std::uint32_t> words(words_rows * rows, 0xFFFFFFFFu);
        ASSERT_EQ(ar::pack(gptq, static_cast<int>(bits), {code.data(), rows, cols}, {words.data(), words_rows, rows}), errc::ok);
        ASSERT_EQ(words, by_definition(code, rows, cols, bits));
        std::vector<std::uint8_t> back(code.size());
        ASSERT_EQ(ar::unpack(gptq, static_cast<int>(bits), {words.data(), words_rows, rows}, {back.data(), rows, cols}), errc::ok);
        ASSERT_EQ(back, code);
      }
}

TEST(GptqInt32, ThreeBitsHaveTheClassicOrder) {
  std::vector<std::uint8_t> code(32);
  for (std::size_t i = 0; i < 32; ++i) code[i] = static_cast<std::uint8_t>(i * 5 % 8);
  std::vector<std::uint32_t> w(3), want(3);
  ASSERT_EQ(ar::pack(gptq, 3, {code.data(), 1, 32}, {w.data(), 3, 1}), errc::ok);
  for (std::size_t i = 0; i < 10; ++i) want[0] |= static_cast<std::uint32_t>(code[i]) << (3 * i);
  want[0] |= static_cast<std::uint32_t>(code[10]) << 30;
  want[1] = static_cast<std::uint32_t>(code[10]) >> 2;
  for (std::size_t i = 11; i < 21; ++i) want[1] |= static_cast<std::uint32_t>(code[i]) << (3 * (i - 11) + 1);
  want[1] |= static_cast<std::uint32_t>(code[21]) << 31;
  want[2] = static_cast<std::uint32_t>(code[21]) >> 1;
  for (std::size_t i = 22; i < 32; ++i) want[2] |= static_cast<std::uint32_t>(code[i]) << (3 * (i - 22) + 2);
  EXPECT_EQ(w, want);
}

TEST(GptqInt32, ViewsMayHaveGaps) {
  const auto code = random_codes(20 * 100, 4);
  std::vector<std::uint32_t> words(8 * 30, 7u);
  ASSERT_EQ(ar::pack(gptq, 4, {code.data(), 20, 64, 100}, {words.data(), 8, 20, 30}), errc::ok);
  std::vector<std::uint8_t> dense(20 * 64), back(20 * 70, 9);
  for (std::size_t r = 0; r < 20; ++r) std::copy_n(code.begin() + static_cast<std::ptrdiff_t>(r * 100), 64, dense.begin() + static_cast<std::ptrdiff_t>(r * 64));
  const auto want = by_definition(dense, 20, 64, 4);
  for (std::size_t r = 0; r < 8; ++r)
    for (std::size_t c = 0; c < 30; ++c) ASSERT_EQ(words[r * 30 + c], c < 20 ? want[r * 20 + c] : 7u);
  ASSERT_EQ(ar::unpack(gptq, 4, {words.data(), 8, 20, 30}, {back.data(), 20, 64, 70}), errc::ok);
  for (std::size_t r = 0; r < 20; ++r)
    for (std::size_t c = 0; c < 70; ++c) ASSERT_EQ(back[r * 70 + c], c < 64 ? dense[r * 64 + c] : 9);
}

TEST(GptqInt32, AllConstantZeroPointsGiveTheKnownWords) {
  const auto words_of = [](codec::zeros convention, int bits) {
    const std::vector<std::int32_t> zero(32, 1 << (bits - 1));
    std::vector<std::uint32_t> words(static_cast<std::size_t>(bits));
    EXPECT_EQ(ar::pack_zeros(gptq, convention, bits, {zero.data(), 32, 1}, {words.data(), 1, words.size()}), errc::ok);
    return words[0];
  };
  EXPECT_EQ(words_of(codec::zeros::v1, 4), 0x77777777u);
  EXPECT_EQ(words_of(codec::zeros::v1, 2), 0x55555555u);
  EXPECT_EQ(words_of(codec::zeros::v1, 8), 0x7f7f7f7fu);
  EXPECT_EQ(words_of(codec::zeros::v2, 4), 0x88888888u);
  EXPECT_EQ(words_of(codec::zeros::v2, 2), 0xaaaaaaaau);
  EXPECT_EQ(words_of(codec::zeros::v2, 8), 0x80808080u);
}

TEST(GptqInt32, ZeroPointsComeBackExceptTheOneThatVersionOneCannotHold) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const auto convention : {codec::zeros::v1, codec::zeros::v2}) {
      const int top = (1 << bits) - 1;
      const std::size_t cols = codec::packed_zero_cols(64, 2, bits);
      for (int z = 0; z <= top + (convention == codec::zeros::v1 ? 1 : 0); ++z) {
        const std::vector<std::int32_t> zero(64 * 2, z);
        std::vector<std::int32_t> back(64 * 2);
        std::vector<std::uint32_t> words(2 * cols);
        ASSERT_EQ(ar::pack_zeros(gptq, convention, bits, {zero.data(), 64, 2}, {words.data(), 2, cols}), errc::ok);
        ASSERT_EQ(ar::unpack_zeros(gptq, convention, bits, {words.data(), 2, cols}, {back.data(), 64, 2}), errc::ok);
        int want = z;
        if (convention == codec::zeros::v1 && (bits < 5 || bits > 7)) want = z == 0 ? 1 : z;         // saturates
        if (convention == codec::zeros::v1 && bits >= 5 && bits <= 7) want = z == top + 1 ? 0 : z;  // wraps: 2^bits is 0
        for (const std::int32_t b : back) ASSERT_EQ(b, want) << bits << " bits, zero point " << z;
      }
    }
}

TEST(GptqInt32, ZeroPointsOutsideTheFieldAreAnError) {
  std::vector<std::uint32_t> words(4, 0xABCDu);
  for (const std::int32_t bad : {-1, 17, 1 << 20}) {
    std::vector<std::int32_t> zero(32, 3);
    zero[31] = bad;
    EXPECT_EQ(ar::pack_zeros(gptq, codec::zeros::v1, 4, {zero.data(), 32, 1}, {words.data(), 1, 4}), errc::not_representable);
  }
  const std::vector<std::int32_t> sixteen(32, 16);
  EXPECT_EQ(ar::pack_zeros(gptq, codec::zeros::v2, 4, {sixteen.data(), 32, 1}, {words.data(), 1, 4}), errc::not_representable);
  EXPECT_EQ(words, std::vector<std::uint32_t>(4, 0xABCDu)) << "nothing is written";
}

TEST(GptqInt32, WrongShapesAndCodesAreErrorsAndNothingIsWritten) {
  std::vector<std::uint8_t> code(64 * 64, 1);
  std::vector<std::uint32_t> words(64 * 64, 5u);
  const auto pack = [&](int bits, std::size_t rows, std::size_t cols, std::size_t word_rows, std::size_t word_cols) {
    return ar::pack(gptq, bits, {code.data(), rows, cols}, {words.data(), word_rows, word_cols});
  };
  EXPECT_EQ(pack(1, 8, 32, 1, 8), errc::bad_value);
  EXPECT_EQ(pack(9, 8, 32, 9, 8), errc::bad_value);
  EXPECT_EQ(pack(4, 8, 48, 6, 8), errc::bad_shape) << "48 is no multiple of 32";
  EXPECT_EQ(pack(4, 8, 40, 0, 8), errc::bad_shape);
  EXPECT_EQ(pack(4, 8, 32, 3, 8), errc::bad_shape);
  EXPECT_EQ(pack(4, 8, 32, 4, 7), errc::bad_shape);
  EXPECT_EQ(ar::pack(gptq, 4, {nullptr, 8, 32}, {words.data(), 4, 8}), errc::bad_shape);
  EXPECT_EQ(ar::unpack(gptq, 4, {words.data(), 4, 8}, {code.data(), 8, 64}), errc::bad_shape);
  for (const std::size_t at : {0u, 31u, 63u * 64u + 63u}) {
    code[at] = 16;
    EXPECT_EQ(pack(4, 64, 64, 8, 64), errc::bad_value) << "a code of five bits";
    code[at] = 1;
  }
  EXPECT_EQ(words, std::vector<std::uint32_t>(64 * 64, 5u));
  EXPECT_EQ(pack(4, 0, 64, 8, 0), errc::ok) << "nothing to do";
}

constexpr bool packs_in_a_constant_expression() {
  std::uint8_t code[32] = {}, back[32] = {};
  for (int i = 0; i < 32; ++i) code[i] = static_cast<std::uint8_t>(i % 8);
  std::uint32_t words[3] = {};
  if (ar::pack(gptq, 3, {code, 1, 32}, {words, 3, 1}) != errc::ok || ar::unpack(gptq, 3, {words, 3, 1}, {back, 1, 32}) != errc::ok) return false;
  for (int i = 0; i < 32; ++i)
    if (back[i] != code[i]) return false;
  return true;
}
static_assert(packs_in_a_constant_expression());

}  // namespace
