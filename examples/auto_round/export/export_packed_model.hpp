// Reading back Hugging Face folders, float and packed. A format says how its configuration maps layers to packed tensors (packing), and a layer how
// its tensors become weights (packed_layer); everything else about a folder is the same for all.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "export/export_format.hpp"
#include "export/export_quantized_inputs.hpp"

namespace auto_round::exporting {

std::string describe_int_scheme(const ar::scheme_fields& scheme);  ///< "W4 g128 sym", "W2 per row asym"

/// What says how the weights of a folder are stored.
struct found_quantization {
  std::string method;  ///< "auto-round", "gptq", "awq", "mlx", "compressed-tensors", ... in lower case; empty: weights are floats
  io::json config;     ///< the object that says so
  std::string file;    ///< where it was found
};
/// quantization_config of config.json, or the `quantization` of MLX, or, beside packed tensors, quantize_config.json (AutoGPTQ) or quant_config.json
/// (AutoAWQ) of older checkpoints. error_kind::input if one of them cannot be read.
result<found_quantization> find_quantization(const io::checkpoint_dir& dir);

/// A matrix that is stored packed. Refers to the folder, which outlives it.
class packed_layer {
 public:
  virtual ~packed_layer() = default;
  virtual std::string type() const = 0;                                ///< for people: "W4 g128 sym"
  virtual const std::vector<const io::tensor_ref*>& parts() const = 0; ///< its tensors, codes first
  virtual result<void> read(std::span<float> weight) const = 0;        ///< [rows x cols]
  virtual result<tune::quantized_layer> stored() const = 0;            ///< as stored_model::stored_layer; name and finiteness are the caller's
  virtual result<model::packed_pointer> packed() const = 0;            ///< the same weight in memory of its own, packed
};

/// What a quantization configuration means.
class packing {
 public:
  virtual ~packing() = default;
  virtual std::string name() const = 0;  ///< "auto_round (GPTQ words, auto_round:auto_gptq)"
  /// The matrix `layer`.weight of this shape, if the folder has packed tensors for it; null if not. error_kind::input if they contradict the
  /// configuration, unsupported if they cannot be read.
  virtual result<std::unique_ptr<packed_layer>> find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows, std::uint64_t cols) const = 0;
  /// Whether the configuration says that a layer inside the blocks is packed; nothing if it leaves that open.
  virtual result<std::optional<bool>> promises(const std::string& layer) const = 0;
  /// What a layer does to its inputs.
  virtual result<input_scheme> inputs(const io::checkpoint_dir& /*dir*/, const std::string& /*layer*/) const { return input_scheme{}; }
  /// Tensors of this name exist in packed layers only.
  virtual bool is_part(std::string_view tensor) const = 0;
};

/// Opens a folder whose quantization is by one of `methods`; a null pointer if it is not. The folder given to `make` outlives the packing.
using packing_maker = std::function<result<std::unique_ptr<packing>>(const found_quantization& found, const io::checkpoint_dir& dir, const model::model_spec& spec)>;
result<std::unique_ptr<stored_model>> open_packed_folder(const std::string& path, std::span<const std::string_view> methods, const packing_maker& make);
/// A folder with config.json and float weights; null if it is no model folder, or a quantized one.
result<std::unique_ptr<stored_model>> open_float_folder(const std::string& path);
/// The same without the blocks behind the first ones: its configuration says so few, and the tensors of the others are not there. error_kind::usage if
/// the model has fewer, unsupported if its weights are no floats.
result<std::unique_ptr<stored_model>> open_first_blocks(const std::string& path, std::int64_t blocks);

}  // namespace auto_round::exporting
