#include "tune/block_loop.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "tune/initial_scales.hpp"
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

void add_to(std::vector<float>& sum, const std::vector<float>& x, bool first) {
  if (first || sum.empty()) sum = x;
  else
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += x[i];
}

void add_vectors(const model::vector_gradients& d, bool first, model::vector_gradients& sum) {
  add_to(sum.input_norm, d.input_norm, first);
  add_to(sum.post_attention_norm, d.post_attention_norm, first);
  for (std::size_t i = 0; i < sum.bias.size(); ++i) add_to(sum.bias[i], d.bias[i], first);
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

/// Momentum and Adam need gradients in memory; so do several micro-batches where each one's scale gradients are rounded on their own.
bool block_loop::stores_gradients() const {
  return o_.momentum != 0 || o_.enable_adam || (o_.gradient_accumulate_steps > 1 && o_.scale_gradient == ar::scale_gradient::reference);
}

/// What tuned layers must keep in memory for these options.
tuned_layer::storage block_loop::storage() const {
  tuned_layer::storage keep;
  keep.best = !o_.not_use_best_mse;
  keep.gradient = stores_gradients();
  keep.momentum = o_.momentum != 0;
  keep.adam = o_.enable_adam;
  return keep;
}

result<void> block_loop::prepare(std::vector<layer_plan>& layers, tuned_block& block, std::int64_t block_index,
                                 const std::vector<column_importance>& importance, std::vector<initial_values> given) {
  const bool narrow = o_.precision == linalg::precision::bf16;
  const std::size_t count = layers.size();
  block.layers.resize(count);
  block.quantized = block.floats.without_linears();
  block.quantized.linears_bf16.resize(count);
  block.gradients.resize(count);
  block.gradient_pointers.assign(count, nullptr);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t n = block.floats.linears[i].size();
    layer_plan& l = layers[i];
    if (l.choice == nullptr) {
      block.quantized.linears[i] = block.floats.linears[i];
      continue;
    }
    initial_values initial;
    if (i < given.size()) {
      initial = std::move(given[i]);
    } else if (o_.enable_alg_ext) {
      auto found = search_initial(l, block.floats.linears[i].data(), i < importance.size() ? importance[i].sum : std::vector<float>(), o_.compat);
      if (!found) return forward_error(found);
      initial = std::move(*found);
    }
    block.layers[i] = std::make_unique<tuned_layer>(l.name, l.choice->scheme, l.grid, block.floats.linears[i].data(), l.rows, l.cols, storage(), l.choice->start,
                                                    std::move(initial));
    if (narrow) block.quantized.linears_bf16[i].resize(n);
    else block.quantized.linears[i].resize(n);
    block.gradients[i].resize(n);
    block.gradient_pointers[i] = block.gradients[i].data();
  }
  if (o_.enable_norm_bias_tuning) {
    for_each_vector(spec_, layers, block_index, block, [&](const std::string& name, std::vector<float>& value, std::vector<float>& gradient, int bits) {
      if (!value.empty()) block.vectors.push_back({name, &value, &gradient, bits, tuned_vector(value)});
    });
  }
  return {};
}

/// The filter of a runner is that of the block that it runs: none for blocks whose layers read float rows.
void block_loop::quantize_inputs(model::block_runner& runner, const tuned_block& block, bool train) const {
  input_quantizer* const inputs = block.inputs.get();
  if (inputs == nullptr) return runner.set_input_filter({});
  const auto filter = [inputs](int linear, float* x, std::size_t tokens) { inputs->forward(linear, x, tokens); };
  if (!train) return runner.set_input_filter(filter);
  runner.set_input_filter(filter, [inputs](int linear, const float* x, float* d, std::size_t first, std::size_t n) { inputs->backward(linear, x, d, first, n); });
}

void block_loop::propagate(std::vector<tuned_block>& unit, bool quantized, const activations& in, activations* out, const block_hook& hook,
                           std::vector<std::vector<std::uint64_t>>* experts) {
  std::vector<float> x(batch_ * sample_size());
  for (std::size_t first = 0; first < samples_; first += batch_) {
    const std::size_t n = std::min(batch_, samples_ - first);
    in.load(first, n, x.data());
    for (std::size_t b = 0; b < unit.size(); ++b) {
      if (quantized) quantize_inputs(runner(0), unit[b], false);
      else runner(0).set_input_filter({});
      model::block_runner::input_hook sees;
      if (hook) sees = [&](int linear, const float* rows, std::size_t tokens) { hook(b, linear, rows, tokens); };
      runner(0).count_expert_tokens(experts != nullptr ? &(*experts)[b] : nullptr);
      runner(0).forward(quantized ? unit[b].quantized : unit[b].floats, x.data(), n, seqlen_, x.data(), sees);
      runner(0).count_expert_tokens(nullptr);
    }
    if (out != nullptr) out->store(first, n, x.data());
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
  const auto add_rate = [&](int bits) {
    if (std::ranges::find(steps, bits, &layer_step::bits) != steps.end()) return;
    const int iters = static_cast<int>(o_.iters);
    const double lr = o_.lr.value_or(ar::default_learning_rate(iters, bits));
    steps.push_back({bits, {0, 0, static_cast<float>(o_.momentum), o_.enable_minmax_tuning}, {lr, iters}, {o_.minmax_lr.value_or(lr), iters}});
  };
  for (const tuned_block& block : unit) {
    for (const auto& layer : block.layers)
      if (layer != nullptr) add_rate(layer->scheme().bits);
    for (const auto& v : block.vectors) add_rate(v.bits);
  }

  const bool outliers = drops_outliers(unit);
  double best = std::numeric_limits<float>::max();
  for (std::int64_t t = 0; t < o_.iters; ++t) {
    stopwatch watch;
    const std::int32_t* idx = sampler.next();
    double valid = 0;
    for (std::size_t i = 0; i < global_batch; ++i)
      for (std::size_t k = 0; k < seqlen_; ++k) valid += set_.valid[static_cast<std::size_t>(idx[i]) * seqlen_ + k] != 0;
    fake_quantize(unit);
    apply_vectors(unit);
    double total = 0;
    for (std::size_t first = 0; first < global_batch; first += batch) {
      const std::size_t n = std::min(batch, global_batch - first);
      for (std::size_t i = 0; i < n; ++i) input.load(static_cast<std::size_t>(idx[first + i]), 1, x.data() + i * sample_size());
      const float* in = x.data();
      for (std::size_t b = 0; b < unit.size(); ++b) {
        float* out = b + 1 == unit.size() ? pred.data() : between(b, n);
        quantize_inputs(runner(b), unit[b], true);
        runner(b).forward_train(unit[b].quantized, in, n, seqlen_, out);
        in = out;
      }
      watch.lap(seconds.forward);
      total += (outliers ? loss_without_outliers(idx + first, n, target, pred.data()) : loss(idx + first, n, target, pred.data())) / std::max(valid, 1.0);
      float* dy = pred.data();
      for (std::size_t b = unit.size(); b-- > 0;) {
        float* dx = b == 0 ? nullptr : between_gradient(b, n);
        const bool add = first != 0 && !stores_gradients();
        // Gradients of vectors add up over micro-batches in any case.
        model::vector_gradients vectors;
        runner(b).backward(unit[b].quantized, dy, unit[b].gradient_pointers, add, dx, {}, unit[b].vectors.empty() ? nullptr : &vectors);
        if (!unit[b].vectors.empty()) add_vectors(vectors, first == 0, unit[b].vector_gradients);
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
        for (tuned_block& block : unit) {
          for (auto& layer : block.layers)
            if (layer != nullptr) layer->mark_best();
          for (auto& v : block.vectors) v.tuned.mark_best();
          if (block.inputs != nullptr) block.inputs->mark_best();
        }
      if (t + 1 == o_.iters) break;
      if (o_.dynamic_max_gap > 0 && t - summary.best_iteration >= o_.dynamic_max_gap) break;
    }
    step(unit, steps, static_cast<int>(t));
    watch.lap(seconds.step);
  }
  return {};
}

void block_loop::step(std::vector<tuned_block>& unit, std::vector<layer_step>& steps, int t) {
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
  for (tuned_block& block : unit) {
    for (auto& layer : block.layers)
      if (layer != nullptr) layer->end_step(std::ranges::find(steps, layer->scheme().bits, &layer_step::bits)->options);
    for (auto& v : block.vectors) v.tuned.step(*v.gradient, std::ranges::find(steps, v.bits, &layer_step::bits)->options.lr, static_cast<float>(o_.momentum),
                                               o_.enable_adam, t + 1);
    if (block.inputs != nullptr && o_.enable_minmax_tuning) block.inputs->step(steps.front().options.minmax_lr);
  }
  for (layer_step& s : steps) {
    s.lr.advance();
    s.minmax_lr.advance();
  }
}

/// Squared error of the valid tokens against the targets of samples idx[0..n): its mean over all elements, or its sum with gradient
/// accumulation. Turns pred into dL/dpred of 1000 times that.
double block_loop::loss(const std::int32_t* idx, std::size_t n, const activations& target, float* pred) {
  const double reduce = o_.gradient_accumulate_steps == 1 ? 1.0 / (static_cast<double>(n) * static_cast<double>(sample_size())) : 1.0;
  const float factor = static_cast<float>(gradient_factor() * reduce);
  token_loss_.assign(n * seqlen_, 0.0);
#pragma omp parallel
  {
    std::vector<float> wide(hidden_);
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

/// The reference lets the loss of few bits (act_bits 4 and less, or less than 4 bits) look away from the largest errors.
bool block_loop::drops_outliers(const std::vector<tuned_block>& unit) const {
  if (!o_.enable_alg_ext) return false;
  for (const tuned_block& block : unit)
    for (const auto& layer : block.layers) {
      if (layer == nullptr) continue;
      const ar::tune_family family = layer->grid().family;
      const bool searched = layer->has_initial_scales() && (family == ar::tune_family::symmetric || family == ar::tune_family::scaled);
      return searched && (layer->scheme().bits < 4 || layer->scheme().act_bits.value_or(16) <= 4);  // the first layer stands for its block
    }
  return false;
}

/// Mean squared error of the valid tokens without the thousandth of the batch's elements that are farthest off, which get no gradient.
double block_loop::loss_without_outliers(const std::int32_t* idx, std::size_t n, const activations& target, float* pred) {
  const std::size_t elements = n * sample_size(), dropped = std::max<std::size_t>(1, elements / 1000);
  const double reduce = 1.0 / static_cast<double>(elements);
  const float factor = static_cast<float>(gradient_factor() * reduce);
  errors_.resize(elements);
#pragma omp parallel
  {
    std::vector<float> wide(hidden_);
#pragma omp for schedule(static)
    for (std::size_t token = 0; token < n * seqlen_; ++token) {
      const float* const to = target.row(static_cast<std::size_t>(idx[token / seqlen_]), token % seqlen_ * hidden_, hidden_, wide.data());
      for (std::size_t i = 0; i < hidden_; ++i) {
        pred[token * hidden_ + i] -= to[i];
        errors_[token * hidden_ + i] = std::abs(pred[token * hidden_ + i]);
      }
    }
  }
  const auto last = errors_.begin() + static_cast<std::ptrdiff_t>(dropped - 1);
  std::nth_element(errors_.begin(), last, errors_.end(), std::greater<>());
  const float limit = *last;
  // Of errors that are equal the first ones go.
  std::size_t equal = dropped - static_cast<std::size_t>(std::count_if(errors_.begin(), last, [&](float e) { return e > limit; }));
  double sum = 0;
  for (std::size_t token = 0; token < n * seqlen_; ++token) {
    const bool valid = set_.valid[static_cast<std::size_t>(idx[token / seqlen_]) * seqlen_ + token % seqlen_] != 0;
    float* const p = pred + token * hidden_;
    for (std::size_t i = 0; i < hidden_; ++i) {
      const float size = std::abs(p[i]);
      const bool out = size > limit || (size == limit && equal > 0);
      if (size == limit && equal > 0) --equal;
      if (out || !valid) p[i] = 0.0f;
      sum += static_cast<double>(p[i]) * static_cast<double>(p[i]);
      p[i] *= factor;
    }
  }
  return sum * reduce;
}

void block_loop::apply_vectors(std::vector<tuned_block>& unit) const {
  for (tuned_block& block : unit)
    for (auto& v : block.vectors) v.tuned.apply(*v.value);
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
  for (tuned_block& block : unit) {
    for (auto& v : block.vectors) v.tuned.apply_best(*v.value);
    if (block.inputs == nullptr) continue;
    block.inputs->keep_best();
    const auto b = static_cast<std::size_t>(&block - unit.data());
    for (std::size_t i = 0; i < block.layers.size(); ++i)
      if (block.layers[i] != nullptr) layers[index[b * block.layers.size() + i]].act_max = block.inputs->maximum(static_cast<int>(i));
  }
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
