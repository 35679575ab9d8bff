// Orthogonal maps of rows of numbers, and those that a block applies to its activations while it runs (online rotations).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ar/hadamard.hpp"
#include "ar/numeric/real.hpp"
#include "error.hpp"

namespace auto_round::model {

/// y = x M for rows x, chunk by chunk of n values. M is U = (T x H)^T / sqrt(n), R = diag(signs) U, the transpose of either, or a dense matrix.
class row_rotation {
 public:
  /// U of order n by a rule; error_kind::unsupported if there is no such matrix.
  static result<row_rotation> hadamard(std::size_t n, ar::hadamard_rule rule);
  /// diag(signs) U; n signs of 1 and -1.
  static result<row_rotation> random(std::size_t n, ar::hadamard_rule rule, std::vector<std::int8_t> signs);
  /// Any orthogonal matrix [n x n].
  static row_rotation dense(std::size_t n, std::vector<float> matrix);

  row_rotation transposed() const;
  /// Mixes values that are `inner` apart: a chunk has n * inner values, viewed [n x inner].
  row_rotation across(std::size_t inner) const;
  /// Divides by something else than sqrt(n): the reference works with rounded roots.
  row_rotation divided_by(double divisor) const;

  std::size_t order() const { return order_; }
  std::size_t chunk() const { return order_ * inner_; }  ///< rows have a multiple of so many values
  const std::vector<std::int8_t>& signs() const { return signs_; }

  /// In place on x[rows x cols]; `inverse` takes the transpose of M. By the calling thread. `type` rounds after every addition as arithmetic of that
  /// type does.
  void rows(float* x, std::size_t rows, std::size_t cols, bool inverse = false, ar::real type = ar::real::f32) const;
  void rows(double* x, std::size_t rows, std::size_t cols, bool inverse = false) const;
  /// Along the columns of x[rows x cols], rows `stride` apart: every column is a row that becomes x M. Not for rotations with `inner`.
  void columns(double* x, std::size_t rows, std::size_t cols, std::size_t stride) const;
  void columns(float* x, std::size_t rows, std::size_t cols, std::size_t stride, ar::real type) const;

 private:
  template <class T, class Rounding>
  void run_rows(T* x, std::size_t rows, std::size_t cols, bool inverse, Rounding round) const;
  template <class T, class Rounding>
  void run_columns(T* x, std::size_t rows, std::size_t cols, std::size_t stride, Rounding round) const;
  template <class T>
  T divisor() const;

  std::size_t order_ = 1, inner_ = 1;
  ar::hadamard matrix_;
  std::vector<std::int8_t> signs_;
  std::vector<float> dense_;
  bool transposed_ = false;
  double divisor_ = 0;  // 0: the root of the order
};

/// What a block applies to its activations; empty pointers: nothing. The weights behind each place are rotated to match.
struct block_rotations {
  std::shared_ptr<const row_rotation> attention_input;  ///< of q, k, v
  std::shared_ptr<const row_rotation> o_input;
  std::shared_ptr<const row_rotation> mlp_input;  ///< of gate and up
  std::shared_ptr<const row_rotation> down_input;
  std::shared_ptr<const row_rotation> query_key;  ///< queries and keys behind the rotary embedding, head by head

  bool any() const { return attention_input || o_input || mlp_input || down_input || query_key; }
};

}  // namespace auto_round::model
