#include "tune/gram.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <initializer_list>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "model/kernels.hpp"
#include "tune/block_loop.hpp"
#include "tune/gram_rows.hpp"
#include "tune/initial_scales.hpp"
#include "tune/input_quantizer.hpp"
#include "tune/run_parts.hpp"
#include "tune/stopwatch.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

constexpr std::size_t piece_tokens = 1024;  // worked on at once
// Statistics are made of so many tokens for each input of the widest layer, or all if there are not as many: what a layer learns from more is little, and
// each costs as much as the first. Two blocks of SmolLM2-135M, 64 x 512 tokens, W4 (seeds 42, 43) and W2 in groups of 64: all (21) 0.0061, 0.0063 and 0.112;
// 10 of them 0.0067, 0.0061 and 0.118 for a quarter less time.
constexpr std::size_t tokens_per_input = 16;
constexpr std::size_t gram_step = 256;      // rows of the Gram matrix in a product: only what is right of the diagonal is computed

/// Rows of floats as an operand of products.
class operand_rows {
 public:
  linalg::operand set(const float* x, std::size_t rows, std::size_t cols, bool bf16) {
    if (!bf16) return {x, rows, cols, cols, false};
    halves_.resize(rows * cols);
    linalg::to_bf16(x, rows * cols, halves_.data());
    return {halves_.data(), rows, cols, cols, true};
  }

 private:
  std::vector<std::uint16_t> halves_;
};

/// Rows that a pass over the calibration set made and the next one needs again: kept as far as they fit, so that they are not computed twice.
class kept_rows {
 public:
  explicit kept_rows(std::size_t bytes) : limit_(bytes) {}
  void clear() {
    pieces_.clear();
    bytes_ = 0;
  }
  void keep(std::size_t piece, const linalg::operand& rows) {
    const std::size_t n = rows.rows * rows.cols * (rows.bf16 ? 2 : 4);
    if (n > limit_ - bytes_) return;
    const char* const from = static_cast<const char*>(rows.data);
    pieces_.emplace(piece, std::pair{rows, std::vector<char>(from, from + n)});
    bytes_ += n;
  }
  /// Empty if that piece was not kept.
  std::optional<linalg::operand> get(std::size_t piece) const {
    const auto at = pieces_.find(piece);
    if (at == pieces_.end()) return std::nullopt;
    linalg::operand rows = at->second.first;
    rows.data = at->second.second.data();
    return rows;
  }

 private:
  std::map<std::size_t, std::pair<linalg::operand, std::vector<char>>> pieces_;
  std::size_t limit_, bytes_ = 0;
};

/// x^T x of the inputs of a stage, and e^T x.
class statistics {
 public:
  void reset(std::size_t inputs, std::size_t errors) {
    inputs_ = inputs;
    errors_ = errors;
    gram_.resize(inputs * inputs);
    cross_.resize(errors * inputs);
    empty_ = true;
  }

  /// Rows of x [tokens x inputs] and, unless there are none, of e [tokens x errors]; of one element type.
  void add(const linalg::operand& x, const linalg::operand& e) {
    if (x.rows == 0) return;
    products_.clear();
    for (std::size_t i = 0; i < inputs_; i += gram_step) {
      linalg::operand a = columns(x, i, std::min(gram_step, inputs_ - i)), b = columns(x, i, inputs_ - i);
      products_.push_back({a, b, gram_.data() + i * inputs_ + i, inputs_});
    }
    if (errors_ != 0) products_.push_back({e, x, cross_.data(), inputs_});
    linalg::gemm_tn(products_.data(), products_.size(), !empty_);
    empty_ = false;
  }

  /// Fills in what follows from symmetry. weight: errors were those of weight 0; theirs become those of this weight [errors x inputs], float.
  void finish(const std::vector<float>* weight) {
    if (empty_) {
      std::ranges::fill(gram_, 0.0f);
      std::ranges::fill(cross_, 0.0f);
    }
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < inputs_; ++i)
      for (std::size_t j = 0; j < i / gram_step * gram_step; ++j) gram_[i * inputs_ + j] = gram_[j * inputs_ + i];
    if (weight != nullptr)
      linalg::gemm_nn({weight->data(), errors_, inputs_, inputs_, false}, {gram_.data(), inputs_, inputs_, inputs_, false}, cross_.data(), inputs_, true);
  }

  const std::vector<float>& gram() const { return gram_; }
  const float* cross() const { return errors_ == 0 ? nullptr : cross_.data(); }

 private:
  static linalg::operand columns(linalg::operand x, std::size_t first, std::size_t n) {
    x.data = static_cast<const char*>(x.data) + first * (x.bf16 ? 2 : 4);
    x.cols = n;
    return x;
  }

  std::size_t inputs_ = 0, errors_ = 0;
  std::vector<float> gram_, cross_;
  std::vector<linalg::gradient_product> products_;
  bool empty_ = true;
};

/// Tokens count alike, or by how much an error of the first or the second of a pair of layers disturbs the stream: query and key, or gate and up.
enum weighting : std::size_t { plain, by_first, by_second };

/// gram: layer by layer. hybrid: and then all layers of a block together, by a short block loop.
enum class method { gram, hybrid };

/// Options of the hybrid's loop. Steps are so short that only weights whose gradients mostly agree reach the other side of a border: with steps of 0.01 that
/// began at the border, or momentum 0.9, noise flipped weights and KL rose. tiny-stories W2A16G32 (means of two seeds; gram alone 9.3e-4 in 7.5 CPU s): an eighth
/// of the iterations and half the way 8.6e-4 in 11 s, a quarter 7.6e-4 in 15, half 7.1e-4 in 19, half and twice the way 8.0e-4. Two blocks of SmolLM2-135M, W2
/// in groups of 64 (gram alone 0.116): 0.106 in 50 CPU s, 0.108 in 67, 0.104 in 90; on another machine (gram alone 0.110) half the iterations gave 0.100, an
/// eighth 0.128 and 0.156.
signround_options finishing(signround_options o) {
  o.iters = std::max<std::int64_t>(1, o.iters / 2);
  o.batch_size = std::max<std::int64_t>(1, o.batch_size / 8);
  o.lr = 0.25 / static_cast<double>(o.iters);
  o.momentum = 0.5;
  o.not_use_best_mse = true;
  o.clamp = ar::clamp_gradient::closed;
  return o;
}
constexpr float cell = 0.45f;  // of a step, to either side of a number, where a weight may lie when the loop begins

/// A grid whose scales are what they are.
ar::tune_family fixed(ar::tune_family f) {
  switch (f) {
    case ar::tune_family::symmetric:
    case ar::tune_family::superblock_symmetric: return ar::tune_family::fixed_symmetric;
    case ar::tune_family::asymmetric:
    case ar::tune_family::superblock_asymmetric: return ar::tune_family::fixed_asymmetric;
    default: return f;
  }
}

std::int64_t widest_input(const model::model_spec& spec) {
  std::int64_t widest = 1;
  for (const model::linear_desc& d : spec.linears) widest = std::max(widest, d.in_features);
  return widest;
}

class gram_tuner {
 public:
  gram_tuner(method how, const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
             const signround_options& options, const tuning_events& events)
      : how_(how),
        source_(source),
        spec_(source.spec()),
        set_(calibration),
        choices_(choices),
        o_(options),
        events_(events),
        samples_(static_cast<std::size_t>(calibration.rows())),
        seqlen_(static_cast<std::size_t>(calibration.seqlen)),
        hidden_(static_cast<std::size_t>(spec_.hidden_size)),
        step_(std::min(samples_, std::max<std::size_t>(1, piece_tokens / seqlen_))),
        bf16_(options.precision == linalg::precision::bf16),
        runner_(spec_, options.precision),
        stream_(options.spill_folder),
        float_stream_(options.spill_folder),
        middle_(options.spill_folder),
        x_(step_ * sample_size()),
        h_(step_ * sample_size()),
        e_(step_ * sample_size()),
        kept_(options.kept_bytes),
        loop_options_(finishing(options)),
        tokens_(std::max<std::int64_t>(1, calibration.valid_tokens())),
        used_pieces_(used_pieces()),
        used_tokens_(used_tokens()) {}

  result<tuning_result> run() {
    stopwatch watch;
    if (auto r = embed_calibration(source_, set_, o_.bf16_activations, stream_); !r) return forward_error(r);
    if (auto r = float_stream_.reset_relative(samples_, sample_size(), stream_); !r) return forward_error(r);
    if (auto r = middle_.reset(std::min(samples_, used_pieces_ * step_), sample_size(), o_.bf16_activations); !r) return forward_error(r);
    watch.lap(out_.seconds.collect);
    for (std::int64_t b = 0; b < spec_.num_layers; ++b)
      if (auto r = run_block(b); !r) return forward_error(r);
    return std::move(out_);
  }

 private:
  std::size_t sample_size() const { return seqlen_ * hidden_; }

  result<void> load_block(std::int64_t index) {
    auto weights = model::read_block(source_, index);
    if (!weights) return forward_error(weights);
    floats_ = std::move(*weights);
    const std::size_t count = spec_.linears.size();
    auto plan = plan_layers(spec_, index, choices_, o_);
    if (!plan) return forward_error(plan);
    layers_ = std::move(*plan);
    set_global_scales(spec_, floats_, o_.compat, layers_);
    auto inputs = input_quantizer::make(spec_, layers_);
    if (!inputs) return forward_error(inputs);
    inputs_ = std::move(*inputs);
    outputs_.assign(count, {});
    quantized_ = floats_.without_linears();
    quantized_.linears_bf16.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const layer_plan& l = layers_[i];
      if (l.choice == nullptr) use_weight(i, std::vector<float>(floats_.linears[i]));
      else size_output(l.name, l.choice->scheme, l.grid, l.rows, l.cols, l.group_size, outputs_[i]);
    }
    return {};
  }

  const layer_plan& plan_of(int linear) const { return layers_[static_cast<std::size_t>(linear)]; }

  /// What the quantized model computes with from now on. A float weight is taken; take_weights_back returns it.
  void use_weight(std::size_t i, std::vector<float>&& weight) {
    if (!bf16_) {
      quantized_.linears[i] = std::move(weight);
      return;
    }
    quantized_.linears_bf16[i].resize(weight.size());
    linalg::to_bf16(weight.data(), weight.size(), quantized_.linears_bf16[i].data());
  }

  void take_weights_back() {
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].choice != nullptr && outputs_[i].weight.empty()) outputs_[i].weight = std::move(quantized_.linears[i]);
  }

  // What the runner's layers read: float rows in the float model; in the quantized one rows that are quantized as an engine does.
  void read_floats() { runner_.set_input_filter({}); }
  /// Rows that `observed` reads are looked at for its static scale instead; -1: none.
  void read_quantized(int observed = -1) {
    if (inputs_ == nullptr) return read_floats();
    runner_.set_input_filter([this, observed](int linear, float* x, std::size_t tokens) {
      if (linear == observed) inputs_->observe(linear, x, tokens);
      else inputs_->forward(linear, x, tokens);
    });
  }
  bool observes(int linear) const { return inputs_ != nullptr && inputs_->needs_maximum(linear); }

  bool tuned(std::initializer_list<int> stage) const {
    return std::ranges::any_of(stage, [&](int i) { return plan_of(i).choice != nullptr; });
  }

  result<void> run_block(std::int64_t index) {
    stopwatch watch;
    stage_seconds& seconds = out_.seconds;
    if (auto r = load_block(index); !r) return r;
    watch.lap(seconds.collect);
    block_ = {};
    block_.first_block = index;
    block_.layers = static_cast<std::int64_t>(layers_.size());
    block_.quantized = std::ranges::count_if(layers_, [](const layer_plan& l) { return l.choice != nullptr; });
    rows_done_ = 0;
    kept_.clear();

    const std::initializer_list<int> qkv{spec_.q, spec_.k, spec_.v}, o{spec_.o}, gate_up{spec_.gate, spec_.up}, down{spec_.down};
    const bool same_input = index == 0 || !o_.enable_quanted_input;  // the quantized model sees what the float model sees
    if (events_.recorded) {
      auto known = events_.recorded(index);
      if (!known) return forward_error(known);
      if (*known) return take_over(index, same_input, std::move(**known));
    }
    if (tuned(qkv) && observes(spec_.q)) observe_attention_input(same_input);
    run_float_block(tuned(qkv), same_input);
    watch.lap(seconds.reference);
    read_quantized();
    // Behind a norm of each head a row's error counts by what the norm makes of it, which the weights of tokens do not know.
    const bool normed = spec_.has_part(model::block_part::query_norm);
    for (const auto& [linear, weighted] : {std::pair{spec_.q, by_first}, {spec_.k, by_second}, {spec_.v, plain}})
      if (auto r = tune({linear}, true, normed ? plain : weighted); !r) return r;
    watch = {};
    if (tuned(o)) collect_attended();
    watch.lap(seconds.forward);
    if (auto r = tune(o, false); !r) return r;
    watch = {};
    const bool attended = tuned(gate_up) || tuned(down);
    if (attended) finish_attention(tuned(gate_up));
    watch.lap(seconds.forward);
    for (const auto& [linear, weighted] : {std::pair{spec_.gate, by_first}, {spec_.up, by_second}})
      if (auto r = tune({linear}, true, weighted); !r) return r;
    watch = {};
    if (tuned(down)) collect_gated();
    watch.lap(seconds.forward);
    if (auto r = tune(down, false); !r) return r;
    if (how_ == method::hybrid) {
      if (auto r = finish_together(); !r) return r;
    }
    watch = {};
    const bool needed = o_.enable_quanted_input && index + 1 < spec_.num_layers;
    block_.best_loss = propagate(needed, attended && how_ == method::gram);
    const double gained = tuned(down) ? (last_stage_.first - last_stage_.kept) / static_cast<double>(used_tokens_) : 0.0;
    block_.first_loss = block_.best_loss + gained / static_cast<double>(hidden_);
    block_.best_iteration = block_.iterations = o_.iters;
    watch.lap(seconds.propagate);

    take_weights_back();
    for (const activations* stream : {&float_stream_, &middle_, &stream_})
      if (auto r = stream->state(); !r) return r;
    std::vector<quantized_layer> done;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].choice == nullptr) continue;
      if (inputs_ != nullptr) outputs_[i].act_max = inputs_->maximum(static_cast<int>(i));
      done.push_back(std::move(outputs_[i]));
    }
    return hand_over(std::move(done));
  }

  /// What an earlier run made of the block, and both streams behind it.
  result<void> take_over(std::int64_t index, bool same_input, recorded_block&& known) {
    stopwatch watch;
    recorded_layers recorded(known);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].choice == nullptr) continue;
      auto layer = recorded.next(layers_[i]);
      if (!layer) return forward_error(layer);
      use_weight(i, std::vector<float>((*layer)->weight));
      if (inputs_ != nullptr) inputs_->restore(static_cast<int>(i), (*layer)->act_max);
    }
    run_float_block(false, same_input);
    watch.lap(out_.seconds.reference);
    read_quantized();
    if (o_.enable_quanted_input && index + 1 < spec_.num_layers) {
      // As the run that tuned the block went on, through rows that may have been rounded when they were kept.
      const bool attended = how_ == method::gram && tuned({spec_.gate, spec_.up, spec_.down});
      if (attended) finish_attention(false);
      propagate(true, attended);
    }
    watch.lap(out_.seconds.propagate);
    block_ = known.result;
    return hand_over(std::move(known.layers));
  }

  result<void> hand_over(std::vector<quantized_layer>&& done) {
    stopwatch watch;
    source_.done_with_block(block_.first_block);
    out_.blocks.push_back(block_);
    floats_ = {};
    quantized_ = {};
    if (events_.on_block)
      if (auto r = events_.on_block(block_, std::move(done)); !r) return r;
    watch.lap(out_.seconds.pack);
    return {};
  }

  /// All layers of the block by a short block loop, which sees what they do to each other. It begins with the numbers that the layers have: each weight
  /// is moved to where it is rounded to its number, near the border if it came from beyond, so that a small rounding offset takes it back. Numbers that are
  /// not evenly spaced (MX, NVFP4, FP8) stay as they are.
  result<void> finish_together() {
    kept_.clear();
    const auto in_steps = [](const layer_plan& l) { return l.choice == nullptr || (l.grid.family != ar::tune_family::scaled && l.grid.whole_zero); };
    if (block_.quantized == 0 || !std::ranges::all_of(layers_, in_steps)) return {};
    stopwatch watch;
    take_weights_back();
    std::vector<layer_plan> plans = layers_;
    std::vector<initial_values> initial(plans.size());
    std::vector<tuned_block> unit(1);
    tuned_block& block = unit.front();
    block.floats = std::move(floats_);
    block.inputs = std::move(inputs_);
    for (std::size_t i = 0; i < plans.size(); ++i) {
      layer_plan& l = plans[i];
      if (l.choice == nullptr) continue;
      l.grid.family = fixed(l.grid.family);
      l.grid.clamp = loop_options_.clamp;
      const quantized_layer& q = outputs_[i];
      initial[i].scale = q.scale;
      initial[i].minimum = q.wmin;
      const std::size_t groups = ar::ceil_div(l.cols, l.group_size);
      if (!q.zero_point.empty()) {
        initial[i].minimum.resize(q.scale.size());
        for (std::size_t g = 0; g < q.scale.size(); ++g) initial[i].minimum[g] = q.scale[g] * q.zero_point[g];
      }
      float* const w = block.floats.linears[i].data();
#pragma omp parallel for schedule(static)
      for (std::size_t r = 0; r < l.rows; ++r)
        for (std::size_t c = 0; c < l.cols; ++c) {
          const float reach = cell * std::abs(q.scale[r * groups + c / l.group_size]), to = q.weight[r * l.cols + c];
          w[r * l.cols + c] = std::clamp(w[r * l.cols + c], to - reach, to + reach);
        }
      outputs_[i].weight = {};
    }
    quantized_ = {};
    tuning_events events = events_;
    if (events_.on_iteration) events.on_iteration = [this](std::int64_t b, std::int64_t, double loss) { return events_.on_iteration(b, o_.iters, loss); };
    block_loop loop(spec_, set_, loop_options_, events);
    if (auto r = loop.prepare(plans, block, block_.first_block, {}, std::move(initial)); !r) return r;
    watch.lap(out_.seconds.step);
    block_result ignored;
    ignored.first_block = block_.first_block;
    if (auto r = loop.run(unit, stream_, float_stream_, samples_, ignored, out_.seconds); !r) return r;
    watch = {};
    std::vector<quantized_layer> done = loop.quantize(unit);
    auto next = done.begin();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].choice == nullptr) continue;
      outputs_[i].code = std::move(next->code);
      outputs_[i].weight = std::move(next->weight);
      ++next;
    }
    quantized_ = std::move(block.quantized);
    inputs_ = std::move(block.inputs);
    watch.lap(out_.seconds.step);
    return {};
  }

  // ---- passes over the calibration set ----

  std::size_t pieces() const { return (samples_ + step_ - 1) / step_; }

  /// How many pieces the statistics are made of.
  std::size_t used_pieces() const {
    const auto tokens = static_cast<std::size_t>(tokens_);
    return std::clamp<std::size_t>(ar::ceil_div(tokens_per_input * static_cast<std::size_t>(widest_input(spec_)) * pieces(), tokens), 1, pieces());
  }
  /// How many of those are among the first `piece` pieces: they are evenly spread.
  std::size_t used_before(std::size_t piece) const { return piece * used_pieces_ / pieces(); }
  bool used(std::size_t first_sample) const { return used_before(first_sample / step_ + 1) > used_before(first_sample / step_); }
  std::int64_t valid_tokens_of(std::size_t first_sample, std::size_t tokens) const { return set_.valid_tokens(first_sample * seqlen_, tokens); }
  /// Valid tokens of the pieces that are used, at least 1.
  std::int64_t used_tokens() const {
    std::int64_t n = 0;
    for_pieces([&](std::size_t first, std::size_t, std::size_t tokens) { n += used(first) ? valid_tokens_of(first, tokens) : 0; });
    return std::max<std::int64_t>(1, n);
  }

  /// f(first sample, samples, tokens), piece by piece.
  template <class F>
  void for_pieces(const F& f) const {
    for (std::size_t first = 0; first < samples_; first += step_) {
      const std::size_t n = std::min(step_, samples_ - first);
      f(first, n, n * seqlen_);
    }
  }

  /// Rows of [tokens x width] that belong to valid tokens, moved to the front; how many. T: the element type.
  template <class T>
  std::size_t keep_valid(std::size_t first_sample, std::size_t tokens, std::size_t width, T* rows) const {
    std::size_t to = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      if (set_.valid[first_sample * seqlen_ + t] == 0) continue;
      if (to != t) std::copy_n(rows + t * width, width, rows + to * width);
      ++to;
    }
    return to;
  }

  /// Adds rows of inputs and, unless null, of errors [n x errors].
  void add(statistics& to, const float* x, std::size_t n, std::size_t inputs, const float* e, std::size_t errors) {
    const linalg::operand left = e == nullptr ? linalg::operand{} : error_rows_.set(e, n, errors, bf16_);
    to.add(input_rows_.set(x, n, inputs, bf16_), left);
  }
  /// Adds rows of inputs and errors [tokens x errors] to the statistics, those of valid tokens, to the front of which errors are moved.
  void collect(std::size_t first_sample, std::size_t tokens, linalg::operand x, float* e, std::size_t errors) {
    const std::size_t n = keep_valid(first_sample, tokens, errors, e);
    if (n != tokens) {
      gathered_.resize(tokens * x.cols * (x.bf16 ? 2 : 4));
      std::copy_n(static_cast<const char*>(x.data), gathered_.size(), gathered_.data());
      if (x.bf16) keep_valid(first_sample, tokens, x.cols, reinterpret_cast<std::uint16_t*>(gathered_.data()));
      else keep_valid(first_sample, tokens, x.cols, reinterpret_cast<float*>(gathered_.data()));
      x.data = gathered_.data();
      x.rows = n;
    }
    statistics_[plain].add(x, error_rows_.set(e, n, errors, bf16_));
  }

  /// What the layers behind the norm before attention, or before the MLP, read in float.
  void norm(bool attention, const float* x, std::size_t tokens, std::vector<float>& out) const {
    const std::vector<float>& weight = attention ? floats_.input_norm : floats_.post_attention_norm;
    const model::row_rotation* by = nullptr;
    if (floats_.rotations != nullptr) by = (attention ? floats_.rotations->attention_input : floats_.rotations->mlp_input).get();
    out.resize(step_ * sample_size());
    const auto eps = static_cast<float>(spec_.rms_norm_eps);
#pragma omp parallel for schedule(static)
    for (std::size_t t = 0; t < tokens; ++t) {
      kernels::rms_norm(x + t * hidden_, 1, hidden_, weight.data(), eps, out.data() + t * hidden_, nullptr);
      if (by != nullptr) by->rows(out.data() + t * hidden_, 1, hidden_);
    }
  }

  /// out = a - b over a piece.
  void subtract(const float* a, const float* b, std::size_t tokens, float* out) const {
#pragma omp parallel for schedule(static)
    for (std::size_t t = 0; t < tokens; ++t) kernels::subtract(a + t * hidden_, b + t * hidden_, hidden_, out + t * hidden_);
  }

  /// Statistics of a stage that reads a norm: `quantized` is the quantized model's stream, `floating` the float model's (the same: no error).
  void collect_normed(std::size_t first, std::size_t tokens, bool attention, const float* quantized, const float* floating,
                      std::array<std::vector<float>*, 2> weights) {
    norm(attention, quantized, tokens, normed_);
    if (inputs_ != nullptr) inputs_->forward(spec_.reader(attention ? spec_.q : spec_.gate), normed_.data(), tokens);
    float* error = nullptr;
    if (quantized != floating || inputs_ != nullptr) {
      norm(attention, floating, tokens, normed_float_);
      subtract(normed_.data(), normed_float_.data(), tokens, normed_float_.data());
      error = normed_float_.data();
    }
    const std::size_t n = keep_valid(first, tokens, hidden_, normed_.data());
    if (error != nullptr) keep_valid(first, tokens, hidden_, error);
    if (attention) add(statistics_[plain], normed_.data(), n, hidden_, error, hidden_);
    for (const std::size_t i : {0u, 1u}) {
      keep_valid(first, tokens, 1, weights[i]->data());
      add_weighted(statistics_[by_first + i], n, error, *weights[i]);
    }
  }

  /// Adds the rows that collect_normed has made, each token with its weight.
  void add_weighted(statistics& to, std::size_t n, const float* error, const std::vector<float>& weights) {
    scaled_.resize(normed_.size());
    if (error != nullptr) scaled_error_.resize(normed_.size());
#pragma omp parallel for schedule(static)
    for (std::size_t t = 0; t < n; ++t) {
      const float root = std::sqrt(weights[t]);
      for (std::size_t i = t * hidden_; i < (t + 1) * hidden_; ++i) {
        scaled_[i] = root * normed_[i];
        if (error != nullptr) scaled_error_[i] = root * error[i];
      }
    }
    add(to, scaled_.data(), n, hidden_, error == nullptr ? nullptr : scaled_error_.data(), hidden_);
  }

  /// What q, k and v read, for their static scale.
  void observe_attention_input(bool same_input) {
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      if (!used(first)) return;
      (same_input ? float_stream_ : stream_).load(first, n, x_.data());
      norm(true, x_.data(), tokens, normed_);
      inputs_->observe(spec_.q, normed_.data(), tokens);
    });
  }

  /// The float model's stream goes from before the block to behind it, and leaves what it is behind attention; statistics of q, k, v.
  void run_float_block(bool wanted, bool same_input) {
    mlp_weights_.resize(pieces());
    const bool same_rows = same_input && inputs_ == nullptr;
    if (wanted)
      for (auto& s : statistics_) s.reset(hidden_, same_rows ? 0 : hidden_);
    read_floats();
    model::attention_sensitivity sensitivity;
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      const bool statistics = wanted && used(first);
      sensitivity.counts = set_.valid.data() + first * seqlen_;
      float_stream_.load(first, n, x_.data());
      if (same_input) stream_.store(first, n, x_.data());
      const linalg::operand attended = runner_.attend(floats_, x_.data(), n, seqlen_, statistics ? &sensitivity : nullptr);
      runner_.add_linear(floats_, spec_.o, attended, x_.data(), h_.data());
      if (used(first)) middle_.store(middle_at(first), n, h_.data());
      if (statistics && same_input) collect_normed(first, tokens, true, x_.data(), x_.data(), {&sensitivity.query, &sensitivity.key});
      if (statistics && !same_input) {
        stream_.load(first, n, e_.data());
        collect_normed(first, tokens, true, e_.data(), x_.data(), {&sensitivity.query, &sensitivity.key});
      }
      runner_.add_linear(floats_, spec_.down, runner_.gate(floats_, h_.data(), tokens, used(first) ? &mlp_weights_[first / step_] : nullptr), h_.data(), h_.data());
      float_stream_.store(first, n, h_.data());
    });
  }

  /// Where middle_ has a used piece.
  std::size_t middle_at(std::size_t first_sample) const { return used_before(first_sample / step_) * step_; }

  /// Statistics of a layer that writes to the residual stream: rows of its inputs, the stream before it (changed), the stream that is wanted behind it.
  /// An error is what is missing without the layer, which is what the float weight leaves less that weight's product; `tune` adds that from the Gram matrix.
  /// Rows of bfloat16 would round the difference of what is nearly alike, so there the product is computed.
  void collect_residual(std::size_t first, std::size_t tokens, int linear, const linalg::operand& rows, float* stream, const float* wanted) {
    const auto index = static_cast<std::size_t>(linear);
    if (bf16_) {
      runner_.add_linear(floats_, linear, rows, stream, stream);
    } else if (index < floats_.bias.size() && !floats_.bias[index].empty()) {
      for (std::size_t t = 0; t < tokens; ++t) kernels::axpy(1.0f, floats_.bias[index].data(), hidden_, stream + t * hidden_);
    }
    subtract(stream, wanted, tokens, stream);
    collect(first, tokens, rows, stream, hidden_);
  }

  /// Statistics of o.
  void collect_attended() {
    if (observes(spec_.o)) {
      read_quantized(spec_.o);
      for_pieces([&](std::size_t first, std::size_t n, std::size_t) {
        if (!used(first)) return;
        stream_.load(first, n, x_.data());
        runner_.attend(quantized_, x_.data(), n, seqlen_);
      });
      read_quantized();
    }
    statistics_[plain].reset(plan_of(spec_.o).cols, hidden_);
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      if (!used(first)) return;
      stream_.load(first, n, x_.data());
      const linalg::operand attended = runner_.attend(quantized_, x_.data(), n, seqlen_);
      kept_.keep(first / step_, attended);
      middle_.load(middle_at(first), n, e_.data());
      collect_residual(first, tokens, spec_.o, attended, x_.data(), e_.data());
    });
  }

  /// The quantized model's stream behind attention, of a piece that is in x_, goes to h_.
  void attended_stream(std::size_t first, std::size_t n) {
    auto attended = kept_.get(first / step_);
    if (!attended) attended = runner_.attend(quantized_, x_.data(), n, seqlen_);
    runner_.add_linear(quantized_, spec_.o, *attended, x_.data(), h_.data());
  }

  /// What gate and up read, for their static scale.
  void observe_mlp_input() {
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      if (!used(first)) return;
      stream_.load(first, n, x_.data());
      attended_stream(first, n);
      norm(false, h_.data(), tokens, normed_);
      inputs_->observe(spec_.gate, normed_.data(), tokens);
    });
  }

  /// middle_ becomes the quantized model's stream; statistics of gate and up.
  void finish_attention(bool statistics) {
    if (statistics && observes(spec_.gate)) observe_mlp_input();
    if (statistics)
      for (const auto by : {by_first, by_second}) statistics_[by].reset(hidden_, hidden_);
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      if (!used(first)) return;
      stream_.load(first, n, x_.data());
      attended_stream(first, n);
      if (statistics) {
        middle_.load(middle_at(first), n, e_.data());
        model::mlp_sensitivity& weights = mlp_weights_[first / step_];
        collect_normed(first, tokens, false, h_.data(), e_.data(), {&weights.gate, &weights.up});
      }
      middle_.store(middle_at(first), n, h_.data());
    });
    kept_.clear();
  }

  /// Statistics of down.
  void collect_gated() {
    if (observes(spec_.down)) {
      read_quantized(spec_.down);
      for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
        if (!used(first)) return;
        middle_.load(middle_at(first), n, x_.data());
        runner_.gate(quantized_, x_.data(), tokens);
      });
      read_quantized();
    }
    statistics_[plain].reset(plan_of(spec_.down).cols, hidden_);
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      if (!used(first)) return;
      middle_.load(middle_at(first), n, x_.data());
      const linalg::operand gated = runner_.gate(quantized_, x_.data(), tokens);
      float_stream_.load(first, n, e_.data());
      collect_residual(first, tokens, spec_.down, gated, x_.data(), e_.data());
    });
  }

  /// The quantized model's stream goes behind the block, from middle_ where that has it; the mean squared error there, of a part of the samples if the
  /// stream is not needed.
  double propagate(bool needed, bool from_middle) {
    double error = 0;
    std::int64_t counted = 0;
    std::vector<double> errors;
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      if (!needed && first / step_ % 8 != 0) return;
      if (from_middle && used(first)) {
        middle_.load(middle_at(first), n, x_.data());
      } else {
        stream_.load(first, n, x_.data());
        runner_.add_linear(quantized_, spec_.o, runner_.attend(quantized_, x_.data(), n, seqlen_), x_.data(), x_.data());
      }
      runner_.add_linear(quantized_, spec_.down, runner_.gate(quantized_, x_.data(), tokens), x_.data(), x_.data());
      float_stream_.load(first, n, e_.data());
      if (needed) {
        stream_.store(first, n, x_.data());
        float_stream_.store(first, n, e_.data());
      }
      subtract(x_.data(), e_.data(), tokens, e_.data());
      errors.assign(tokens, 0.0);
#pragma omp parallel for schedule(static)
      for (std::size_t t = 0; t < tokens; ++t)
        if (set_.valid[first * seqlen_ + t] != 0) errors[t] = static_cast<double>(kernels::dot(e_.data() + t * hidden_, e_.data() + t * hidden_, hidden_));
      for (double e : errors) error += e;
      counted += valid_tokens_of(first, tokens);
    });
    return error / (static_cast<double>(std::max<std::int64_t>(1, counted)) * static_cast<double>(hidden_));
  }

  // ---- a stage ----

  /// Tunes the layers of a stage from the statistics; `inputs`: their cross term is that of an error of the inputs.
  result<void> tune(std::initializer_list<int> stage, bool inputs, weighting by = plain) {
    statistics& of = statistics_[by];
    last_stage_ = {};
    if (!tuned(stage)) return {};
    stopwatch watch;
    of.finish(inputs || bf16_ ? nullptr : &floats_.linears[static_cast<std::size_t>(*stage.begin())]);
    std::size_t rows = 0;
    std::vector<std::pair<std::size_t, std::size_t>> pieces;  // layer, first row
    std::vector<initial_values> initial(layers_.size());
    for (const int i : stage) {
      const auto at = static_cast<std::size_t>(i);
      if (layers_[at].choice == nullptr) continue;
      if (layers_[at].grid.superblock_groups > 1 && o_.descent_sweeps > 0) {
        // Scales that are themselves quantized do not move in sweeps, and at few bits the ranges of rounding are far from the best.
        std::vector<float> importance(layers_[at].cols);
        for (std::size_t c = 0; c < importance.size(); ++c) importance[c] = of.gram()[c * importance.size() + c];
        auto found = search_initial(layers_[at], floats_.linears[at].data(), importance, false);
        if (!found) return forward_error(found);
        initial[at] = std::move(*found);
        outputs_[at].d_scale = initial[at].d_scale;
        outputs_[at].d_wmin = initial[at].d_minimum;
      }
      for (std::size_t r = 0; r < layers_[at].rows; r += gram_rows::piece) pieces.emplace_back(at, r);
      rows += layers_[at].rows;
    }
    const std::size_t cols = layers_[pieces.front().first].cols;
    const linalg::operand gram = gram_operand_.set(of.gram().data(), cols, cols, bf16_);
    prepared_gram_.set(false, gram, gram_rows::piece, rows);
    if (o_.descent_sweeps > 0) damp(of.gram(), cols);

    std::vector<gram_loss> losses(pieces.size());
    std::atomic<bool> stop{false};
    std::atomic<std::int64_t> done{0};
    const std::int64_t all = block_rows();
    tuners_.resize(std::max(tuners_.size(), static_cast<std::size_t>(omp_get_max_threads())));
#pragma omp parallel for schedule(dynamic)
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      if (stop.load(std::memory_order_relaxed)) continue;
      const auto [at, first] = pieces[p];
      const layer_plan& l = layers_[at];
      gram_layer job;
      job.weight = floats_.linears[at].data();
      job.rows = l.rows;
      job.cols = cols;
      job.group_size = l.group_size;
      job.grid = l.grid;
      job.start = l.choice->start;
      if (!initial[at].scale.empty()) job.init_scale = initial[at].scale.data();
      if (!initial[at].minimum.empty()) job.init_minimum = initial[at].minimum.data();
      job.gram = &prepared_gram_;
      job.gram_matrix = damped_.data();
      job.bf16 = bf16_;
      job.cross = of.cross();
      job.cross_inputs = inputs;
      gram_options options;
      options.sweeps = l.grid.whole_zero ? static_cast<int>(o_.descent_sweeps) : 0;  // else numbers are not evenly spaced
      options.iters = o_.iters;
      options.lr = o_.lr.value_or(ar::default_learning_rate(static_cast<int>(o_.iters), l.choice->scheme.bits));
      options.minmax_lr = o_.minmax_lr.value_or(options.lr);
      options.factors = o_.enable_minmax_tuning;
      options.keep_best = !o_.not_use_best_mse;
      const auto thread = static_cast<std::size_t>(omp_get_thread_num());
      const std::size_t n = std::min(gram_rows::piece, job.rows - first);
      // Every thread reports, one at a time, and between iterations as well: a piece may take long, and an interrupt is to be seen there.
      const auto go_on = [&](double loss) {
        if (events_.on_iteration) {
#pragma omp critical(auto_round_gram_events)
          if (!stop && !events_.on_iteration(block_.first_block, o_.iters * (rows_done_ + done) / all, loss)) stop = true;
        }
        return !stop;
      };
      options.go_on = go_on;
      losses[p] = tuners_[thread].run(job, first, n, options, outputs_[at]);
      done += static_cast<std::int64_t>(n);
      go_on(losses[p].kept);
    }
    rows_done_ += static_cast<std::int64_t>(rows);
    if (stop) return fail(error_kind::interrupted, "interrupted while tuning");
    for (const gram_loss& loss : losses) {
      last_stage_.first += loss.first;
      last_stage_.kept += loss.kept;
    }
    for (const int i : stage) {
      const auto at = static_cast<std::size_t>(i);
      if (layers_[at].choice == nullptr) continue;
      use_weight(at, std::move(outputs_[at].weight));
      if (how_ == method::gram) floats_.linears[at] = std::vector<float>();  // not needed any more
    }
    watch.lap(out_.seconds.step);
    return {};
  }

  /// The Gram matrix for sweeps, with a greater diagonal: by the number of inputs for each token, because where tokens are few there are always weights that
  /// fit them and nothing else; and by a hundredth of its mean, as GPTQ's, so that inputs that were hardly ever seen do not carry the repair of others
  /// (tiny-stories: without it some weights of `down` went 0.9 of their size away; KL is the same for up to ten times as much). KL with the former, three
  /// times it, and none: two blocks of SmolLM2-135M, W2 in groups of 64, 3 tokens for each input of the widest layer 0.179, 0.188, 0.222; tiny-stories
  /// W4A16, 256 tokens (less than 1) 1.1e-4, 1.3e-4, 2.3e-4, 2,048 tokens 6.3e-5, 5.5e-5, 6.3e-5.
  void damp(const std::vector<float>& gram, std::size_t cols) {
    damped_ = gram;
    double sum = 0;
    for (std::size_t i = 0; i < cols; ++i) sum += static_cast<double>(gram[i * cols + i]);
    const auto share = static_cast<float>(0.01 * sum / static_cast<double>(cols));
    for (std::size_t i = 0; i < cols; ++i) damped_[i * cols + i] = damped_[i * cols + i] * (1.0f + static_cast<float>(cols) / static_cast<float>(used_tokens_)) + share;
  }

  std::int64_t block_rows() const {
    std::int64_t rows = 0;
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].choice != nullptr) rows += spec_.linears[i].out_features;
    return std::max<std::int64_t>(1, rows);
  }

  method how_;
  const model::weight_source& source_;
  const model::model_spec& spec_;
  const text::calibration_set& set_;
  const layer_choices& choices_;
  const signround_options& o_;
  const tuning_events& events_;
  std::size_t samples_, seqlen_, hidden_, step_;
  bool bf16_;
  model::block_runner runner_;

  // Streams of the calibration set: the quantized model's before a block; the float model's before it and then behind it, relative to that; behind attention.
  activations stream_, float_stream_, middle_;
  std::vector<float> x_, h_, e_, normed_, normed_float_;
  std::vector<char> gathered_;
  operand_rows input_rows_, error_rows_, gram_operand_;
  std::vector<model::mlp_sensitivity> mlp_weights_;  // of each piece, float model
  statistics statistics_[3];  // of a stage, by weighting of the tokens
  std::vector<float> scaled_, scaled_error_;
  kept_rows kept_;
  linalg::prepared prepared_gram_;
  std::vector<float> damped_;  // Gram matrix for sweeps
  std::vector<gram_rows> tuners_;
  signround_options loop_options_;
  std::int64_t tokens_;      // valid ones, at least 1
  std::size_t used_pieces_;  // for statistics
  std::int64_t used_tokens_; // valid ones of those, at least 1

  std::unique_ptr<input_quantizer> inputs_;  // of the block; null where its layers read float rows
  model::block_weights floats_, quantized_;
  std::vector<layer_plan> layers_;
  std::vector<quantized_layer> outputs_;
  block_result block_;
  gram_loss last_stage_;
  std::int64_t rows_done_ = 0;
  tuning_result out_;
};

}  // namespace

bool prefer_gram(const model::model_spec& spec, std::int64_t tokens, std::int64_t iters, int bits) {
  if (bits > 4 || (bits > 2 && iters < 1000)) return true;
  return iters < 50 || tokens < 32 * widest_input(spec);
}

result<void> check_gram(const model::model_spec& spec) {
  if (spec.plain()) return {};
  return fail(error_kind::unsupported, "a " + spec.model_class + " is not laid out as LLaMA; it is tuned by the block loop only (--tuning block)");
}

namespace {

result<tuning_result> run(method how, const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                          const signround_options& options, const tuning_events& events) {
  if (auto r = check_run(source.spec(), calibration, choices, options); !r) return forward_error(r);
  if (options.nblocks != 1 || options.gradient_accumulate_steps != 1 || options.momentum != 0 || options.dynamic_max_gap > 0)
    return fail(error_kind::usage, "nblocks, gradient_accumulate_steps, momentum and dynamic_max_gap belong to tuning by blocks");
  if (options.enable_alg_ext || options.enable_adam || options.enable_norm_bias_tuning)
    return fail(error_kind::usage, "enable_alg_ext, enable_adam and enable_norm_bias_tuning belong to tuning by blocks");
  for (const auto& [name, choice] : choices)
    if (!groups_lie_in_rows(choice.scheme)) return fail(error_kind::unsupported, "layers whose groups span rows are not tuned", {}, name);
  if (auto r = check_gram(source.spec()); !r) return forward_error(r);
  const std::string& head = source.spec().head_name;
  if (choices.count(head.substr(0, head.rfind('.'))) != 0) return fail(error_kind::usage, "the head is tuned by the block loop only");
  try {
    return gram_tuner(how, source, calibration, choices, options, events).run();
  } catch (const std::bad_alloc&) {
    return fail(error_kind::unsupported, "out of memory while tuning; use fewer or shorter calibration samples (nsamples, seqlen)");
  }
}

}  // namespace

result<tuning_result> run_gram(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                               const signround_options& options, const tuning_events& events) {
  return run(method::gram, source, calibration, choices, options, events);
}

result<tuning_result> run_hybrid(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                 const signround_options& options, const tuning_events& events) {
  return run(method::hybrid, source, calibration, choices, options, events);
}

}  // namespace auto_round::tune
