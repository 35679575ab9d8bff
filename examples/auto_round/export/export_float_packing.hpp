// Reading folders of floating formats whose configuration names a scheme: auto-round's own (MX, NVFP4, FP8) and FP8 in DeepSeek's manner.
#pragma once

#include <memory>
#include <string>

#include "export/export_packed_model.hpp"

namespace auto_round::exporting {

/// True if an auto-round configuration speaks of floating layers: by packing_format ("auto_round:llm_compressor", "auto_round:fp8", ...) or data_type.
bool is_float_packing(const io::json& config);

/// quant_method "auto-round" with such layers: bits, group_size, sym and data_type for the model, and others in extra_config for single layers or patterns.
result<std::unique_ptr<packing>> auto_round_float_packing(const found_quantization& found, const io::checkpoint_dir& dir, const model::model_spec& spec);

/// packing_format "auto_round:fake": weights are floats, and such a configuration, of any data type, says how layers quantize what they read.
result<std::unique_ptr<packing>> fake_packing(const found_quantization& found, const io::checkpoint_dir& dir, const model::model_spec& spec);

/// quant_method "fp8": weight_block_size, and layers that are not converted in ignored_layers or modules_to_not_convert. Weights are FP8 E4M3 with
/// weight_scale_inv or weight_scale for tiles, rows or the whole matrix; layers with plain weights stay as they are.
result<std::unique_ptr<packing>> fp8_packing(const found_quantization& found, const io::checkpoint_dir& dir, const model::model_spec& spec);

}  // namespace auto_round::exporting
