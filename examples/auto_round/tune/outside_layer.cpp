#include "tune/outside_layer.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "ar/tune.hpp"
#include "model/linalg.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

/// f(first row, last row) in parallel, in pieces of about 16384 weights.
template <class F>
void for_rows(const layer_plan& plan, const F& f) {
  const std::size_t step = std::max<std::size_t>(1, 16384 / plan.cols), pieces = ar::ceil_div(plan.rows, step);
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < pieces; ++i) f(i * step, std::min(plan.rows, (i + 1) * step));
}

linalg::operand matrix(const float* data, std::size_t rows, std::size_t cols) { return {data, rows, cols, cols, false}; }

class outside_loop {
 public:
  outside_loop(const layer_plan& plan, const outside_data& data, const signround_options& o)
      : plan_(plan),
        data_(data),
        seqlen_(static_cast<std::size_t>(data.set->seqlen)),
        at_once_(std::clamp<std::size_t>((std::size_t{8} << 20) / plan.rows, 16, 256)),
        sums_(o.batch_size * o.gradient_accumulate_steps != 1),
        factor_(o.enable_adam ? 2.0 : 2000.0),
        wq_(plan.rows * plan.cols),
        gradient_(wq_.size()) {}

  std::vector<float>& wq() { return wq_; }
  const std::vector<float>& gradient() const { return gradient_; }

  /// The loss of a sample with the weights wq, and its gradient.
  double sample(std::size_t index) {
    const std::size_t cols = plan_.cols, rows = plan_.rows;
    const double reduce = sums_ ? 1.0 : 1.0 / static_cast<double>(seqlen_ * rows);
    const float factor = static_cast<float>(factor_ * reduce);
    double sum = 0;
    std::vector<float> x(at_once_ * cols), target_x(at_once_ * cols), y(at_once_ * rows), target(at_once_ * rows);
    for (std::size_t first = 0; first < seqlen_; first += at_once_) {
      const std::size_t n = std::min(at_once_, seqlen_ - first);
      copy(*data_.rows, index, first, n, x);
      copy(*data_.floats, index, first, n, target_x);
      linalg::gemm_nt(matrix(x.data(), n, cols), matrix(wq_.data(), rows, cols), y.data(), rows);
      linalg::gemm_nt(matrix(target_x.data(), n, cols), matrix(data_.weight, rows, cols), target.data(), rows);
      for (std::size_t t = 0; t < n; ++t) {
        float* const p = y.data() + t * rows;
        if (data_.set->valid[index * seqlen_ + first + t] == 0) std::fill_n(p, rows, 0.0f);
        else sum += squared_error(p, target.data() + t * rows, rows, factor);
      }
      linalg::gemm_tn(matrix(y.data(), n, rows), matrix(x.data(), n, cols), gradient_.data(), cols, first != 0);
    }
    return sum * reduce;
  }

 private:
  void copy(const activations& from, std::size_t sample, std::size_t first, std::size_t n, std::vector<float>& to) {
    const float* const rows = from.row(sample, first * plan_.cols, n * plan_.cols, to.data());
    if (rows != to.data()) std::copy_n(rows, n * plan_.cols, to.data());
  }

  const layer_plan& plan_;
  const outside_data& data_;
  std::size_t seqlen_, at_once_;
  bool sums_;
  double factor_;
  std::vector<float> wq_, gradient_;
};

}  // namespace

result<quantized_layer> tune_outside(const layer_plan& plan, const outside_data& data, const signround_options& o, const tuning_events& events,
                                     block_result& summary) {
  if (!tunes_by_rows(plan.choice->scheme))
    return fail(error_kind::unsupported, "layers outside the blocks are tuned without quantized inputs and with groups inside rows only", {}, plan.name);
  const auto samples = static_cast<std::size_t>(data.set->rows()), seqlen = static_cast<std::size_t>(data.set->seqlen);
  const std::size_t drawn = std::min(samples, static_cast<std::size_t>(o.batch_size * o.gradient_accumulate_steps));
  tuned_layer::storage keep;
  keep.best = !o.not_use_best_mse;
  keep.gradient = true;
  keep.momentum = o.momentum != 0;
  keep.adam = o.enable_adam;
  tuned_layer layer(plan.name, plan.choice->scheme, plan.grid, data.weight, plan.rows, plan.cols, keep);
  outside_loop loop(plan, data, o);
  const int iters = static_cast<int>(o.iters);
  const double lr = o.lr.value_or(ar::default_learning_rate(iters, plan.choice->scheme.bits));
  ar::linear_schedule schedule(lr, iters), minmax_schedule(o.minmax_lr.value_or(lr), iters);
  const auto valid = static_cast<double>(data.set->valid_tokens(0, drawn * seqlen));
  double best = std::numeric_limits<float>::max();
  for (std::int64_t t = 0; t < o.iters; ++t) {
    const std::int32_t* const idx = data.draw();
    for_rows(plan, [&](std::size_t first, std::size_t last) { layer.fake_quantize(first, last, loop.wq().data()); });
    double total = 0;
    for (std::size_t i = 0; i < drawn; ++i) {
      total += loop.sample(static_cast<std::size_t>(idx[i])) / std::max(valid, 1.0);
      for_rows(plan, [&](std::size_t first, std::size_t last) { layer.accumulate(first, last, loop.gradient().data(), i == 0, o.enable_minmax_tuning); });
    }
    if (t == 0) summary.first_loss = total;
    summary.iterations = t + 1;
    if (events.on_iteration && !events.on_iteration(summary.first_block, t, total)) return fail(error_kind::interrupted, "interrupted while tuning");
    if (total < best) {
      best = total;
      summary.best_iteration = t;
      if (!o.not_use_best_mse) layer.mark_best();
    }
    summary.best_loss = o.not_use_best_mse ? total : best;
    if (t + 1 == o.iters || (!o.not_use_best_mse && o.dynamic_max_gap > 0 && t - summary.best_iteration >= o.dynamic_max_gap)) break;
    const step_options step{schedule.lr(), minmax_schedule.lr(), static_cast<float>(o.momentum), o.enable_minmax_tuning};
    layer.begin_step();
    for_rows(plan, [&](std::size_t first, std::size_t last) { layer.step_stored(first, last, step); });
    layer.end_step(step);
    schedule.advance();
    minmax_schedule.advance();
  }
  if (o.not_use_best_mse) summary.best_iteration = o.iters;
  quantized_layer out;
  layer.begin_output(out);
  for_rows(plan, [&](std::size_t first, std::size_t last) { layer.quantize(first, last, out); });
  return out;
}

}  // namespace auto_round::tune
