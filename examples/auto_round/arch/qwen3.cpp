// Qwen3: LLaMA with a norm on the queries and keys of each head; later blocks may see a window only.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_qwen3(const io::json& config) {
  const defaults d{.head_dim = 128, .positions = 32768};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "qwen3", "Qwen3ForCausalLM", d);
  const bool bias = in.boolean("attention_bias", false);
  in.only("hidden_act", {"silu"});
  add_attention(s, bias, bias);
  add_gated_mlp(s, false);
  add_head_norms(s);
  const std::int64_t window = in.boolean("use_sliding_window", false) ? in.integer("sliding_window", 1, max_positions, 4096, false) : 0;
  const std::int64_t without = in.integer("max_window_layers", 0, 100000, 28, false);
  if (window != 0) read_windows(in, config, s, window, [&](std::int64_t layer) { return layer >= without; });
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"Qwen3ForCausalLM"};

}  // namespace

extern const architecture arch_qwen3;
const architecture arch_qwen3{"qwen3", classes, {.name = "qwen3", .keys = usual_keys, .more_keys = usual_more_keys}, read_qwen3};

}  // namespace auto_round::arch
