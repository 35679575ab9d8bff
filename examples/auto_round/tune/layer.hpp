// What tuning hands to an exporter: one linear layer, quantized.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ar/scheme.hpp"

namespace auto_round::tune {

struct quantized_layer {
  std::string name;         ///< checkpoint name without ".weight"
  ar::scheme_fields scheme; ///< resolved
  std::size_t rows = 0, cols = 0;  ///< out_features, in_features
  std::vector<float> weight;       ///< dequantized, [rows x cols]; what the following blocks saw
  std::vector<std::uint8_t> code;  ///< unsigned codes 0..2^bits-1, [rows x cols]; integer types only
  std::vector<float> scale;        ///< [rows x groups]; K types: the scale of each sub-block, unrounded
  std::vector<float> zero_point;   ///< [rows x groups], asymmetric integers; empty for symmetric (2^(bits-1) throughout)
  std::vector<float> wmin;         ///< K types with minimum: [rows x groups]
  std::vector<float> d_scale, d_wmin;  ///< K types: steps of the super-block, [rows x superblocks]
};

}  // namespace auto_round::tune
