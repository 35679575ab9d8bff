// FP8 bytes and their scales. The originals' bytes are in golden/formats_packs_test.cpp and golden exports.
#include "support/layout.hpp"

namespace {

constexpr ar::fp8_bytes codec;

TEST(Fp8Bytes, BytesAreTheCodes) {
  support::expect_definition(codec, {8}, {{1, 1}, {3, 37}, {2, 256}}, [](std::size_t n, std::size_t k, std::size_t t, std::size_t) { return support::place{n, k, t}; });
}

TEST(Fp8Bytes, ScalesAreOnePerTensorRowOrGroup) {
  EXPECT_EQ(ar::scale_shape(codec, 0, 3, 96), (ar::matrix_shape{1, 1}));
  EXPECT_EQ(ar::scale_shape(codec, -1, 3, 96), (ar::matrix_shape{3, 1}));
  EXPECT_EQ(ar::scale_shape(codec, 64, 3, 96), (ar::matrix_shape{3, 2}));
  EXPECT_EQ(ar::scale_shape(codec, -2, 3, 96), ar::matrix_shape());
}

}  // namespace
