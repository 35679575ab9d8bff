// Layers as a finished checkpoint stores them, on the way into another format: what their parameters can be turned into without another rounding.
#pragma once

#include <cstddef>
#include <span>

#include "tune/layer.hpp"

namespace auto_round::exporting {

/// Groups of a row.
std::size_t groups_of(const tune::quantized_layer& layer);

/// Zero points of a layer that has biases (the weight of code 0): -bias / scale, where that is nearly a number that the width has; else none are set. A group
/// of scale 0 whose bias is 0 gets the middle.
void find_zero_points(tune::quantized_layer& layer);

/// True for integers whose zero points are all 2^(bits-1), given as such or as biases.
bool is_symmetric(const tune::quantized_layer& layer);

/// The layer with groups of `size` columns, each with the parameters of the group it was part of. False if groups of the layer are no multiples of it.
bool split_groups(tune::quantized_layer& layer, std::size_t size);

/// The largest absolute difference, and whether there is any. +0 and -0 are the same value: no sum of products can tell them apart.
struct difference {
  bool any = false;
  double largest = 0;
};
difference compare(std::span<const float> a, std::span<const float> b);

}  // namespace auto_round::exporting
