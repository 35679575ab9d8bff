// Importance of the input columns of linear layers: how large the activations are that a column of the weight meets. Searches weight their errors
// with it (an importance matrix, "imatrix").
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ar/errc.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "model/linalg.hpp"
#include "text/calibration.hpp"
#include "tune/expert_tokens.hpp"

namespace auto_round::tune {

/// Of one linear layer.
struct column_importance {
  std::vector<float> sum;      ///< [in_features], the sum over all tokens of the squared activation
  std::int64_t sequences = 0;  ///< that went into it
  std::int64_t tokens = 0;     ///< likewise
  /// sum / sequences, which is what auto-round weights with. (llama.cpp divides by the tokens; a common factor changes no search.)
  std::vector<float> per_sequence() const;
  /// Adds the rows x [tokens x cols] of a layer's input. errc::non_finite leaves the sum as it was.
  ar::errc add(const float* x, std::size_t tokens, std::size_t cols);
};
using importance_matrix = std::map<std::string, column_importance>;  ///< by checkpoint name without ".weight"

/// What a search of `layer` weights its columns with; empty, which is all alike, for layers that are missing and for experts that no token chose.
std::vector<float> importance_of(const importance_matrix& matrix, const std::string& layer);

class maxima_collector;
class pass_file;

struct importance_options {
  std::int64_t batch_size = 8;                           ///< sequences at a time; only memory and the order of sums depend on it
  linalg::precision precision = linalg::precision::f32;  ///< of the matrix products
  bool bf16_activations = false;                         ///< keep activations between blocks in bfloat16
  bool rounded = false;                                  ///< compute as the original does with a model in bfloat16, where model::rounded_block covers it
  bool hides_last = false;                               ///< there: nobody attends to a sample's last token, as if samples came as token ids
  std::string spill_folder = {};                         ///< they lie in a scratch file there; empty: in memory
  bool sums = true;                                      ///< false: the pass is made for `maxima` alone, the matrix stays empty
  maxima_collector* maxima = nullptr;                    ///< watches the same pass; null: nobody does
  expert_tokens* experts = nullptr;                      ///< filled, but for blocks of a pass that goes on; null: nobody counts
  pass_file* kept = nullptr;                             ///< where the pass lies between blocks, and from where one that was cut short goes on; null: nowhere
  std::function<void(std::int64_t blocks)> on_known = {};  ///< a pass goes on behind so many blocks. May be empty
  /// After each block, with its number; false ends the pass with error_kind::interrupted. May be empty.
  std::function<bool(std::int64_t block)> on_block = {};
};

/// Runs the float model over the calibration set, block by block, and sums up what each linear layer of the blocks reads. All tokens count.
/// error_kind::input from reading weights and for activations that are not finite.
result<importance_matrix> collect_importance(const model::weight_source& source, const text::calibration_set& set, const importance_options& options);

}  // namespace auto_round::tune
