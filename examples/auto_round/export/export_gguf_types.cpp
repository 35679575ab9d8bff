// Type mixes, names and row orders of GGUF files.
#include "export/export_gguf_types.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

namespace auto_round::exporting {
namespace {

using io::gguf_type;

// general.file_type: llama.h, enum llama_ftype.
constexpr std::array recipes = {
    gguf_recipe{"gguf:q4_0", "GGUF:Q4_0", "Q4_0", gguf_type::q4_0, 2},
    gguf_recipe{"gguf:q4_1", "GGUF:Q4_1", "Q4_1", gguf_type::q4_1, 3},
    gguf_recipe{"gguf:q8_0", "GGUF:Q8_0", "Q8_0", gguf_type::q8_0, 7},
    gguf_recipe{"gguf:q5_0", "GGUF:Q5_0", "Q5_0", gguf_type::q5_0, 8},
    gguf_recipe{"gguf:q5_1", "GGUF:Q5_1", "Q5_1", gguf_type::q5_1, 9},
    gguf_recipe{"gguf:q3_k_s", "GGUF:Q3_K_S", "Q3_K_S", gguf_type::q3_k, 11},
    gguf_recipe{"gguf:q3_k_m", "GGUF:Q3_K_M", "Q3_K_M", gguf_type::q3_k, 12},
    gguf_recipe{"gguf:q3_k_l", "GGUF:Q3_K_L", "Q3_K_L", gguf_type::q3_k, 13},
    gguf_recipe{"gguf:q4_k_s", "GGUF:Q4_K_S", "Q4_K_S", gguf_type::q4_k, 14},
    gguf_recipe{"gguf:q4_k_m", "GGUF:Q4_K_M", "Q4_K_M", gguf_type::q4_k, 15},
    gguf_recipe{"gguf:q5_k_s", "GGUF:Q5_K_S", "Q5_K_S", gguf_type::q5_k, 16},
    gguf_recipe{"gguf:q5_k_m", "GGUF:Q5_K_M", "Q5_K_M", gguf_type::q5_k, 17},
    gguf_recipe{"gguf:q6_k", "GGUF:Q6_K", "Q6_K", gguf_type::q6_k, 18},
    gguf_recipe{"gguf:q2_k_s", "GGUF:Q2_K_S", "Q2_K_S", gguf_type::q2_k, 21},
    gguf_recipe{"gguf:q2_k_mixed", "GGUF:Q2_K_MIXED", "Q2_K_S", gguf_type::q2_k, 21},  // llama.cpp has no name for it
};

constexpr std::array<std::pair<gguf_type, std::string_view>, 10> type_presets = {{{gguf_type::q4_0, "GGUF:Q4_0"},
                                                                                  {gguf_type::q4_1, "GGUF:Q4_1"},
                                                                                  {gguf_type::q5_0, "GGUF:Q5_0"},
                                                                                  {gguf_type::q5_1, "GGUF:Q5_1"},
                                                                                  {gguf_type::q8_0, "GGUF:Q8_0"},
                                                                                  {gguf_type::q2_k, "GGUF:Q2_K_S"},
                                                                                  {gguf_type::q3_k, "GGUF:Q3_K_S"},
                                                                                  {gguf_type::q4_k, "GGUF:Q4_K_S"},
                                                                                  {gguf_type::q5_k, "GGUF:Q5_K_S"},
                                                                                  {gguf_type::q6_k, "GGUF:Q6_K"}}};

/// HF module name inside a block -> GGUF name inside blk.N.
constexpr std::array<std::pair<std::string_view, std::string_view>, 17> block_names = {{{"self_attn.q_proj", "attn_q"},
                                                                                       {"self_attn.k_proj", "attn_k"},
                                                                                       {"self_attn.v_proj", "attn_v"},
                                                                                       {"self_attn.o_proj", "attn_output"},
                                                                                        {"self_attn.q_norm", "attn_q_norm"},
                                                                                        {"self_attn.k_norm", "attn_k_norm"},
                                                                                       {"mlp.gate_proj", "ffn_gate"},
                                                                                       {"mlp.up_proj", "ffn_up"},
                                                                                       {"mlp.down_proj", "ffn_down"},
                                                                                       {"input_layernorm", "attn_norm"},
                                                                                       {"post_attention_layernorm", "ffn_norm"},
                                                                                       {"mlp.gate", "ffn_gate_inp"},
                                                                                       {"block_sparse_moe.gate", "ffn_gate_inp"},
                                                                                       {"self_attn.qkv_proj", "attn_qkv"},
                                                                                       {"mlp.gate_up_proj", "ffn_up"},
                                                                                       {"pre_feedforward_layernorm", "ffn_norm"},
                                                                                       {"post_feedforward_layernorm", "post_ffw_norm"}}};

/// Modules that hold experts, and the names of an expert's matrices in them.
constexpr std::array<std::string_view, 2> expert_lists = {"mlp.experts.", "block_sparse_moe.experts."};
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> expert_names = {{{"gate_proj", "ffn_gate_exps"},
                                                                                        {"up_proj", "ffn_up_exps"},
                                                                                        {"down_proj", "ffn_down_exps"},
                                                                                        {"w1", "ffn_gate_exps"},
                                                                                        {"w3", "ffn_up_exps"},
                                                                                        {"w2", "ffn_down_exps"}}};

constexpr std::uint64_t k_block = 256, small_block = 32;

/// A 70B-class model shares few value heads among many query heads: llama.cpp spends more bits on them.
bool is_70b_class(const model::model_spec& spec) {
  return (spec.architecture == "llama" || spec.architecture == "mistral" || spec.architecture == "mixtral") && spec.num_layers == 80 && spec.num_heads != spec.num_kv_heads;
}

/// The blocks to which the medium mixes give more bits: the first and the last eighth, and every third between.
bool gets_more_bits(std::int64_t i, std::int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

/// Which layers of a mix get another type than the base. Source: llama.cpp, llama-quant.cpp, as auto-round restates it.
gguf_type linear_type(const gguf_recipe& recipe, const model::model_spec& spec, int linear, std::int64_t block) {
  const std::string_view mix = recipe.label;
  const std::int64_t n = spec.num_layers;
  const bool first_eighth = block < n / 8, more = gets_more_bits(block, n);
  const model::mixture_spec& m = spec.mixture;
  const bool expert = m.experts > 0 && linear >= m.first && linear < m.first + 3 * m.experts;
  // The small layers beside eight experts may have more bits. (llama.cpp and the original ask for this very number.)
  const bool eight = m.experts == 8;
  if (recipe.spelling == "gguf:q2_k_mixed") return expert ? gguf_type::q2_k : gguf_type::q4_k;
  if (eight && (linear == spec.v || linear == spec.k)) return gguf_type::q8_0;
  if (linear == spec.v) {
    gguf_type type = recipe.base;
    if (mix == "Q2_K_S" && spec.num_heads >= 4 * spec.num_kv_heads) type = gguf_type::q4_k;
    if (mix == "Q3_K_M") type = block < 2 ? gguf_type::q5_k : gguf_type::q4_k;
    if (mix == "Q3_K_L" || (mix == "Q4_K_S" && block < 4)) type = gguf_type::q5_k;
    if ((mix == "Q4_K_M" || mix == "Q5_K_M") && more) type = gguf_type::q6_k;
    return is_70b_class(spec) && (type == gguf_type::q3_k || type == gguf_type::q4_k) ? gguf_type::q5_k : type;
  }
  if (linear == spec.down || (expert && (linear - m.first) % 3 == 2)) {
    if (mix == "Q2_K_S" && first_eighth) return gguf_type::q4_k;
    if (mix == "Q3_K_M") return block < n / 16 ? gguf_type::q5_k : gguf_type::q4_k;
    if (mix == "Q3_K_L" || (mix == "Q4_K_S" && first_eighth)) return gguf_type::q5_k;
    if ((mix == "Q4_K_M" || mix == "Q5_K_M") && more) return gguf_type::q6_k;
  }
  if (linear == spec.o && eight && (mix == "Q3_K_S" || mix == "Q3_K_M" || mix == "Q4_K_S" || mix == "Q4_K_M")) return gguf_type::q5_k;
  if (linear == spec.o && eight) return recipe.base;
  if (linear == spec.o && mix == "Q3_K_M") return gguf_type::q4_k;
  if (linear == spec.o && mix == "Q3_K_L") return gguf_type::q5_k;
  return recipe.base;
}

gguf_type fall_back(gguf_type type, std::uint64_t cols) {
  const std::uint64_t block = io::gguf_type_info(static_cast<std::uint32_t>(type)).block_elements;
  if (block == k_block && cols % k_block != 0) type = type == gguf_type::q6_k ? gguf_type::q8_0 : gguf_type::q5_0;
  return cols % small_block != 0 ? gguf_type::f16 : type;
}

}  // namespace

const gguf_recipe* find_gguf_recipe(std::string_view spelling) {
  for (const gguf_recipe& r : recipes) {
    if (r.spelling == spelling) return &r;
  }
  return nullptr;
}

io::gguf_type choose_gguf_type(const gguf_recipe& recipe, const model::model_spec& spec, gguf_role role, int linear, std::int64_t block,
                               std::uint64_t cols) {
  const bool as_head = role == gguf_role::head || (role == gguf_role::embedding && spec.tie_word_embeddings);
  const bool outside = role != gguf_role::linear && recipe.spelling == "gguf:q2_k_mixed";
  const gguf_type wanted = outside || (as_head && recipe.base == gguf_type::q8_0) ? gguf_type::q8_0
                           : as_head                                              ? gguf_type::q6_k
                           : role == gguf_role::linear ? linear_type(recipe, spec, linear, block)
                                                       : recipe.base;
  return fall_back(wanted, cols);
}

const ar::scheme_fields* scheme_of(io::gguf_type type) {
  for (const auto& [t, preset] : type_presets) {
    if (t == type) return ar::find_preset(preset);
  }
  return nullptr;
}

const ar::scheme_fields* gguf_scheme_of_codes(int bits, bool sym) {
  for (const auto& [t, preset] : type_presets) {
    const ar::scheme_fields* s = ar::find_preset(preset);
    if (!s->super_bits && s->bits == bits && s->sym == sym) return s;
  }
  return nullptr;
}

std::optional<io::gguf_type> gguf_type_of(const ar::scheme_fields& scheme) {
  for (const auto& [t, preset] : type_presets) {
    if (ar::same_scheme(*ar::find_preset(preset), scheme)) return t;
  }
  return std::nullopt;
}

std::string gguf_name(const model::model_spec& spec, const std::string& name) {
  if (name == spec.embed_name) return "token_embd.weight";
  if (name == spec.final_norm_name) return "output_norm.weight";
  if (name == spec.head_name) return "output.weight";
  if (!name.starts_with(spec.block_prefix)) return {};
  const std::size_t number = spec.block_prefix.size(), after = name.find('.', number), suffix = name.rfind('.');
  if (after == std::string::npos || suffix <= after) return {};
  const std::string_view module = std::string_view(name).substr(after + 1, suffix - after - 1);
  const std::string block = "blk." + name.substr(number, after - number) + ".";
  // Gemma's norm of this name comes behind attention, not before the MLP.
  if (module == "post_attention_layernorm" && spec.has_part(model::block_part::attention_output_norm)) return block + "post_attention_norm" + name.substr(suffix);
  for (const auto& [hf, gguf] : block_names) {
    if (module == hf) return block + std::string(gguf) + name.substr(suffix);
  }
  return {};
}

gguf_place place_in_gguf(const model::model_spec& spec, const std::string& name) {
  gguf_place place{gguf_name(spec, name)};
  if (!place.name.empty() || spec.mixture.experts == 0 || !name.starts_with(spec.block_prefix) || !name.ends_with(".weight")) return place;
  const std::size_t number = spec.block_prefix.size(), after = name.find('.', number);
  if (after == std::string::npos) return place;
  const std::string_view module = std::string_view(name).substr(after + 1, name.size() - after - 1 - std::string_view(".weight").size());
  for (const std::string_view list : expert_lists) {
    std::uint64_t expert = 0;
    if (!module.starts_with(list)) continue;
    const auto [end, failed] = std::from_chars(module.data() + list.size(), module.data() + module.size(), expert);
    if (failed != std::errc() || end == module.data() + module.size() || *end != '.' || expert >= static_cast<std::uint64_t>(spec.mixture.experts)) continue;
    const std::string_view matrix(end + 1, static_cast<std::size_t>(module.data() + module.size() - end - 1));
    for (const auto& [hf, gguf] : expert_names)
      if (matrix == hf) return {"blk." + name.substr(number, after - number) + "." + std::string(gguf) + ".weight", expert, static_cast<std::uint64_t>(spec.mixture.experts)};
  }
  return place;
}

float gguf_offset(const model::model_spec& spec, const std::string& name) { return spec.unit_offset && name.ends_with("norm.weight") ? 1.0f : 0.0f; }

std::int64_t largest_window(const model::model_spec& spec) { return spec.windows.empty() ? 0 : *std::max_element(spec.windows.begin(), spec.windows.end()); }

bool has_plain_factors(const model::rope_spec& rope) {
  return rope.type == model::rope_spec::kind::longrope && rope.attention_factor == 1.0 && rope.short_factor == rope.long_factor;
}

result<void> check_gguf_model(const model::model_spec& spec) {
  const auto refuse = [&](const char* what) { return fail(error_kind::unsupported, fmt::format("llama.cpp runs a {} only if {}", spec.model_class, what)); };
  if (spec.mixture.experts > 0 && (!spec.mixture.normalize || std::find(spec.mixes.begin(), spec.mixes.end(), 0) != spec.mixes.end()))
    return refuse("every block has experts and their weights add up to 1 (norm_topk_prob)");
  if (spec.rope.type == model::rope_spec::kind::longrope && spec.architecture != "phi3" && !has_plain_factors(spec.rope))
    return fail(error_kind::unsupported, "the factors of the model's rotary frequencies are not written to GGUF files by this program; choose another format");
  if (!spec.unit_offset) return {};
  const bool second = spec.architecture == "gemma2";
  // The largest of each kind divides scores by the width of a head as if heads made up the stream.
  const std::int64_t width = spec.num_layers == (second ? 46 : 62) ? spec.hidden_size / spec.num_heads : spec.head_dim;
  if (std::abs(spec.attention_scale * std::sqrt(static_cast<double>(width)) - 1) > 1e-6) return refuse("scores are divided by the root of a head's width (query_pre_attn_scalar)");
  if (spec.hidden_act != "gelu_pytorch_tanh") return refuse("the MLP's activation is gelu_pytorch_tanh");
  if (second != (spec.attention_cap > 0) || second != (spec.logit_cap > 0)) return refuse(second ? "scores and logits are capped" : "neither scores nor logits are capped");
  const std::int64_t window = largest_window(spec);
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    const bool windowed = second ? l % 2 == 0 : (l + 1) % 6 != 0;
    if (window == 0 || spec.window(l) != (windowed ? window : 0)) return refuse(second ? "every other block sees a window, the first one too" : "five of six blocks see a window");
  }
  return {};
}

std::uint64_t permuted_row(std::uint64_t i, std::uint64_t rows, std::uint64_t heads) {
  if (heads == 0) return i;
  const std::uint64_t head_rows = rows / heads, in_head = i % head_rows;
  return i - in_head + in_head % 2 * (head_rows / 2) + in_head / 2;
}

std::uint64_t permuted_heads(const model::model_spec& spec, const std::string& name) {
  if ((spec.architecture != "llama" && spec.architecture != "mistral" && spec.architecture != "mixtral") || !name.starts_with(spec.block_prefix)) return 0;
  if (name.find(".self_attn.q_proj.") != std::string::npos) return static_cast<std::uint64_t>(spec.num_heads);
  if (name.find(".self_attn.k_proj.") != std::string::npos) return static_cast<std::uint64_t>(spec.num_kv_heads);
  return 0;
}

}  // namespace auto_round::exporting
