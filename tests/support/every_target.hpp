// A search or a tuned forward by the float lane and by every SIMD target of this machine, compared with what the reference recorded.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "ar/detail/importance.hpp"
#include "ar/dispatch.hpp"
#include "support/float_search.hpp"
#include "support/golden.hpp"

namespace every_target {

/// +0 and -0 differ.
inline ::testing::AssertionResult same_bits(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << got.size() << " values, expected " << want.size();
  for (std::size_t i = 0; i < got.size(); ++i)
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i]))
      return ::testing::AssertionFailure() << "value " << i << " is " << got[i] << ", expected " << want[i];
  return ::testing::AssertionSuccess();
}

struct matrix {
  std::vector<float> v;
  std::size_t rows = 0, cols = 0;
  matrix() = default;
  matrix(std::vector<float> values, std::size_t r, std::size_t c) : v(std::move(values)), rows(r), cols(c) {}
  explicit matrix(const golden::tensor& t) : v(t.f32()), rows(t.rows()), cols(t.cols()) {}
  ar::matrix_view<const float> view() const {
    return v.empty() ? ar::matrix_view<const float>{} : ar::matrix_view<const float>(v.data(), rows, cols);
  }
  float largest() const {
    float a = 0.0f;
    for (const float x : v) a = std::max(a, std::abs(x));
    return a;
  }
};

/// A type of the registry with what a call needs beside the weights.
struct quantizer {
  std::string name;
  ar::real weight = ar::real::f32, scale = ar::real::f16;
  int bits = 0;
  ar::group_shape group{};
  ar::tensor_values tensor{};
};

struct result {
  std::vector<float> scale, zero_point, factor, weight, code;
};

/// What is expected; an empty vector is not compared.
using expectation = result;

class tables {
 public:
  tables() : count_(ar::all_kernels(table_, 16)) {}

  /// Calls f(functions, values, who) for the float lane and each target; `functions` as in ar::search_functions.
  template <class F>
  void each(const quantizer& q, const F& f) const {
    const ar::range_kernels* first = table_[0]->range_type(q.name, q.weight, q.scale);
    ASSERT_NE(first, nullptr) << q.name;
    ar::type_values values(q.bits, q.tensor);
    values.facts = first->facts;
    f(float_search()[first->number], values, "float lane");
    for (std::size_t t = 0; t < count_; ++t) f(table_[t]->range_types[first->number].searches()[first->number], values, table_[t]->target);
  }
  /// Calls f(kernels, who) for each target.
  template <class F>
  void each_kernels(const quantizer& q, const F& f) const {
    for (std::size_t t = 0; t < count_; ++t) {
      const ar::range_kernels* k = table_[t]->range_type(q.name, q.weight, q.scale);
      ASSERT_NE(k, nullptr) << q.name;
      f(*k, table_[t]->target);
    }
  }
  const ar::range_kernels* type(const quantizer& q) const { return table_[0]->range_type(q.name, q.weight, q.scale); }

 private:
  const ar::kernel_table* table_[16];
  std::size_t count_;
};

/// Room for everything that a call can write.
struct room {
  result r;
  std::vector<std::uint8_t> code;
  std::size_t rows, cols, scale_rows, groups;
  room(const matrix& w, const quantizer& q) : rows(w.rows), cols(w.cols) {
    scale_rows = q.group.size == 0 ? 1 : ar::ceil_div(rows, static_cast<std::size_t>(q.group.rows));
    groups = q.group.size <= 0 ? 1 : ar::ceil_div(cols, static_cast<std::size_t>(q.group.size));
    r.scale.resize(scale_rows * groups);
    r.zero_point.resize(scale_rows * groups);
    r.factor.resize(scale_rows * groups);
    r.weight.resize(w.v.size());
    code.resize(w.v.size());
  }
  ar::group_output views() {
    const auto per_group = [&](std::vector<float>& v) { return ar::matrix_view<float>(v.data(), scale_rows, groups); };
    return {per_group(r.scale), per_group(r.zero_point), per_group(r.factor), {code.data(), rows, cols}, {r.weight.data(), rows, cols}};
  }
};

inline void compare(const result& got, const expectation& want, const std::string& who) {
  SCOPED_TRACE(who);
  if (!want.scale.empty()) {
    EXPECT_TRUE(same_bits(got.scale, want.scale)) << "scale";
  }
  if (!want.zero_point.empty()) {
    EXPECT_TRUE(same_bits(got.zero_point, want.zero_point)) << "zero point";
  }
  if (!want.factor.empty()) {
    EXPECT_TRUE(same_bits(got.factor, want.factor)) << "factor";
  }
  if (!want.weight.empty()) {
    EXPECT_TRUE(same_bits(got.weight, want.weight)) << "weight";
  }
  if (!want.code.empty()) {
    EXPECT_EQ(got.code, want.code) << "code";
  }
}

/// The codes as values: whole numbers around zero.
inline void values_of_codes(room& o, int offset) {
  for (const std::uint8_t c : o.code) o.r.code.push_back(static_cast<float>(static_cast<int>(c) - offset));
}

inline void expect_search(const tables& t, const quantizer& q, const matrix& w, const ar::search_options& how, const expectation& want,
                          int offset = 0) {
  t.each(q, [&](const ar::search_functions& f, const ar::type_values& v, const std::string& who) {
    room o(w, q);
    ASSERT_EQ(f.search(v, q.group, w.view(), how, o.views()), ar::errc::ok) << who;
    values_of_codes(o, offset);
    compare(o.r, want, who);
  });
}

/// Rounding to nearest: fit and qdq.
inline void expect_rtn(const tables& t, const quantizer& q, const matrix& w, const expectation& want) {
  t.each_kernels(q, [&](const ar::range_kernels& k, const std::string& who) {
    room o(w, q);
    const ar::group_output out = o.views();
    ASSERT_EQ(k.fit({q.bits, q.tensor}, q.group, w.view(), out.scale, k.has_zero_point ? out.zero_point : ar::matrix_view<float>{}), ar::errc::ok)
        << who;
    ASSERT_EQ(k.qdq({q.bits, q.tensor}, q.group, w.view(), out.weight), ar::errc::ok) << who;
    compare(o.r, want, who);
  });
}

inline void expect_tuned(const tables& t, const quantizer& q, const matrix& w, const ar::tuned_values& tuned, const expectation& want) {
  t.each(q, [&](const ar::search_functions& f, const ar::type_values& v, const std::string& who) {
    room o(w, q);
    ASSERT_EQ(f.quantize_tuned(v, q.group, w.view(), tuned, o.views()), ar::errc::ok) << who;
    compare(o.r, want, who);
  });
}

}  // namespace every_target
