// What tuning hands to an exporter: one linear layer, quantized.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ar/numeric/real.hpp"
#include "ar/scheme.hpp"

namespace auto_round::tune {

/// Ranges that tuning starts from, smaller than those of the weights (AWQ's clip_as_init).
struct range_start {
  std::shared_ptr<const std::vector<std::uint16_t>> step;  ///< [rows x groups]: the range of a group times 1 - step / n; null: as it is
  int n = 20;
  bool symmetric = true;                                   ///< the range is that of the largest magnitude, both ways
};

struct quantized_layer {
  std::string name;         ///< checkpoint name without ".weight"
  ar::scheme_fields scheme; ///< resolved
  std::size_t rows = 0, cols = 0;  ///< out_features, in_features
  std::size_t first_row = 0;       ///< of a piece of a layer, whose rows these are
  std::vector<float> weight;       ///< dequantized, [rows x cols]; what the following blocks saw
  std::vector<std::uint8_t> code;  ///< codes as the library's data type stores them, [rows x cols]; integers: 0..2^bits-1; empty for K types
  std::vector<float> scale;        ///< [rows x groups], [1] for the whole tensor, [tile rows x tile columns]; K types: of each sub-block, unrounded
  std::vector<float> zero_point;   ///< [rows x groups], asymmetric integers; empty for symmetric (2^(bits-1) throughout)
  std::vector<float> wmin;         ///< K types with minimum: [rows x groups]
  std::vector<float> d_scale, d_wmin;  ///< K types: steps of the super-block, [rows x superblocks]
  float act_max = -1;                  ///< static scales of activations: the largest magnitude that they are made for; negative where there are none
  float global_scale = 0;              ///< types with a scale of the whole tensor (NVFP4): that scale; 0 for others and for a tensor of zeros

  /// Of layers that a finished checkpoint holds (convert); empty for layers that were quantized here.
  /// @{
  std::vector<float> bias;                 ///< [rows x groups]: the weight of code 0, which MLX, Q4_1 and Q5_1 store in place of a zero point
  std::vector<std::uint8_t> blocks;        ///< GGUF types: the blocks as they are, in the checkpoint's order of rows; K types have nothing else
  std::vector<std::int32_t> group;         ///< of each column, where columns do not lie in the order of their groups (desc_act)
  std::optional<ar::real> scale_type;      ///< what scales are stored in, where layouts leave a choice
  std::optional<float> tensor_factor;      ///< GGUF's scale of a whole tensor, the reciprocal of global_scale where both can be told
  std::optional<float> input_scale;        ///< the static scale of the inputs, in place of act_max
  /// @}
};

}  // namespace auto_round::tune
