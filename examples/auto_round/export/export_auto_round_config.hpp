// quantization_config as auto-round 0.16.1 writes it: keys, order, and what is left out because it equals the default.
#pragma once

#include <string>

#include "export/export_format.hpp"
#include "io/json.hpp"

namespace auto_round::exporting {

/// The version whose files we write; loaders look at it.
inline constexpr const char* autoround_version = "0.16.1";

/// "auto_round:auto_gptq" (words with zero points minus one) for symmetric schemes, "auto_round" (zero points as they are) for asymmetric ones.
std::string packing_format(const job& run);

/// The object that goes into config.json and quantization_config.json. The original has two forms: one of its tuning flow, and a shorter one of its
/// shard-wise flow, chosen by job::model_free.
io::json auto_round_config(const job& run);

/// config.json of the output: the source's with `quantization_config` replaced. The tuning flow sorts the keys, the shard-wise one keeps the order.
std::string config_text(const job& run, const io::json* quantization_config);

/// "layers.1.mlp" -> ".*layers\.1\.mlp.*", the form in which ignore patterns are exported.
std::string exported_regex(const std::string& pattern);

}  // namespace auto_round::exporting
