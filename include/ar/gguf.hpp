// Door: GGUF blocks. ggml's quantizers and decoders, and auto-round's parameters for the same types (search, qdq, packing), chosen by type at
// compile time here and by a table of functions at run time (gguf_kernels). All results are the same bits on every instruction set.
//
// A matrix is w[rows x cols] float32, row-major, cols a whole number of blocks. Blocks of a row are contiguous, rows follow each other: the bytes
// of a GGUF tensor. `importance` is empty or one finite non-negative number per column (an importance matrix, shared by all rows).
// All functions: errc::bad_shape if cols is no multiple of the block size or views do not fit together, errc::bad_size if a span has not exactly
// the length that the shape demands or a parameter array is null, errc::non_finite if the weights hold NaN or infinity, errc::bad_value if an
// importance is negative or not finite; nothing is written then. No memory is allocated; a call needs about 100 KB of stack.
// Scales that overflow half precision become infinities, as in ggml: gguf_scales_are_finite tells.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "ar/data_types.hpp"
#include "ar/detail/block_rows-inl.h"
#include "ar/detail/gguf_table-inl.h"
#if !defined(AR_NO_HIGHWAY)
#include "ar/detail/lane-inl.h"
#endif

AR_BEGIN_TARGET

/// The lane of this unit: Highway's vector for the compiler's flags, or one float.
#if defined(AR_NO_HIGHWAY)
using gguf_lane = float;
#else
using gguf_lane = vec;
#endif

/// ggml's quantizer (ggml_quantize_chunk) with or without importance; types without a weighted search ignore it. Types that are read only
/// (IQ1, IQ2, IQ3) do not compile here, and in the table of run time return errc::unsupported.
template <GgufType T>
[[nodiscard]] constexpr errc quantize_gguf(matrix_view<const float> w, std::span<const float> importance, std::span<std::uint8_t> blocks) noexcept {
  if (std::is_constant_evaluated()) return gguf::quantize<T, float>(w, importance, blocks);
  return gguf::quantize<T, gguf_lane>(w, importance, blocks);
}

/// ggml's decoder (dequantize_row_*). Any bytes decode; what is not finite in a block comes out as it is.
template <ReadableGgufType T>
[[nodiscard]] constexpr errc dequantize_gguf(std::span<const std::uint8_t> blocks, matrix_view<float> out) noexcept {
  if (std::is_constant_evaluated()) return gguf::dequantize<T, float>(blocks, out);
  return gguf::dequantize<T, gguf_lane>(blocks, out);
}

/// auto-round's parameters of w (RTN, or OPT-RTN with importance). `v` is empty or a rounding offset per weight.
template <AutoRoundGgufType T>
[[nodiscard]] constexpr errc search_gguf(matrix_view<const float> w, std::span<const float> importance, matrix_view<const float> v, gguf_variant variant,
                                         const gguf_parameters<float>& out) noexcept {
  if (std::is_constant_evaluated()) return gguf::search<T, float>(w, importance, v, variant, out);
  return gguf::search<T, gguf_lane>(w, importance, v, variant, out);
}

/// The weights that auto-round's parameters make of w; v as in search_gguf. `out` may be w itself.
template <AutoRoundGgufType T>
[[nodiscard]] constexpr errc qdq_gguf(matrix_view<const float> w, matrix_view<const float> v, gguf_variant variant,
                                      const gguf_parameters<const float>& parameters, matrix_view<float> out) noexcept {
  if (std::is_constant_evaluated()) return gguf::qdq<T, float>(w, v, variant, parameters, out);
  return gguf::qdq<T, gguf_lane>(w, v, variant, parameters, out);
}

/// auto-round's packer (ggml_quant) for weights w that already are what a reader shall see (fake-quantized), and the parameters that made them.
template <AutoRoundGgufType T>
[[nodiscard]] constexpr errc pack_gguf(matrix_view<const float> w, const gguf_parameters<const float>& parameters, std::span<std::uint8_t> blocks) noexcept {
  if (std::is_constant_evaluated()) return gguf::pack<T, float>(w, parameters, blocks);
  return gguf::pack<T, gguf_lane>(w, parameters, blocks);
}

/// auto-round's packer without parameters: super-block types search, replace w by what the parameters make of it, and pack that; blocks of 32
/// take their scale from the extreme value. The importance plays a part in the search only.
template <AutoRoundGgufType T>
[[nodiscard]] constexpr errc search_and_pack_gguf(matrix_view<const float> w, std::span<const float> importance, std::span<std::uint8_t> blocks) noexcept {
  if (std::is_constant_evaluated()) return gguf::search_and_pack<T, float>(w, importance, blocks);
  return gguf::search_and_pack<T, gguf_lane>(w, importance, blocks);
}

/// True if no scale of the blocks is infinite or NaN: what llama.cpp demands of a file before it loads it.
template <ReadableGgufType T>
[[nodiscard]] constexpr bool gguf_scales_are_finite(std::span<const std::uint8_t> blocks) noexcept {
  return gguf::scales_are_finite<T>(blocks);
}

/// All GGUF types with the vector instructions that this unit is compiled for. For the best ones that the machine has: ar/dispatch.hpp.
[[nodiscard]] inline std::span<const gguf_kernels> gguf_types() noexcept { return gguf::kernel_table<gguf_lane>(); }

/// The entry of `id` (a ggml type id), or null.
[[nodiscard]] inline const gguf_kernels* find_gguf(std::uint32_t id) noexcept {
  for (const gguf_kernels& k : gguf_types())
    if (k.id == id) return &k;
  return nullptr;
}

AR_END_TARGET
