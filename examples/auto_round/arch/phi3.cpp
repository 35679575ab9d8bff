// Phi-3 and Phi-4: LLaMA with one layer for queries, keys and values and one for gate and up; a part of each head may turn, blocks may see a window.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_phi3(const io::json& config) {
  const defaults d{.eps = 1e-5, .positions = 4096, .original_positions = 4096, .rotary = 1.0};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "phi3", "Phi3ForCausalLM", d);
  in.only("hidden_act", {"silu"});
  const std::int64_t width = s.num_heads * s.head_dim;
  s.linears = {{"self_attn.o_proj", s.hidden_size, width, false},
               {"self_attn.qkv_proj", width + 2 * s.num_kv_heads * s.head_dim, s.hidden_size, false},
               {"mlp.gate_up_proj", 2 * s.intermediate_size, s.hidden_size, false},
               {"mlp.down_proj", s.hidden_size, s.intermediate_size, false}};
  s.fused = model::fused_heads::one_after_the_other;
  s.o = 0;
  s.q = s.k = s.v = 1;
  s.gate = s.up = 2;
  s.down = 3;
  const std::int64_t window = in.integer("sliding_window", 1, max_positions, 0, false);
  if (window != 0 && !in.failed()) s.windows.assign(static_cast<std::size_t>(s.num_layers), window);
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"Phi3ForCausalLM"};

}  // namespace

extern const architecture arch_phi3;
const architecture arch_phi3{"phi3", classes, "phi3", read_phi3};

}  // namespace auto_round::arch
