#include "autoscheme/delta_loss.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "autoscheme/fake_quantizer.hpp"
#include "io/record_fields.hpp"
#include "model/block.hpp"
#include "model/head.hpp"
#include "model/linalg.hpp"
#include "tune/activations.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::autoscheme {
namespace {

/// sum |g (a - b)| over a matrix; rows are summed apart, so that threads do not matter.
double weighted_difference(const float* g, const float* a, const float* b, std::size_t rows, std::size_t cols) {
  std::vector<double> sums(rows);
#pragma omp parallel for schedule(static)
  for (std::size_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (std::size_t i = r * cols; i < (r + 1) * cols; ++i) sum += static_cast<double>(std::abs(g[i] * (a[i] - b[i])));
    sums[r] = sum;
  }
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

class scoring {
 public:
  scoring(const model::weight_source& source, const text::calibration_set& set, std::span<const layer> layers,
          std::span<const std::vector<ar::scheme_fields>> schemes, const score_options& options,
          const std::function<result<void>(std::int64_t, std::int64_t)>& on_step)
      : source_(source), spec_(source.spec()), set_(set), layers_(layers), schemes_(schemes), options_(options), on_step_(on_step),
        runner_(spec_, linalg::precision::f32),
        inputs_(options.scratch_folder) {}

  result<score_table> run() {
    find_layers();
    split_batches();
    table_.scores.assign(schemes_.size(), std::vector<double>(layers_.size(), 0.0));
    std::vector<std::size_t> active;
    for (std::size_t o = 0; o < schemes_.size(); ++o)
      if (std::any_of(scored_.begin(), scored_.end(), [&](std::size_t l) { return quantized(o, l); })) active.push_back(o);
    const std::int64_t passes = options_.gradient_at_quantized ? static_cast<std::int64_t>(active.size()) : active.empty() ? 0 : 1;
    steps_ = passes * static_cast<std::int64_t>(batches_.size()) * 2 * spec_.num_layers;
    table_.losses.resize(options_.gradient_at_quantized ? schemes_.size() : active.empty() ? 0 : 1);
    load(static_cast<std::size_t>(passes));
    done_ = static_cast<std::int64_t>(from_.pass * batches_.size() + from_.batch) * 2 * spec_.num_layers;
    for (std::size_t p = from_.pass; p < static_cast<std::size_t>(passes); ++p) {
      if (options_.gradient_at_quantized) at_ = active[p];
      if (auto r = run_batches(p, options_.gradient_at_quantized ? std::vector{at_} : active); !r) return forward_error(r);
    }
    return std::move(table_);
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  struct batch {
    std::size_t first = 0, rows = 0;
  };
  /// Behind what a pass has come to its end: batches, and blocks of the backward half of one.
  struct position {
    std::uint64_t pass = 0, batch = 0, left = 0;  // blocks of the batch that are not scored; all of them: it has not begun
    double loss = 0;                              // of a batch that has
  };

  void find_layers() {
    std::unordered_map<std::string, std::size_t> by_name;
    for (std::size_t l = 0; l < layers_.size(); ++l)
      if (!layers_[l].fixed && !layers_[l].embedding) by_name[layers_[l].name] = l;
    const auto find = [&](const std::string& name) {
      const auto at = by_name.find(name);
      if (at == by_name.end()) return none;
      scored_.push_back(at->second);
      return at->second;
    };
    number_.resize(static_cast<std::size_t>(spec_.num_layers));
    for (std::int64_t b = 0; b < spec_.num_layers; ++b)
      for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i)
        number_[static_cast<std::size_t>(b)].push_back(spec_.has_linear(b, i) ? find(spec_.linear_name(b, i)) : none);
    if (!spec_.tie_word_embeddings) head_ = find(spec_.head_name.substr(0, spec_.head_name.rfind('.')));
  }

  void split_batches() {
    std::size_t first = 0;
    for (const std::int64_t rows : set_.batch_rows) {
      if (rows > 0) batches_.push_back({first, static_cast<std::size_t>(rows)});
      first += static_cast<std::size_t>(rows);
    }
    if (set_.batch_rows.empty()) batches_.push_back({0, static_cast<std::size_t>(set_.rows())});
  }

  bool quantized(std::size_t option, std::size_t l) const { return l != none && schemes_[option][l].bits < 16; }
  const ar::scheme_fields* activations_of(std::size_t option, std::size_t l) const {
    return quantized(option, l) && tune::quantizes_activations(schemes_[option][l]) ? &schemes_[option][l] : nullptr;
  }
  result<std::vector<float>> round(std::size_t option, std::size_t l, const std::vector<float>& weight) const {
    const ar::scheme_fields& scheme = schemes_[option][l];
    const auto rows = static_cast<std::size_t>(layers_[l].rows), cols = static_cast<std::size_t>(layers_[l].cols);
    if (!options_.searched || !options_.searched(scheme)) return fake_quantize_weight(weight.data(), layers_[l].name, scheme, rows, cols);
    const std::vector<float> importance = options_.importance == nullptr ? std::vector<float>() : tune::importance_of(*options_.importance, layers_[l].name);
    auto searched = tune::quantize_layer(weight.data(), layers_[l].name, scheme, rows, cols, {.scale_type = options_.scale_type, .search = true, .importance = importance});
    if (!searched) return forward_error(searched);
    return std::move(searched->weight);
  }

  result<void> step() {
    ++done_;
    return on_step_ ? on_step_(done_, steps_) : result<void>{};
  }

  std::size_t blocks() const { return static_cast<std::size_t>(spec_.num_layers); }
  std::size_t stream_size(const batch& b) const { return b.rows * static_cast<std::size_t>(set_.seqlen * spec_.hidden_size); }

  /// f(field) for the numbers of a state: one list for both directions.
  template <class F>
  static void each_number(position& at, const F& f) {
    f(at.pass), f(at.batch), f(at.left), f(at.loss);
  }

  /// Scores so far, and the gradient `d` from which the batch's next block goes on.
  void save(position at, const std::vector<float>& d) {
    if (at.left == 0) at = at.batch + 1 < batches_.size() ? position{at.pass, at.batch + 1, blocks()} : position{at.pass + 1, 0, blocks()};
    const auto bytes = std::as_bytes(at.left < blocks() ? std::span(d) : std::span<const float>());
    if (!options_.kept->is_due(bytes.size())) return;
    io::record_writer numbers;
    each_number(at, [&](const auto& x) { numbers.put(x); });
    for (const auto* lists : {&table_.scores, &table_.losses})
      for (const std::vector<double>& list : *lists) numbers.put_all(list);
    // Without a file the scores are as good, only an interruption is dear.
    static_cast<void>(options_.kept->save(numbers.take(), bytes.size(), [&](std::uint64_t first, std::span<std::byte> piece) {
      std::ranges::copy(bytes.subspan(static_cast<std::size_t>(first), piece.size()), piece.begin());
    }));
  }

  /// Where an earlier pass was cut short; nothing is changed if there is none, or something else.
  void load(std::size_t passes) {
    from_.left = blocks();
    const auto numbers = options_.kept == nullptr ? std::nullopt : options_.kept->numbers();
    if (!numbers) return;
    io::record_reader in(*numbers);
    position at;
    score_table table = table_;
    each_number(at, [&](auto& x) { in.get(x); });
    for (auto* lists : {&table.scores, &table.losses})
      for (std::vector<double>& list : *lists) in.get_all(list);
    if (!in.done() || at.pass >= passes || at.batch >= batches_.size() || at.left == 0 || at.left > blocks()) return;
    if (!std::ranges::all_of(table.scores, [&](const auto& list) { return list.size() == layers_.size(); })) return;
    std::vector<float> d(at.left < blocks() ? stream_size(batches_[static_cast<std::size_t>(at.batch)]) : 0);
    const auto bytes = std::as_writable_bytes(std::span(d));
    if (!options_.kept->stream(bytes.size(), [&](std::uint64_t first, std::span<const std::byte> piece) {
          std::ranges::copy(piece, bytes.begin() + static_cast<std::ptrdiff_t>(first));
        }))
      return;
    from_ = at;
    from_gradient_ = std::move(d);
    table_ = std::move(table);
  }

  result<void> run_batches(std::size_t pass, const std::vector<std::size_t>& options) {
    for (std::size_t b = pass == from_.pass ? static_cast<std::size_t>(from_.batch) : 0; b < batches_.size(); ++b) {
      if (auto r = run_batch({pass, b, blocks()}, options); !r) return r;
    }
    return {};
  }

  /// Forward with the inputs of all blocks kept, then backward block by block.
  result<void> run_batch(position at, const std::vector<std::size_t>& options) {
    const batch& b = batches_[static_cast<std::size_t>(at.batch)];
    const auto seqlen = static_cast<std::size_t>(set_.seqlen), hidden = static_cast<std::size_t>(spec_.hidden_size), tokens = b.rows * seqlen;
    const std::span<const std::int32_t> ids(set_.ids.data() + b.first * seqlen, tokens);
    std::span<const std::uint8_t> valid;
    if (!set_.valid.empty()) valid = {set_.valid.data() + b.first * seqlen, tokens};
    auto x = model::embed(source_, ids, seqlen);
    if (!x) return forward_error(x);
    if (auto r = inputs_.reset(blocks(), tokens * hidden, false); !r) return forward_error(r);
    for (std::size_t l = 0; l < blocks(); ++l) {
      auto w = read_rounded(l, nullptr);
      if (!w) return forward_error(w);
      filter_inputs(l);
      inputs_.store(l, 1, x->data());
      runner_.forward_train(*w, x->data(), b.rows, seqlen, x->data());  // not in pieces: a filter may need the largest value of the batch
      runner_.set_input_filter({});
      if (!filtered_) return forward_error(std::exchange(filtered_, {}));
      source_.done_with_block(static_cast<std::int64_t>(l));
      if (auto r = step(); !r) return forward_error(r);
    }
    std::vector<float> d;
    if (!from_gradient_.empty()) {
      at = from_;
      d = std::exchange(from_gradient_, {});
      done_ += static_cast<std::int64_t>(blocks() - at.left);
    } else {
      d.resize(tokens * hidden);
      auto loss = score_head(options, x->data(), ids, valid, seqlen, d.data());
      if (!loss) return forward_error(loss);
      at.loss = *loss;
    }
    std::vector<double>& losses = table_.losses[options_.gradient_at_quantized ? at_ : 0];
    if (options_.scratch_folder.empty()) *x = {};  // inputs in memory are read where they lie
    while (at.left > 0) {
      const auto l = static_cast<std::size_t>(--at.left);
      const float* const input = inputs_.row(l, 0, tokens * hidden, x->data());
      if (auto r = inputs_.state(); !r) return forward_error(r);
      if (auto r = score_block(options, l, input, b.rows, seqlen, d.data()); !r) return forward_error(r);
      source_.done_with_block(static_cast<std::int64_t>(l));
      if (l == 0) losses.push_back(at.loss);
      if (options_.kept != nullptr && done_ + 1 < steps_) save(at, d);
      if (auto r = step(); !r) return forward_error(r);
    }
    return {};
  }

  /// The block with the weights of the point at which gradients are taken; `original` receives the float weights of the layers that are rounded.
  result<model::block_weights> read_rounded(std::size_t block, std::vector<std::vector<float>>* original) const {
    auto w = model::read_block(source_, static_cast<std::int64_t>(block));
    if (!w || !options_.gradient_at_quantized) return w;
    if (original != nullptr) original->resize(w->linears.size());
    for (std::size_t i = 0; i < w->linears.size(); ++i) {
      const std::size_t l = number_[block][i];
      if (!quantized(at_, l)) continue;
      auto rounded = round(at_, l, w->linears[i]);
      if (!rounded) return forward_error(rounded);
      if (original != nullptr) (*original)[i] = std::move(w->linears[i]);
      w->linears[i] = std::move(*rounded);
    }
    return w;
  }

  /// Rounds the inputs of the block's layers where the point asks for it.
  void filter_inputs(std::size_t block) {
    if (!options_.gradient_at_quantized) return;
    const std::vector<std::size_t>& numbers = number_[block];
    // Layers that share their input share its scheme too, except that a member may be kept in float.
    std::vector<const ar::scheme_fields*> schemes(numbers.size(), nullptr);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const ar::scheme_fields*& first = schemes[static_cast<std::size_t>(spec_.reader(static_cast<int>(i)))];
      if (first == nullptr) first = activations_of(at_, numbers[i]);
    }
    if (std::none_of(schemes.begin(), schemes.end(), [](const auto* s) { return s != nullptr; })) return;
    runner_.set_input_filter([this, schemes](int linear, float* rows, std::size_t tokens) {
      const ar::scheme_fields* const s = schemes[static_cast<std::size_t>(linear)];
      if (s == nullptr || !filtered_) return;
      filtered_ = tune::fake_quantize_activations(rows, *s, tokens, static_cast<std::size_t>(spec_.linears[static_cast<std::size_t>(linear)].in_features), ar::real::bf16);
    });
  }

  result<double> score_head(const std::vector<std::size_t>& options, const float* x, std::span<const std::int32_t> ids, std::span<const std::uint8_t> valid,
                            std::size_t seqlen, float* d) {
    auto head = model::read_head(source_);
    if (!head) return forward_error(head);
    const bool wanted = std::any_of(options.begin(), options.end(), [&](std::size_t o) { return quantized(o, head_); });
    std::vector<float> original, gradient(wanted ? head->weight.size() : 0);
    if (wanted && options_.gradient_at_quantized) {
      auto rounded = round(at_, head_, head->weight);
      if (!rounded) return forward_error(rounded);
      original = std::exchange(head->weight, std::move(*rounded));
    }
    const double loss = model::causal_loss(*head, x, ids, valid, seqlen, d, wanted ? gradient.data() : nullptr);
    if (!wanted) return loss;
    if (options_.gradient_at_quantized) {
      table_.scores[at_][head_] += weighted_difference(gradient.data(), original.data(), head->weight.data(), head->vocab, head->hidden);
      return loss;
    }
    if (auto r = add_scores(options, head_, head->weight, gradient.data()); !r) return forward_error(r);
    return loss;
  }

  /// From a weight of the float model and its gradient, for all options.
  result<void> add_scores(const std::vector<std::size_t>& options, std::size_t l, const std::vector<float>& weight, const float* gradient) {
    for (const std::size_t o : options) {
      if (!quantized(o, l)) continue;
      auto rounded = round(o, l, weight);
      if (!rounded) return forward_error(rounded);
      table_.scores[o][l] += weighted_difference(gradient, weight.data(), rounded->data(), static_cast<std::size_t>(layers_[l].rows), static_cast<std::size_t>(layers_[l].cols));
    }
    return {};
  }

  /// Forward again, activations in float, then backward: `d` is the gradient of the block's output and becomes that of its input.
  result<void> score_block(const std::vector<std::size_t>& options, std::size_t block, const float* input, std::size_t rows, std::size_t seqlen, float* d) {
    std::vector<std::vector<float>> original;
    auto w = read_rounded(block, &original);
    if (!w) return forward_error(w);
    const std::vector<std::size_t>& numbers = number_[block];
    std::vector<std::vector<float>> gradients(numbers.size());
    std::vector<float*> pointers(numbers.size(), nullptr);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (std::none_of(options.begin(), options.end(), [&](std::size_t o) { return quantized(o, numbers[i]); })) continue;
      gradients[i].resize(w->linears[i].size());
      pointers[i] = gradients[i].data();
    }
    output_.resize(rows * seqlen * static_cast<std::size_t>(spec_.hidden_size));
    runner_.forward_train(*w, input, rows, seqlen, output_.data());
    result<void> scored;
    const auto score_activations = [&](int linear, const float* dy, const float* x, std::size_t tokens) {
      if (scored) scored = add_activation_scores(options, numbers[static_cast<std::size_t>(linear)], *w, linear, dy, x, tokens);
    };
    model::block_runner::gradient_hook hook;
    if (options_.activations && std::any_of(options.begin(), options.end(), [&](std::size_t o) {
          return std::any_of(numbers.begin(), numbers.end(), [&](std::size_t l) { return activations_of(o, l) != nullptr; });
        }))
      hook = score_activations;
    d_input_.resize(output_.size());
    runner_.backward(*w, d, pointers, false, d_input_.data(), hook);
    if (!scored) return scored;
    std::copy(d_input_.begin(), d_input_.end(), d);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (pointers[i] == nullptr) continue;
      const std::size_t l = numbers[i];
      if (options_.gradient_at_quantized) {
        table_.scores[at_][l] += weighted_difference(pointers[i], original[i].data(), w->linears[i].data(), static_cast<std::size_t>(layers_[l].rows),
                                                     static_cast<std::size_t>(layers_[l].cols));
      } else if (auto r = add_scores(options, l, w->linears[i], pointers[i]); !r) {
        return r;
      }
    }
    return {};
  }

  /// sum |dL/dx (x - x')| over the rows x that a layer reads, of what reaches the loss through this layer.
  result<void> add_activation_scores(const std::vector<std::size_t>& options, std::size_t l, const model::block_weights& w, int linear, const float* dy,
                                     const float* x, std::size_t tokens) {
    if (std::none_of(options.begin(), options.end(), [&](std::size_t o) { return activations_of(o, l) != nullptr; })) return {};
    const auto rows = static_cast<std::size_t>(layers_[l].rows), cols = static_cast<std::size_t>(layers_[l].cols);
    std::vector<float> dx(tokens * cols), rounded(tokens * cols);
    linalg::gemm_nn({dy, tokens, rows, rows}, {w.linears[static_cast<std::size_t>(linear)].data(), rows, cols, cols}, dx.data(), cols);
    for (const std::size_t o : options) {
      const ar::scheme_fields* const s = activations_of(o, l);
      if (s == nullptr) continue;
      std::copy_n(x, rounded.size(), rounded.data());
      if (auto r = tune::fake_quantize_activations(rounded.data(), *s, tokens, cols, ar::real::bf16); !r) return r;
      table_.scores[o][l] += weighted_difference(dx.data(), x, rounded.data(), tokens, cols);
    }
    return {};
  }

  const model::weight_source& source_;
  const model::model_spec& spec_;
  const text::calibration_set& set_;
  std::span<const layer> layers_;
  std::span<const std::vector<ar::scheme_fields>> schemes_;
  const score_options& options_;
  const std::function<result<void>(std::int64_t, std::int64_t)>& on_step_;
  model::block_runner runner_;
  std::vector<std::vector<std::size_t>> number_;  // of the layer, by block and linear; none if it is not scored
  std::size_t head_ = none;
  std::vector<std::size_t> scored_;
  std::vector<batch> batches_;
  std::size_t at_ = 0;  // the option at whose point gradients are taken
  tune::activations inputs_;  // of all blocks, for a batch
  std::vector<float> output_, d_input_;
  result<void> filtered_;
  score_table table_;
  std::int64_t done_ = 0, steps_ = 0;
  position from_;                     // of the pass that goes on
  std::vector<float> from_gradient_;  // of its batch, if that has begun
};

}  // namespace

result<score_table> delta_loss(const model::weight_source& source, const text::calibration_set& set, std::span<const layer> layers,
                               std::span<const std::vector<ar::scheme_fields>> schemes, const score_options& options,
                               const std::function<result<void>(std::int64_t, std::int64_t)>& on_step) {
  for (const std::vector<ar::scheme_fields>& s : schemes)
    if (s.size() != layers.size()) return fail(error_kind::internal, "each layer needs a scheme under each option");
  if (set.rows() == 0 || set.seqlen < 2) return fail(error_kind::input, "there is no calibration text to score with");
  return scoring(source, set, layers, schemes, options, on_step).run();
}

}  // namespace auto_round::autoscheme
