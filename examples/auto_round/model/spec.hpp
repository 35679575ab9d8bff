// What a decoder-only model is, as data: filled by arch/<name>.cpp from config.json, read by the executor, the planner and the exporters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace auto_round::model {

/// Rotary position embedding; the frequencies are computed once (model/rope.cpp) for all scaling variants that transformers has for the family.
struct rope_spec {
  enum class kind { standard, linear, dynamic, yarn, longrope, llama3, proportional } type = kind::standard;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;              // llama3
  std::int64_t original_max_position = 0;                            // llama3, yarn, longrope
  double attention_factor = 0.0, beta_fast = 32.0, beta_slow = 1.0;  // yarn, longrope; attention_factor 0: from the formula
  double mscale = 0.0, mscale_all_dim = 0.0;                         // yarn
  bool truncate = true;                                              // yarn
  std::vector<double> short_factor, long_factor;                     // longrope
  double partial_rotary_factor = 1.0;                                // proportional: share of the pairs that turn
};

/// The part that a linear layer plays in a decoder block; the index into block_weights::linears.
struct linear_desc {
  std::string name;  ///< inside the block: "self_attn.q_proj"
  std::int64_t out_features = 0, in_features = 0;
  bool bias = false;
};

struct model_spec {
  std::string architecture;  ///< stem of the arch file: "llama"
  std::string model_class;   ///< "LlamaForCausalLM"
  std::int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  rope_spec rope;
  bool tie_word_embeddings = false;
  std::string hidden_act = "silu";  ///< activation of the gated MLP

  // Names in the checkpoint.
  std::string embed_name;    ///< "model.embed_tokens.weight"
  std::string final_norm_name;
  std::string head_name;     ///< "lm_head.weight"; not stored when tied
  std::string block_prefix;  ///< "model.layers." ; block l, linear d is block_prefix + l + "." + d.name + ".weight"
  std::string input_norm_name, post_attention_norm_name;  ///< inside the block, with ".weight"

  /// The linear layers of a block in module order. LLaMA: q, k, v, o, gate, up, down; the executor finds them by these indices.
  std::vector<linear_desc> linears;
  int q = 0, k = 1, v = 2, o = 3, gate = 4, up = 5, down = 6;

  std::string linear_name(std::int64_t layer, int linear) const {  ///< without ".weight"
    return block_prefix + std::to_string(layer) + "." + linears[static_cast<std::size_t>(linear)].name;
  }
};

}  // namespace auto_round::model
