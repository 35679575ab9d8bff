// Configurations of compressed-tensors (quant_method "compressed-tensors"): as auto-round 0.16.1 writes them, and as anybody writes them, read.
// Source: compressed-tensors 0.20.0, quantization/quant_config.py, quant_args.py; auto-round 0.16.1, export_to_llmcompressor.
#pragma once

#include <memory>
#include <string_view>

#include "export/export_format.hpp"
#include "export/export_packed_model.hpp"
#include "io/json.hpp"

namespace auto_round::exporting {

/// quantization_config of a run. The head is always in `ignore` unless it is packed, and inputs that stay in 16 bits have no input_activations: the
/// original forgets the one for FP8_STATIC and the other for MX and NVFP4, and other programs then expect scales that are not there.
io::json ct_config(const job& run);

/// The same as the original's shard-wise flow writes it: groups of layers with another scheme first, the widest ahead, the model's own last. Of the job it
/// reads scheme and layers.
io::json shard_wise_ct_config(const job& run, io::json ignore);

/// Which layers of a folder are packed and how, by its configuration: several config_groups with targets by class, name or regular expression, an ignore
/// list, formats pack-, int-, float-, naive-, mxfp4-pack-, mxfp8-, nvfp4-pack- and nvfp4-e5m3-pack-quantized. error_kind::input for what contradicts
/// itself, unsupported for sparse weights, transforms and other formats.
result<std::unique_ptr<packing>> ct_packing(const found_quantization& found, const io::checkpoint_dir& dir, const model::model_spec& spec);

}  // namespace auto_round::exporting
