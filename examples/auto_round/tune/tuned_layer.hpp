// One linear layer while it is tuned: its parameters, the best of them so far, and the passes over its rows. Knows nothing of blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ar/detail/tune_types.hpp"
#include "ar/errc.hpp"
#include "error.hpp"
#include "tune/layer.hpp"

namespace auto_round::tune {

/// The grid that a resolved scheme lies on, with the scale stored as `scale_type`; empty if the scheme cannot be tuned by this version.
std::optional<ar::tune_grid> grid_of(const ar::scheme_fields& scheme, ar::real scale_type);

/// The group size in values for a layer of `cols` inputs: -1 and anything longer than the row give the row.
std::size_t resolve_group_size(int group_size, std::size_t cols);

/// The smallest and the largest weight of each group of rows first_row .. first_row + w.rows - 1, with 0 between them, limited to `start`.
void find_ranges(ar::matrix_view<const float> w, std::size_t group_size, const range_start& start, std::size_t first_row, float* wmin, float* wmax);

/// Rows that share their groups: all for a scale of the whole tensor, those of a tile, or 1.
std::size_t rows_of_a_group(const ar::scheme_fields& scheme, std::size_t rows);

/// Sizes the parts of `out` that a layer on this grid has.
void size_output(const std::string& name, const ar::scheme_fields& scheme, const ar::tune_grid& grid, std::size_t rows, std::size_t cols,
                 std::size_t group_size, quantized_layer& out);
/// Where the rows from `first_row` on go.
ar::tune_output output_at(quantized_layer& out, const ar::tune_grid& grid, std::size_t group_size, std::size_t first_row);

/// The kernels of this machine; kept, because asking for the CPU's instruction sets costs microseconds on a virtual machine.
const ar::tune_kernels& tune_kernels();

struct step_options {
  float lr = 0, minmax_lr = 0;
  float momentum = 0;
  bool factors = true;  ///< tune min_scale and max_scale
};

/// What a search found before tuning; vectors are empty where there is nothing.
struct initial_values {
  std::vector<float> scale;               ///< [rows x groups], tune_layer::init_scale
  std::vector<float> minimum;             ///< [rows x groups], tune_layer::init_minimum
  std::vector<float> d_scale, d_minimum;  ///< [rows x super-blocks]: steps of frozen scales and minima
};

/// Where groups span rows, every row carries the extrema and the factors of its groups; the gradients of the rows add up, in the order of the rows.
class tuned_layer {
 public:
  struct storage {
    bool best = true;       ///< a second set of parameters, for the best iterate
    bool gradient = false;  ///< gradients of the parameters, for `accumulate` and momentum
    bool momentum = false;
    bool adam = false;      ///< steps of Adam
  };
  /// `weight` [rows x cols] must outlive the layer; grid, shape and initial values must fit together (ar::check).
  tuned_layer(std::string name, const ar::scheme_fields& scheme, const ar::tune_grid& grid, const float* weight, std::size_t rows, std::size_t cols,
              storage keep, const range_start& start = {}, initial_values initial = {});

  const ar::tune_grid& grid() const { return grid_; }
  const ar::scheme_fields& scheme() const { return scheme_; }
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  bool has_initial_scales() const { return !initial_.scale.empty(); }

  // The passes; rows may be split among threads in any way without a change in results.
  void fake_quantize(std::size_t first_row, std::size_t last_row, float* wq) const;
  void fake_quantize(std::size_t first_row, std::size_t last_row, std::uint16_t* wq) const;
  /// Moves the parameters against the signs of their gradients, grad = dL/dwq [rows x cols]. In one pass, without storage for gradients.
  void step(std::size_t first_row, std::size_t last_row, const float* grad, const step_options& options);
  /// Stores (`first`) or adds the gradients that belong to `grad`, in the reference's order for several micro-batches.
  void accumulate(std::size_t first_row, std::size_t last_row, const float* grad, bool first, bool factors);
  /// As step, from the stored gradients and with momentum.
  void step_stored(std::size_t first_row, std::size_t last_row, const step_options& options);

  /// Declares the current parameters the best so far. No copy: the next step writes into the other set.
  void mark_best() { best_ = current_; }
  /// Once before and once after the rows of a step are worked on.
  void begin_step();
  void end_step(const step_options& options);

  /// Sizes `out`; then `quantize` fills rows with the best parameters, or the current ones if none were marked.
  void begin_output(quantized_layer& out) const;
  void quantize(std::size_t first_row, std::size_t last_row, quantized_layer& out) const;

 private:
  struct parameters {
    std::vector<float> v, min_scale, max_scale;
  };
  ar::tune_layer view(int set) const;
  bool tunes_factors() const { return grid_.family != ar::tune_family::fixed_asymmetric && grid_.family != ar::tune_family::fixed_symmetric; }
  template <class F>
  void share_among_rows(std::vector<float>& x, const F& combine) const;
  void move_factors(std::size_t first_row, std::size_t last_row, const step_options& options);
  void move(std::vector<float> parameters::* which, std::size_t at, std::size_t n, float lr, float momentum, bool clamp);

  std::string name_;
  ar::scheme_fields scheme_;
  ar::tune_grid grid_;
  const float* weight_;
  std::size_t rows_, cols_, group_size_, groups_, band_;
  std::vector<float> wmin_, wmax_;
  initial_values initial_;
  parameters sets_[2];
  parameters gradient_, momentum_, square_;
  int current_ = 0, target_ = 0, best_ = -1, steps_ = 0;
  bool adam_ = false;
};

}  // namespace auto_round::tune
