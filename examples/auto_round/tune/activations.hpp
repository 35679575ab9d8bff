// The activations of the calibration set between two blocks: one row of numbers for each sample, in float or bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace auto_round::tune {

class activations {
 public:
  /// Room for `samples` rows of `size` numbers; what was there is lost.
  void reset(std::size_t samples, std::size_t size, bool bf16);
  /// The same, zero, kept in bfloat16 as the difference to `base`: half the memory, and where both are alike far more exact than rounded numbers, as single
  /// numbers of a residual stream are a thousand times as large as the others. `base` must stay, and whatever is read must have been stored since it changed.
  void reset_relative(std::size_t samples, std::size_t size, const activations& base);

  /// Samples first .. first + n - 1 as floats, one after the other.
  void load(std::size_t first, std::size_t n, float* out) const;
  void store(std::size_t first, std::size_t n, const float* in);

  /// `n` numbers of a sample from `offset` on: in place where they are floats, else widened into `scratch`, which has room for them.
  const float* row(std::size_t sample, std::size_t offset, std::size_t n, float* scratch) const;

 private:
  void add_difference(std::size_t at, std::size_t n, float* to) const;

  std::size_t size_ = 0;
  bool bf16_ = false;
  const activations* base_ = nullptr;
  std::vector<float> floats_;
  std::vector<std::uint16_t> halves_;
};

/// Sum of (p - target)^2 over a row of n; p becomes factor * (p - target).
double squared_error(float* p, const float* target, std::size_t n, float factor);

}  // namespace auto_round::tune
