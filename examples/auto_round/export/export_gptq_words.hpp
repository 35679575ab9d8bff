// One linear layer in the GPTQ family's 32-bit words: what auto_round checkpoints hold. Bits are packed by ar/pack.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "tune/layer.hpp"

namespace auto_round::exporting {

/// Shapes of a layer with N rows and K columns: qweight [K*bits/32, N], qzeros [G, N*bits/32], scales [G, N] in half precision, G = ceil(K / group).
struct gptq_shape {
  std::size_t rows = 0, cols = 0, groups = 0;
  int bits = 0;
  std::size_t group_size = 0;  ///< columns of a group; the last group may be shorter
  bool zero_minus_one = false; ///< v1: stored zero point is z - 1

  std::size_t qweight_rows() const { return cols * static_cast<std::size_t>(bits) / 32; }
  std::size_t qzeros_cols() const { return rows / 32 * static_cast<std::size_t>(bits); }
};
/// v1 for symmetric schemes, v2 for asymmetric ones. N and K must be multiples of 32.
gptq_shape gptq_shape_of(const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols);

struct gptq_tensors {
  std::vector<std::uint32_t> qweight, qzeros;
  std::vector<std::uint16_t> scales;  ///< half precision bits
};
/// error_kind::internal if codes or zero points do not fit the width.
result<gptq_tensors> pack_gptq(const tune::quantized_layer& layer);

/// weight[N x K] = scale * (q - z) in float, from the words of a file.
result<void> unpack_gptq(const gptq_shape& shape, std::span<const std::uint32_t> qweight, std::span<const std::uint32_t> qzeros,
                         std::span<const std::uint16_t> scales, std::span<float> weight);

/// The weight that unpack_gptq() must give for this layer, computed without packing: scales rounded to half precision, zero points as stored.
std::vector<float> stored_weight(const tune::quantized_layer& layer);

}  // namespace auto_round::exporting
