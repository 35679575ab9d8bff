// links: ar_model OpenMP::OpenMP_CXX
// Matrix products: every backend gives the product, to the last bit where sums are exact, and the same bits with any number of threads.
#include "model/linalg.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <random>

#include "ar/numeric/half.hpp"

namespace {

namespace linalg = auto_round::linalg;
using linalg::backend;
using linalg::operand;

enum class kind { nt, nn, tn };

struct problem {
  std::size_t m, n, k;
  std::vector<float> a, b;
  std::vector<std::uint16_t> a16, b16;
  std::size_t a_rows, a_cols, a_stride, b_rows, b_cols, b_stride;

  operand left(bool bf16) const { return {bf16 ? static_cast<const void*>(a16.data()) : a.data(), a_rows, a_cols, a_stride, bf16}; }
  operand right(bool bf16) const { return {bf16 ? static_cast<const void*>(b16.data()) : b.data(), b_rows, b_cols, b_stride, bf16}; }
};

/// Random values that bfloat16 holds exactly, rows padded by a few values.
problem make(kind which, std::size_t m, std::size_t n, std::size_t k, unsigned seed) {
  problem p;
  p.m = m, p.n = n, p.k = k;
  p.a_rows = which == kind::tn ? k : m, p.a_cols = which == kind::tn ? m : k, p.a_stride = p.a_cols + 3;
  p.b_rows = which == kind::nt ? n : k, p.b_cols = which == kind::nt ? k : n, p.b_stride = p.b_cols + 1;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& v, std::vector<std::uint16_t>& v16, std::size_t size) {
    v.resize(size);
    v16.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      v16[i] = ar::bf16_from_f32(normal(random));
      v[i] = ar::f32_from_bf16(v16[i]);
    }
  };
  fill(p.a, p.a16, p.a_rows * p.a_stride);
  fill(p.b, p.b16, p.b_rows * p.b_stride);
  return p;
}

void multiply(kind which, const problem& p, bool bf16, float* c, std::size_t stride, bool accumulate) {
  if (which == kind::nt) linalg::gemm_nt(p.left(bf16), p.right(bf16), c, stride, accumulate);
  if (which == kind::nn) linalg::gemm_nn(p.left(bf16), p.right(bf16), c, stride, accumulate);
  if (which == kind::tn) linalg::gemm_tn(p.left(bf16), p.right(bf16), c, stride, accumulate);
}

class Linalg : public testing::TestWithParam<backend> {
 protected:
  void SetUp() override {
    const auto r = linalg::initialize(GetParam());
    if (!r && GetParam() == backend::onednn) GTEST_SKIP() << "built without oneDNN";
    ASSERT_TRUE(r.has_value()) << r.error().message;
  }
  void TearDown() override { (void)linalg::initialize(backend::automatic); }
};

TEST_P(Linalg, EqualsAPlainLoopInDouble) {
  const std::size_t shapes[][3] = {{1, 1, 1}, {1, 300, 40}, {2, 3, 5}, {13, 33, 17}, {64, 96, 256}, {257, 129, 65}, {300, 1030, 70}, {31, 64, 513}, {1100, 96, 130}};
  for (const kind which : {kind::nt, kind::nn, kind::tn})
    for (const auto& s : shapes)
      for (const bool bf16 : {false, true})
        for (const bool accumulate : {false, true}) {
          const problem p = make(which, s[0], s[1], s[2], 1);
          const std::size_t stride = p.n + 2;
          std::vector<float> c(p.m * stride, 0.25f);
          multiply(which, p, bf16, c.data(), stride, accumulate);
          for (std::size_t i = 0; i < p.m; ++i) {
            for (std::size_t j = 0; j < p.n; ++j) {
              double want = accumulate ? 0.25 : 0.0, magnitude = 1.0;
              for (std::size_t x = 0; x < p.k; ++x) {
                const double term = static_cast<double>(which == kind::tn ? p.a[x * p.a_stride + i] : p.a[i * p.a_stride + x]) *
                                    static_cast<double>(which == kind::nt ? p.b[j * p.b_stride + x] : p.b[x * p.b_stride + j]);
                want += term;
                magnitude += std::fabs(term);
              }
              // k roundings of partial sums of that magnitude at most.
              ASSERT_NEAR(static_cast<double>(c[i * stride + j]), want, magnitude * 6e-8 * std::sqrt(static_cast<double>(p.k) + 4.0))
                  << linalg::description() << " " << p.m << "x" << p.n << "x" << p.k << " bf16 " << bf16 << " at " << i << "," << j;
            }
            for (std::size_t j = p.n; j < stride; ++j) ASSERT_EQ(c[i * stride + j], 0.25f) << "wrote beside the result";
          }
        }
}

TEST_P(Linalg, GivesTheSameBitsWithAnyNumberOfThreads) {
  const int before = omp_get_max_threads();
  for (const kind which : {kind::nt, kind::nn, kind::tn})
    for (const bool bf16 : {false, true}) {
      const problem p = make(which, 1100, 576, 300, 2);
      std::vector<std::vector<float>> results;
      for (const int threads : {1, 2, 3, 7}) {
        omp_set_num_threads(threads);
        results.emplace_back(p.m * p.n);
        multiply(which, p, bf16, results.back().data(), p.n, false);
      }
      for (const auto& r : results) EXPECT_EQ(r, results.front());
    }
  omp_set_num_threads(before);
}

TEST_P(Linalg, GivesTheSameBitsInsideAParallelRegion) {
  const problem p = make(kind::nt, 300, 520, 64, 3);
  std::vector<float> outside(p.m * p.n);
  multiply(kind::nt, p, false, outside.data(), p.n, false);
  std::vector<std::vector<float>> inside(4, std::vector<float>(p.m * p.n));
#pragma omp parallel for num_threads(4)
  for (std::size_t i = 0; i < 4; ++i) multiply(kind::nt, p, false, inside[i].data(), p.n, false);
  for (const auto& r : inside) EXPECT_EQ(r, outside);
}

TEST_P(Linalg, TreatsNothingAsNothing) {
  std::vector<float> c(6, 1.0f);
  const float none = 0;
  linalg::gemm_nt({&none, 2, 0, 0}, {&none, 3, 0, 0}, c.data(), 3, true);
  EXPECT_EQ(c, std::vector<float>(6, 1.0f));
  linalg::gemm_nt({&none, 2, 0, 0}, {&none, 3, 0, 0}, c.data(), 3, false);
  EXPECT_EQ(c, std::vector<float>(6, 0.0f));
  linalg::gemm_nn({&none, 0, 4, 4}, {c.data(), 4, 0, 0}, c.data(), 3);
}

INSTANTIATE_TEST_SUITE_P(Backends, Linalg, testing::Values(backend::highway, backend::eigen, backend::onednn), [](const auto& c) {
  return c.param == backend::highway ? "Highway" : c.param == backend::eigen ? "Eigen" : "oneDNN";
});

TEST(LinalgDoor, NamesWhatItChose) {
  ASSERT_TRUE(linalg::initialize(backend::eigen));
  EXPECT_EQ(linalg::description().rfind("Eigen 3", 0), 0u);
  EXPECT_FALSE(linalg::fast_bf16());
  ASSERT_TRUE(linalg::initialize(backend::highway));
  EXPECT_EQ(linalg::description().rfind("Highway (", 0), 0u);
  EXPECT_FALSE(linalg::fast_bf16());
  ASSERT_TRUE(linalg::initialize(backend::automatic));
  std::cout << "chosen on this machine: " << linalg::description() << (linalg::fast_bf16() ? ", fast bfloat16\n" : "\n");
}

TEST(LinalgDoor, RoundsToBfloat16LikeTheScalarReference) {
  std::vector<float> in;
  std::mt19937 random(5);
  for (int i = 0; i < 100003; ++i) in.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (const float special : {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.00390625f, 1.01171875f, 3.4028235e38f, 1e-45f}) in.push_back(special);
  std::vector<std::uint16_t> out(in.size());
  linalg::to_bf16(in.data(), in.size(), out.data());
  for (std::size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i], ar::bf16_from_f32(in[i])) << in[i];
}

}  // namespace
