// Qwen3-MoE: Qwen3 with a mixture of experts in most blocks.
#include <algorithm>

#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_qwen3_moe(const io::json& config) {
  const defaults d{.positions = 32768};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "qwen3_moe", "Qwen3MoeForCausalLM", d);
  const bool bias = in.boolean("attention_bias", false);
  in.only("hidden_act", {"silu"});
  s.mixture.experts = in.integer(in.has("num_experts") ? "num_experts" : "num_local_experts", 1, 65536, 128, false);
  s.mixture.active = in.integer("num_experts_per_tok", 1, 65536, 8, false);
  s.mixture.intermediate_size = in.integer("moe_intermediate_size", 1, max_dimension, 768, false);
  s.mixture.normalize = in.boolean("norm_topk_prob", false);
  if (s.mixture.active > s.mixture.experts) in.refuse("num_experts_per_tok", "must not be more than num_experts");
  const std::int64_t step = in.integer("decoder_sparse_step", 1, 100000, 1, false);
  const std::int64_t window = in.boolean("use_sliding_window", false) ? in.integer("sliding_window", 1, max_positions, 4096, false) : 0;
  if (in.failed()) return tl::unexpected<error>(in.problem());
  if (window != 0) s.windows.assign(static_cast<std::size_t>(s.num_layers), window);
  for (std::int64_t l = 0; l < s.num_layers; ++l) s.mixes.push_back((l + 1) % step == 0 ? 1 : 0);
  for (const io::json& v : config.at("mlp_only_layers").items()) {
    if (const std::int64_t l = v.as_int(-1); l >= 0 && l < s.num_layers) s.mixes[static_cast<std::size_t>(l)] = 0;
  }
  add_attention(s, bias, bias);
  if (std::find(s.mixes.begin(), s.mixes.end(), 0) != s.mixes.end()) add_gated_mlp(s, false, model::block_kind::dense);
  else s.gate = s.up = s.down = -1;
  add_head_norms(s);
  s.parts.push_back({model::block_part::router, "mlp.gate.weight", {s.mixture.experts, s.hidden_size}, model::block_kind::mixture});
  add_experts(s, "mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj", {});
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"Qwen3MoeForCausalLM"};

constexpr gguf_key more_keys[] = {expert_count, expert_used_count, own_key_length, own_value_length, file_type,
                                  number_key<[](const model_spec& s) { return s.mixture.intermediate_size; }>("expert_feed_forward_length", "moe_intermediate_size", gguf_key::back::optional)};

result<void> check_gguf(const model_spec& s) {
  if (s.mixture.normalize && std::find(s.mixes.begin(), s.mixes.end(), 0) == s.mixes.end()) return {};
  return runs_only_if(s, "every block has experts and their weights add up to 1 (norm_topk_prob)");
}

}  // namespace

extern const architecture arch_qwen3_moe;
const architecture arch_qwen3_moe{
    "qwen3_moe", classes, {.name = "qwen3moe", .keys = usual_keys, .more_keys = more_keys, .check = check_gguf, .complete = complete_mixture}, read_qwen3_moe};

}  // namespace auto_round::arch
