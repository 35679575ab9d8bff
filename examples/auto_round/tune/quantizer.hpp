// One linear layer quantized from its weights alone, by the scheme's run-time fields: round to nearest, or OPT-RTN, which searches better scales.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "ar/detail/kernel_table.hpp"
#include "ar/numeric/real.hpp"
#include "ar/scheme.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "tune/layer.hpp"

namespace auto_round::tune {

/// How to quantize. The defaults are plain rounding.
struct rounding {
  ar::real scale_type = ar::real::f16;   ///< storage of integer scales; f32 for GGUF types
  ar::real weight_type = ar::real::f32;  ///< what is computed in: the checkpoint's type, or f32 in the reference's shard-wise route
  bool search = false;                   ///< OPT-RTN: search scales (asymmetric integers: NeUQI's search, FP8: factors of the range)
  std::span<const float> importance{};   ///< [cols] weights of the squared errors of a search, or empty
  float global_scale = -1;               ///< of types with a scale of the whole tensor: the one to use; negative: the layer's own
  bool codes_only = false;               ///< without a search: quantized_layer::weight stays empty
  bool reference = false;                ///< search exactly as auto-round 0.16.1: not at all for asymmetric integers and FP8, its defects included
};

/// True where OPT-RTN searches with data by default (schemes.md 6): K types; symmetric integers below 8 bits, MX and NVFP4. With `reference`
/// false also asymmetric integers and FP8, which the reference rounds plainly.
bool searches_by_default(const ar::scheme_fields& scheme, bool reference);

/// Quantizes `weight` [rows x cols]. Rows are worked on in parallel; the result does not depend on the number of threads.
/// error_kind::unsupported for schemes without a quantizer and shapes that do not fit, error_kind::input for weights whose scale overflows.
result<quantized_layer> quantize_layer(const float* weight, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols,
                                       const rounding& how = {});

/// The same for tensor `name`.weight of a model.
result<quantized_layer> quantize_layer(const model::weight_source& source, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows,
                                       std::size_t cols, const rounding& how = {});

/// The kernels of a data type for float data, with scales in half precision where they are stored in a format; the type is the one that SignRound and
/// activations get for these fields of a scheme. Null for the block types of GGUF and for what there is no quantizer for.
const ar::range_kernels* tuned_kernels(std::string_view data_type, int bits, bool sym, bool tiles = false, ar::real scale_type = ar::real::f16);

/// True if the scheme rounds activations.
inline bool quantizes_activations(const ar::scheme_fields& s) { return s.act_bits.value_or(16) <= 8; }

/// Rounds the rows x [tokens x cols] of a layer's input to the grid of the scheme's activations, in place. Scales of integers are stored in `scale_type`;
/// what is static is taken from these rows. Nothing happens if the scheme leaves activations alone. error_kind::unsupported for types that activations
/// cannot have, error_kind::input for rows that are not finite.
result<void> fake_quantize_activations(float* x, const ar::scheme_fields& scheme, std::size_t tokens, std::size_t cols, ar::real scale_type);

/// True for types with a scale of the whole tensor (NVFP4).
bool has_global_scale(const ar::scheme_fields& scheme);

/// The scale of the whole tensor that a layer would get on its own (NVFP4: 2688 over the largest magnitude); negative for schemes without one.
float own_global_scale(const ar::scheme_fields& scheme, std::span<const float> weight);

/// Replaces the global scales of a block's layers, by index into model_spec::linears, negative for none, by those of layers that engines fuse: q, k, v and
/// gate, up take the smallest of theirs. `reference`: a layer of zeros then zeroes its partners.
void share_global_scales(const model::model_spec& spec, std::span<float> scales, bool reference = false);

}  // namespace auto_round::tune
