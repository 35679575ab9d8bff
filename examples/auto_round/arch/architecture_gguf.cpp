#include "arch/architecture_gguf.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "arch/architecture.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;
using kind = model::rope_spec::kind;
using value = std::optional<io::gguf_value>;

// llama3 scales by a tensor; others have no words for it, or nothing to say.
value scaling_type(const model_spec& s, const io::json&) {
  if (s.rope.type != kind::linear && s.rope.type != kind::yarn && s.rope.type != kind::longrope) return std::nullopt;
  return std::string(s.rope.type == kind::linear ? "linear" : s.rope.type == kind::yarn ? "yarn" : "longrope");
}
value scaling_factor(const model_spec& s, const io::json& config) {
  return scaling_type(s, config) ? value(static_cast<float>(s.rope.factor)) : std::nullopt;
}
value scaling_length(const model_spec& s, const io::json&) {
  return s.rope.type == kind::yarn || s.rope.type == kind::longrope ? value(static_cast<std::uint32_t>(s.rope.original_max_position)) : std::nullopt;
}
value window_base(const model_spec& s, const io::json&) { return s.own_window_rope ? value(static_cast<float>(s.window_rope.theta)) : std::nullopt; }

}  // namespace

constinit const gguf_key usual_keys[12] = {block_count, context_length, embedding_length, feed_forward_length, head_count, head_count_kv,
                                           {"rope.scaling.type", scaling_type},
                                           {"rope.scaling.factor", scaling_factor},
                                           {"rope.scaling.original_context_length", scaling_length},
                                           rope_base,
                                           {"rope.freq_base_swa", window_base, "rope_local_base_freq", gguf_key::back::optional, false},
                                           norm_epsilon};

const gguf_facts& gguf_of(const model_spec& spec) {
  static constexpr gguf_facts none;
  const architecture* const a = find(spec.architecture);
  return a == nullptr ? none : a->gguf;
}

std::int64_t largest_window(const model_spec& spec) { return spec.windows.empty() ? 0 : *std::max_element(spec.windows.begin(), spec.windows.end()); }

tl::unexpected<error> runs_only_if(const model_spec& spec, std::string_view what) {
  return fail(error_kind::unsupported, "llama.cpp runs a " + spec.model_class + " only if " + std::string(what));
}

value head_dim_of_its_own(const model_spec& spec, const io::json& config) {
  return spec.head_dim * spec.num_heads != spec.hidden_size || config.at("head_dim").is_int() ? value(static_cast<std::uint32_t>(spec.head_dim)) : std::nullopt;
}

void complete_mixture(const gguf_numbers&, io::json& config) { config.set("norm_topk_prob", true); }

result<void> check_gemma(const model_spec& spec, std::int64_t largest) {
  const std::int64_t width = spec.num_layers == largest ? spec.hidden_size / spec.num_heads : spec.head_dim;
  if (std::abs(spec.attention_scale * std::sqrt(static_cast<double>(width)) - 1) > 1e-6)
    return runs_only_if(spec, "scores are divided by the root of a head's width (query_pre_attn_scalar)");
  if (spec.hidden_act != "gelu_pytorch_tanh") return runs_only_if(spec, "the MLP's activation is gelu_pytorch_tanh");
  return {};
}

void complete_gemma(io::json& config, std::int64_t largest) {
  const std::int64_t heads = config.at("num_attention_heads").as_int(), hidden = config.at("hidden_size").as_int();
  const bool spread = config.at("num_hidden_layers").as_int() == largest && heads > 0;
  config.set("query_pre_attn_scalar", spread ? hidden / heads : config.at("head_dim").as_int(256)).set("hidden_activation", "gelu_pytorch_tanh");
}

bool has_windows_where(const model_spec& spec, bool (*sees_window)(std::int64_t block)) {
  const std::int64_t window = largest_window(spec);
  for (std::int64_t l = 0; l < spec.num_layers; ++l)
    if (spec.window(l) != (sees_window(l) ? window : 0)) return false;
  return window != 0;
}

}  // namespace auto_round::arch
