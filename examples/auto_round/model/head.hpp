// From the last block's output to logits, and to the loss of a causal language model with its gradient.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "error.hpp"
#include "model/decoder.hpp"

namespace auto_round::model {

/// Final norm and output head.
struct output_head {
  std::vector<float> norm, norm_bias, weight;  ///< [hidden], [hidden] or empty, [vocab x hidden]
  packed_pointer packed;                       ///< in place of `weight`, which is then empty
  std::size_t hidden = 0, vocab = 0;
  float eps = 0, cap = 0;   ///< cap: logits become cap * tanh(logit / cap); 0: they do not
  bool layer_norm = false;

  /// out[rows x vocab] from rows of the last block's output; `scratch` holds the normed rows.
  void logits(const float* x, std::size_t rows, std::vector<float>& scratch, float* out) const;

  /// out = norm(x), both [rows x hidden]; `inverse` [rows], unless null, is kept for backward. `out` may be x.
  void normalize(const float* x, std::size_t rows, float* out, float* inverse = nullptr) const;

  /// Rows of logits that take at most 32 MiB: as many as should be alive at a time.
  std::size_t rows_at_once() const;
};

result<output_head> read_head(const weight_source& source, weight_form form = weight_form::floats);
/// The same without the weight.
result<output_head> read_final_norm(const weight_source& source);

/// Mean cross-entropy, nats, of each token given those before it in its sequence; `x` [sequences * seqlen x hidden] is the last block's output.
/// Tokens whose entry in `valid` (may be empty) is 0 and the first of each sequence are no targets; 0 if there are none.
/// The head's weight must be floats. `dx` [like x] receives the gradient; `d_weight` [vocab x hidden], unless null, that of the head's weight. Float products, sums in double.
double causal_loss(const output_head& head, const float* x, std::span<const std::int32_t> ids, std::span<const std::uint8_t> valid, std::size_t seqlen,
                   float* dx, float* d_weight = nullptr);

}  // namespace auto_round::model
