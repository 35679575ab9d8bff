// Gemma 2: norms before and behind attention and MLP that multiply by 1 + weight, scaled embeddings, GELU, capped scores and logits, a window in every
// other block.
#include <cmath>

#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_gemma2(const io::json& config) {
  const defaults d{.head_dim = 256, .positions = 8192};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "gemma2", "Gemma2ForCausalLM", d);
  in.only("use_bidirectional_attention", false);
  s.hidden_act = in.has("hidden_activation") ? config.at("hidden_activation").as_string() : "gelu_pytorch_tanh";
  in.only("hidden_activation", {"gelu_pytorch_tanh", "gelu"});
  if (!in.has("tie_word_embeddings")) s.tie_word_embeddings = true;
  s.unit_offset = true;
  s.embed_scale = std::sqrt(static_cast<double>(s.hidden_size));
  s.attention_scale = 1 / std::sqrt(in.real("query_pre_attn_scalar", 0, 1e9, 256));
  s.attention_cap = in.real("attn_logit_softcapping", 0, 1e9, in.names("attn_logit_softcapping") ? 0.0 : 50.0);
  s.logit_cap = in.real("final_logit_softcapping", 0, 1e9, in.names("final_logit_softcapping") ? 0.0 : 30.0);
  const bool bias = in.boolean("attention_bias", false);
  add_attention(s, bias, bias);
  add_gated_mlp(s, false);
  s.post_attention_norm_name = "pre_feedforward_layernorm.weight";
  s.parts.push_back({model::block_part::attention_output_norm, "post_attention_layernorm.weight", {s.hidden_size}});
  s.parts.push_back({model::block_part::mlp_output_norm, "post_feedforward_layernorm.weight", {s.hidden_size}});
  const std::int64_t window = in.names("sliding_window") ? in.integer("sliding_window", 1, max_positions, 0, false) : 4096;
  if (window != 0) read_windows(in, config, s, window, [](std::int64_t layer) { return layer % 2 == 0; });
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"Gemma2ForCausalLM"};

// The base of the rotary embedding is always 10000.
constexpr gguf_key keys[] = {context_length, embedding_length, block_count, feed_forward_length, head_count, head_count_kv, norm_epsilon, key_length, value_length, file_type,
                             number_key<&model_spec::attention_cap>("attn_logit_softcapping", "attn_logit_softcapping"),
                             number_key<&model_spec::logit_cap>("final_logit_softcapping", "final_logit_softcapping"), sliding_window};
constexpr std::int64_t largest = 46;  // blocks of the 27B

result<void> check_gguf(const model_spec& s) {
  if (auto r = check_gemma(s, largest); !r) return r;
  if (!(s.attention_cap > 0) || !(s.logit_cap > 0)) return runs_only_if(s, "scores and logits are capped");
  if (!has_windows_where(s, [](std::int64_t l) { return l % 2 == 0; })) return runs_only_if(s, "every other block sees a window, the first one too");
  return {};
}

constexpr gguf_facts gguf{.name = "gemma2", .keys = keys, .windows = true, .space_before_text = false, .check = check_gguf,
                          .complete = [](const gguf_numbers&, io::json& config) { complete_gemma(config, largest); }};

}  // namespace

extern const architecture arch_gemma2;
const architecture arch_gemma2{"gemma2", classes, gguf, read_gemma2};

}  // namespace auto_round::arch
