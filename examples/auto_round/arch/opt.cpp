// OPT: learned positions, LayerNorm with biases, an MLP without gate.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_opt(const io::json& config) {
  reader in(config, "");
  model_spec s;
  s.architecture = "opt";
  s.model_class = "OPTForCausalLM";
  s.hidden_size = in.integer("hidden_size", 1, max_dimension);
  s.intermediate_size = in.integer("ffn_dim", 1, max_dimension);
  s.num_layers = in.integer("num_hidden_layers", 1, 100000);
  s.num_heads = s.num_kv_heads = in.integer("num_attention_heads", 1, max_dimension);
  s.vocab_size = in.integer("vocab_size", 1, max_dimension);
  s.max_position_embeddings = in.integer("max_position_embeddings", 1, max_dimension, 2048, false);
  s.tie_word_embeddings = in.boolean("tie_word_embeddings", true);
  s.hidden_act = in.has("activation_function") ? config.at("activation_function").as_string() : "relu";
  in.only("activation_function", {"relu", "gelu", "gelu_new"});
  in.only("do_layer_norm_before", true);
  in.only("_remove_final_layer_norm", false);
  in.only("layer_norm_elementwise_affine", true);
  if (in.integer("word_embed_proj_dim", 1, max_dimension, s.hidden_size, false) != s.hidden_size)
    in.refuse("word_embed_proj_dim", "must be hidden_size for this program", error_kind::unsupported);
  if (!in.failed() && s.hidden_size % s.num_heads != 0) in.refuse("hidden_size", "must be a multiple of num_attention_heads");
  const bool bias = in.boolean("enable_bias", true);
  if (in.failed()) return tl::unexpected<error>(in.problem());
  s.head_dim = s.hidden_size / s.num_heads;
  s.rms_norm_eps = 1e-5;
  s.layer_norm = true;
  s.has_rope = false;
  s.positions_name = "model.decoder.embed_positions.weight";
  s.positions_offset = 2;
  s.embed_name = "model.decoder.embed_tokens.weight";
  s.final_norm_name = "model.decoder.final_layer_norm.weight";
  s.final_norm_bias_name = "model.decoder.final_layer_norm.bias";
  s.head_name = "lm_head.weight";
  s.block_prefix = "model.decoder.layers.";
  s.input_norm_name = "self_attn_layer_norm.weight";
  s.post_attention_norm_name = "final_layer_norm.weight";
  s.parts = {{model::block_part::input_norm_bias, "self_attn_layer_norm.bias", {s.hidden_size}},
             {model::block_part::post_attention_norm_bias, "final_layer_norm.bias", {s.hidden_size}}};
  s.linears = {{"self_attn.k_proj", s.hidden_size, s.hidden_size, bias},   {"self_attn.v_proj", s.hidden_size, s.hidden_size, bias},
               {"self_attn.q_proj", s.hidden_size, s.hidden_size, bias},   {"self_attn.out_proj", s.hidden_size, s.hidden_size, bias},
               {"fc1", s.intermediate_size, s.hidden_size, bias},          {"fc2", s.hidden_size, s.intermediate_size, bias}};
  s.k = 0, s.v = 1, s.q = 2, s.o = 3, s.gate = -1, s.up = 4, s.down = 5;
  return s;
}

constexpr std::string_view classes[] = {"OPTForCausalLM"};

}  // namespace

extern const architecture arch_opt;
const architecture arch_opt{"opt", classes, {}, read_opt};

}  // namespace auto_round::arch
