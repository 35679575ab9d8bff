// Values rounded to a scheme's grid and back: what a quantized model computes with, without packing anything.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ar/scheme.hpp"
#include "error.hpp"

namespace auto_round::autoscheme {

/// `weight` [rows x cols] of layer `name` as the tuner sees it before its first step: rounded plainly, K types by their search, with scales in half
/// precision (bfloat16 where activations are quantized too, those of super-blocks as they are searched). Does not depend on the number of threads.
result<std::vector<float>> fake_quantize_weight(const float* weight, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows,
                                                std::size_t cols);

}  // namespace auto_round::autoscheme
