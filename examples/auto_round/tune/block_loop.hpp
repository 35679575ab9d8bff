// The loop of SignRound over one or several blocks that are tuned together: forward with fake-quantized weights, loss against the float model's
// output, exact backward, sign step.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "tune/activations.hpp"
#include "tune/run_parts.hpp"
#include "tune/signround.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {

/// The layers of one block that are tuned, and the weights to run it with.
struct tuned_block {
  model::block_weights floats;     // linears of layers that stay in float, and everything that is not tuned
  model::block_weights quantized;  // the same with the fake-quantized weights in their place
  std::vector<std::unique_ptr<tuned_layer>> layers;   // null where a layer stays in float
  std::vector<std::vector<float>> gradients;
  std::vector<float*> gradient_pointers;
};

class block_loop {
 public:
  /// Everything must outlive the loop. One random generator lives through all its runs.
  block_loop(const model::model_spec& spec, const text::calibration_set& calibration, const signround_options& options, const tuning_events& events);

  /// Makes the layers, weights and gradients that a run works with from the float weights, which must be there.
  void prepare(const std::vector<layer_plan>& layers, tuned_block& block);

  /// Tunes the layers of `unit` on the first `samples` samples of `input`, the blocks' input, towards `target`, the float model's output. Fills in losses
  /// and iterations of `summary` and adds to `seconds`. error_kind::interrupted if an event says so.
  result<void> run(std::vector<tuned_block>& unit, const activations& input, const activations& target, std::size_t samples, block_result& summary,
                   stage_seconds& seconds);

  /// The tuned layers, quantized; `quantized` of the blocks then holds what is stored.
  std::vector<quantized_layer> quantize(std::vector<tuned_block>& unit);

  /// Runs blocks on a whole chain, a few samples at a time, from `in` to `out` (which may be the same).
  void propagate(std::vector<tuned_block>& unit, bool quantized, const activations& in, activations& out);

 private:
  struct layer_step;
  std::size_t sample_size() const { return seqlen_ * hidden_; }
  bool stores_gradients() const;
  tuned_layer::storage storage() const;
  void step(std::vector<tuned_block>& unit, std::vector<layer_step>& steps);
  double loss(const std::int32_t* idx, std::size_t n, const activations& target, float* pred);
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
};

}  // namespace auto_round::tune
