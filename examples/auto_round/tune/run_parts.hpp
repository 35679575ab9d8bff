// What the ways of tuning share: checks, the first activations, what becomes of a block's layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ar/detail/tune_types.hpp"
#include "model/block.hpp"
#include "tune/activations.hpp"
#include "tune/signround.hpp"

namespace auto_round::tune {

/// Ranges of the options and names of the layers, before any work.
result<void> check_run(const model::model_spec& spec, const text::calibration_set& set, const layer_choices& choices, const signround_options& options);

/// The input of the first block: rows of the embedding for every sample, looked up for about 64 MiB at a time.
result<void> embed_calibration(const model::weight_source& source, const text::calibration_set& set, bool bf16, activations& out);

/// What becomes of a linear layer of a block; it stays in float if `choice` is null.
struct layer_plan {
  std::string name;
  const layer_choice* choice = nullptr;
  ar::tune_grid grid;  // with the policies of the run
  std::size_t rows = 0, cols = 0, group_size = 0;
};

/// The layers of block `index`, in the order of model_spec::linears; error_kind::unsupported, naming the layer, if its scheme has no tuned grid or does
/// not fit its shape.
result<std::vector<layer_plan>> plan_layers(const model::model_spec& spec, std::int64_t index, const layer_choices& choices, const signround_options& options);

/// The same for one layer [rows x cols]; without a choice, or with one of 16 bits, it stays in float.
result<layer_plan> plan_layer(const std::string& name, std::size_t rows, std::size_t cols, const layer_choices& choices, const signround_options& options);

/// Gives the grids of a block's layers the scales of their whole tensors, where the type has one, shared by layers that engines fuse.
void set_global_scales(const model::model_spec& spec, const model::block_weights& weights, bool compat, std::vector<layer_plan>& layers);

/// The layers of a recorded unit, handed out in the order in which it holds them.
class recorded_layers {
 public:
  explicit recorded_layers(const recorded_block& unit) : unit_(unit) {}
  /// The next one, which must be that of `plan`; error_kind::internal if the record is another model's.
  result<const quantized_layer*> next(const layer_plan& plan);

 private:
  const recorded_block& unit_;
  std::size_t next_ = 0;
};

/// True for layers whose rows can be tuned one by one, which gram and hybrid need.
bool groups_lie_in_rows(const ar::scheme_fields& scheme);
/// True if their inputs are not quantized either, as the head's must not.
bool tunes_by_rows(const ar::scheme_fields& scheme);

}  // namespace auto_round::tune
