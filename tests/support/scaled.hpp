// What the tests of scaled small floats (MX, NVFP4, FP8) share: one group through all functions, on the unit's lane, the float lane, xsimd, and as
// the run-time instance of the dispatch unit.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "ar/detail/lane_xsimd.hpp"
#include "ar/quantize.hpp"

namespace scaled {

struct fitted {
  ar::errc error{};
  float scale = 0.0f;
  std::vector<int> code;
  std::vector<float> qdq;
};

/// One group.
template <class Type>
fitted fit(const Type& type, const std::vector<float>& w) {
  fitted f;
  const ar::scheme s{type, ar::group<-1>{}};
  std::vector<std::uint8_t> code(w.size());
  f.qdq.resize(w.size());
  f.error = ar::quantize(s, {w.data(), 1, w.size()}, {code.data(), 1, w.size()}, {&f.scale, 1, 1});
  f.code.assign(code.begin(), code.end());
  EXPECT_EQ(ar::qdq(s, {w.data(), 1, w.size()}, {f.qdq.data(), 1, w.size()}), f.error);
  return f;
}

/// Static type, float lane, xsimd and run-time instance give the same bits.
template <class Type>
void expect_one_result_on_all_lanes(const Type& type, int group) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  constexpr std::size_t rows = 5, cols = 203;
  std::vector<float> w(rows * cols), a(w.size()), b(w.size());
  for (float& x : w) x = normal(random);
  for (std::size_t i = 0; i < cols; ++i) w[i] = 0.0f;
  const ar::matrix_view<const float> in(w.data(), rows, cols);
  const ar::matrix_view<float> out(b.data(), rows, cols);
  ASSERT_EQ(ar::qdq(ar::scheme{type, ar::group(group)}, in, {a.data(), rows, cols}), ar::errc::ok);
  const auto equal = [&](const char* who) { EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << who; };
  ASSERT_EQ((ar::rows::qdq<Type, float>(type, group, in, out)), ar::errc::ok);
  equal("float lane");
  ASSERT_EQ((ar::rows::qdq<Type, ar::xsimd_lane<>>(type, group, in, out)), ar::errc::ok);
  equal("xsimd");
  ar::any_scaled any;
  any.the_facts = type.facts();
  any.the_tensor = type.tensor();
  ASSERT_EQ((ar::rows::qdq<ar::any_scaled, ar::native_lane>(any, group, in, out)), ar::errc::ok);
  equal("run-time facts");
}

}  // namespace scaled
