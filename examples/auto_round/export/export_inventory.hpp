// The tensors that a model must have, with their shapes: checked before any work, on what we read and on what we wrote.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/checkpoint_dir.hpp"
#include "model/spec.hpp"

namespace auto_round::exporting {

bool is_float(io::dtype t);  ///< a type that weights of a float checkpoint have: F64, F32, F16, BF16

struct required_tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  bool linear = false;  ///< the weight of a linear layer, which may be stored packed
};

/// Everything that the forward pass reads: embedding, norms, linear weights and biases, head (unless tied).
std::vector<required_tensor> required_tensors(const model::model_spec& spec);

/// error_kind::input if config.json (`file`) calls for far more layers than there are tensors: to be asked before anything is made for each of them, as a
/// few digits can call for billions.
result<void> check_count(std::uint64_t tensors, const model::model_spec& spec, const std::string& file);

/// error_kind::input naming file and tensor if a required tensor is missing, has another shape or no floating type; those that are `packed` are not
/// looked at.
result<void> check_inventory(const io::checkpoint_dir& source, const model::model_spec& spec, const std::function<bool(const std::string&)>& packed = {});

/// error_kind::input naming file and tensor if a floating tensor holds NaN or infinity. Looks at bits only, in parallel.
result<void> check_finite(const io::checkpoint_dir& source, const io::tensor_ref& tensor);

std::string shape_text(const std::vector<std::uint64_t>& shape);  ///< "[256, 1024]"

}  // namespace auto_round::exporting
