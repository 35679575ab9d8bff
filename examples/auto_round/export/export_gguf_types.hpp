// Which GGUF type each tensor gets, and what it is called there. Source: auto-round 0.16.1, export_to_gguf (rules of llama.cpp's llama-quant).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "io/gguf.hpp"
#include "model/spec.hpp"

namespace auto_round::exporting {

/// A file type that can be asked for.
struct gguf_recipe {
  std::string_view spelling;  ///< "gguf:q4_k_s"
  std::string_view label;     ///< in the file's name: "Q4_K_S"
  io::gguf_type base;
  std::uint32_t file_type;    ///< general.file_type
};
/// In the order in which they are listed. file_type: llama.h, enum llama_ftype.
inline constexpr std::array gguf_recipes = {
    gguf_recipe{"gguf:q4_0", "Q4_0", io::gguf_type::q4_0, 2},
    gguf_recipe{"gguf:q4_1", "Q4_1", io::gguf_type::q4_1, 3},
    gguf_recipe{"gguf:q5_0", "Q5_0", io::gguf_type::q5_0, 8},
    gguf_recipe{"gguf:q5_1", "Q5_1", io::gguf_type::q5_1, 9},
    gguf_recipe{"gguf:q8_0", "Q8_0", io::gguf_type::q8_0, 7},
    gguf_recipe{"gguf:q2_k_s", "Q2_K_S", io::gguf_type::q2_k, 21},
    gguf_recipe{"gguf:q3_k_s", "Q3_K_S", io::gguf_type::q3_k, 11},
    gguf_recipe{"gguf:q3_k_m", "Q3_K_M", io::gguf_type::q3_k, 12},
    gguf_recipe{"gguf:q3_k_l", "Q3_K_L", io::gguf_type::q3_k, 13},
    gguf_recipe{"gguf:q4_k_s", "Q4_K_S", io::gguf_type::q4_k, 14},
    gguf_recipe{"gguf:q4_k_m", "Q4_K_M", io::gguf_type::q4_k, 15},
    gguf_recipe{"gguf:q5_k_s", "Q5_K_S", io::gguf_type::q5_k, 16},
    gguf_recipe{"gguf:q5_k_m", "Q5_K_M", io::gguf_type::q5_k, 17},
    gguf_recipe{"gguf:q6_k", "Q6_K", io::gguf_type::q6_k, 18},
    gguf_recipe{"gguf:q2_k_mixed", "Q2_K_S", io::gguf_type::q2_k, 21},  // llama.cpp has no name for it
    gguf_recipe{"gguf:mxfp4", "MXFP4", io::gguf_type::mxfp4, 38},
    gguf_recipe{"gguf:nvfp4", "NVFP4", io::gguf_type::nvfp4, 39},
};
const gguf_recipe* find_gguf_recipe(std::string_view spelling);

enum class gguf_role { linear, head, embedding };

/// Type of a 2-D weight. `linear` is its index in the block (ignored unless role is linear), `block` its number; experts of a block get one type, and
/// with tied embeddings the embedding gets that of the head. Columns that are no multiple of the block length fall back: K types to q5_0 or q8_0, those to F16.
io::gguf_type choose_gguf_type(const gguf_recipe& recipe, const model::model_spec& spec, gguf_role role, int linear, std::int64_t block,
                               std::uint64_t cols);

/// The scheme of a quantized type, or null for F32, F16 and types that nothing quantizes to.
const ar::scheme_fields* scheme_of(io::gguf_type type);
/// The scheme of the type whose blocks of 32 have one scale and codes of this width, symmetric or with a minimum; null if there is none.
const ar::scheme_fields* gguf_scheme_of_codes(int bits, bool sym);
/// The inverse of scheme_of; nothing if no GGUF type stores such a scheme.
std::optional<io::gguf_type> gguf_type_of(const ar::scheme_fields& scheme);

/// Codes of E2M1, which blocks of this program are made of as they are.
bool is_fp4(io::gguf_type type);
/// "blk.0.ffn_up.weight" -> "blk.0.ffn_up.scale": what the whole of a tensor is multiplied by (NVFP4).
std::string gguf_factor_name(std::string_view tensor);

/// Where a tensor lies in a GGUF file: as the whole of one, or, weights of experts, as one of `count` matrices that follow each other in it.
struct gguf_place {
  std::string name;  ///< empty if it has no place
  std::uint64_t index = 0, count = 1;
};
/// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight": llama.cpp's names say which part of the model a tensor is.
gguf_place place_in_gguf(const model::model_spec& spec, const std::string& name);

/// What is added to a tensor when it is stored: Gemma's norms multiply by 1 + weight, and llama.cpp wants the sum. 0 for everything else.
float gguf_offset(const model::model_spec& spec, const std::string& name);

/// Longrope with one list for all lengths and no attention factor: the factors of a GGUF file that was read, which one tensor says.
bool has_plain_factors(const model::rope_spec& rope);

/// error_kind::unsupported where llama.cpp would compute otherwise, or this program does not write such files.
result<void> check_gguf_model(const model::model_spec& spec);

/// Rows of queries and keys may be stored pair by pair instead of half by half. Row i of the stored tensor is row permuted_row() of the
/// source; `heads` is 0 for tensors that keep their order.
std::uint64_t permuted_row(std::uint64_t i, std::uint64_t rows, std::uint64_t heads);
/// Heads by which the rows of this tensor are permuted; 0: none.
std::uint64_t permuted_heads(const model::model_spec& spec, const std::string& name);

}  // namespace auto_round::exporting
