// Importance matrices between the program, which knows layers by their checkpoint names, and files, which know GGUF tensors.
#pragma once

#include <string>

#include "error.hpp"
#include "model/spec.hpp"
#include "tune/importance.hpp"

namespace auto_round::exporting {

/// Reads a file of llama.cpp (either form). Every linear layer of the blocks must have an entry of its number of columns; entries for other tensors are not
/// looked at. Experts are rows of the entry of their tensor. error_kind::input otherwise, naming the entry.
result<tune::importance_matrix> read_importance(const std::string& path, const model::model_spec& spec);

/// Writes one. `seqlen` is the length of the calibration samples, `dataset` the text they came from.
result<void> write_importance(const std::string& path, const model::model_spec& spec, const tune::importance_matrix& importance, std::int64_t seqlen,
                              const std::string& dataset);

}  // namespace auto_round::exporting
