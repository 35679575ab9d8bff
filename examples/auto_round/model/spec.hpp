// What a decoder-only model is, as data: filled by arch/<name>.cpp from config.json, read by the executor, the planner and the exporters.
#pragma once

#include <cstddef>
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

/// Which blocks have a layer or tensor, where not all blocks are alike.
enum class block_kind { any, dense, mixture };

/// The part that a linear layer plays in a decoder block; the index into block_weights::linears.
struct linear_desc {
  std::string name;  ///< inside the block: "self_attn.q_proj"
  std::int64_t out_features = 0, in_features = 0;
  bool bias = false;
  block_kind where = block_kind::any;
};

/// A tensor of a block that is no linear layer, besides the norms before attention and MLP; block_weights has a vector for each.
enum class block_part {
  input_norm_bias,
  post_attention_norm_bias,
  attention_output_norm,  ///< on what attention adds to the stream
  mlp_output_norm,
  query_norm,  ///< of each head, before the rotary embedding
  key_norm,
  query_latent_norm,
  key_value_latent_norm,
  router,       ///< [experts x hidden]; never quantized
  router_bias,  ///< added to the scores that choose experts, not to their weights
};
constexpr std::size_t block_parts = 10;

struct part_desc {
  block_part part{};
  std::string name;  ///< inside the block, whole: "self_attn.q_norm.weight"
  std::vector<std::int64_t> shape;
  block_kind where = block_kind::any;
};

/// How the rows of a layer that makes queries, keys and values together lie.
enum class fused_heads { none, one_after_the_other, by_head };  // by_head: of each head its query, key and value

/// Keys and values that are made from a short row (multi-head latent attention). Heads of queries and keys are `plain` values that do not turn followed
/// by `turning` values, which pairs of neighbors turn; those of the keys are shared by all heads.
struct latent_attention {
  std::int64_t query_rank = 0;  ///< 0: queries come straight from the block's input
  std::int64_t rank = 0;        ///< of keys and values; 0: no latent attention
  std::int64_t plain = 0, turning = 0;
  double norm_eps = 1e-6;
  int query_down = -1, query_up = -1, down = -1, up = -1;  ///< linear layers; without query_rank queries are those of model_spec::q
};

/// A mixture of experts in the place of the MLP.
struct mixture_spec {
  enum class scoring { softmax, sigmoid };
  std::int64_t experts = 0, active = 0;  ///< 0: no mixture
  std::int64_t intermediate_size = 0;    ///< of an expert
  std::int64_t shared_size = 0;          ///< of the expert that sees every token; 0: there is none
  scoring score = scoring::softmax;
  bool normalize = false;                ///< weights of the chosen experts add up to `scale`
  double scale = 1;
  std::int64_t groups = 1, active_groups = 1;  ///< experts are chosen from the best groups
  int best_of_group = 1;                       ///< a group counts as much as the sum of its so many best experts
  int first = -1;   ///< gate, up and down of expert e are the linear layers first + 3 e ...
  int shared = -1;  ///< gate of the shared expert; up and down follow
};

struct model_spec {
  std::string architecture;  ///< stem of the arch file: "llama"
  std::string model_class;   ///< "LlamaForCausalLM"
  std::int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, vocab_size = 0;
  std::int64_t value_dim = 0;  ///< of a head; 0: head_dim
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;  ///< of all norms
  bool layer_norm = false;     ///< LayerNorm with biases instead of RMSNorm
  bool unit_offset = false;    ///< norms multiply by 1 + weight; what read_block gives holds the sum
  bool parallel = false;       ///< attention and MLP read the same stream and are added to it side by side
  rope_spec rope;
  std::int64_t rotary_dim = 0;  ///< values of a head that turn; 0: all
  bool has_rope = true;
  bool tie_word_embeddings = false;
  std::string hidden_act = "silu";  ///< activation of the MLP

  // Attention. `windows[l]`: tokens that a query of block l sees, itself included; 0 or no entry: all before it.
  std::vector<std::int64_t> windows;
  rope_spec window_rope;         ///< of blocks with a window, where own_window_rope
  bool own_window_rope = false;
  double attention_scale = 0;    ///< factor of scores; 0: 1 / sqrt(head_dim)
  double attention_cap = 0;      ///< scores become cap * tanh(score / cap); 0: they do not
  fused_heads fused = fused_heads::none;  ///< q, k and v are one layer
  latent_attention latent;

  // MLP. Without gate (-1) the activation applies to `up` alone; a fused one has gate == up, gate first.
  mixture_spec mixture;
  std::vector<std::uint8_t> mixes;  ///< by block: 1 where the MLP is a mixture; empty: nowhere

  // Embedding and head.
  double embed_scale = 1;
  std::string positions_name;         ///< table of learned positions; empty: none
  std::int64_t positions_offset = 0;  ///< its row for the first token
  double logit_cap = 0;

  // Names in the checkpoint.
  std::string embed_name;    ///< "model.embed_tokens.weight"
  std::string final_norm_name;
  std::string final_norm_bias_name;
  std::string head_name;     ///< "lm_head.weight"; not stored when tied
  std::string block_prefix;  ///< "model.layers." ; block l, linear d is block_prefix + l + "." + d.name + ".weight"
  std::string input_norm_name, post_attention_norm_name;  ///< before attention and before the MLP; inside the block, with ".weight"
  std::vector<part_desc> parts;

  /// The linear layers of a block in module order; where blocks differ, those of all kinds (see has_linear). LLaMA: q, k, v, o, gate, up, down; the
  /// executor finds them by these indices. -1: there is none.
  std::vector<linear_desc> linears;
  int q = 0, k = 1, v = 2, o = 3, gate = 4, up = 5, down = 6;

  std::string block_name(std::int64_t layer) const { return block_prefix + std::to_string(layer) + "."; }
  std::string linear_name(std::int64_t layer, int linear) const {  ///< without ".weight"
    return block_name(layer) + linears[static_cast<std::size_t>(linear)].name;
  }
  bool is_mixture(std::int64_t layer) const { return !mixes.empty() && mixes[static_cast<std::size_t>(layer)] != 0; }
  bool exists(block_kind where, std::int64_t layer) const { return where == block_kind::any || (where == block_kind::mixture) == is_mixture(layer); }
  bool has_linear(std::int64_t layer, int linear) const { return exists(linears[static_cast<std::size_t>(linear)].where, layer); }
  std::int64_t window(std::int64_t layer) const { return windows.empty() ? 0 : windows[static_cast<std::size_t>(layer)]; }
  std::int64_t value_size() const { return value_dim != 0 ? value_dim : head_dim; }
  bool has_part(block_part part) const {
    for (const part_desc& p : parts)
      if (p.part == part) return true;
    return false;
  }

  /// Of the linear layers that read the same rows, the first; itself if it reads rows of its own.
  int reader(int linear) const {
    if (linear == k || linear == v) return q;
    if (linear == up && gate >= 0) return gate;
    if (latent.rank > 0 && linear == latent.down) return latent.query_rank > 0 ? latent.query_down : q;
    const mixture_spec& m = mixture;
    if (m.experts > 0 && linear >= m.first && linear < m.first + 3 * m.experts) return linear - ((linear - m.first) % 3 == 1 ? 1 : 0);
    return m.shared >= 0 && linear == m.shared + 1 ? m.shared : linear;
  }
  /// Layers that engines run as one: q, k and v; gate and up of an MLP or expert.
  std::vector<std::vector<int>> fused_groups() const;

  /// Laid out as LLaMA: RMSNorm before attention and before a gated MLP, each added to the stream as it is; q, k, v, o, gate, up, down.
  bool plain() const {
    if (layer_norm || unit_offset || parallel || fused != fused_heads::none || latent.rank > 0 || mixture.experts > 0 || linears.size() != 7 || gate != 4)
      return false;
    return !has_part(block_part::attention_output_norm) && !has_part(block_part::mlp_output_norm) && has_rope && rotary_dim == 0 && attention_cap == 0 &&
           value_dim == 0 && embed_scale == 1 && logit_cap == 0 && hidden_act == "silu";
  }
};

}  // namespace auto_round::model
