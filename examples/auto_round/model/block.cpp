// The decoder block of the LLaMA family. T is the element type of what enters matrix products: float, or bfloat16 bits.
#include "model/block.hpp"

#include <omp.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <new>
#include <type_traits>

#include "model/kernels.hpp"
#include "model/rope.hpp"

namespace auto_round::model {
namespace {

using bf16 = std::uint16_t;

/// Memory that grows and is never filled: every use writes before it reads.
template <class T>
class buffer {
 public:
  T* get(std::size_t n) {
    if (n > capacity_) {
      data_.reset();
      data_.reset(static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))));
      capacity_ = n;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  struct release {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, release> data_;
  std::size_t capacity_ = 0;
};

template <class T>
linalg::operand matrix(const T* data, std::size_t rows, std::size_t cols, std::size_t stride) {
  return {data, rows, cols, stride, std::is_same_v<T, bf16>};
}

constexpr std::size_t piece_tokens = 2048;  // forward's share of a large batch
// Below these, waking threads costs more than it saves.
constexpr linalg::work own_work = linalg::work::own;
constexpr std::size_t small_batch = 128, small_cache = 256;

}  // namespace

struct block_runner::impl {
  explicit impl(const model_spec& s) : spec(s), hidden(static_cast<std::size_t>(s.hidden_size)) {}
  virtual ~impl() = default;
  virtual void use_weights(const block_weights& w, std::size_t total_tokens) = 0;
  virtual linalg::operand attend(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, attention_sensitivity* sensitivity) = 0;
  virtual linalg::operand gate_rows(const block_weights& w, const float* x, std::size_t tokens) = 0;
  virtual void add_linear(const block_weights& w, int linear, const linalg::operand& rows, const float* residual, float* y) = 0;
  virtual void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook) = 0;
  virtual void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx,
                        const gradient_hook& hook, vector_gradients* vectors) = 0;
  virtual void forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y) = 0;

  model_spec spec;
  std::size_t hidden;
  input_filter filter;
  filter_gradient through_filter;
  attention_filter heads_filter;
};

template <class T>
struct block_runner::typed_impl final : block_runner::impl {
  static constexpr bool narrow = std::is_same_v<T, bf16>;

  explicit typed_impl(const model_spec& s)
      : impl(s),
        inner(static_cast<std::size_t>(s.intermediate_size)),
        heads(static_cast<std::size_t>(s.num_heads)),
        kv_heads(static_cast<std::size_t>(s.num_kv_heads)),
        head_dim(static_cast<std::size_t>(s.head_dim)),
        q_width(heads * head_dim),
        kv_width(kv_heads * head_dim),
        width(q_width + 2 * kv_width),
        eps(static_cast<float>(s.rms_norm_eps)),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))),
        rounded_weights(s.linears.size()) {}

  std::size_t inner, heads, kv_heads, head_dim, q_width, kv_width, width;
  float eps, scale;

  std::size_t sequences = 0, seqlen = 0, tokens = 0;
  const float* input = nullptr;
  rope_table rope;
  std::vector<std::vector<bf16>> rounded_weights;
  std::vector<const T*> weights;

  // What backward needs, for all tokens. q, k, v and d_o lie by heads (see attention).
  buffer<T> normed, attended, normed2, product, head_store;
  buffer<float> lse, middle, inverse, inverse2, gate, up;
  // Gradients that weight products read, for all tokens.
  buffer<T> dy_store, d_gate_store, d_up_store, d_middle_store, d_qkv_store, d_head_store;
  buffer<float> d_middle, delta_store;
  buffer<float> few_qkv, widened, widened_too;
  buffer<T> o_store;  // what o reads, where that is not `attended`
  buffer<float> unfiltered_store[4];  // rows before the filter, where its backward wants them: of q, o, gate, down
  /// What a thread needs for a tile of rows or a piece of attention; kept, because fresh memory of this size costs page faults on every call.
  struct thread_scratch {
    buffer<float> qkv, d_product, d_normed, d_attended;
    buffer<float> scores, dp, out, heads, rotated;
    buffer<T> p, ds;
  };
  std::vector<thread_scratch> scratch;
  std::vector<linalg::prepared> forward_weights, backward_weights;

  // ---- tiles of rows ----

  /// Rows that one thread takes through several layers while they are in its second-level cache. Where weights are packed, few rows cost nothing.
  static std::size_t tile_rows() { return narrow && linalg::fast_bf16() ? 128 : 256; }

  /// f(first, count, who) over tiles of all tokens, in parallel; one call, whose products are shared by all threads, if there is no second tile.
  /// The tiles follow from the number of tokens alone.
  template <class F>
  void for_tiles(const F& f) {
    prepare_scratch();
    const std::size_t tile = tile_rows(), tiles = (tokens + tile - 1) / tile;
    if (tiles <= 1) return f(0, tokens, linalg::work::shared);
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < tiles; ++i) f(i * tile, std::min(tile, tokens - i * tile), linalg::work::own);
  }

  void prepare_scratch() {
    const auto threads = static_cast<std::size_t>(omp_get_max_threads());
    if (scratch.size() < threads) scratch.resize(threads);
  }
  thread_scratch& own_scratch() { return scratch[static_cast<std::size_t>(omp_get_thread_num())]; }

  // ---- linear layers ----

  void use_weights(const block_weights& w, std::size_t total) override {
    for (std::size_t i = 0; i < spec.linears.size(); ++i) use_weight(w, static_cast<int>(i), total);
  }

  void use_weight(const block_weights& w, int linear, std::size_t total) {
    weights.resize(spec.linears.size());
    forward_weights.resize(spec.linears.size());
    backward_weights.resize(spec.linears.size());
    const auto i = static_cast<std::size_t>(linear);
    if constexpr (narrow) {
      if (i < w.linears_bf16.size() && !w.linears_bf16[i].empty()) {
        weights[i] = w.linears_bf16[i].data();
      } else {
        rounded_weights[i].resize(w.linears[i].size());
        linalg::to_bf16(w.linears[i].data(), w.linears[i].size(), rounded_weights[i].data());
        weights[i] = rounded_weights[i].data();
      }
    } else {
      weights[i] = w.linears[i].data();
    }
    forward_weights[i].set(true, weight(linear), tile_rows(), total);
  }

  std::size_t out_features(int i) const { return static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(i)].out_features); }
  std::size_t in_features(int i) const { return static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(i)].in_features); }
  linalg::operand weight(int i) const { return matrix(weights[static_cast<std::size_t>(i)], out_features(i), in_features(i), in_features(i)); }

  /// y (+)= x W^T + bias for `rows` rows.
  void linear(const block_weights& w, int i, const T* x, std::size_t rows, float* y, std::size_t stride, bool add, linalg::work who) const {
    const std::size_t out = out_features(i), in = in_features(i);
    const auto index = static_cast<std::size_t>(i);
    if (index < w.bias.size() && !w.bias[index].empty()) {
      const float* b = w.bias[index].data();
      for (std::size_t r = 0; r < rows; ++r) {
        if (add)
          kernels::axpy(1.0f, b, out, y + r * stride);
        else
          std::copy_n(b, out, y + r * stride);
      }
      add = true;
    }
    if (who == own_work)
      forward_weights[index].multiply(matrix(x, rows, in, in), y, stride, add);
    else
      linalg::gemm_nt(matrix(x, rows, in, in), weight(i), y, stride, add);
  }

  /// dx (+)= dy W for `rows` rows.
  void input_gradient(int i, const T* dy, std::size_t rows, float* dx, bool add, linalg::work who) const {
    const linalg::operand a = matrix(dy, rows, out_features(i), out_features(i));
    if (who == own_work)
      backward_weights[static_cast<std::size_t>(i)].multiply(a, dx, in_features(i), add);
    else
      linalg::gemm_nn(a, weight(i), dx, in_features(i), add);
  }

  const float* as_floats(const T* x, std::size_t n, buffer<float>& room) const {
    if constexpr (narrow) {
      kernels::from_bf16(x, n, room.get(n));
      return room.data();
    } else {
      return x;
    }
  }

  void call_hook(const input_hook& hook, std::initializer_list<int> linears, const T* x) {
    if (!hook) return;
    const float* const floats = as_floats(x, tokens * in_features(*linears.begin()), widened);
    for (int i : linears) hook(i, floats, tokens);
  }

  buffer<float>& unfiltered(int linear) { return unfiltered_store[linear == spec.q ? 0 : linear == spec.o ? 1 : linear == spec.gate ? 2 : 3]; }

  /// The filter on all rows of a linear layer's input.
  void apply_filter(int linear, T* x) {
    const std::size_t n = tokens * in_features(linear);
    if (through_filter) {
      if constexpr (narrow)
        kernels::from_bf16(x, n, unfiltered(linear).get(n));
      else
        std::copy_n(x, n, unfiltered(linear).get(n));
    }
    if constexpr (narrow) {
      kernels::from_bf16(x, n, widened.get(n));
      filter(linear, widened.data(), tokens);
      kernels::to_bf16(widened.data(), n, x);
    } else {
      filter(linear, x, tokens);
    }
  }

  /// From the gradient of filtered rows to that of the rows, in place.
  void filter_backward(int linear, float* d, std::size_t first, std::size_t count) {
    if (filter && through_filter) through_filter(linear, unfiltered(linear).data() + first * in_features(linear), d, first, count);
  }

  // ---- online rotations ----

  static const row_rotation* rotation(const block_weights& w, std::shared_ptr<const row_rotation> block_rotations::*where) {
    return w.rotations == nullptr ? nullptr : (*w.rotations.*where).get();
  }

  /// x = from, rotated; `from` may be x. Where products are narrow the transform still runs in float.
  void rotate_rows(const row_rotation& by, const T* from, std::size_t rows, std::size_t cols, T* x) {
    if constexpr (narrow) {
      float* const wide = own_scratch().rotated.get(rows * cols);
      kernels::from_bf16(from, rows * cols, wide);
      by.rows(wide, rows, cols);
      kernels::to_bf16(wide, rows * cols, x);
    } else {
      if (from != x) std::copy_n(from, rows * cols, x);
      by.rows(x, rows, cols);
    }
  }

  /// rms_norm and the rotation behind it.
  void norm_rows(const float* x, std::size_t rows, const std::vector<float>& weight, const row_rotation* by, T* out, float* inv) {
    if constexpr (narrow) {
      if (by != nullptr) {
        float* const wide = own_scratch().rotated.get(rows * hidden);
        kernels::rms_norm(x, rows, hidden, weight.data(), eps, wide, inv);
        by->rows(wide, rows, hidden);
        return kernels::to_bf16(wide, rows * hidden, out);
      }
    }
    kernels::rms_norm(x, rows, hidden, weight.data(), eps, out, inv);
    if (by != nullptr) rotate_rows(*by, out, rows, hidden, out);
  }

  // What o reads: the attended rows, or a copy that is rotated and filtered. Attention's backward needs them as they were.
  bool changes_o_input(const block_weights& w) const { return filter || rotation(w, &block_rotations::o_input) != nullptr; }
  const T* o_input(const block_weights& w) const { return changes_o_input(w) ? o_store.data() : attended.data(); }
  void prepare_o_input(const block_weights& w) {
    if (!changes_o_input(w)) return;
    const row_rotation* const by = rotation(w, &block_rotations::o_input);
    T* const to = o_store.get(tokens * q_width);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work) {
      const T* const from = attended.data() + first * q_width;
      if (by != nullptr)
        rotate_rows(*by, from, count, q_width, to + first * q_width);
      else
        std::copy_n(from, count * q_width, to + first * q_width);
    });
    if (filter) apply_filter(spec.o, to);
  }

  // ---- attention ----

  // The queries of a key-value head's group, its keys and its values lie together, so that every product inside attention has dense operands and
  // as many rows as possible: [sequence][kv head]{q [seqlen * group x head_dim], k [seqlen x head_dim], v [seqlen x head_dim]}, row t * group + g
  // of q being token t, head g of the group.
  std::size_t group() const { return heads / kv_heads; }
  std::size_t task_size() const { return seqlen * (group() + 2) * head_dim; }
  /// Tokens whose queries are one product: about 128 rows; 64 where a row of scores is long, to stay in the second-level cache.
  std::size_t query_piece() const { return std::max<std::size_t>(16, (seqlen > 1024 ? 64 : 128) / group() / 16 * 16); }

  void narrow_or_copy(const float* in, std::size_t n, T* out) const {
    if constexpr (narrow)
      kernels::to_bf16(in, n, out);
    else
      std::copy_n(in, n, out);
  }

  /// Where the row of a token begins in the storage by heads: q of key-value head `kv`; k and v follow as attention() knows.
  struct head_rows {
    T *q, *k, *v;
  };
  head_rows heads_of(T* all, std::size_t token, std::size_t kv) const {
    const std::size_t s = token / seqlen, t = token % seqlen;
    T* const task = all + (s * kv_heads + kv) * task_size();
    return {task + t * group() * head_dim, task + (seqlen * group() + t) * head_dim, task + (seqlen * (group() + 1) + t) * head_dim};
  }

  /// Rotates q and k of `count` tokens and lays them and v out by heads. `qkv` is q [count x q_width], k and v [count x kv_width], one after the other:
  /// products write whole rows fastest.
  void to_heads(const block_weights& w, const float* qkv, std::size_t first, std::size_t count) {
    const std::size_t half = head_dim / 2, g = group();
    const row_rotation* const by = rotation(w, &block_rotations::query_key);
    for (std::size_t r = 0; r < count; ++r) {
      const float* const q = qkv + r * q_width;
      const float* const k = qkv + count * q_width + r * kv_width;
      const float* const v = k + count * kv_width;
      const float *const c = rope.cos.data() + (first + r) % seqlen * half, *const s = rope.sin.data() + (first + r) % seqlen * half;
      for (std::size_t kv = 0; kv < kv_heads; ++kv) {
        const head_rows to = heads_of(head_store.data(), first + r, kv);
        kernels::rotate(q + kv * g * head_dim, g, head_dim, half, c, s, 1.0f, to.q);
        kernels::rotate(k + kv * head_dim, 1, head_dim, half, c, s, 1.0f, to.k);
        if (by != nullptr) {
          rotate_rows(*by, to.q, g, head_dim, to.q);
          rotate_rows(*by, to.k, 1, head_dim, to.k);
        }
        narrow_or_copy(v + kv * head_dim, head_dim, to.v);
      }
    }
  }

  void filter_heads() {
    const std::size_t tasks = sequences * kv_heads, n = tasks * task_size(), keys = seqlen * head_dim;
    float* all = nullptr;
    if constexpr (narrow) {
      all = widened.get(n);
      kernels::from_bf16(head_store.data(), n, all);
    } else {
      all = head_store.data();
    }
    std::vector<attention_rows> rows;
    for (std::size_t task = 0; task < tasks; ++task) {
      float *const q = all + task * task_size(), *const k = q + group() * keys;
      rows.push_back({task % kv_heads, {q, group() * keys}, {k, keys}, {k + keys, keys}});
    }
    heads_filter(rows);
    if constexpr (narrow) kernels::to_bf16(all, n, head_store.data());
  }

  /// o = softmax(causal(scale q k^T)) v for every sequence and head. Keeps the log-sum of each row of scores.
  void attention(T* o) {
    const std::size_t tasks = sequences * kv_heads, piece = query_piece(), g = group(), rows = piece * g;
    float* const log_sums = lse.get(heads * tokens);
    prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      thread_scratch& own = own_scratch();
      float* const scores = own.scores.get(rows * (seqlen + 16));
      float* const out = own.out.get(rows * head_dim);
      T* p = nullptr;
      if constexpr (narrow)
        p = own.p.get(rows * (seqlen + 16));
      else
        p = scores;
      const std::size_t base = task / kv_heads * seqlen, kv = task % kv_heads;
      const T* const q = head_store.data() + task * task_size();
      const T* const k = q + seqlen * g * head_dim;
      const T* const v = k + seqlen * head_dim;
      for (std::size_t first = 0; first < seqlen; first += piece) {
        const std::size_t n = std::min(piece, seqlen - first), m = n * g, keys = first + n, stride = (keys + 15) / 16 * 16;
        linalg::gemm_nt(matrix(q + first * g * head_dim, m, head_dim, head_dim), matrix(k, keys, head_dim, head_dim), scores, stride, false, own_work);
        for (std::size_t r = 0; r < m; ++r)
          log_sums[task * seqlen * g + first * g + r] = kernels::softmax(scores + r * stride, first + r / g + 1, stride, scale, p + r * stride);
        linalg::gemm_nn(matrix(p, m, keys, stride), matrix(v, keys, head_dim, head_dim), out, head_dim, false, own_work);
        for (std::size_t t = 0; t < n; ++t) narrow_or_copy(out + t * g * head_dim, g * head_dim, o + (base + first + t) * q_width + kv * g * head_dim);
      }
    }
  }

  /// From what attend_rows left; scores are computed again.
  void measure_attention(const block_weights& w, attention_sensitivity& out) {
    const std::size_t tasks = sequences * kv_heads, piece = query_piece(), g = group(), rows = piece * g;
    // What a change of a head's output becomes in the stream, on average over directions.
    std::vector<float> head_scale(heads, 0.0f);
    std::vector<float> o = w.linears[static_cast<std::size_t>(spec.o)];
    if (const row_rotation* by = rotation(w, &block_rotations::o_input)) by->rows(o.data(), hidden, q_width, true);
    for (std::size_t r = 0; r < hidden; ++r)
      for (std::size_t h = 0; h < heads; ++h) head_scale[h] += kernels::dot(o.data() + r * q_width + h * head_dim, o.data() + r * q_width + h * head_dim, head_dim);
    std::vector<float> query(tasks * seqlen, 0.0f), key(tasks * seqlen, 0.0f);
    prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      thread_scratch& own = own_scratch();
      float* const scores = own.scores.get(rows * (seqlen + 16));
      float* const vo = own.dp.get(rows * (seqlen + 16));
      T* p = nullptr;
      if constexpr (narrow)
        p = own.p.get(rows * (seqlen + 16));
      else
        p = scores;
      float* const norms = own.out.get(std::max(rows * head_dim, 2 * seqlen + head_dim));
      float *const vv = norms, *const kk = norms + seqlen, *const wide = norms + 2 * seqlen;
      const std::size_t base = task / kv_heads * seqlen, kv = task % kv_heads;
      const T* const q = head_store.data() + task * task_size();
      const T* const k = q + seqlen * g * head_dim;
      const T* const v = k + seqlen * head_dim;
      const auto squared = [&](const T* x) {
        if constexpr (narrow) {
          kernels::from_bf16(x, head_dim, wide);
          return kernels::dot(wide, wide, head_dim);
        } else {
          return kernels::dot(x, x, head_dim);
        }
      };
      for (std::size_t s = 0; s < seqlen; ++s) {
        vv[s] = squared(v + s * head_dim);
        kk[s] = squared(k + s * head_dim);
      }
      for (std::size_t first = 0; first < seqlen; first += piece) {
        const std::size_t n = std::min(piece, seqlen - first), m = n * g, keys = first + n, stride = (keys + 15) / 16 * 16;
        linalg::gemm_nt(matrix(q + first * g * head_dim, m, head_dim, head_dim), matrix(k, keys, head_dim, head_dim), scores, stride, false, own_work);
        for (std::size_t r = 0; r < m; ++r) kernels::softmax(scores + r * stride, first + r / g + 1, stride, scale, p + r * stride);
        for (std::size_t h = 0; h < g; ++h) {
          const T* const o_rows = attended.data() + (base + first) * q_width + (kv * g + h) * head_dim;
          linalg::gemm_nt(matrix(o_rows, n, head_dim, q_width), matrix(v, keys, head_dim, head_dim), vo, stride, false, own_work);
          const float c = head_scale[kv * g + h];
          for (std::size_t t = 0; t < n; ++t) {
            if (out.counts != nullptr && out.counts[base + first + t] == 0) continue;
            query[task * seqlen + first + t] +=
                c * kernels::attention_sensitivity(p + (t * g + h) * stride, vo + t * stride, vv, kk, squared(o_rows + t * q_width),
                                                   c * squared(q + ((first + t) * g + h) * head_dim), first + t + 1, key.data() + task * seqlen);
          }
        }
      }
    }
    out.query.assign(tokens, 0.0f);
    out.key.assign(tokens, 0.0f);
    for (std::size_t task = 0; task < tasks; ++task)
      for (std::size_t t = 0; t < seqlen; ++t) {
        out.query[task / kv_heads * seqlen + t] += query[task * seqlen + t];
        out.key[task / kv_heads * seqlen + t] += key[task * seqlen + t];
      }
  }

  /// From the gradient of o by heads and its product sums with o, the gradients of q, k and v before rotation, [tokens x q_width] and twice
  /// [tokens x kv_width]. Scores are computed again: keeping them would need seqlen^2 values a head.
  void attention_backward(const block_weights& w, T* d_q, T* d_k, T* d_v) {
    const row_rotation* const by = rotation(w, &block_rotations::query_key);
    const std::size_t tasks = sequences * kv_heads, piece = query_piece(), g = group(), rows = piece * g, half = head_dim / 2;
    prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      thread_scratch& own = own_scratch();
      float* const scores = own.scores.get(rows * (seqlen + 16));
      float* const dp = own.dp.get(rows * (seqlen + 16));
      T *p = nullptr, *ds = nullptr;
      if constexpr (narrow) {
        p = own.p.get(rows * (seqlen + 16));
        ds = own.ds.get(rows * (seqlen + 16));
      } else {
        p = scores;
        ds = dp;
      }
      float* const dq = own.heads.get(task_size());
      float* const dk = dq + seqlen * g * head_dim;
      float* const dv = dk + seqlen * head_dim;
      const T* const up_rows = d_head_store.data() + task * seqlen * g * head_dim;
      const float* const delta = delta_store.data() + task * seqlen * g;

      const std::size_t base = task / kv_heads * seqlen, kv = task % kv_heads;
      const T* const q = head_store.data() + task * task_size();
      const T* const k = q + seqlen * g * head_dim;
      const T* const v = k + seqlen * head_dim;
      // The last piece sees all keys: it sets dk and dv, the others add to them.
      bool add = false;
      for (std::size_t first = (seqlen - 1) / piece * piece;; first -= piece) {
        const std::size_t n = std::min(piece, seqlen - first), m = n * g, keys = first + n, stride = (keys + 15) / 16 * 16, at = first * g;
        const linalg::operand qm = matrix(q + at * head_dim, m, head_dim, head_dim), km = matrix(k, keys, head_dim, head_dim);
        const linalg::operand um = matrix(up_rows + at * head_dim, m, head_dim, head_dim);
        linalg::gemm_nt(qm, km, scores, stride, false, own_work);
        linalg::gemm_nt(um, matrix(v, keys, head_dim, head_dim), dp, stride, false, own_work);
        for (std::size_t r = 0; r < m; ++r)
          kernels::softmax_backward(scores + r * stride, dp + r * stride, first + r / g + 1, stride, scale, lse.data()[task * seqlen * g + at + r],
                                    delta[at + r], p + r * stride, ds + r * stride);
        const linalg::operand pm = matrix(static_cast<const T*>(p), m, keys, stride), dsm = matrix(static_cast<const T*>(ds), m, keys, stride);
        linalg::gemm_tn(pm, um, dv, head_dim, add, own_work);
        linalg::gemm_tn(dsm, qm, dk, head_dim, add, own_work);
        linalg::gemm_nn(dsm, km, dq + at * head_dim, head_dim, false, own_work);
        add = true;
        if (first == 0) break;
      }
      if (by != nullptr) by->rows(dq, seqlen * (g + 1), head_dim, true);  // dk follows dq
      for (std::size_t t = 0; t < seqlen; ++t) {
        const float *const c = rope.cos.data() + t * half, *const s = rope.sin.data() + t * half;
        kernels::rotate(dq + t * g * head_dim, g, head_dim, half, c, s, -1.0f, d_q + (base + t) * q_width + kv * g * head_dim);
        kernels::rotate(dk + t * head_dim, 1, head_dim, half, c, s, -1.0f, d_k + (base + t) * kv_width + kv * head_dim);
        narrow_or_copy(dv + t * head_dim, head_dim, d_v + (base + t) * kv_width + kv * head_dim);
      }
    }
  }

  // ---- passes ----

  void norm_input(const block_weights& w, const float* x, std::size_t first, std::size_t count) {
    norm_rows(x + first * hidden, count, w.input_norm, rotation(w, &block_rotations::attention_input), normed.data() + first * hidden, inverse.data() + first);
  }
  void norm_middle(const block_weights& w, const float* h, std::size_t first, std::size_t count) {
    norm_rows(h, count, w.post_attention_norm, rotation(w, &block_rotations::mlp_input), normed2.data() + first * hidden, inverse2.data() + first);
  }

  /// From the normed rows.
  void project_qkv(const block_weights& w, std::size_t first, std::size_t count, float* out, linalg::work who) {
    const T* const n = normed.data() + first * hidden;
    linear(w, spec.q, n, count, out, q_width, false, who);
    linear(w, spec.k, n, count, out + count * q_width, kv_width, false, who);
    linear(w, spec.v, n, count, out + count * (q_width + kv_width), kv_width, false, who);
  }

  /// From the attended rows of a tile to the block's result.
  void finish(const block_weights& w, const float* x, std::size_t first, std::size_t count, float* y, linalg::work who) {
    add_attention(w, x, first, count, who);
    norm_middle(w, middle.data() + first * hidden, first, count);
    gated(w, first, count, who);
    add_mlp(w, first, count, y, who);
  }

  /// The same for all tokens, in steps, with the filter between them: it sees the rows of the whole batch.
  void finish_filtered(const block_weights& w, const float* x, float* y) {
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      add_attention(w, x, first, count, who);
      norm_middle(w, middle.data() + first * hidden, first, count);
    });
    apply_filter(spec.gate, normed2.data());
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { gated(w, first, count, who); });
    apply_filter(spec.down, product.data());
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { add_mlp(w, first, count, y, who); });
  }

  void add_attention(const block_weights& w, const float* x, std::size_t first, std::size_t count, linalg::work who) {
    float* const h = middle.data() + first * hidden;
    std::copy_n(x + first * hidden, count * hidden, h);
    linear(w, spec.o, o_input(w) + first * q_width, count, h, hidden, true, who);
  }

  void add_mlp(const block_weights& w, std::size_t first, std::size_t count, float* y, linalg::work who) {
    std::copy_n(middle.data() + first * hidden, count * hidden, y + first * hidden);
    linear(w, spec.down, product.data() + first * inner, count, y + first * hidden, hidden, true, who);
  }

  /// What down reads, from normed rows.
  void gated(const block_weights& w, std::size_t first, std::size_t count, linalg::work who) {
    const T* const n = normed2.data() + first * hidden;
    float* const g = gate.data() + first * inner;
    float* const u = up.data() + first * inner;
    linear(w, spec.gate, n, count, g, inner, false, who);
    linear(w, spec.up, n, count, u, inner, false, who);
    T* const p = product.data() + first * inner;
    kernels::swiglu(g, u, count * inner, p);
    if (const row_rotation* by = rotation(w, &block_rotations::down_input)) rotate_rows(*by, p, count, inner, p);
  }

  void make_room() {
    normed.get(tokens * hidden), normed2.get(tokens * hidden), middle.get(tokens * hidden);
    inverse.get(tokens), inverse2.get(tokens);
    gate.get(tokens * inner), up.get(tokens * inner), product.get(tokens * inner);
    attended.get(tokens * q_width);
    head_store.get(sequences * kv_heads * task_size());
  }

  void attend_rows(const block_weights& w, const float* x) {
    rope.prepare(spec, 0, seqlen, seqlen);
    const auto project = [&](std::size_t first, std::size_t count, linalg::work who) {
      float* const rows = own_scratch().qkv.get(count * width);
      project_qkv(w, first, count, rows, who);
      to_heads(w, rows, first, count);
    };
    if (filter) {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work) { norm_input(w, x, first, count); });
      apply_filter(spec.q, normed.data());
      for_tiles(project);
    } else {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
        norm_input(w, x, first, count);
        project(first, count, who);
      });
    }
    if (heads_filter) filter_heads();
    attention(attended.data());
    prepare_o_input(w);
  }

  linalg::operand attend(const block_weights& w, const float* x, std::size_t sequences_, std::size_t seqlen_, attention_sensitivity* sensitivity) override {
    sequences = sequences_;
    seqlen = seqlen_;
    tokens = sequences * seqlen;
    normed.get(tokens * hidden), inverse.get(tokens), attended.get(tokens * q_width);
    head_store.get(sequences * kv_heads * task_size());
    for (const int i : {spec.q, spec.k, spec.v}) use_weight(w, i, tokens);
    attend_rows(w, x);
    if (sensitivity != nullptr) measure_attention(w, *sensitivity);
    return matrix(o_input(w), tokens, q_width, q_width);
  }

  linalg::operand gate_rows(const block_weights& w, const float* x, std::size_t tokens_) override {
    tokens = tokens_;
    normed2.get(tokens * hidden), inverse2.get(tokens), gate.get(tokens * inner), up.get(tokens * inner), product.get(tokens * inner);
    for (const int i : {spec.gate, spec.up}) use_weight(w, i, tokens);
    if (filter) {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work) { norm_middle(w, x + first * hidden, first, count); });
      apply_filter(spec.gate, normed2.data());
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { gated(w, first, count, who); });
      apply_filter(spec.down, product.data());
    } else {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
        norm_middle(w, x + first * hidden, first, count);
        gated(w, first, count, who);
      });
    }
    return matrix(static_cast<const T*>(product.data()), tokens, inner, inner);
  }

  void add_linear(const block_weights& w, int i, const linalg::operand& rows, const float* residual, float* y) override {
    tokens = rows.rows;
    use_weight(w, i, tokens);
    const std::size_t out = out_features(i);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      if (y != residual) std::copy_n(residual + first * out, count * out, y + first * out);
      linear(w, i, static_cast<const T*>(rows.data) + first * rows.stride, count, y + first * out, out, true, who);
    });
  }

  void forward(const block_weights& w, const float* x, std::size_t sequences_, std::size_t seqlen_, float* y, const input_hook& hook) override {
    sequences = sequences_;
    seqlen = seqlen_;
    tokens = sequences * seqlen;
    input = x;
    make_room();
    attend_rows(w, x);
    if (filter)
      finish_filtered(w, x, y);
    else
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { finish(w, x, first, count, y, who); });
    call_hook(hook, {spec.q, spec.k, spec.v}, normed.data());
    call_hook(hook, {spec.o}, o_input(w));
    call_hook(hook, {spec.gate, spec.up}, normed2.data());
    call_hook(hook, {spec.down}, product.data());
  }

  void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx,
                const gradient_hook& hook, vector_gradients* vectors) override {
    assert(d_linears.size() == spec.linears.size());
    const bool into_attention = dx != nullptr || d_linears[static_cast<std::size_t>(spec.q)] != nullptr ||
                                d_linears[static_cast<std::size_t>(spec.k)] != nullptr || d_linears[static_cast<std::size_t>(spec.v)] != nullptr ||
                                vectors != nullptr;
    // Sums over tokens, one row of partial sums for each tile.
    std::vector<float> norm_parts(vectors == nullptr ? 0 : (tokens / tile_rows() + 1) * hidden);
    const auto norm_part = [&](const float* x, const float* inverses, const float* d, std::size_t first, std::size_t count) {
      if (vectors == nullptr) return;
      float* const sum = norm_parts.data() + first / tile_rows() * hidden;
      std::fill_n(sum, hidden, 0.0f);
      for (std::size_t r = 0; r < count; ++r)
        for (std::size_t i = 0; i < hidden; ++i) sum[i] += d[r * hidden + i] * (x[(first + r) * hidden + i] * inverses[first + r]);
    };
    const auto add_parts = [&](std::vector<float>& to) {
      if (!accumulate || to.empty()) to.assign(hidden, 0.0f);
      for (std::size_t at = 0; at < tokens; at += tokens <= tile_rows() ? tokens : tile_rows())
        kernels::axpy(1.0f, norm_parts.data() + at / tile_rows() * hidden, hidden, to.data());
    };
    for (const int i : {spec.down, spec.gate, spec.up, spec.o})
      backward_weights[static_cast<std::size_t>(i)].set(false, weight(i), tile_rows(), tokens);

    // From dy to the gradient of the attended rows. What weight products read is kept for all tokens.
    float* const dh_all = d_middle.get(tokens * hidden);
    const T* dy_all = nullptr;
    const T* dh_rounded = nullptr;
    T *dg_all = nullptr, *du_all = nullptr;
    if constexpr (narrow) {
      dy_all = dy_store.get(tokens * hidden);
      dh_rounded = d_middle_store.get(tokens * hidden);
      dg_all = d_gate_store.get(tokens * inner);
      du_all = d_up_store.get(tokens * inner);
    } else {
      dy_all = dy;
      dh_rounded = dh_all;
      dg_all = gate.data();
      du_all = up.data();
    }
    d_head_store.get(tokens * q_width);
    delta_store.get(tokens * heads);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      thread_scratch& own = own_scratch();
      if constexpr (narrow) kernels::to_bf16(dy + first * hidden, count * hidden, dy_store.data() + first * hidden);
      float* const da = own.d_product.get(count * inner);
      input_gradient(spec.down, dy_all + first * hidden, count, da, false, who);
      filter_backward(spec.down, da, first, count);
      if (const row_rotation* by = rotation(w, &block_rotations::down_input)) by->rows(da, count, inner, true);
      T* const dg = dg_all + first * inner;
      T* const du = du_all + first * inner;
      kernels::swiglu_backward(gate.data() + first * inner, up.data() + first * inner, da, count * inner, dg, du);
      float* const dn = own.d_normed.get(count * hidden);
      input_gradient(spec.gate, dg, count, dn, false, who);
      input_gradient(spec.up, du, count, dn, true, who);
      filter_backward(spec.gate, dn, first, count);
      if (const row_rotation* by = rotation(w, &block_rotations::mlp_input)) by->rows(dn, count, hidden, true);
      norm_part(middle.data(), inverse2.data(), dn, first, count);
      float* const dh = dh_all + first * hidden;
      kernels::rms_norm_backward(middle.data() + first * hidden, inverse2.data() + first, dn, dy + first * hidden, count, hidden,
                                 w.post_attention_norm.data(), dh);
      if constexpr (narrow) kernels::to_bf16(dh, count * hidden, d_middle_store.data() + first * hidden);
      if (!into_attention) return;
      float* const d_o = own.d_attended.get(count * q_width);
      input_gradient(spec.o, dh_rounded + first * hidden, count, d_o, false, who);
      filter_backward(spec.o, d_o, first, count);
      if (const row_rotation* by = rotation(w, &block_rotations::o_input)) by->rows(d_o, count, q_width, true);
      const std::size_t g = group();
      for (std::size_t r = 0; r < count; ++r)
        for (std::size_t kv = 0; kv < kv_heads; ++kv) {
          const std::size_t s = (first + r) / seqlen, t = (first + r) % seqlen, to = ((s * kv_heads + kv) * seqlen + t) * g;
          const float* const from = d_o + r * q_width + kv * g * head_dim;
          const T* const o = attended.data() + (first + r) * q_width + kv * g * head_dim;
          narrow_or_copy(from, g * head_dim, d_head_store.data() + to * head_dim);
          for (std::size_t h = 0; h < g; ++h) delta_store.data()[to + h] = kernels::dot(from + h * head_dim, o + h * head_dim, head_dim);
        }
    });
    if (vectors != nullptr) add_parts(vectors->post_attention_norm);
    T* const d_q = d_qkv_store.get(tokens * width);
    T* const d_k = d_q + tokens * q_width;
    T* const d_v = d_k + tokens * kv_width;
    if (into_attention) attention_backward(w, d_q, d_k, d_v);

    std::vector<linalg::gradient_product> products;
    const auto weight_gradient = [&](int i, const T* d, const T* in) {
      float* const to = d_linears[static_cast<std::size_t>(i)];
      if (to == nullptr) return;
      products.push_back({matrix(d, tokens, out_features(i), out_features(i)), matrix(in, tokens, in_features(i), in_features(i)), to, in_features(i)});
      if (hook) hook(i, as_floats(d, tokens * out_features(i), widened), as_floats(in, tokens * in_features(i), widened_too), tokens);
    };
    weight_gradient(spec.down, dy_all, product.data());
    weight_gradient(spec.gate, dg_all, normed2.data());
    weight_gradient(spec.up, du_all, normed2.data());
    weight_gradient(spec.o, dh_rounded, o_input(w));
    weight_gradient(spec.q, d_q, normed.data());
    weight_gradient(spec.k, d_k, normed.data());
    weight_gradient(spec.v, d_v, normed.data());
    linalg::gemm_tn(products.data(), products.size(), accumulate);

    if (vectors != nullptr) {
      vectors->bias.resize(spec.linears.size());
      const auto bias_gradient = [&](int i, const T* d) {
        const auto index = static_cast<std::size_t>(i);
        if (index >= w.bias.size() || w.bias[index].empty()) return;
        const std::size_t n = out_features(i);
        std::vector<float>& to = vectors->bias[index];
        if (!accumulate || to.empty()) to.assign(n, 0.0f);
        const float* const rows = as_floats(d, tokens * n, widened);
        for (std::size_t t = 0; t < tokens; ++t) kernels::axpy(1.0f, rows + t * n, n, to.data());
      };
      bias_gradient(spec.down, dy_all), bias_gradient(spec.gate, dg_all), bias_gradient(spec.up, du_all), bias_gradient(spec.o, dh_rounded);
      bias_gradient(spec.q, d_q), bias_gradient(spec.k, d_k), bias_gradient(spec.v, d_v);
    }
    if (dx == nullptr && vectors == nullptr) return;
    for (const int i : {spec.q, spec.k, spec.v}) backward_weights[static_cast<std::size_t>(i)].set(false, weight(i), tile_rows(), tokens);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      float* const dn = own_scratch().d_normed.get(count * hidden);
      input_gradient(spec.q, d_q + first * q_width, count, dn, false, who);
      input_gradient(spec.k, d_k + first * kv_width, count, dn, true, who);
      input_gradient(spec.v, d_v + first * kv_width, count, dn, true, who);
      filter_backward(spec.q, dn, first, count);
      if (const row_rotation* by = rotation(w, &block_rotations::attention_input)) by->rows(dn, count, hidden, true);
      norm_part(input, inverse.data(), dn, first, count);
      if (dx == nullptr) return;
      kernels::rms_norm_backward(input + first * hidden, inverse.data() + first, dn, dh_all + first * hidden, count, hidden, w.input_norm.data(),
                                 dx + first * hidden);
    });
    if (vectors != nullptr) add_parts(vectors->input_norm);
  }

  void forward_cached(const block_weights& w, const float* x, std::size_t count, kv_cache& cache, float* y) override {
    assert(!narrow);
    if constexpr (!narrow) {
      const std::size_t before = cache.tokens, total = before + count;
      sequences = 1;
      seqlen = tokens = count;
      use_weights(w, 0);
      make_room();
      rope.prepare(spec, before, count, total);
      assert(!filter);
      float* const qkv = few_qkv.get(count * width);
      norm_input(w, x, 0, count);
      project_qkv(w, 0, count, qkv, linalg::work::shared);
      float* const o = attended.data();
      const std::size_t half = head_dim / 2;
      cache.k.resize(total * kv_width);
      cache.v.resize(total * kv_width);
      if (before == 0) {
        to_heads(w, qkv, 0, count);
        attention(o);
      }
      float* const k = qkv + count * q_width;
      const row_rotation* const by = rotation(w, &block_rotations::query_key);
      for (std::size_t t = 0; t < count; ++t) {
        const float *const c = rope.cos.data() + t * half, *const sn = rope.sin.data() + t * half;
        kernels::rotate(qkv + t * q_width, heads, head_dim, half, c, sn, 1.0f, qkv + t * q_width);
        kernels::rotate(k + t * kv_width, kv_heads, head_dim, half, c, sn, 1.0f, cache.k.data() + (before + t) * kv_width);
        if (by == nullptr) continue;
        by->rows(qkv + t * q_width, heads, head_dim);
        by->rows(cache.k.data() + (before + t) * kv_width, kv_heads, head_dim);
      }
      std::copy_n(k + count * kv_width, count * kv_width, cache.v.data() + before * kv_width);
      cache.tokens = total;
      if (before > 0) {
        // One query a task: a product of one row is not worth generated code for every length of the cache.
        const std::size_t tasks = count * heads;
        prepare_scratch();
#pragma omp parallel if (count * total > small_cache)
        {
          float* const weights_of_keys = scratch[static_cast<std::size_t>(omp_get_thread_num())].scores.get(total);
#pragma omp for schedule(static)
          for (std::size_t task = 0; task < tasks; ++task) {
            const std::size_t t = task / heads, h = task % heads, kv = h / (heads / kv_heads);
            kernels::attend(qkv + t * q_width + h * head_dim, cache.k.data() + kv * head_dim, cache.v.data() + kv * head_dim, before + t + 1, kv_width,
                            head_dim, scale, weights_of_keys, o + t * q_width + h * head_dim);
          }
        }
      }
      prepare_o_input(w);
      finish(w, x, 0, count, y, linalg::work::shared);
    }
  }
};

block_runner::block_runner(const model_spec& spec, linalg::precision precision) {
  if (precision == linalg::precision::bf16)
    impl_ = std::make_unique<typed_impl<bf16>>(spec);
  else
    impl_ = std::make_unique<typed_impl<float>>(spec);
}
block_runner::~block_runner() = default;
block_runner::block_runner(block_runner&&) noexcept = default;

void block_runner::forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook) {
  if (sequences == 0 || seqlen == 0) return;
  const std::size_t step = std::max<std::size_t>(1, piece_tokens / seqlen);
  impl_->use_weights(w, std::min(step, sequences) * seqlen);
  for (std::size_t s = 0; s < sequences; s += step) {
    const std::size_t n = std::min(step, sequences - s), at = s * seqlen * impl_->hidden;
    impl_->forward(w, x + at, n, seqlen, y + at, hook);
  }
}

void block_runner::forward_train(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y) {
  impl_->use_weights(w, sequences * seqlen);
  impl_->forward(w, x, sequences, seqlen, y, {});
}

void block_runner::backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx,
                            const gradient_hook& hook, vector_gradients* vectors) {
  impl_->backward(w, dy, d_linears, accumulate, dx, hook, vectors);
}

void block_runner::set_input_filter(input_filter filter, filter_gradient gradient) {
  impl_->filter = std::move(filter);
  impl_->through_filter = std::move(gradient);
}

void block_runner::set_attention_filter(attention_filter filter) { impl_->heads_filter = std::move(filter); }

linalg::operand block_runner::attend(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen,
                                     attention_sensitivity* sensitivity) {
  return impl_->attend(w, x, sequences, seqlen, sensitivity);
}

linalg::operand block_runner::gate(const block_weights& w, const float* x, std::size_t tokens) { return impl_->gate_rows(w, x, tokens); }

void block_runner::add_linear(const block_weights& w, int linear, const linalg::operand& rows, const float* residual, float* y) {
  impl_->add_linear(w, linear, rows, residual, y);
}

void block_runner::forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y) {
  impl_->forward_cached(w, x, tokens, cache, y);
}

}  // namespace auto_round::model
