// Hyperparameters and general keys of a GGUF file. The tokenizer keys are in export_gguf_tokenizer.cpp.
#include "export/export_gguf_metadata.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "arch/architecture_gguf.hpp"
#include "export/export_gguf_tokenizer.hpp"
#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::uint32_t quantization_version = 2;  // GGML_QNT_VERSION

/// Sampling defaults of generation_config.json, in llama.cpp's order; `integer` entries are stored as i32.
struct sampling_key {
  const char* json;
  const char* gguf;
  enum kind { text, integer, real } type;
};
constexpr sampling_key sampling_keys[] = {
    {"sequence", "sequence", sampling_key::text},
    {"top_k", "top_k", sampling_key::integer},
    {"top_p", "top_p", sampling_key::real},
    {"min_p", "min_p", sampling_key::real},
    {"xtc_probability", "xtc_probability", sampling_key::real},
    {"xtc_threshold", "xtc_threshold", sampling_key::real},
    {"temperature", "temp", sampling_key::real},
    {"penalty_last_n", "penalty_last_n", sampling_key::integer},
    {"penalty_repeat", "penalty_repeat", sampling_key::real},
    {"mirostat", "mirostat", sampling_key::integer},
    {"mirostat_tau", "mirostat_tau", sampling_key::real},
    {"mirostat_eta", "mirostat_eta", sampling_key::real},
};

void add_sampling(io::gguf_metadata& out, const io::json& generation_config) {
  for (const sampling_key& key : sampling_keys) {
    const io::json& value = generation_config.at(key.json);
    const std::string name = std::string("general.sampling.") + key.gguf;
    if (key.type == sampling_key::text && value.is_string()) out.emplace_back(name, value.as_string());
    if (key.type == sampling_key::integer && value.is_number()) out.emplace_back(name, static_cast<std::int32_t>(value.as_int()));
    if (key.type == sampling_key::real && value.is_number()) out.emplace_back(name, static_cast<float>(value.as_double()));
  }
}

result<io::json> read_optional(const std::string& path) {
  if (!std::filesystem::exists(path)) return io::json();
  return io::read_json(path);
}

}  // namespace

result<gguf_sources> read_gguf_sources(const std::string& directory, const io::json& config) {
  gguf_sources s;
  s.directory = directory;
  s.config = config;
  const auto load = [&](const char* name, io::json& to) -> result<void> {
    auto value = read_optional(directory + "/" + name);
    if (!value) return forward_error(value);
    to = std::move(*value);
    return {};
  };
  if (auto r = load("generation_config.json", s.generation_config); !r) return forward_error(r);
  if (auto r = load("tokenizer.json", s.tokenizer); !r) return forward_error(r);
  if (auto r = load("tokenizer_config.json", s.tokenizer_config); !r) return forward_error(r);
  if (std::filesystem::exists(directory + "/chat_template.jinja")) {
    auto text = io::read_text(directory + "/chat_template.jinja");
    if (!text) return forward_error(text);
    s.chat_template = std::move(*text);
  } else {
    io::json container;
    if (auto r = load("chat_template.json", container); !r) return forward_error(r);
    s.chat_template = container.at("chat_template").as_string();
  }
  if (std::filesystem::exists(directory + "/tokenizer.model")) {
    auto bytes = io::read_text(directory + "/tokenizer.model");
    if (!bytes) return forward_error(bytes);
    s.sentencepiece = std::move(*bytes);
  }
  return s;
}

std::string size_label(std::uint64_t parameters, std::uint64_t expert_parameters, std::int64_t experts) {
  if (experts > 0) {
    const std::uint64_t share = expert_parameters / static_cast<std::uint64_t>(experts);
    return fmt::format("{}x{}", experts, size_label(parameters - expert_parameters + share));
  }
  const double p = static_cast<double>(parameters);
  const auto [scale, suffix] = p > 1e12  ? std::pair{1e-12, 'T'}
                               : p > 1e9 ? std::pair{1e-9, 'B'}
                               : p > 1e6 ? std::pair{1e-6, 'M'}
                                         : std::pair{1e-3, 'K'};
  const double value = p * scale;
  const auto whole = static_cast<long long>(std::nearbyint(value));
  const int digits = whole == 0 ? 0 : static_cast<int>(std::to_string(whole).size());
  return fmt::format("{:.{}f}{}", value, std::max(2 - digits, 0), suffix);
}

result<io::gguf_metadata> build_gguf_metadata(const gguf_header& header, const model::model_spec& spec, const gguf_sources& sources) {
  io::gguf_metadata out;
  const arch::gguf_facts& facts = arch::gguf_of(spec);
  const auto add = [&](std::span<const arch::gguf_key> keys) {
    for (const arch::gguf_key& key : keys) {
      const auto value = key.value == nullptr ? header.file_type : key.value(spec, sources.config);
      if (value) out.emplace_back(key.name.starts_with("general.") ? std::string(key.name) : fmt::format("{}.{}", facts.name, key.name), *value);
    }
  };
  out.emplace_back("general.architecture", std::string(facts.name));
  add(facts.early_keys);
  out.emplace_back("general.type", std::string("model"));
  add_sampling(out, sources.generation_config);
  out.emplace_back("general.name", header.model_name);
  out.emplace_back("general.size_label", size_label(header.parameters, header.expert_parameters, spec.mixture.experts));
  add(facts.keys);
  add(facts.more_keys);
  out.emplace_back("general.quantization_version", quantization_version);

  auto tokenizer = gguf_tokenizer_keys(sources, static_cast<std::size_t>(spec.vocab_size));
  if (!tokenizer) return forward_error(tokenizer);
  out.insert(out.end(), std::make_move_iterator(tokenizer->begin()), std::make_move_iterator(tokenizer->end()));
  if (!facts.space_before_text && !sources.sentencepiece.empty()) {
    std::erase_if(out, [](const auto& entry) { return entry.first == "tokenizer.ggml.add_space_prefix"; });
    out.emplace_back("tokenizer.ggml.add_space_prefix", false);
  }
  // gguf-py leaves out empty strings and empty arrays.
  std::erase_if(out, [](const auto& entry) { return std::holds_alternative<std::string>(entry.second) && std::get<std::string>(entry.second).empty(); });
  return out;
}

}  // namespace auto_round::exporting
