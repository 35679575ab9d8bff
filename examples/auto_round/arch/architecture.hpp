// The registry of architectures: each arch/<name>.cpp defines `const architecture arch_<name>`; the list is generated from the folder.
#pragma once

#include <span>
#include <string_view>

#include "error.hpp"
#include "io/json.hpp"
#include "model/spec.hpp"

namespace auto_round::arch {

struct architecture {
  std::string_view name;                             ///< the file's stem
  std::span<const std::string_view> model_classes;   ///< entries of "architectures" in config.json that it covers
  std::string_view gguf_name;                        ///< general.architecture of GGUF files
  result<model::model_spec> (*read)(const io::json& config);  ///< checks every field it uses; errors say which key
};

std::span<const architecture* const> all();
/// By config.json: "architectures", else "model_type". error_kind::unsupported lists what is supported.
result<model::model_spec> read_spec(const io::json& config, const std::string& file);
const architecture* find(std::string_view name);  ///< by stem; null if unknown

}  // namespace auto_round::arch
