// mlx_uint32: the words of MLX's affine quantization. Codes q[out x in] become weight[out x in * bits / 32], a bit stream along the inputs; MLX's
// own packing of 3, 5 and 6 bits into bytes is the same stream. 2, 3, 4, 5, 6 and 8 bits; a row is whole words, for 3, 5 and 6 bits a multiple of
// 32 codes. A weight is scale * q + bias; both are stored [out x groups]. MLX itself runs groups of 32, 64 and 128 only.
// Source: MLX 0.32.4 (quantize, dequantize); auto-round 0.16.1, export_to_mlx; equal byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"
#include "ar/detail/concepts.hpp"
#include "ar/detail/stream_rows.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

struct mlx_uint32 {
  static constexpr const char* name = "mlx_uint32";
  using word = std::uint32_t;
  static constexpr scale_order order = scale_order::rows_by_groups;
  static constexpr int group = 0;

  static constexpr bool has_bits(int bits) noexcept { return bits >= 2 && bits <= 8 && bits != 7; }
  static constexpr std::size_t packed_rows(std::size_t rows, std::size_t, int) noexcept { return rows; }
  static constexpr std::size_t packed_cols(std::size_t, std::size_t cols, int bits) noexcept {
    const std::size_t width = static_cast<std::size_t>(bits), unit = 32 % width == 0 ? 32 / width : 32;
    return cols % unit == 0 ? cols / unit * (unit * width / 32) : 0;
  }

  template <int Bits, class Moves>
  static constexpr void pack(matrix_view<const std::uint8_t> code, matrix_view<word> words) noexcept {
    Moves::template pack_rows<bits::natural_stream, Bits>(code, words);
  }
  template <int Bits, class Moves>
  static constexpr void unpack(matrix_view<const word> words, matrix_view<std::uint8_t> code) noexcept {
    Moves::template unpack_rows<bits::natural_stream, Bits>(words, code);
  }
};
static_assert(Codec<mlx_uint32>);

}  // namespace AR_ABI
}  // namespace ar
