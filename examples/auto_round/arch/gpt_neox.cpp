// GPT-NeoX and Pythia: one layer for queries, keys and values, head by head; a part of each head turns; attention and MLP side by side; LayerNorm.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_gpt_neox(const io::json& config) {
  const defaults d{.rotary = 0.25, .theta_key = "rotary_emb_base", .rotary_key = "rotary_pct"};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "gpt_neox", "GPTNeoXForCausalLM", d);
  s.hidden_act = in.has("hidden_act") ? config.at("hidden_act").as_string() : "gelu";
  in.only("hidden_act", {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu"});
  s.rms_norm_eps = in.real("layer_norm_eps", 0, 1, 1e-5, false, true);
  s.num_kv_heads = s.num_heads;
  s.layer_norm = true;
  s.parallel = in.boolean("use_parallel_residual", true);
  const bool bias = in.boolean("attention_bias", true);
  s.embed_name = "gpt_neox.embed_in.weight";
  s.final_norm_name = "gpt_neox.final_layer_norm.weight";
  s.final_norm_bias_name = "gpt_neox.final_layer_norm.bias";
  s.head_name = "embed_out.weight";
  s.block_prefix = "gpt_neox.layers.";
  s.parts = {{model::block_part::input_norm_bias, "input_layernorm.bias", {s.hidden_size}},
             {model::block_part::post_attention_norm_bias, "post_attention_layernorm.bias", {s.hidden_size}}};
  s.linears = {{"attention.query_key_value", 3 * s.hidden_size, s.hidden_size, bias},
               {"attention.dense", s.hidden_size, s.hidden_size, bias},
               {"mlp.dense_h_to_4h", s.intermediate_size, s.hidden_size, true},
               {"mlp.dense_4h_to_h", s.hidden_size, s.intermediate_size, true}};
  s.fused = model::fused_heads::by_head;
  s.q = s.k = s.v = 0, s.o = 1, s.gate = -1, s.up = 2, s.down = 3;
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"GPTNeoXForCausalLM"};

}  // namespace

extern const architecture arch_gpt_neox;
const architecture arch_gpt_neox{"gpt_neox", classes, {}, read_gpt_neox};

}  // namespace auto_round::arch
