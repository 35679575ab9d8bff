// Type mixes, names and row orders of GGUF files.
#include "export/export_gguf_types.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "arch/architecture_gguf.hpp"

namespace auto_round::exporting {
namespace {

using io::gguf_type;

/// Of types that the original does not write; no preset has their names.
constexpr ar::scheme_fields mxfp4_blocks = {.bits = 4, .group_size = 32, .data_type = "mx_fp", .act_bits = 16};
constexpr ar::scheme_fields nvfp4_blocks = {.bits = 4, .group_size = 16, .data_type = "nv_fp", .act_bits = 16};

struct type_scheme {
  gguf_type type;
  const ar::scheme_fields* scheme;
};
constexpr std::array type_schemes = {type_scheme{gguf_type::mxfp4, &mxfp4_blocks},
                                     type_scheme{gguf_type::nvfp4, &nvfp4_blocks},
                                     type_scheme{gguf_type::q4_0, ar::find_preset("GGUF:Q4_0")},
                                     type_scheme{gguf_type::q4_1, ar::find_preset("GGUF:Q4_1")},
                                     type_scheme{gguf_type::q5_0, ar::find_preset("GGUF:Q5_0")},
                                     type_scheme{gguf_type::q5_1, ar::find_preset("GGUF:Q5_1")},
                                     type_scheme{gguf_type::q8_0, ar::find_preset("GGUF:Q8_0")},
                                     type_scheme{gguf_type::q2_k, ar::find_preset("GGUF:Q2_K_S")},
                                     type_scheme{gguf_type::q3_k, ar::find_preset("GGUF:Q3_K_S")},
                                     type_scheme{gguf_type::q4_k, ar::find_preset("GGUF:Q4_K_S")},
                                     type_scheme{gguf_type::q5_k, ar::find_preset("GGUF:Q5_K_S")},
                                     type_scheme{gguf_type::q6_k, ar::find_preset("GGUF:Q6_K")}};

/// Names inside blk.N of tensors that are no linear layers, by block_part. Empty: not in the files that this program writes.
constexpr std::array<std::string_view, model::block_parts> part_names = {"attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm", "", "", "ffn_gate_inp", ""};
constexpr std::array<std::string_view, 3> expert_names = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};

constexpr std::uint64_t small_block = 32;

/// A 70B-class model shares few value heads among many query heads: llama.cpp spends more bits on them.
bool is_70b_class(const model::model_spec& spec) { return arch::gguf_of(spec).has_70b && spec.num_layers == 80 && spec.num_heads != spec.num_kv_heads; }

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

/// A name taken apart: block 3, "self_attn.q_proj", ".weight"; nothing if it is none of a block.
struct block_tensor {
  std::string_view number, module, suffix, whole;  ///< whole: module and suffix
};
std::optional<block_tensor> in_block(const model::model_spec& spec, std::string_view name) {
  if (!name.starts_with(spec.block_prefix)) return std::nullopt;
  const std::size_t number = spec.block_prefix.size(), after = name.find('.', number), suffix = name.rfind('.');
  if (after == std::string_view::npos || suffix <= after) return std::nullopt;
  return block_tensor{name.substr(number, after - number), name.substr(after + 1, suffix - after - 1), name.substr(suffix), name.substr(after + 1)};
}

bool is_linear(const model::model_spec& spec, int linear, std::string_view module) {
  return linear >= 0 && static_cast<std::size_t>(linear) < spec.linears.size() && spec.linears[static_cast<std::size_t>(linear)].name == module;
}

/// What llama.cpp calls the part of a block; empty if there is none, or it belongs to an expert.
std::string_view part_name(const model::model_spec& spec, const block_tensor& t) {
  if (t.whole == spec.input_norm_name) return "attn_norm";
  if (t.whole == spec.post_attention_norm_name) return "ffn_norm";
  for (const model::part_desc& part : spec.parts)
    if (t.whole == part.name) return part_names[static_cast<std::size_t>(part.part)];
  // A fused layer has the name that stands first here.
  for (const auto& [linear, piece] : {std::pair<int, std::string_view>{spec.fused == model::fused_heads::none ? -1 : spec.q, "attn_qkv"}, {spec.q, "attn_q"}, {spec.k, "attn_k"}, {spec.v, "attn_v"},
                                      {spec.o, "attn_output"}, {spec.up, "ffn_up"}, {spec.gate, "ffn_gate"}, {spec.down, "ffn_down"}})
    if (is_linear(spec, linear, t.module)) return piece;
  return {};
}

gguf_type fall_back(gguf_type type, std::uint64_t cols) {
  const std::uint64_t block = io::gguf_type_info(static_cast<std::uint32_t>(type)).block_elements;
  if (block > small_block && cols % block != 0) type = type == gguf_type::q6_k || type == gguf_type::nvfp4 ? gguf_type::q8_0 : gguf_type::q5_0;
  return cols % small_block != 0 ? gguf_type::f16 : type;
}

}  // namespace

const gguf_recipe* find_gguf_recipe(std::string_view spelling) {
  for (const gguf_recipe& r : gguf_recipes) {
    if (r.spelling == spelling) return &r;
  }
  return nullptr;
}

io::gguf_type choose_gguf_type(const gguf_recipe& recipe, const model::model_spec& spec, gguf_role role, int linear, std::int64_t block,
                               std::uint64_t cols) {
  const bool as_head = role == gguf_role::head || (role == gguf_role::embedding && spec.tie_word_embeddings);
  const bool outside = role != gguf_role::linear && (recipe.spelling == "gguf:q2_k_mixed" || is_fp4(recipe.base));
  const gguf_type wanted = outside || (as_head && recipe.base == gguf_type::q8_0) ? gguf_type::q8_0
                           : as_head                                              ? gguf_type::q6_k
                           : role == gguf_role::linear ? linear_type(recipe, spec, linear, block)
                                                       : recipe.base;
  return fall_back(wanted, cols);
}

const ar::scheme_fields* scheme_of(io::gguf_type type) {
  for (const type_scheme& t : type_schemes)
    if (t.type == type) return t.scheme;
  return nullptr;
}

const ar::scheme_fields* gguf_scheme_of_codes(int bits, bool sym) {
  for (const type_scheme& t : type_schemes)
    if (!is_fp4(t.type) && !t.scheme->super_bits && t.scheme->bits == bits && t.scheme->sym == sym) return t.scheme;
  return nullptr;
}

std::optional<io::gguf_type> gguf_type_of(const ar::scheme_fields& scheme) {
  for (const type_scheme& t : type_schemes)
    if (ar::same_scheme(*t.scheme, scheme)) return t.type;
  return std::nullopt;
}

bool is_fp4(io::gguf_type type) { return type == gguf_type::mxfp4 || type == gguf_type::nvfp4; }

std::string gguf_factor_name(std::string_view tensor) { return std::string(tensor.substr(0, tensor.rfind('.'))) + ".scale"; }

gguf_place place_in_gguf(const model::model_spec& spec, const std::string& name) {
  if (arch::gguf_of(spec).name.empty()) return {};
  if (name == spec.embed_name) return {"token_embd.weight"};
  if (name == spec.final_norm_name) return {"output_norm.weight"};
  if (name == spec.head_name) return {"output.weight"};
  const auto t = in_block(spec, name);
  if (!t) return {};
  const auto in_file = [&](std::string_view piece) { return fmt::format("blk.{}.{}{}", t->number, piece, t->suffix); };
  if (const std::string_view piece = part_name(spec, *t); !piece.empty()) return {in_file(piece)};
  // The number in an expert's name says which layers may have it: there are too many to compare them all.
  const std::size_t digit = t->module.find_first_of("0123456789");
  std::int64_t expert = 0;
  if (spec.mixture.experts == 0 || digit == std::string_view::npos) return {};
  if (std::from_chars(t->module.data() + digit, t->module.data() + t->module.size(), expert).ec != std::errc() || expert >= spec.mixture.experts) return {};
  for (int i = 0; i < 3; ++i)
    if (is_linear(spec, spec.mixture.first + 3 * static_cast<int>(expert) + i, t->module))
      return {in_file(expert_names[static_cast<std::size_t>(i)]), static_cast<std::uint64_t>(expert), static_cast<std::uint64_t>(spec.mixture.experts)};
  return {};
}

float gguf_offset(const model::model_spec& spec, const std::string& name) { return spec.unit_offset && name.ends_with("norm.weight") ? 1.0f : 0.0f; }

bool has_plain_factors(const model::rope_spec& rope) {
  return rope.type == model::rope_spec::kind::longrope && rope.attention_factor == 1.0 && rope.short_factor == rope.long_factor;
}

result<void> check_gguf_model(const model::model_spec& spec) {
  const arch::gguf_facts& facts = arch::gguf_of(spec);
  if (facts.name.empty())
    return fail(error_kind::unsupported, fmt::format("GGUF files of a {} are not written by this program; format auto_round or fake can hold it", spec.model_class));
  if (spec.rope.type == model::rope_spec::kind::longrope && !facts.length_factors && !has_plain_factors(spec.rope))
    return fail(error_kind::unsupported, "the factors of the model's rotary frequencies are not written to GGUF files by this program; choose another format");
  return facts.check == nullptr ? result<void>() : facts.check(spec);
}

std::uint64_t permuted_row(std::uint64_t i, std::uint64_t rows, std::uint64_t heads) {
  if (heads == 0) return i;
  const std::uint64_t head_rows = rows / heads, in_head = i % head_rows;
  return i - in_head + in_head % 2 * (head_rows / 2) + in_head / 2;
}

std::uint64_t permuted_heads(const model::model_spec& spec, const std::string& name) {
  const auto t = in_block(spec, name);
  if (!t || !arch::gguf_of(spec).paired_rows) return 0;
  return static_cast<std::uint64_t>(is_linear(spec, spec.q, t->module) ? spec.num_heads : is_linear(spec, spec.k, t->module) ? spec.num_kv_heads : 0);
}

}  // namespace auto_round::exporting
