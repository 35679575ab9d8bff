// links: ar_dispatch
// The packed layouts of every SIMD target of this machine beside the plain code: the same bytes, the same error codes, and no byte beside them is
// touched. Buffers end with the last row, so that the sanitizers see a vector that reaches beyond.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/pack.hpp"
#include "support/layout.hpp"
#include "support/strided.hpp"

namespace {

using ar::errc;
using ar::matrix_shape;

std::vector<const ar::kernel_table*> targets() {
  const ar::kernel_table* tables[16];
  return {tables, tables + ar::all_kernels(tables, 16)};
}

template <class Word>
void compare(const ar::codec_kernels& plain, const ar::codec_kernels& kernels, int bits, std::size_t rows, std::size_t cols, std::size_t gap) {
  const matrix_shape s = plain.packed_shape(bits, rows, cols);
  ASSERT_EQ(kernels.packed_shape(bits, rows, cols), s);
  if (s == matrix_shape()) return;
  SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(rows) + " x " + std::to_string(cols) + ", gaps of " + std::to_string(gap));
  const auto pack = support::calls<Word>::pack;
  const auto unpack = support::calls<Word>::unpack;
  support::strided<std::uint8_t> code(rows, cols, gap);
  const auto random = support::random_codes(rows * cols, bits);
  for (std::size_t i = 0; i < random.size(); ++i) code.view()(i / cols, i % cols) = random[i];
  support::strided<Word> want(s.rows, s.cols, gap), got(s.rows, s.cols, gap);
  ASSERT_EQ((plain.*pack)(bits, code.const_view(), want.view()), errc::ok);
  ASSERT_EQ((kernels.*pack)(bits, code.const_view(), got.view()), errc::ok);
  ASSERT_EQ(got.memory, want.memory);
  // Any words, with bits where the layout has none to spare.
  std::mt19937 bytes(static_cast<std::uint32_t>(rows + cols));
  for (Word& w : got.memory) w = static_cast<Word>(bytes());
  support::strided<std::uint8_t> back(rows, cols, gap), back_want(rows, cols, gap);
  ASSERT_EQ((plain.*unpack)(bits, got.const_view(), back_want.view()), errc::ok);
  ASSERT_EQ((kernels.*unpack)(bits, got.const_view(), back.view()), errc::ok);
  ASSERT_EQ(back.memory, back_want.memory);
  // A code that does not fit, at the edges of what a vector sees: an error, and nothing is written.
  if (bits == 8) return;
  const auto before = got.memory;
  for (const std::size_t at : {std::size_t{0}, cols / 2, cols - 1, (rows - 1) * cols, rows * cols / 2, rows * cols - 1})
    for (const int bad : {1 << bits, 128}) {
      auto& c = code.view()(at / cols, at % cols);
      const auto kept = c;
      c = static_cast<std::uint8_t>(bad);
      ASSERT_EQ((plain.*pack)(bits, code.const_view(), got.view()), errc::bad_value);
      ASSERT_EQ((kernels.*pack)(bits, code.const_view(), got.view()), errc::bad_value) << "code " << bad << " at " << at;
      c = kept;
    }
  ASSERT_EQ(got.memory, before);
}

TEST(CodecKernels, EveryTargetGivesTheBytesOfThePlainCode) {
  const std::pair<std::size_t, std::size_t> shapes[] = {{1, 1},    {1, 31},   {1, 33},   {2, 64},   {3, 95},   {1, 160}, {5, 200},
                                                        {1, 1024}, {7, 96},   {8, 8},    {8, 32},   {8, 72},   {16, 16}, {24, 40},
                                                        {31, 32},  {32, 32},  {32, 33},  {32, 80},  {40, 64},  {64, 17}, {64, 256},
                                                        {65, 288}, {96, 100}, {128, 64}, {136, 40}, {160, 96}, {72, 544}};
  for (const ar::kernel_table* t : targets()) {
    std::cout << "target " << t->target << "\n";
    for (const ar::codec_kernels& plain : ar::codecs()) {
      const ar::codec_kernels* kernels = t->codec(plain.name);
      ASSERT_NE(kernels, nullptr) << plain.name;
      SCOPED_TRACE(std::string(t->target) + ", " + plain.name);
      for (int bits = 1; bits <= 8; ++bits) {
        if (!plain.has_bits(bits)) continue;
        for (const auto& [rows, cols] : shapes)
          for (const std::size_t gap : {0u, 3u}) {
            if (plain.pack_words != nullptr) {
              compare<std::uint32_t>(plain, *kernels, bits, rows, cols, gap);
            } else {
              compare<std::uint8_t>(plain, *kernels, bits, rows, cols, gap);
            }
            if (::testing::Test::HasFatalFailure()) return;
          }
      }
    }
  }
}

TEST(CodecKernels, EveryTargetHasTheFactsAndErrorsOfThePlainCode) {
  std::vector<std::uint8_t> code(64 * 64, 1), bytes(64 * 64, 7);
  std::vector<std::uint32_t> words(64 * 64, 7);
  for (const ar::kernel_table* t : targets()) {
    EXPECT_EQ(t->codecs().size(), ar::codecs().size());
    EXPECT_EQ(t->codec("nothing"), nullptr);
    for (const ar::codec_kernels& plain : ar::codecs()) {
      const ar::codec_kernels* k = t->codec(plain.name);
      ASSERT_NE(k, nullptr);
      SCOPED_TRACE(std::string(t->target) + ", " + plain.name);
      EXPECT_EQ(k->group, plain.group);
      EXPECT_EQ(k->pack_words != nullptr, plain.pack_words != nullptr);
      EXPECT_EQ(k->pack_zeros != nullptr, plain.pack_zeros != nullptr);
      for (int bits = -1; bits <= 10; ++bits) {
        EXPECT_EQ(k->has_bits(bits), plain.has_bits(bits));
        EXPECT_EQ(k->packed_zero_shape(bits, 64, 3), plain.packed_zero_shape(bits, 64, 3));
        const matrix_shape s = plain.packed_shape(bits, 32, 32);
        for (const std::size_t extra : {0u, 1u})
          for (const std::size_t stride : {31u, 32u}) {
            const ar::matrix_view<const std::uint8_t> in{code.data(), 32, 32, stride};
            if (plain.pack_words != nullptr) {
              const errc e = plain.pack_words(bits, in, {words.data(), s.rows + extra, s.cols});
              EXPECT_EQ(k->pack_words(bits, in, {words.data(), s.rows + extra, s.cols}), e);
              EXPECT_EQ(k->unpack_words(bits, {words.data(), s.rows + extra, s.cols}, {bytes.data(), 32, 32, stride}),
                        plain.unpack_words(bits, {words.data(), s.rows + extra, s.cols}, {bytes.data(), 32, 32, stride}));
            } else {
              const errc e = plain.pack_bytes(bits, in, {bytes.data(), s.rows + extra, s.cols});
              EXPECT_EQ(k->pack_bytes(bits, in, {bytes.data(), s.rows + extra, s.cols}), e);
              EXPECT_EQ(k->unpack_bytes(bits, {bytes.data(), s.rows + extra, s.cols}, {code.data(), 32, 32, stride}),
                        plain.unpack_bytes(bits, {bytes.data(), s.rows + extra, s.cols}, {code.data(), 32, 32, stride}));
            }
            std::fill(code.begin(), code.end(), std::uint8_t{1});
          }
      }
    }
  }
}

}  // namespace
