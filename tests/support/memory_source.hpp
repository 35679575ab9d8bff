// A model whose tensors are in memory, for tests of what wraps a checkpoint.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "model/decoder.hpp"

namespace support {

class memory_source final : public auto_round::model::weight_source {
 public:
  auto_round::model::model_spec spec_;
  std::map<std::string, std::vector<float>> tensors;

  const auto_round::model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return tensors.count(name) != 0; }
  auto_round::result<void> read(const std::string& name, std::span<float> out) const override {
    const auto at = tensors.find(name);
    if (at == tensors.end() || at->second.size() != out.size()) return auto_round::fail(auto_round::error_kind::input, "no such tensor", {}, name);
    std::copy(at->second.begin(), at->second.end(), out.begin());
    return {};
  }
};

/// LLaMA's names and shapes.
inline auto_round::model::model_spec llama_spec(std::int64_t hidden, std::int64_t inner, std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                                                std::int64_t vocab, std::int64_t layers, bool attention_bias = false, bool mlp_bias = false) {
  auto_round::model::model_spec s;
  s.architecture = "llama", s.model_class = "LlamaForCausalLM";
  s.hidden_size = hidden, s.intermediate_size = inner, s.num_layers = layers, s.num_heads = heads, s.num_kv_heads = kv_heads, s.head_dim = head_dim;
  s.vocab_size = vocab, s.max_position_embeddings = 2048, s.rms_norm_eps = 1e-6;
  s.embed_name = "model.embed_tokens.weight", s.final_norm_name = "model.norm.weight", s.head_name = "lm_head.weight", s.block_prefix = "model.layers.";
  s.input_norm_name = "input_layernorm.weight", s.post_attention_norm_name = "post_attention_layernorm.weight";
  const std::int64_t q = heads * head_dim, kv = kv_heads * head_dim;
  s.linears = {{"self_attn.q_proj", q, hidden, attention_bias},  {"self_attn.k_proj", kv, hidden, attention_bias}, {"self_attn.v_proj", kv, hidden, attention_bias},
               {"self_attn.o_proj", hidden, q, attention_bias},  {"mlp.gate_proj", inner, hidden, mlp_bias},       {"mlp.up_proj", inner, hidden, mlp_bias},
               {"mlp.down_proj", hidden, inner, mlp_bias}};
  return s;
}

}  // namespace support
