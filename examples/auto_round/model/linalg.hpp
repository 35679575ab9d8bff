// The only door to Eigen and oneDNN. Row-major matrices; every product is split along its outputs in fixed pieces, so that results do not
// depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "error.hpp"

namespace auto_round::linalg {

/// automatic: oneDNN where it was built in and passes the check, else highway (our own kernel with run-time dispatch; measured on Zen 5 it is about
/// four times as fast as Eigen with portable flags, which remains as a second opinion).
enum class backend { automatic, highway, eigen, onednn };
enum class precision { f32, bf16 };  ///< bf16: inputs rounded to bfloat16 (nearest even), sums in float

/// A row-major operand of float or, if `bf16`, of bfloat16 bits.
struct operand {
  const void* data = nullptr;
  std::size_t rows = 0, cols = 0, stride = 0;
  bool bf16 = false;
};

/// Chooses the backend and checks it against plain loops on odd shapes; error_kind::unsupported if it was asked for and is not built in or
/// wrong. Called once by main; without it the first product uses `automatic`.
result<void> initialize(backend choice);
std::string description();    ///< "oneDNN 2.6.3 (avx512_core_bf16)", "Highway (AVX3)", "Eigen 3.4.0"
bool fast_bf16();             ///< the CPU multiplies bfloat16 faster than float (AMX, or AVX512-BF16 by AMD) and the backend uses it
/// From here on the heap keeps freed buffers of up to a MiB for the next product, for programs that only evaluate windows of one length (activations of many
/// lengths would lie in pieces between each other). oneDNN allocates a copy of b (620 KiB of a panel of packed weights) in each product of floats; given
/// back to the system each time, as main arranges for matrices, its pages cost a fifth of an evaluation's time with one thread and a third with two.
void keep_buffers();

/// Who computes a product: all threads in pieces, or the calling thread alone and at once (for callers that are parallel themselves). A choice of
/// the caller and not of the moment: the two may differ in the last bit.
enum class work { shared, own };

/// c[m x n] (+)= a[m x k] * b[n x k]^T : a linear layer's forward, y = x W^T.
void gemm_nt(const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate = false, work who = work::shared);
/// c[m x n] (+)= a[m x k] * b[k x n] : gradient of the input, dx = dy W.
void gemm_nn(const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate = false, work who = work::shared);
/// c[m x n] (+)= a[k x m]^T * b[k x n] : gradient of the weight, dW = dy^T x.
void gemm_tn(const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate = false, work who = work::shared);
// Both operands of a product have the same element type.

/// The second operand of many products, rearranged once where the backend multiplies faster from its own layout (measured with oneDNN on bfloat16:
/// neutral on Zen 5 with AVX512-BF16, where every piece would otherwise rearrange it for itself; twice the speed with AMX).
class prepared {
 public:
  prepared();
  ~prepared();
  prepared(prepared&&) noexcept;
  prepared& operator=(prepared&&) noexcept;

  /// For a * b^T (b[n x k]) if `transposed`, else for a * b (b[k x n]), on pieces of `rows` rows of a, at least `total` rows in all: few rows are not
  /// worth rearranging for. b must stay unchanged and alive. Uses all threads.
  void set(bool transposed, const operand& b, std::size_t rows, std::size_t total);
  /// c (+)= a * b or a * b^T, by the calling thread alone. May be called by many threads.
  void multiply(const operand& a, float* c, std::size_t c_stride, bool accumulate) const;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// One of several independent products c (+)= a^T * b.
struct gradient_product {
  operand a, b;
  float* c = nullptr;
  std::size_t c_stride = 0;
};
/// gemm_tn of each, with the pieces of all shared out together.
void gemm_tn(const gradient_product* products, std::size_t count, bool accumulate);

/// Rounds floats to bfloat16 (nearest even), in parallel.
void to_bf16(const float* in, std::size_t n, std::uint16_t* out);

}  // namespace auto_round::linalg
