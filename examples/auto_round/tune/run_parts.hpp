// What the ways of tuning share: checks, the first activations, a layer's grid.
#pragma once

#include <string>

#include "ar/errc.hpp"
#include "tune/activations.hpp"
#include "tune/signround.hpp"

namespace auto_round::tune {

/// Ranges of the options and names of the layers, before any work.
result<void> check_run(const model::model_spec& spec, const text::calibration_set& set, const layer_choices& choices, const signround_options& options);

/// The input of the first block: rows of the embedding for every sample, looked up for about 64 MiB at a time.
result<void> embed_calibration(const model::weight_source& source, const text::calibration_set& set, bool bf16, activations& out);

/// The grid of a layer with the policies of the run; error_kind::unsupported if there is none.
result<ar::tune_grid> grid_for(const std::string& name, const layer_choice& choice, const signround_options& options);

/// error_kind::unsupported, naming the layer, unless ar::check agreed.
result<void> check_shape(const std::string& name, ar::errc e);

}  // namespace auto_round::tune
