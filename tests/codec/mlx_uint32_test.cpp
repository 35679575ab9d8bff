// MLX words: the definition, bit by bit; widths and shapes that MLX has. MLX's own words are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::mlx_uint32 codec;

TEST(MlxUint32, EveryWidthAndShapeFollowsTheDefinition) {
  const auto at = [](std::size_t n, std::size_t k, std::size_t t, std::size_t bits) { return support::place{n, (k * bits + t) / 32, (k * bits + t) % 32}; };
  support::expect_definition(codec, {2, 3, 4, 5, 6, 8}, {{1, 32}, {2, 64}, {3, 96}, {3, 160}, {4, 512}}, at);
  support::expect_definition(codec, {2}, {{3, 16}, {3, 80}}, at);
  support::expect_definition(codec, {4}, {{3, 8}, {3, 72}}, at);
  support::expect_definition(codec, {8}, {{3, 4}, {3, 36}}, at);
}

TEST(MlxUint32, RowsAreWholeWords) {
  EXPECT_EQ(ar::packed_shape(codec, 4, 2, 12), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 2, 2, 8), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 3, 2, 48), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 3, 2, 64), (ar::matrix_shape{2, 6}));
  for (const int bits : {1, 7, 9}) EXPECT_EQ(ar::packed_shape(codec, bits, 2, 64), ar::matrix_shape()) << "MLX has no such width";
  EXPECT_EQ(ar::packed_zero_shape(codec, 4, 32, 2), ar::matrix_shape()) << "MLX stores biases";
}

}  // namespace
