// MXFP8 bytes and their scales. The originals' bytes are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::mxfp8_bytes codec;

TEST(Mxfp8Bytes, BytesAreTheCodes) {
  support::expect_definition(codec, {8}, {{1, 32}, {3, 96}}, [](std::size_t n, std::size_t k, std::size_t t, std::size_t) { return support::place{n, k, t}; });
}

TEST(Mxfp8Bytes, RowsAreWholeGroups) {
  EXPECT_EQ(ar::packed_shape(codec, 8, 3, 48), ar::matrix_shape());
  EXPECT_EQ(ar::packed_shape(codec, 4, 3, 64), ar::matrix_shape());
  EXPECT_EQ(ar::scale_shape(codec, 32, 3, 96), (ar::matrix_shape{3, 3}));
}

}  // namespace
