// A mixture of experts in the place of an MLP: the router chooses some experts for each token, their outputs are added up with its weights; a shared
// expert sees every token. The choice has no gradient, the weights have.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include "model/block_mlp.hpp"

namespace auto_round::model {

/// Rows of a product for `n` rows of an expert, the rest zeros. Every number of tokens that an expert has, in every block, would be a shape of its own, for which
/// oneDNN generates code and keeps it: 100 MiB in an evaluation of 12,000 tokens with eight experts.
constexpr std::size_t product_rows(std::size_t n) { return n <= 16 ? std::bit_ceil(n) : (n + 15) / 16 * 16; }

template <class T>
class block_mixture {
 public:
  static constexpr bool narrow = std::is_same_v<T, bf16>;

  explicit block_mixture(block_layers<T>& layers) : l_(layers), spec_(layers.spec.mixture), math_(layers) {
    for (int e = 0; e < static_cast<int>(spec_.experts); ++e) {
      const int gate = spec_.first + 3 * e;
      units_.push_back({gate, gate + 1, gate + 2, static_cast<std::size_t>(spec_.intermediate_size)});
    }
    if (spec_.shared >= 0) units_.push_back({spec_.shared, spec_.shared + 1, spec_.shared + 2, static_cast<std::size_t>(spec_.shared_size)});
  }

  /// y [tokens x hidden] = what the mixture adds to the stream, from the rows behind the norm.
  void forward(const block_weights& w, const T* normed, std::size_t tokens, float* y) {
    route(w, normed, tokens);
    const std::size_t hidden = l_.hidden;
    if (l_.filter && shared()) {
      std::copy_n(normed, tokens * hidden, shared_in_.get(tokens * hidden));
      shared_rows_ = shared_in_.data();
    } else {
      shared_rows_ = normed;
    }
    T* const in = in_.get(routed_ * hidden);
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t r = 0; r < routed_; ++r) {
      if (token_of_[r] == nobody) std::fill_n(in + r * hidden, hidden, T());
      else std::copy_n(normed + token_of_[r] * hidden, hidden, in + r * hidden);
    }
    if (l_.filter)
      for (std::size_t u = 0; u < units_.size(); ++u) l_.apply_filter(units_[u].gate, is_shared(u) ? shared_in_.data() : in + start_[u] * hidden, count_[u], start_[u], rows_);
    for_tasks([&](const task& t) {
      const mlp_unit& u = units_[t.unit];
      math_.forward(w, u, rows_of(t), start_[t.unit] + t.first, t.rows, gate_.data() + at(t), up_.data() + at(t), product_.data() + at(t), own_work);
    });
    if (l_.filter)
      for (std::size_t u = 0; u < units_.size(); ++u) l_.apply_filter(units_[u].down, product_.data() + offset_[u], count_[u]);
    float* const out = out_.get(rows_ * hidden);
    for_tasks([&](const task& t) { l_.linear(w, units_[t.unit].down, product_.data() + at(t), t.rows, out + (start_[t.unit] + t.first) * hidden, hidden, false, own_work); });
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t t = 0; t < tokens; ++t) {
      std::fill_n(y + t * hidden, hidden, 0.0f);
      for (std::size_t k = 0; k < active(); ++k) kernels::axpy(weight_[t * active() + k], out + row_[t * active() + k] * hidden, hidden, y + t * hidden);
      if (shared()) kernels::axpy(1.0f, out + (routed_ + t) * hidden, hidden, y + t * hidden);
    }
  }

  void call_hooks(const block_runner::input_hook& hook) {
    if (!hook) return;
    for (std::size_t u = 0; u < units_.size(); ++u) {
      l_.call_hook(hook, units_[u].gate, is_shared(u) ? shared_rows_ : in_.data() + start_[u] * l_.hidden, count_[u]);
      l_.call_hook(hook, units_[u].down, product_.data() + offset_[u], count_[u]);
    }
  }

  /// dn [tokens x hidden] = the gradient of the rows behind the norm, from that of what forward gave.
  void backward(const block_weights& w, const float* dy, float* dn) {
    const std::size_t hidden = l_.hidden, tokens = tokens_;
    T* const d_out = d_out_.get(rows_ * hidden);
    if constexpr (narrow) {
      d_gate_ = d_gate_store_.get(elements_);
      d_up_ = d_up_store_.get(elements_);
    } else {
      d_gate_ = gate_.data();
      d_up_ = up_.data();
    }
    d_in_.get(rows_ * hidden);
    d_weight_.assign(routed_, 0.0f);
    for (std::size_t u = 0; u < units_.size(); ++u)
      if (count_[u] > 0) l_.use_backward({units_[u].gate, units_[u].up, units_[u].down}, 0);
    for_tasks([&](const task& t) {
      auto& own = l_.own_scratch();
      const mlp_unit& u = units_[t.unit];
      const std::size_t first = start_[t.unit] + t.first;
      T* const plain = own.ds.get(t.rows * hidden);
      float* const scaled = own.d_attended.get(hidden);
      for (std::size_t r = 0; r < t.count; ++r) {
        const float* const from = dy + token(t, r) * hidden;
        narrow_or_copy(from, hidden, plain + r * hidden);
        std::fill_n(scaled, hidden, 0.0f);
        kernels::axpy(row_weight(t, r), from, hidden, scaled);
        narrow_or_copy(scaled, hidden, d_out + (first + r) * hidden);
      }
      std::fill_n(plain + t.count * hidden, (t.rows - t.count) * hidden, T());
      std::fill_n(d_out + (first + t.count) * hidden, (t.rows - t.count) * hidden, T());
      float* const d = own.d_product.get(t.rows * u.inner);
      l_.input_gradient(u.down, plain, t.rows, d, false, own_work);
      for (std::size_t r = 0; r < t.count; ++r) {
        if (!is_shared(t.unit)) d_weight_[first + r] = kernels::dot(d + r * u.inner, product_.data() + at(t) + r * u.inner, u.inner);
        const float weight = row_weight(t, r);
        for (std::size_t i = 0; i < u.inner; ++i) d[r * u.inner + i] *= weight;
      }
      l_.filter_backward(u.down, d, t.first, t.count);
      math_.backward(u, gate_.data() + at(t), up_.data() + at(t), d, t.rows, d_gate_ + at(t), d_up_ + at(t));
      float* const dx = d_in_.data() + first * hidden;
      math_.input_gradient(u, d_gate_ + at(t), d_up_ + at(t), t.rows, dx, own_work);
      l_.filter_backward(u.gate, dx, t.first, t.count);
    });
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t t = 0; t < tokens; ++t) {
      std::fill_n(dn + t * hidden, hidden, 0.0f);
      for (std::size_t k = 0; k < active(); ++k) kernels::axpy(1.0f, d_in_.data() + row_[t * active() + k] * hidden, hidden, dn + t * hidden);
      if (shared()) kernels::axpy(1.0f, d_in_.data() + (routed_ + t) * hidden, hidden, dn + t * hidden);
      route_backward(t);
    }
    const std::vector<float>& router = w.part(block_part::router);
    linalg::gemm_nn({scores_.data(), tokens, experts(), experts()}, {router.data(), experts(), hidden, hidden}, dn, hidden, true);
  }

  template <class G>
  void weight_gradients(G& gradients) {
    for (std::size_t u = 0; u < units_.size(); ++u)
      math_.weight_gradients(gradients, units_[u], d_out_.data() + start_[u] * l_.hidden, d_gate_ + offset_[u], d_up_ + offset_[u], product_.data() + offset_[u],
                             is_shared(u) ? shared_rows_ : in_.data() + start_[u] * l_.hidden, padded_[u]);
  }

 private:
  static constexpr std::size_t nobody = std::numeric_limits<std::size_t>::max();


  std::size_t experts() const { return static_cast<std::size_t>(spec_.experts); }
  std::size_t active() const { return static_cast<std::size_t>(spec_.active); }
  bool shared() const { return spec_.shared >= 0; }
  bool is_shared(std::size_t unit) const { return unit == experts(); }

  /// A tile of rows of one expert; `rows` of them in products.
  struct task {
    std::size_t unit, first, count, rows;
  };
  std::size_t at(const task& t) const { return offset_[t.unit] + t.first * units_[t.unit].inner; }
  std::size_t token(const task& t, std::size_t r) const { return is_shared(t.unit) ? t.first + r : token_of_[start_[t.unit] + t.first + r]; }
  float row_weight(const task& t, std::size_t r) const { return is_shared(t.unit) ? 1.0f : row_weight_[start_[t.unit] + t.first + r]; }
  const T* rows_of(const task& t) const {
    return is_shared(t.unit) ? shared_rows_ + t.first * l_.hidden : in_.data() + (start_[t.unit] + t.first) * l_.hidden;
  }

  /// The tiles follow from how many tokens each expert has, not from the number of threads.
  template <class F>
  void for_tasks(const F& f) {
    l_.prepare_scratch();
#pragma omp parallel for schedule(dynamic) if (tasks_.size() > 1)
    for (std::size_t i = 0; i < tasks_.size(); ++i) f(tasks_[i]);
  }

  /// Chooses experts and weights for every token and lays out the rows of each expert.
  void route(const block_weights& w, const T* normed, std::size_t tokens) {
    const std::size_t n = experts(), hidden = l_.hidden;
    tokens_ = tokens;
    scores_.resize(tokens * n);
    chosen_.resize(tokens * active());
    weight_.resize(tokens * active());
    row_.resize(tokens * active());
    const float* const x = l_.as_floats(normed, tokens * hidden, l_.widened);
    linalg::gemm_nt({x, tokens, hidden, hidden}, {w.part(block_part::router).data(), n, hidden, hidden}, scores_.data(), n);
    const std::vector<float>& bias = w.part(block_part::router_bias);
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t t = 0; t < tokens; ++t) choose(scores_.data() + t * n, bias, chosen_.data() + t * active(), weight_.data() + t * active());

    count_.assign(units_.size(), 0);
    for (const std::size_t e : chosen_) ++count_[e];
    if (l_.expert_tokens != nullptr)
      for (std::size_t e = 0; e < n; ++e) (*l_.expert_tokens)[e] += count_[e];
    if (shared()) count_.back() = tokens;
    start_.assign(units_.size(), 0);
    offset_.assign(units_.size(), 0);
    padded_ = count_;
    rows_ = elements_ = 0;
    tasks_.clear();
    for (std::size_t u = 0; u < units_.size(); ++u) {
      start_[u] = rows_;
      offset_[u] = elements_;
      const std::size_t tile = l_.tile_rows();
      for (std::size_t first = 0; first < count_[u]; first += tile) {
        const std::size_t count = std::min(tile, count_[u] - first);
        tasks_.push_back({u, first, count, is_shared(u) ? count : product_rows(count)});
        padded_[u] = first + tasks_.back().rows;
      }
      rows_ += padded_[u];
      elements_ += padded_[u] * units_[u].inner;
    }
    routed_ = rows_ - (shared() ? tokens : 0);
    std::vector<std::size_t> next(start_);
    token_of_.assign(routed_, nobody);
    row_weight_.assign(routed_, 0.0f);
    for (std::size_t i = 0; i < chosen_.size(); ++i) {
      row_[i] = next[chosen_[i]]++;
      token_of_[row_[i]] = i / active();
      row_weight_[row_[i]] = weight_[i];
    }
    gate_.get(elements_), up_.get(elements_), product_.get(elements_);
  }

  /// From logits to scores, in place, to the chosen experts in ascending order and their weights.
  void choose(float* s, const std::vector<float>& bias, std::size_t* chosen, float* weight) const {
    const std::size_t n = experts();
    if (spec_.score == mixture_spec::scoring::softmax) kernels::softmax(s, n, n, 1.0f, s);
    else
      for (std::size_t e = 0; e < n; ++e) s[e] = 1.0f / (1.0f + std::exp(-s[e]));
    std::vector<float> rank(s, s + n);
    if (!bias.empty())
      for (std::size_t e = 0; e < n; ++e) rank[e] += bias[e];
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto best_first = [](const std::vector<float>& of) { return [&of](std::size_t a, std::size_t b) { return of[a] > of[b] || (of[a] == of[b] && a < b); }; };
    if (spec_.groups > 1) {
      const auto groups = static_cast<std::size_t>(spec_.groups), size = n / groups;
      std::vector<float> value(groups, 0.0f);
      for (std::size_t g = 0; g < groups; ++g) {
        std::vector<float> members(rank.begin() + static_cast<std::ptrdiff_t>(g * size), rank.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
        std::sort(members.begin(), members.end(), std::greater<>());
        for (std::size_t i = 0; i < std::min(size, static_cast<std::size_t>(spec_.best_of_group)); ++i) value[g] += members[i];
      }
      std::vector<std::size_t> best(groups);
      std::iota(best.begin(), best.end(), std::size_t{0});
      std::sort(best.begin(), best.end(), best_first(value));
      best.resize(static_cast<std::size_t>(spec_.active_groups));
      std::erase_if(order, [&](std::size_t e) { return std::find(best.begin(), best.end(), e / size) == best.end(); });
    }
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(active()), order.end(), best_first(rank));
    std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(active()));
    std::copy_n(order.begin(), active(), chosen);
    float total = 0;
    for (std::size_t k = 0; k < active(); ++k) total += s[chosen[k]];
    const float factor = static_cast<float>(spec_.scale) / (spec_.normalize ? total : 1.0f);
    for (std::size_t k = 0; k < active(); ++k) weight[k] = s[chosen[k]] * factor;
  }

  /// Turns a token's scores into the gradients of its logits.
  void route_backward(std::size_t t) {
    const std::size_t n = experts();
    float* const s = scores_.data() + t * n;
    const std::size_t* const chosen = chosen_.data() + t * active();
    const auto scale = static_cast<float>(spec_.scale);
    float total = 1, mean = 0;  // of weights that are normalized
    if (spec_.normalize) {
      total = 0;
      for (std::size_t k = 0; k < active(); ++k) total += s[chosen[k]];
      for (std::size_t k = 0; k < active(); ++k) mean += d_weight_[row_[t * active() + k]] * s[chosen[k]] / total;
    }
    std::vector<float> d(n, 0.0f);  // of the scores
    for (std::size_t k = 0; k < active(); ++k) d[chosen[k]] = scale * (d_weight_[row_[t * active() + k]] - mean) / total;
    if (spec_.score == mixture_spec::scoring::softmax) {
      float sum = 0;
      for (std::size_t k = 0; k < active(); ++k) sum += d[chosen[k]] * s[chosen[k]];
      for (std::size_t e = 0; e < n; ++e) s[e] *= d[e] - sum;
    } else {
      for (std::size_t e = 0; e < n; ++e) s[e] = d[e] * s[e] * (1.0f - s[e]);
    }
  }

  block_layers<T>& l_;
  const mixture_spec& spec_;
  mlp_math<T> math_;
  std::vector<mlp_unit> units_;  // experts, then the shared one

  std::size_t tokens_ = 0, routed_ = 0, rows_ = 0, elements_ = 0;  // rows of experts that tokens choose, and of all, with those of nobody
  std::vector<float> scores_, weight_, row_weight_, d_weight_;
  std::vector<std::size_t> chosen_, row_, token_of_;     // row_: of a token's k-th expert; token_of_: by row
  std::vector<std::size_t> count_, padded_, start_, offset_;  // rows of each unit, in products, the first of them, and the first of its values of the inner size
  std::vector<task> tasks_;
  const T* shared_rows_ = nullptr;
  buffer<T> in_, shared_in_, product_, d_out_, d_gate_store_, d_up_store_;
  buffer<float> gate_, up_, out_, d_in_;
  T *d_gate_ = nullptr, *d_up_ = nullptr;
};

}  // namespace auto_round::model
