// NVFP4 nibbles: the definition, bit by bit. The originals' bytes are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::nvfp4_nibbles codec;

TEST(Nvfp4Nibbles, TheFirstCodeIsInTheLowNibble) {
  support::expect_definition(codec, {4}, {{1, 16}, {3, 48}, {2, 96}, {5, 480}},
                             [](std::size_t n, std::size_t k, std::size_t t, std::size_t) { return support::place{n, k / 2, k % 2 * 4 + t}; });
}

TEST(Nvfp4Nibbles, RowsAreWholeGroups) {
  EXPECT_EQ(ar::packed_shape(codec, 4, 3, 24), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 8, 3, 96), ar::matrix_shape());
  EXPECT_EQ(ar::scale_shape(codec, 16, 3, 96), (ar::matrix_shape{3, 96 / 16}));
  EXPECT_EQ(ar::scale_shape(codec, 64, 3, 192), ar::matrix_shape()) << "groups have one size";
}

}  // namespace
