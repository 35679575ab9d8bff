// From a packed checkpoint and formats to what happens to each of its tensors: layers keep the schemes that they have, and a format holds them or is
// refused, before anything is written.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "export/export_format.hpp"
#include "plan.hpp"
#include "tune/layer.hpp"

namespace auto_round::plan {

/// A conversion that is ready to start. Refers to the source, which must outlive it. Jobs decide for themselves, unlike those of quantization.
struct conversion {
  std::vector<std::unique_ptr<exporting::stored_model>> views;  ///< what the jobs read, in their order
  run_plan plan;
  std::vector<std::vector<std::string>> expanded;  ///< by job: weights outside the blocks that are packed in the source and floats in the output
  std::vector<std::vector<std::string>> dropped;   ///< by job: scales of attention that the format has no words for
  std::vector<std::string> layers;                 ///< names of all packed weights, blocks in order
};

/// Every format of `formats` (as parse_formats gives them) must hold every packed layer inside the blocks with its width, groups and kind; `fake` holds
/// all. Packed heads and embeddings that have no place become floats, in a type that holds them as they are.
/// error_kind::unsupported, naming the layer, with the formats that hold it; input for damaged layers; usage if nothing is packed.
result<conversion> make_conversion(const exporting::stored_model& source, const std::vector<std::string>& formats, std::uint64_t max_shard_bytes);

/// The layer `weight` of the source as the formats of a plan take it: codes and parameters as they are stored, or the dequantized weight alone where all
/// formats are `fake`.
result<tune::quantized_layer> read_stored(const exporting::stored_model& source, const std::string& weight, const run_plan& plan);

/// That layer with scheme and groups of the decision. error_kind::unsupported if its groups cannot be split into the format's.
result<tune::quantized_layer> adapted(const tune::quantized_layer& layer, const exporting::layer_decision& decision);

/// The checkpoint says that layers read quantized rows, and the output has no word for that.
inline bool loses_inputs(const tune::quantized_layer& converted, const tune::quantized_layer& stored) {
  return stored.scheme.act_bits.value_or(16) < 16 && converted.scheme.act_bits.value_or(16) >= 16;
}

}  // namespace auto_round::plan
