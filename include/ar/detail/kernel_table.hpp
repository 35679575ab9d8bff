// The table that the dispatch unit makes for every SIMD target: plain function pointers, so that callers need no vector header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "ar/detail/gguf_kernels.hpp"
#include "ar/detail/tune_types.hpp"
#include "ar/errc.hpp"
#include "ar/numeric/real.hpp"
#include "ar/view.hpp"

namespace ar {

/// The functions of ar/quantize.hpp for one data type whose groups are fitted from their range; same shapes, rounding and errors. `bits` and
/// `group_size` are the run-time fields of the scheme. zero_point is ignored by types that have none.
struct range_kernels {
  const char* name;     ///< the data type's, which is also its header's
  real weight_format;   ///< what the reference computes in
  real scale_format;    ///< what the scale is stored in
  bool has_zero_point;
  errc (*fit)(int bits, int group_size, matrix_view<const float> w, matrix_view<float> scale, matrix_view<float> zero_point);
  errc (*quantize)(int bits, int group_size, matrix_view<const float> w, matrix_view<std::uint8_t> code, matrix_view<float> scale,
                   matrix_view<float> zero_point);
  errc (*encode)(int bits, int group_size, matrix_view<const float> w, matrix_view<const float> scale, matrix_view<const float> zero_point,
                 matrix_view<std::uint8_t> code);
  errc (*dequantize)(int bits, int group_size, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                     matrix_view<const float> zero_point, matrix_view<float> out);
  errc (*qdq)(int bits, int group_size, matrix_view<const float> w, matrix_view<float> out);
};

/// All kernels for one SIMD target.
struct kernel_table {
  const char* target;  ///< "AVX3", "AVX2", "SSE4", "SSSE3", "NEON", "EMU128", "SCALAR"
  const range_kernels* range_types;
  std::size_t range_type_count;
  std::span<const gguf_kernels> (*gguf_types)() noexcept;  ///< block types of GGUF files; ar/gguf.hpp says what they do
  tune_kernels tune;                                       ///< ar/tune.hpp says what they do

  /// The range type `name` with the given rounding policy, or null.
  constexpr const range_kernels* range_type(std::string_view name, real weight_format = real::f32, real scale_format = real::f16) const noexcept {
    for (std::size_t i = 0; i < range_type_count; ++i)
      if (name == range_types[i].name && range_types[i].weight_format == weight_format && range_types[i].scale_format == scale_format)
        return range_types + i;
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
