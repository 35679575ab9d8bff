// The metadata of a GGUF file that llama.cpp needs to run a model: architecture, hyperparameters, tokenizer. Same keys, order, types and values
// as llama.cpp's convert_hf_to_gguf, so that files can be compared byte for byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "error.hpp"
#include "io/gguf.hpp"
#include "io/json.hpp"
#include "model/spec.hpp"

namespace auto_round::exporting {

/// The side files of a model that end up in GGUF metadata; absent files are null values.
struct gguf_sources {
  std::string directory;             ///< the checkpoint; named in errors
  io::json config;                   ///< config.json
  io::json generation_config;
  io::json tokenizer;                ///< tokenizer.json
  io::json tokenizer_config;
  std::string chat_template;         ///< chat_template.jinja or the entry of chat_template.json; empty if none
  std::string sentencepiece;         ///< bytes of tokenizer.model; empty if none
};
result<gguf_sources> read_gguf_sources(const std::string& directory, const io::json& config);

struct gguf_header {
  std::string model_name;       ///< general.name
  std::uint64_t parameters = 0; ///< for general.size_label
  std::uint64_t expert_parameters = 0;  ///< those of them that belong to experts
  std::uint32_t file_type = 0;  ///< general.file_type, spec of llama.h's llama_ftype
};

/// "945K", "7B", "1.1B": llama.cpp's rounded parameter count; "8x7B": experts, and what one of them has together with all that they share.
std::string size_label(std::uint64_t parameters, std::uint64_t expert_parameters = 0, std::int64_t experts = 0);

/// The name llama.cpp gives to the pre-tokenizer of a tokenizer.json ("llama-bpe", "gpt-2", ...); error_kind::unsupported if it is unknown.
result<std::string> pretokenizer_name(const io::json& tokenizer, const std::string& file);

/// The whole metadata section in writing order.
result<io::gguf_metadata> build_gguf_metadata(const gguf_header& header, const model::model_spec& spec, const gguf_sources& sources);

}  // namespace auto_round::exporting
