// GPTQModel's planes: the definition, bit by bit. GPTQModel's own words are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::gptq_planar codec;
const std::vector<int> widths = {2, 3, 4, 5, 6, 7, 8};

/// Bit t of value i of 32: the word and the bit in it.
std::pair<std::size_t, std::size_t> in_planes(std::size_t i, std::size_t t, std::size_t bits) {
  std::size_t from = 0;
  for (const std::size_t plane : {8u, 4u, 2u, 1u}) {
    if ((bits & plane) == 0) continue;
    if (t < from + plane) return {from + i * plane / 32, i * plane % 32 + t - from};
    from += plane;
  }
  return {99, 0};
}

TEST(GptqPlanar, EveryWidthAndShapeFollowsTheDefinition) {
  support::expect_definition(codec, widths, {{1, 32}, {3, 64}, {33, 288}, {40, 576}}, [](std::size_t n, std::size_t k, std::size_t t, std::size_t bits) {
    const auto [word, bit] = in_planes(k % 32, t, bits);
    return support::place{k / 32 * bits + word, n, bit};
  });
}

TEST(GptqPlanar, ZeroPointsArePlanesAlongTheOutputs) {
  support::expect_zero_definition(codec, widths, {{32, 1}, {96, 3}}, [](std::size_t n, std::size_t g, std::size_t t, std::size_t bits) {
    const auto [word, bit] = in_planes(n % 32, t, bits);
    return support::place{g, n / 32 * bits + word, bit};
  });
}

TEST(GptqPlanar, WidthsOfOnePlaneAreTheStream) {
  for (const int bits : {2, 4, 8}) {
    const auto code = support::random_codes(32 * 64, bits);
    const ar::matrix_shape s = ar::packed_shape(codec, bits, 32, 64);
    std::vector<std::uint32_t> planes(s.rows * s.cols), stream(s.rows * s.cols);
    ASSERT_EQ(ar::pack(codec, bits, {code.data(), 32, 64}, {planes.data(), s.rows, s.cols}), ar::errc::ok);
    ASSERT_EQ(ar::pack(ar::gptq_int32{}, bits, {code.data(), 32, 64}, {stream.data(), s.rows, s.cols}), ar::errc::ok);
    EXPECT_EQ(planes, stream);
  }
}

}  // namespace
