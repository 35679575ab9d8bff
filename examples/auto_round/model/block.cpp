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

/// f(first, count) over rows in pieces of 32, in parallel unless there is little to do. Rows do not see each other, so the pieces only serve the
/// scheduler.
template <class F>
void parallel_rows(std::size_t rows, const F& f) {
  constexpr std::size_t piece = 32;
  const std::size_t pieces = (rows + piece - 1) / piece;
#pragma omp parallel for schedule(static) if (pieces > 4)
  for (std::size_t i = 0; i < pieces; ++i) f(i * piece, std::min(piece, rows - i * piece));
}

void parallel_copy(const float* from, std::size_t rows, std::size_t n, float* to) {
  parallel_rows(rows, [&](std::size_t first, std::size_t count) { std::copy_n(from + first * n, count * n, to + first * n); });
}

/// Rounds where the products want bfloat16; the same memory where they want float.
const float* rounded(const float* in, std::size_t, buffer<float>&) { return in; }
const bf16* rounded(const float* in, std::size_t n, buffer<bf16>& store) {
  linalg::to_bf16(in, n, store.get(n));
  return store.data();
}

constexpr std::size_t piece_tokens = 2048;  // forward's share of a large batch
// Below these, waking threads costs more than it saves.
constexpr linalg::work own_work = linalg::work::own;
constexpr std::size_t small_batch = 128, small_cache = 256;

}  // namespace

struct block_runner::impl {
  explicit impl(const model_spec& s) : spec(s), hidden(static_cast<std::size_t>(s.hidden_size)) {}
  virtual ~impl() = default;
  virtual void use_weights(const block_weights& w) = 0;
  virtual void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook) = 0;
  virtual void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx) = 0;
  virtual void forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y) = 0;

  model_spec spec;
  std::size_t hidden;
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

  buffer<T> normed, attended, normed2, product, head_store;
  buffer<float> qkv, lse, middle, inverse, inverse2, gate, up;
  buffer<T> dy_store, d_gate_store, d_up_store, d_middle_store, d_qkv_store;
  buffer<float> d_product, d_normed, d_middle, d_attended;
  buffer<float> widened;
  /// What a thread needs for one piece of attention; kept, because fresh memory of this size costs page faults on every call.
  struct attention_scratch {
    buffer<float> scores, dp, out, heads, delta;
    buffer<T> p, ds, d_o;
  };
  std::vector<attention_scratch> scratch;

  // ---- pieces shared by all passes ----

  void use_weights(const block_weights& w) override {
    weights.resize(spec.linears.size());
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
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
    }
  }

  std::size_t out_features(int i) const { return static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(i)].out_features); }
  std::size_t in_features(int i) const { return static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(i)].in_features); }
  linalg::operand weight(int i) const { return matrix(weights[static_cast<std::size_t>(i)], out_features(i), in_features(i), in_features(i)); }

  /// y (+)= x W^T + bias for `rows` rows.
  void linear(const block_weights& w, int i, const T* x, std::size_t rows, float* y, std::size_t stride, bool add) const {
    const std::size_t out = out_features(i), in = in_features(i);
    const auto index = static_cast<std::size_t>(i);
    if (index < w.bias.size() && !w.bias[index].empty()) {
      const float* b = w.bias[index].data();
      parallel_rows(rows, [&](std::size_t first, std::size_t count) {
        for (std::size_t r = first; r < first + count; ++r) {
          if (add)
            kernels::axpy(1.0f, b, out, y + r * stride);
          else
            std::copy_n(b, out, y + r * stride);
        }
      });
      add = true;
    }
    linalg::gemm_nt(matrix(x, rows, in, in), weight(i), y, stride, add);
  }

  /// d_weight (+)= dy^T x
  void weight_gradient(int i, const T* dy, const T* x, std::span<float* const> d_linears, bool accumulate) const {
    float* d = d_linears[static_cast<std::size_t>(i)];
    if (d == nullptr) return;
    linalg::gemm_tn(matrix(dy, tokens, out_features(i), out_features(i)), matrix(x, tokens, in_features(i), in_features(i)), d, in_features(i), accumulate);
  }

  void call_hook(const input_hook& hook, std::initializer_list<int> linears, const T* x, std::size_t rows) {
    if (!hook) return;
    const std::size_t n = rows * in_features(*linears.begin());
    const float* floats = nullptr;
    if constexpr (narrow) {
      kernels::from_bf16(x, n, widened.get(n));
      floats = widened.data();
    } else {
      floats = x;
    }
    for (int i : linears) hook(i, floats, rows);
  }

  // ---- attention ----

  void prepare_scratch() {
    const auto threads = static_cast<std::size_t>(omp_get_max_threads());
    if (scratch.size() < threads) scratch.resize(threads);
  }

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

  /// Turns qkv into rotated heads, then o = softmax(causal(scale q k^T)) v for every sequence and head. Keeps the heads and the log-sum of each row
  /// of scores.
  void attention(T* o) {
    const std::size_t tasks = sequences * kv_heads, piece = query_piece(), g = group(), rows = piece * g;
    T* const all = head_store.get(sequences * kv_heads * task_size());
    float* const log_sums = lse.get(heads * tokens);
    prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      attention_scratch& own = scratch[static_cast<std::size_t>(omp_get_thread_num())];
      float* const scores = own.scores.get(rows * (seqlen + 16));
      float* const out = own.out.get(rows * head_dim);
      T* p = nullptr;
      if constexpr (narrow)
        p = own.p.get(rows * (seqlen + 16));
      else
        p = scores;
      const std::size_t base = task / kv_heads * seqlen, kv = task % kv_heads, half = head_dim / 2;
      T* const q = all + task * task_size();
      T* const k = q + seqlen * g * head_dim;
      T* const v = k + seqlen * head_dim;
      for (std::size_t t = 0; t < seqlen; ++t) {
        const float* const row = qkv.data() + (base + t) * width;
        const float *const c = rope.cos.data() + t * half, *const s = rope.sin.data() + t * half;
        kernels::rotate(row + kv * g * head_dim, g, head_dim, half, c, s, 1.0f, q + t * g * head_dim);
        kernels::rotate(row + q_width + kv * head_dim, 1, head_dim, half, c, s, 1.0f, k + t * head_dim);
        narrow_or_copy(row + q_width + kv_width + kv * head_dim, head_dim, v + t * head_dim);
      }
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

  /// From d_o[tokens x q_width], the gradients of q, k and v before rotation, [tokens x q_width] and twice [tokens x kv_width]. Scores are computed
  /// again: keeping them would need seqlen^2 values a head.
  void attention_backward(const float* d_o, T* d_q, T* d_k, T* d_v) {
    const std::size_t tasks = sequences * kv_heads, piece = query_piece(), g = group(), rows = piece * g, half = head_dim / 2;
    prepare_scratch();
#pragma omp parallel for schedule(static) if (tokens > small_batch)
    for (std::size_t task = 0; task < tasks; ++task) {
      attention_scratch& own = scratch[static_cast<std::size_t>(omp_get_thread_num())];
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
      T* const up_rows = own.d_o.get(seqlen * g * head_dim);
      float* const delta = own.delta.get(seqlen * g);

      const std::size_t base = task / kv_heads * seqlen, kv = task % kv_heads;
      const T* const q = head_store.data() + task * task_size();
      const T* const k = q + seqlen * g * head_dim;
      const T* const v = k + seqlen * head_dim;
      for (std::size_t t = 0; t < seqlen; ++t) {
        const std::size_t at = (base + t) * q_width + kv * g * head_dim;
        narrow_or_copy(d_o + at, g * head_dim, up_rows + t * g * head_dim);
        for (std::size_t h = 0; h < g; ++h) delta[t * g + h] = kernels::dot(d_o + at + h * head_dim, attended.data() + at + h * head_dim, head_dim);
      }
      // The last piece sees all keys: it sets dk and dv, the others add to them.
      bool add = false;
      for (std::size_t first = (seqlen - 1) / piece * piece;; first -= piece) {
        const std::size_t n = std::min(piece, seqlen - first), m = n * g, keys = first + n, stride = (keys + 15) / 16 * 16, at = first * g;
        const linalg::operand qm = matrix(q + at * head_dim, m, head_dim, head_dim), km = matrix(k, keys, head_dim, head_dim);
        const linalg::operand um = matrix(static_cast<const T*>(up_rows) + at * head_dim, m, head_dim, head_dim);
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
      for (std::size_t t = 0; t < seqlen; ++t) {
        const float *const c = rope.cos.data() + t * half, *const s = rope.sin.data() + t * half;
        kernels::rotate(dq + t * g * head_dim, g, head_dim, half, c, s, -1.0f, d_q + (base + t) * q_width + kv * g * head_dim);
        kernels::rotate(dk + t * head_dim, 1, head_dim, half, c, s, -1.0f, d_k + (base + t) * kv_width + kv * head_dim);
        narrow_or_copy(dv + t * head_dim, head_dim, d_v + (base + t) * kv_width + kv * head_dim);
      }
    }
  }

  // ---- passes ----

  void project_qkv(const block_weights& w, const float* x, std::size_t rows, const input_hook& hook) {
    T* const n = normed.get(rows * hidden);
    float* const inv = inverse.get(rows);
    parallel_rows(rows, [&](std::size_t first, std::size_t count) {
      kernels::rms_norm(x + first * hidden, count, hidden, w.input_norm.data(), eps, n + first * hidden, inv + first);
    });
    call_hook(hook, {spec.q, spec.k, spec.v}, n, rows);
    float* const out = qkv.get(rows * width);
    linear(w, spec.q, n, rows, out, width, false);
    linear(w, spec.k, n, rows, out + q_width, width, false);
    linear(w, spec.v, n, rows, out + q_width + kv_width, width, false);
  }

  /// From the attended rows to the block's result.
  void finish(const block_weights& w, const float* x, std::size_t rows, float* y, const input_hook& hook) {
    float* const h = middle.get(rows * hidden);
    parallel_copy(x, rows, hidden, h);
    call_hook(hook, {spec.o}, attended.data(), rows);
    linear(w, spec.o, attended.data(), rows, h, hidden, true);

    T* const n = normed2.get(rows * hidden);
    float* const inv = inverse2.get(rows);
    parallel_rows(rows, [&](std::size_t first, std::size_t count) {
      kernels::rms_norm(h + first * hidden, count, hidden, w.post_attention_norm.data(), eps, n + first * hidden, inv + first);
    });
    call_hook(hook, {spec.gate, spec.up}, n, rows);
    float* const g = gate.get(rows * inner);
    float* const u = up.get(rows * inner);
    linear(w, spec.gate, n, rows, g, inner, false);
    linear(w, spec.up, n, rows, u, inner, false);
    T* const a = product.get(rows * inner);
    parallel_rows(rows, [&](std::size_t first, std::size_t count) {
      kernels::swiglu(g + first * inner, u + first * inner, count * inner, a + first * inner);
    });
    call_hook(hook, {spec.down}, a, rows);
    parallel_copy(h, rows, hidden, y);
    linear(w, spec.down, a, rows, y, hidden, true);
  }

  void forward(const block_weights& w, const float* x, std::size_t sequences_, std::size_t seqlen_, float* y, const input_hook& hook) override {
    sequences = sequences_;
    seqlen = seqlen_;
    tokens = sequences * seqlen;
    input = x;
    rope.prepare(spec, 0, seqlen, seqlen);
    project_qkv(w, x, tokens, hook);
    attention(attended.get(tokens * q_width));
    finish(w, x, tokens, y, hook);
  }

  void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx) override {
    assert(d_linears.size() == spec.linears.size());
    // MLP
    const T* const dy_r = rounded(dy, tokens * hidden, dy_store);
    weight_gradient(spec.down, dy_r, product.data(), d_linears, accumulate);
    float* const da = d_product.get(tokens * inner);
    linalg::gemm_nn(matrix(dy_r, tokens, hidden, hidden), weight(spec.down), da, inner);
    T *dg = nullptr, *du = nullptr;
    if constexpr (narrow) {
      dg = d_gate_store.get(tokens * inner);
      du = d_up_store.get(tokens * inner);
    } else {
      dg = gate.data();
      du = up.data();
    }
    parallel_rows(tokens, [&](std::size_t first, std::size_t count) {
      const std::size_t at = first * inner;
      kernels::swiglu_backward(gate.data() + at, up.data() + at, da + at, count * inner, dg + at, du + at);
    });
    weight_gradient(spec.gate, dg, normed2.data(), d_linears, accumulate);
    weight_gradient(spec.up, du, normed2.data(), d_linears, accumulate);
    float* const dn = d_normed.get(tokens * hidden);
    linalg::gemm_nn(matrix(dg, tokens, inner, inner), weight(spec.gate), dn, hidden);
    linalg::gemm_nn(matrix(du, tokens, inner, inner), weight(spec.up), dn, hidden, true);
    float* const dh = d_middle.get(tokens * hidden);
    parallel_rows(tokens, [&](std::size_t first, std::size_t count) {
      const std::size_t at = first * hidden;
      kernels::rms_norm_backward(middle.data() + at, inverse2.data() + first, dn + at, dy + at, count, hidden, w.post_attention_norm.data(), dh + at);
    });

    // attention
    const T* const dh_r = rounded(dh, tokens * hidden, d_middle_store);
    weight_gradient(spec.o, dh_r, attended.data(), d_linears, accumulate);
    const bool any = dx != nullptr || d_linears[static_cast<std::size_t>(spec.q)] != nullptr || d_linears[static_cast<std::size_t>(spec.k)] != nullptr ||
                     d_linears[static_cast<std::size_t>(spec.v)] != nullptr;
    if (!any) return;
    float* const d_o = d_attended.get(tokens * q_width);
    linalg::gemm_nn(matrix(dh_r, tokens, hidden, hidden), weight(spec.o), d_o, q_width);
    T* const d_q = d_qkv_store.get(tokens * width);
    T* const d_k = d_q + tokens * q_width;
    T* const d_v = d_k + tokens * kv_width;
    attention_backward(d_o, d_q, d_k, d_v);
    const T* const parts[] = {d_q, d_k, d_v};
    const int linears[] = {spec.q, spec.k, spec.v};
    for (int i = 0; i < 3; ++i) weight_gradient(linears[i], parts[i], normed.data(), d_linears, accumulate);
    if (dx == nullptr) return;
    for (int i = 0; i < 3; ++i) linalg::gemm_nn(matrix(parts[i], tokens, out_features(linears[i]), out_features(linears[i])), weight(linears[i]), dn, hidden, i > 0);
    parallel_rows(tokens, [&](std::size_t first, std::size_t count) {
      const std::size_t at = first * hidden;
      kernels::rms_norm_backward(input + at, inverse.data() + first, dn + at, dh + at, count, hidden, w.input_norm.data(), dx + at);
    });
  }

  void forward_cached(const block_weights& w, const float* x, std::size_t count, kv_cache& cache, float* y) override {
    assert(!narrow);
    if constexpr (!narrow) {
      const std::size_t before = cache.tokens, total = before + count;
      sequences = 1;
      seqlen = tokens = count;
      use_weights(w);
      rope.prepare(spec, before, count, total);
      project_qkv(w, x, count, {});
      float* const o = attended.get(count * q_width);
      // Rotates in place what the cache and attend() read; attention() rotates for itself.
      const std::size_t half = head_dim / 2;
      cache.k.resize(total * kv_width);
      cache.v.resize(total * kv_width);
      if (before == 0) attention(o);
      for (std::size_t t = 0; t < count; ++t) {
        float* const row = qkv.data() + t * width;
        kernels::rotate(row, heads + kv_heads, head_dim, half, rope.cos.data() + t * half, rope.sin.data() + t * half, 1.0f, row);
        std::copy_n(row + q_width, kv_width, cache.k.data() + (before + t) * kv_width);
        std::copy_n(row + q_width + kv_width, kv_width, cache.v.data() + (before + t) * kv_width);
      }
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
            kernels::attend(qkv.data() + t * width + h * head_dim, cache.k.data() + kv * head_dim, cache.v.data() + kv * head_dim, before + t + 1, kv_width,
                            head_dim, scale, weights_of_keys, o + t * q_width + h * head_dim);
          }
        }
      }
      finish(w, x, count, y, {});
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
  impl_->use_weights(w);
  for (std::size_t s = 0; s < sequences; s += step) {
    const std::size_t n = std::min(step, sequences - s), at = s * seqlen * impl_->hidden;
    impl_->forward(w, x + at, n, seqlen, y + at, hook);
  }
}

void block_runner::forward_train(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y) {
  impl_->use_weights(w);
  impl_->forward(w, x, sequences, seqlen, y, {});
}

void block_runner::backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx) {
  impl_->backward(w, dy, d_linears, accumulate, dx);
}

void block_runner::forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y) {
  impl_->forward_cached(w, x, tokens, cache, y);
}

}  // namespace auto_round::model
