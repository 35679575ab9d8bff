// compressed-tensors' packed integers: the definition, bit by bit, for every width and ragged rows. Its own words are in
// golden/formats_packs_test.cpp.
#include "support/layout.hpp"

namespace {

constexpr ar::ct_int32 codec;
const std::vector<int> widths = {1, 2, 3, 4, 5, 6, 7, 8};

TEST(CtInt32, EveryWidthAndShapeFollowsTheDefinition) {
  support::expect_definition(codec, widths, {{1, 1}, {1, 31}, {2, 32}, {3, 33}, {2, 63}, {5, 64}, {2, 95}, {2, 96}, {3, 127}, {3, 129}, {4, 500}},
                             [](std::size_t n, std::size_t k, std::size_t t, std::size_t bits) {
                               return support::place{n, (k * bits + t) / 32, (k * bits + t) % 32};
                             });
}

TEST(CtInt32, ZeroPointsAreAStreamDownEachColumn) {
  support::expect_zero_definition(codec, widths, {{1, 1}, {20, 3}, {32, 2}, {33, 2}, {75, 1}},
                                  [](std::size_t n, std::size_t g, std::size_t t, std::size_t bits) {
                                    return support::place{(n * bits + t) / 32, g, (n * bits + t) % 32};
                                  });
}

TEST(CtInt32, SpareBitsAreIgnoredWhenRead) {
  const std::uint32_t words[2] = {0xFFFFFFFFu, 0xFFFFFFF5u};
  std::uint8_t code[9] = {};
  ASSERT_EQ(ar::unpack(codec, 4, {words, 1, 2}, {code, 1, 9}), ar::errc::ok);
  EXPECT_EQ(code[7], 15);
  EXPECT_EQ(code[8], 5);
}

}  // namespace
