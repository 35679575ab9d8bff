// One linear layer against a quadratic loss: by coordinate descent, or by SignRound. With d = wq - w for a row of the weight, the squared error of the layer's output over
// the calibration set is d H d^T + 2 d . c + const, H = x^T x being the Gram matrix of its inputs and c the row of the cross term between the
// error that the float weight leaves and the inputs. The gradient 2 (d H + c) is exact and costs the same for any number of tokens, and rows do not
// depend on each other: a piece of rows runs through all its iterations while it is in cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "ar/detail/tune_types.hpp"
#include "model/linalg.hpp"
#include "tune/gram_descent.hpp"
#include "tune/layer.hpp"

namespace auto_round::tune {

struct gram_options {
  std::int64_t iters = 200;      ///< of SignRound, where there are no sweeps
  double lr = 0, minmax_lr = 0;  ///< at the first iteration; both decay linearly to zero
  bool factors = true;           ///< tune min_scale and max_scale; sweeps: search for ranges and move them
  bool keep_best = true;         ///< of each row, the iterate with the lowest loss; else the last
  int sweeps = 0;                ///< of coordinate descent (tune/gram_descent.hpp), instead of iterations
  std::function<bool(double kept)> go_on = {};  ///< may be empty; asked every 64 iterations and before sweeps, with the loss so far: false ends the run, and its output is of no use
};

/// The loss of a layer [rows x cols], summed over its rows and without its constant.
struct gram_loss {
  double first = 0;  ///< rounded to nearest
  double kept = 0;   ///< what is kept
};

/// What the loss is made of; everything must outlive the passes.
struct gram_layer {
  const float* weight = nullptr;              ///< [rows x cols]
  std::size_t rows = 0, cols = 0, group_size = 0;
  ar::tune_grid grid;
  range_start start = {};
  const float* init_scale = nullptr;          ///< fixed grids: [rows x groups], tune_layer::init_scale and init_minimum
  const float* init_minimum = nullptr;
  const linalg::prepared* gram = nullptr;     ///< H as the right operand, in the element type `bf16` says
  const float* gram_matrix = nullptr;         ///< H in float, maybe damped; only sweeps read it
  bool bf16 = false;
  const float* cross = nullptr;               ///< null for none; [rows x cols], or, if `cross_inputs`, e^T x [cols x cols] for an error e of the
  bool cross_inputs = false;                  ///< layer's inputs, from which c = weight * (e^T x)
};

class gram_rows {
 public:
  /// Rows that are worked on together.
  static constexpr std::size_t piece = 64;

  /// Tunes rows first .. first + n - 1, n <= piece, and writes them to `out`, which size_output has prepared. Single-threaded; buffers are kept.
  gram_loss run(const gram_layer& layer, std::size_t first, std::size_t n, const gram_options& options, quantized_layer& out);

 private:
  struct parameters {
    std::vector<float> v, min_scale, max_scale;
  };
  const float* cross_rows(const gram_layer& layer, std::size_t first, std::size_t n);
  void multiply(const gram_layer& layer, std::size_t n, const float* w);
  ar::tune_layer row(const gram_layer& layer, const float* weight, std::size_t r, std::size_t set) const;
  void round(const gram_layer& layer, std::size_t n, const float* w);
  double iterate(const gram_layer& layer, std::size_t n, const float* w, const float* cross, const gram_options& o);
  void search_factors(const gram_layer& layer, std::size_t n, const float* w);
  void find_ends(const gram_layer& layer, std::size_t n);
  double loss(const gram_layer& layer, std::size_t n, const float* w, const float* cross);
  double descend(gram_layer& layer, std::size_t n, const float* w, const float* cross, const gram_options& o);

  parameters sets_[2];  // of each row one set is current and one, maybe the same, the best so far
  std::vector<unsigned char> now_, best_;
  std::vector<float> wmin_, wmax_, wq_, change_, gradient_, cross_, low_, high_, factor_;
  std::vector<std::uint16_t> change_bf16_;
  std::vector<double> best_loss_;
  gram_descent descent_;
};

}  // namespace auto_round::tune
