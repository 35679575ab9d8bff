// Conversion between layouts against the peers' own conversions (golden/formats/packs): AutoAWQ's AWQ to GPTQ v1, GPTQModel's between v1 and v2, and
// GPTQ v1 to MLX. Where a peer's result is not lossless, ours is an error: both are shown.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ar/convert.hpp"
#include "support/golden.hpp"

namespace {

using ar::errc;
namespace layout = ar::layout;
using words = std::vector<std::uint32_t>;
using halves = std::vector<std::uint16_t>;

template <class T>
ar::matrix_view<const T> view(const std::vector<T>& v, const golden::tensor& t) {
  return {v.data(), t.rows(), t.cols()};
}
template <class T>
ar::matrix_view<T> view(std::vector<T>& v, const golden::tensor& t) {
  return {v.data(), t.rows(), t.cols()};
}

/// zero points [groups x outputs] of GPTQ words, as a reader of this convention sees them.
std::vector<std::int32_t> zeros(ar::zero_convention convention, int bits, const words& qzeros, const golden::tensor& t, std::size_t outputs) {
  std::vector<std::int32_t> z(outputs * t.rows());
  EXPECT_EQ(ar::unpack_zeros(ar::gptq_int32{}, convention, bits, {qzeros.data(), t.rows(), t.cols()}, {z.data(), outputs, t.rows()}), errc::ok);
  return z;
}

TEST(Conversions, AwqToGptqEqualsAutoAwqExceptWhereItBorrows) {
  const golden::file f("formats/packs", "awq_w4.safetensors");
  const auto qweight = f["asym.qweight"].as<std::uint32_t>(), qzeros = f["asym.qzeros"].as<std::uint32_t>();
  const auto scales = f["asym.scales"].as<std::uint16_t>();
  const golden::tensor &codes = f["in.codes"], &want_weight = f["asym.to_gptq_v1.qweight"], &want_zeros = f["asym.to_gptq_v1.qzeros"];
  const std::size_t rows = codes.rows(), cols = codes.cols();
  const layout::awq<4, 32> awq;
  const auto convert = [&](auto to, words& weight, words& zero, halves& scale, const words& from_zeros) {
    return ar::convert(awq, {view(qweight, f["asym.qweight"]), view(scales, f["asym.scales"]), view(from_zeros, f["asym.qzeros"])}, to,
                       {view(weight, want_weight), view(scale, f["asym.scales"]), view(zero, want_zeros)}, rows, cols);
  };
  words weight(want_weight.size()), zero(want_zeros.size());
  halves scale(scales.size());
  // The peer's zero points of 0 borrow from the next field. v1 has no such field: an error; v2 has one.
  EXPECT_EQ(convert(layout::gptq_v1<4, 32>{}, weight, zero, scale, qzeros), errc::not_representable);
  ASSERT_EQ(convert(layout::gptq_v2<4, 32>{}, weight, zero, scale, qzeros), errc::ok);
  EXPECT_EQ(weight, want_weight.as<std::uint32_t>());
  EXPECT_EQ(scale, scales);
  EXPECT_EQ(zeros(ar::zero_convention::v2, 4, zero, want_zeros, rows), f["in.zp"].as<std::int32_t>());
  // Without zeros of 0 (1 in their place), words of v1 are the peer's wherever no field was borrowed from.
  std::vector<std::int32_t> lifted = f["in.zp"].as<std::int32_t>();
  for (auto& z : lifted) z = std::max(z, 1);
  words lifted_words(qzeros.size());
  ASSERT_EQ(
      ar::pack_zeros(ar::awq_int32{}, ar::zero_convention::v2, 4, {lifted.data(), rows, f["in.zp"].cols()}, view(lifted_words, f["asym.qzeros"])),
      errc::ok);
  ASSERT_EQ(convert(layout::gptq_v1<4, 32>{}, weight, zero, scale, lifted_words), errc::ok);
  EXPECT_EQ(weight, want_weight.as<std::uint32_t>());
  const words peer = want_zeros.as<std::uint32_t>();
  const auto zp = f["in.zp"].as<std::int32_t>();
  int compared = 0;
  for (std::size_t g = 0; g < want_zeros.rows(); ++g)
    for (std::size_t w = 0; w < want_zeros.cols(); ++w) {
      bool borrows = false;
      for (std::size_t n = 0; n < 8; ++n) borrows |= zp[(w * 8 + n) * f["in.zp"].cols() + g] == 0;
      if (borrows) continue;
      EXPECT_EQ(zero[g * want_zeros.cols() + w], peer[g * want_zeros.cols() + w]);
      ++compared;
    }
  EXPECT_GT(compared, 0);
}

TEST(Conversions, GptqVersionsEqualGptqModel) {
  for (const int bits : {2, 3, 4, 8}) {
    SCOPED_TRACE(bits);
    const golden::file model("formats/packs", "gptqmodel_pack.safetensors"), pack("formats/packs", "gptq_w" + std::to_string(bits) + ".safetensors");
    const std::string w = "w" + std::to_string(bits);
    const golden::tensor &weight = pack["zp0.v1.qweight"], &v1 = pack["zp0.v1.qzeros"], &want = model[w + ".zp0_v1_to_v2"];
    const auto qweight = weight.as<std::uint32_t>(), qzeros = v1.as<std::uint32_t>();
    const auto scales = pack["asym.v1.scales"].as<std::uint16_t>();
    words out(qweight.size()), zero(qzeros.size());
    halves scale(scales.size());
    const std::size_t rows = weight.cols(), cols = weight.rows() * 32 / static_cast<std::size_t>(bits);
    ASSERT_EQ(ar::convert(layout::gptq_v1<>(bits, 32), {view(qweight, weight), view(scales, pack["asym.v1.scales"]), view(qzeros, v1)},
                          layout::gptq_v2<>(bits, 32), {view(out, weight), view(scale, pack["asym.v1.scales"]), view(zero, v1)}, rows, cols),
              errc::ok);
    EXPECT_EQ(zero, want.as<std::uint32_t>());
    EXPECT_EQ(out, qweight);
    EXPECT_EQ(scale, scales);
    // And back: the same words of v1.
    words again(qzeros.size());
    ASSERT_EQ(ar::convert(layout::gptq_v2<>(bits, 32), {view(qweight, weight), view(scales, pack["asym.v1.scales"]), view(std::as_const(zero), v1)},
                          layout::gptq_v1<>(bits, 32), {view(out, weight), view(scale, pack["asym.v1.scales"]), view(again, v1)}, rows, cols),
              errc::ok);
    EXPECT_EQ(again, qzeros);
  }
}

TEST(Conversions, GptqToMlxEqualsThePeerWhereItIsLossless) {
  const golden::file f("formats/packs", "gptq_v1_to_mlx.safetensors");
  int exact = 0, rounded = 0;
  for (const int bits : {2, 3, 4, 8}) {
    const std::string w = "w" + std::to_string(bits) + ".";
    SCOPED_TRACE(w);
    const golden::tensor &weight = f[w + "in.qweight"], &qzeros = f[w + "in.qzeros"], &scales = f[w + "in.scales"], &out = f[w + "weight"],
                         &biases = f[w + "biases"];
    const auto words_in = weight.as<std::uint32_t>(), zeros_in = qzeros.as<std::uint32_t>();
    const auto scales_in = scales.as<std::uint16_t>(), want_bias = biases.as<std::uint16_t>();
    const std::size_t rows = out.rows(), cols = weight.rows() * 32 / static_cast<std::size_t>(bits), groups = biases.cols();
    // Biases in float32 are always exact here, so all of it converts; the peer's are these, rounded to half precision.
    words packed(out.size());
    std::vector<float> scale(rows * groups), bias(rows * groups);
    ASSERT_EQ(ar::convert(layout::gptq_v1<>(bits, 32), {view(words_in, weight), view(scales_in, scales), view(zeros_in, qzeros)},
                          layout::mlx<ar::dynamic, ar::dynamic, ar::real::f32>(bits, 32),
                          {view(packed, out), {scale.data(), rows, groups}, {bias.data(), rows, groups}}, rows, cols, ar::zero_sign::any),
              errc::ok);
    EXPECT_EQ(packed, out.as<std::uint32_t>());
    const auto want_scale = f[w + "scales"].as<std::uint16_t>();
    bool all_exact = true;
    for (std::size_t i = 0; i < bias.size(); ++i) {
      EXPECT_EQ(ar::f16_from_f32(scale[i]), want_scale[i]);
      EXPECT_EQ(ar::f16_from_f32(bias[i]), want_bias[i]);
      const bool is_exact = ar::round_to_f16(bias[i]) == bias[i];
      ++(is_exact ? exact : rounded);
      all_exact &= is_exact;
    }
    // In half precision the same matrix converts only if no bias was rounded.
    halves half_scale(rows * groups), half_bias(rows * groups);
    EXPECT_EQ(
        ar::convert(layout::gptq_v1<>(bits, 32), {view(words_in, weight), view(scales_in, scales), view(zeros_in, qzeros)}, layout::mlx<>(bits, 32),
                    {view(packed, out), {half_scale.data(), rows, groups}, {half_bias.data(), rows, groups}}, rows, cols, ar::zero_sign::any),
        all_exact ? errc::ok : errc::not_representable);
  }
  EXPECT_GT(exact, 0);
  EXPECT_GT(rounded, 0) << "the peer's conversion loses bits, and ours says so";
}

}  // namespace
