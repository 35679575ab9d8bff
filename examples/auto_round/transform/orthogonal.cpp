#include "transform/orthogonal.hpp"

#include <algorithm>
#include <cmath>

#include "model/linalg.hpp"

namespace auto_round::transform {
namespace {

linalg::operand square(const float* x, std::size_t n) { return {x, n, n, n, false}; }

/// c = a b, or a b^T, in double.
void multiply(const double* a, const double* b, std::size_t n, bool transposed, double* c) {
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < n; ++i) {
    double* const row = c + i * n;
    if (transposed) {
      for (std::size_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::size_t k = 0; k < n; ++k) sum += a[i * n + k] * b[j * n + k];
        row[j] = sum;
      }
      continue;
    }
    std::fill_n(row, n, 0.0);
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t j = 0; j < n; ++j) row[j] += a[i * n + k] * b[k * n + j];
  }
}

}  // namespace

double orthogonality_error(std::span<const float> x, std::size_t n) {
  const std::vector<double> wide(x.begin(), x.end());
  std::vector<double> product(n * n);
  multiply(wide.data(), wide.data(), n, true, product.data());
  double worst = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) worst = std::max(worst, std::abs(product[i * n + j] - (i == j ? 1.0 : 0.0)));
  return worst;
}

void orthonormalize(std::span<float> x, std::size_t n) {
  std::vector<double> y(x.begin(), x.end()), gram(n * n), next(n * n);
  for (int round = 0; round < 20; ++round) {
    multiply(y.data(), y.data(), n, true, gram.data());
    double worst = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        worst = std::max(worst, std::abs(gram[i * n + j] - (i == j ? 1.0 : 0.0)));
        gram[i * n + j] = (i == j ? 1.5 : 0.0) - 0.5 * gram[i * n + j];
      }
    if (worst < 1e-14) break;
    multiply(gram.data(), y.data(), n, false, next.data());
    y.swap(next);
  }
  std::transform(y.begin(), y.end(), x.begin(), [](double v) { return static_cast<float>(v); });
}

void cayley_step(std::span<float> x, std::span<const float> grad, std::size_t n, double turn, double mu, std::vector<float>& momentum) {
  if (momentum.empty()) momentum.assign(n * n, 0.0f);
  for (std::size_t i = 0; i < n * n; ++i) momentum[i] = static_cast<float>(mu) * momentum[i] - grad[i];
  // A = B - B^T with B = M X^T - X (X^T M X^T) / 2.
  std::vector<float> mxt(n * n), xtmxt(n * n), b(n * n), a(n * n);
  linalg::gemm_nt(square(momentum.data(), n), square(x.data(), n), mxt.data(), n);
  linalg::gemm_tn(square(x.data(), n), square(mxt.data(), n), xtmxt.data(), n);
  linalg::gemm_nn(square(x.data(), n), square(xtmxt.data(), n), b.data(), n);
  for (std::size_t i = 0; i < n * n; ++i) b[i] = mxt[i] - 0.5f * b[i];
  double norm = 0;
  std::vector<double> columns(n, 0.0);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      a[i * n + j] = b[i * n + j] - b[j * n + i];
      columns[j] += std::abs(static_cast<double>(a[i * n + j]));
    }
  for (const double c : columns) norm = std::max(norm, c);
  // The momentum that is carried on lies in the tangent space of x.
  linalg::gemm_nn(square(a.data(), n), square(x.data(), n), momentum.data(), n);
  if (!(norm > 0)) return;
  const auto alpha = static_cast<float>(turn / norm);
  std::vector<float> y(n * n), sum(n * n), turned(n * n);
  for (std::size_t i = 0; i < n * n; ++i) y[i] = x[i] + alpha * momentum[i];
  for (int round = 0; round < 5; ++round) {
    for (std::size_t i = 0; i < n * n; ++i) sum[i] = x[i] + y[i];
    linalg::gemm_nn(square(a.data(), n), square(sum.data(), n), turned.data(), n);
    for (std::size_t i = 0; i < n * n; ++i) y[i] = x[i] + 0.5f * alpha * turned[i];
  }
  std::copy(y.begin(), y.end(), x.begin());
  // Steps of float leave by 1e-6 each; five rounds of the fixed point by more where the step is long.
  if (orthogonality_error(x, n) > 1e-4) orthonormalize(x, n);
}

void reference_step(std::span<float> x, std::span<const float> grad, std::size_t n, double lr) {
  const std::vector<double> wide(x.begin(), x.end());
  std::vector<double> s(n * n), q(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < n; ++k)
        sum += wide[k * n + i] * static_cast<double>(grad[k * n + j]) + static_cast<double>(grad[k * n + i]) * wide[k * n + j];
      s[i * n + j] = sum / 2;
    }
  std::vector<double> r(n * n);
  multiply(wide.data(), s.data(), n, false, r.data());
  for (std::size_t i = 0; i < n * n; ++i) r[i] = wide[i] - lr * (static_cast<double>(grad[i]) - r[i]);
  // Householder as in LAPACK: a reflection takes the column to -sign(its first value) times its length. Each turns the determinant's sign.
  for (std::size_t i = 0; i < n; ++i) q[i * n + i] = 1;
  bool negative = false;
  std::vector<double> v(n);
  for (std::size_t c = 0; c + 1 < n; ++c) {
    double below = 0, length = 0;
    for (std::size_t i = c; i < n; ++i) {
      v[i] = r[i * n + c];
      length += v[i] * v[i];
      if (i > c) below += v[i] * v[i];
    }
    if (below == 0) continue;
    length = std::sqrt(length);
    v[c] += v[c] < 0 ? -length : length;
    double vv = 0;
    for (std::size_t i = c; i < n; ++i) vv += v[i] * v[i];
    for (std::size_t j = 0; j < n; ++j) {
      double dot = 0;
      for (std::size_t i = c; i < n; ++i) dot += v[i] * r[i * n + j];
      for (std::size_t i = c; i < n; ++i) r[i * n + j] -= 2 * dot / vv * v[i];
    }
    for (std::size_t i = 0; i < n; ++i) {
      double dot = 0;
      for (std::size_t j = c; j < n; ++j) dot += q[i * n + j] * v[j];
      for (std::size_t j = c; j < n; ++j) q[i * n + j] -= 2 * dot / vv * v[j];
    }
    negative = !negative;
  }
  if (negative)
    for (std::size_t i = 0; i < n; ++i) q[i * n + n - 1] = -q[i * n + n - 1];
  std::transform(q.begin(), q.end(), x.begin(), [](double value) { return static_cast<float>(value); });
}

}  // namespace auto_round::transform
