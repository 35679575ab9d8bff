// Conversion between packed layouts: for every pair of layouts, what converts has the same weights bit for bit as the layouts' own readers compute
// them (support/convertible.hpp), and what does not is an error that leaves the target alone. The peers' own conversions are in
// golden/formats_convert_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "support/convertible.hpp"

namespace {

using ar::errc;
using ar::real;
using ar::zero_sign;
using support::any_tensors;
using support::same_weights;
using support::tensors;
namespace to = ar::layout;

bool same(const any_tensors& a, const any_tensors& b, zero_sign sign = zero_sign::kept) { return same_weights(a.weights(), b.weights(), sign); }

enum class values { positive, symmetric, coarse, anything };

/// Random codes and numbers that the source can hold. `symmetric`: the middle zero point and scales of 8 bits; `positive`: no negative scales either.
/// `coarse`: scales of few bits, so that biases are exact. Scales have both signs otherwise, with subnormal halves, the smallest and zero among them;
/// zero points and codes reach both ends.
void fill(any_tensors& t, values kind, std::mt19937& random) {
  const int top = (1 << t.bits()) - 1, half = 1 << (t.bits() - 1), low = t.lowest_zero() == 1 ? 1 : 0;
  const bool middle = kind == values::positive || kind == values::symmetric;
  std::vector<std::uint8_t> code(t.rows * t.cols);
  for (auto& c : code) c = static_cast<std::uint8_t>(random() & static_cast<unsigned>(top));
  std::vector<float> scale(t.rows * t.groups()), offset(scale.size());
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const float mantissa = static_cast<float>(1 + random() % (kind == values::coarse ? 3u : middle ? 255u : 2047u));
    scale[i] = t.nearest_number(std::ldexp(mantissa, static_cast<int>(random() % 8) - 20));
    switch (random() % 16) {
      case 0: scale[i] = 0x1p-24f; break;  // the smallest half
      case 1: scale[i] = 0x3p-24f; break;  // subnormal
      case 2: scale[i] = middle ? 0x1p-10f : 0.0f; break;
      default: break;
    }
    if (kind != values::positive && (random() & 1) != 0) scale[i] = -scale[i];
    int zero = middle ? half : static_cast<int>(random() % static_cast<unsigned>(top + 1));
    if (!middle && random() % 4 == 0) zero = (random() & 1) != 0 ? top : low;
    zero = std::max(zero, low);
    offset[i] = t.has_bias() ? t.nearest_number(-(scale[i] * static_cast<float>(zero))) : static_cast<float>(zero);
  }
  if (t.one_group()) std::fill(scale.begin(), scale.end(), scale[0]);
  t.write(code, scale, offset);
}

struct shape {
  std::size_t rows, cols;
  int group;
};
// Whole groups; rows and columns that end inside a tile; a short last group; a row; small and uneven groups.
const shape shapes[] = {{32, 64, 32}, {64, 160, 64}, {32, 96, -1}, {8, 96, 16}, {40, 160, 128}, {32, 96, 24}};

TEST(Convert, EveryPairKeepsTheWeightsOrRefuses) {
  const support::layout_table<> all;
  std::mt19937 random(1);
  for (std::size_t i = 0; i < all.size; ++i) {
    int converted = 0, refused = 0;
    for (const shape& s : shapes)
      for (const int bits : {2, 3, 4, 5, 8})
        for (const values kind : {values::coarse, values::anything}) {
          int group = s.group;
          auto source = all.make[i](bits, group, s.rows, s.cols);
          if (source == nullptr) source = all.make[i](bits, group = 32, s.rows, s.cols);
          if (source == nullptr) continue;
          fill(*source, kind, random);
          const std::vector<float> want = source->weights();
          for (std::size_t j = 0; j < all.size; ++j) {
            if (all.convert[i][j] == nullptr) continue;
            SCOPED_TRACE(all.names[i] + " -> " + all.names[j]);
            for (const int wide : {bits, bits + 1, 8})
              for (const int to_group : {group, 32}) {
                if (wide > 8 || (to_group == group && group == 32 && wide != bits)) continue;
                const auto target = all.make[j](wide, to_group, s.rows, s.cols), untouched = all.make[j](wide, to_group, s.rows, s.cols);
                if (target == nullptr) continue;
                for (const zero_sign sign : {zero_sign::kept, zero_sign::any}) {
                  const errc e = all.convert[i][j](*source, *target, sign);
                  if (e != errc::ok) {
                    ++refused;
                    ASSERT_TRUE(e == errc::not_representable || e == errc::unsupported) << ar::message(e);
                    ASSERT_TRUE(target->equals(*untouched));
                    continue;
                  }
                  ++converted;
                  ASSERT_TRUE(same_weights(want, target->weights(), sign)) << bits << " bits to " << wide << ", groups of " << group << " to " << to_group;
                  // And back, where that is possible: codes may have moved, weights not.
                  if (wide != bits || all.convert[j][i] == nullptr) break;
                  const auto back = all.make[i](bits, group, s.rows, s.cols);
                  if (all.convert[j][i](*target, *back, sign) == errc::ok) {
                    ASSERT_TRUE(same_weights(want, back->weights(), sign));
                  }
                  break;  // the signs of zeros were kept: nothing more to ask
                }
              }
          }
        }
    EXPECT_GT(converted, 50) << all.names[i];
    EXPECT_GT(refused, 0) << all.names[i];
  }
}

TEST(Convert, AnyLayoutToItselfIsACopy) {
  const support::layout_table<> all;
  std::mt19937 random(4);
  for (std::size_t i = 0; i < all.size; ++i) {
    int cases = 0;
    for (const shape& s : shapes)
      for (int bits = 2; bits <= 8; ++bits) {
        const auto source = all.make[i](bits, s.group, s.rows, s.cols), target = all.make[i](bits, s.group, s.rows, s.cols);
        if (source == nullptr) continue;
        fill(*source, values::anything, random);
        ASSERT_EQ(all.convert[i][i](*source, *target, zero_sign::kept), errc::ok) << all.names[i];
        ASSERT_TRUE(source->equals(*target)) << all.names[i];
        ++cases;
      }
    EXPECT_GT(cases, 0) << all.names[i];
  }
}

TEST(Convert, SymmetricWeightsGoEverywhereAndComeBackTheSame) {
  const support::layout_table<> all;
  std::mt19937 random(3);
  int cases = 0;
  for (std::size_t i = 0; i < all.size; ++i)
    for (std::size_t j = 0; j < all.size; ++j)
      // Positive scales first: then even the signs of zeros stay.
      for (const values kind : {values::positive, values::symmetric}) {
        const auto source = all.make[i](4, 32, 64, 128), target = all.make[j](4, 32, 64, 128), back = all.make[i](4, 32, 64, 128);
        if (source == nullptr || target == nullptr) continue;
        SCOPED_TRACE(all.names[i] + " -> " + all.names[j]);
        fill(*source, kind, random);
        const zero_sign sign = kind == values::positive ? zero_sign::kept : zero_sign::any;
        ASSERT_EQ(all.convert[i][j](*source, *target, sign), errc::ok);
        ASSERT_TRUE(same(*source, *target, sign));
        ASSERT_EQ(all.convert[j][i](*target, *back, sign), errc::ok);
        ASSERT_TRUE(back->equals(*source)) << "byte for byte";
        ++cases;
      }
  EXPECT_GT(cases, 200);
}

/// One row of 32 codes 0 .. 15 twice, with this scale and offset, from one layout to another.
template <class From, class To>
errc one_group(const From& from, const To& to, float scale, float offset, int low = 0, int high = 15, zero_sign sign = zero_sign::kept) {
  const std::size_t rows = 32;
  tensors<From> source(from, rows, 32);
  std::vector<std::uint8_t> code(rows * 32);
  for (std::size_t i = 0; i < code.size(); ++i) code[i] = static_cast<std::uint8_t>(low + static_cast<int>(i) % (high - low + 1));
  source.write(code, std::vector<float>(rows, scale), std::vector<float>(rows, offset));
  tensors<To> target(to, rows, 32);
  const tensors<To> untouched = target;
  const errc e = ar::convert(from, source.in(), to, target.out(), rows, 32, sign);
  if (e == errc::ok) {
    EXPECT_TRUE(same(source, target, sign));
  } else {
    EXPECT_TRUE(target == untouched);
  }
  return e;
}

TEST(Convert, WhatTheTargetCannotStoreIsNotRepresentable) {
  const to::gptq_v1<4, 32> v1;
  const to::gptq_v2<4, 32> v2;
  const to::gptq_v2<4, 32, real::f32> v2_f32;
  const to::mlx<4, 32> mlx;
  const to::mlx<4, 32, real::f32> mlx_f32;
  const to::gguf<ar::q4_0> q4_0;
  const to::gguf<ar::q4_1> q4_1;
  const to::gguf<ar::q8_0> q8_0;
  // Zero point 0 in v1: no field. With room above, codes and zero point move up by one.
  EXPECT_EQ(one_group(v2, v1, 0.5f, 0), errc::not_representable);
  EXPECT_EQ(one_group(v2, v1, 0.5f, 0, 0, 14), errc::ok);
  EXPECT_EQ(one_group(v2, v1, 0.5f, 1), errc::ok);
  EXPECT_EQ(one_group(v1, v2, 0.5f, 16), errc::not_representable) << "a v1 field of all ones";
  EXPECT_EQ(one_group(v1, v2, 0.5f, 16, 1, 15), errc::ok);
  // A symmetric target: another zero point only if the codes leave room.
  EXPECT_EQ(one_group(v2, q4_0, 0.5f, 8), errc::ok);
  EXPECT_EQ(one_group(v2, q4_0, 0.5f, 7), errc::not_representable);
  EXPECT_EQ(one_group(v2, q4_0, 0.5f, 7, 0, 14), errc::ok);
  EXPECT_EQ(one_group(v2, q8_0, -0.5f, 3), errc::ok) << "eight bits have room for all";
  // Scales that the target's format does not have.
  EXPECT_EQ(one_group(v2_f32, v2, 0.1f, 8), errc::not_representable);
  EXPECT_EQ(one_group(v2_f32, v2, 0x1p-24f, 8), errc::ok);
  EXPECT_EQ(one_group(v2_f32, v2, 0x1p-25f, 8), errc::not_representable);
  EXPECT_EQ(one_group(v2_f32, q4_0, 70000.0f, 8), errc::not_representable);
  // Biases: exact or nothing. 0x401p-10 has eleven bits, times 3 thirteen.
  EXPECT_EQ(one_group(v2, mlx, 0x401p-10f, 8), errc::ok);
  EXPECT_EQ(one_group(v2, mlx, 0x401p-10f, 3), errc::not_representable);
  EXPECT_EQ(one_group(v2, mlx_f32, 0x401p-10f, 3), errc::ok);
  EXPECT_EQ(one_group(v2, q4_1, 0x401p-10f, 3), errc::not_representable);
  EXPECT_EQ(one_group(v2, q4_1, 0x3p-10f, 5), errc::ok);
  EXPECT_EQ(one_group(v2, q4_1, 16384.0f, 4), errc::not_representable) << "the minimum overflows";
  EXPECT_EQ(one_group(v2_f32, mlx_f32, 0.1f, 3), errc::not_representable) << "two roundings are not one";
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, -1.5f), errc::ok);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, -1.25f), errc::not_representable);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, 1.0f), errc::not_representable) << "zero point -2";
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, 1.0f, 0, 13), errc::ok);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, 60000.0f), errc::not_representable);
  EXPECT_EQ(one_group(q4_1, v2, 0x1p-24f, 60000.0f), errc::not_representable);
  EXPECT_EQ(one_group(q4_1, v2, 0.0f, 1.0f), errc::not_representable) << "a constant that is no multiple of the scale";
  EXPECT_EQ(one_group(q4_1, v2, 0.0f, 0.0f, 8, 15), errc::ok);
  // The sign of a weight that is zero.
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 8), errc::not_representable);
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 8, 9, 15), errc::ok) << "no weight is zero";
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 8, 0, 15, zero_sign::any), errc::ok);
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 0), errc::ok) << "a bias of -0 keeps the sign";
  // What is not finite.
  EXPECT_EQ(one_group(v2_f32, v2, INFINITY, 8), errc::non_finite);
  EXPECT_EQ(one_group(v2, v1, NAN, 8), errc::non_finite);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, -INFINITY), errc::non_finite);
}

TEST(Convert, GroupsAreSplitAndJoinedIfTheyAreEqual) {
  const to::gptq_v2<4, 128> wide;
  const to::pack_quantized_asym<4, 32> narrow;
  tensors<to::gptq_v2<4, 128>> source(wide, 64, 320), back(wide, 64, 320);
  std::mt19937 random(6);
  fill(source, values::anything, random);
  tensors<to::pack_quantized_asym<4, 32>> split(narrow, 64, 320);
  ASSERT_EQ(ar::convert(wide, source.in(), narrow, split.out(), 64, 320), errc::ok);
  ASSERT_TRUE(same(source, split));
  ASSERT_EQ(ar::convert(narrow, split.in(), wide, back.out(), 64, 320), errc::ok);
  EXPECT_TRUE(back == source);
  split.scales[5] = static_cast<std::uint16_t>(split.scales[5] ^ 1);
  EXPECT_EQ(ar::convert(narrow, split.in(), wide, back.out(), 64, 320), errc::not_representable);
  EXPECT_TRUE(back == source);
  // One scale for the tensor, and a row's.
  const to::pack_quantized<4, 0> tensor;
  const to::pack_quantized<4, -1> row;
  tensors<to::pack_quantized<4, 0>> one(tensor, 70, 100), again(tensor, 70, 100);
  fill(one, values::symmetric, random);
  tensors<to::pack_quantized<4, -1>> rows(row, 70, 100);
  ASSERT_EQ(ar::convert(tensor, one.in(), row, rows.out(), 70, 100), errc::ok);
  ASSERT_TRUE(same(one, rows));
  ASSERT_EQ(ar::convert(row, rows.in(), tensor, again.out(), 70, 100), errc::ok);
  EXPECT_TRUE(again == one);
  rows.scales[69] = static_cast<std::uint16_t>(rows.scales[69] ^ 1);
  EXPECT_EQ(ar::convert(row, rows.in(), tensor, again.out(), 70, 100), errc::not_representable);
}

TEST(Convert, WrongFieldsAndShapesAreErrorsAndNothingIsWritten) {
  const to::gptq_v2<> from(4, 32);
  tensors<to::gptq_v2<>> source(from, 64, 96);
  std::mt19937 random(7);
  fill(source, values::anything, random);
  const auto call = [&](int bits, int group, std::size_t rows, std::size_t cols) {
    const to::pack_quantized_asym<> to(bits, group);
    tensors<ar::layout::pack_quantized_asym<>> target(ar::layout::pack_quantized_asym<>(4, 32), 64, 96);
    const auto untouched = target;
    const errc e = ar::convert(from, source.in(), to, target.out(), rows, cols);
    EXPECT_EQ(e != errc::ok, target == untouched);
    return e;
  };
  EXPECT_EQ(call(4, 32, 64, 96), errc::ok);
  for (const int bits : {-1, 0, 9, 1 << 30}) EXPECT_EQ(call(bits, 32, 64, 96), errc::bad_value);
  for (const int group : {-2, 0, ar::dynamic}) EXPECT_EQ(call(4, group, 64, 96), errc::bad_value);
  EXPECT_EQ(call(3, 32, 64, 96), errc::unsupported) << "fewer bits";
  EXPECT_EQ(call(4, 24, 64, 96), errc::unsupported) << "groups that straddle";
  EXPECT_EQ(call(4, 64, 64, 96), errc::bad_shape);
  EXPECT_EQ(call(5, 32, 64, 96), errc::bad_shape);
  EXPECT_EQ(call(4, 32, 64, 128), errc::bad_shape);
  EXPECT_EQ(call(4, 32, 32, 96), errc::bad_shape);
  EXPECT_EQ(call(4, 32, SIZE_MAX, SIZE_MAX), errc::bad_shape);
  EXPECT_EQ(call(4, 32, std::size_t{1} << 63, 32), errc::bad_shape);
  tensors<to::gguf<ar::q4_0>> blocks({}, 64, 96);
  EXPECT_EQ(ar::convert(from, source.in(), to::gguf<ar::q4_0>{}, {{blocks.codes.data(), 64, 53}, {}, {}}, 64, 96), errc::bad_shape);
  EXPECT_EQ(ar::convert(from, source.in(), to::gguf<ar::q4_0>{}, {{nullptr, 64, 54}, {}, {}}, 64, 96), errc::bad_shape);
  EXPECT_EQ(ar::convert(from, source.in(), to::gguf<ar::q4_0>{}, blocks.out(), 64, 80), errc::bad_shape) << "no whole blocks";
}

TEST(Convert, StaticFactsAreKnownToTheCompiler) {
  static_assert(ar::can_convert<to::gptq_v1<4, 128>, to::gguf<ar::q4_0>> && ar::can_convert<to::gptq_v1<4, 128>, to::gguf<ar::q8_0>>);
  static_assert(!ar::can_convert<to::gptq_v1<8, 128>, to::gguf<ar::q4_0>> && !ar::can_convert<to::gguf<ar::q8_0>, to::awq<4>>);
  static_assert(!ar::can_convert<to::gptq_v1<4, 48>, to::gguf<ar::q4_0>> && ar::can_convert<to::gptq_v1<4, -1>, to::gguf<ar::q4_0>>);
  static_assert(ar::can_convert<to::gptq_v1<>, to::awq<>>);
  static_assert(std::is_empty_v<to::gptq_v1<4, 128>> && std::is_empty_v<to::gguf<ar::q4_0>>);
}

constexpr errc in_a_constant_expression() {
  std::uint32_t zeros[4] = {}, words[4 * 32] = {}, packed[32 * 4] = {};
  std::uint16_t scales[32] = {}, out[32] = {};
  for (auto& z : zeros) z = 0x88888888u;
  for (std::uint32_t i = 0; i < 128; ++i) words[i] = 0x76543210u + i;
  for (auto& s : scales) s = 0x3800;
  const errc e = ar::convert(to::gptq_v2<4, 32>{}, {{words, 4, 32}, {scales, 1, 32}, {zeros, 1, 4}}, to::pack_quantized<4, 32>{},
                             {{packed, 32, 4}, {out, 32, 1}, {}}, 32, 32);
  return packed[1] == words[32] && packed[4] == words[1] && out[31] == 0x3800 ? e : errc::bad_value;
}
static_assert(in_a_constant_expression() == errc::ok);

}  // namespace
