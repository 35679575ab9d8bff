// Static scales of a KV cache and of queries in a checkpoint: tensors beside the attention of each block, and what configurations say of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "export/export_format.hpp"
#include "export/export_safetensors.hpp"
#include "io/json.hpp"

namespace auto_round::exporting {

/// k_scale, v_scale, q_scale of every block (k_global_scale and v_global_scale for NVFP4), F32; none if the run has none, or if they are the source's.
std::vector<io::tensor_decl> cache_tensors(const job& run);
/// Their values, in the same order, once job::maxima is filled in.
std::vector<packed_part> cache_parts(const job& run);

/// kv_cache_scheme of compressed-tensors; null if the cache is not quantized.
io::json cache_scheme(const job& run);
/// attention_input_activations of compressed-tensors; null if queries are not quantized.
io::json attention_scheme(const job& run);
/// Adds static_kv_dtype, static_attention_dtype and their granularities, as auto-round's configurations have them.
void add_cache_keys(const job& run, io::json& config);

/// What a quantization configuration says of them, in one of these ways. error_kind::unsupported, naming `file`, if it is nothing that the above write.
result<tune::attention_scales> read_attention_scales(const io::json& quantization, const std::string& file);
/// Whether a tensor of this name is such a scale.
bool is_attention_scale(std::string_view tensor);

}  // namespace auto_round::exporting
