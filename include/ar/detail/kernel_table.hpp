// The table that the dispatch unit makes for every SIMD target: plain function pointers, so that callers need no vector header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "ar/detail/calibrate_types.hpp"
#include "ar/detail/codec_kernels.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/gguf_kernels.hpp"
#include "ar/detail/scaled_facts.hpp"
#include "ar/detail/search_types.hpp"
#include "ar/detail/tune_types.hpp"
#include "ar/errc.hpp"
#include "ar/numeric/real.hpp"
#include "ar/view.hpp"

namespace ar {

/// The run-time part of a data type: what its static fields would say.
struct type_values {
  int bits = 0;             ///< of types with a width to choose; others ignore it
  tensor_values tensor{};   ///< of types that know something about the whole tensor
  const scaled_facts* facts = nullptr;  ///< filled in by range_kernels
  constexpr type_values() = default;
  constexpr type_values(int b) noexcept : bits(b) {}
  constexpr type_values(int b, const tensor_values& t) noexcept : bits(b), tensor(t) {}
};

/// The kernels behind range_kernels.
struct range_functions {
  errc (*fit)(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<float> scale, matrix_view<float> zero_point);
  errc (*quantize)(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<std::uint8_t> code, matrix_view<float> scale,
                   matrix_view<float> zero_point);
  errc (*encode)(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<const float> scale,
                 matrix_view<const float> zero_point, matrix_view<std::uint8_t> code);
  errc (*dequantize)(const type_values& type, group_shape group, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                     matrix_view<const float> zero_point, matrix_view<float> out);
  errc (*qdq)(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<float> out);
};

/// The kernels behind range_kernels::search and quantize_tuned.
struct search_functions {
  errc (*search)(const type_values& type, group_shape group, matrix_view<const float> w, const search_options& how, const group_output& out);
  errc (*quantize_tuned)(const type_values& type, group_shape group, matrix_view<const float> w, const tuned_values& values, const group_output& out);
};

/// The functions of ar/quantize.hpp and ar/search.hpp for one data type whose groups are fitted from their range; same shapes, rounding and errors. `type` (its
/// bits, or just them) and `group` (a group size, or {cols, rows} for tiles) are the run-time fields of the scheme. zero_point is ignored by
/// types that have none.
struct range_kernels {
  const char* name;     ///< the data type's
  real weight_format;   ///< what the reference computes in
  real scale_format;    ///< what the scale is stored in, if the type leaves the choice; f32 otherwise
  bool has_zero_point;
  const scaled_facts* facts;  ///< null for integer types
  range_functions functions;
  const search_functions* (*searches)() noexcept;  ///< of all types
  std::size_t number;                              ///< of this one among them

  /// The width of a type that has only one; 0 for types with a width to choose.
  constexpr int fixed_bits() const noexcept { return facts == nullptr ? 0 : facts->grid.bits; }
  /// True for types with a scale of the whole tensor: all functions but qdq need tensor.global_scale or tensor.maximum.
  constexpr bool two_level() const noexcept { return facts != nullptr && facts->two_level(); }
  /// The scale of a tensor whose largest magnitude is `largest`, for two-level types; 0 for 0.
  constexpr float global_scale(float largest) const noexcept { return facts->global_numerator() * reciprocal_or_zero(largest); }

  errc fit(type_values type, group_shape group, matrix_view<const float> w, matrix_view<float> scale, matrix_view<float> zero_point) const {
    return functions.fit(with_facts(type), group, w, scale, zero_point);
  }
  errc quantize(type_values type, group_shape group, matrix_view<const float> w, matrix_view<std::uint8_t> code, matrix_view<float> scale,
                matrix_view<float> zero_point) const {
    return functions.quantize(with_facts(type), group, w, code, scale, zero_point);
  }
  errc encode(type_values type, group_shape group, matrix_view<const float> w, matrix_view<const float> scale, matrix_view<const float> zero_point,
              matrix_view<std::uint8_t> code) const {
    return functions.encode(with_facts(type), group, w, scale, zero_point, code);
  }
  errc dequantize(type_values type, group_shape group, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                  matrix_view<const float> zero_point, matrix_view<float> out) const {
    return functions.dequantize(with_facts(type), group, code, scale, zero_point, out);
  }
  errc qdq(type_values type, group_shape group, matrix_view<const float> w, matrix_view<float> out) const {
    return functions.qdq(with_facts(type), group, w, out);
  }
  errc search(type_values type, group_shape group, matrix_view<const float> w, const search_options& how, const group_output& out) const {
    return searches()[number].search(with_facts(type), group, w, how, out);
  }
  errc quantize_tuned(type_values type, group_shape group, matrix_view<const float> w, const tuned_values& values, const group_output& out) const {
    return searches()[number].quantize_tuned(with_facts(type), group, w, values, out);
  }

 private:
  constexpr const type_values& with_facts(type_values& type) const noexcept {
    type.facts = facts;
    return type;
  }
};

/// All kernels for one SIMD target.
struct kernel_table {
  const char* target;  ///< "AVX3", "AVX2", "SSE4", "SSSE3", "NEON", "EMU128", "SCALAR"
  const range_kernels* range_types;
  std::size_t range_type_count;
  std::span<const gguf_kernels> (*gguf_types)() noexcept;  ///< block types of GGUF files; ar/gguf.hpp says what they do
  tune_kernels tune;                                       ///< ar/tune.hpp says what they do
  calibrate_kernels calibrate;                             ///< ar/calibrate.hpp says what they do
  std::span<const codec_kernels> (*codecs)() noexcept;     ///< packed layouts; ar/pack.hpp says what they do

  /// The range type `name` with the given rounding policy, or null. Types whose scale has a format of its own ignore scale_format.
  constexpr const range_kernels* range_type(std::string_view name, real weight_format = real::f32, real scale_format = real::f16) const noexcept {
    for (std::size_t i = 0; i < range_type_count; ++i)
      if (name == range_types[i].name && range_types[i].weight_format == weight_format &&
          (range_types[i].facts != nullptr || range_types[i].scale_format == scale_format))
        return range_types + i;
    return nullptr;
  }

  /// The packed layout `name` ("gptq_int32"), or null.
  constexpr const codec_kernels* codec(std::string_view name) const noexcept {
    for (const codec_kernels& k : codecs())
      if (name == k.name) return &k;
    return nullptr;
  }

  /// The GGUF type `name` ("q4_k"), or with this ggml type id; null if there is none.
  constexpr const gguf_kernels* gguf_type(std::string_view name) const noexcept {
    for (const gguf_kernels& k : gguf_types())
      if (name == k.name) return &k;
    return nullptr;
  }
  constexpr const gguf_kernels* gguf_type(std::uint32_t id) const noexcept {
    for (const gguf_kernels& k : gguf_types())
      if (id == k.id) return &k;
    return nullptr;
  }
};

}  // namespace ar
