// The activations of the calibration set between two blocks: one row of numbers for each sample, in float or bfloat16, in memory or in a scratch file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/file.hpp"

namespace auto_round::tune {

class activations {
 public:
  /// `folder`: of the scratch file; empty: they lie in memory. The numbers are the same.
  explicit activations(std::string folder = {}) : folder_(std::move(folder)) {}

  /// Room for `samples` rows of `size` numbers; what was there is lost.
  result<void> reset(std::size_t samples, std::size_t size, bool bf16);
  /// The same, zero, kept in bfloat16 as the difference to `base`: half the memory, and where both are alike far more exact than rounded numbers, as single
  /// numbers of a residual stream are a thousand times as large as the others. `base` must stay, and whatever is read must have been stored since it changed.
  result<void> reset_relative(std::size_t samples, std::size_t size, const activations& base);

  /// Samples first .. first + n - 1 as floats, one after the other.
  void load(std::size_t first, std::size_t n, float* out) const;
  void store(std::size_t first, std::size_t n, const float* in);

  /// `n` numbers of a sample from `offset` on: in place where they are floats in memory, else brought into `scratch`, which has room for them.
  const float* row(std::size_t sample, std::size_t offset, std::size_t n, float* scratch) const;

  /// The numbers as they are kept: all bytes, and those from `offset` on; for a file from which a later run goes on. Not of relative ones.
  /// @{
  std::uint64_t bytes() const { return std::uint64_t{samples_} * size_ * width(); }
  void read_bytes(std::uint64_t offset, std::span<std::byte> to) const;
  void write_bytes(std::uint64_t offset, std::span<const std::byte> from);
  /// @}

  /// The first error of the scratch file: after it numbers are zeros, and whoever reads them asks here once in a while. Not while other threads read.
  result<void> state() const;

 private:
  void add_difference(std::size_t at, std::size_t n, float* to) const;
  std::size_t width() const { return bf16_ ? sizeof(std::uint16_t) : sizeof(float); }
  /// n stored halves: where they lie in memory, else in `room`.
  const std::uint16_t* halves(std::size_t at, std::size_t n, std::vector<std::uint16_t>& room) const;
  void note(result<void> outcome) const;

  std::string folder_;
  std::size_t samples_ = 0, size_ = 0;
  bool bf16_ = false;
  const activations* base_ = nullptr;
  std::vector<float> floats_;
  std::vector<std::uint16_t> halves_;
  std::optional<io::scratch_file> file_;
  mutable std::optional<error> failed_;
};

/// Sum of (p - target)^2 over a row of n; p becomes factor * (p - target).
double squared_error(float* p, const float* target, std::size_t n, float factor);

}  // namespace auto_round::tune
