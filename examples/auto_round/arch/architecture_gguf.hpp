// What GGUF files need to know of an architecture, as data that each arch/<name>.cpp gives, and the pieces that several of them share.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "error.hpp"
#include "io/gguf.hpp"
#include "io/json.hpp"
#include "model/spec.hpp"

namespace auto_round::arch {

/// A key of the metadata, and what config.json calls it.
struct gguf_key {
  enum class back { none, required, optional, unless_zero };  ///< whether a config.json that is made of a file says it

  std::string_view name;  ///< behind "<architecture>."; one that begins with "general." is whole
  /// From the model and its config.json; nothing: the key is not written. Null: the exporter knows the value.
  std::optional<io::gguf_value> (*value)(const model::model_spec& spec, const io::json& config) = nullptr;
  std::string_view config = {};
  back read = back::none;
  bool integer = true;
};

/// The number that a file has under "<architecture>.<key>".
using gguf_numbers = std::function<std::optional<double>(std::string_view key)>;

struct gguf_facts {
  std::string_view name = {};  ///< general.architecture; empty: this program writes no such files
  /// The metadata in the order of llama.cpp's converter: what stands before general.type, then keys, then more_keys.
  std::span<const gguf_key> early_keys = {}, keys = {}, more_keys = {};
  bool paired_rows = false;       ///< rows of queries and keys are stored pair by pair instead of half by half
  bool has_70b = false;           ///< 80 blocks with fewer value heads than query heads are the "70B", whose values get more bits
  bool with_experts = false;      ///< of the architectures of this name the one whose files have experts
  bool windows = false;           ///< llama.cpp knows which blocks see a window
  bool length_factors = false;    ///< two tensors have the factors of frequencies, for short and for long texts
  bool space_before_text = true;  ///< false: sentencepiece puts none there
  /// What llama.cpp takes for granted and has no words for: error_kind::unsupported where the model is otherwise. Null: nothing.
  result<void> (*check)(const model::model_spec& spec) = nullptr;
  /// Sets what config.json says and a file says in other words or not at all; the keys that are read are set before. Null: nothing.
  void (*complete)(const gguf_numbers& number, io::json& config) = nullptr;
};

/// Of the model's architecture.
const gguf_facts& gguf_of(const model::model_spec& spec);

/// Tokens that blocks with a window see; 0 if there is none.
std::int64_t largest_window(const model::model_spec& spec);
/// The error of a check.
tl::unexpected<error> runs_only_if(const model::model_spec& spec, std::string_view what);

/// The key of a number that `Get` (a member, a function) gives for a model.
template <auto Get>
constexpr gguf_key number_key(std::string_view name, std::string_view config = {}, gguf_key::back read = gguf_key::back::required) {
  constexpr bool integer = std::is_integral_v<std::remove_cvref_t<std::invoke_result_t<decltype(Get), const model::model_spec&>>>;
  const auto value = [](const model::model_spec& spec, const io::json&) -> std::optional<io::gguf_value> {
    if constexpr (integer) return static_cast<std::uint32_t>(std::invoke(Get, spec));
    else return static_cast<float>(std::invoke(Get, spec));
  };
  return {name, value, config, config.empty() ? gguf_key::back::none : read, integer};
}

inline constexpr gguf_key block_count = number_key<&model::model_spec::num_layers>("block_count", "num_hidden_layers");
inline constexpr gguf_key context_length = number_key<&model::model_spec::max_position_embeddings>("context_length", "max_position_embeddings");
inline constexpr gguf_key embedding_length = number_key<&model::model_spec::hidden_size>("embedding_length", "hidden_size");
inline constexpr gguf_key feed_forward_length = number_key<&model::model_spec::intermediate_size>("feed_forward_length", "intermediate_size");
inline constexpr gguf_key head_count = number_key<&model::model_spec::num_heads>("attention.head_count", "num_attention_heads");
inline constexpr gguf_key head_count_kv = number_key<&model::model_spec::num_kv_heads>("attention.head_count_kv", "num_key_value_heads");
inline constexpr gguf_key norm_epsilon = number_key<&model::model_spec::rms_norm_eps>("attention.layer_norm_rms_epsilon", "rms_norm_eps");
inline constexpr gguf_key rope_base = number_key<[](const model::model_spec& s) { return s.rope.theta; }>("rope.freq_base", "rope_theta");
inline constexpr gguf_key key_length = number_key<&model::model_spec::head_dim>("attention.key_length", "head_dim", gguf_key::back::optional);
inline constexpr gguf_key value_length = number_key<&model::model_spec::head_dim>("attention.value_length");
inline constexpr gguf_key sliding_window = number_key<largest_window>("attention.sliding_window", "sliding_window", gguf_key::back::unless_zero);
inline constexpr gguf_key expert_count = number_key<[](const model::model_spec& s) { return s.mixture.experts; }>("expert_count", "num_local_experts");
inline constexpr gguf_key expert_used_count = number_key<[](const model::model_spec& s) { return s.mixture.active; }>("expert_used_count", "num_experts_per_tok");
inline constexpr gguf_key file_type{"general.file_type"};

/// Nothing where heads make up the stream and config.json does not say head_dim.
std::optional<io::gguf_value> head_dim_of_its_own(const model::model_spec& spec, const io::json& config);
inline constexpr gguf_key own_key_length{"attention.key_length", head_dim_of_its_own, "head_dim", gguf_key::back::optional};
inline constexpr gguf_key own_value_length{"attention.value_length", head_dim_of_its_own};

extern const gguf_key usual_keys[12];  ///< with which most architectures begin: sizes, rotary embedding, norms
inline constexpr gguf_key usual_more_keys[] = {own_key_length, own_value_length, file_type};

inline constexpr gguf_key llama_vocab_size = number_key<&model::model_spec::vocab_size>("vocab_size", "vocab_size", gguf_key::back::optional);
inline constexpr gguf_key llama_dimension_count = number_key<&model::model_spec::head_dim>("rope.dimension_count");
inline constexpr gguf_key llama_more_keys[] = {key_length, value_length, file_type, llama_vocab_size, llama_dimension_count};
/// LLaMA and those that llama.cpp takes for it.
inline constexpr gguf_facts gguf_llama{.name = "llama", .keys = usual_keys, .more_keys = llama_more_keys, .paired_rows = true, .has_70b = true};

/// Weights of the experts of a token add up to 1 (which files do not say).
void complete_mixture(const gguf_numbers& number, io::json& config);

/// What Gemma 2 and 3 have in common; `largest`: blocks of the model whose scores are divided as if heads made up the stream.
result<void> check_gemma(const model::model_spec& spec, std::int64_t largest);
void complete_gemma(io::json& config, std::int64_t largest);
/// One window, in the blocks that see one in llama.cpp.
bool has_windows_where(const model::model_spec& spec, bool (*sees_window)(std::int64_t block));

}  // namespace auto_round::arch
