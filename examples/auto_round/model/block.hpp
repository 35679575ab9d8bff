// One decoder block: forward, and the exact backward of the tuning loss with respect to its linear weights. Knows nothing of quantization:
// the tuner hands in the weights to use and receives dL/dW.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/linalg.hpp"
#include "model/spec.hpp"

namespace auto_round::model {

/// Weights of a block in float. `linears[i]` is [out x in] row-major in the order of model_spec::linears; `bias[i]` may be empty.
struct block_weights {
  std::vector<std::vector<float>> linears;
  std::vector<std::vector<float>> bias;
  std::vector<float> input_norm, post_attention_norm;
};

/// Runs blocks on batches of `sequences` x `seqlen` tokens; rows of x and y are tokens, [sequences * seqlen x hidden_size].
/// Positions start at 0 in every sequence and attention is causal. Buffers are kept between calls.
class block_runner {
 public:
  block_runner(const model_spec& spec, linalg::precision precision);
  ~block_runner();
  block_runner(block_runner&&) noexcept;

  /// Called with the index of a linear layer and its input rows [tokens x in_features], before the product (importance matrix, statistics).
  using input_hook = std::function<void(int linear, const float* x, std::size_t tokens)>;

  /// y = block(x); x and y may be the same buffer.
  void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook = {});

  /// The same, keeping what backward needs. `w` and `x` must stay unchanged until backward returns.
  void forward_train(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y);
  /// dL/dW of every linear layer, [out x in] each, from dL/dy [tokens x hidden]; `accumulate` adds to what is there. No gradient of x is formed
  /// unless `dx` is not null.
  void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx = nullptr);

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::model
