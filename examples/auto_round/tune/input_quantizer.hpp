// What linear layers read, quantized in the tuning loop as an engine will quantize it, and the exact backward of that (signround.md section 4,
// activations). Layers that read the same rows (q, k and v; gate and up) share one quantizer, as engines fuse them; a finished checkpoint may have
// several.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "ar/detail/kernel_table.hpp"
#include "ar/detail/tune_types.hpp"
#include "error.hpp"
#include "model/spec.hpp"
#include "tune/run_parts.hpp"

namespace auto_round::tune {

class input_quantizer {
 public:
  /// For the layers of a block; null if none of them reads quantized rows. error_kind::unsupported, naming a layer, if layers that read the same rows
  /// want them in different ways, and for types that activations cannot have. `readers`, unless empty, says in place of model_spec::reader which layers
  /// share a quantizer (block_runner::input_filters).
  static result<std::unique_ptr<input_quantizer>> make(const model::model_spec& spec, const std::vector<layer_plan>& layers, std::vector<int> readers = {});

  /// True if some scales are static: observe must then see the calibration set first.
  bool needs_maxima() const;
  /// True if the scale of a layer's input is.
  bool needs_maximum(int linear) const;
  /// Raises the largest magnitudes to those of the rows x [tokens x in_features] of a layer's input.
  void observe(int linear, const float* x, std::size_t tokens);

  /// Behind the last observe: experts that no token reached get static scales of the others' inputs.
  void fill_unseen_experts();

  // For block_runner::set_input_filter.
  void forward(int linear, float* x, std::size_t tokens);
  /// Also keeps what flows into tuned factors of static scales, row by row.
  void backward(int linear, const float* x, float* d, std::size_t first, std::size_t count);

  /// Factors of static scales (act_max_scale): moves them against the signs of their gradients, which are then forgotten.
  void step(float lr);
  void mark_best();
  /// Goes back to the best factors, if any were marked.
  void keep_best();

  /// The largest magnitude that a layer's static scale stands for, its factor included; negative for dynamic scales and for layers in float.
  float maximum(int linear) const;
  /// Makes `value`, which `maximum` gave in an earlier run, the static scale of a layer's input; negative values change nothing.
  void restore(int linear, float value);

 private:
  struct slot {
    bool used = false, fixed = false, tuned = false;  // fixed: static scale; tuned: its factor
    const ar::range_kernels* kernels = nullptr;
    ar::tune_grid grid;
    int bits = 0, group_size = 0;
    std::size_t cols = 0;
    float largest = 0, factor = 1, best_factor = -1;
    std::vector<double> d_factor;  // by row of the batch
  };
  input_quantizer(const model::model_spec& spec, std::vector<int> readers);
  std::size_t index_of(int linear) const { return static_cast<std::size_t>(readers_[static_cast<std::size_t>(linear)]); }

  model::model_spec spec_;
  std::vector<int> readers_;  // by layer, the first that shares its quantizer
  std::vector<slot> slots_;   // by that one
};

}  // namespace auto_round::tune
