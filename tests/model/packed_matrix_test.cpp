// links: ar_model ar_dispatch OpenMP::OpenMP_CXX
// Matrices that stay packed: they decode to what the library decodes, products equal products with the decoded matrix within the rounding of float sums, and
// do not depend on threads.
#include "model/packed_matrix.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"

namespace {

using namespace auto_round;
using model::packed_pointer;

std::vector<float> random_row(std::size_t n, std::uint32_t seed) {
  std::mt19937 g(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(static_cast<int>(g() >> 16) - 32768) / 16384.0f;
  return x;
}

/// Every sum of n products, in any order, is within n roundings of the sum of their magnitudes, and each activation may have moved by 2^-16 of the largest
/// (packed_kernel.hpp). Products that take code and offset apart have terms of up to `spread` times the largest weight.
void expect_products(const model::packed_matrix& w, float spread) {
  const std::size_t rows = w.rows(), cols = w.cols();
  std::vector<float> decoded(rows * cols), y(rows);
  w.decode(0, rows, decoded.data());
  const std::vector<float> x = random_row(cols, 5);
  w.dot(x.data(), 0, rows, y.data());
  double magnitudes = 0, most = 0;
  for (const float v : x) magnitudes += std::fabs(static_cast<double>(v)), most = std::max(most, std::fabs(static_cast<double>(v)));
  const double allowed = static_cast<double>(cols) * static_cast<double>(spread) * (0x1p-24 * magnitudes + 0x1p-16 * most);
  for (std::size_t r = 0; r < rows; ++r) {
    double sum = 0, largest = 0;
    for (std::size_t c = 0; c < cols; ++c) {
      sum += static_cast<double>(decoded[r * cols + c]) * static_cast<double>(x[c]);
      largest = std::max(largest, std::fabs(static_cast<double>(decoded[r * cols + c])));
    }
    EXPECT_NEAR(static_cast<double>(y[r]), sum, allowed * largest) << "row " << r;
  }
  // A part of the rows is the same rows.
  float one = 0;
  w.dot(x.data(), rows - 1, 1, &one);
  EXPECT_EQ(one, y[rows - 1]);
  std::vector<float> last(cols);
  w.decode(rows - 1, 1, last.data());
  EXPECT_EQ(std::memcmp(last.data(), decoded.data() + (rows - 1) * cols, cols * sizeof(float)), 0);
}

std::vector<std::byte> random_bytes(std::size_t n, std::mt19937& g) {
  std::vector<std::byte> b(n);
  for (std::byte& v : b) v = static_cast<std::byte>(g() >> 24);
  return b;
}

/// Blocks of random bytes whose weights are numbers of moderate size: all codes and most scales occur.
std::vector<std::byte> random_blocks(const ar::gguf_kernels& k, std::size_t blocks) {
  std::mt19937 g(k.id + 1);
  std::vector<std::byte> all;
  while (all.size() < blocks * k.block_bytes) {
    const std::vector<std::byte> one = random_bytes(k.block_bytes, g);
    std::vector<float> w(k.block_elements);
    if (k.dequantize({reinterpret_cast<const std::uint8_t*>(one.data()), one.size()}, {w.data(), 1, w.size()}) != ar::errc::ok) return {};
    bool moderate = true;
    for (const float v : w) moderate = moderate && std::fabs(v) < 1e6f;
    if (moderate) all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

TEST(PackedMatrix, EveryGgufTypeIsMultipliedAsItIsDecoded) {
  for (const ar::gguf_kernels& k : ar::kernels().gguf_types()) {
    SCOPED_TRACE(k.name);
    const std::size_t rows = 70, cols = 3 * k.block_elements;  // more rows than one task has
    const std::vector<std::byte> blocks = random_blocks(k, rows * 3);
    ASSERT_FALSE(blocks.empty());
    const packed_pointer w = model::block_matrix(k.id, std::span<const std::byte>(blocks), rows, cols);
    ASSERT_NE(w, nullptr);
    EXPECT_EQ(w->bytes(), blocks.size());
    EXPECT_TRUE(model::all_finite(*w));
    std::vector<float> want(rows * cols), got(rows * cols);
    ASSERT_EQ(k.dequantize({reinterpret_cast<const std::uint8_t*>(blocks.data()), blocks.size()}, {want.data(), rows, cols}), ar::errc::ok);
    w->decode(0, rows, got.data());
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
    // A minimum of random bytes may be many times the weights that are left when a scale times a code was taken from it: 64 times were seen.
    expect_products(*w, 512);
    // The same bytes in memory of its own.
    const packed_pointer own = model::block_matrix(k.id, std::vector<std::byte>(blocks), rows, cols);
    ASSERT_NE(own, nullptr);
    own->decode(0, rows, got.data());
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
  }
}

TEST(PackedMatrix, WrongSizesAndTypesAreNoMatrix) {
  const ar::gguf_kernels& k = *ar::kernels().gguf_type("q4_0");
  const std::vector<std::byte> blocks(2 * 3 * k.block_bytes);
  const std::span<const std::byte> all(blocks);
  EXPECT_NE(model::block_matrix(k.id, all, 2, 96), nullptr);
  EXPECT_EQ(model::block_matrix(k.id, all.first(all.size() - 1), 2, 96), nullptr) << "truncated";
  EXPECT_EQ(model::block_matrix(k.id, all, 3, 96), nullptr);
  EXPECT_EQ(model::block_matrix(k.id, all, 2, 95), nullptr);
  EXPECT_EQ(model::block_matrix(k.id, all, 0, 96), nullptr);
  EXPECT_EQ(model::block_matrix(k.id, all, std::numeric_limits<std::size_t>::max() / 54 + 1, 96), nullptr);
  EXPECT_EQ(model::block_matrix(4, all, 2, 96), nullptr) << "an id that ggml gave up";
  EXPECT_NE(model::number_matrix(io::dtype::bf16, all.first(24), 3, 4), nullptr);
  EXPECT_EQ(model::number_matrix(io::dtype::bf16, all.first(25), 3, 4), nullptr);
  EXPECT_EQ(model::number_matrix(io::dtype::f32, all.first(24), 3, 2), nullptr);
}

TEST(PackedMatrix, SixteenBitNumbersMayLieAnywhere) {
  for (const io::dtype type : {io::dtype::f16, io::dtype::bf16}) {
    const std::size_t rows = 3, cols = 77;
    const std::vector<float> values = random_row(rows * cols, 3);
    std::vector<std::byte> bytes(1 + 2 * values.size());
    std::vector<float> stored;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t v = type == io::dtype::f16 ? ar::f16_from_f32(values[i]) : ar::bf16_from_f32(values[i]);
      std::memcpy(bytes.data() + 1 + 2 * i, &v, 2);
      stored.push_back(type == io::dtype::f16 ? ar::f32_from_f16(v) : ar::f32_from_bf16(v));
    }
    const packed_pointer w = model::number_matrix(type, std::span<const std::byte>(bytes).subspan(1), rows, cols);
    ASSERT_NE(w, nullptr);
    std::vector<float> got(rows * cols);
    w->decode(0, rows, got.data());
    EXPECT_EQ(got, stored);
    expect_products(*w, 1);
  }
}

struct code_case {
  int bits;
  std::size_t group;
  bool zeros, biases, out_of_order;
};

TEST(PackedMatrix, CodesOfEveryWidthAreMultipliedAsTheyAreDecoded) {
  const std::size_t rows = 66, cols = 200;
  for (int bits = 1; bits <= 8; ++bits)
    for (const code_case& c : {code_case{bits, 32, true, false, false}, {bits, 200, false, false, false}, {bits, 40, true, false, true}, {bits, 16, false, true, false}}) {
      SCOPED_TRACE(testing::Message() << c.bits << " bits, groups of " << c.group << (c.zeros ? ", zero points" : "") << (c.biases ? ", biases" : "") << (c.out_of_order ? ", out of order" : ""));
      std::mt19937 g(static_cast<std::uint32_t>(bits));
      model::packed_codes p;
      p.rows = rows, p.cols = cols, p.bits = bits, p.block_cols = c.group;
      const std::size_t groups = p.groups();
      std::vector<std::uint8_t> code(rows * cols);
      for (std::uint8_t& v : code) v = static_cast<std::uint8_t>(g() >> (32 - bits));
      ASSERT_TRUE(model::set_codes(p, code));
      std::vector<float> scale = random_row(rows * groups, 1), bias = random_row(rows * groups, 2);
      const auto bytes = [](const std::vector<float>& v) { return std::as_bytes(std::span(v)); };
      p.scale = model::stored_numbers(io::dtype::f32, bytes(scale));
      if (c.biases) p.bias = model::stored_numbers(io::dtype::f32, bytes(bias));
      p.middle = static_cast<std::int16_t>(c.biases ? 0 : 1 << (bits - 1));
      if (c.zeros)
        for (std::size_t i = 0; i < rows * groups; ++i) p.zero.push_back(static_cast<std::int16_t>(g() % ((1u << bits) + 1)));
      if (c.out_of_order)
        for (std::size_t k = 0; k < cols; ++k) p.group.push_back(static_cast<std::uint32_t>(k * 7 % groups));
      std::vector<float> want(rows * cols), got(rows * cols);
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t k = 0; k < cols; ++k) {
          const std::size_t at = r * groups + (c.out_of_order ? p.group[k] : k / c.group);
          const int zero = c.zeros ? p.zero[at] : p.middle;
          want[r * cols + k] = scale[at] * static_cast<float>(code[r * cols + k] - zero);
          if (c.biases) want[r * cols + k] += bias[at];
        }
      const packed_pointer w = model::code_matrix(std::move(p));
      w->decode(0, rows, got.data());
      EXPECT_EQ(got, want);
      expect_products(*w, 4);  // code and zero point: each at most twice their difference's bound
      EXPECT_LE(w->bytes(), rows * ((cols * static_cast<std::size_t>(bits) + 31) / 32 * 4 + groups * 10) + (c.out_of_order ? 4 * cols : 0));
    }
}

TEST(PackedMatrix, TablesOfSmallFloats) {
  const std::size_t rows = 5, cols = 96;
  // E2M1 with a byte of scale for each 16 columns and one number for all; then a table of any 256 numbers in blocks of 2 rows.
  const std::array<float, 8> magnitudes = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (const bool small : {true, false}) {
    std::mt19937 g(9);
    model::packed_codes p;
    p.rows = rows, p.cols = cols, p.bits = small ? 4 : 8, p.block_rows = small ? 1 : 2, p.block_cols = small ? 16 : 96;
    for (std::size_t i = 0; i < (small ? 16u : 256u); ++i) p.values.push_back(small ? (i < 8 ? magnitudes[i] : -magnitudes[i - 8]) : static_cast<float>(i) * 0.37f - 40.0f);
    std::vector<std::uint8_t> code(rows * cols);
    for (std::uint8_t& v : code) v = static_cast<std::uint8_t>(g() >> (small ? 28 : 24));
    ASSERT_TRUE(model::set_codes(p, code));
    std::array<float, 256> table{};
    for (std::size_t i = 0; i < 256; ++i) table[i] = static_cast<float>(i) / 8;
    const std::size_t scales = small ? rows * 6 : 3;
    const std::vector<std::byte> bytes = random_bytes(scales, g);
    p.scale = model::stored_numbers(io::dtype::u8, bytes, table);
    p.divisor = 3;
    std::vector<float> want(rows * cols), got(rows * cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t k = 0; k < cols; ++k) {
        const std::size_t at = small ? r * 6 + k / 16 : r / 2;
        want[r * cols + k] = p.values[code[r * cols + k]] * (table[static_cast<std::size_t>(bytes[at])] / 3);
      }
    const packed_pointer w = model::code_matrix(std::move(p));
    w->decode(0, rows, got.data());
    EXPECT_EQ(got, want);
    expect_products(*w, 1);
  }
}

packed_pointer random_matrix(std::size_t rows, std::size_t cols, std::vector<std::byte>& bytes) {
  const ar::gguf_kernels& k = *ar::kernels().gguf_type("q4_k");
  bytes = random_blocks(k, rows * cols / k.block_elements);
  return model::block_matrix(k.id, std::span<const std::byte>(bytes), rows, cols);
}

TEST(PackedMatrix, SeveralTokensAreTheProductWithTheDecodedMatrix) {
  ASSERT_TRUE(linalg::initialize(linalg::backend::highway));  // whose bits do not depend on the shape of a product
  const std::size_t rows = 301, cols = 512, tokens = 37, stride = rows + 3;
  std::vector<std::byte> bytes;
  const packed_pointer w = random_matrix(rows, cols, bytes);
  std::vector<float> decoded(rows * cols);
  w->decode(0, rows, decoded.data());
  const std::vector<float> x = random_row(tokens * cols, 8), before = random_row(tokens * stride, 9);
  for (const bool accumulate : {false, true})
    for (const linalg::work who : {linalg::work::shared, linalg::work::own}) {
      std::vector<float> want = before, got = before;
      linalg::gemm_nt({x.data(), tokens, cols, cols}, {decoded.data(), rows, cols, cols}, want.data(), stride, accumulate);
      model::multiply(*w, x.data(), tokens, got.data(), stride, accumulate, who);
      EXPECT_EQ(got, want);
      // One token is added up in another order, but lands in the same places.
      std::vector<float> one = before;
      model::multiply(*w, x.data(), 1, one.data(), stride, accumulate, who);
      std::vector<float> y(rows);
      w->dot(x.data(), 0, rows, y.data());
      for (std::size_t i = 0; i < one.size(); ++i) ASSERT_EQ(one[i], i >= rows ? before[i] : accumulate ? before[i] + y[i] : y[i]) << i;
    }
  ASSERT_TRUE(linalg::initialize(linalg::backend::automatic));
}

TEST(PackedMatrix, TheNumberOfThreadsChangesNoBit) {
  const std::size_t rows = 1500, cols = 512, tokens = 9;
  std::vector<std::byte> bytes;
  const packed_pointer w = random_matrix(rows, cols, bytes);
  const std::vector<float> x = random_row(tokens * cols, 4);
  std::vector<std::vector<float>> results;
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 5}) {
    omp_set_num_threads(threads);
    std::vector<float> y(tokens * rows + rows);
    model::multiply(*w, x.data(), tokens, y.data(), rows);
    model::multiply(*w, x.data(), 1, y.data() + tokens * rows, rows);
    results.push_back(std::move(y));
  }
  omp_set_num_threads(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(PackedMatrix, WhatIsNoNumberIsSeen) {
  const ar::gguf_kernels& k = *ar::kernels().gguf_type("q4_0");
  std::vector<std::byte> blocks(300 * 2 * k.block_bytes);
  const packed_pointer w = model::block_matrix(k.id, std::span<const std::byte>(blocks), 300, 64);
  EXPECT_TRUE(model::all_finite(*w));
  blocks[599 * k.block_bytes + 1] = std::byte{0x7c};  // the last scale is infinite
  EXPECT_FALSE(model::all_finite(*w));
}

}  // namespace
