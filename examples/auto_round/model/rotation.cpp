// Rows and columns through Hadamard transforms and dense orthogonal matrices.
#include "model/rotation.hpp"

#include <cassert>
#include <string>
#include <utility>

namespace auto_round::model {

result<row_rotation> row_rotation::hadamard(std::size_t n, ar::hadamard_rule rule) {
  row_rotation r;
  if (ar::hadamard::make(n, rule, r.matrix_) != ar::errc::ok)
    return fail(error_kind::unsupported, "there is no Hadamard matrix of order " + std::to_string(n) +
                                             " among the known ones (a multiple of 4 up to 256 times a power of two)");
  r.order_ = n;
  return r;
}

result<row_rotation> row_rotation::random(std::size_t n, ar::hadamard_rule rule, std::vector<std::int8_t> signs) {
  auto r = hadamard(n, rule);
  if (!r) return r;
  assert(signs.size() == n);
  r->signs_ = std::move(signs);
  return r;
}

row_rotation row_rotation::dense(std::size_t n, std::vector<float> matrix) {
  assert(matrix.size() == n * n);
  row_rotation r;
  r.order_ = n;
  r.dense_ = std::move(matrix);
  return r;
}

row_rotation row_rotation::transposed() const {
  row_rotation r = *this;
  r.transposed_ = !transposed_;
  return r;
}

row_rotation row_rotation::across(std::size_t inner) const {
  row_rotation r = *this;
  r.inner_ = inner;
  return r;
}

row_rotation row_rotation::divided_by(double divisor) const {
  row_rotation r = *this;
  r.divisor_ = divisor;
  return r;
}

template <class T>
T row_rotation::divisor() const {
  return divisor_ == 0 ? ar::hadamard_divisor<T>(order_) : static_cast<T>(divisor_);
}

template <class T, class Rounding>
void row_rotation::run_rows(T* x, std::size_t rows, std::size_t cols, bool inverse, Rounding round) const {
  assert(cols % chunk() == 0);
  const bool backwards = transposed_ != inverse;
  if (!dense_.empty()) {
    std::vector<double> y(order_);
    for (T* chunk = x; chunk < x + rows * cols; chunk += order_) {
      for (std::size_t j = 0; j < order_; ++j) {
        double sum = 0;
        for (std::size_t i = 0; i < order_; ++i)
          sum += static_cast<double>(chunk[i]) * static_cast<double>(backwards ? dense_[j * order_ + i] : dense_[i * order_ + j]);
        y[j] = sum;
      }
      for (std::size_t j = 0; j < order_; ++j) chunk[j] = round(static_cast<T>(y[j]));
    }
    return;
  }
  const auto apply_signs = [&] {
    if (signs_.empty()) return;
    for (std::size_t i = 0; i < rows * cols; i += inner_) {
      if (signs_[i / inner_ % order_] > 0) continue;
      for (std::size_t c = 0; c < inner_; ++c) x[i + c] = -x[i + c];
    }
  };
  if (!backwards) apply_signs();
  std::vector<T> scratch(ar::hadamard_scratch(matrix_));
  ar::errc done = ar::errc::ok;
  if (inner_ == 1) {
    done = ar::hadamard_rows(matrix_, ar::matrix_view<T>(x, rows, cols), backwards, divisor<T>(), scratch.data(), round);
  } else {
    done = ar::hadamard_columns(matrix_, ar::matrix_view<T>(x, rows * cols / inner_, inner_), backwards, divisor<T>(), scratch.data(), round);
  }
  assert(done == ar::errc::ok);
  static_cast<void>(done);
  if (backwards) apply_signs();
}

template <class T, class Rounding>
void row_rotation::run_columns(T* x, std::size_t rows, std::size_t cols, std::size_t stride, Rounding round) const {
  assert(inner_ == 1 && rows % order_ == 0);
  if (!dense_.empty()) {
    std::vector<T> column(rows);
    for (std::size_t c = 0; c < cols; ++c) {
      for (std::size_t r = 0; r < rows; ++r) column[r] = x[r * stride + c];
      run_rows(column.data(), 1, rows, false, round);
      for (std::size_t r = 0; r < rows; ++r) x[r * stride + c] = column[r];
    }
    return;
  }
  const auto apply_signs = [&] {
    if (signs_.empty()) return;
    for (std::size_t r = 0; r < rows; ++r) {
      if (signs_[r % order_] > 0) continue;
      for (std::size_t c = 0; c < cols; ++c) x[r * stride + c] = -x[r * stride + c];
    }
  };
  if (!transposed_) apply_signs();
  std::vector<T> scratch(ar::hadamard_scratch(matrix_));
  const ar::errc done = ar::hadamard_columns(matrix_, ar::matrix_view<T>(x, rows, cols, stride), transposed_, divisor<T>(), scratch.data(), round);
  assert(done == ar::errc::ok);
  static_cast<void>(done);
  if (transposed_) apply_signs();
}

void row_rotation::rows(float* x, std::size_t rows, std::size_t cols, bool inverse, ar::real type) const {
  if (type == ar::real::bf16) return run_rows(x, rows, cols, inverse, ar::bf16_rounding{});
  if (type == ar::real::f16) return run_rows(x, rows, cols, inverse, ar::f16_rounding{});
  run_rows(x, rows, cols, inverse, ar::no_rounding{});
}

void row_rotation::rows(double* x, std::size_t rows, std::size_t cols, bool inverse) const { run_rows(x, rows, cols, inverse, ar::no_rounding{}); }

void row_rotation::columns(double* x, std::size_t rows, std::size_t cols, std::size_t stride) const {
  run_columns(x, rows, cols, stride, ar::no_rounding{});
}

void row_rotation::columns(float* x, std::size_t rows, std::size_t cols, std::size_t stride, ar::real type) const {
  if (type == ar::real::bf16) return run_columns(x, rows, cols, stride, ar::bf16_rounding{});
  if (type == ar::real::f16) return run_columns(x, rows, cols, stride, ar::f16_rounding{});
  run_columns(x, rows, cols, stride, ar::no_rounding{});
}

}  // namespace auto_round::model
