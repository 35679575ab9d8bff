// A packed layout beside its definition, bit by bit: where bit t of the code of output n and input k lies.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "ar/pack.hpp"

namespace support {

inline std::vector<std::uint8_t> random_codes(std::size_t n, int bits) {
  std::mt19937 random(static_cast<std::uint32_t>(11 + n + static_cast<std::size_t>(bits)));
  std::vector<std::uint8_t> code(n);
  for (auto& c : code) c = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
  return code;
}

struct place {
  std::size_t row, col, bit;  // of the packed tensor, and the bit of its word
};

/// Packs random codes of every shape and width with gaps in both views: the words are those of the definition, spare bits are 0, nothing beside
/// the words is written, and the codes come back. `at(n, k, t, bits)` is the definition.
template <class C, class At>
void expect_definition(C codec, const std::vector<int>& widths, const std::vector<std::pair<std::size_t, std::size_t>>& shapes, At at) {
  using word = typename C::word;
  for (const int bits : widths)
    for (const auto& [rows, cols] : shapes) {
      SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(rows) + " x " + std::to_string(cols));
      const std::size_t code_stride = cols + 5;
      const auto random = random_codes(rows * cols, bits);
      std::vector<std::uint8_t> code(rows * code_stride, 0xFF), back(rows * code_stride, 0xEE);
      for (std::size_t i = 0; i < random.size(); ++i) code[i / cols * code_stride + i % cols] = random[i];
      const ar::matrix_shape shape = ar::packed_shape(codec, bits, rows, cols);
      ASSERT_NE(shape, ar::matrix_shape());
      const std::size_t stride = shape.cols + 3;
      const word gap = static_cast<word>(0xABABABAB);
      std::vector<word> words(shape.rows * stride, gap), want(shape.rows * stride, gap);
      for (std::size_t i = 0; i < shape.rows * shape.cols; ++i) want[i / shape.cols * stride + i % shape.cols] = 0;
      for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k)
          for (int t = 0; t < bits; ++t)
            if ((random[n * cols + k] >> t & 1) != 0) {
              const place p = at(n, k, static_cast<std::size_t>(t), static_cast<std::size_t>(bits));
              ASSERT_LT(p.row, shape.rows);
              ASSERT_LT(p.col, shape.cols);
              want[p.row * stride + p.col] |= static_cast<word>(word{1} << p.bit);
            }
      ASSERT_EQ(ar::pack(codec, bits, {code.data(), rows, cols, code_stride}, {words.data(), shape.rows, shape.cols, stride}), ar::errc::ok);
      ASSERT_EQ(words, want);
      ASSERT_EQ(ar::unpack(codec, bits, {words.data(), shape.rows, shape.cols, stride}, {back.data(), rows, cols, code_stride}), ar::errc::ok);
      for (std::size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], i % code_stride < cols ? code[i] : 0xEE) << i;
    }
}

/// The same for zero points: `at(n, g, t, bits)` for output n and group g, fields that hold the zero point itself.
template <class C, class At>
void expect_zero_definition(C codec, const std::vector<int>& widths, const std::vector<std::pair<std::size_t, std::size_t>>& shapes, At at) {
  for (const int bits : widths)
    for (const auto& [rows, groups] : shapes) {
      SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(rows) + " outputs, " + std::to_string(groups) + " groups");
      const auto random = random_codes(rows * groups, bits);
      const std::vector<std::int32_t> zero(random.begin(), random.end());
      const ar::matrix_shape shape = ar::packed_zero_shape(codec, bits, rows, groups);
      ASSERT_NE(shape, ar::matrix_shape());
      std::vector<std::uint32_t> words(shape.rows * shape.cols, 0xABABABABu), want(words.size());
      for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t g = 0; g < groups; ++g)
          for (int t = 0; t < bits; ++t)
            if ((zero[n * groups + g] >> t & 1) != 0) {
              const place p = at(n, g, static_cast<std::size_t>(t), static_cast<std::size_t>(bits));
              want[p.row * shape.cols + p.col] |= 1u << p.bit;
            }
      const auto plain = ar::zero_convention::v2;
      ASSERT_EQ(ar::pack_zeros(codec, plain, bits, {zero.data(), rows, groups}, {words.data(), shape.rows, shape.cols}), ar::errc::ok);
      ASSERT_EQ(words, want);
      std::vector<std::int32_t> back(zero.size());
      ASSERT_EQ(ar::unpack_zeros(codec, plain, bits, {words.data(), shape.rows, shape.cols}, {back.data(), rows, groups}), ar::errc::ok);
      ASSERT_EQ(back, zero);
      // A zero point that no field holds: an error, and nothing is written.
      std::vector<std::int32_t> bad = zero;
      for (const std::int32_t z : {-1, 1 << bits, INT32_MIN, INT32_MAX}) {
        bad.back() = z;
        ASSERT_EQ(ar::pack_zeros(codec, plain, bits, {bad.data(), rows, groups}, {words.data(), shape.rows, shape.cols}), ar::errc::not_representable);
        ASSERT_EQ(words, want);
      }
    }
}

}  // namespace support
