#include "tune/gram_rows.hpp"

#include <algorithm>
#include <numeric>

#include "ar/tune.hpp"
#include "model/kernels.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {

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

/// The product of the change of the weights and the Gram matrix.
void gram_rows::multiply(const gram_layer& layer, std::size_t n) {
  const std::size_t cols = layer.cols;
  const linalg::operand change{layer.bf16 ? static_cast<const void*>(change_bf16_.data()) : change_.data(), n, cols, cols, layer.bf16};
  layer.gram->multiply(change, gradient_.data(), cols, false);
}

gram_loss gram_rows::run(const gram_layer& layer, std::size_t first, std::size_t n, const gram_options& o, quantized_layer& out) {
  const std::size_t cols = layer.cols, groups = ar::ceil_div(cols, layer.group_size), size = n * cols;
  const float* const w = layer.weight + first * cols;
  const ar::tune_kernels& k = tune_kernels();
  for (parameters& p : sets_) {
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
  gradient_.resize(size);
  if (layer.bf16) change_bf16_.resize(size);
  else change_.resize(size);
  best_loss_.assign(n, 0.0);

  const float* const cross = cross_rows(layer, first, n);

  const auto row = [&](std::size_t r, std::size_t set) -> ar::tune_layer {
    const parameters& p = sets_[set];
    const std::size_t at = r * cols, g = r * groups;
    return {1, cols, layer.group_size, w + at, wmin_.data() + g, wmax_.data() + g, p.v.data() + at, p.min_scale.data() + g, p.max_scale.data() + g, nullptr};
  };
  const int iters = static_cast<int>(o.iters);
  ar::linear_schedule lr(o.lr, iters), minmax_lr(o.minmax_lr, iters);
  gram_loss total;
  for (int t = 0; t < iters; ++t) {
    for (std::size_t r = 0; r < n; ++r) k.fake_quantize(layer.grid, row(r, now_[r]), 0, 1, wq_.data() + r * cols);
    if (layer.bf16) kernels::subtract(wq_.data(), w, size, change_bf16_.data());
    else kernels::subtract(wq_.data(), w, size, change_.data());
    multiply(layer, n);
    const bool last = t + 1 == iters;
    for (std::size_t r = 0; r < n; ++r) {
      const std::size_t at = r * cols;
      const auto loss = static_cast<double>(kernels::quadratic_loss(wq_.data() + at, w + at, cross == nullptr ? nullptr : cross + at, cols, gradient_.data() + at));
      if (t == 0) total.first += loss;
      if (o.keep_best ? t == 0 || loss < best_loss_[r] : last) {
        best_loss_[r] = loss;
        best_[r] = now_[r];
      }
      if (last) continue;
      // A step of the best iterate goes to the other set.
      const unsigned char from = now_[r], to = o.keep_best && best_[r] == from ? 1 - from : from;
      parameters& p = sets_[to];
      k.step(layer.grid, row(r, from), 0, 1, gradient_.data() + at, o.factors, lr.lr(), minmax_lr.lr(),
             {p.v.data() + at, p.min_scale.data() + r * groups, p.max_scale.data() + r * groups});
      now_[r] = to;
    }
    if (last) break;
    if (o.go_on && t % 64 == 63 && !o.go_on(std::accumulate(best_loss_.begin(), best_loss_.end(), 0.0))) break;
    lr.advance();
    minmax_lr.advance();
  }
  for (double loss : best_loss_) total.kept += loss;
  for (std::size_t r = 0; r < n; ++r) k.quantize(layer.grid, row(r, best_[r]), 0, 1, output_at(out, layer.grid, layer.group_size, first + r));
  return total;
}

}  // namespace auto_round::tune
