// MXFP4 nibbles: the definition, bit by bit. The originals' bytes are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::mxfp4_nibbles codec;

TEST(Mxfp4Nibbles, TheFirstCodeIsInTheLowNibble) {
  support::expect_definition(codec, {4}, {{1, 32}, {3, 64}, {2, 96}, {5, 480}},
                             [](std::size_t n, std::size_t k, std::size_t t, std::size_t) { return support::place{n, k / 2, k % 2 * 4 + t}; });
}

TEST(Mxfp4Nibbles, RowsAreWholeGroups) {
  EXPECT_EQ(ar::packed_shape(codec, 4, 3, 48), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 8, 3, 96), ar::matrix_shape());
  EXPECT_EQ(ar::scale_shape(codec, 32, 3, 96), (ar::matrix_shape{3, 96 / 32}));
  EXPECT_EQ(ar::scale_shape(codec, 64, 3, 192), ar::matrix_shape()) << "groups have one size";
}

}  // namespace
