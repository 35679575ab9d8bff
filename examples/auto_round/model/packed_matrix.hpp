// A matrix that stays in memory as it is packed, and products with it. One row of activations is multiplied while the weights are decoded in
// registers; for several, a panel of rows at a time becomes floats in cache. No weight is kept expanded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/tensor.hpp"
#include "model/linalg.hpp"

namespace auto_round::model {

/// [rows x cols], immutable; may be used by many threads at once.
class packed_matrix {
 public:
  virtual ~packed_matrix() = default;
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  virtual std::uint64_t bytes() const = 0;  ///< of memory, or of a mapped file, that it keeps

  /// out[count x cols] = rows first .. first + count - 1: the values that reading the checkpoint as floats gives. By the calling thread alone.
  virtual void decode(std::size_t first, std::size_t count, float* out) const = 0;
  /// y[i] = row first + i times x[cols], for i < count. By the calling thread alone; the order of sums follows from the CPU. Where weights are whole numbers
  /// times a scale, x is rounded to 16-bit integers with a scale for each 32 (packed_kernel.hpp): an activation moves by at most 2^-16 of the largest of them.
  virtual void dot(const float* x, std::size_t first, std::size_t count, float* y) const = 0;

 protected:
  packed_matrix(std::size_t rows, std::size_t cols) : rows_(rows), cols_(cols) {}

 private:
  std::size_t rows_, cols_;
};

using packed_pointer = std::shared_ptr<const packed_matrix>;

/// y [tokens x rows, `stride` apart] (+)= x [tokens x cols] W^T. One token: packed_matrix::dot. Several: float products, what linalg::gemm_nt gives for the decoded matrix, as closely as the
/// backend's results are independent of the shape of a product (Highway's are equal). Results do not depend on the number of threads.
void multiply(const packed_matrix& w, const float* x, std::size_t tokens, float* y, std::size_t stride, bool accumulate = false, linalg::work who = linalg::work::shared);

/// Every value is a finite number. Decodes all rows once, in cache.
bool all_finite(const packed_matrix& w);

/// Rows of GGUF blocks of a ggml type. Null if the library has no such type, or if the blocks are not rows x cols weights.
packed_pointer block_matrix(std::uint32_t type, io::pinned_bytes blocks, std::size_t rows, std::size_t cols);

/// Rows of 16-bit numbers (F16, BF16). Null for other types and sizes.
packed_pointer number_matrix(io::dtype type, io::pinned_bytes numbers, std::size_t rows, std::size_t cols);

/// Another matrix, all of it multiplied by a number. `inner` is not null.
packed_pointer scaled_matrix(packed_pointer inner, float factor);

/// Numbers as they are stored: F32, F16 or BF16, or bytes with a table of what they stand for.
class stored_numbers {
 public:
  stored_numbers() = default;
  /// `table` is for types of one byte.
  stored_numbers(io::dtype type, std::span<const std::byte> bytes, const std::array<float, 256>& table = {});
  bool empty() const { return bytes_.empty(); }
  std::size_t size() const { return bytes_.size() / width_; }
  std::uint64_t bytes() const { return bytes_.size(); }
  float operator[](std::size_t i) const;
  /// From rows x cols to cols x rows.
  void transpose(std::size_t rows, std::size_t cols);

 private:
  io::dtype type_ = io::dtype::f32;
  std::size_t width_ = 4;
  std::vector<std::byte> bytes_;
  std::array<float, 256> table_{};
};

/// Codes with a scale for each group: weight = (value(code) - zero) * scale, + bias where there is one.
struct packed_codes {
  std::size_t rows = 0, cols = 0;
  int bits = 0;
  std::vector<std::uint32_t> words;        ///< the codes, each row a bit stream as in ar::ct_int32
  std::vector<float> values;               ///< what each code stands for; empty: its number
  std::size_t block_rows = 1, block_cols = 1;  ///< weights that share a scale; the last group of a row may be shorter
  stored_numbers scale;                    ///< [ceil(rows / block_rows) x groups]
  float divisor = 1;                       ///< of all scales; 0: all weights are 0
  std::vector<std::int16_t> zero;          ///< like scale; empty: `middle` throughout
  std::int16_t middle = 0;
  stored_numbers bias;                     ///< like scale; empty: none
  std::vector<std::uint32_t> group;        ///< of each column, where columns do not lie in the order of their groups

  std::size_t groups() const { return (cols + block_cols - 1) / block_cols; }
};
/// Packs codes [rows x cols] into `to.words`; false if they do not fit.
bool set_codes(packed_codes& to, std::span<const std::uint8_t> code);
packed_pointer code_matrix(packed_codes codes);

}  // namespace auto_round::model
