// One decoder block: forward, and the exact backward of the tuning loss with respect to its linear weights. Knows nothing of quantization:
// the tuner hands in the weights to use and receives dL/dW.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/linalg.hpp"
#include "model/packed_matrix.hpp"
#include "model/rotation.hpp"
#include "model/spec.hpp"

namespace auto_round::model {

/// Weights of a block. `linears[i]` is [out x in] row-major in the order of model_spec::linears, empty where the block has no such layer; `bias[i]` may be
/// empty. Norms are what is multiplied by, a unit offset included.
struct block_weights {
  std::vector<std::vector<float>> linears;
  /// Bits of the weights rounded to bfloat16, for runners of precision bf16. Where `linears_bf16[i]` is not empty such a runner reads it and
  /// never looks at `linears[i]`, which may then be empty; otherwise it rounds `linears[i]` itself once a forward. May have size 0.
  std::vector<std::vector<std::uint16_t>> linears_bf16;
  /// Weights that stay packed, in place of `linears[i]`, which is then empty; forward passes of runners of precision f32 only. May have size 0.
  std::vector<packed_pointer> packed;
  std::vector<std::vector<float>> bias;
  std::vector<float> input_norm, post_attention_norm;  ///< before attention and before the MLP
  std::array<std::vector<float>, block_parts> parts;     ///< by block_part; empty where there is no such tensor
  std::shared_ptr<const block_rotations> rotations;      ///< what the block does to activations before its products; null: nothing
  std::int64_t layer = 0;                                ///< which block it is: windows and mixtures differ

  const std::vector<float>& part(block_part p) const { return parts[static_cast<std::size_t>(p)]; }
  std::vector<float>& part(block_part p) { return parts[static_cast<std::size_t>(p)]; }
  /// Everything but the weights of linear layers, for which there is room.
  block_weights without_linears() const {
    block_weights w;
    w.linears.resize(linears.size());
    w.linears_bf16.resize(linears.size());
    w.bias = bias;
    w.input_norm = input_norm;
    w.post_attention_norm = post_attention_norm;
    w.parts = parts;
    w.rotations = rotations;
    w.layer = layer;
    return w;
  }
};

/// Rotated keys and the values of the tokens that a block has seen, [tokens x kv_heads * head_dim] and [tokens x kv_heads * value_dim].
struct kv_cache {
  std::vector<float> k, v;
  std::size_t tokens = 0;
};

/// How much an error of a token's query or key disturbs what attention adds to the stream: factors of squared errors, in units of their own, to first
/// order, with errors of different keys taken as independent. Summed over heads, [tokens] each. With scores p and values v, an error e of the score of
/// query t and key s moves the output o_t by p(t, s) (v_s - o_t) e.
struct attention_sensitivity {
  const std::uint8_t* counts = nullptr;  ///< in: [tokens], 0 for queries whose output does not matter; null: all matter
  std::vector<float> query, key;         ///< out
};

/// The same for rows of gate and up: by how much an error of one of a token's values, of mean weight among the rows, disturbs what the MLP adds to the
/// stream, to first order. [tokens] each.
struct mlp_sensitivity {
  std::vector<float> gate, up;
};

/// Gradients of a block's vectors, where a backward pass is asked for them; it sizes them. Norms: RMSNorm only.
struct vector_gradients {
  std::vector<float> input_norm, post_attention_norm;
  std::vector<std::vector<float>> bias;  ///< by linear layer; empty where the layer has none
};

/// For each linear layer, which copy of its rows (0, 1, ...) a block_runner makes for it under input_filters of these `readers`; -1: none, it reads them
/// where they lie.
std::vector<int> copies_of_rows(const model_spec& spec, const std::vector<int>& readers);

/// Runs blocks on batches of `sequences` x `seqlen` tokens; rows of x and y are tokens, [sequences * seqlen x hidden_size].
/// Positions start at 0 in every sequence and attention is causal. Buffers are kept between calls. With precision bf16 the inputs of every
/// matrix product are rounded to bfloat16; sums, norms, softmax, residuals and gradients of weights are float.
/// Results do not depend on the number of threads. One runner serves one caller at a time; it may be used for any block of the model.
class block_runner {
 public:
  block_runner(const model_spec& spec, linalg::precision precision);
  ~block_runner();
  block_runner(block_runner&&) noexcept;

  /// Called with the index of a linear layer and its input rows [tokens x in_features], before the product (importance matrix, statistics).
  /// A batch may arrive in several calls, in order.
  using input_hook = std::function<void(int linear, const float* x, std::size_t tokens)>;

  /// Changes the rows [tokens x in_features] that a linear layer reads, in place, before the product: quantization of activations. Called once for
  /// each input, with the first of the layers that share it (model_spec::reader: q for q, k and v; gate for gate and up), for a whole batch of
  /// forward_train and forward_cached and for each piece of forward; an expert's with the rows that are for it. Gradients of weights see the changed rows.
  using input_filter = std::function<void(int linear, float* x, std::size_t tokens)>;
  /// The filter's backward: from the gradient `d` of its result to that of the rows x that it was given, in place, for rows first .. first + count - 1
  /// of the batch, where x and d begin. Called by several threads at once, with rows of their own.
  using filter_gradient = std::function<void(int linear, const float* x, float* d, std::size_t first, std::size_t count)>;
  /// For all passes from now on; an empty one switches it off. Without `gradient` backward takes the change for constant and
  /// gradients of the rows pass unchanged; with it the unchanged rows are kept until backward.
  void set_input_filter(input_filter filter, filter_gradient gradient = {});

  /// A filter for layers that share an input, but want it changed in different ways.
  struct input_filters {
    input_filter filter;
    /// By linear layer, model_spec::reader if that one wants the rows changed in the same way, else the first layer that does, which may be itself. The
    /// filter is called once for each of these, with rows of their own. Empty: model_spec::reader for all.
    std::vector<int> readers;
  };
  /// The same for forward passes without hooks, and no backward.
  void set_input_filters(input_filters filters);

  /// What attention reads of one sequence and one key-value head, behind the rotary embedding: queries of the heads that share it
  /// [seqlen * num_heads / num_kv_heads x head_dim], token by token, keys [seqlen x head_dim] and values [seqlen x value_dim].
  struct attention_rows {
    std::size_t kv_head = 0;
    std::span<float> q, k, v;
  };
  /// Sees what attention reads, and may change it in place (a quantized KV cache), before every pass of forward over a piece of a batch: all
  /// sequences and heads of the piece in one call.
  using attention_filter = std::function<void(std::span<const attention_rows> rows)>;
  /// For all passes from now on except forward_cached; an empty one switches it off. Backward takes the change for constant.
  void set_attention_filter(attention_filter filter);
  /// Adds to (*into)[e] the tokens that routed expert e is given, in all passes from now on; null: no longer. Blocks without a mixture add nothing.
  void count_expert_tokens(std::vector<std::uint64_t>* into);

  /// y = block(x); x and y may be the same buffer. Works through the batch in pieces of about 2048 tokens, so any number of sequences costs the
  /// memory of one piece.
  void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook = {});

  /// Called with the index of a linear layer, the gradient of its output dL/dy [tokens x out_features] and the rows x [tokens x in_features] that it
  /// read: dL/dW = dL/dy^T x.
  using gradient_hook = std::function<void(int linear, const float* dy, const float* x, std::size_t tokens)>;

  /// The same for the whole batch at once, keeping what backward needs. `w` and `x` must stay unchanged until backward returns.
  void forward_train(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y);
  /// dL/dW of every linear layer, [out x in] each, from dL/dy [tokens x hidden]; `accumulate` adds to what is there. A null entry of
  /// `d_linears` skips that layer. No gradient of x is formed unless `dx` (not y's or dy's buffer) is not null. Once for each forward_train:
  /// it consumes what was kept. `hook`, unless empty, sees the factors of each dL/dW that is asked for. `vectors`, unless null, receives the gradients
  /// of norm weights and biases, or they are added to what it holds if `accumulate`.
  void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx = nullptr,
                const gradient_hook& hook = {}, vector_gradients* vectors = nullptr);

  // Parts of a block, for searches that compare their outputs. Runners of precision f32 only.
  /// out [tokens x hidden] = what attention gives from x: o without its bias, before any norm behind it.
  void attention_output(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out);
  /// out = the stream that the norm before the MLP reads.
  void mlp_input(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out);
  /// out = what the MLP gives from that stream, without the bias of its last layer and before any norm behind it.
  void mlp_output(const block_weights& w, const float* x, std::size_t tokens, float* out);

  // A block that is laid out plainly (model_spec::plain) in steps, for tuners that stop between its layers. Each works on the whole batch; the rows it returns lie in the runner, in the element
  // type of its products, until the same step is called again. Only the weights that a step names are looked at.
  /// What o reads, from q, k, v: attention over rms_norm(x), [tokens x num_heads * head_dim].
  /// `sensitivity`, unless null, is filled in; that reads the float weight of o too.
  linalg::operand attend(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, attention_sensitivity* sensitivity = nullptr);
  /// What down reads, from gate and up: the gated product of rms_norm(x), [tokens x intermediate_size].
  linalg::operand gate(const block_weights& w, const float* x, std::size_t tokens, mlp_sensitivity* sensitivity = nullptr);
  /// y = residual + linear(x), bias included; `rows` come from a step above. y may be residual.
  void add_linear(const block_weights& w, int linear, const linalg::operand& rows, const float* residual, float* y);

  /// y = block(x) for `tokens` further tokens of one sequence, whose earlier ones are in `cache`; appends theirs. Runners of precision f32 only.
  void forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y);

 private:
  struct impl;
  template <class T>
  struct typed_impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::model
