// quantization_config as auto-round 0.16.1 writes it: keys, order, and what is left out because it equals the default.
#pragma once

#include <string>
#include <string_view>

#include "export/export_format.hpp"
#include "export/export_layer_pattern.hpp"
#include "io/json.hpp"

namespace auto_round::exporting {

/// The version whose files we write; loaders look at it.
inline constexpr const char* autoround_version = "0.16.1";

/// packing_format of weights that are floats: the configuration says how layers read.
inline constexpr std::string_view fake_packing_format = "auto_round:fake";

/// The layout of a job's packed layers, as auto-round names it: what a spelling says ("auto_round:auto_awq"), or what `auto_round` chooses.
/// Integers: "auto_round:auto_gptq" (zero points less one) for symmetric schemes; "auto_round:auto_awq" if all layers are asymmetric, of 4 bits and whole
/// groups; else "auto_round" (zero points as they are). The shard-wise flow and rotated models never choose AWQ words.
std::string packing_format(const job& run);

/// The keys that all configurations of the tuning flow begin with: bits to scale_dtype.
io::json scheme_keys(const job& run);
/// "model.layers": blocks whose layers are quantized.
std::string block_list_name(const job& run);

/// The object that goes into config.json and quantization_config.json. The original has two forms: one of its tuning flow, and a shorter one of its
/// shard-wise flow, chosen by job::model_free.
io::json auto_round_config(const job& run);

/// The shorter form with the names of the `blocks` whose layers are quantized and `extra_config`, an object, which is left out if it is empty. Of the job it
/// reads format, scheme and layers.
io::json shard_wise_config(const job& run, const std::string& blocks, io::json extra);

/// The same of format fp8 (quant_method "fp8").
io::json fp8_config(const job& run);

/// config.json of the output: the source's with `quantization_config` replaced. The tuning flow sorts the keys, the shard-wise one keeps the order.
std::string config_text(const job& run, const io::json* quantization_config);
/// The same for AutoGPTQ and AutoAWQ, whose kernels compute in half precision: `dtype` and `torch_dtype` say float16, whatever norms are stored in.
std::string half_config_text(const job& run, const io::json& quantization_config);
/// config.json without any quantization, keys sorted.
io::json plain_config(const job& run);

}  // namespace auto_round::exporting
