// Qwen2 and Qwen2.5: LLaMA with biases on queries, keys and values; later blocks may see a window only.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_qwen2(const io::json& config) {
  const defaults d{.positions = 32768};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "qwen2", "Qwen2ForCausalLM", d);
  in.only("hidden_act", {"silu"});
  add_attention(s, true, false);
  add_gated_mlp(s, false);
  const std::int64_t window = in.boolean("use_sliding_window", false) ? in.integer("sliding_window", 1, max_positions, 4096, false) : 0;
  const std::int64_t without = in.integer("max_window_layers", 0, 100000, 28, false);
  if (window != 0) read_windows(in, config, s, window, [&](std::int64_t layer) { return layer >= without; });
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"Qwen2ForCausalLM"};

}  // namespace

extern const architecture arch_qwen2;
const architecture arch_qwen2{"qwen2", classes, {.name = "qwen2", .keys = usual_keys, .more_keys = usual_more_keys}, read_qwen2};

}  // namespace auto_round::arch
