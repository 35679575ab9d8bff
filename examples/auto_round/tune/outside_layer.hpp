// SignRound of a linear layer outside of the blocks, the head: the same loss and steps on the layer alone, its float output on the float model's rows
// as the target of its output on the quantized model's (signround.md section 10).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "error.hpp"
#include "tune/activations.hpp"
#include "tune/layer.hpp"
#include "tune/run_parts.hpp"
#include "tune/signround.hpp"

namespace auto_round::tune {

/// What the layer is tuned on; everything must outlive the run.
struct outside_data {
  const float* weight = nullptr;        ///< [rows x cols]
  const activations* floats = nullptr;  ///< rows of the float model, [seqlen x cols] a sample: they give the target
  const activations* rows = nullptr;    ///< those of the quantized model, which the layer reads; may be `floats`
  const text::calibration_set* set = nullptr;
  std::function<const std::int32_t*()> draw;  ///< the samples of an iteration, batch_size * gradient_accumulate_steps of them or all
};

/// Micro-batches are single samples and their errors add up; the sum is divided by the valid tokens of the first samples, as many as are drawn, which
/// is what the reference divides by. Fills in losses and iterations of `summary`. error_kind::unsupported for quantized inputs and groups that span rows.
result<quantized_layer> tune_outside(const layer_plan& plan, const outside_data& data, const signround_options& options, const tuning_events& events,
                                     block_result& summary);

}  // namespace auto_round::tune
