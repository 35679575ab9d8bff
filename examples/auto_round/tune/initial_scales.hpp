// Scales that are searched before tuning begins, weighted by the importance of the inputs: what the reference calls the algorithm extension (V2,
// signround.md section 8).
#pragma once

#include <span>

#include "error.hpp"
#include "tune/run_parts.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {

/// Searches initial scales of symmetric integers, MX and NVFP4 (factors then run from 0 to 2) and the frozen scales of super-blocks, and changes
/// `plan.grid` to what they are for; other types give nothing and keep their grid. `importance`: [cols] sums of squared inputs, or empty for ones.
/// error_kind::input for weights or importances that are not finite.
result<initial_values> search_initial(layer_plan& plan, const float* weight, std::span<const float> importance, bool compat);

}  // namespace auto_round::tune
