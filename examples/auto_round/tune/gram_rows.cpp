#include "tune/gram_rows.hpp"

#include <algorithm>
#include <numeric>
#include <span>

#include "ar/tune.hpp"
#include "model/kernels.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

/// Grids whose groups have scales of their own, which may be any number.
bool rescales(ar::tune_family f) { return f == ar::tune_family::symmetric || f == ar::tune_family::asymmetric; }

}  // namespace

/// The cross term of these rows; null for none.
const float* gram_rows::cross_rows(const gram_layer& layer, std::size_t first, std::size_t n) {
  if (layer.cross == nullptr) return nullptr;
  const std::size_t cols = layer.cols;
  if (!layer.cross_inputs) return layer.cross + first * cols;
  const linalg::operand w{layer.weight + first * cols, n, cols, cols, false};
  cross_.resize(n * cols);
  linalg::gemm_nn(w, {layer.cross, cols, cols, cols, false}, cross_.data(), cols, false, linalg::work::own);
  return cross_.data();
}

/// The product of the change of the weights, which is made from wq_, and the Gram matrix.
void gram_rows::multiply(const gram_layer& layer, std::size_t n, const float* w) {
  const std::size_t cols = layer.cols;
  if (layer.bf16) kernels::subtract(wq_.data(), w, n * cols, change_bf16_.data());
  else kernels::subtract(wq_.data(), w, n * cols, change_.data());
  const linalg::operand change{layer.bf16 ? static_cast<const void*>(change_bf16_.data()) : change_.data(), n, cols, cols, layer.bf16};
  layer.gram->multiply(change, gradient_.data(), cols, false);
}

/// The loss of wq_.
double gram_rows::loss(const gram_layer& layer, std::size_t n, const float* w, const float* cross) {
  const std::size_t cols = layer.cols;
  multiply(layer, n, w);
  double sum = 0;
  for (std::size_t r = 0; r < n; ++r) {
    const std::size_t at = r * cols;
    sum += static_cast<double>(kernels::quadratic_loss(wq_.data() + at, w + at, cross == nullptr ? nullptr : cross + at, cols, gradient_.data() + at));
  }
  return sum;
}

/// One row of `weight` [cols], which is row r of the piece, with the parameters of a set.
ar::tune_layer gram_rows::row(const gram_layer& layer, const float* weight, std::size_t r, std::size_t set) const {
  const parameters& p = sets_[set];
  const std::size_t cols = layer.cols, at = r * cols, g = r * ar::ceil_div(cols, layer.group_size);
  return {1, cols, layer.group_size, weight, wmin_.data() + g, wmax_.data() + g, p.v.data() + at, p.min_scale.data() + g, p.max_scale.data() + g,
          layer.init_scale == nullptr ? nullptr : layer.init_scale + g, layer.init_minimum == nullptr ? nullptr : layer.init_minimum + g};
}

/// wq_ of the current parameters.
void gram_rows::round(const gram_layer& layer, std::size_t n, const float* w) {
  const std::size_t cols = layer.cols;
  for (std::size_t r = 0; r < n; ++r) tune_kernels().fake_quantize(layer.grid, row(layer, w + r * cols, r, now_[r]), 0, 1, wq_.data() + r * cols);
}

/// low_ and high_: the ends of each group's grid, which are what far greater weights are rounded to.
void gram_rows::find_ends(const gram_layer& layer, std::size_t n) {
  const std::size_t cols = layer.cols, groups = ar::ceil_div(cols, layer.group_size);
  float *const far = gradient_.data(), *const end = far + cols;
  for (std::size_t r = 0; r < n; ++r)
    for (const bool up : {false, true}) {
      for (std::size_t i = 0; i < cols; ++i) {
        const std::size_t g = r * groups + i / layer.group_size;
        const float reach = 1024.0f * std::max(-wmin_[g], wmax_[g]);
        far[i] = up ? reach : -reach;
      }
      tune_kernels().fake_quantize(layer.grid, row(layer, far, r, 0), 0, 1, end);
      for (std::size_t g = 0; g < groups; ++g) (up ? high_ : low_)[r * groups + g] = end[g * layer.group_size];
    }
}

/// Moves rounded weights to better numbers of their grids, and scales with them, and leaves them in wq_; returns their loss.
double gram_rows::descend(gram_layer& layer, std::size_t n, const float* w, const float* cross, const gram_options& o) {
  const std::size_t cols = layer.cols, groups = ar::ceil_div(cols, layer.group_size);
  low_.resize(n * groups);
  high_.resize(n * groups);
  const bool factors = o.factors && rescales(layer.grid.family);
  if (factors) search_factors(layer, n, w);
  round(layer, n, w);
  find_ends(layer, n);
  const descent_rows rows{n, cols, layer.group_size, w, low_.data(), high_.data(), cross, layer.gram_matrix};
  constexpr int last_sweeps = 2;  // with scales as they are stored
  int sweeps = o.sweeps;
  if (sweeps > last_sweeps && factors) {
    layer.grid.factor_max = 2.0f;  // scales that come out of a sum may be greater than the range's
    factor_.resize(n * groups);
    descent_.run(layer.grid, rows, sweeps - last_sweeps, wq_.data(), factor_.data());
    parameters& p = sets_[0];
    for (std::size_t g = 0; g < n * groups; ++g) {
      p.min_scale[g] *= factor_[g];
      p.max_scale[g] *= factor_[g];
    }
    find_ends(layer, n);
    sweeps = last_sweeps;
  }
  descent_.run(layer.grid, rows, sweeps, wq_.data());
  return loss(layer, n, w, cross);
}

/// Sets the factors of the first iterate to those of a few that give the least squared error, each input weighted by its own element of the Gram matrix.
void gram_rows::search_factors(const gram_layer& layer, std::size_t n, const float* w) {
  const std::size_t cols = layer.cols, groups = ar::ceil_div(cols, layer.group_size);
  std::vector<float> diagonal(cols);
  for (std::size_t i = 0; i < cols; ++i) diagonal[i] = layer.gram_matrix[i * cols + i];
  std::vector<float> best(n * groups), factor(n * groups, 1.0f);
  parameters& p = sets_[0];
  const float step = layer.grid.bits <= 3 ? 0.04f : 0.02f;
  for (int k = 0; k < 16; ++k) {
    const float f = 1.0f - static_cast<float>(k) * step;
    std::ranges::fill(p.min_scale, f);
    std::ranges::fill(p.max_scale, f);
    for (std::size_t r = 0; r < n; ++r) {
      float* const q = wq_.data() + r * cols;
      tune_kernels().fake_quantize(layer.grid, row(layer, w + r * cols, r, 0), 0, 1, q);
      for (std::size_t g = 0; g < groups; ++g) {
        float error = 0;
        for (std::size_t c = g * layer.group_size; c < std::min(cols, (g + 1) * layer.group_size); ++c) {
          const float e = q[c] - w[r * cols + c];
          error += diagonal[c] * e * e;
        }
        if (k != 0 && !(error < best[r * groups + g])) continue;
        best[r * groups + g] = error;
        factor[r * groups + g] = f;
      }
    }
  }
  p.min_scale = factor;
  p.max_scale = factor;
}

/// SignRound from the current parameters on; `best_` becomes the set of parameters to keep of each row. Returns their loss.
double gram_rows::iterate(const gram_layer& layer, std::size_t n, const float* w, const float* cross, const gram_options& o) {
  const std::size_t cols = layer.cols, groups = ar::ceil_div(cols, layer.group_size);
  const int iters = static_cast<int>(o.iters);
  ar::linear_schedule lr(o.lr, iters), minmax_lr(o.minmax_lr, iters);
  best_loss_.assign(n, 0.0);
  for (int t = 0; t < iters; ++t) {
    round(layer, n, w);
    multiply(layer, n, w);
    const bool last = t + 1 == iters;
    for (std::size_t r = 0; r < n; ++r) {
      const std::size_t at = r * cols;
      const auto loss = static_cast<double>(kernels::quadratic_loss(wq_.data() + at, w + at, cross == nullptr ? nullptr : cross + at, cols, gradient_.data() + at));
      if (o.keep_best ? t == 0 || loss < best_loss_[r] : last) {
        best_loss_[r] = loss;
        best_[r] = now_[r];
      }
      if (last) continue;
      // A step of the best iterate goes to the other set.
      const unsigned char from = now_[r], to = o.keep_best && best_[r] == from ? 1 - from : from;
      parameters& p = sets_[to];
      tune_kernels().step(layer.grid, row(layer, w + at, r, from), 0, 1, gradient_.data() + at, o.factors, lr.lr(), minmax_lr.lr(),
                          {p.v.data() + at, p.min_scale.data() + r * groups, p.max_scale.data() + r * groups});
      now_[r] = to;
    }
    if (last || (o.go_on && t % 64 == 63 && !o.go_on(std::accumulate(best_loss_.begin(), best_loss_.end(), 0.0)))) break;
    lr.advance();
    minmax_lr.advance();
  }
  return std::accumulate(best_loss_.begin(), best_loss_.end(), 0.0);
}

gram_loss gram_rows::run(const gram_layer& asked, std::size_t first, std::size_t n, const gram_options& o, quantized_layer& out) {
  gram_layer layer = asked;
  const std::size_t cols = layer.cols, groups = ar::ceil_div(cols, layer.group_size), size = n * cols;
  const float* const w = layer.weight + first * cols;
  if (layer.init_scale != nullptr) layer.init_scale += first * groups;
  if (layer.init_minimum != nullptr) layer.init_minimum += first * groups;
  const bool descends = o.sweeps > 0;
  for (parameters& p : std::span(sets_, descends ? 1 : 2)) {
    p.v.assign(size, 0.0f);
    p.min_scale.assign(n * groups, 1.0f);
    p.max_scale.assign(n * groups, 1.0f);
  }
  now_.assign(n, 0);
  best_.assign(n, 0);
  wmin_.resize(n * groups);
  wmax_.resize(n * groups);
  find_ranges({w, n, cols}, layer.group_size, layer.start, first, wmin_.data(), wmax_.data());
  wq_.resize(size);
  gradient_.resize(std::max(size, 2 * cols));
  if (layer.bf16) change_bf16_.resize(size);
  else change_.resize(size);
  const float* const cross = cross_rows(layer, first, n);

  gram_loss total;
  round(layer, n, w);
  total.first = loss(layer, n, w, cross);
  if (descends && o.go_on && !o.go_on(total.first)) return total;
  total.kept = descends ? descend(layer, n, w, cross, o) : iterate(layer, n, w, cross, o);
  // Numbers of the grid are their own rounding.
  const float* const from = descends ? wq_.data() : w;
  for (std::size_t r = 0; r < n; ++r)
    tune_kernels().quantize(layer.grid, row(layer, from + r * cols, r, best_[r]), 0, 1, output_at(out, layer.grid, layer.group_size, first + r));
  return total;
}

}  // namespace auto_round::tune
