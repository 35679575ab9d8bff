// The two searches of AWQ for one mapping and one layer: factors for channels, and ranges for groups. The model comes in as a callable that measures
// how far its output is off; nothing here knows what a block is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "ar/awq.hpp"
#include "ar/scheme.hpp"
#include "error.hpp"

namespace auto_round::transform {

/// What quantizes the candidates: plain rounding, OPT-RTN's search for each of them, or the initial scale of SignRound's extended algorithm.
enum class search_quantizer { rtn, opt_rtn, init_scale };

/// out = the weights that a reader of the quantized w would see. Of the same shape; out may be w. `importance`: [columns] weights of squared errors for
/// quantizers that search, or empty.
using fake_quantizer = std::function<result<void>(ar::matrix_view<const float> w, std::span<const float> importance, ar::matrix_view<float> out)>;

/// The fake quantizer of a scheme's weights, in float with scales in half precision as the reference searches with (in float where OPT-RTN looks for
/// them). Uses all threads; results do not depend on their number. error_kind::unsupported if there is none for the scheme.
result<fake_quantizer> make_fake_quantizer(const ar::scheme_fields& scheme, search_quantizer how);

/// A layer that a mapping balances.
struct balance_layer {
  ar::matrix_view<const float> weight;
  const fake_quantizer* quantizer = nullptr;
  ar::real format = ar::real::f32;  ///< what candidates are rounded to
  std::span<const float> importance{};  ///< sums of squared inputs by column, in the units of `weight`, for a quantizer that searches; or empty
};

/// Columns of a weight that share factors: columns [i * head, (i + 1) * head) use those of head i / tied. tied 1: each column has its own.
struct tied_columns {
  std::size_t tied = 1, head = 0;
  std::size_t factor_of(std::size_t column) const { return tied == 1 ? column : column / head / tied * head + column % head; }
};

/// The statistic of the stacked weights, one number for each column; `group_size` as in the first layer's scheme.
result<std::vector<float>> weight_statistic(std::span<const balance_layer> layers, int group_size);

/// Statistics of tied columns: the mean of activations, the largest of weights.
std::vector<float> tie_mean(const std::vector<float>& x_mean, const tied_columns& tie);
std::vector<float> tie_largest(const std::vector<float>& w_mean, const tied_columns& tie);
/// One factor for each column.
std::vector<float> spread(const std::vector<float>& factors, std::size_t columns, const tied_columns& tie);

/// out[layer] = [Q([w * s]) / s] of each layer, s one factor for each column: its weight as it will be read, in the units of the unscaled one.
result<void> candidate_weights(std::span<const balance_layer> layers, std::span<const float> s, std::vector<std::vector<float>>& out);

/// The error of the parent's output with these weights, one for each layer, in place of its own; `s` are the factors of their columns, by which what the
/// layers read will be divided.
using output_error = std::function<result<double>(std::span<const std::vector<float>> weights, std::span<const float> s)>;

struct factor_choice {
  std::vector<float> factors;  ///< before they are spread
  ar::awq::candidate point;
  std::size_t index = 0;       ///< in the grid
  double loss = 0;
  std::vector<double> losses;  ///< of all points
};

/// Tries the grid; the first of the best wins. Empty if no loss is a finite number. `x_mean` and `w_mean` are tied already; w_mean may be empty if
/// `duo` is off. error_kind::input if a weight is not finite; what `measure` says.
result<std::optional<factor_choice>> search_factors(std::span<const balance_layer> layers, const std::vector<float>& x_mean,
                                                    const std::vector<float>& w_mean, const tied_columns& tie, ar::awq::duo_scaling duo, int n_grid,
                                                    const output_error& measure);

struct clip_options {
  int n_grid = 20;           ///< at least 1
  double max_shrink = 0.5;   ///< between 0 and 1
  bool symmetric = true;     ///< ranges from -hi to hi
  bool reference = false;    ///< groups whose error is above 1e9 are not clipped, as in the original
};

/// Which rows of calibration inputs a search looks at: each `step`-th, so that about `most` are left of `rows`.
inline std::size_t sample_step(std::size_t rows, std::size_t most) { return rows / most > 1 ? rows / most : 1; }

/// step[rows x groups]: by which factor (ar::awq::clip_factor) the range of each group of w is best multiplied, given x[tokens x cols]. The error of a
/// group is that of its own part of the output. A range is never made wider.
result<std::vector<std::uint16_t>> search_clips(ar::matrix_view<const float> w, int group_size, ar::matrix_view<const float> x, const fake_quantizer& quantizer,
                                                const clip_options& options);

/// w limited to the ranges that search_clips found, in place; bounds are rounded to `format`. `lo` and `hi`, unless null, receive them unrounded.
result<void> apply_clips(ar::matrix_view<float> w, int group_size, std::span<const std::uint16_t> step, const clip_options& options, ar::real format,
                         std::vector<float>* lo = nullptr, std::vector<float>* hi = nullptr);

}  // namespace auto_round::transform
