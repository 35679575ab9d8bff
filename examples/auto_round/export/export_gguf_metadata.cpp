// Hyperparameters and general keys of a GGUF file. The tokenizer keys are in export_gguf_tokenizer.cpp.
#include "export/export_gguf_metadata.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "export/export_gguf_tokenizer.hpp"
#include "export/export_gguf_types.hpp"
#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::uint32_t quantization_version = 2;  // GGML_QNT_VERSION

std::uint32_t u32(std::int64_t v) { return static_cast<std::uint32_t>(v); }
float f32(double v) { return static_cast<float>(v); }

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
    if (key.type == sampling_key::real && value.is_number()) out.emplace_back(name, f32(value.as_double()));
  }
}

void add_rope_scaling(io::gguf_metadata& out, const std::string& prefix, const model::rope_spec& rope) {
  using kind = model::rope_spec::kind;
  if (rope.type != kind::linear && rope.type != kind::yarn && rope.type != kind::longrope) return;  // llama3: a tensor; others: none
  out.emplace_back(prefix + "rope.scaling.type", std::string(rope.type == kind::linear ? "linear" : rope.type == kind::yarn ? "yarn" : "longrope"));
  out.emplace_back(prefix + "rope.scaling.factor", f32(rope.factor));
  if (rope.type != kind::linear) out.emplace_back(prefix + "rope.scaling.original_context_length", u32(rope.original_max_position));
}

/// What every architecture has; each writes them in an order of its own.
void add_sizes(io::gguf_metadata& out, const std::string& prefix, const model::model_spec& spec, std::initializer_list<std::string_view> keys) {
  const std::pair<std::string_view, std::int64_t> sizes[] = {{"block_count", spec.num_layers},
                                                             {"context_length", spec.max_position_embeddings},
                                                             {"embedding_length", spec.hidden_size},
                                                             {"feed_forward_length", spec.intermediate_size},
                                                             {"attention.head_count", spec.num_heads},
                                                             {"attention.head_count_kv", spec.num_kv_heads}};
  for (const std::string_view key : keys)
    for (const auto& [name, value] : sizes)
      if (name == key) out.emplace_back(prefix + std::string(key), u32(value));
}

void add_head_width(io::gguf_metadata& out, const std::string& prefix, const model::model_spec& spec) {
  out.emplace_back(prefix + "attention.key_length", u32(spec.head_dim));
  out.emplace_back(prefix + "attention.value_length", u32(spec.head_dim));
}

/// Of LLaMA and most others.
void add_hyperparameters(io::gguf_metadata& out, const std::string& prefix, const gguf_header& header, const model::model_spec& spec, const io::json& config) {
  add_sizes(out, prefix, spec, {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"});
  add_rope_scaling(out, prefix, spec.rope);
  out.emplace_back(prefix + "rope.freq_base", f32(spec.rope.theta));
  if (spec.own_window_rope) out.emplace_back(prefix + "rope.freq_base_swa", f32(spec.window_rope.theta));
  out.emplace_back(prefix + "attention.layer_norm_rms_epsilon", f32(spec.rms_norm_eps));
  if (spec.mixture.experts > 0) {
    out.emplace_back(prefix + "expert_count", u32(spec.mixture.experts));
    out.emplace_back(prefix + "expert_used_count", u32(spec.mixture.active));
  }
  const bool llama = header.architecture == "llama";
  if ((llama && spec.mixture.experts == 0) || spec.head_dim * spec.num_heads != spec.hidden_size || config.at("head_dim").is_int())
    add_head_width(out, prefix, spec);
  out.emplace_back("general.file_type", header.file_type);
  if (llama) {
    out.emplace_back(prefix + "vocab_size", u32(spec.vocab_size));
    out.emplace_back(prefix + "rope.dimension_count", u32(spec.head_dim));
  }
  if (spec.mixture.experts > 0 && !llama) out.emplace_back(prefix + "expert_feed_forward_length", u32(spec.mixture.intermediate_size));
  if (spec.own_window_rope) out.emplace_back(prefix + "attention.sliding_window", u32(largest_window(spec)));
}

// These two have an order of their own.
void add_gemma2(io::gguf_metadata& out, const std::string& prefix, const gguf_header& header, const model::model_spec& spec) {
  add_sizes(out, prefix, spec, {"context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count", "attention.head_count_kv"});
  out.emplace_back(prefix + "attention.layer_norm_rms_epsilon", f32(spec.rms_norm_eps));
  add_head_width(out, prefix, spec);
  out.emplace_back("general.file_type", header.file_type);
  out.emplace_back(prefix + "attn_logit_softcapping", f32(spec.attention_cap));
  out.emplace_back(prefix + "final_logit_softcapping", f32(spec.logit_cap));
  out.emplace_back(prefix + "attention.sliding_window", u32(largest_window(spec)));
}
void add_phi3(io::gguf_metadata& out, const std::string& prefix, const gguf_header& header, const model::model_spec& spec, const io::json& config) {
  add_sizes(out, prefix, spec, {"context_length"});
  out.emplace_back(prefix + "rope.scaling.original_context_length", u32(config.at("original_max_position_embeddings").as_int(spec.max_position_embeddings)));
  add_sizes(out, prefix, spec, {"embedding_length", "feed_forward_length", "block_count", "attention.head_count", "attention.head_count_kv"});
  out.emplace_back(prefix + "attention.layer_norm_rms_epsilon", f32(spec.rms_norm_eps));
  out.emplace_back(prefix + "rope.dimension_count", u32(spec.rotary_dim != 0 ? spec.rotary_dim : spec.head_dim));
  out.emplace_back(prefix + "rope.freq_base", f32(spec.rope.theta));
  out.emplace_back("general.file_type", header.file_type);
  out.emplace_back(prefix + "attention.sliding_window", u32(largest_window(spec)));
}

/// By what longrope multiplies queries and keys; where it is not said, from the length that the model was made for.
float attention_factor(const model::model_spec& spec, const io::json& config) {
  if (spec.rope.attention_factor > 0) return f32(spec.rope.attention_factor);
  const auto original = static_cast<double>(config.at("original_max_position_embeddings").as_int(spec.max_position_embeddings));
  const double scale = static_cast<double>(spec.max_position_embeddings) / original;
  return f32(scale <= 1 ? 1.0 : std::sqrt(1 + std::log(scale) / std::log(original)));
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
  const std::string prefix = header.architecture + ".";
  out.emplace_back("general.architecture", header.architecture);
  if (spec.architecture == "phi3" && spec.rope.type == model::rope_spec::kind::longrope) out.emplace_back(prefix + "rope.scaling.attn_factor", attention_factor(spec, sources.config));
  out.emplace_back("general.type", std::string("model"));
  add_sampling(out, sources.generation_config);
  out.emplace_back("general.name", header.model_name);
  out.emplace_back("general.size_label", size_label(header.parameters, header.expert_parameters, spec.mixture.experts));

  if (spec.architecture == "gemma2") add_gemma2(out, prefix, header, spec);
  else if (spec.architecture == "phi3") add_phi3(out, prefix, header, spec, sources.config);
  else add_hyperparameters(out, prefix, header, spec, sources.config);
  out.emplace_back("general.quantization_version", quantization_version);

  auto tokenizer = gguf_tokenizer_keys(sources, static_cast<std::size_t>(spec.vocab_size));
  if (!tokenizer) return forward_error(tokenizer);
  out.insert(out.end(), std::make_move_iterator(tokenizer->begin()), std::make_move_iterator(tokenizer->end()));
  if (spec.unit_offset && !sources.sentencepiece.empty()) {  // Gemma's tokenizer puts no blank before a text
    std::erase_if(out, [](const auto& entry) { return entry.first == "tokenizer.ggml.add_space_prefix"; });
    out.emplace_back("tokenizer.ggml.add_space_prefix", false);
  }
  // gguf-py leaves out empty strings and empty arrays.
  std::erase_if(out, [](const auto& entry) { return std::holds_alternative<std::string>(entry.second) && std::get<std::string>(entry.second).empty(); });
  return out;
}

}  // namespace auto_round::exporting
