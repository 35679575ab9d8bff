// Everything happens in the model's own basis: behind rotations L and R a layer computes with W' = L Q(L^T W R) R^T, Q being the rounding, so
// embeddings, norms and the stream need not be touched, and W' = W if nothing is rounded.
#include "transform/spinquant.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "ar/tune.hpp"
#include "io/record_fields.hpp"
#include "model/block.hpp"
#include "model/head.hpp"
#include "model/kernels.hpp"
#include "model/linalg.hpp"
#include "transform/orthogonal.hpp"
#include "tune/activations.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::transform {
namespace {

using matrix = std::vector<float>;

linalg::operand view(const matrix& m, std::size_t rows, std::size_t cols) { return {m.data(), rows, cols, cols, false}; }

/// An orthogonal matrix of order n that acts on consecutive chunks of n values.
struct chunked {
  const matrix* m = nullptr;  // null: identity
  std::size_t n = 0;
};

/// x R, chunk by chunk; x [rows x cols].
matrix times(const matrix& x, const chunked& r, bool transposed) {
  if (r.m == nullptr) return x;
  matrix y(x.size());
  if (transposed)
    linalg::gemm_nt(view(x, x.size() / r.n, r.n), view(*r.m, r.n, r.n), y.data(), r.n);
  else
    linalg::gemm_nn(view(x, x.size() / r.n, r.n), view(*r.m, r.n, r.n), y.data(), r.n);
  return y;
}

/// L x or L^T x, chunk by chunk of rows.
matrix left(const chunked& l, const matrix& x, std::size_t rows, bool transposed) {
  if (l.m == nullptr) return x;
  const std::size_t cols = x.size() / rows;
  matrix y(x.size());
  for (std::size_t r = 0; r < rows; r += l.n) {
    const linalg::operand part{x.data() + r * cols, l.n, cols, cols, false};
    if (transposed)
      linalg::gemm_tn(view(*l.m, l.n, l.n), part, y.data() + r * cols, cols);
    else
      linalg::gemm_nn(view(*l.m, l.n, l.n), part, y.data() + r * cols, cols);
  }
  return y;
}

/// Rounding to nearest as the tuner does it at its start, and where its gradient goes.
class rounding {
 public:
  /// `zeros` has room for rows x cols of any layer.
  rounding(const tune::layer_choice& choice, std::size_t rows, std::size_t cols, matrix& zeros) : rows_(rows), cols_(cols), zeros_(zeros) {
    if (const auto grid = tune::grid_of(choice.scheme, choice.scale_type))
      grid_ = *grid;
    else
      return;
    known_ = true;
    grid_.clamp = ar::clamp_gradient::closed;
    grid_.scale_grad = ar::scale_gradient::f32;
    group_ = tune::resolve_group_size(static_cast<int>(choice.scheme.group_size), cols);
    groups_ = ar::ceil_div(cols, group_);
    if (zeros_.size() < rows * cols) zeros_.assign(rows * cols, 0.0f);
    ones_.assign(rows * groups_, 1.0f);
    low_.resize(rows * groups_), high_.resize(rows * groups_);
  }
  bool known() const { return known_; }

  matrix operator()(const matrix& w) {
    static_cast<void>(ar::group_extrema({w.data(), rows_, cols_}, group_, low_.data(), high_.data()));
    matrix q(w.size());
    tune::tune_kernels().fake_quantize(grid_, layer(w), 0, rows_, q.data());
    return q;
  }

  /// dL/dw from dL/dq. The largest and the smallest value of a group set its step.
  matrix gradient(const matrix& w, const matrix& dq) {
    matrix d_v(w.size()), d_low(low_.size()), d_high(high_.size()), dw = dq;
    tune::tune_kernels().gradient(grid_, layer(w), 0, rows_, dq.data(), true, false, {d_v.data(), d_low.data(), d_high.data()});
    for (std::size_t r = 0; r < rows_; ++r)
      for (std::size_t g = 0; g < groups_; ++g) {
        const std::size_t first = r * cols_ + g * group_, last = std::min(first + group_, (r + 1) * cols_), at = r * groups_ + g;
        for (std::size_t i = first; i < last; ++i) {
          // Gradients of factors are gradients of the ranges times the ranges.
          if (w[i] == high_[at] && high_[at] > 0 && std::isfinite(d_high[at])) dw[i] += d_high[at] / high_[at];
          if (w[i] == low_[at] && low_[at] < 0 && std::isfinite(d_low[at])) dw[i] += d_low[at] / low_[at];
        }
      }
    return dw;
  }

 private:
  ar::tune_layer layer(const matrix& w) const {
    return {rows_, cols_, group_, w.data(), low_.data(), high_.data(), zeros_.data(), ones_.data(), ones_.data(), nullptr};
  }

  bool known_ = false;
  ar::tune_grid grid_;
  std::size_t rows_, cols_, group_ = 1, groups_ = 1;
  matrix& zeros_;
  matrix ones_, low_, high_;
};

class trainer {
 public:
  trainer(const model::weight_source& base, const text::calibration_set& set, const spinquant_options& o)
      : base_(base),
        spec_(base.spec()),
        set_(set),
        o_(o),
        seqlen_(static_cast<std::size_t>(set.seqlen)),
        hidden_(static_cast<std::size_t>(spec_.hidden_size)),
        head_(static_cast<std::size_t>(spec_.head_dim)),
        random_(static_cast<std::uint64_t>(o.seed)),
        stream_(o.scratch_folder) {}

  result<void> load(const tune::layer_choices& choices) {
    auto head = model::read_head(base_);
    if (!head) return forward_error(head);
    out_ = std::move(*head);
    gradients_.resize(spec_.linears.size());
    for (std::int64_t l = 0; l < spec_.num_layers; ++l) {
      block b;
      for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i) {
        const auto& d = spec_.linears[static_cast<std::size_t>(i)];
        const auto choice = choices.find(spec_.linear_name(l, i));
        const auto rows = static_cast<std::size_t>(d.out_features), cols = static_cast<std::size_t>(d.in_features);
        b.layers.push_back(nullptr);
        if (choice == choices.end() || choice->second.scheme.bits >= 16) continue;
        b.layers.back() = std::make_unique<rounding>(choice->second, rows, cols, zeros_);
        if (!b.layers.back()->known())
          return fail(error_kind::unsupported, "rotations can be trained for schemes that can be tuned, which this layer's cannot", {},
                      choice->first);
        gradients_[static_cast<std::size_t>(i)].resize(rows * cols);
      }
      if (in_memory())
        if (auto r = read(b, l); !r) return r;
      blocks_.push_back(std::move(b));
      if (in_memory() || l == 0) runners_.emplace_back(spec_, linalg::precision::f32);
    }
    return {};
  }

  result<void> run(rotation_places& places, trained_rotation& out, const rotation_events& events) {
    if (places.residual != nullptr) r1_ = matrix_of(*places.residual, hidden_);
    if (places.values != nullptr) r2_ = matrix_of(*places.values, head_);
    const auto samples = static_cast<std::size_t>(set_.rows()),
               batch = std::min(static_cast<std::size_t>(std::max<std::int64_t>(1, o_.batch_size)), samples);
    rotation_training state;
    if (events.start) {
      state = *events.start;
      const auto fits = [](const matrix& m, const matrix& momentum, const matrix& own) { return m.size() == own.size() && (momentum.empty() || momentum.size() == own.size()); };
      if (state.steps > o_.iters || !fits(state.r1, state.momentum1, r1_) || !fits(state.r2, state.momentum2, r2_))
        return fail(error_kind::output, "the record of the trained rotation is of another training; --restart begins anew", events.start_file);
      r1_ = state.r1, r2_ = state.r2;
    } else {
      auto before = mean_loss(batch);
      if (!before) return forward_error(before);
      state.first_loss = *before;
    }
    out.first_loss = state.first_loss;
    std::vector<std::int32_t> order(samples);
    std::iota(order.begin(), order.end(), 0);
    ar::batch_sampler sampler(random_, order.data(), samples, batch);
    for (std::int64_t step = 0; step < state.steps; ++step) static_cast<void>(sampler.next());
    const std::int64_t tenth = std::max<std::int64_t>(1, o_.iters / 10);
    for (std::int64_t step = state.steps; step < o_.iters; ++step) {
      d1_.assign(r1_.size(), 0.0f), d2_.assign(r2_.size(), 0.0f);
      auto loss = pass(sampler.next(), batch, true);
      if (!loss) return forward_error(loss);
      const double lr = o_.lr * (1.0 - static_cast<double>(step) / static_cast<double>(o_.iters));
      if (!r1_.empty()) cayley_step(r1_, d1_, hidden_, lr, o_.momentum, state.momentum1);
      if (!r2_.empty()) cayley_step(r2_, d2_, head_, lr, o_.momentum, state.momentum2);
      if (events.on_state && ((step + 1) % tenth == 0 || step + 1 == o_.iters)) {
        state.steps = step + 1;
        state.r1 = r1_, state.r2 = r2_;
        events.on_state(state);
      }
      if (events.on_step && !events.on_step(step + 1, *loss)) return fail(error_kind::interrupted, "interrupted while training the rotation");
    }
    if (!r1_.empty()) orthonormalize(r1_, hidden_);
    if (!r2_.empty()) orthonormalize(r2_, head_);
    auto after = mean_loss(batch);
    if (!after) return forward_error(after);
    out.last_loss = *after;
    if (!r1_.empty()) places.residual = std::make_shared<const model::row_rotation>(model::row_rotation::dense(hidden_, r1_));
    if (!r2_.empty()) places.values = std::make_shared<const model::row_rotation>(model::row_rotation::dense(head_, r2_));
    out.r1 = std::move(r1_);
    out.r2 = std::move(r2_);
    return {};
  }

 private:
  struct block {
    model::block_weights floats, quantized;
    std::vector<std::unique_ptr<rounding>> layers;
  };

  static matrix matrix_of(const model::row_rotation& by, std::size_t n) {
    matrix m(n * n, 0.0f);
    for (std::size_t i = 0; i < n; ++i) m[i * n + i] = 1.0f;
    by.rows(m.data(), n, n);
    return m;
  }

  /// As offline rotation does it; what is rounded has the weight of the norm in it.
  void fuse_norms(model::block_weights& w) const {
    const auto fuse = [&](int i, const std::vector<float>& gamma) {
      auto& l = w.linears[static_cast<std::size_t>(i)];
      for (std::size_t k = 0; k < l.size(); ++k) l[k] *= gamma[k % hidden_];
    };
    for (const int i : {spec_.q, spec_.k, spec_.v}) fuse(i, w.input_norm);
    for (const int i : {spec_.gate, spec_.up}) fuse(i, w.post_attention_norm);
    w.input_norm.assign(hidden_, 1.0f);
    w.post_attention_norm.assign(hidden_, 1.0f);
  }

  chunked r1() const { return r1_.empty() ? chunked{} : chunked{&r1_, hidden_}; }
  chunked r2() const { return r2_.empty() ? chunked{} : chunked{&r2_, head_}; }
  chunked right_of(int i) const { return i == spec_.o ? r2() : i == spec_.down ? chunked{} : r1(); }
  chunked left_of(int i) const { return i == spec_.o || i == spec_.down ? r1() : i == spec_.v ? r2() : chunked{}; }

  bool in_memory() const { return o_.scratch_folder.empty(); }
  model::block_runner& runner(std::size_t number) { return runners_[in_memory() ? number : 0]; }

  result<void> read(block& b, std::int64_t number) const {
    auto w = model::read_block(base_, number);
    if (!w) return forward_error(w);
    base_.done_with_block(number);
    fuse_norms(*w);
    b.floats = std::move(*w);
    b.quantized = b.floats;
    return {};
  }

  /// The block as it is rounded now.
  result<void> prepare(std::size_t number) {
    block& b = blocks_[number];
    if (!in_memory())
      if (auto r = read(b, static_cast<std::int64_t>(number)); !r) return r;
    for (int i = 0; i < static_cast<int>(b.layers.size()); ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (b.layers[at] == nullptr) continue;
      const auto rows = static_cast<std::size_t>(spec_.linears[at].out_features);
      const matrix q = (*b.layers[at])(rotated(b, i));
      b.quantized.linears[at] = left(left_of(i), times(q, right_of(i), true), rows, false);
    }
    return {};
  }

  void done_with(std::size_t number) {
    if (!in_memory()) blocks_[number].floats = blocks_[number].quantized = {};
  }

  matrix rotated(const block& b, int i) const {
    const auto at = static_cast<std::size_t>(i);
    return left(left_of(i), times(b.floats.linears[at], right_of(i), false), static_cast<std::size_t>(spec_.linears[at].out_features), true);
  }

  matrix& gradient_of(const chunked& r) { return r.m == &r1_ ? d1_ : d2_; }

  /// From dL/dW' of a layer to the rotations, with W' = L Q R^T, Q rounded from P = L^T W R.
  void add_gradients(block& b, int i) {
    const auto at = static_cast<std::size_t>(i);
    const auto rows = static_cast<std::size_t>(spec_.linears[at].out_features);
    const chunked l = left_of(i), r = right_of(i);
    if (l.m == nullptr && r.m == nullptr) return;
    const matrix& g = gradients_[at];
    const matrix p = rotated(b, i), q = (*b.layers[at])(p);
    const matrix s = b.layers[at]->gradient(p, times(left(l, g, rows, true), r, false));  // dL/dP
    const std::size_t cols = g.size() / rows;
    if (r.m != nullptr) {
      const matrix lq = left(l, q, rows, false), lw = left(l, b.floats.linears[at], rows, true);
      matrix& d = gradient_of(r);
      linalg::gemm_tn(view(g, g.size() / r.n, r.n), view(lq, g.size() / r.n, r.n), d.data(), r.n, true);
      linalg::gemm_tn(view(lw, g.size() / r.n, r.n), view(s, g.size() / r.n, r.n), d.data(), r.n, true);
    }
    if (l.m != nullptr) {
      const matrix qr = times(q, r, true), wr = times(b.floats.linears[at], r, false);
      matrix& d = gradient_of(l);
      for (std::size_t first = 0; first < rows; first += l.n) {
        const auto part = [&](const matrix& m) { return linalg::operand{m.data() + first * cols, l.n, cols, cols, false}; };
        linalg::gemm_nt(part(g), part(qr), d.data(), l.n, true);
        linalg::gemm_nt(part(wr), part(s), d.data(), l.n, true);
      }
    }
  }

  result<double> mean_loss(std::size_t batch) {
    const auto samples = static_cast<std::size_t>(set_.rows());
    std::vector<std::int32_t> idx(samples);
    std::iota(idx.begin(), idx.end(), 0);
    double sum = 0;
    for (std::size_t s = 0; s < samples; s += batch) {
      const std::size_t n = std::min(batch, samples - s);
      auto loss = pass(idx.data() + s, n, false);
      if (!loss) return loss;
      sum += *loss * static_cast<double>(n);
    }
    return sum / static_cast<double>(samples);
  }

  /// The loss of some samples, and with `train` its gradient with respect to the rotations.
  result<double> pass(const std::int32_t* samples, std::size_t n, bool train) {
    std::vector<std::int32_t> ids;
    std::vector<std::size_t> scored;
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t from = static_cast<std::size_t>(samples[i]) * seqlen_;
      for (std::size_t t = 0; t < seqlen_; ++t) {
        if (set_.valid[from + t] != 0) scored.push_back(ids.size());
        ids.push_back(set_.ids[from + t]);
      }
    }
    auto x = model::embed(base_, ids);
    if (!x) return forward_error(x);
    // The stream of the quantized model, kept for the backward pass, and the rows of a block on their way.
    if (train)
      if (auto r = stream_.reset(blocks_.size(), x->size(), false); !r) return forward_error(r);
    matrix rows = *x, input(in_memory() ? 0 : x->size());
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      if (auto r = prepare(l); !r) return forward_error(r);
      const model::block_weights& w = blocks_[l].quantized;
      runner(l).forward(blocks_[l].floats, x->data(), n, seqlen_, x->data());
      if (train) {
        stream_.store(l, 1, rows.data());
        runner(l).forward_train(w, in_memory() ? stream_.row(l, 0, rows.size(), nullptr) : rows.data(), n, seqlen_, rows.data());
      } else {
        runner(l).forward(w, rows.data(), n, seqlen_, rows.data());
      }
      done_with(l);
    }
    matrix dx(x->size(), 0.0f), before(x->size());
    const double loss = head_loss(*x, rows, scored, train ? dx.data() : nullptr);
    if (!train) return loss;
    for (std::size_t l = blocks_.size(); l-- > 0;) {
      block& b = blocks_[l];
      if (!in_memory()) {
        if (auto r = prepare(l); !r) return forward_error(r);
        stream_.load(l, 1, input.data());
        if (auto r = stream_.state(); !r) return forward_error(r);
        runner(l).forward_train(b.quantized, input.data(), n, seqlen_, rows.data());
      }
      std::vector<float*> to;
      for (std::size_t i = 0; i < gradients_.size(); ++i) to.push_back(b.layers[i] == nullptr ? nullptr : gradients_[i].data());
      runner(l).backward(b.quantized, dx.data(), to, false, l > 0 ? before.data() : nullptr);
      for (int i = 0; i < static_cast<int>(b.layers.size()); ++i)
        if (b.layers[static_cast<std::size_t>(i)] != nullptr) add_gradients(b, i);
      done_with(l);
      dx.swap(before);
    }
    return loss;
  }

  double head_loss(const matrix& floating, const matrix& quantized, const std::vector<std::size_t>& scored, float* dx) const {
    const std::size_t most = out_.rows_at_once(), vocab = out_.vocab;
    matrix x(most * hidden_), x_ref(most * hidden_), normed(most * hidden_), inverse(most), logits(most * vocab), reference(most * vocab);
    matrix gradient(dx != nullptr ? most * vocab : 0), d_normed(most * hidden_), d_x(most * hidden_), scratch;
    const matrix zeros(most * hidden_, 0.0f);
    double sum = 0;
    for (std::size_t first = 0; first < scored.size(); first += most) {
      const std::size_t n = std::min(most, scored.size() - first);
      for (std::size_t r = 0; r < n; ++r) {
        std::copy_n(quantized.data() + scored[first + r] * hidden_, hidden_, x.data() + r * hidden_);
        std::copy_n(floating.data() + scored[first + r] * hidden_, hidden_, x_ref.data() + r * hidden_);
      }
      out_.logits(x_ref.data(), n, scratch, reference.data());
      kernels::rms_norm(x.data(), n, hidden_, out_.norm.data(), out_.eps, normed.data(), inverse.data());
      linalg::gemm_nt({normed.data(), n, hidden_, hidden_}, {out_.weight.data(), vocab, hidden_, hidden_}, logits.data(), vocab);
      const double share = static_cast<double>(n) / static_cast<double>(scored.size());
      sum += share * logit_distance(o_.loss, static_cast<std::size_t>(o_.top_k), logits.data(), reference.data(), n, vocab,
                                    dx != nullptr ? gradient.data() : nullptr);
      if (dx == nullptr) continue;
      for (std::size_t i = 0; i < n * vocab; ++i) gradient[i] *= static_cast<float>(share);
      linalg::gemm_nn({gradient.data(), n, vocab, vocab}, {out_.weight.data(), vocab, hidden_, hidden_}, d_normed.data(), hidden_);
      kernels::rms_norm_backward(x.data(), inverse.data(), d_normed.data(), zeros.data(), n, hidden_, out_.norm.data(), d_x.data());
      for (std::size_t r = 0; r < n; ++r) std::copy_n(d_x.data() + r * hidden_, hidden_, dx + scored[first + r] * hidden_);
    }
    return sum;
  }

  const model::weight_source& base_;
  const model::model_spec& spec_;
  const text::calibration_set& set_;
  const spinquant_options& o_;
  std::size_t seqlen_, hidden_, head_;
  ar::python_random random_;
  model::output_head out_;
  std::vector<block> blocks_;
  std::vector<model::block_runner> runners_;  // of all blocks, or one
  std::vector<matrix> gradients_;             // of a block's layers
  matrix zeros_;                              // offsets of any layer
  tune::activations stream_;
  matrix r1_, r2_, d1_, d2_;
};

}  // namespace

std::vector<std::byte> to_record(const rotation_training& state) {
  io::record_writer out;
  out.put(state.steps), out.put(state.first_loss);
  for (const matrix* m : {&state.r1, &state.r2, &state.momentum1, &state.momentum2}) out.put_all(*m);
  return out.take();
}

std::optional<rotation_training> training_of_record(std::span<const std::byte> record) {
  io::record_reader in(record);
  rotation_training state;
  in.get(state.steps), in.get(state.first_loss);
  for (matrix* m : {&state.r1, &state.r2, &state.momentum1, &state.momentum2}) in.get_all(*m);
  if (!in.done() || state.steps < 0) return std::nullopt;
  return state;
}

result<trained_rotation> train_rotation(const model::weight_source& base, const text::calibration_set& calibration,
                                        const tune::layer_choices& choices, const spinquant_options& options, rotation_places& places,
                                        const rotation_events& events) {
  if (calibration.rows() == 0) return fail(error_kind::input, "training a rotation needs calibration text");
  if (options.iters < 1 || options.batch_size < 1 || options.top_k < 1 || !(options.lr > 0 && options.lr <= 1) ||
      !(options.momentum >= 0 && options.momentum < 1)) {
    return fail(error_kind::usage, "training a rotation: iterations, batch size, k and rate must be positive, momentum at least 0 and below 1");
  }
  if (places.residual == nullptr && places.values == nullptr && !places.online.any())
    return fail(error_kind::unsupported, "there is nothing to train: neither R1 nor R2");
  if (places.online.any())
    return fail(error_kind::unsupported, "rotations are trained where they become part of the weights: R1 offline and R2, without R3 and R4");
  trainer t(base, calibration, options);
  if (auto r = t.load(choices); !r) return forward_error(r);
  trained_rotation out;
  if (auto r = t.run(places, out, events); !r) return forward_error(r);
  return out;
}

}  // namespace auto_round::transform
