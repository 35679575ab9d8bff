// Reading back Hugging Face folders: float checkpoints and auto_round checkpoints with GPTQ words.
#pragma once

#include <memory>
#include <string>

#include "export/export_format.hpp"

namespace auto_round::exporting {

std::string describe_int_scheme(const ar::scheme_fields& scheme);  ///< "W4 g128 sym", "W2 per row asym"

/// A folder whose config.json has a quantization_config of auto-round with GPTQ words; null if it has none at all. Other methods are unsupported.
result<std::unique_ptr<stored_model>> open_packed_folder(const std::string& path);
/// A folder with config.json and float weights; null if it is no model folder.
result<std::unique_ptr<stored_model>> open_float_folder(const std::string& path);

}  // namespace auto_round::exporting
