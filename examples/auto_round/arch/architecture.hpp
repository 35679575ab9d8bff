// The registry of architectures: each arch/<name>.cpp defines `const architecture arch_<name>`; the list is generated from the folder.
#pragma once

#include <span>
#include <string_view>

#include "arch/architecture_gguf.hpp"
#include "error.hpp"
#include "io/checkpoint_dir.hpp"
#include "io/json.hpp"
#include "model/spec.hpp"

namespace auto_round::arch {

struct architecture {
  std::string_view name;                             ///< the file's stem
  std::span<const std::string_view> model_classes;   ///< entries of "architectures" in config.json that it covers
  gguf_facts gguf;                                   ///< without name: this program writes no GGUF files of it
  result<model::model_spec> (*read)(const io::json& config);  ///< checks every field it uses; errors say which key
};

std::span<const architecture* const> all();
/// By config.json: "architectures", else "model_type". error_kind::unsupported lists what is supported.
result<model::model_spec> read_spec(const io::json& config, const std::string& file);
/// Experts that a checkpoint stores in one tensor [experts, rows, cols] become tensors of their own, as auto-round takes them apart:
/// P.experts.X -> P.experts.<i>.X.weight, gate_up_proj and w13 in two halves, gate_proj and up_proj, w1 and w3.
result<void> unfuse_experts(io::checkpoint_dir& dir, const model::model_spec& spec);
const architecture* find(std::string_view name);  ///< by stem; null if unknown
const architecture* find_gguf(std::string_view name, bool experts);  ///< by general.architecture; the first of those that share it, but of files with experts the one that has them

}  // namespace auto_round::arch
