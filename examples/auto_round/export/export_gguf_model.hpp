// Reading GGUF files as weight sources, under the names that the Hugging Face checkpoint has.
#pragma once

#include <memory>
#include <string>

#include "export/export_format.hpp"

namespace auto_round::exporting {

/// A .gguf file, or a folder that holds exactly one; null if `path` is neither.
result<std::unique_ptr<stored_model>> open_gguf(const std::string& path);

}  // namespace auto_round::exporting
