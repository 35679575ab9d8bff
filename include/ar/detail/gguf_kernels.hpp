// The run-time table of GGUF types, as plain data: facts, and functions over views. What each function does and returns is said in ar/gguf.hpp.
#pragma once

#include <cstdint>
#include <span>

#include "ar/detail/gguf_block.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace ar {

/// Which variant of auto-round's parameters to search. The first two are the original's of Q4_1 and Q5_1; other types have only one.
struct gguf_variant {
  bool bf16 = false;        ///< round scale (and zero point) as the original does for bfloat16 weights; costs accuracy
  bool reciprocal = false;  ///< its OPT-RTN variant, which multiplies by 1 / scale
  /// Q2_K to Q5_K with importance: a value counts by importance * sqrt(sigma + x^2), and scales of a super-block are improved by sweeps, as in ggml's
  /// quantizer. The original has neither.
  bool magnitude = false;
};

struct gguf_kernels {
  const char* name;              ///< "q4_k"
  std::uint32_t id;              ///< ggml type id
  std::uint32_t block_elements;  ///< 32, 64, 128 or 256
  std::uint32_t block_bytes;
  std::uint32_t group_size;      ///< columns that share a scale
  bool superblock;               ///< has d_scale
  bool asymmetric;               ///< has an offset
  bool read_only;                ///< quantize does nothing and returns errc::unsupported

  errc (*quantize)(matrix_view<const float> w, std::span<const float> importance, std::span<std::uint8_t> blocks) noexcept;
  errc (*dequantize)(std::span<const std::uint8_t> blocks, matrix_view<float> out) noexcept;
  bool (*scales_are_finite)(std::span<const std::uint8_t> blocks) noexcept;
  // auto-round's flavor; null for types that auto-round does not make
  errc (*search)(matrix_view<const float> w, std::span<const float> importance, matrix_view<const float> v, gguf_variant variant,
                 const gguf_parameters<float>& out) noexcept;
  errc (*qdq)(matrix_view<const float> w, matrix_view<const float> v, gguf_variant variant, const gguf_parameters<const float>& parameters,
              matrix_view<float> out) noexcept;
  errc (*pack)(matrix_view<const float> w, const gguf_parameters<const float>& parameters, std::span<std::uint8_t> blocks) noexcept;
  errc (*search_and_pack)(matrix_view<const float> w, std::span<const float> importance, std::span<std::uint8_t> blocks) noexcept;
};

}  // namespace ar
