// links: ar_dispatch
// What holds for every data type that is fitted from the range of a group, found by walking the kernel tables: a new type is tested before its
// author writes a line. Also: the registry and the folder agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ar/data_types.hpp"
#include "ar/detail/small_lane-inl.h"
#include "ar/dispatch.hpp"
#include "support/pattern.hpp"

namespace {

constexpr std::uint32_t seed = 20261123;

std::vector<const ar::kernel_table*> tables() {
  std::vector<const ar::kernel_table*> t(16);
  t.resize(ar::all_kernels(t.data(), t.size()));
  return t;
}

struct instance {
  const ar::range_kernels* kernels;
  std::size_t number;  // the same in the table of every target
};

std::vector<instance> range_types() {
  std::vector<instance> all;
  const ar::kernel_table& best = ar::kernels();
  for (std::size_t i = 0; i < best.range_type_count; ++i) all.push_back({best.range_types + i, i});
  return all;
}

std::string label(const ar::range_kernels& k) {
  const char* const formats[] = {"f32", "f16", "bf16"};
  return std::string(k.name) + " computed in " + formats[static_cast<int>(k.weight_format)] + ", scales in " + formats[static_cast<int>(k.scale_format)];
}

float rounded(ar::real format, float x) { return format == ar::real::f16 ? ar::round_to_f16(x) : format == ar::real::bf16 ? ar::round_to_bf16(x) : x; }

struct matrix {
  std::size_t rows, cols;
  std::vector<float> v;
  matrix(std::size_t r, std::size_t c) : rows(r), cols(c), v(r * c) {}
  ar::matrix_view<const float> view() const { return {v.data(), rows, cols}; }
  ar::matrix_view<float> view() { return {v.data(), rows, cols}; }
};

/// Weights as layers have them, in the format that the type computes in, with some rows that are special.
matrix weights(std::size_t rows, std::size_t cols, ar::real format, std::uint32_t salt = 0) {
  std::mt19937 random(seed + salt);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  matrix w(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) {
      float x = normal(random);
      if (r % 7 == 1) x = 0.0f;
      if (r % 7 == 2) x = std::abs(x);
      if (r % 7 == 3) x = -std::abs(x);
      if (r % 7 == 4) x *= 1e-5f;
      if (r % 7 == 5 && c % 17 == 3) x *= 100.0f;
      w.v[r * cols + c] = rounded(format, x);
    }
  return w;
}

struct quantized {
  std::vector<std::uint8_t> code;
  std::vector<float> scale, zero_point;
  std::size_t rows, cols, param_rows, groups;
  quantized(std::size_t r, std::size_t c, int group) : code(r * c), rows(r), cols(c), param_rows(group == 0 ? 1 : r) {
    groups = group <= 0 ? 1 : ar::ceil_div(c, static_cast<std::size_t>(group));
    scale.resize(param_rows * groups);
    zero_point.resize(param_rows * groups);
  }
  ar::matrix_view<std::uint8_t> codes() { return {code.data(), rows, cols}; }
  ar::matrix_view<float> scales() { return {scale.data(), param_rows, groups}; }
  ar::matrix_view<float> zeros() { return {zero_point.data(), param_rows, groups}; }
  bool operator==(const quantized& o) const {
    return code == o.code && std::memcmp(scale.data(), o.scale.data(), scale.size() * 4) == 0 &&
           std::memcmp(zero_point.data(), o.zero_point.data(), zero_point.size() * 4) == 0;
  }
};

/// The least width of types that have several.
int least_bits(const ar::range_kernels& k) { return std::string_view(k.name) == "int_sym" || std::string_view(k.name) == "int_asym" ? 1 : 2; }

/// The widths to try: all, or the one that the type has.
std::vector<int> widths(const ar::range_kernels& k, std::vector<int> all = {}) {
  if (k.fixed_bits() != 0) return {k.fixed_bits()};
  if (all.empty())
    for (int bits = least_bits(k); bits <= 8; ++bits) all.push_back(bits);
  return all;
}

/// Bits, and for types that have a scale of the whole tensor the maximum that it follows from.
ar::type_values values(const ar::range_kernels& k, int bits, const std::vector<float>& w) {
  ar::type_values v(bits);
  if (k.two_level()) {
    v.tensor.maximum = 0.0f;
    for (const float x : w) v.tensor.maximum = std::max(v.tensor.maximum, std::abs(x));
  }
  return v;
}

bool same_bits(const matrix& a, const matrix& b) { return std::memcmp(a.v.data(), b.v.data(), a.v.size() * sizeof(float)) == 0; }

const std::filesystem::path headers = std::filesystem::path(AR_SOURCE_DIR) / "include/ar";

std::vector<std::string> files_of_data_types() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(headers / "dtype")) files.push_back(entry.path().stem().string());
  std::sort(files.begin(), files.end());
  return files;
}

TEST(Registry, ListsTheFilesOfTheFolder) {
  const std::vector<std::string> files = files_of_data_types();
  std::vector<std::string> listed;
#define STEM(stem) listed.push_back(#stem);
  AR_FOR_EACH_DATA_TYPE(STEM)
#undef STEM
  EXPECT_EQ(listed, files) << "add the new file to ar/data_types.hpp";
  std::printf("SIMD targets of this machine:");
  for (const auto* t : tables()) std::printf(" %s", t->target);
  std::printf("\n");
}

TEST(Registry, NoOtherHeaderNamesADataType) {
  std::string names;
  for (const std::string& stem : files_of_data_types()) names += (names.empty() ? "" : "|") + stem;
  const support::pattern name("\\b(" + names + ")\\b"), number("= [0-9]+,");
  int looked_at = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(headers)) {
    const std::string path = std::filesystem::relative(entry.path(), headers).generic_string();
    if (!entry.is_regular_file() || path.rfind("dtype/", 0) == 0 || path == "data_types.hpp") continue;
    ++looked_at;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      line.resize(std::min(line.size(), line.find("//")));
      // The numbers that GGUF files use for their types are a fact of the file format.
      if (path == "detail/gguf_block.hpp" && !number.search(line).empty()) continue;
      EXPECT_TRUE(name.search(line).empty()) << path << ": " << line;
    }
  }
  EXPECT_GT(looked_at, 20);
}

TEST(RangeTypes, EveryTargetGivesTheSameBits) {
  for (const auto& type : range_types())
    for (int bits : widths(*type.kernels, {2, 8}))
      for (std::size_t cols : {std::size_t{1}, std::size_t{33}, std::size_t{130}, std::size_t{700}})
        for (int group : {-1, 0, 7, 32}) {
          SCOPED_TRACE(label(*type.kernels) + ", bits " + std::to_string(bits) + ", cols " + std::to_string(cols) + ", group " + std::to_string(group));
          const std::size_t rows = cols > 500 ? 3 : 9;
          const matrix w = weights(rows, cols, type.kernels->weight_format, static_cast<std::uint32_t>(cols));
          std::vector<quantized> q;
          std::vector<matrix> dequantized, qdq;
          for (const auto* table : tables()) {
            const ar::range_kernels& k = table->range_types[type.number];
            q.emplace_back(rows, cols, group);
            dequantized.emplace_back(rows, cols);
            qdq.emplace_back(rows, cols);
            const ar::type_values v = values(k, bits, w.v);
            ASSERT_EQ(k.quantize(v, group, w.view(), q.back().codes(), q.back().scales(), q.back().zeros()), ar::errc::ok);
            ASSERT_EQ(k.dequantize(v, group, q.back().codes(), q.back().scales(), q.back().zeros(), dequantized.back().view()), ar::errc::ok);
            ASSERT_EQ(k.qdq(v, group, w.view(), qdq.back().view()), ar::errc::ok);
            ASSERT_TRUE(q.back() == q[0]) << table->target;
            ASSERT_TRUE(same_bits(dequantized.back(), dequantized[0])) << table->target;
            ASSERT_TRUE(same_bits(qdq.back(), qdq[0])) << table->target;
          }
          // What a reader sees is what qdq promises, but for the sign of zero.
          for (std::size_t i = 0; i < w.v.size(); ++i) ASSERT_EQ(dequantized[0].v[i], qdq[0].v[i]) << i;
        }
}

TEST(RangeTypes, CodesFitTheirWidthAndScalesTheirFormat) {
  for (const auto& type : range_types())
    for (const int bits : widths(*type.kernels)) {
      SCOPED_TRACE(label(*type.kernels) + ", bits " + std::to_string(bits));
      const matrix w = weights(21, 96, type.kernels->weight_format);
      quantized q(21, 96, 32);
      ASSERT_EQ(type.kernels->quantize(values(*type.kernels, bits, w.v), 32, w.view(), q.codes(), q.scales(), q.zeros()), ar::errc::ok);
      for (const std::uint8_t c : q.code) ASSERT_LT(c, 1 << bits);
      if (type.kernels->facts != nullptr) continue;  // scales of their own kind: below
      for (const float s : q.scale) {
        ASSERT_NE(s, 0.0f);
        ASSERT_EQ(rounded(type.kernels->scale_format, s), s);
        ASSERT_GE(std::abs(s), ar::scale_threshold(type.kernels->scale_format));
      }
      for (const float z : q.zero_point) {
        ASSERT_EQ(std::nearbyint(z), z);
        ASSERT_GE(z, 0.0f);
        ASSERT_LE(z, static_cast<float>(1 << bits));
      }
    }
}

TEST(RangeTypes, EveryCodeIsItsOwnQuantization) {
  for (const auto& type : range_types()) {
    if (type.kernels->facts != nullptr) continue;  // codes of their own kind: below
    for (int bits = least_bits(*type.kernels); bits <= 8; ++bits) {
      SCOPED_TRACE(label(*type.kernels) + ", bits " + std::to_string(bits));
      // The 8 significant bits of a bfloat16 weight are too few to tell 8-bit codes apart. So it is in the reference.
      if (bits == 8 && type.kernels->weight_format == ar::real::bf16) continue;
      const std::size_t n = std::size_t{1} << bits;
      std::vector<std::uint8_t> code(n), back(n);
      for (std::size_t i = 0; i < n; ++i) code[i] = static_cast<std::uint8_t>(i);
      for (float s : {1.0f, 0.0123f, 3e-4f}) {
        const float scale = rounded(type.kernels->scale_format, s), zero = std::floor(static_cast<float>(n) / 3);
        const ar::matrix_view<const float> scales(&scale, 1, 1), zeros(&zero, 1, 1);
        std::vector<float> w(n);
        ASSERT_EQ(type.kernels->dequantize(bits, -1, {code.data(), 1, n}, scales, zeros, {w.data(), 1, n}), ar::errc::ok);
        ASSERT_EQ(type.kernels->encode(bits, -1, {w.data(), 1, n}, scales, zeros, {back.data(), 1, n}), ar::errc::ok);
        EXPECT_EQ(back, code);
        EXPECT_TRUE(std::is_sorted(w.begin(), w.end())) << "larger codes mean larger weights";
      }
    }
  }
}

TEST(RangeTypes, ErrorIsAtMostHalfAStepInsideTheRange) {
  for (const auto& type : range_types()) {
    if (type.kernels->weight_format != ar::real::f32 || type.kernels->facts != nullptr) continue;  // others round the result once more
    for (int bits = least_bits(*type.kernels); bits <= 8; ++bits) {
      SCOPED_TRACE(label(*type.kernels) + ", bits " + std::to_string(bits));
      const matrix w = weights(14, 64, ar::real::f32);
      matrix out(14, 64);
      quantized q(14, 64, 32);
      ASSERT_EQ(type.kernels->qdq(bits, 32, w.view(), out.view()), ar::errc::ok);
      ASSERT_EQ(type.kernels->fit(bits, 32, w.view(), q.scales(), q.zeros()), ar::errc::ok);
      for (std::size_t r = 0; r < 14; ++r) {
        if (r % 7 == 2 || r % 7 == 3) continue;  // one-sided groups: int_sym_gptq clips half of them, as its reference does
        for (std::size_t c = 0; c < 64; ++c) {
          const float step = std::abs(q.scale[r * 2 + c / 32]);
          // Half a step by rounding; a step more where the end of the range falls off the grid (symmetric types have one code less on one side,
          // and a rounded scale or zero point moves the ends).
          ASSERT_LE(std::abs(out.v[r * 64 + c] - w.v[r * 64 + c]), 1.51f * step) << r << ", " << c;
        }
      }
    }
  }
}

TEST(RangeTypes, GroupsAreIndependentAndTheLastMayBeShort) {
  for (const auto& type : range_types()) {
    SCOPED_TRACE(label(*type.kernels));
    const matrix w = weights(5, 100, type.kernels->weight_format);
    matrix whole(5, 100);
    const ar::type_values four = values(*type.kernels, 4, w.v);
    ASSERT_EQ(type.kernels->qdq(four, 32, w.view(), whole.view()), ar::errc::ok);
    for (std::size_t at = 0; at < 100; at += 32) {
      const std::size_t n = std::min<std::size_t>(32, 100 - at);
      matrix part(5, n);
      const ar::matrix_view<const float> columns(w.v.data() + at, 5, n, 100);
      ASSERT_EQ(type.kernels->qdq(four, -1, columns, part.view()), ar::errc::ok);
      for (std::size_t r = 0; r < 5; ++r) ASSERT_EQ(std::memcmp(part.v.data() + r * n, whole.v.data() + r * 100 + at, n * sizeof(float)), 0);
    }
    // A group longer than the row is the row.
    matrix longer(5, 100), row(5, 100);
    ASSERT_EQ(type.kernels->qdq(4, 128, w.view(), longer.view()), ar::errc::ok);
    ASSERT_EQ(type.kernels->qdq(4, -1, w.view(), row.view()), ar::errc::ok);
    EXPECT_TRUE(same_bits(longer, row));
  }
}

TEST(RangeTypes, WorksInPlaceAndLeavesTheGapsOfAViewAlone) {
  for (const auto& type : range_types()) {
    SCOPED_TRACE(label(*type.kernels));
    matrix w = weights(4, 80, type.kernels->weight_format), out(4, 50);
    const ar::matrix_view<const float> in(w.v.data(), 4, 50, 80);
    const matrix before = w;
    ASSERT_EQ(type.kernels->qdq(3, 16, in, out.view()), ar::errc::ok);
    ASSERT_EQ(type.kernels->qdq(3, 16, in, {w.v.data(), 4, 50, 80}), ar::errc::ok);
    for (std::size_t r = 0; r < 4; ++r) {
      ASSERT_EQ(std::memcmp(w.v.data() + r * 80, out.v.data() + r * 50, 50 * sizeof(float)), 0);
      ASSERT_EQ(std::memcmp(w.v.data() + r * 80 + 50, before.v.data() + r * 80 + 50, 30 * sizeof(float)), 0);
    }
  }
}

TEST(RangeTypes, NonFiniteWeightsAreAnErrorAndNothingIsWritten) {
  for (const auto* table : tables())
    for (const auto& type : range_types()) {
      const ar::range_kernels& k = table->range_types[type.number];
      SCOPED_TRACE(std::string(table->target) + " " + label(k));
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
        for (const std::size_t at : {std::size_t{0}, std::size_t{36}, std::size_t{2 * 37 - 1}}) {
          matrix w = weights(2, 37, k.weight_format), out(2, 37);
          w.v[at] = bad;
          quantized q(2, 37, 16);
          std::fill(q.code.begin(), q.code.end(), std::uint8_t{0xAA});
          const quantized untouched = q;
          const ar::type_values v(4, {.maximum = 1.0f});
          EXPECT_EQ(k.quantize(v, 16, w.view(), q.codes(), q.scales(), q.zeros()), ar::errc::non_finite);
          EXPECT_EQ(k.fit(v, 16, w.view(), q.scales(), q.zeros()), ar::errc::non_finite);
          EXPECT_EQ(k.qdq(v, 16, w.view(), out.view()), ar::errc::non_finite);
          EXPECT_EQ(k.qdq(4, 16, w.view(), out.view()), ar::errc::non_finite);
          EXPECT_TRUE(q == untouched);
          EXPECT_TRUE(same_bits(out, matrix(2, 37)));
          const std::vector<float> ones(6, 1.0f);
          EXPECT_EQ(k.encode(v, 16, w.view(), {ones.data(), 2, 3}, {ones.data(), 2, 3}, q.codes()), ar::errc::non_finite);
          EXPECT_TRUE(q == untouched);
        }
    }
}

TEST(RangeTypes, ScalesThatOverflowTheirFormatAreAnError) {
  for (const auto& type : range_types()) {
    if (type.kernels->scale_format != ar::real::f16 || type.kernels->weight_format == ar::real::f16) continue;
    SCOPED_TRACE(label(*type.kernels));
    matrix w = weights(3, 64, type.kernels->weight_format), out(3, 64);
    w.v[70] = -1e8f;
    EXPECT_EQ(type.kernels->qdq(4, 32, w.view(), out.view()), ar::errc::not_representable);
    EXPECT_TRUE(same_bits(out, matrix(3, 64)));
    w.v[70] = -60000.0f;
    EXPECT_EQ(type.kernels->qdq(4, 32, w.view(), out.view()), ar::errc::ok);
    // The two ends of the matrix's range need not meet in one group: -400000 and 400000 in different rows still have scales in half precision.
    w.v[70] = -400000.0f;
    w.v[0] = 400000.0f;
    EXPECT_EQ(type.kernels->qdq(4, 32, w.view(), out.view()), ar::errc::ok);
    for (const float x : out.v) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(RangeTypes, WrongShapesAndParametersAreErrors) {
  for (const auto& type : range_types()) {
    const ar::range_kernels& k = *type.kernels;
    SCOPED_TRACE(label(k));
    const matrix w = weights(4, 64, k.weight_format);
    matrix out(4, 64);
    quantized q(4, 64, 32);
    using ar::errc;
    if (k.fixed_bits() == 0) {
      EXPECT_EQ(k.qdq(0, 32, w.view(), out.view()), errc::bad_value);
      EXPECT_EQ(k.qdq(9, 32, w.view(), out.view()), errc::bad_value);
    }
    const ar::type_values v = values(k, 4, w.v);
    EXPECT_EQ(k.qdq(4, {0, 2}, w.view(), out.view()), errc::bad_value) << "a tile without columns";
    EXPECT_EQ(k.qdq(4, {32, 0}, w.view(), out.view()), errc::bad_value);
    EXPECT_EQ(k.qdq(4, -2, w.view(), out.view()), errc::bad_value);
    EXPECT_EQ(k.qdq(4, 32, w.view(), {out.v.data(), 4, 63}), errc::bad_shape);
    EXPECT_EQ(k.qdq(4, 32, w.view(), {out.v.data(), 3, 64}), errc::bad_shape);
    EXPECT_EQ(k.qdq(4, 32, w.view(), {nullptr, 4, 64}), errc::bad_shape);
    EXPECT_EQ(k.qdq(4, 32, {w.v.data(), 4, 64, 63}, out.view()), errc::bad_shape) << "rows that overlap";
    EXPECT_EQ(k.qdq(4, 0, {w.v.data(), 2, 32, 64}, {out.v.data(), 2, 32, 32}), errc::bad_shape) << "a tensor-wide group needs adjacent rows";
    EXPECT_EQ(k.qdq(4, 32, {w.v.data(), std::size_t{1} << 40, std::size_t{1} << 40}, {out.v.data(), std::size_t{1} << 40, std::size_t{1} << 40}),
              errc::bad_shape)
        << "a size that wraps";
    EXPECT_EQ(k.quantize(v, 32, w.view(), q.codes(), {q.scale.data(), 4, 1}, {q.zero_point.data(), 4, 1}), errc::bad_shape);
    EXPECT_EQ(k.quantize(v, 32, w.view(), q.codes(), {q.scale.data(), 3, 2}, {q.zero_point.data(), 3, 2}), errc::bad_shape);
    EXPECT_EQ(k.quantize(v, 32, w.view(), {q.code.data(), 4, 32}, q.scales(), q.zeros()), errc::bad_shape);
    if (k.has_zero_point) {
      EXPECT_EQ(k.quantize(v, 32, w.view(), q.codes(), q.scales(), {}), errc::bad_shape);
    } else {
      EXPECT_EQ(k.quantize(v, 32, w.view(), q.codes(), q.scales(), {}), errc::ok);
    }
    const std::vector<float> zero(8, 0.0f), nan(8, std::numeric_limits<float>::quiet_NaN());
    EXPECT_EQ(k.encode(v, 32, w.view(), {zero.data(), 4, 2}, {zero.data(), 4, 2}, q.codes()), k.facts == nullptr ? errc::bad_value : errc::ok)
        << "a scale of zero, which only small floats can have";
    EXPECT_EQ(k.encode(v, 32, w.view(), {nan.data(), 4, 2}, {zero.data(), 4, 2}, q.codes()), errc::bad_value);
    EXPECT_EQ(k.qdq(4, 32, {nullptr, 0, 64}, {nullptr, 0, 64}), errc::ok) << "nothing to do";
    EXPECT_EQ(k.qdq(4, 32, {nullptr, 3, 0}, {nullptr, 3, 0}), errc::ok);
  }
}

// ---- Small floats under a scale ----

/// All values that the codes of a group mean.
std::vector<float> levels(const ar::range_kernels& k, const ar::type_values& v, float scale) {
  const std::size_t n = std::size_t{1} << k.fixed_bits();
  std::vector<std::uint8_t> code(n);
  for (std::size_t i = 0; i < n; ++i) code[i] = static_cast<std::uint8_t>(i);
  std::vector<float> level(n);
  EXPECT_EQ(k.dequantize(v, -1, {code.data(), 1, n}, {&scale, 1, 1}, {}, {level.data(), 1, n}), ar::errc::ok);
  return level;
}
/// False for the codes of infinity and NaN, and the most negative integer.
bool is_number(const ar::small_grid& g, std::size_t code) { return std::abs(ar::lane_small_value(static_cast<float>(code), g)) <= g.max; }

TEST(ScaledTypes, EveryWeightGetsTheNearestLevelOfItsGroup) {
  for (const auto& type : range_types()) {
    const ar::range_kernels& k = *type.kernels;
    if (k.facts == nullptr || k.weight_format != ar::real::f32) continue;
    SCOPED_TRACE(label(k));
    const matrix w = weights(14, 64, ar::real::f32);
    matrix out(14, 64);
    quantized q(14, 64, 32);
    const ar::type_values v = values(k, 0, w.v);
    ASSERT_EQ(k.quantize(v, 32, w.view(), q.codes(), q.scales(), {}), ar::errc::ok);
    ASSERT_EQ(k.qdq(v, 32, w.view(), out.view()), ar::errc::ok);
    for (std::size_t g = 0; g < q.scale.size(); ++g) {
      const std::vector<float> level = levels(k, v, q.scale[g]);
      for (std::size_t i = 0; i < 32; ++i) {
        const std::size_t at = g / 2 * 64 + g % 2 * 32 + i;
        float nearest = std::numeric_limits<float>::infinity();
        for (std::size_t c = 0; c < level.size(); ++c)
          if (is_number(k.facts->grid, c)) nearest = std::min(nearest, std::abs(level[c] - w.v[at]));
        // The quotient is rounded before the element is: a tie may be decided either way within some ulps of the weight.
        ASSERT_LE(std::abs(out.v[at] - w.v[at]), nearest + 4 * 0x1p-24f * std::abs(w.v[at])) << "weight " << w.v[at] << ", scale " << q.scale[g];
        ASSERT_TRUE(is_number(k.facts->grid, q.code[at]));
      }
    }
  }
}

TEST(ScaledTypes, EveryCodeIsItsOwnQuantization) {
  for (const auto& type : range_types()) {
    const ar::range_kernels& k = *type.kernels;
    if (k.facts == nullptr) continue;
    SCOPED_TRACE(label(k));
    ar::type_values v;
    if (k.two_level()) v.tensor.global_scale = 8.0f;
    for (const float scale : {1.0f, 0.0625f, 0.5f}) {
      std::vector<float> level = levels(k, v, scale);
      for (std::size_t c = 0; c < level.size(); ++c)
        if (!is_number(k.facts->grid, c)) level[c] = 0.0f;
      std::vector<std::uint8_t> back(level.size());
      ASSERT_EQ(k.encode(v, -1, {level.data(), 1, level.size()}, {&scale, 1, 1}, {}, {back.data(), 1, back.size()}), ar::errc::ok);
      for (std::size_t c = 0; c < level.size(); ++c) {
        if (!is_number(k.facts->grid, c)) continue;
        // A negative zero is a number of its own only where a cast keeps it.
        const bool negative_zero = level[c] == 0.0f && std::signbit(level[c]);
        ASSERT_EQ(back[c], negative_zero && !k.facts->keeps_zero_sign ? 0u : c) << level[c];
      }
    }
  }
}

TEST(ScaledTypes, ScalesAreNumbersOfTheirFormat) {
  for (const auto& type : range_types()) {
    const ar::range_kernels& k = *type.kernels;
    if (k.facts == nullptr) continue;
    SCOPED_TRACE(label(k));
    const matrix w = weights(21, 96, k.weight_format);
    quantized q(21, 96, 16);
    ASSERT_EQ(k.fit(values(k, 0, w.v), 16, w.view(), q.scales(), {}), ar::errc::ok);
    for (const float s : q.scale) {
      switch (k.facts->rule) {
        case ar::scale_rule::power_floor:
        case ar::scale_rule::power_ceil: ASSERT_EQ(ar::f32_from_e8m0(ar::e8m0_from_f32(s)), s); break;
        case ar::scale_rule::quotient: ASSERT_GE(s, k.facts->least); ASSERT_EQ(rounded(k.facts->scale, s), s); break;
        case ar::scale_rule::one: ASSERT_EQ(s, 1.0f); break;
        case ar::scale_rule::e4m3_two_level: ASSERT_EQ(ar::f32_from_small<ar::e4m3fn>(ar::small_from_f32<ar::e4m3fn>(s)), s); break;
        case ar::scale_rule::e5m3:
        case ar::scale_rule::e5m3_two_level: ASSERT_EQ(ar::f32_from_small<ar::ue5m3>(ar::small_from_f32<ar::ue5m3>(s)), s); break;
      }
    }
  }
}

TEST(ScaledTypes, ATwoLevelTypeAsksForItsGlobalScale) {
  int asked = 0;
  for (const auto& type : range_types()) {
    const ar::range_kernels& k = *type.kernels;
    if (!k.two_level()) continue;
    SCOPED_TRACE(label(k));
    const matrix w = weights(4, 32, k.weight_format);
    matrix found(4, 32), given(4, 32);
    quantized q(4, 32, 16);
    EXPECT_EQ(k.quantize({}, 16, w.view(), q.codes(), q.scales(), {}), ar::errc::bad_value);
    EXPECT_EQ(k.fit({}, 16, w.view(), q.scales(), {}), ar::errc::bad_value);
    EXPECT_EQ(k.encode({}, 16, w.view(), q.scales(), {}, q.codes()), ar::errc::bad_value);
    EXPECT_EQ(k.dequantize({}, 16, q.codes(), q.scales(), {}, given.view()), ar::errc::bad_value);
    EXPECT_EQ(k.qdq({0, {.global_scale = std::numeric_limits<float>::quiet_NaN()}}, 16, w.view(), given.view()), ar::errc::bad_value);
    // qdq finds it in its input.
    const ar::type_values v = values(k, 0, w.v);
    ASSERT_EQ(k.qdq({}, 16, w.view(), found.view()), ar::errc::ok);
    ASSERT_EQ(k.qdq(v, 16, w.view(), given.view()), ar::errc::ok);
    EXPECT_TRUE(same_bits(found, given));
    ASSERT_EQ(k.qdq({0, {.global_scale = k.global_scale(v.tensor.maximum)}}, 16, w.view(), given.view()), ar::errc::ok);
    EXPECT_TRUE(same_bits(found, given));
    ++asked;
  }
  EXPECT_GT(asked, 0);
}

TEST(Tiles, AreGroupsThatSpanRows) {
  for (const auto& type : range_types()) {
    const ar::range_kernels& k = *type.kernels;
    SCOPED_TRACE(label(k));
    const matrix w = weights(10, 70, k.weight_format);
    const ar::type_values v = values(k, 4, w.v);
    matrix tiles(10, 70), back(10, 70);
    std::vector<std::uint8_t> code(700);
    std::vector<float> scale(3 * 3), zero(3 * 3);
    ASSERT_EQ(k.qdq(v, {32, 4}, w.view(), tiles.view()), ar::errc::ok);
    ASSERT_EQ(k.quantize(v, {32, 4}, w.view(), {code.data(), 10, 70}, {scale.data(), 3, 3}, {zero.data(), 3, 3}), ar::errc::ok);
    ASSERT_EQ(k.dequantize(v, {32, 4}, {code.data(), 10, 70}, {scale.data(), 3, 3}, {zero.data(), 3, 3}, back.view()), ar::errc::ok);
    for (std::size_t i = 0; i < 700; ++i) ASSERT_EQ(back.v[i], tiles.v[i]) << i;
    // Each tile copied out is one group of a whole matrix.
    for (std::size_t r = 0; r < 10; r += 4)
      for (std::size_t c = 0; c < 70; c += 32) {
        const std::size_t rows = std::min<std::size_t>(4, 10 - r), cols = std::min<std::size_t>(32, 70 - c);
        matrix tile(rows, cols), alone(rows, cols);
        for (std::size_t i = 0; i < rows; ++i) std::copy_n(w.v.data() + (r + i) * 70 + c, cols, tile.v.data() + i * cols);
        ASSERT_EQ(k.qdq(v, 0, tile.view(), alone.view()), ar::errc::ok);
        for (std::size_t i = 0; i < rows; ++i) ASSERT_EQ(std::memcmp(alone.v.data() + i * cols, tiles.v.data() + (r + i) * 70 + c, cols * sizeof(float)), 0);
      }
  }
}

}  // namespace
