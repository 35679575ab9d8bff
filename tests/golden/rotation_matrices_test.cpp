// Hadamard matrices, random signs and the transforms of rotations against the reference's own. (spec: rotation.md; bounds from its section 10.)
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "ar/hadamard.hpp"
#include "support/golden_json.hpp"

namespace {

using ar::hadamard;
using ar::hadamard_rule;
using std::size_t;

std::vector<double> f64(const golden::tensor& t) {
  if (t.dtype == "F64") return t.as<double>();
  const std::vector<float> v = t.f32();
  return {v.begin(), v.end()};
}

/// What follows the first dot and comes before the second: "st.12" -> 12.
size_t order_in(const std::string& name, size_t part = 1) {
  size_t at = 0;
  for (; part > 0; --part) at = name.find('.', at) + 1;
  return static_cast<size_t>(std::stoul(name.substr(at)));
}

hadamard matrix_of(size_t n, hadamard_rule rule) {
  hadamard h;
  EXPECT_EQ(hadamard::make(n, rule, h), ar::errc::ok) << n;
  return h;
}

TEST(RotationMatricesGolden, TablesAreTheReferencesEntryForEntry) {
  const golden::file file("rotation", "hadamard_tables.safetensors");
  int general = 0, spinquant = 0;
  for (const auto& [name, t] : file.tensors()) {
    const size_t n = order_in(name);
    const bool own = name.starts_with("kh.");
    ++(own ? spinquant : general);
    ar::hadamard_parts::sign_matrix m;
    ASSERT_TRUE(ar::hadamard_parts::make_hadamard_table(own ? ar::hadamard_tables::spinquant : ar::hadamard_tables::general, n, m)) << name;
    ASSERT_EQ(m.order, n);
    ASSERT_EQ(t.shape, (std::vector<size_t>{n, (n + 7) / 8}));
    size_t bad = 0;
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) bad += m.positive(i, j) != ((t.data[i * t.cols() + j / 8] >> (j % 8) & 1) != 0);
    EXPECT_EQ(bad, 0u) << name;
  }
  EXPECT_EQ(general, 66);
  EXPECT_EQ(spinquant, 11);
}

TEST(RotationMatricesGolden, OrdersAreSplitAsTheReferenceDoes) {
  const golden::file file("rotation", "matrices.safetensors");
  const auto info = golden::parse_json(file.metadata().at("info"));
  size_t checked = 0;
  for (const auto& entry : info["divisor_table"].items()) {
    const size_t n = std::stoul(entry.key());
    const auto& expected = entry.value();
    const auto value = [&](size_t i) { return expected[i].is_null() ? size_t{0} : expected[i].get<size_t>(); };
    EXPECT_EQ(ar::hadamard_factor(n, hadamard_rule::any), value(0)) << n;
    EXPECT_EQ(ar::hadamard_factor(n, hadamard_rule::spinquant), value(1)) << n;
    EXPECT_EQ(ar::hadamard_factor(n, hadamard_rule::random), value(2)) << n;
    ++checked;
  }
  EXPECT_GE(checked, 160u);
}

TEST(RotationMatricesGolden, RandomSignsComeInTheReferencesOrder) {
  const golden::file file("rotation", "matrices.safetensors");
  int checked = 0;
  for (const auto& [name, t] : file.tensors()) {
    if (!name.starts_with("rng.")) continue;
    const bool unseeded = name.find("default_generator") != std::string::npos;
    ar::mt19937 generator(unseeded ? ar::hadamard_default_seed : static_cast<std::uint32_t>(std::stoul(name.substr(8))));
    std::vector<std::int8_t> signs(t.size());
    ar::random_signs(generator, signs.data(), signs.size());
    for (size_t i = 0; i < signs.size(); ++i) ASSERT_EQ(signs[i] > 0, t.data[i] == 1) << name << " " << i;
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

/// Rows of diag(signs) through the transform: the matrices that the reference keeps.
std::vector<double> matrix(const hadamard& h, const std::vector<std::int8_t>& signs, double divisor) {
  const size_t n = h.order();
  std::vector<double> m(n * n, 0.0), scratch(ar::hadamard_scratch(h));
  for (size_t i = 0; i < n; ++i) m[i * n + i] = signs.empty() ? 1.0 : signs[i];
  EXPECT_EQ(ar::hadamard_rows(h, ar::matrix_view<double>(m.data(), n, n), false, divisor, scratch.data()), ar::errc::ok);
  return m;
}

TEST(RotationMatricesGolden, MatricesOfAllFamilies) {
  const golden::file file("rotation", "matrices.safetensors");
  const auto info = golden::parse_json(file.metadata().at("info"));
  const auto seed = info["seed"].get<std::uint32_t>();
  int checked = 0;
  const auto compare = [&](const std::string& name, const std::vector<double>& ours, bool as_float) {
    if (!file.has(name)) return;
    const std::vector<double> theirs = f64(file[name]);
    ASSERT_EQ(ours.size(), theirs.size()) << name;
    size_t bad = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      double v = as_float ? static_cast<double>(static_cast<float>(ours[i])) : ours[i];
      if (file[name].dtype == "BF16") v = static_cast<double>(ar::round_to_bf16(static_cast<float>(v)));
      bad += v != theirs[i];
    }
    EXPECT_EQ(bad, 0u) << name;
    ++checked;
  };
  for (const size_t n : {8u, 12u, 20u, 28u, 40u, 96u, 112u})  // in place: the divisor is a float whatever the data is
    compare("inplace.det." + std::to_string(n) + ".f64",
            matrix(matrix_of(n, hadamard_rule::any), {}, static_cast<double>(ar::hadamard_divisor<float>(n))), false);
  for (const std::string family : {"inplace", "spinquant"}) {
    ar::mt19937 generator(seed);
    for (const auto& order : info["seq_order"][family + ".random_seq"]) {
      const auto n = order.get<size_t>();
      std::vector<std::int8_t> signs(n);
      ar::random_signs(generator, signs.data(), n);
      const bool own = family == "spinquant";
      const double divisor = own ? ar::hadamard_divisor<double>(n) : static_cast<double>(ar::hadamard_divisor<float>(n));
      compare(family + ".random_seq." + std::to_string(n) + (own ? ".f32" : ".f64"),
              matrix(matrix_of(n, own ? hadamard_rule::spinquant : hadamard_rule::any), signs, divisor), own);
    }
  }
  for (const size_t n : {16u, 64u})
    compare("spinquant.det." + std::to_string(n) + ".f32",
            matrix(matrix_of(n, hadamard_rule::spinquant), {}, static_cast<double>(ar::hadamard_divisor<float>(n))), true);
  // The transform family multiplies signs with the float 1 / sqrt(n).
  const auto scaled = [&](std::vector<double> m, size_t n) {
    const float c = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
    for (double& v : m) v = v > 0 ? static_cast<double>(c) : -static_cast<double>(c);
    return m;
  };
  for (const size_t n : {16u, 32u, 64u, 128u})
    for (const std::string type : {"weight_f32", "input_bf16"})
      compare("transform.hadamard." + std::to_string(n) + "." + type, scaled(matrix(matrix_of(n, hadamard_rule::any), {}, 1.0), n), true);
  for (const size_t n : {12u, 16u, 20u, 28u, 32u, 64u, 96u, 112u}) {
    ar::mt19937 generator(ar::hadamard_default_seed);
    std::vector<std::int8_t> signs(n);
    ar::random_signs(generator, signs.data(), n);
    const std::vector<double> m = scaled(matrix(matrix_of(n, hadamard_rule::random), signs, 1.0), n);
    compare("transform.random." + std::to_string(n) + ".weight_f32", m, true);
    compare("transform.random." + std::to_string(n) + ".bf16", m, true);
    if (n != 32) continue;
    compare("transform.factory_random_blocksize16.weight", m, true);  // the reference's factory forgets the block size
    std::vector<double> inverse(m.size());
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) inverse[i * n + j] = m[j * n + i];
    compare("transform.random.32.inverse_f32", inverse, true);
  }
  EXPECT_GE(checked, 6);
}

/// The transform as `type` computes it, on values that are numbers of that type.
template <class T>
std::vector<double> transformed(const hadamard& h, const std::string& type, std::vector<T> x, size_t cols, T divisor) {
  std::vector<T> scratch(ar::hadamard_scratch(h));
  const ar::matrix_view<T> v(x.data(), x.size() / cols, cols);
  ar::errc e = ar::errc::bad_value;
  if constexpr (std::is_same_v<T, float>) {
    if (type == "bf16")
      e = ar::hadamard_rows(h, v, false, divisor, scratch.data(), ar::bf16_rounding{});
    else if (type == "f16")
      e = ar::hadamard_rows(h, v, false, divisor, scratch.data(), ar::f16_rounding{});
    else
      e = ar::hadamard_rows(h, v, false, divisor, scratch.data());
  } else {
    e = ar::hadamard_rows(h, v, false, divisor, scratch.data());
  }
  EXPECT_EQ(e, ar::errc::ok);
  return {x.begin(), x.end()};
}

std::vector<float> rounded(std::vector<float> x, const std::string& type) {
  if (type == "bf16") std::transform(x.begin(), x.end(), x.begin(), ar::round_to_bf16);
  if (type == "f16") std::transform(x.begin(), x.end(), x.begin(), ar::round_to_f16);
  return x;
}

/// Equal, or within `bound` of the largest value of the row.
void expect_near(const std::vector<double>& ours, const std::vector<double>& theirs, size_t cols, double bound, const std::string& what) {
  ASSERT_EQ(ours.size(), theirs.size()) << what;
  for (size_t r = 0; r * cols < ours.size(); ++r) {
    double largest = 0, difference = 0;
    for (size_t c = 0; c < cols; ++c) {
      largest = std::max(largest, std::abs(theirs[r * cols + c]));
      difference = std::max(difference, std::abs(ours[r * cols + c] - theirs[r * cols + c]));
    }
    EXPECT_LE(difference, bound * largest) << what << " row " << r;
  }
}

TEST(RotationMatricesGolden, TransformOfRowsInEveryType) {
  const golden::file file("rotation", "online.safetensors");
  int checked = 0;
  for (const auto& [name, t] : file.tensors()) {
    const bool in_place = name.starts_with("inplace."), own = name.starts_with("spinquant.");
    if ((!in_place && !own) || name.find("block") != std::string::npos || name.find("group") != std::string::npos ||
        name.find("cross") != std::string::npos)
      continue;
    const size_t n = order_in(name);
    const std::string type = name.substr(name.rfind('.') + 1);
    const hadamard h = matrix_of(n, in_place ? hadamard_rule::any : hadamard_rule::spinquant);
    const std::vector<float> x = file["x." + std::to_string(n)].f32();
    std::vector<double> ours;
    if (type == "f64") {
      const double divisor = in_place ? static_cast<double>(ar::hadamard_divisor<float>(n)) : ar::hadamard_divisor<double>(n);
      ours = transformed<double>(h, type, {x.begin(), x.end()}, n, divisor);
    } else {
      ours = transformed<float>(h, type, rounded(x, type), n, ar::hadamard_divisor<float>(n));
    }
    // Sums over a table are taken in another order than the reference's matrix product takes them: exact where the type hides it.
    const bool exact = h.factor() == 1 || type == "bf16";
    const double bound = exact ? 0 : type == "f64" ? 4e-16 : type == "f16" ? 1e-3 : 2e-6;
    expect_near(ours, f64(t), n, bound, name);
    ++checked;
  }
  EXPECT_GE(checked, 8);
}

TEST(RotationMatricesGolden, GroupsAndHeads) {
  const golden::file file("rotation", "online.safetensors");
  const std::vector<float> x = file["x.block"].f32();
  const size_t cols = file["x.block"].cols();
  int checked = 0;
  for (const auto& [name, t] : file.tensors()) {
    const std::string type = name.substr(name.rfind('.') + 1);
    if (name.starts_with("inplace.group")) {
      const hadamard h = matrix_of(std::stoul(name.substr(13)), hadamard_rule::any);
      const bool wide = type == "bf16_fp32had";
      std::vector<double> ours =
          transformed<float>(h, wide ? "f32" : type, rounded(x, wide ? "bf16" : type), cols, ar::hadamard_divisor<float>(h.order()));
      if (wide)
        for (double& v : ours) v = static_cast<double>(ar::round_to_bf16(static_cast<float>(v)));
      expect_near(ours, f64(t), cols, 0, name);
    } else if (name.starts_with("inplace.crosshead")) {
      const hadamard h = matrix_of(8, hadamard_rule::any);
      std::vector<float> ours = x;
      for (size_t r = 0; r < x.size(); r += cols)
        ASSERT_EQ(ar::hadamard_columns(h, ar::matrix_view<float>(ours.data() + r, 8, cols / 8), false, ar::hadamard_divisor<float>(8),
                                       static_cast<float*>(nullptr)),
                  ar::errc::ok);
      expect_near({ours.begin(), ours.end()}, f64(t), cols, 0, name);
    } else if (name.starts_with("spinquant.r1block")) {
      // A matrix product with the float matrix in the type of x: the reference's sums are those of its matrix library.
      const size_t n = std::stoul(name.substr(17));
      std::vector<double> ours =
          transformed<float>(matrix_of(n, hadamard_rule::spinquant), "f32", rounded(x, type), cols, ar::hadamard_divisor<float>(n));
      expect_near(ours, f64(t), cols, type == "bf16" ? 0x1p-8 : 2e-6, name);
    } else {
      continue;
    }
    ++checked;
  }
  EXPECT_GE(checked, 3);
}

TEST(RotationMatricesGolden, TransformOfLayers) {
  const golden::file file("rotation", "transform_backend.safetensors");
  int checked = 0;
  for (const auto& [name, t] : file.tensors()) {
    const size_t dot = name.find('.');
    const std::string kind = name.substr(0, dot);
    if (kind != "hadamard" && kind != "random_hadamard") continue;
    const size_t b = order_in(name), cols = t.cols();
    const bool random = kind == "random_hadamard", bf16 = name.find(".bf16.") != std::string::npos;
    const std::string what = name.substr(name.rfind('.') + 1), source = std::string(what == "w" ? "w" : "x") + (bf16 ? ".bf16" : ".f32");
    const hadamard h = matrix_of(b, random ? hadamard_rule::random : hadamard_rule::any);
    std::vector<double> x = f64(file[source]), scratch(ar::hadamard_scratch(h));
    // A float matrix, which for bfloat16 activations is rounded to their type.
    float entry = static_cast<float>(1.0 / std::sqrt(static_cast<double>(b)));
    if (bf16 && what != "w") entry = ar::round_to_bf16(entry);
    ASSERT_EQ(ar::hadamard_rows(h, ar::matrix_view<double>(x.data(), x.size() / cols, cols), true, 1.0 / static_cast<double>(entry), scratch.data()),
              ar::errc::ok);
    if (random) {
      ar::mt19937 generator(ar::hadamard_default_seed);
      std::vector<std::int8_t> signs(b);
      ar::random_signs(generator, signs.data(), b);
      for (size_t i = 0; i < x.size(); ++i) x[i] *= signs[i % b];
    }
    // bfloat16 results of a float sum: one unit in the last place where the sums fall on two sides of a tie.
    expect_near(x, f64(t), cols, bf16 ? 0x1p-8 : 2e-6, name);
    ++checked;
  }
  EXPECT_GE(checked, 2);
}

TEST(RotationMatrices, EveryOrderOfTheTablesIsHadamard) {
  for (const hadamard_rule rule : {hadamard_rule::any, hadamard_rule::spinquant, hadamard_rule::random})
    for (size_t n = 1; n <= 256; n = n < 4 ? n * 2 : n + 4) {
      if (rule == hadamard_rule::random && n != 32) continue;  // otherwise as `any`
      hadamard h;
      if (hadamard::make(n, rule, h) != ar::errc::ok) {
        EXPECT_EQ(rule, hadamard_rule::spinquant) << n;
        continue;
      }
      for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j <= i; ++j) {
          int dot = 0;
          for (size_t c = 0; c < n; ++c) dot += h.entry(i, c) * h.entry(j, c);
          ASSERT_EQ(dot, i == j ? static_cast<int>(n) : 0) << n << ": rows " << i << " and " << j;
        }
    }
}

TEST(RotationMatrices, TheTransformIsTheMatrixAndTheTransposeUndoesIt) {
  std::mt19937 random(7);
  for (const size_t n : {1u, 2u, 4u, 8u, 12u, 24u, 64u, 80u, 96u, 176u, 576u, 1536u}) {
    const hadamard h = matrix_of(n, hadamard_rule::any);
    std::vector<double> x(3 * n), scratch(ar::hadamard_scratch(h));
    for (double& v : x) v = std::normal_distribution<double>()(random);
    std::vector<double> y = x;
    const double root = ar::hadamard_divisor<double>(n);
    const ar::matrix_view<double> view(y.data(), 3, n);
    ASSERT_EQ(ar::hadamard_rows(h, view, false, root, scratch.data()), ar::errc::ok);
    for (size_t r = 0; r < 3; ++r)
      for (size_t i = 0; i < n; i += 1 + n / 16) {
        double sum = 0;
        for (size_t j = 0; j < n; ++j) sum += x[r * n + j] * h.entry(i, j);
        EXPECT_NEAR(y[r * n + i], sum / root, 1e-12) << n;
      }
    // Along columns the same sums, in the same order: the same bits.
    std::vector<double> turned(3 * n);
    for (size_t r = 0; r < 3; ++r)
      for (size_t i = 0; i < n; ++i) turned[i * 3 + r] = x[r * n + i];
    ASSERT_EQ(ar::hadamard_columns(h, ar::matrix_view<double>(turned.data(), n, 3), false, root, scratch.data()), ar::errc::ok);
    for (size_t r = 0; r < 3; ++r)
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(turned[i * 3 + r], y[r * n + i]) << n;
    ASSERT_EQ(ar::hadamard_rows(h, view, true, root, scratch.data()), ar::errc::ok);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 1e-12) << n;
  }
}

TEST(RotationMatrices, RowsOfAStridedViewAndRefusals) {
  const hadamard h = matrix_of(12, hadamard_rule::any);
  std::vector<float> x(2 * 40, 1.0f), scratch(ar::hadamard_scratch(h));
  ASSERT_EQ(ar::hadamard_rows(h, ar::matrix_view<float>(x.data(), 2, 36, 40), false, 1.0f, scratch.data()), ar::errc::ok);
  for (size_t r = 0; r < 2; ++r)
    for (size_t c = 36; c < 40; ++c) EXPECT_EQ(x[r * 40 + c], 1.0f) << "beyond the columns";
  EXPECT_EQ(x[0], -10.0f) << "Paley's first row: 1 and eleven times -1";
  const std::vector<float> before = x;
  EXPECT_EQ(ar::hadamard_rows(h, ar::matrix_view<float>(x.data(), 2, 40), false, 1.0f, scratch.data()), ar::errc::bad_shape);
  EXPECT_EQ(ar::hadamard_rows(h, ar::matrix_view<float>(x.data(), 2, 36, 40), false, 1.0f, static_cast<float*>(nullptr)), ar::errc::bad_shape);
  EXPECT_EQ(ar::hadamard_columns(h, ar::matrix_view<float>(x.data(), 2, 40), false, 1.0f, scratch.data()), ar::errc::bad_shape);
  for (const float bad : {0.0f, -1.0f, INFINITY, NAN})
    EXPECT_EQ(ar::hadamard_rows(h, ar::matrix_view<float>(x.data(), 2, 36, 40), false, bad, scratch.data()), ar::errc::bad_value);
  EXPECT_EQ(x, before);
  hadamard none;
  for (const size_t n : {0u, 3u, 6u, 262u, 29568u}) EXPECT_EQ(hadamard::make(n, hadamard_rule::any, none), ar::errc::unsupported) << n;
  EXPECT_EQ(none.order(), 1u);
  EXPECT_EQ(ar::largest_hadamard_divisor(29568), 4224u);
  EXPECT_EQ(ar::largest_hadamard_divisor(576), 576u);
  EXPECT_EQ(ar::largest_hadamard_divisor(7), 1u);
}

constexpr bool works_in_constant_expressions() {
  hadamard h;
  if (hadamard::make(8, hadamard_rule::any, h) != ar::errc::ok) return false;
  float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  return ar::hadamard_rows(h, ar::matrix_view<float>(x, 1, 8), false, 2.0f, static_cast<float*>(nullptr)) == ar::errc::ok && x[0] == 18.0f &&
         x[1] == -2.0f;
}
static_assert(works_in_constant_expressions());

}  // namespace
