// Phi-3 and Phi-4: LLaMA with one layer for queries, keys and values and one for gate and up; a part of each head may turn, blocks may see a window.
#include <cmath>

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

/// The length that the model was made for, before longrope stretched it.
std::int64_t original_length(const model_spec& s, const io::json& config) { return config.at("original_max_position_embeddings").as_int(s.max_position_embeddings); }

/// By what longrope multiplies queries and keys; where it is not said, from the lengths.
std::optional<io::gguf_value> attention_factor(const model_spec& s, const io::json& config) {
  if (s.rope.type != model::rope_spec::kind::longrope) return std::nullopt;
  if (s.rope.attention_factor > 0) return static_cast<float>(s.rope.attention_factor);
  const auto original = static_cast<double>(original_length(s, config));
  const double scale = static_cast<double>(s.max_position_embeddings) / original;
  return static_cast<float>(scale <= 1 ? 1.0 : std::sqrt(1 + std::log(scale) / std::log(original)));
}

constexpr gguf_key early_keys[] = {{"rope.scaling.attn_factor", attention_factor}};
constexpr gguf_key keys[] = {context_length,
                             {"rope.scaling.original_context_length", [](const model_spec& s, const io::json& config) -> std::optional<io::gguf_value> { return static_cast<std::uint32_t>(original_length(s, config)); }},
                             embedding_length, feed_forward_length, block_count, head_count, head_count_kv, norm_epsilon,
                             number_key<[](const model_spec& s) { return s.rotary_dim != 0 ? s.rotary_dim : s.head_dim; }>("rope.dimension_count"),
                             rope_base, file_type, sliding_window};

void complete(const gguf_numbers& number, io::json& config) {
  const std::int64_t heads = config.at("num_attention_heads").as_int(), hidden = config.at("hidden_size").as_int();
  const auto turning = number("rope.dimension_count");
  if (!turning || heads <= 0 || hidden < heads) return;
  const auto whole = static_cast<double>(hidden / heads);
  if (*turning != whole) config.set("partial_rotary_factor", *turning / whole);
}

}  // namespace

extern const architecture arch_phi3;
const architecture arch_phi3{"phi3", classes, {.name = "phi3", .early_keys = early_keys, .keys = keys, .length_factors = true, .complete = complete}, read_phi3};

}  // namespace auto_round::arch
