// A packed checkpoint as the source of a new quantization: its packed layers look like plain tensors, which are computed when they are read.
#pragma once

#include <memory>

#include "export/export_format.hpp"

namespace auto_round::exporting {

/// True if layers of the model are packed, so that unpacked_source() can make a source of it.
bool has_packed_layers(const stored_model& model);

/// `packed` with plain weights in the type that its config.json names (bfloat16 if none), and no quantization_config. error_kind::unsupported for what is no
/// folder of safetensors, and for rotated models, whose rotation would be lost.
result<std::unique_ptr<stored_model>> unpacked_source(std::unique_ptr<stored_model> packed);

}  // namespace auto_round::exporting
