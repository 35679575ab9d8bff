// What a rotation leaves in a checkpoint: an object in config.json, buffers beside the layers, and signs. Written and read as auto-round 0.16.1 does
// (its loaders find what they need), except that random matrices are stored as the bits of their signs unless the reference's form is asked for.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/checkpoint_dir.hpp"
#include "io/json.hpp"
#include "model/rotation.hpp"
#include "model/spec.hpp"
#include "transform/rotation.hpp"

namespace auto_round::transform {

struct stored_tensor {
  io::tensor_decl tensor;
  std::vector<std::byte> data;
};

struct stored_rotation {
  std::string key;  ///< "spinquant_config" or "rotation_config", in quantization_config or, without one, in config.json itself
  io::json config;
  std::vector<stored_tensor> tensors;
};

/// `matrices`: random matrices of R1 and R4 are written as the reference writes them, n x n bytes for each layer, instead of n bits once.
stored_rotation store_rotation(const model::model_spec& spec, const rotation_options& options, const rotation_places& places, bool matrices = false);

/// A rotation as a finished checkpoint describes it.
struct found_rotation {
  rotation_options options;
  std::shared_ptr<const model::block_rotations> online;  ///< null: everything is part of the weights
  std::map<std::string, std::vector<std::int8_t>> signs;
};

/// The rotation of a checkpoint, if it has one. error_kind::input where config.json and tensors are incomplete or contradict each other or the model:
/// without its online parts a rotated model computes nonsense, and nobody would notice.
result<std::optional<found_rotation>> find_rotation(const io::checkpoint_dir& dir, const model::model_spec& spec);

/// Signs as found; error_kind::unsupported for a key that was not stored.
sign_source found_signs(const found_rotation& found);

/// A request: the name "quarot", "spinquant", "default", "hadamard", "random_hadamard" or "quarot_hadamard", or an object with fields of
/// RotationConfig or SpinQuantConfig, all optional. `blocks`: the data type is an MX or NVFP4 one, which decides between families where the request
/// leaves it open. error_kind::usage for unknown fields and values.
result<rotation_options> parse_rotation(const io::json& request, bool blocks);

}  // namespace auto_round::transform
