// Mixtral: Mistral with a mixture of experts in every block.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_mixtral(const io::json& config) {
  const defaults d{.eps = 1e-5, .theta = 1e6, .positions = 4096 * 32};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "mixtral", "MixtralForCausalLM", d);
  in.only("hidden_act", {"silu"});
  s.mixture.experts = in.integer("num_local_experts", 1, 65536, 8, false);
  s.mixture.active = in.integer("num_experts_per_tok", 1, 65536, 2, false);
  s.mixture.intermediate_size = s.intermediate_size;
  s.mixture.normalize = true;
  if (s.mixture.active > s.mixture.experts) in.refuse("num_experts_per_tok", "must not be more than num_local_experts");
  const std::int64_t window = in.integer("sliding_window", 1, max_positions, 0, false);
  if (in.failed()) return tl::unexpected<error>(in.problem());
  if (window != 0) s.windows.assign(static_cast<std::size_t>(s.num_layers), window);
  s.mixes.assign(static_cast<std::size_t>(s.num_layers), 1);
  add_attention(s, false, false);
  s.gate = s.up = s.down = -1;
  s.parts.push_back({model::block_part::router, "block_sparse_moe.gate.weight", {s.mixture.experts, s.hidden_size}});
  add_experts(s, "block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3", "block_sparse_moe.experts.{}.w2", {});
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"MixtralForCausalLM"};

constexpr gguf_key more_keys[] = {expert_count, expert_used_count, own_key_length, own_value_length, file_type, llama_vocab_size, llama_dimension_count};
constexpr gguf_facts gguf = [] {
  gguf_facts facts = gguf_llama;
  facts.more_keys = more_keys;
  facts.with_experts = true;
  facts.complete = complete_mixture;
  return facts;
}();

}  // namespace

extern const architecture arch_mixtral;
const architecture arch_mixtral{"mixtral", classes, gguf, read_mixtral};

}  // namespace auto_round::arch
