// Static scales of experts that no token of the calibration set reached.
#pragma once

#include <algorithm>
#include <string>

#include "model/spec.hpp"
#include "tune/static_scales.hpp"

namespace auto_round::tune {

/// Gives routed experts whose largest input is 0 the largest of the block's other experts, projection by projection (gate, up, down): as auto-round 0.16.1
/// (block-flow.md section 10), since a scale of nothing would clip whatever such an expert reads one day. `maximum(linear)` points to the value of a linear
/// layer, or is null where none is wanted. Where no expert was reached it stays 0.
template <class F>
void fill_unseen_experts(const model::model_spec& spec, const F& maximum) {
  const model::mixture_spec& m = spec.mixture;
  if (m.experts == 0) return;
  for (int part = 0; part < 3; ++part) {
    const auto of = [&](std::int64_t expert) -> float* { return maximum(m.first + 3 * static_cast<int>(expert) + part); };
    float largest = 0;
    for (std::int64_t e = 0; e < m.experts; ++e)
      if (const float* const v = of(e); v != nullptr) largest = std::max(largest, *v);
    for (std::int64_t e = 0; e < m.experts; ++e)
      if (float* const v = of(e); v != nullptr && *v == 0) *v = largest;
  }
}

/// The same for what was collected from the whole model.
inline void fill_unseen_experts(const model::model_spec& spec, static_maxima& maxima) {
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    fill_unseen_experts(spec, [&](int linear) -> float* {
      const auto at = maxima.inputs.find(spec.linear_name(b, linear));
      return at == maxima.inputs.end() ? nullptr : &at->second;
    });
}

}  // namespace auto_round::tune
