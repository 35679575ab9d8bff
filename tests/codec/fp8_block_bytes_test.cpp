// FP8 bytes with a scale per block of 128 x 128. The originals' bytes are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::fp8_block_bytes codec;

TEST(Fp8BlockBytes, BytesAreTheCodes) {
  support::expect_definition(codec, {8}, {{1, 1}, {3, 37}, {130, 260}}, [](std::size_t n, std::size_t k, std::size_t t, std::size_t) { return support::place{n, k, t}; });
}

TEST(Fp8BlockBytes, TheLastBlocksMayBeShort) {
  EXPECT_EQ(ar::scale_shape(codec, 128, 136, 260), (ar::matrix_shape{2, 3}));
  EXPECT_EQ(ar::scale_shape(codec, 128, 128, 128), (ar::matrix_shape{1, 1}));
  EXPECT_EQ(ar::scale_shape(codec, 64, 128, 128), ar::matrix_shape());
}

}  // namespace
