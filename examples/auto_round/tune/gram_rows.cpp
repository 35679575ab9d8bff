#include "tune/gram_rows.hpp"

#include <algorithm>

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
  for (parameters* p : {&now_, &best_}) {
    p->v.assign(size, 0.0f);
    p->min_scale.assign(n * groups, 1.0f);
    p->max_scale.assign(n * groups, 1.0f);
  }
  wmin_.resize(n * groups);
  wmax_.resize(n * groups);
  static_cast<void>(ar::group_extrema({w, n, cols}, layer.group_size, wmin_.data(), wmax_.data()));  // the group size is positive
  wq_.resize(size);
  gradient_.resize(size);
  if (layer.bf16) change_bf16_.resize(size);
  else change_.resize(size);
  best_loss_.assign(n, 0.0);

  const float* const cross = cross_rows(layer, first, n);

  const auto view = [&](const parameters& p) -> ar::tune_layer {
    return {n, cols, layer.group_size, w, wmin_.data(), wmax_.data(), p.v.data(), p.min_scale.data(), p.max_scale.data(), nullptr};
  };
  const int iters = static_cast<int>(o.iters);
  ar::linear_schedule lr(o.lr, iters), minmax_lr(o.minmax_lr, iters);
  gram_loss total;
  for (int t = 0; t < iters; ++t) {
    k.fake_quantize(layer.grid, view(now_), 0, n, wq_.data());
    if (layer.bf16) kernels::subtract(wq_.data(), w, size, change_bf16_.data());
    else kernels::subtract(wq_.data(), w, size, change_.data());
    multiply(layer, n);
    const bool last = t + 1 == iters;
    for (std::size_t r = 0; r < n; ++r) {
      const std::size_t at = r * cols;
      const auto loss = static_cast<double>(kernels::quadratic_loss(wq_.data() + at, w + at, cross == nullptr ? nullptr : cross + at, cols, gradient_.data() + at));
      if (t == 0) total.first += loss;
      const bool keep = o.keep_best ? t == 0 || loss < best_loss_[r] : last;
      if (!keep) continue;
      best_loss_[r] = loss;
      std::copy_n(now_.v.data() + at, cols, best_.v.data() + at);
      std::copy_n(now_.min_scale.data() + r * groups, groups, best_.min_scale.data() + r * groups);
      std::copy_n(now_.max_scale.data() + r * groups, groups, best_.max_scale.data() + r * groups);
    }
    if (last) break;
    k.step(layer.grid, view(now_), 0, n, gradient_.data(), o.factors, lr.lr(), minmax_lr.lr(),
           {now_.v.data(), now_.min_scale.data(), now_.max_scale.data()});
    lr.advance();
    minmax_lr.advance();
  }
  for (double loss : best_loss_) total.kept += loss;
  k.quantize(layer.grid, view(best_), 0, n, output_at(out, layer.grid, layer.group_size, first));
  return total;
}

}  // namespace auto_round::tune
