// Door: what a quantization scheme is. At run time a plain record of fields with the table of named presets; at compile time
// scheme<data type, group> with static or dynamic parts (named ones, such as ar::W4A16, stand beside their data type).
// Cheap to include. Source: auto-round 0.16.1, schemes.py.
#pragma once

#include <optional>
#include <string_view>

#include "ar/detail/concepts.hpp"
#include "ar/detail/reference_names.hpp"

namespace ar {

/// A scheme as a user writes it; empty fields are completed by the program that resolves it. Holds no memory of its own: the string views
/// point to literals in presets, and to the caller's text otherwise.
struct scheme_fields {
  int bits = 4;                             ///< weight bits; 16 and more: not quantized
  int group_size = 128;                     ///< values per group along a row; -1 the whole row, 0 the whole tensor
  int group_rows = 0;                       ///< M of a two-dimensional group (M, group_size); 0 for groups inside a row
  bool sym = true;                          ///< symmetric
  std::string_view data_type = "int";       ///< weight type: family ("int", "mx_fp", "fp", "nv_fp", "mx_int") or full name
  std::optional<int> act_bits{};            ///< activation bits; 16 and more: not quantized
  std::optional<int> act_group_size{};      ///< as group_size, for activations
  std::optional<bool> act_sym{};                    ///< as sym, for activations
  std::optional<std::string_view> act_data_type{};  ///< as data_type, for activations
  std::optional<bool> act_dynamic{};        ///< activation scales from the current data instead of calibration
  std::optional<int> super_bits{};          ///< bits of the scales of a GGUF super-block
  std::optional<int> super_group_size{};    ///< groups in a GGUF super-block

  /// Equal in every field, empty ones included.
  friend constexpr bool operator==(const scheme_fields&, const scheme_fields&) = default;
};

/// A named scheme.
struct preset {
  std::string_view name;  ///< as users write it
  scheme_fields fields;   ///< what it stands for
};

namespace detail {

constexpr scheme_fields weight_only(int bits, int group_size) noexcept {
  return {.bits = bits, .group_size = group_size, .act_bits = 16};
}
constexpr scheme_fields same_for_activations(int bits, int group_size, std::string_view type, std::string_view act_type,
                                             std::optional<bool> act_dynamic) noexcept {
  return {.bits = bits, .group_size = group_size, .data_type = type, .act_bits = bits, .act_group_size = group_size, .act_sym = true,
          .act_data_type = act_type, .act_dynamic = act_dynamic};
}
constexpr scheme_fields gguf(int bits, int group_size, bool sym, std::string_view type, std::optional<int> super_bits = {},
                             std::optional<int> super_group_size = {}) noexcept {
  return {.bits = bits, .group_size = group_size, .sym = sym, .data_type = type, .act_bits = 16, .super_bits = super_bits,
          .super_group_size = super_group_size};
}
constexpr char to_upper(char c) noexcept { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
constexpr bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (to_upper(a[i]) != to_upper(b[i])) return false;
  return true;
}

}  // namespace detail

/// All presets, in the order of the reverse look-up. W4A16_MIXED and GGUF:Q2_K_MIXED are the base of a recipe that differs between layers.
inline constexpr preset presets[] = {
    {"W4A16", detail::weight_only(4, 128)},
    {"W2A16", detail::weight_only(2, 128)},
    {"W3A16", detail::weight_only(3, 128)},
    {"W5A16", detail::weight_only(5, 128)},
    {"W6A16", detail::weight_only(6, 128)},
    {"W7A16", detail::weight_only(7, 128)},
    {"W8A16", detail::weight_only(8, 128)},
    {"MXFP4", detail::same_for_activations(4, 32, "mx_fp", "mx_fp", true)},
    {"MXFP6", detail::same_for_activations(6, 32, "mx_fp", "mx_fp", true)},
    {"MXFP4_RCEIL", detail::same_for_activations(4, 32, "mx_fp", "mx_fp_rceil", true)},
    {"MXFP8", detail::same_for_activations(8, 32, "mx_fp", "mx_fp", true)},
    {"MXFP8_RCEIL", detail::same_for_activations(8, 32, "mx_fp", "mx_fp_rceil", true)},
    {"NVFP4", detail::same_for_activations(4, 16, "nv_fp", "nv_fp4_with_static_gs", true)},
    {"NVFP4_E5M3", detail::same_for_activations(4, 16, "nvfp4_v2", "nvfp4_v2", {})},
    {"FPW8A16", {.bits = 8, .group_size = 0, .data_type = "fp", .act_bits = 16, .act_data_type = "fp"}},
    {"W2A16G64", detail::weight_only(2, 64)},
    {"W2A16G32", detail::weight_only(2, 32)},
    {"W3A16G64", detail::weight_only(3, 64)},
    {"W3A16G32", detail::weight_only(3, 32)},
    {"W4A16G64", detail::weight_only(4, 64)},
    {"W4A16G32", detail::weight_only(4, 32)},
    {"W5A16G64", detail::weight_only(5, 64)},
    {"W5A16G32", detail::weight_only(5, 32)},
    {"W6A16G64", detail::weight_only(6, 64)},
    {"W6A16G32", detail::weight_only(6, 32)},
    {"W7A16G64", detail::weight_only(7, 64)},
    {"W7A16G32", detail::weight_only(7, 32)},
    {"W8A16G64", detail::weight_only(8, 64)},
    {"W8A16G32", detail::weight_only(8, 32)},
    {"FP8_STATIC",
     {.bits = 8, .group_size = -1, .data_type = "fp", .act_bits = 8, .act_group_size = 0, .act_sym = true, .act_data_type = "fp", .act_dynamic = false}},
    {"BF16", {.bits = 16, .group_size = 128, .data_type = "fp", .act_bits = 16, .act_data_type = "fp"}},
    {"W4A16_MIXED", detail::weight_only(4, 128)},
    {"INT4", detail::same_for_activations(4, -1, "int", "int", true)},
    {"INT8", detail::same_for_activations(8, -1, "int", "int", true)},
    {"INT8_W8A8", detail::same_for_activations(8, -1, "int", "int", true)},
    {"FP8_BLOCK",
     {.bits = 8, .group_size = 128, .group_rows = 128, .data_type = "fp", .act_bits = 8, .act_group_size = 128, .act_sym = true, .act_data_type = "fp",
      .act_dynamic = true}},
    {"MXINT4", detail::same_for_activations(4, 32, "mx_int", "mx_int", true)},
    {"GGUF:Q4_0", detail::gguf(4, 32, true, "int")},
    {"GGUF:Q4_1", detail::gguf(4, 32, false, "int_asym_float_zp")},
    {"GGUF:Q5_0", detail::gguf(5, 32, true, "int")},
    {"GGUF:Q5_1", detail::gguf(5, 32, false, "int_asym_float_zp")},
    {"GGUF:Q2_K_S", detail::gguf(2, 16, false, "int_asym_dq", 4, 16)},
    {"GGUF:Q2_K_MIXED", detail::gguf(2, 16, false, "int_asym_dq", 4, 16)},
    {"GGUF:Q3_K_S", detail::gguf(3, 16, true, "int_sym_dq", 6, 16)},
    {"GGUF:Q3_K_M", detail::gguf(3, 16, true, "int_sym_dq", 6, 16)},
    {"GGUF:Q3_K_L", detail::gguf(3, 16, true, "int_sym_dq", 6, 16)},
    {"GGUF:Q4_K_S", detail::gguf(4, 32, false, "int_asym_dq", 6, 8)},
    {"GGUF:Q4_K_M", detail::gguf(4, 32, false, "int_asym_dq", 6, 8)},
    {"GGUF:Q5_K_S", detail::gguf(5, 32, false, "int_asym_dq", 6, 8)},
    {"GGUF:Q5_K_M", detail::gguf(5, 32, false, "int_asym_dq", 6, 8)},
    {"GGUF:Q6_K", detail::gguf(6, 16, true, "int_sym_dq", 8, 16)},
    {"GGUF:Q8_0", detail::gguf(8, 32, true, "int")},
};

/// The fields of the preset `name` (any case, no blanks; GGUF presets carry the prefix "GGUF:"), or null.
[[nodiscard]] constexpr const scheme_fields* find_preset(std::string_view name) noexcept {
  for (const preset& p : presets)
    if (detail::equal_ignoring_case(p.name, name)) return &p.fields;
  return nullptr;
}

/// True if both say the same. Activation fields do not count when neither side quantizes activations in a different width (16 bits, or empty).
[[nodiscard]] constexpr bool same_scheme(const scheme_fields& a, const scheme_fields& b) noexcept {
  const int act = a.act_bits.value_or(16);
  scheme_fields c = b;
  if (act == b.act_bits.value_or(16) && act >= 16) {
    c.act_bits = a.act_bits;
    c.act_group_size = a.act_group_size;
    c.act_sym = a.act_sym;
    c.act_data_type = a.act_data_type;
    c.act_dynamic = a.act_dynamic;
  }
  return a == c;
}

/// The name of the first preset that says the same as `s`, or an empty view.
[[nodiscard]] constexpr std::string_view preset_name(const scheme_fields& s) noexcept {
  for (const preset& p : presets)
    if (same_scheme(p.fields, s)) return p.name;
  return {};
}

namespace detail {

template <class S>
[[nodiscard]] constexpr bool says(const preset& p) noexcept {
  const S s{};
  const scheme_fields& f = p.fields;
  if (s.type.bits() != f.bits || s.group_size() != f.group_size || s.group_rows() != (f.group_rows == 0 ? 1 : f.group_rows)) return false;
  const std::string_view own = S::data_type::name;
  if (std::string_view rest = p.name; take(rest, "GGUF:")) return equal_ignoring_case(rest.substr(0, own.size()), own);
  if constexpr (requires { S::data_type::reference_names; }) {
    for (int i = 0; i < name_variants; ++i) {
      const auto pieces = variant_of_name(i, f.group_rows > 0 ? "block_" : "", f.data_type, f.bits, f.sym);
      if (!find_name(S::data_type::reference_names, pieces).empty()) return true;
    }
  }
  return false;
}

}  // namespace detail

/// True if the scheme type S is what the preset `name` says about weights: width, group, and a data type that the reference finds under the
/// preset's name for it (GGUF presets: the name of the preset itself). Data types state it of their aliases.
template <class S>
[[nodiscard]] constexpr bool is_preset(std::string_view name) noexcept {
  // Not through find_preset: with -fsanitize=undefined g++ 12 takes no comparison of such a pointer with null for constant.
  for (const preset& p : presets)
    if (detail::equal_ignoring_case(p.name, name)) return detail::says<S>(p);
  return false;
}

/// True if the weight or the activations have at most 8 bits.
[[nodiscard]] constexpr bool quantizes(const scheme_fields& s) noexcept { return s.bits <= 8 || s.act_bits.value_or(16) <= 8; }

static_assert(find_preset("w2a16g32")->group_size == 32 && find_preset("gguf:q4_k_s")->super_group_size == 8 && !find_preset("W9A16"));

}  // namespace ar
