// Signed bytes: a code is the number plus 128. The original's bytes are in golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::int8_bytes codec;

TEST(Int8Bytes, ACodeIsTheSignedNumberPlus128) {
  std::vector<std::uint8_t> code(256), bytes(256), back(256);
  for (std::size_t i = 0; i < 256; ++i) code[i] = static_cast<std::uint8_t>(i);
  ASSERT_EQ(ar::pack(codec, 8, {code.data(), 2, 128}, {bytes.data(), 2, 128}), ar::errc::ok);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(static_cast<std::int8_t>(bytes[static_cast<std::size_t>(i)]), i - 128);
  ASSERT_EQ(ar::unpack(codec, 8, {bytes.data(), 2, 128}, {back.data(), 2, 128}), ar::errc::ok);
  EXPECT_EQ(back, code);
}

TEST(Int8Bytes, ScalesAreOnePerRow) { EXPECT_EQ(ar::scale_shape(codec, -1, 7, 96), (ar::matrix_shape{7, 1})); }

}  // namespace
