#include "tune/gram.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "ar/tune.hpp"
#include "model/block.hpp"
#include "model/kernels.hpp"
#include "tune/block_loop.hpp"
#include "tune/gram_rows.hpp"
#include "tune/run_parts.hpp"
#include "tune/stopwatch.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

constexpr std::size_t piece_tokens = 2048;  // worked on at once
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
    full_ = false;
  }
  /// Pieces are kept and asked for in one order; once one does not fit, no later one is kept.
  void keep(const linalg::operand& rows) {
    const std::size_t n = rows.rows * rows.cols * (rows.bf16 ? 2 : 4);
    if (full_ || n > limit_ - bytes_) {
      full_ = true;
      return;
    }
    const char* const from = static_cast<const char*>(rows.data);
    pieces_.emplace_back(rows, std::vector<char>(from, from + n));
    bytes_ += n;
  }
  /// Empty if that piece was not kept.
  std::optional<linalg::operand> get(std::size_t piece) const {
    if (piece >= pieces_.size()) return std::nullopt;
    linalg::operand rows = pieces_[piece].first;
    rows.data = pieces_[piece].second.data();
    return rows;
  }

 private:
  std::vector<std::pair<linalg::operand, std::vector<char>>> pieces_;
  std::size_t limit_, bytes_ = 0;
  bool full_ = false;
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

  /// Fills in what follows from symmetry.
  void finish() {
    if (empty_) {
      std::ranges::fill(gram_, 0.0f);
      std::ranges::fill(cross_, 0.0f);
    }
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < inputs_; ++i)
      for (std::size_t j = 0; j < i / gram_step * gram_step; ++j) gram_[i * inputs_ + j] = gram_[j * inputs_ + i];
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

/// Tokens count alike, or by how much an error of their query or key disturbs the output of attention.
enum weighting : std::size_t { plain, by_query, by_key };

/// gram: layer by layer. hybrid: all layers of a block by its loop on small batches, then `down` once more.
enum class method { gram, hybrid };

/// Options of the hybrid's loop. Measured on tiny-stories (docs/design.md): an eighth of the batch is enough if each step also remembers the batches before
/// it, and ranges want smaller steps than rounding offsets. Losses of so small batches do not tell iterates apart, so the last one counts.
signround_options small_batches(signround_options o) {
  o.batch_size = std::max<std::int64_t>(1, o.batch_size / 8);
  o.momentum = 0.5;
  o.minmax_lr_share = 0.5;
  o.not_use_best_mse = true;
  return o;
}

std::int64_t valid_tokens(const text::calibration_set& set) {
  return std::ranges::count_if(set.valid, [](auto v) { return v != 0; });
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
        x_(step_ * sample_size()),
        h_(step_ * sample_size()),
        e_(step_ * sample_size()),
        kept_(options.kept_bytes),
        loop_options_(small_batches(options)),
        tokens_(std::max<std::int64_t>(1, valid_tokens(calibration))) {}

  result<tuning_result> run() {
    stopwatch watch;
    if (auto r = embed_calibration(source_, set_, o_.bf16_activations, float_stream_); !r) return forward_error(r);
    if (how_ == method::gram) middle_.reset(samples_, sample_size(), o_.bf16_activations);
    stream_.reset(samples_, sample_size(), o_.bf16_activations);
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
    outputs_.assign(count, {});
    quantized_ = floats_.without_linears();
    quantized_.linears_bf16.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const layer_plan& l = layers_[i];
      if (l.choice == nullptr) use_weight(i, floats_.linears[i]);
      else size_output(l.name, l.choice->scheme, l.grid, l.rows, l.cols, l.group_size, outputs_[i]);
    }
    return {};
  }

  const layer_plan& plan_of(int linear) const { return layers_[static_cast<std::size_t>(linear)]; }

  /// What the quantized model computes with from now on.
  void use_weight(std::size_t i, const std::vector<float>& weight) {
    if (!bf16_) {
      quantized_.linears[i] = weight;
      return;
    }
    quantized_.linears_bf16[i].resize(weight.size());
    linalg::to_bf16(weight.data(), weight.size(), quantized_.linears_bf16[i].data());
  }

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
    run_float_block(how_ == method::gram && tuned(qkv), same_input);
    watch.lap(seconds.reference);
    if (how_ == method::hybrid) {
      if (auto r = tune_together(); !r) return r;
      watch = {};
      finish_attention(false);
      watch.lap(seconds.forward);
    } else {
      // Behind a norm of each head a row's error counts by what the norm makes of it, which the weights of tokens do not know.
      const bool normed = spec_.has_part(model::block_part::query_norm);
      for (const auto& [linear, weighted] : {std::pair{spec_.q, by_query}, {spec_.k, by_key}, {spec_.v, plain}})
        if (auto r = tune({linear}, true, normed ? plain : weighted); !r) return r;
      watch = {};
      if (tuned(o)) collect_attended();
      watch.lap(seconds.forward);
      if (auto r = tune(o, false); !r) return r;
      watch = {};
      finish_attention(tuned(gate_up));
      watch.lap(seconds.forward);
      if (auto r = tune(gate_up, true); !r) return r;
      watch = {};
    }
    const double remaining = collect_gated(tuned(down));
    watch.lap(seconds.forward);
    if (auto r = tune(down, false); !r) return r;
    watch = {};
    const double scale = 1.0 / (static_cast<double>(tokens_) * static_cast<double>(hidden_));
    block_.first_loss = (remaining + last_stage_.first) * scale;
    block_.best_loss = (remaining + last_stage_.kept) * scale;
    block_.best_iteration = block_.iterations = o_.iters;
    if (o_.enable_quanted_input && index + 1 < spec_.num_layers) finish_block();
    watch.lap(seconds.propagate);

    std::vector<quantized_layer> done;
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].choice != nullptr) done.push_back(std::move(outputs_[i]));
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
      use_weight(i, (*layer)->weight);
    }
    run_float_block(false, same_input);
    watch.lap(out_.seconds.reference);
    if (o_.enable_quanted_input && index + 1 < spec_.num_layers) {
      finish_attention(false);
      kept_.clear();
      finish_block();
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

  /// All layers of the block by the block loop. Every block begins with a new generator, so blocks do not depend on how many came before.
  result<void> tune_together() {
    if (block_.quantized == 0) return {};
    block_loop loop(spec_, set_, loop_options_, events_);
    std::vector<tuned_block> unit(1);
    tuned_block& block = unit.front();
    block.floats = std::move(floats_);
    if (auto r = loop.prepare(layers_, block, block_.first_block); !r) return r;
    block_result loop_result;
    loop_result.first_block = block_.first_block;
    if (auto r = loop.run(unit, stream_, float_stream_, samples_, loop_result, out_.seconds); !r) return r;
    std::vector<quantized_layer> done = loop.quantize(unit);
    auto next = done.begin();
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].choice != nullptr) outputs_[i] = std::move(*next++);
    quantized_ = std::move(block.quantized);
    floats_ = std::move(block.floats);
    const auto down = static_cast<std::size_t>(spec_.down);
    rows_done_ = block_rows() - (layers_[down].choice == nullptr ? 0 : spec_.linears[down].out_features);
    return {};
  }

  // ---- passes over the calibration set ----

  /// f(first sample, samples, tokens), piece by piece.
  template <class F>
  void for_pieces(const F& f) {
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

  /// Adds rows of inputs and errors (null for none; [tokens x errors]) to the statistics, those of valid tokens, which are moved to the front.
  /// Returns their number.
  std::size_t collect(std::size_t first_sample, std::size_t tokens, float* x, std::size_t inputs, float* e, std::size_t errors) {
    const std::size_t n = keep_valid(first_sample, tokens, inputs, x);
    if (e != nullptr) keep_valid(first_sample, tokens, errors, e);
    add(statistics_[plain], x, n, inputs, e, errors);
    return n;
  }
  void add(statistics& to, const float* x, std::size_t n, std::size_t inputs, const float* e, std::size_t errors) {
    const linalg::operand left = e == nullptr ? linalg::operand{} : error_rows_.set(e, n, errors, bf16_);
    to.add(input_rows_.set(x, n, inputs, bf16_), left);
  }
  /// The same for inputs that are an operand already.
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

  void norm(const std::vector<float>& weight, const model::row_rotation* by, const float* x, std::size_t tokens, std::vector<float>& out) const {
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
                      model::attention_sensitivity* sensitivity = nullptr) {
    const std::vector<float>& weight = attention ? floats_.input_norm : floats_.post_attention_norm;
    const model::row_rotation* by = nullptr;
    if (floats_.rotations != nullptr) by = (attention ? floats_.rotations->attention_input : floats_.rotations->mlp_input).get();
    norm(weight, by, quantized, tokens, normed_);
    float* error = nullptr;
    if (quantized != floating) {
      norm(weight, by, floating, tokens, normed_float_);
      subtract(normed_.data(), normed_float_.data(), tokens, normed_float_.data());
      error = normed_float_.data();
    }
    const std::size_t n = collect(first, tokens, normed_.data(), hidden_, error, hidden_);
    if (sensitivity == nullptr) return;
    keep_valid(first, tokens, 1, sensitivity->query.data());
    keep_valid(first, tokens, 1, sensitivity->key.data());
    add_weighted(statistics_[by_query], n, error, sensitivity->query);
    add_weighted(statistics_[by_key], n, error, sensitivity->key);
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

  /// The float model's stream goes from before the block to behind it, and leaves what it is behind attention; statistics of q, k, v.
  void run_float_block(bool statistics, bool same_input) {
    if (statistics)
      for (auto& s : statistics_) s.reset(hidden_, same_input ? 0 : hidden_);
    model::attention_sensitivity sensitivity;
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      sensitivity.counts = set_.valid.data() + first * seqlen_;
      float_stream_.load(first, n, x_.data());
      if (same_input) stream_.store(first, n, x_.data());
      const linalg::operand attended = runner_.attend(floats_, x_.data(), n, seqlen_, statistics ? &sensitivity : nullptr);
      runner_.add_linear(floats_, spec_.o, attended, x_.data(), h_.data());
      if (how_ == method::gram) middle_.store(first, n, h_.data());
      if (statistics && same_input) collect_normed(first, tokens, true, x_.data(), x_.data(), &sensitivity);
      if (statistics && !same_input) {
        stream_.load(first, n, e_.data());
        collect_normed(first, tokens, true, e_.data(), x_.data(), &sensitivity);
      }
      runner_.add_linear(floats_, spec_.down, runner_.gate(floats_, h_.data(), tokens), h_.data(), h_.data());
      float_stream_.store(first, n, h_.data());
    });
  }

  /// Statistics of o.
  void collect_attended() {
    statistics_[plain].reset(plan_of(spec_.o).cols, hidden_);
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      stream_.load(first, n, x_.data());
      const linalg::operand attended = runner_.attend(quantized_, x_.data(), n, seqlen_);
      kept_.keep(attended);
      runner_.add_linear(floats_, spec_.o, attended, x_.data(), h_.data());
      middle_.load(first, n, e_.data());
      subtract(h_.data(), e_.data(), tokens, e_.data());
      collect(first, tokens, attended, e_.data(), hidden_);
    });
  }

  /// The quantized model's stream goes behind attention; statistics of gate and up.
  void finish_attention(bool statistics) {
    if (statistics) statistics_[plain].reset(hidden_, hidden_);
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      stream_.load(first, n, x_.data());
      auto attended = kept_.get(first / step_);
      if (!attended) attended = runner_.attend(quantized_, x_.data(), n, seqlen_);
      runner_.add_linear(quantized_, spec_.o, *attended, x_.data(), h_.data());
      stream_.store(first, n, h_.data());
      if (!statistics) return;
      middle_.load(first, n, e_.data());
      collect_normed(first, tokens, false, h_.data(), e_.data());
    });
  }

  /// Statistics of down; the squared error of the block's output that its float weight would leave.
  double collect_gated(bool statistics) {
    if (statistics) statistics_[plain].reset(plan_of(spec_.down).cols, hidden_);
    double remaining = 0;
    std::vector<double> errors;
    kept_.clear();
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      stream_.load(first, n, x_.data());
      const linalg::operand gated = runner_.gate(quantized_, x_.data(), tokens);
      kept_.keep(gated);
      runner_.add_linear(floats_, spec_.down, gated, x_.data(), h_.data());
      float_stream_.load(first, n, e_.data());
      subtract(h_.data(), e_.data(), tokens, e_.data());
      errors.assign(tokens, 0.0);
#pragma omp parallel for schedule(static)
      for (std::size_t t = 0; t < tokens; ++t)
        if (set_.valid[first * seqlen_ + t] != 0) errors[t] = static_cast<double>(kernels::dot(e_.data() + t * hidden_, e_.data() + t * hidden_, hidden_));
      for (double e : errors) remaining += e;
      if (statistics) collect(first, tokens, gated, e_.data(), hidden_);
    });
    return remaining;
  }

  /// The quantized model's stream goes behind the block.
  void finish_block() {
    for_pieces([&](std::size_t first, std::size_t n, std::size_t tokens) {
      stream_.load(first, n, x_.data());
      auto gated = kept_.get(first / step_);
      if (!gated) gated = runner_.gate(quantized_, x_.data(), tokens);
      runner_.add_linear(quantized_, spec_.down, *gated, x_.data(), h_.data());
      stream_.store(first, n, h_.data());
    });
  }

  // ---- a stage ----

  /// Tunes the layers of a stage from the statistics; `inputs`: their cross term is that of an error of the inputs.
  result<void> tune(std::initializer_list<int> stage, bool inputs, weighting by = plain) {
    statistics& of = statistics_[by];
    last_stage_ = {};
    if (!tuned(stage)) return {};
    stopwatch watch;
    of.finish();
    std::size_t rows = 0;
    std::vector<std::pair<std::size_t, std::size_t>> pieces;  // layer, first row
    for (const int i : stage) {
      const auto at = static_cast<std::size_t>(i);
      if (layers_[at].choice == nullptr) continue;
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
      job.gram = &prepared_gram_;
      job.gram_matrix = damped_.data();
      job.bf16 = bf16_;
      job.cross = of.cross();
      job.cross_inputs = inputs;
      gram_options options;
      options.sweeps = l.grid.whole_zero ? static_cast<int>(o_.descent_sweeps) : 0;  // else numbers are not evenly spaced
      options.iters = options.sweeps > 0 ? std::max<std::int64_t>(1, o_.iters / 4) : o_.iters;
      const double longer = static_cast<double>(o_.iters) / static_cast<double>(options.iters);  // steps, so that they reach as far
      options.lr = longer * o_.lr.value_or(ar::default_learning_rate(static_cast<int>(o_.iters), l.choice->scheme.bits));
      options.minmax_lr = o_.minmax_lr ? longer * *o_.minmax_lr : options.lr;
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
      if (layers_[at].choice != nullptr) use_weight(at, outputs_[at].weight);
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
    for (std::size_t i = 0; i < cols; ++i) damped_[i * cols + i] = damped_[i * cols + i] * (1.0f + static_cast<float>(cols) / static_cast<float>(tokens_)) + share;
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

  // Streams of the calibration set: the float model's before a block and then behind it, behind its attention, and the quantized model's.
  activations float_stream_, middle_, stream_;
  std::vector<float> x_, h_, e_, normed_, normed_float_;
  std::vector<char> gathered_;
  operand_rows input_rows_, error_rows_, gram_operand_;
  statistics statistics_[3];  // of a stage, by weighting of the tokens
  std::vector<float> scaled_, scaled_error_;
  kept_rows kept_;
  linalg::prepared prepared_gram_;
  std::vector<float> damped_;  // Gram matrix for sweeps
  std::vector<gram_rows> tuners_;
  signround_options loop_options_;
  std::int64_t tokens_;  // valid ones, at least 1

  model::block_weights floats_, quantized_;
  std::vector<layer_plan> layers_;
  std::vector<quantized_layer> outputs_;
  block_result block_;
  gram_loss last_stage_;
  std::int64_t rows_done_ = 0;
  tuning_result out_;
};

}  // namespace

bool prefer_gram(const model::model_spec& spec, const text::calibration_set& calibration, std::int64_t iters, int bits) {
  if (bits > 2) return true;
  std::int64_t widest = 1;
  for (const model::linear_desc& d : spec.linears) widest = std::max(widest, d.in_features);
  return iters < 50 || valid_tokens(calibration) < 32 * widest;
}

namespace {

result<tuning_result> run(method how, const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                          const signround_options& options, const tuning_events& events) {
  if (auto r = check_run(source.spec(), calibration, choices, options); !r) return forward_error(r);
  if (options.nblocks != 1 || options.gradient_accumulate_steps != 1 || options.momentum != 0 || options.dynamic_max_gap > 0)
    return fail(error_kind::usage, "nblocks, gradient_accumulate_steps, momentum and dynamic_max_gap belong to tuning by blocks");
  if (options.enable_alg_ext || options.enable_adam || options.enable_norm_bias_tuning)
    return fail(error_kind::usage, "enable_alg_ext, enable_adam and enable_norm_bias_tuning belong to tuning by blocks");
  if (auto r = require_rows(choices); !r) return forward_error(r);
  if (!source.spec().plain()) return fail(error_kind::unsupported, "a " + source.spec().model_class + " is not laid out as LLaMA; it is tuned by the block loop only");
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
