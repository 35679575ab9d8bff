// pass_through: nothing changes, whatever the bits are; the preset BF16.
#include "ar/dtype/pass_through.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

namespace {

TEST(PassThrough, KeepsEveryBit) {
  const float w[6] = {1.0f, -0.0f, std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 1e-45f, 0.1f};
  float out[6] = {};
  ASSERT_EQ(ar::qdq(ar::BF16{}, {w, 2, 3}, {out, 2, 3}), ar::errc::ok);
  EXPECT_EQ(std::memcmp(w, out, sizeof(w)), 0);
  EXPECT_EQ(ar::qdq(ar::BF16{}, {w, 2, 3}, {out, 3, 2}), ar::errc::bad_shape);
  EXPECT_FALSE(ar::quantizes(*ar::find_preset("BF16")));
}

}  // namespace
