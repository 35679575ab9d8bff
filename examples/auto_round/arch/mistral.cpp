// Mistral: LLaMA whose blocks may all see a window only.
#include "arch/architecture_reader.hpp"

namespace auto_round::arch {
namespace {

using model::model_spec;

result<model_spec> read_mistral(const io::json& config) {
  const defaults d{.positions = 4096 * 32};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "mistral", "MistralForCausalLM", d);
  in.only("hidden_act", {"silu"});
  add_attention(s, false, false);
  add_gated_mlp(s, false);
  // The window is 4096 where config.json does not speak of it, and none where it says null.
  const std::int64_t window = in.names("sliding_window") ? in.integer("sliding_window", 1, max_positions, 0, false) : 4096;
  if (window != 0 && !in.failed()) s.windows.assign(static_cast<std::size_t>(s.num_layers), window);
  return finished(in, config, std::move(s), d);
}

constexpr std::string_view classes[] = {"MistralForCausalLM"};

}  // namespace

extern const architecture arch_mistral;
const architecture arch_mistral{"mistral", classes, gguf_llama, read_mistral};

}  // namespace auto_round::arch
