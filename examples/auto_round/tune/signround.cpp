#include "tune/signround.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <set>
#include <span>
#include <utility>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "tune/activations.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

using clock = std::chrono::steady_clock;

/// Adds the time since its construction, or since the last lap, to a stage.
class stopwatch {
 public:
  void lap(double& stage) {
    const clock::time_point now = clock::now();
    stage += std::chrono::duration<double>(now - start_).count();
    start_ = now;
  }

 private:
  clock::time_point start_ = clock::now();
};

/// The layers of one block that are tuned, and the weights to run it with.
struct tuned_block {
  model::block_weights floats;     // linears of layers that stay in float, and everything that is not tuned
  model::block_weights quantized;  // the same with the fake-quantized weights in their place
  std::vector<std::vector<float>> weights;            // the original weights of tuned layers
  std::vector<std::unique_ptr<tuned_layer>> layers;   // null where a layer stays in float
  std::vector<std::vector<float>> gradients;
  std::vector<float*> gradient_pointers;
};

struct layer_step {
  step_options options;
  ar::linear_schedule lr, minmax_lr;
};

class block_tuner {
 public:
  block_tuner(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
              const signround_options& options, const tuning_events& events)
      : source_(source),
        spec_(source.spec()),
        set_(calibration),
        choices_(choices),
        o_(options),
        events_(events),
        samples_(static_cast<std::size_t>(calibration.rows())),
        seqlen_(static_cast<std::size_t>(calibration.seqlen)),
        hidden_(static_cast<std::size_t>(spec_.hidden_size)),
        batch_(std::min(static_cast<std::size_t>(options.batch_size), samples_)),
        global_batch_(std::min(samples_, batch_ * static_cast<std::size_t>(options.gradient_accumulate_steps))),
        random_(static_cast<std::uint64_t>(options.seed)) {}

  result<tuning_result> run() {
    stopwatch watch;
    if (auto r = embed(); !r) return forward_error(r);
    watch.lap(out_.seconds.collect);
    for (std::int64_t first = 0; first < spec_.num_layers; first += o_.nblocks) {
      const std::int64_t count = std::min(o_.nblocks, spec_.num_layers - first);
      if (auto r = run_unit(first, count); !r) return forward_error(r);
    }
    return std::move(out_);
  }

 private:
  std::size_t sample_size() const { return seqlen_ * hidden_; }

  /// The input of the first block: rows of the embedding, looked up for about 64 MiB at a time.
  result<void> embed() {
    float_chain_.reset(samples_, sample_size(), o_.bf16_activations);
    const std::size_t step = std::max<std::size_t>(1, (std::size_t{16} << 20) / sample_size());
    for (std::size_t first = 0; first < samples_; first += step) {
      const std::size_t n = std::min(step, samples_ - first);
      const auto rows = model::embed(source_, std::span(set_.ids).subspan(first * seqlen_, n * seqlen_));
      if (!rows) return forward_error(rows);
      float_chain_.store(first, n, rows->data());
    }
    return {};
  }

  result<void> load_block(std::int64_t index, tuned_block& block) {
    auto weights = model::read_block(source_, index);
    if (!weights) return forward_error(weights);
    block.floats = std::move(*weights);
    const std::size_t count = spec_.linears.size();
    block.layers.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::string name = spec_.linear_name(index, static_cast<int>(i));
      const auto choice = choices_.find(name);
      if (choice == choices_.end() || choice->second.scheme.bits >= 16) continue;
      auto grid = grid_of(choice->second.scheme, choice->second.scale_type);
      if (!grid) return fail(error_kind::unsupported, "this scheme cannot be tuned; quantize the layer by rounding (iters 0) or choose another scheme", {}, name);
      grid->clamp = o_.clamp;
      grid->scale_grad = o_.scale_gradient;
      tuned_layer::storage keep;
      keep.best = !o_.not_use_best_mse;
      keep.gradient = stores_gradients();
      keep.momentum = o_.momentum != 0;
      const model::linear_desc& d = spec_.linears[i];
      block.layers[i] = std::make_unique<tuned_layer>(name, choice->second.scheme, *grid, block.floats.linears[i].data(),
                                                      static_cast<std::size_t>(d.out_features), static_cast<std::size_t>(d.in_features), keep);
      if (auto e = block.layers[i]->check(); e != ar::errc::ok)
        return fail(error_kind::unsupported, std::string("this scheme does not fit the layer's shape: ") + ar::message(e), {}, name);
    }
    return {};
  }

  /// Momentum needs gradients in memory; so do several micro-batches where each one's scale gradients are rounded on their own.
  bool stores_gradients() const {
    return o_.momentum != 0 || (o_.gradient_accumulate_steps > 1 && o_.scale_gradient == ar::scale_gradient::reference);
  }

  /// Buffers that only tuning needs; made after the reference pass.
  void prepare(tuned_block& block) {
    const bool narrow = o_.precision == linalg::precision::bf16;
    const std::size_t count = block.layers.size();
    block.quantized.bias = block.floats.bias;
    block.quantized.input_norm = block.floats.input_norm;
    block.quantized.post_attention_norm = block.floats.post_attention_norm;
    block.quantized.linears.resize(count);
    block.quantized.linears_bf16.resize(count);
    block.gradients.resize(count);
    block.gradient_pointers.assign(count, nullptr);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t n = block.floats.linears[i].size();
      if (block.layers[i] == nullptr) {
        block.quantized.linears[i] = block.floats.linears[i];
        continue;
      }
      if (narrow) block.quantized.linears_bf16[i].resize(n);
      else block.quantized.linears[i].resize(n);
      block.gradients[i].resize(n);
      block.gradient_pointers[i] = block.gradients[i].data();
    }
  }

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

  /// Runs blocks on a whole chain, a few samples at a time, from `in` to `out` (which may be the same).
  void propagate(std::vector<tuned_block>& unit, bool quantized, const activations& in, activations& out) {
    std::vector<float> x(batch_ * sample_size());
    for (std::size_t first = 0; first < samples_; first += batch_) {
      const std::size_t n = std::min(batch_, samples_ - first);
      in.load(first, n, x.data());
      for (std::size_t b = 0; b < unit.size(); ++b)
        runner(0).forward(quantized ? unit[b].quantized : unit[b].floats, x.data(), n, seqlen_, x.data());
      out.store(first, n, x.data());
    }
  }

  model::block_runner& runner(std::size_t i) {
    while (runners_.size() <= i) runners_.emplace_back(spec_, o_.precision);
    return runners_[i];
  }

  result<void> run_unit(std::int64_t first_block, std::int64_t count) {
    stopwatch watch;
    stage_seconds& seconds = out_.seconds;
    std::vector<tuned_block> unit(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i)
      if (auto r = load_block(first_block + i, unit[static_cast<std::size_t>(i)]); !r) return r;
    watch.lap(seconds.collect);

    // Tuned on the quantized chain where it exists, else on the float chain, whose input must then be kept beside the targets.
    const bool has_quantized = o_.enable_quanted_input && first_block > 0;
    if (!has_quantized) {
      std::swap(input_, float_chain_);
      float_chain_.reset(samples_, sample_size(), o_.bf16_activations);
      propagate(unit, false, input_, float_chain_);
    } else {
      propagate(unit, false, float_chain_, float_chain_);
    }
    watch.lap(seconds.reference);

    block_result summary;
    summary.first_block = first_block;
    summary.blocks = count;
    for (const tuned_block& block : unit) {
      summary.layers += static_cast<std::int64_t>(block.layers.size());
      for (const auto& layer : block.layers) summary.quantized += layer != nullptr;
    }
    for (tuned_block& block : unit) prepare(block);
    if (summary.quantized != 0)
      if (auto r = tune(unit, summary); !r) return r;
    watch = {};

    std::vector<quantized_layer> layers = quantize(unit);
    watch.lap(seconds.pack);
    if (o_.enable_quanted_input && first_block + count < spec_.num_layers) propagate(unit, true, input_, input_);
    watch.lap(seconds.propagate);

    for (std::int64_t i = 0; i < count; ++i) source_.done_with_block(first_block + i);
    out_.blocks.push_back(summary);
    unit.clear();
    if (events_.on_block)
      if (auto r = events_.on_block(summary, std::move(layers)); !r) return r;
    watch.lap(seconds.pack);
    return {};
  }

  result<void> tune(std::vector<tuned_block>& unit, block_result& summary) {
    stage_seconds& seconds = out_.seconds;
    std::vector<std::int32_t> order(samples_);
    ar::batch_sampler sampler(random_, order.data(), samples_, global_batch_);
    std::vector<float> x(batch_ * sample_size()), pred(batch_ * sample_size()), target(sample_size());
    // Steps by the bits of a layer, which give its default learning rate.
    std::map<int, layer_step> steps;
    for (const tuned_block& block : unit)
      for (const auto& layer : block.layers) {
        if (layer == nullptr) continue;
        const int bits = layer->scheme().bits;
        const double lr = o_.lr.value_or(ar::default_learning_rate(static_cast<int>(o_.iters), bits));
        const int iters = static_cast<int>(o_.iters);
        steps.emplace(bits, layer_step{{0, 0, static_cast<float>(o_.momentum), o_.enable_minmax_tuning}, {lr, iters}, {o_.minmax_lr.value_or(lr), iters}});
      }

    double best = std::numeric_limits<float>::max();
    for (std::int64_t t = 0; t < o_.iters; ++t) {
      stopwatch watch;
      const std::int32_t* idx = sampler.next();
      double valid = 0;
      for (std::size_t i = 0; i < global_batch_; ++i)
        for (std::size_t k = 0; k < seqlen_; ++k) valid += set_.valid[static_cast<std::size_t>(idx[i]) * seqlen_ + k] != 0;
      fake_quantize(unit);
      double total = 0;
      for (std::size_t first = 0; first < global_batch_; first += batch_) {
        const std::size_t n = std::min(batch_, global_batch_ - first);
        for (std::size_t i = 0; i < n; ++i) input_.load(static_cast<std::size_t>(idx[first + i]), 1, x.data() + i * sample_size());
        const float* in = x.data();
        for (std::size_t b = 0; b < unit.size(); ++b) {
          float* out = b + 1 == unit.size() ? pred.data() : between(b, n);
          runner(b).forward_train(unit[b].quantized, in, n, seqlen_, out);
          in = out;
        }
        watch.lap(seconds.forward);
        total += loss(idx + first, n, pred.data()) / std::max(valid, 1.0);
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

  void step(std::vector<tuned_block>& unit, std::map<int, layer_step>& steps) {
    for (auto& [bits, s] : steps) {
      s.options.lr = s.lr.lr();
      s.options.minmax_lr = s.minmax_lr.lr();
    }
    for (tuned_block& block : unit)
      for (auto& layer : block.layers)
        if (layer != nullptr) layer->begin_step();
    for_rows(unit, [&](tuned_block& b, std::size_t i, std::size_t first, std::size_t last) {
      const step_options& o = steps.at(b.layers[i]->scheme().bits).options;
      if (stores_gradients()) b.layers[i]->step_stored(first, last, o);
      else b.layers[i]->step(first, last, b.gradients[i].data(), o);
    });
    for (tuned_block& block : unit)
      for (auto& layer : block.layers)
        if (layer != nullptr) layer->end_step();
    for (auto& [bits, s] : steps) {
      s.lr.advance();
      s.minmax_lr.advance();
    }
  }

  /// Squared error of the valid tokens against the targets of samples idx[0..n): its mean over all elements, or its sum with gradient
  /// accumulation. Turns pred into dL/dpred of 1000 times that.
  double loss(const std::int32_t* idx, std::size_t n, float* pred) {
    const double elements = static_cast<double>(n) * static_cast<double>(sample_size());
    const double reduce = o_.gradient_accumulate_steps == 1 ? 1.0 / elements : 1.0;
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
        token_loss_[token] = squared_error(p, float_chain_.row(sample, position * hidden_, hidden_, wide.data()), hidden_, factor);
      }
    }
    double sum = 0;
    for (double x : token_loss_) sum += x;
    return sum * reduce;
  }

  std::vector<quantized_layer> quantize(std::vector<tuned_block>& unit) {
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

  float* between(std::size_t b, std::size_t n) { return buffer(between_, b, n); }
  float* between_gradient(std::size_t b, std::size_t n) { return buffer(between_gradient_, b, n); }
  float* buffer(std::vector<std::vector<float>>& list, std::size_t b, std::size_t n) {
    if (list.size() <= b) list.resize(b + 1);
    list[b].resize(n * sample_size());
    return list[b].data();
  }

  const model::weight_source& source_;
  const model::model_spec& spec_;
  const text::calibration_set& set_;
  const layer_choices& choices_;
  const signround_options& o_;
  const tuning_events& events_;
  std::size_t samples_, seqlen_, hidden_, batch_, global_batch_;
  ar::python_random random_;
  activations float_chain_, input_;  // outputs of the float blocks so far; inputs of the block that is tuned
  std::vector<model::block_runner> runners_;
  std::vector<std::vector<float>> between_, between_gradient_;
  std::vector<double> token_loss_;
  tuning_result out_;
};

result<void> check(const model::model_spec& spec, const text::calibration_set& set, const layer_choices& choices, const signround_options& o) {
  const auto positive = [](std::int64_t value, const char* name) -> result<void> {
    if (value >= 1) return {};
    return fail(error_kind::usage, std::string(name) + " must be at least 1, not " + std::to_string(value));
  };
  for (const auto& [value, name] : {std::pair{o.iters, "iters"}, {o.batch_size, "batch_size"}, {o.gradient_accumulate_steps, "gradient_accumulate_steps"},
                                    {o.nblocks, "nblocks"}})
    if (auto r = positive(value, name); !r) return r;
  if (o.iters > 1'000'000) return fail(error_kind::usage, "iters above 1000000 makes no sense");
  if (set.rows() < 1 || set.valid.size() != set.ids.size()) return fail(error_kind::usage, "the calibration set is empty");
  std::set<std::string> known;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (std::size_t i = 0; i < spec.linears.size(); ++i) known.insert(spec.linear_name(b, static_cast<int>(i)));
  for (const auto& [name, choice] : choices)
    if (choice.scheme.bits < 16 && known.count(name) == 0)
      return fail(error_kind::input, "only linear layers of the decoder blocks can be tuned; this is none of them", {}, name);
  return {};
}

}  // namespace

result<tuning_result> run_signround(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                    const signround_options& options, const tuning_events& events) {
  if (auto r = check(source.spec(), calibration, choices, options); !r) return forward_error(r);
  try {
    return block_tuner(source, calibration, choices, options, events).run();
  } catch (const std::bad_alloc&) {
    return fail(error_kind::unsupported, "out of memory while tuning; use fewer or shorter calibration samples (nsamples, seqlen) or a smaller batch_size");
  }
}

}  // namespace auto_round::tune
