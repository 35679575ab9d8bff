// The loop of SignRound over one or several blocks that are tuned together: forward with fake-quantized weights, loss against the float model's
// output, exact backward, sign step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "tune/activations.hpp"
#include "tune/importance.hpp"
#include "tune/input_quantizer.hpp"
#include "tune/run_parts.hpp"
#include "tune/signround.hpp"
#include "tune/tuned_layer.hpp"
#include "tune/tuned_vector.hpp"

namespace auto_round::tune {

/// The layers of one block that are tuned, and the weights to run it with.
struct tuned_block {
  model::block_weights floats;     // linears of layers that stay in float, and everything that is not tuned
  model::block_weights quantized;  // the same with the fake-quantized weights in their place
  std::vector<std::unique_ptr<tuned_layer>> layers;   // null where a layer stays in float
  std::vector<std::vector<float>> gradients;
  std::vector<float*> gradient_pointers;
  std::unique_ptr<input_quantizer> inputs;  // null where the layers read float rows

  // Norms and biases, where they are tuned.
  struct vector_parameter {
    std::string name;             // of the tensor
    std::vector<float>* value;    // in `quantized`
    std::vector<float>* gradient; // in `vector_gradients`
    int bits;                     // of the layer, for its rate; 16 for norms
    tuned_vector tuned;
  };
  std::vector<vector_parameter> vectors;
  model::vector_gradients vector_gradients;
};

/// f(name of the tensor, value in `quantized`, its gradient, bits of its layer or 16) for the norms and biases of block `index` that can be tuned.
template <class F>
void for_each_vector(const model::model_spec& spec, const std::vector<layer_plan>& layers, std::int64_t index, tuned_block& block, const F& f) {
  model::block_weights& q = block.quantized;
  model::vector_gradients& d = block.vector_gradients;
  const std::string prefix = spec.block_name(index);
  f(prefix + spec.input_norm_name, q.input_norm, d.input_norm, 16);
  f(prefix + spec.post_attention_norm_name, q.post_attention_norm, d.post_attention_norm, 16);
  d.bias.resize(layers.size());
  for (std::size_t i = 0; i < std::min(layers.size(), q.bias.size()); ++i)
    if (layers[i].choice != nullptr) f(layers[i].name + ".bias", q.bias[i], d.bias[i], layers[i].choice->scheme.bits);
}

class block_loop {
 public:
  /// Everything must outlive the loop. One random generator lives through all its runs.
  block_loop(const model::model_spec& spec, const text::calibration_set& calibration, const signround_options& options, const tuning_events& events);

  /// Makes the layers, weights and gradients that a run works with from the float weights, which must be there. `block_index` names its vectors.
  /// `importance`: by layer, or empty; used by searched initial scales. `given`: initial values by layer, or empty.
  result<void> prepare(std::vector<layer_plan>& layers, tuned_block& block, std::int64_t block_index, const std::vector<column_importance>& importance = {},
                       std::vector<initial_values> given = {});

  /// Tunes the layers of `unit` on the first `samples` samples of `input`, the blocks' input, towards `target`, the float model's output. Fills in losses
  /// and iterations of `summary` and adds to `seconds`. error_kind::interrupted if an event says so.
  result<void> run(std::vector<tuned_block>& unit, const activations& input, const activations& target, std::size_t samples, block_result& summary,
                   stage_seconds& seconds);

  /// The tuned layers, quantized; `quantized` of the blocks then holds what is stored.
  std::vector<quantized_layer> quantize(std::vector<tuned_block>& unit);

  /// Runs blocks on a whole chain, a few samples at a time, from `in` to `out` (which may be the same; null: nowhere). `hook`, unless empty, sees what
  /// the linear layers read; `experts`, unless null, counts the tokens of each block's routed experts.
  using block_hook = std::function<void(std::size_t block, int linear, const float* x, std::size_t tokens)>;
  void propagate(std::vector<tuned_block>& unit, bool quantized, const activations& in, activations* out, const block_hook& hook = {},
                 std::vector<std::vector<std::uint64_t>>* experts = nullptr);

  /// The generator of all draws so far; what is tuned after the blocks goes on with it.
  ar::python_random& random() { return random_; }

 private:
  struct layer_step;
  std::size_t sample_size() const { return seqlen_ * hidden_; }
  bool stores_gradients() const;
  /// Gradients are those of a thousand times the squared error, so that half precision keeps small ones; Adam does without.
  double gradient_factor() const { return o_.enable_adam ? 2.0 : 2000.0; }
  bool drops_outliers(const std::vector<tuned_block>& unit) const;
  void quantize_inputs(model::block_runner& runner, const tuned_block& block, bool train) const;
  void apply_vectors(std::vector<tuned_block>& unit) const;
  tuned_layer::storage storage() const;
  void step(std::vector<tuned_block>& unit, std::vector<layer_step>& steps, int t);
  double loss(const std::int32_t* idx, std::size_t n, const activations& target, float* pred);
  double loss_without_outliers(const std::int32_t* idx, std::size_t n, const activations& target, float* pred);
  model::block_runner& runner(std::size_t i);
  float* between(std::size_t b, std::size_t n) { return buffer(between_, b, n); }
  float* between_gradient(std::size_t b, std::size_t n) { return buffer(between_gradient_, b, n); }
  float* buffer(std::vector<std::vector<float>>& list, std::size_t b, std::size_t n);

  const model::model_spec& spec_;
  const text::calibration_set& set_;
  const signround_options& o_;
  const tuning_events& events_;
  std::size_t samples_, seqlen_, hidden_, batch_;
  ar::python_random random_;
  std::vector<model::block_runner> runners_;
  std::vector<std::vector<float>> between_, between_gradient_;
  std::vector<double> token_loss_;
  std::vector<float> errors_;
};

}  // namespace auto_round::tune
