// The packed layers of a checkpoint, found by the names, types and shapes of its tensors alone: for readers that know no model class. Source: auto-round
// 0.16.1, model_free.py, which takes the same forms (model-free.md 7), and compressed-tensors, whose INT8 and FP8 are read too.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "export/export_packed_model.hpp"
#include "io/checkpoint_dir.hpp"

namespace auto_round::exporting {

/// A matrix [rows x cols] that is stored as codes and scales.
struct source_layer {
  std::string name;                      ///< without ".weight"
  std::uint64_t rows = 0, cols = 0;
  ar::scheme_fields scheme;              ///< of the weights alone
  std::unique_ptr<packed_layer> weight;  ///< refers to the folder
};

class source_layers {
 public:
  /// error_kind::input for parts without the others and for shapes that contradict each other, unsupported for layers that were rotated or cannot be read.
  static result<source_layers> find(const io::checkpoint_dir& dir);

  bool empty() const { return layers_.empty(); }
  /// The layer whose codes a tensor holds, or null.
  const source_layer* of_codes(std::string_view tensor) const;
  /// True if a tensor belongs to a layer that is found, as its codes or otherwise.
  bool is_part(std::string_view tensor) const { return parts_.contains(tensor); }

 private:
  std::map<std::string, source_layer, std::less<>> layers_;  ///< by the name of the tensor of the codes
  std::set<std::string, std::less<>> parts_;
};

/// If a layer holds the codes and powers of two, or E5M3 scales, of an MX or NVFP4_E5M3 scheme already: the layer, with a scale for each of the scheme's
/// groups. Nothing if it does not.
result<std::optional<tune::quantized_layer>> carried_over(const source_layer& layer, const ar::scheme_fields& scheme);

}  // namespace auto_round::exporting
