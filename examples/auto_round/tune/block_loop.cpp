#include "tune/block_loop.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "tune/stopwatch.hpp"

namespace auto_round::tune {
namespace {

/// f(block, layer index, first row, last row) over all rows of all tuned layers, in parallel; pieces of about 16384 weights.
template <class F>
void for_rows(std::vector<tuned_block>& unit, const F& f) {
  struct piece {
    tuned_block* block;
    std::size_t layer, first, last;
  };
  std::vector<piece> pieces;
  for (tuned_block& block : unit)
    for (std::size_t i = 0; i < block.layers.size(); ++i) {
      if (block.layers[i] == nullptr) continue;
      const std::size_t rows = block.layers[i]->rows(), step = std::max<std::size_t>(1, 16384 / block.layers[i]->cols());
      for (std::size_t r = 0; r < rows; r += step) pieces.push_back({&block, i, r, std::min(rows, r + step)});
    }
#pragma omp parallel for schedule(static)
  for (std::size_t k = 0; k < pieces.size(); ++k) f(*pieces[k].block, pieces[k].layer, pieces[k].first, pieces[k].last);
}

void fake_quantize(std::vector<tuned_block>& unit) {
  for_rows(unit, [](tuned_block& b, std::size_t i, std::size_t first, std::size_t last) {
    if (!b.quantized.linears_bf16[i].empty()) b.layers[i]->fake_quantize(first, last, b.quantized.linears_bf16[i].data());
    else b.layers[i]->fake_quantize(first, last, b.quantized.linears[i].data());
  });
}

}  // namespace

/// The rates of layers of one width of bits, which gives the default.
struct block_loop::layer_step {
  int bits = 0;
  step_options options;
  ar::linear_schedule lr, minmax_lr;
};

block_loop::block_loop(const model::model_spec& spec, const text::calibration_set& calibration, const signround_options& options,
                       const tuning_events& events)
    : spec_(spec),
      set_(calibration),
      o_(options),
      events_(events),
      samples_(static_cast<std::size_t>(calibration.rows())),
      seqlen_(static_cast<std::size_t>(calibration.seqlen)),
      hidden_(static_cast<std::size_t>(spec.hidden_size)),
      batch_(std::min(static_cast<std::size_t>(options.batch_size), samples_)),
      random_(static_cast<std::uint64_t>(options.seed)) {}

/// Momentum needs gradients in memory; so do several micro-batches where each one's scale gradients are rounded on their own.
bool block_loop::stores_gradients() const {
  return o_.momentum != 0 || (o_.gradient_accumulate_steps > 1 && o_.scale_gradient == ar::scale_gradient::reference);
}

/// What tuned layers must keep in memory for these options.
tuned_layer::storage block_loop::storage() const {
  tuned_layer::storage keep;
  keep.best = !o_.not_use_best_mse;
  keep.gradient = stores_gradients();
  keep.momentum = o_.momentum != 0;
  return keep;
}

void block_loop::prepare(const std::vector<layer_plan>& layers, tuned_block& block) {
  const bool narrow = o_.precision == linalg::precision::bf16;
  const std::size_t count = layers.size();
  block.layers.resize(count);
  block.quantized.bias = block.floats.bias;
  block.quantized.input_norm = block.floats.input_norm;
  block.quantized.post_attention_norm = block.floats.post_attention_norm;
  block.quantized.rotations = block.floats.rotations;
  block.quantized.linears.resize(count);
  block.quantized.linears_bf16.resize(count);
  block.gradients.resize(count);
  block.gradient_pointers.assign(count, nullptr);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t n = block.floats.linears[i].size();
    const layer_plan& l = layers[i];
    if (l.choice == nullptr) {
      block.quantized.linears[i] = block.floats.linears[i];
      continue;
    }
    block.layers[i] = std::make_unique<tuned_layer>(l.name, l.choice->scheme, l.grid, block.floats.linears[i].data(), l.rows, l.cols, storage(), l.choice->start);
    if (narrow) block.quantized.linears_bf16[i].resize(n);
    else block.quantized.linears[i].resize(n);
    block.gradients[i].resize(n);
    block.gradient_pointers[i] = block.gradients[i].data();
  }
}

void block_loop::propagate(std::vector<tuned_block>& unit, bool quantized, const activations& in, activations& out) {
  std::vector<float> x(batch_ * sample_size());
  for (std::size_t first = 0; first < samples_; first += batch_) {
    const std::size_t n = std::min(batch_, samples_ - first);
    in.load(first, n, x.data());
    for (std::size_t b = 0; b < unit.size(); ++b)
      runner(0).forward(quantized ? unit[b].quantized : unit[b].floats, x.data(), n, seqlen_, x.data());
    out.store(first, n, x.data());
  }
}

model::block_runner& block_loop::runner(std::size_t i) {
  while (runners_.size() <= i) runners_.emplace_back(spec_, o_.precision);
  return runners_[i];
}

float* block_loop::buffer(std::vector<std::vector<float>>& list, std::size_t b, std::size_t n) {
  if (list.size() <= b) list.resize(b + 1);
  list[b].resize(n * sample_size());
  return list[b].data();
}

result<void> block_loop::run(std::vector<tuned_block>& unit, const activations& input, const activations& target, std::size_t samples,
                             block_result& summary, stage_seconds& seconds) {
  const std::size_t global_batch = std::min(samples, batch_ * static_cast<std::size_t>(o_.gradient_accumulate_steps)), batch = std::min(batch_, samples);
  std::vector<std::int32_t> order(samples);
  ar::batch_sampler sampler(random_, order.data(), samples, global_batch);
  std::vector<float> x(batch * sample_size()), pred(batch * sample_size());
  std::vector<layer_step> steps;
  for (const tuned_block& block : unit)
    for (const auto& layer : block.layers) {
      if (layer == nullptr) continue;
      const int bits = layer->scheme().bits;
      const double lr = o_.lr.value_or(ar::default_learning_rate(static_cast<int>(o_.iters), bits));
      const int iters = static_cast<int>(o_.iters);
      if (std::ranges::find(steps, bits, &layer_step::bits) == steps.end())
        steps.push_back({bits, {0, 0, static_cast<float>(o_.momentum), o_.enable_minmax_tuning}, {lr, iters}, {o_.minmax_lr.value_or(lr * o_.minmax_lr_share), iters}});
    }

  double best = std::numeric_limits<float>::max();
  for (std::int64_t t = 0; t < o_.iters; ++t) {
    stopwatch watch;
    const std::int32_t* idx = sampler.next();
    double valid = 0;
    for (std::size_t i = 0; i < global_batch; ++i)
      for (std::size_t k = 0; k < seqlen_; ++k) valid += set_.valid[static_cast<std::size_t>(idx[i]) * seqlen_ + k] != 0;
    fake_quantize(unit);
    double total = 0;
    for (std::size_t first = 0; first < global_batch; first += batch) {
      const std::size_t n = std::min(batch, global_batch - first);
      for (std::size_t i = 0; i < n; ++i) input.load(static_cast<std::size_t>(idx[first + i]), 1, x.data() + i * sample_size());
      const float* in = x.data();
      for (std::size_t b = 0; b < unit.size(); ++b) {
        float* out = b + 1 == unit.size() ? pred.data() : between(b, n);
        runner(b).forward_train(unit[b].quantized, in, n, seqlen_, out);
        in = out;
      }
      watch.lap(seconds.forward);
      total += loss(idx + first, n, target, pred.data()) / std::max(valid, 1.0);
      float* dy = pred.data();
      for (std::size_t b = unit.size(); b-- > 0;) {
        float* dx = b == 0 ? nullptr : between_gradient(b, n);
        const bool add = first != 0 && !stores_gradients();
        runner(b).backward(unit[b].quantized, dy, unit[b].gradient_pointers, add, dx);
        dy = dx;
      }
      watch.lap(seconds.backward);
      if (stores_gradients()) {
        for_rows(unit, [&](tuned_block& b, std::size_t i, std::size_t r0, std::size_t r1) {
          b.layers[i]->accumulate(r0, r1, b.gradients[i].data(), first == 0, o_.enable_minmax_tuning);
        });
        watch.lap(seconds.step);
      }
    }
    if (t == 0) summary.first_loss = total;
    summary.iterations = t + 1;
    if (events_.on_iteration && !events_.on_iteration(summary.first_block, t, total)) return fail(error_kind::interrupted, "interrupted while tuning");

    const bool better = total < best;
    if (better) {
      best = total;
      summary.best_iteration = t;
    }
    if (o_.not_use_best_mse) {
      summary.best_loss = total;
      summary.best_iteration = o_.iters;
      if (t + 1 == o_.iters) break;  // the parameters of the last forward are kept; a step would not be seen by any
    } else {
      summary.best_loss = best;
      if (better)
        for (tuned_block& block : unit)
          for (auto& layer : block.layers)
            if (layer != nullptr) layer->mark_best();
      if (t + 1 == o_.iters) break;
      if (o_.dynamic_max_gap > 0 && t - summary.best_iteration >= o_.dynamic_max_gap) break;
    }
    step(unit, steps);
    watch.lap(seconds.step);
  }
  return {};
}

void block_loop::step(std::vector<tuned_block>& unit, std::vector<layer_step>& steps) {
  for (layer_step& s : steps) {
    s.options.lr = s.lr.lr();
    s.options.minmax_lr = s.minmax_lr.lr();
  }
  for (tuned_block& block : unit)
    for (auto& layer : block.layers)
      if (layer != nullptr) layer->begin_step();
  for_rows(unit, [&](tuned_block& b, std::size_t i, std::size_t first, std::size_t last) {
    const step_options& o = std::ranges::find(steps, b.layers[i]->scheme().bits, &layer_step::bits)->options;
    if (stores_gradients()) b.layers[i]->step_stored(first, last, o);
    else b.layers[i]->step(first, last, b.gradients[i].data(), o);
  });
  for (tuned_block& block : unit)
    for (auto& layer : block.layers)
      if (layer != nullptr) layer->end_step();
  for (layer_step& s : steps) {
    s.lr.advance();
    s.minmax_lr.advance();
  }
}

/// Squared error of the valid tokens against the targets of samples idx[0..n): its mean over all elements, or its sum with gradient
/// accumulation. Turns pred into dL/dpred of 1000 times that.
double block_loop::loss(const std::int32_t* idx, std::size_t n, const activations& target, float* pred) {
  const double reduce = o_.gradient_accumulate_steps == 1 ? 1.0 / (static_cast<double>(n) * static_cast<double>(sample_size())) : 1.0;
  const float factor = static_cast<float>(2000.0 * reduce);
  token_loss_.assign(n * seqlen_, 0.0);
#pragma omp parallel
  {
    std::vector<float> wide(o_.bf16_activations ? hidden_ : 0);
#pragma omp for schedule(static)
    for (std::size_t token = 0; token < n * seqlen_; ++token) {
      const std::size_t sample = static_cast<std::size_t>(idx[token / seqlen_]), position = token % seqlen_;
      float* p = pred + token * hidden_;
      if (set_.valid[sample * seqlen_ + position] == 0) {
        std::fill_n(p, hidden_, 0.0f);
        continue;
      }
      token_loss_[token] = squared_error(p, target.row(sample, position * hidden_, hidden_, wide.data()), hidden_, factor);
    }
  }
  double sum = 0;
  for (double x : token_loss_) sum += x;
  return sum * reduce;
}

std::vector<quantized_layer> block_loop::quantize(std::vector<tuned_block>& unit) {
  std::vector<quantized_layer> layers;
  std::vector<std::size_t> index;  // of each tuned layer, in the order of the unit
  for (tuned_block& block : unit)
    for (auto& layer : block.layers) {
      index.push_back(layers.size());
      if (layer == nullptr) continue;
      layer->begin_output(layers.emplace_back());
    }
  for_rows(unit, [&](tuned_block& b, std::size_t i, std::size_t first, std::size_t last) {
    const std::size_t block = static_cast<std::size_t>(&b - unit.data());
    b.layers[i]->quantize(first, last, layers[index[block * b.layers.size() + i]]);
  });
  // What the next blocks see is what is stored.
  for (std::size_t b = 0; b < unit.size(); ++b)
    for (std::size_t i = 0; i < unit[b].layers.size(); ++i) {
      if (unit[b].layers[i] == nullptr) continue;
      const std::vector<float>& weight = layers[index[b * unit[b].layers.size() + i]].weight;
      if (unit[b].quantized.linears_bf16[i].empty()) unit[b].quantized.linears[i] = weight;
      else linalg::to_bf16(weight.data(), weight.size(), unit[b].quantized.linears_bf16[i].data());
    }
  return layers;
}

}  // namespace auto_round::tune
