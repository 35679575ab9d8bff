// links: ar_tune
// Activations between blocks: what is kept in float comes back as it was, in bfloat16 rounded, and relative to others with the precision of the difference.
#include "tune/activations.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "ar/numeric/half.hpp"

namespace {

using auto_round::tune::activations;

constexpr std::size_t samples = 3, size = 5000;  // more than a piece

std::vector<float> numbers(std::size_t n, float step, float from) {
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = from + step * static_cast<float>(i % 977);
  return v;
}

std::vector<float> loaded(const activations& a) {
  std::vector<float> out(samples * size);
  a.load(0, samples, out.data());
  return out;
}

TEST(Activations, FloatsStayAndBfloat16IsRounded) {
  const std::vector<float> in = numbers(samples * size, 0.37f, -100.0f);
  activations a;
  ASSERT_TRUE(a.reset(samples, size, false));
  a.store(0, samples, in.data());
  EXPECT_EQ(loaded(a), in);
  ASSERT_TRUE(a.reset(samples, size, true));
  a.store(0, samples, in.data());
  const std::vector<float> rounded = loaded(a);
  for (std::size_t i = 0; i < in.size(); ++i) ASSERT_EQ(rounded[i], ar::round_to_bf16(in[i]));
}

TEST(Activations, RelativeToOthersOnlyTheDifferenceIsRounded) {
  for (const bool bf16 : {false, true}) {
    const std::vector<float> base = numbers(samples * size, 3.0f, 1000.0f), difference = numbers(samples * size, 0.001f, -0.3f);
    activations b, a;
    ASSERT_TRUE(b.reset(samples, size, bf16));
    b.store(0, samples, base.data());
    ASSERT_TRUE(a.reset_relative(samples, size, b));
    EXPECT_EQ(loaded(a), loaded(b)) << "nothing stored: no difference";
    std::vector<float> in = loaded(b);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] += difference[i];
    a.store(1, 2, in.data() + size);
    a.store(0, 1, in.data());
    const std::vector<float> out = loaded(a), kept = loaded(b);
    std::vector<float> scratch(100);
    for (std::size_t i = 0; i < in.size(); ++i) {
      ASSERT_EQ(out[i], kept[i] + ar::round_to_bf16(in[i] - kept[i])) << i;
      ASSERT_NEAR(out[i], in[i], std::abs(difference[i]) / 256 + 1e-4f) << i;
    }
    const float* const row = a.row(2, 70, 100, scratch.data());
    for (std::size_t i = 0; i < 100; ++i) ASSERT_EQ(row[i], out[2 * size + 70 + i]);
  }
}

}  // namespace
