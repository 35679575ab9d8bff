// LLaMA and the models that follow it exactly: RMSNorm, rotary embeddings, grouped-query attention, gated SiLU MLP.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_llama(const io::json& config) {
  const defaults d{};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "llama", "LlamaForCausalLM", d);
  const bool attention_bias = in.boolean("attention_bias", false), mlp_bias = in.boolean("mlp_bias", false);
  in.only("hidden_act", {"silu"});
  add_attention(s, attention_bias, attention_bias);
  add_gated_mlp(s, mlp_bias);
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"LlamaForCausalLM"};

}  // namespace

extern const architecture arch_llama;
const architecture arch_llama{"llama", classes, gguf_llama, read_llama};

}  // namespace auto_round::arch
