// Gemma 3, text: Gemma 2 with norms on queries and keys, without caps; five of six blocks see a window and turn with frequencies of their own.
#include <cmath>

#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_gemma3(const io::json& config) {
  defaults d{.theta = 1e6, .head_dim = 256, .positions = 131072};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "gemma3", "Gemma3ForCausalLM", d);
  in.only("use_bidirectional_attention", false);
  s.hidden_act = in.has("hidden_activation") ? config.at("hidden_activation").as_string() : "gelu_pytorch_tanh";
  in.only("hidden_activation", {"gelu_pytorch_tanh", "gelu"});
  if (!in.has("tie_word_embeddings")) s.tie_word_embeddings = true;
  s.unit_offset = true;
  s.embed_scale = std::sqrt(static_cast<double>(s.hidden_size));
  s.attention_scale = 1 / std::sqrt(in.real("query_pre_attn_scalar", 0, 1e9, 256));
  s.attention_cap = in.real("attn_logit_softcapping", 0, 1e9, 0.0);
  s.logit_cap = in.real("final_logit_softcapping", 0, 1e9, 0.0);
  const bool bias = in.boolean("attention_bias", false);
  add_attention(s, bias, bias);
  add_gated_mlp(s, false);
  s.post_attention_norm_name = "pre_feedforward_layernorm.weight";
  s.parts.push_back({model::block_part::attention_output_norm, "post_attention_layernorm.weight", {s.hidden_size}});
  s.parts.push_back({model::block_part::mlp_output_norm, "post_feedforward_layernorm.weight", {s.hidden_size}});
  add_head_norms(s);
  const std::int64_t window = in.integer("sliding_window", 1, max_positions, 4096, false), pattern = in.integer("sliding_window_pattern", 1, 100000, 6, false);
  read_windows(in, config, s, window, [&](std::int64_t layer) { return (layer + 1) % pattern != 0; });
  if (in.failed()) return tl::unexpected<error>(in.problem());
  s.own_window_rope = true;
  const io::json& rope = config.at("rope_parameters");
  defaults local = d;
  local.theta = 10000;
  local.theta_key = "rope_local_base_freq";
  if (rope.at("full_attention").is_object() || rope.at("sliding_attention").is_object()) {
    if (auto r = read_rope_object(config, rope.at("full_attention"), "rope_parameters.full_attention", s, d, s.rope); !r) return forward_error(r);
    if (auto r = read_rope_object(config, rope.at("sliding_attention"), "rope_parameters.sliding_attention", s, local, s.window_rope); !r) return forward_error(r);
    return s;
  }
  if (auto r = read_rope_object(config, io::json(), "rope_parameters", s, local, s.window_rope); !r) return forward_error(r);
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"Gemma3ForCausalLM"};

constexpr gguf_key more_keys[] = {own_key_length, own_value_length, file_type, sliding_window};
constexpr std::int64_t largest = 62;  // blocks of the 27B

result<void> check_gguf(const model_spec& s) {
  if (auto r = check_gemma(s, largest); !r) return r;
  if (s.attention_cap > 0 || s.logit_cap > 0) return runs_only_if(s, "neither scores nor logits are capped");
  if (!has_windows_where(s, [](std::int64_t l) { return (l + 1) % 6 != 0; })) return runs_only_if(s, "five of six blocks see a window");
  return {};
}

constexpr gguf_facts gguf{.name = "gemma3", .keys = usual_keys, .more_keys = more_keys, .windows = true, .space_before_text = false, .check = check_gguf,
                          .complete = [](const gguf_numbers&, io::json& config) { complete_gemma(config, largest); }};

}  // namespace

extern const architecture arch_gemma3;
const architecture arch_gemma3{"gemma3", classes, gguf, read_gemma3};

}  // namespace auto_round::arch
