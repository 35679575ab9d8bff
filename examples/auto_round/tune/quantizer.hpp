// Round to nearest: one linear layer quantized from its weights alone, by the scheme's run-time fields. No calibration, no search over data.
#pragma once

#include <cstddef>
#include <string>

#include "ar/numeric/real.hpp"
#include "ar/scheme.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "tune/layer.hpp"

namespace auto_round::tune {

/// Reads `name`.weight [rows x cols] and quantizes it. Integer types compute in `weight_type` (the reference: the checkpoint's type, or f32 in its
/// shard-wise route; f32 if there is no such kernel), with scales stored as `scale_type`; the K types and Q4_1/Q5_1 of GGUF get the reference's parameters (`code` and `zero_point` stay empty, `wmin` is the offset).
/// Rows are worked on in parallel; the result does not depend on the number of threads. error_kind::unsupported for schemes without a quantizer
/// and shapes that do not fit, error_kind::input for weights whose scale overflows.
result<quantized_layer> round_to_nearest(const model::weight_source& source, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows,
                                         std::size_t cols, ar::real scale_type = ar::real::f16, ar::real weight_type = ar::real::f32);

/// The same for a weight in memory.
result<quantized_layer> round_to_nearest(const float* weight, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols,
                                         ar::real scale_type = ar::real::f16, ar::real weight_type = ar::real::f32);

}  // namespace auto_round::tune
