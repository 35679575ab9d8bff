// Attention of a decoder block between the norm before it and the layer o: projections, rotary embedding, heads, and all of that backward.
#pragma once

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "model/block_layers.hpp"
#include "model/rope.hpp"

namespace auto_round::model {

template <class T>
class block_attention {
 public:
  static constexpr bool narrow = std::is_same_v<T, bf16>;

  explicit block_attention(block_layers<T>& layers)
      : l_(layers),
        spec_(layers.spec),
        heads_(static_cast<std::size_t>(spec_.num_heads)),
        kv_heads_(static_cast<std::size_t>(spec_.num_kv_heads)),
        head_dim_(static_cast<std::size_t>(spec_.head_dim)),
        value_dim_(static_cast<std::size_t>(spec_.value_size())),
        q_width_(heads_ * head_dim_),
        kv_width_(kv_heads_ * head_dim_),
        v_width_(kv_heads_ * value_dim_),
        o_width_(heads_ * value_dim_),
        scale_(static_cast<float>(spec_.attention_scale != 0 ? spec_.attention_scale : 1.0 / std::sqrt(static_cast<double>(spec_.head_dim)))),
        cap_(static_cast<float>(spec_.attention_cap)) {}

  std::size_t o_width() const { return o_width_; }

  /// What o reads, from the rows behind the norm, which `norm_tile(first, count)` makes. The filter may change `normed`.
  template <class F>
  void forward(const block_weights& w, T* normed, std::size_t sequences, std::size_t seqlen, const F& norm_tile) {
    begin(w, sequences, seqlen, 0, seqlen);
    attended_.get(tokens_ * o_width_);
    head_store_.get(sequences * kv_heads_ * task_size());
    const auto project = [&](std::size_t first, std::size_t count, linalg::work who) {
      const projected rows = project_rows(w, normed, first, count, who);
      to_heads(w, rows, first, count);
    };
    if (latent()) {
      l_.for_tiles(tokens_, [&](std::size_t first, std::size_t count, linalg::work) { norm_tile(first, count); });
      l_.apply_filter(spec_.reader(input_reader()), normed, tokens_);
      compress(w, normed);
      l_.for_tiles(tokens_, project);
    } else if (l_.filter) {
      l_.for_tiles(tokens_, [&](std::size_t first, std::size_t count, linalg::work) { norm_tile(first, count); });
      l_.apply_filter(spec_.q, normed, tokens_);
      l_.for_tiles(tokens_, project);
    } else {
      l_.for_tiles(tokens_, [&](std::size_t first, std::size_t count, linalg::work who) {
        norm_tile(first, count);
        project(first, count, who);
      });
    }
    if (l_.heads_filter) filter_heads();
    attend(w);
    prepare_output(w);
  }

  /// The same for `count` further tokens of one sequence.
  void forward_cached(const block_weights& w, T* normed, std::size_t count, kv_cache& cache) {
    const std::size_t before = cache.tokens, total = before + count, g = group();
    begin(w, 1, count, before, total);
    attended_.get(tokens_ * o_width_);
    head_store_.get(kv_heads_ * task_size());
    l_.prepare_scratch();
    l_.apply_filter(latent() ? spec_.reader(input_reader()) : spec_.q, normed, count);
    if (latent()) compress(w, normed);
    const projected rows = project_rows(w, normed, 0, count, linalg::work::shared);
    cache.k.resize(total * kv_width_);
    cache.v.resize(total * v_width_);
    cache.tokens = total;
    if (before == 0) {
      to_heads(w, rows, 0, count);
      attend(w);
    }
    float* const queries = few_queries_.get(count * q_width_);
    for (std::size_t t = 0; t < count; ++t)
      for (std::size_t kv = 0; kv < kv_heads_; ++kv)
        place_token(w, rows, t, t, t, kv, queries + t * q_width_ + kv * g * head_dim_, cache.k.data() + (before + t) * kv_width_ + kv * head_dim_,
                    cache.v.data() + (before + t) * v_width_ + kv * value_dim_);
    if constexpr (!narrow) {
      if (before > 0) {
        // One query a task: a product of one row is not worth generated code for every length of the cache.
        const std::size_t tasks = count * heads_;
#pragma omp parallel if (count * total > small_cache)
        {
          float* const weights_of_keys = l_.own_scratch().scores.get(total);
#pragma omp for schedule(static)
          for (std::size_t task = 0; task < tasks; ++task) {
            const std::size_t t = task / heads_, h = task % heads_, kv = h / g, from = first_key(before + t);
            kernels::attend(queries + t * q_width_ + h * head_dim_, cache.k.data() + from * kv_width_ + kv * head_dim_,
                            cache.v.data() + from * v_width_ + kv * value_dim_, before + t + 1 - from, kv_width_, head_dim_, v_width_, value_dim_, scale_, cap_,
                            weights_of_keys, attended_.data() + t * o_width_ + h * value_dim_);
          }
        }
      }
    }
    prepare_output(w);
  }

  /// What o reads; attention's backward needs the rows as they were, so what is rotated or filtered is a copy.
  const T* output(const block_weights& w) const { return changes_output(w) ? o_store_.data() : attended_.data(); }

  /// From what forward left; scores are computed again.
  void measure(const block_weights& w, attention_sensitivity& out);

  /// Tells the hook what the layers inside attention and those before it read; `normed` are the rows behind the norm.
  void call_hooks(const block_runner::input_hook& hook, const block_weights& w, const T* normed) {
    l_.call_hook(hook, spec_.reader(input_reader()), normed, tokens_);
    if (latent()) {
      if (spec_.latent.query_rank > 0) l_.call_hook(hook, spec_.latent.query_up, query_latent_.data(), tokens_);
      l_.call_hook(hook, spec_.latent.up, latent_.data(), tokens_);
    }
    l_.call_hook(hook, spec_.o, output(w), tokens_);
  }

  // ---- backward ----

  void begin_backward() {
    d_head_store_.get(tokens_ * o_width_);
    delta_store_.get(tokens_ * heads_);
  }

  /// Takes the gradient of the attended rows of a tile.
  void take_gradient(const float* d_o, std::size_t first, std::size_t count) {
    const std::size_t g = group();
    for (std::size_t r = 0; r < count; ++r)
      for (std::size_t kv = 0; kv < kv_heads_; ++kv) {
        const std::size_t s = (first + r) / seqlen_, t = (first + r) % seqlen_, to = ((s * kv_heads_ + kv) * seqlen_ + t) * g;
        const float* const from = d_o + r * o_width_ + kv * g * value_dim_;
        const T* const o = attended_.data() + (first + r) * o_width_ + kv * g * value_dim_;
        narrow_or_copy(from, g * value_dim_, d_head_store_.data() + to * value_dim_);
        for (std::size_t h = 0; h < g; ++h) delta_store_.data()[to + h] = kernels::dot(from + h * value_dim_, o + h * value_dim_, value_dim_);
      }
  }

  /// From what take_gradient was given to the gradients of the rows that the projections gave.
  void backward(const block_weights& w) {
    d_rows_.get(tokens_ * rows_width());
    if (latent()) d_turning_.get(tokens_ * heads_ * turning());
    heads_backward(w);
    if (latent()) latent_backward(w);
  }

  /// Products for the gradients of weights; `normed` as in call_hooks.
  template <class G>
  void weight_gradients(G& gradients, const T* normed) {
    if (latent()) {
      const latent_attention& a = spec_.latent;
      if (a.query_rank > 0) {
        gradients.add(a.query_up, d_rows_.data(), query_latent_.data(), tokens_);
        gradients.add(a.query_down, d_query_down_.data(), normed, tokens_);
      } else {
        gradients.add(spec_.q, d_rows_.data(), normed, tokens_);
      }
      gradients.add(a.up, d_rows_.data() + tokens_ * q_width_, latent_.data(), tokens_);
      gradients.add(a.down, d_down_.data(), normed, tokens_);
      return;
    }
    for (const auto& [linear, d] : readers()) gradients.add(linear, d, normed, tokens_);
  }

  void prepare_input_gradient() {
    for (const auto& [linear, d] : readers()) l_.use_backward({linear}, tokens_);
  }
  /// dn [count x hidden] = the gradient of the rows behind the norm, before filter and rotation.
  void input_gradient(float* dn, std::size_t first, std::size_t count, linalg::work who) {
    bool add = false;
    for (const auto& [linear, d] : readers()) {
      l_.input_gradient(linear, d + first * l_.out_features(linear), count, dn, add, who);
      add = true;
    }
  }
  /// The layer whose input the rows behind the norm are.
  int input_reader() const { return latent() ? (spec_.latent.query_rank > 0 ? spec_.latent.query_down : spec_.q) : spec_.q; }

  /// Layers that lie behind gradients of attended rows.
  std::vector<int> inner_layers() const {
    if (!latent()) return fused() ? std::vector<int>{spec_.q} : std::vector<int>{spec_.q, spec_.k, spec_.v};
    const latent_attention& a = spec_.latent;
    return a.query_rank > 0 ? std::vector<int>{a.query_down, a.query_up, a.down, a.up} : std::vector<int>{spec_.q, a.down, a.up};
  }

 private:
  bool latent() const { return spec_.latent.rank > 0; }
  bool fused() const { return spec_.fused != fused_heads::none; }
  std::size_t turning() const { return static_cast<std::size_t>(spec_.latent.turning); }
  std::size_t plain() const { return static_cast<std::size_t>(spec_.latent.plain); }

  void begin(const block_weights& w, std::size_t sequences, std::size_t seqlen, std::size_t position, std::size_t length) {
    sequences_ = sequences;
    seqlen_ = seqlen;
    tokens_ = sequences * seqlen;
    window_ = static_cast<std::size_t>(spec_.window(w.layer));
    rope_ = &ropes_[window_ != 0 && spec_.own_window_rope ? 1 : 0];
    if (spec_.has_rope) rope_->prepare(spec_, position, seqlen, length, window_ != 0);
    if (!w.parts[static_cast<std::size_t>(block_part::query_norm)].empty()) {
      raw_.get(tokens_ * (q_width_ + kv_width_));
      raw_inverse_.get(tokens_ * (heads_ + kv_heads_));
    }
  }

  // ---- projections ----

  /// Rows as the projections give them: group `kv` of the queries of row r begins at q + r * q_row + kv * q_step, its key and values likewise.
  template <class F>
  struct places {
    F *q, *k, *v;
    std::size_t q_row, k_row, v_row, q_step, k_step, v_step;
  };
  using projected = places<const float>;

  /// Products write whole rows fastest, so rows of separate layers lie one after the other.
  template <class F>
  places<F> places_of(F* rows, std::size_t count) const {
    const std::size_t g = group();
    if (latent()) {
      F* const kv = rows + count * q_width_;
      const std::size_t step = plain() + value_dim_;
      return {rows, kv, kv + plain(), q_width_, heads_ * step, heads_ * step, head_dim_, step, step};
    }
    if (spec_.fused == fused_heads::by_head) return {rows, rows + head_dim_, rows + 2 * head_dim_, 3 * q_width_, 3 * q_width_, 3 * q_width_, 3 * head_dim_, 3 * head_dim_, 3 * head_dim_};
    const std::size_t all = q_width_ + kv_width_ + v_width_;
    if (fused()) return {rows, rows + q_width_, rows + q_width_ + kv_width_, all, all, all, g * head_dim_, head_dim_, value_dim_};
    return {rows, rows + count * q_width_, rows + count * (q_width_ + kv_width_), q_width_, kv_width_, v_width_, g * head_dim_, head_dim_, value_dim_};
  }
  std::size_t rows_width() const { return latent() ? q_width_ + heads_ * (plain() + value_dim_) : q_width_ + kv_width_ + v_width_; }

  projected project_rows(const block_weights& w, const T* normed, std::size_t first, std::size_t count, linalg::work who) {
    float* const out = l_.own_scratch().qkv.get(count * rows_width());
    const T* const n = normed + first * l_.hidden;
    if (latent()) {
      const latent_attention& a = spec_.latent;
      if (a.query_rank > 0) l_.linear(w, a.query_up, query_latent_.data() + first * static_cast<std::size_t>(a.query_rank), count, out, q_width_, false, who);
      else l_.linear(w, spec_.q, n, count, out, q_width_, false, who);
      const std::size_t width = heads_ * (plain() + value_dim_);
      l_.linear(w, a.up, latent_.data() + first * static_cast<std::size_t>(a.rank), count, out + count * q_width_, width, false, who);
    } else if (fused()) {
      l_.linear(w, spec_.q, n, count, out, l_.out_features(spec_.q), false, who);
    } else {
      l_.linear(w, spec_.q, n, count, out, q_width_, false, who);
      l_.linear(w, spec_.k, l_.rows_of(spec_.k, n, first), count, out + count * q_width_, kv_width_, false, who);
      l_.linear(w, spec_.v, l_.rows_of(spec_.v, n, first), count, out + count * (q_width_ + kv_width_), v_width_, false, who);
    }
    return places_of<const float>(out, count);
  }

  /// The short rows behind q_a and kv_a, normed.
  void compress(const block_weights& w, const T* normed) {
    const latent_attention& a = spec_.latent;
    const auto eps = static_cast<float>(a.norm_eps);
    const auto rank = static_cast<std::size_t>(a.rank), query_rank = static_cast<std::size_t>(a.query_rank), down = rank + turning();
    raw_latent_.get(tokens_ * down), latent_.get(tokens_ * rank), latent_inverse_.get(tokens_);
    if (query_rank > 0) raw_query_latent_.get(tokens_ * query_rank), query_latent_.get(tokens_ * query_rank), query_latent_inverse_.get(tokens_);
    l_.for_tiles(tokens_, [&](std::size_t first, std::size_t count, linalg::work who) {
      const T* const n = normed + first * l_.hidden;
      if (query_rank > 0) {
        float* const raw = raw_query_latent_.data() + first * query_rank;
        l_.linear(w, a.query_down, n, count, raw, query_rank, false, who);
        l_.norm_rows(raw, count, query_rank, eps, w.part(block_part::query_latent_norm), {}, nullptr, query_latent_.data() + first * query_rank,
                     query_latent_inverse_.data() + first);
      }
      float* const raw = raw_latent_.data() + first * down;
      l_.linear(w, a.down, l_.rows_of(a.down, n, first), count, raw, down, false, who);
      for (std::size_t r = 0; r < count; ++r)
        l_.norm_rows(raw + r * down, 1, rank, eps, w.part(block_part::key_value_latent_norm), {}, nullptr, latent_.data() + (first + r) * rank,
                     latent_inverse_.data() + first + r);
    });
    if (query_rank > 0) l_.apply_filter(a.query_up, query_latent_.data(), tokens_);
    l_.apply_filter(a.up, latent_.data(), tokens_);
  }

  // ---- heads ----

  // The queries of a key-value head's group, its keys and its values lie together, so that every product inside attention has dense operands and
  // as many rows as possible: [sequence][kv head]{q [seqlen * group x head_dim], k [seqlen x head_dim], v [seqlen x value_dim]}, row t * group + g
  // of q being token t, head g of the group.
  std::size_t group() const { return heads_ / kv_heads_; }
  std::size_t task_size() const { return seqlen_ * ((group() + 1) * head_dim_ + value_dim_); }
  /// Tokens whose queries are one product: about 128 rows; 64 where a row of scores is long, to stay in the second-level cache.
  std::size_t query_piece() const { return std::max<std::size_t>(16, (seqlen_ > 1024 ? 64 : 128) / group() / 16 * 16); }
  /// The first key that the query at a position sees.
  std::size_t first_key(std::size_t position) const { return window_ != 0 && position + 1 > window_ ? position + 1 - window_ : 0; }

  /// Queries, key and values of one group and token, normed and rotated: row r of `rows`, token `token` of the batch, row `position` of the rope table.
  template <class Out>
  void place_token(const block_weights& w, const projected& rows, std::size_t r, std::size_t token, std::size_t position, std::size_t kv, Out* q, Out* k, Out* v) {
    const std::size_t half = rope_->half, g = group();
    const float *const c = rope_->cos.data() + position * half, *const s = rope_->sin.data() + position * half;
    const float* from_q = rows.q + r * rows.q_row + kv * rows.q_step;
    const float* from_k = rows.k + r * rows.k_row + kv * rows.k_step;
    if (latent()) {
      float* const turned = l_.own_scratch().rotated.get(turning());
      narrow_or_copy(from_q, plain(), q);
      kernels::rotate_neighbors(from_q + plain(), half, c, s, 1.0f, turned);
      narrow_or_copy(turned, turning(), q + plain());
      const auto rank = static_cast<std::size_t>(spec_.latent.rank);
      narrow_or_copy(from_k, plain(), k);
      kernels::rotate_neighbors(raw_latent_.data() + token * (rank + turning()) + rank, half, c, s, 1.0f, turned);
      narrow_or_copy(turned, turning(), k + plain());
    } else {
      if (const std::vector<float>& norm = w.part(block_part::query_norm); !norm.empty()) {
        float* const raw_q = raw_.data() + token * (q_width_ + kv_width_) + kv * g * head_dim_;
        float* const raw_k = raw_.data() + token * (q_width_ + kv_width_) + q_width_ + kv * head_dim_;
        float* const inverse = raw_inverse_.data() + token * (heads_ + kv_heads_);
        float* const normed = l_.own_scratch().centered.get((g + 1) * head_dim_);
        std::copy_n(from_q, g * head_dim_, raw_q);
        std::copy_n(from_k, head_dim_, raw_k);
        kernels::rms_norm(raw_q, g, head_dim_, norm.data(), l_.eps, normed, inverse + kv * g);
        kernels::rms_norm(raw_k, 1, head_dim_, w.part(block_part::key_norm).data(), l_.eps, normed + g * head_dim_, inverse + heads_ + kv);
        from_q = normed;
        from_k = normed + g * head_dim_;
      }
      kernels::rotate(from_q, g, head_dim_, half, c, s, 1.0f, q);
      kernels::rotate(from_k, 1, head_dim_, half, c, s, 1.0f, k);
      if (const row_rotation* const by = l_.rotation(w, &block_rotations::query_key); by != nullptr) {
        if constexpr (std::is_same_v<Out, T>) {
          l_.rotate_rows(*by, q, g, head_dim_, q);
          l_.rotate_rows(*by, k, 1, head_dim_, k);
        }
      }
    }
    narrow_or_copy(rows.v + r * rows.v_row + kv * rows.v_step, value_dim_, v);
  }

  /// Lays the heads of `count` tokens out.
  void to_heads(const block_weights& w, const projected& rows, std::size_t first, std::size_t count) {
    const std::size_t g = group();
    for (std::size_t r = 0; r < count; ++r)
      for (std::size_t kv = 0; kv < kv_heads_; ++kv) {
        const std::size_t s = (first + r) / seqlen_, t = (first + r) % seqlen_;
        T* const task = head_store_.data() + (s * kv_heads_ + kv) * task_size();
        T* const keys = task + seqlen_ * g * head_dim_;
        place_token(w, rows, r, first + r, t, kv, task + t * g * head_dim_, keys + t * head_dim_, keys + seqlen_ * head_dim_ + t * value_dim_);
      }
  }

  void filter_heads() {
    const std::size_t tasks = sequences_ * kv_heads_, n = tasks * task_size(), g = group(), keys = seqlen_ * head_dim_;
    float* all = nullptr;
    if constexpr (narrow) {
      all = l_.widened.get(n);
      kernels::from_bf16(head_store_.data(), n, all);
    } else {
      all = head_store_.data();
    }
    std::vector<block_runner::attention_rows> rows;
    for (std::size_t task = 0; task < tasks; ++task) {
      float *const q = all + task * task_size(), *const k = q + g * keys;
      rows.push_back({task % kv_heads_, {q, g * keys}, {k, keys}, {k + keys, seqlen_ * value_dim_}});
    }
    l_.heads_filter(rows);
    if constexpr (narrow) kernels::to_bf16(all, n, head_store_.data());
  }

  /// A piece of queries and the keys that it sees.
  struct piece {
    std::size_t first, n, m, from, keys, stride;
  };
  piece piece_at(std::size_t first) const {
    const std::size_t n = std::min(query_piece(), seqlen_ - first), from = first_key(first), keys = first + n - from;
    return {first, n, n * group(), from, keys, (keys + 15) / 16 * 16};
  }

  /// A row of scores to probabilities, 0 for keys that it does not see.
  float softmax_row(float* s, const piece& at, std::size_t r, T* p) const {
    const std::size_t t = at.first + r / group(), skip = first_key(t) - at.from, n = t + 1 - at.from - skip;
    if (cap_ > 0) kernels::soft_cap(s + skip, n, scale_, cap_);
    const float lse = kernels::softmax(s + skip, n, at.stride - skip, cap_ > 0 ? 1.0f : scale_, p + skip);
    std::fill_n(p, skip, T());
    return lse;
  }

  /// o = softmax(causal(scale q k^T)) v for every sequence and head. Keeps the log-sum of each row of scores.
  void attend(const block_weights&) {
    const std::size_t tasks = sequences_ * kv_heads_, step = query_piece(), g = group(), rows = step * g;
    float* const log_sums = lse_.get(heads_ * tokens_);
    T* const o = attended_.data();
    l_.prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens_ > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      auto& own = l_.own_scratch();
      float* const scores = own.scores.get(rows * (seqlen_ + 16));
      float* const out = own.out.get(rows * value_dim_);
      T* p = nullptr;
      if constexpr (narrow)
        p = own.p.get(rows * (seqlen_ + 16));
      else
        p = scores;
      const std::size_t base = task / kv_heads_ * seqlen_, kv = task % kv_heads_;
      const T* const q = head_store_.data() + task * task_size();
      const T* const k = q + seqlen_ * g * head_dim_;
      const T* const v = k + seqlen_ * head_dim_;
      for (std::size_t first = 0; first < seqlen_; first += step) {
        const piece at = piece_at(first);
        linalg::gemm_nt(matrix(q + first * g * head_dim_, at.m, head_dim_, head_dim_), matrix(k + at.from * head_dim_, at.keys, head_dim_, head_dim_), scores,
                        at.stride, false, own_work);
        for (std::size_t r = 0; r < at.m; ++r) log_sums[task * seqlen_ * g + first * g + r] = softmax_row(scores + r * at.stride, at, r, p + r * at.stride);
        linalg::gemm_nn(matrix(p, at.m, at.keys, at.stride), matrix(v + at.from * value_dim_, at.keys, value_dim_, value_dim_), out, value_dim_, false, own_work);
        for (std::size_t t = 0; t < at.n; ++t)
          narrow_or_copy(out + t * g * value_dim_, g * value_dim_, o + (base + first + t) * o_width_ + kv * g * value_dim_);
      }
    }
  }

  bool changes_output(const block_weights& w) const { return l_.filter || l_.rotation(w, &block_rotations::o_input) != nullptr; }
  void prepare_output(const block_weights& w) {
    if (!changes_output(w)) return;
    const row_rotation* const by = l_.rotation(w, &block_rotations::o_input);
    T* const to = o_store_.get(tokens_ * o_width_);
    l_.for_tiles(tokens_, [&](std::size_t first, std::size_t count, linalg::work) {
      const T* const from = attended_.data() + first * o_width_;
      if (by != nullptr)
        l_.rotate_rows(*by, from, count, o_width_, to + first * o_width_);
      else
        std::copy_n(from, count * o_width_, to + first * o_width_);
    });
    l_.apply_filter(spec_.o, to, tokens_);
  }

  // ---- backward ----

  /// The gradients of a row of scores, and its probabilities.
  void softmax_row_backward(float* s, float* dp, const piece& at, std::size_t r, float lse, float delta, T* p, T* ds) {
    const std::size_t t = at.first + r / group(), skip = first_key(t) - at.from, n = t + 1 - at.from - skip, rest = at.stride - skip;
    if (cap_ > 0) {
      float* const slope = l_.own_scratch().slopes.get(n);
      kernels::soft_cap(s + skip, n, scale_, cap_);
      kernels::soft_cap_slope(s + skip, n, scale_, cap_, slope);
      kernels::softmax_backward(s + skip, dp + skip, n, rest, 1.0f, lse, delta, s + skip, dp + skip);
      kernels::multiply(slope, n, dp + skip);
      if constexpr (narrow) {
        kernels::to_bf16(s + skip, rest, p + skip);
        kernels::to_bf16(dp + skip, rest, ds + skip);
      }
    } else {
      kernels::softmax_backward(s + skip, dp + skip, n, rest, scale_, lse, delta, p + skip, ds + skip);
    }
    std::fill_n(p, skip, T());
    std::fill_n(ds, skip, T());
  }

  /// Gradients of q, k and v as the projections gave them. Scores are computed again: keeping them would need seqlen^2 values a head.
  void heads_backward(const block_weights& w) {
    const row_rotation* const by = l_.rotation(w, &block_rotations::query_key);
    const std::size_t tasks = sequences_ * kv_heads_, step = query_piece(), g = group(), rows = step * g;
    const places<T> to = places_of(d_rows_.data(), tokens_);
    l_.prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens_ > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      auto& own = l_.own_scratch();
      float* const scores = own.scores.get(rows * (seqlen_ + 16));
      float* const dp = own.dp.get(rows * (seqlen_ + 16));
      T *p = nullptr, *ds = nullptr;
      if constexpr (narrow) {
        p = own.p.get(rows * (seqlen_ + 16));
        ds = own.ds.get(rows * (seqlen_ + 16));
      } else {
        p = scores;
        ds = dp;
      }
      float* const dq = own.heads.get(task_size());
      float* const dk = dq + seqlen_ * g * head_dim_;
      float* const dv = dk + seqlen_ * head_dim_;
      const T* const up_rows = d_head_store_.data() + task * seqlen_ * g * value_dim_;
      const float* const delta = delta_store_.data() + task * seqlen_ * g;

      const std::size_t base = task / kv_heads_ * seqlen_, kv = task % kv_heads_;
      const T* const q = head_store_.data() + task * task_size();
      const T* const k = q + seqlen_ * g * head_dim_;
      const T* const v = k + seqlen_ * head_dim_;
      // Without a window the last piece sees all keys: it sets dk and dv, the others add to them.
      bool add = window_ != 0;
      if (add) std::fill_n(dk, seqlen_ * (head_dim_ + value_dim_), 0.0f);
      for (std::size_t first = (seqlen_ - 1) / step * step;; first -= step) {
        const piece at = piece_at(first);
        const std::size_t row = first * g;
        const linalg::operand qm = matrix(q + row * head_dim_, at.m, head_dim_, head_dim_), km = matrix(k + at.from * head_dim_, at.keys, head_dim_, head_dim_);
        const linalg::operand um = matrix(up_rows + row * value_dim_, at.m, value_dim_, value_dim_);
        linalg::gemm_nt(qm, km, scores, at.stride, false, own_work);
        linalg::gemm_nt(um, matrix(v + at.from * value_dim_, at.keys, value_dim_, value_dim_), dp, at.stride, false, own_work);
        for (std::size_t r = 0; r < at.m; ++r)
          softmax_row_backward(scores + r * at.stride, dp + r * at.stride, at, r, lse_.data()[task * seqlen_ * g + row + r], delta[row + r], p + r * at.stride,
                               ds + r * at.stride);
        const linalg::operand pm = matrix(static_cast<const T*>(p), at.m, at.keys, at.stride), dsm = matrix(static_cast<const T*>(ds), at.m, at.keys, at.stride);
        linalg::gemm_tn(pm, um, dv + at.from * value_dim_, value_dim_, add, own_work);
        linalg::gemm_tn(dsm, qm, dk + at.from * head_dim_, head_dim_, add, own_work);
        linalg::gemm_nn(dsm, km, dq + row * head_dim_, head_dim_, false, own_work);
        add = true;
        if (first == 0) break;
      }
      if (by != nullptr) by->rows(dq, seqlen_ * (g + 1), head_dim_, true);  // dk follows dq
      for (std::size_t t = 0; t < seqlen_; ++t)
        place_gradient(w, dq + t * g * head_dim_, dk + t * head_dim_, dv + t * value_dim_, base + t, t, kv, to);
    }
  }

  /// What place_token did, backward.
  void place_gradient(const block_weights& w, const float* dq, const float* dk, const float* dv, std::size_t token, std::size_t position, std::size_t kv,
                      const places<T>& to) {
    const std::size_t half = rope_->half, g = group();
    const float *const c = rope_->cos.data() + position * half, *const s = rope_->sin.data() + position * half;
    T* const q = to.q + token * to.q_row + kv * to.q_step;
    T* const k = to.k + token * to.k_row + kv * to.k_step;
    narrow_or_copy(dv, value_dim_, to.v + token * to.v_row + kv * to.v_step);
    if (latent()) {
      float* const turned = l_.own_scratch().rotated.get(turning());
      narrow_or_copy(dq, plain(), q);
      kernels::rotate_neighbors(dq + plain(), half, c, s, -1.0f, turned);
      narrow_or_copy(turned, turning(), q + plain());
      narrow_or_copy(dk, plain(), k);
      kernels::rotate_neighbors(dk + plain(), half, c, s, -1.0f, d_turning_.data() + (token * heads_ + kv) * turning());
    } else if (const std::vector<float>& norm = w.part(block_part::query_norm); !norm.empty()) {
      float* const d = l_.own_scratch().rotated.get(2 * (g + 1) * head_dim_);
      float* const zeros = d + (g + 1) * head_dim_;
      std::fill_n(zeros, (g + 1) * head_dim_, 0.0f);
      const float* const raw = raw_.data() + token * (q_width_ + kv_width_);
      const float* const inverse = raw_inverse_.data() + token * (heads_ + kv_heads_);
      kernels::rotate(dq, g, head_dim_, half, c, s, -1.0f, d);
      kernels::rotate(dk, 1, head_dim_, half, c, s, -1.0f, d + g * head_dim_);
      kernels::rms_norm_backward(raw + kv * g * head_dim_, inverse + kv * g, d, zeros, g, head_dim_, norm.data(), d);
      kernels::rms_norm_backward(raw + q_width_ + kv * head_dim_, inverse + heads_ + kv, d + g * head_dim_, zeros, 1, head_dim_, w.part(block_part::key_norm).data(),
                                 d + g * head_dim_);
      narrow_or_copy(d, g * head_dim_, q);
      narrow_or_copy(d + g * head_dim_, head_dim_, k);
    } else {
      kernels::rotate(dq, g, head_dim_, half, c, s, -1.0f, q);
      kernels::rotate(dk, 1, head_dim_, half, c, s, -1.0f, k);
    }
  }

  /// From the gradients behind q_b and kv_b to those behind q_a and kv_a.
  void latent_backward(const block_weights& w) {
    const latent_attention& a = spec_.latent;
    const auto rank = static_cast<std::size_t>(a.rank), query_rank = static_cast<std::size_t>(a.query_rank), down = rank + turning();
    const std::size_t width = heads_ * (plain() + value_dim_);
    l_.use_backward({a.up}, tokens_);
    d_down_.get(tokens_ * down);
    if (query_rank > 0) {
      l_.use_backward({a.query_up}, tokens_);
      d_query_down_.get(tokens_ * query_rank);
    }
    const T* const d_q = d_rows_.data();
    const T* const d_kv = d_q + tokens_ * q_width_;
    l_.for_tiles(tokens_, [&](std::size_t first, std::size_t count, linalg::work who) {
      auto& own = l_.own_scratch();
      std::vector<float> zeros(std::max(rank, query_rank), 0.0f);
      float* const d = own.d_normed.get(count * std::max(rank, query_rank));
      float* const whole = own.d_attended.get(down);
      l_.input_gradient(a.up, d_kv + first * width, count, d, false, who);
      l_.filter_backward(a.up, d, first, count);
      for (std::size_t r = 0; r < count; ++r) {
        const std::size_t token = first + r;
        kernels::rms_norm_backward(raw_latent_.data() + token * down, latent_inverse_.data() + token, d + r * rank, zeros.data(), 1, rank,
                                   w.part(block_part::key_value_latent_norm).data(), whole);
        std::fill_n(whole + rank, turning(), 0.0f);
        for (std::size_t h = 0; h < heads_; ++h) kernels::axpy(1.0f, d_turning_.data() + (token * heads_ + h) * turning(), turning(), whole + rank);
        narrow_or_copy(whole, down, d_down_.data() + token * down);
      }
      if (query_rank == 0) return;
      l_.input_gradient(a.query_up, d_q + first * q_width_, count, d, false, who);
      l_.filter_backward(a.query_up, d, first, count);
      for (std::size_t r = 0; r < count; ++r)
        kernels::rms_norm_backward(raw_query_latent_.data() + (first + r) * query_rank, query_latent_inverse_.data() + first + r, d + r * query_rank, zeros.data(), 1,
                                   query_rank, w.part(block_part::query_latent_norm).data(), d + r * query_rank);
      narrow_or_copy(d, count * query_rank, d_query_down_.data() + first * query_rank);
    });
  }

  /// The layers that read the rows behind the norm, and the gradients of what they give.
  std::vector<std::pair<int, const T*>> readers() const {
    const T* const d = d_rows_.data();
    if (latent()) {
      const latent_attention& a = spec_.latent;
      if (a.query_rank > 0) return {{a.query_down, d_query_down_.data()}, {a.down, d_down_.data()}};
      return {{spec_.q, d}, {a.down, d_down_.data()}};
    }
    if (fused()) return {{spec_.q, d}};
    return {{spec_.q, d}, {spec_.k, d + tokens_ * q_width_}, {spec_.v, d + tokens_ * (q_width_ + kv_width_)}};
  }

  block_layers<T>& l_;
  const model_spec& spec_;
  std::size_t heads_, kv_heads_, head_dim_, value_dim_, q_width_, kv_width_, v_width_, o_width_;
  float scale_, cap_;
  std::size_t sequences_ = 0, seqlen_ = 0, tokens_ = 0, window_ = 0;
  rope_table ropes_[2];  // of all blocks, or of those without and with a window
  rope_table* rope_ = ropes_;

  // What backward needs, for all tokens. q, k, v and d_o lie by heads.
  buffer<T> attended_, head_store_, o_store_;
  buffer<float> lse_, raw_, raw_inverse_, few_queries_;  // raw_: queries and keys before their norms
  buffer<T> latent_, query_latent_;
  buffer<float> raw_latent_, raw_query_latent_, latent_inverse_, query_latent_inverse_;
  // Gradients that weight products read, for all tokens.
  buffer<T> d_rows_, d_head_store_, d_down_, d_query_down_;
  buffer<float> delta_store_, d_turning_;
};

template <class T>
void block_attention<T>::measure(const block_weights& w, attention_sensitivity& out) {
  const std::size_t tasks = sequences_ * kv_heads_, step = query_piece(), g = group(), rows = step * g;
  // What a change of a head's output becomes in the stream, on average over directions.
  std::vector<float> head_scale(heads_, 0.0f);
  std::vector<float> o = w.linears[static_cast<std::size_t>(spec_.o)];
  if (const row_rotation* by = l_.rotation(w, &block_rotations::o_input)) by->rows(o.data(), l_.hidden, o_width_, true);
  for (std::size_t r = 0; r < l_.hidden; ++r)
    for (std::size_t h = 0; h < heads_; ++h)
      head_scale[h] += kernels::dot(o.data() + r * o_width_ + h * value_dim_, o.data() + r * o_width_ + h * value_dim_, value_dim_);
  std::vector<float> query(tasks * seqlen_, 0.0f), key(tasks * seqlen_, 0.0f);
  l_.prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens_ > small_batch)
  for (std::size_t task = 0; task < tasks; ++task) {
    auto& own = l_.own_scratch();
    float* const scores = own.scores.get(rows * (seqlen_ + 16));
    float* const vo = own.dp.get(rows * (seqlen_ + 16));
    T* p = nullptr;
    if constexpr (narrow)
      p = own.p.get(rows * (seqlen_ + 16));
    else
      p = scores;
    float* const norms = own.out.get(std::max(rows * value_dim_, 2 * seqlen_ + std::max(head_dim_, value_dim_)));
    float *const vv = norms, *const kk = norms + seqlen_, *const wide = norms + 2 * seqlen_;
    const std::size_t base = task / kv_heads_ * seqlen_, kv = task % kv_heads_;
    const T* const q = head_store_.data() + task * task_size();
    const T* const k = q + seqlen_ * g * head_dim_;
    const T* const v = k + seqlen_ * head_dim_;
    const auto squared = [&](const T* x, std::size_t n) {
      if constexpr (narrow) {
        kernels::from_bf16(x, n, wide);
        return kernels::dot(wide, wide, n);
      } else {
        return kernels::dot(x, x, n);
      }
    };
    for (std::size_t s = 0; s < seqlen_; ++s) {
      vv[s] = squared(v + s * value_dim_, value_dim_);
      kk[s] = squared(k + s * head_dim_, head_dim_);
    }
    for (std::size_t first = 0; first < seqlen_; first += step) {
      const piece at = piece_at(first);
      linalg::gemm_nt(matrix(q + first * g * head_dim_, at.m, head_dim_, head_dim_), matrix(k + at.from * head_dim_, at.keys, head_dim_, head_dim_), scores, at.stride,
                      false, own_work);
      for (std::size_t r = 0; r < at.m; ++r) softmax_row(scores + r * at.stride, at, r, p + r * at.stride);
      for (std::size_t h = 0; h < g; ++h) {
        const T* const o_rows = attended_.data() + (base + first) * o_width_ + (kv * g + h) * value_dim_;
        linalg::gemm_nt(matrix(o_rows, at.n, value_dim_, o_width_), matrix(v + at.from * value_dim_, at.keys, value_dim_, value_dim_), vo, at.stride, false, own_work);
        const float c = head_scale[kv * g + h];
        for (std::size_t t = 0; t < at.n; ++t) {
          if (out.counts != nullptr && out.counts[base + first + t] == 0) continue;
          query[task * seqlen_ + first + t] +=
              c * kernels::attention_sensitivity(p + (t * g + h) * at.stride, vo + t * at.stride, vv + at.from, kk + at.from, squared(o_rows + t * o_width_, value_dim_),
                                                 c * squared(q + ((first + t) * g + h) * head_dim_, head_dim_), first + t + 1 - at.from,
                                                 key.data() + task * seqlen_ + at.from);
        }
      }
    }
  }
  out.query.assign(tokens_, 0.0f);
  out.key.assign(tokens_, 0.0f);
  for (std::size_t task = 0; task < tasks; ++task)
    for (std::size_t t = 0; t < seqlen_; ++t) {
      out.query[task / kv_heads_ * seqlen_ + t] += query[task * seqlen_ + t];
      out.key[task / kv_heads_ * seqlen_ + t] += key[task * seqlen_ + t];
    }
}

}  // namespace auto_round::model
