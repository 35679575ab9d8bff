// A packed checkpoint presented as the float checkpoint that it stands for, as source of another quantization or conversion: quantized weights are
// computed from their codes when they are read and have no bytes of their own, everything else is the folder's. Of a GGUF file everything is computed.
// Likewise a folder whose floats are taken in another type.
#pragma once

#include <memory>
#include <string_view>

#include "error.hpp"
#include "export/export_format.hpp"

namespace auto_round::exporting {

/// Whether weights of some layers are packed.
bool has_packed_layers(const stored_model& model);

/// The type that computed matrices outside the blocks (head, embedding) have: the model's as all others, or F32, which holds them as they are.
enum class outside_blocks { as_model, exact };

/// Computed weights have the type that config.json names for the model. Tensors for which `dropped` is true are not there. `packed` outlives the view.
result<std::unique_ptr<stored_model>> unpacked_view(const stored_model& packed, outside_blocks outside, bool (*dropped)(std::string_view name) = nullptr);

/// The same with the model, to quantize it anew. error_kind::unsupported for rotated models, verification and input as check() and opening the folder say.
result<std::unique_ptr<stored_model>> unpacked_source(std::unique_ptr<stored_model> packed);

/// Every float tensor of the folder rounded to `type` (F32, F16 or BF16) when it is read, and the configuration that says so. Reading gives error_kind::input
/// for a value that the type does not hold. error_kind::unsupported for GGUF files.
result<std::unique_ptr<stored_model>> retyped_source(std::unique_ptr<stored_model> source, io::dtype type);

}  // namespace auto_round::exporting
