// A decoder block: norms, attention, MLP or mixture, and the stream that they are added to.
#include "model/block.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "model/block_attention.hpp"
#include "model/block_layers.hpp"
#include "model/block_mixture.hpp"
#include "model/block_mlp.hpp"
#include "model/forward_pieces.hpp"

namespace auto_round::model {

std::vector<int> copies_of_rows(const model_spec& spec, const std::vector<int>& readers) {
  std::vector<int> copy(readers.size(), -1), made(readers.size(), 0);
  for (std::size_t i = 0; i < readers.size(); ++i) {
    const int shared = spec.reader(static_cast<int>(i)), own = readers[i];
    if (own != shared) copy[i] = own == static_cast<int>(i) ? made[static_cast<std::size_t>(shared)]++ : copy[static_cast<std::size_t>(own)];
  }
  return copy;
}

struct block_runner::impl {
  virtual ~impl() = default;
  virtual void set_filter(input_filters filters, filter_gradient gradient) = 0;
  virtual void set_heads_filter(attention_filter filter) = 0;
  virtual void count_expert_tokens(std::vector<std::uint64_t>* into) = 0;
  virtual void use_weights(const block_weights& w, std::size_t total_tokens) = 0;
  virtual linalg::operand attend(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, attention_sensitivity* sensitivity) = 0;
  virtual linalg::operand gate_rows(const block_weights& w, const float* x, std::size_t tokens, mlp_sensitivity* sensitivity) = 0;
  virtual void add_linear(const block_weights& w, int linear, const linalg::operand& rows, const float* residual, float* y) = 0;
  virtual void attention_output(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out) = 0;
  virtual void mlp_input(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out) = 0;
  virtual void mlp_output(const block_weights& w, const float* x, std::size_t tokens, float* out) = 0;
  virtual void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook) = 0;
  virtual void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx,
                        const gradient_hook& hook, vector_gradients* vectors) = 0;
  virtual void forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y) = 0;

  std::size_t hidden = 0;
};

template <class T>
struct block_runner::typed_impl final : block_runner::impl {
  static constexpr bool narrow = std::is_same_v<T, bf16>;

  explicit typed_impl(const model_spec& s) : layers(s), attention(layers), mlp(layers), mixture(layers) { hidden = layers.hidden; }

  block_layers<T> layers;
  block_attention<T> attention;
  block_mlp<T> mlp;
  block_mixture<T> mixture;
  const model_spec& spec = layers.spec;

  std::size_t tokens = 0;
  const float* input = nullptr;

  // What backward needs, for all tokens: rows behind the norms, the stream behind attention, and what norms behind attention and MLP read.
  buffer<T> normed, normed2;
  buffer<float> inverse, inverse2, middle, attention_out, mlp_out, attention_inverse, mlp_inverse;
  // Gradients that weight products read, for all tokens, and those of the stream.
  buffer<T> d_out_store, d_attention_store;
  buffer<float> d_middle, d_attention, d_mlp, d_normed2;

  void set_filter(input_filters filters, filter_gradient gradient) override {
    layers.set_filters(std::move(filters));
    layers.through_filter = std::move(gradient);
  }
  void set_heads_filter(attention_filter filter) override { layers.heads_filter = std::move(filter); }
  void count_expert_tokens(std::vector<std::uint64_t>* into) override { layers.expert_tokens = into; }
  void use_weights(const block_weights& w, std::size_t total) override { layers.use_weights(w, total); }

  template <class F>
  void for_tiles(const F& f) {
    layers.for_tiles(tokens, f);
  }

  bool mixes(const block_weights& w) const { return !w.part(block_part::router).empty(); }
  /// The stream that the norm before the MLP reads.
  const float* mlp_stream(const float* x) const { return spec.parallel ? x : middle.data(); }

  // ---- norms ----

  void norm_input(const block_weights& w, const float* x, std::size_t first, std::size_t count) {
    layers.norm_rows(x + first * hidden, count, hidden, layers.eps, w.input_norm, w.part(block_part::input_norm_bias),
                     layers.rotation(w, &block_rotations::attention_input), normed.data() + first * hidden, inverse.data() + first);
  }
  void norm_middle(const block_weights& w, const float* stream, std::size_t first, std::size_t count) {
    layers.norm_rows(stream + first * hidden, count, hidden, layers.eps, w.post_attention_norm, w.part(block_part::post_attention_norm_bias),
                     layers.rotation(w, &block_rotations::mlp_input), normed2.data() + first * hidden, inverse2.data() + first);
  }

  /// stream += norm(rows)
  void add_normed(const float* rows, std::size_t count, const std::vector<float>& weight, float* inverses, float* stream) {
    float* const n = layers.own_scratch().centered.get(count * hidden);
    kernels::rms_norm(rows, count, hidden, weight.data(), layers.eps, n, inverses);
    kernels::axpy(1.0f, n, count * hidden, stream);
  }

  // ---- passes ----

  void make_room() {
    normed.get(tokens * hidden), normed2.get(tokens * hidden), middle.get(tokens * hidden);
    inverse.get(tokens), inverse2.get(tokens);
  }

  void attend_rows(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen) {
    attention.forward(w, normed.data(), sequences, seqlen, [&](std::size_t first, std::size_t count) { norm_input(w, x, first, count); });
  }

  void prepare_attention_norm(const block_weights& w) {
    if (w.part(block_part::attention_output_norm).empty()) return;
    attention_out.get(tokens * hidden);
    attention_inverse.get(tokens);
  }

  void add_attention(const block_weights& w, const float* x, std::size_t first, std::size_t count, linalg::work who) {
    float* const h = middle.data() + first * hidden;
    const T* const o = attention.output(w) + first * attention.o_width();
    std::copy_n(x + first * hidden, count * hidden, h);
    const std::vector<float>& norm = w.part(block_part::attention_output_norm);
    if (norm.empty()) return layers.linear(w, spec.o, o, count, h, hidden, true, who);
    float* const out = attention_out.data() + first * hidden;
    layers.linear(w, spec.o, o, count, out, hidden, false, who);
    add_normed(out, count, norm, attention_inverse.data() + first, h);
  }

  /// y = the stream behind attention and what the MLP adds to it; that of a mixture is there already.
  void add_mlp(const block_weights& w, std::size_t first, std::size_t count, float* y, linalg::work who) {
    float* const to = y + first * hidden;
    float* const out = mlp_out.data() + first * hidden;
    const std::vector<float>& norm = w.part(block_part::mlp_output_norm);
    std::copy_n(middle.data() + first * hidden, count * hidden, to);
    if (mixes(w)) {
      if (norm.empty()) kernels::axpy(1.0f, out, count * hidden, to);
    } else if (norm.empty()) {
      layers.linear(w, spec.down, mlp.product() + first * mlp.unit().inner, count, to, hidden, true, who);
    } else {
      layers.linear(w, spec.down, mlp.product() + first * mlp.unit().inner, count, out, hidden, false, who);
    }
    if (!norm.empty()) add_normed(out, count, norm, mlp_inverse.data() + first, to);
  }

  /// From the attended rows to the block's result.
  void finish(const block_weights& w, const float* x, float* y) {
    prepare_attention_norm(w);
    if (mixes(w) || !w.part(block_part::mlp_output_norm).empty()) mlp_out.get(tokens * hidden);
    if (!w.part(block_part::mlp_output_norm).empty()) mlp_inverse.get(tokens);
    const auto before_mlp = [&](std::size_t first, std::size_t count, linalg::work who) {
      add_attention(w, x, first, count, who);
      norm_middle(w, mlp_stream(x), first, count);
    };
    if (mixes(w)) {
      for_tiles(before_mlp);
      mixture.forward(w, normed2.data(), tokens, mlp_out.data());
      return for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { add_mlp(w, first, count, y, who); });
    }
    mlp.make_room(tokens);
    if (layers.filter) {
      // In steps, with the filter between them: it sees the rows of the whole batch.
      for_tiles(before_mlp);
      mlp_rows(w);
      return for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { add_mlp(w, first, count, y, who); });
    }
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      before_mlp(first, count, who);
      mlp.forward(w, normed2.data(), first, count, who);
      add_mlp(w, first, count, y, who);
    });
  }

  /// What down reads, from the rows behind the norm, with the filter.
  void mlp_rows(const block_weights& w) {
    layers.apply_filter(mlp.reader(), normed2.data(), tokens);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { mlp.forward(w, normed2.data(), first, count, who); });
    layers.apply_filter(spec.down, mlp.product(), tokens);
  }

  void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const input_hook& hook) override {
    tokens = sequences * seqlen;
    input = x;
    make_room();
    attend_rows(w, x, sequences, seqlen);
    finish(w, x, y);
    if (!hook) return;
    assert(!layers.copies());
    attention.call_hooks(hook, w, normed.data());
    if (mixes(w)) return mixture.call_hooks(hook);
    layers.call_hook(hook, mlp.reader(), normed2.data(), tokens);
    layers.call_hook(hook, spec.down, mlp.product(), tokens);
  }

  // ---- a block in steps ----

  linalg::operand attend(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, attention_sensitivity* sensitivity) override {
    tokens = sequences * seqlen;
    normed.get(tokens * hidden), inverse.get(tokens);
    for (const int i : attention.inner_layers()) layers.use_weight(w, i, tokens);
    attend_rows(w, x, sequences, seqlen);
    if (sensitivity != nullptr) attention.measure(w, *sensitivity);
    return matrix(attention.output(w), tokens, attention.o_width(), attention.o_width());
  }

  linalg::operand gate_rows(const block_weights& w, const float* x, std::size_t tokens_, mlp_sensitivity* sensitivity) override {
    tokens = tokens_;
    normed2.get(tokens * hidden), inverse2.get(tokens);
    mlp.make_room(tokens);
    for (const int i : {spec.gate, spec.up})
      if (i >= 0) layers.use_weight(w, i, tokens);
    if (layers.filter) {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work) { norm_middle(w, x, first, count); });
      mlp_rows(w);
    } else {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
        norm_middle(w, x, first, count);
        mlp.forward(w, normed2.data(), first, count, who);
      });
    }
    if (sensitivity != nullptr) mlp.measure(w, tokens, *sensitivity);
    return matrix(static_cast<const T*>(mlp.product()), tokens, mlp.unit().inner, mlp.unit().inner);
  }

  void add_linear(const block_weights& w, int i, const linalg::operand& rows, const float* residual, float* y) override {
    tokens = rows.rows;
    layers.use_weight(w, i, tokens);
    const std::size_t out = layers.out_features(i);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      if (y != residual) std::copy_n(residual + first * out, count * out, y + first * out);
      layers.linear(w, i, static_cast<const T*>(rows.data) + first * rows.stride, count, y + first * out, out, true, who);
    });
  }

  void attention_output(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out) override {
    const linalg::operand rows = attend(w, x, sequences, seqlen, nullptr);
    layers.use_weight(w, spec.o, tokens);
    linalg::gemm_nt(rows, layers.weight(spec.o), out, hidden);
  }

  void mlp_input(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out) override {
    if (spec.parallel) {
      std::copy_n(x, sequences * seqlen * hidden, out);
      return;
    }
    attend(w, x, sequences, seqlen, nullptr);
    layers.use_weight(w, spec.o, tokens);
    middle.get(tokens * hidden);
    prepare_attention_norm(w);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { add_attention(w, x, first, count, who); });
    std::copy_n(middle.data(), tokens * hidden, out);
  }

  void mlp_output(const block_weights& w, const float* x, std::size_t tokens_, float* out) override {
    if (!mixes(w)) {
      const linalg::operand rows = gate_rows(w, x, tokens_, nullptr);
      layers.use_weight(w, spec.down, tokens);
      linalg::gemm_nt(rows, layers.weight(spec.down), out, hidden);
      return;
    }
    tokens = tokens_;
    normed2.get(tokens * hidden), inverse2.get(tokens);
    layers.use_weights(w, tokens);
    for_tiles([&](std::size_t first, std::size_t count, linalg::work) { norm_middle(w, x, first, count); });
    mixture.forward(w, normed2.data(), tokens, out);
  }

  // ---- backward ----

  /// d = the gradient of rows that a norm behind attention or MLP reads.
  void output_norm_backward(const float* rows, const float* inverses, const float* dy, std::size_t count, const std::vector<float>& weight, float* d) {
    float* const zeros = layers.own_scratch().centered.get(count * hidden);
    std::fill_n(zeros, count * hidden, 0.0f);
    kernels::rms_norm_backward(rows, inverses, dy, zeros, count, hidden, weight.data(), d);
  }

  void backward(const block_weights& w, const float* dy, std::span<float* const> d_linears, bool accumulate, float* dx,
                const gradient_hook& hook, vector_gradients* vectors) override {
    assert(d_linears.size() == spec.linears.size() && !layers.copies());
    assert(vectors == nullptr || !spec.layer_norm);
    if (vectors != nullptr) vectors->bias.resize(spec.linears.size());
    const auto wanted = attention.inner_layers();
    const bool into_attention = dx != nullptr || vectors != nullptr ||
                                std::any_of(wanted.begin(), wanted.end(), [&](int i) { return d_linears[static_cast<std::size_t>(i)] != nullptr; });
    const bool mixing = mixes(w);
    const std::vector<float>&attention_norm = w.part(block_part::attention_output_norm), &mlp_norm = w.part(block_part::mlp_output_norm);
    // Sums over tokens, one row of partial sums for each tile.
    const std::size_t tile = layers.tile_rows();
    std::vector<float> norm_parts(vectors == nullptr ? 0 : (tokens / tile + 1) * hidden);
    const auto norm_part = [&](const float* x, const float* inverses, const float* d, std::size_t first, std::size_t count) {
      if (vectors == nullptr) return;
      float* const sum = norm_parts.data() + first / tile * hidden;
      std::fill_n(sum, hidden, 0.0f);
      for (std::size_t r = 0; r < count; ++r)
        for (std::size_t i = 0; i < hidden; ++i) sum[i] += d[r * hidden + i] * (x[(first + r) * hidden + i] * inverses[first + r]);
    };
    const auto add_parts = [&](std::vector<float>& to) {
      if (!accumulate || to.empty()) to.assign(hidden, 0.0f);
      for (std::size_t at = 0; at < tokens; at += tokens <= tile ? tokens : tile) kernels::axpy(1.0f, norm_parts.data() + at / tile * hidden, hidden, to.data());
    };

    // From dy to the gradient of the attended rows. What weight products read is kept for all tokens.
    layers.use_backward({spec.o}, tokens);
    if (!mixing) mlp.prepare_backward(tokens);
    const float* d_mlp_all = dy;  // of what the MLP gave
    if (!mlp_norm.empty()) d_mlp_all = d_mlp.get(tokens * hidden);
    float* const dh_all = d_middle.get(tokens * hidden);  // what flows on to x beside attention
    const float* d_attention_all = spec.parallel ? dy : dh_all;  // of what attention gave
    if (!attention_norm.empty()) d_attention_all = d_attention.get(tokens * hidden);
    const T *d_out_all = nullptr, *d_attention_rounded = nullptr;
    if constexpr (narrow) {
      d_out_all = d_out_store.get(tokens * hidden);
      d_attention_rounded = d_attention_store.get(tokens * hidden);
    } else {
      d_out_all = d_mlp_all;
      d_attention_rounded = d_attention_all;
    }
    attention.begin_backward();
    const auto from_mlp = [&](std::size_t first, std::size_t count) {
      if (!mlp_norm.empty())
        output_norm_backward(mlp_out.data() + first * hidden, mlp_inverse.data() + first, dy + first * hidden, count, mlp_norm, d_mlp.data() + first * hidden);
      if constexpr (narrow) kernels::to_bf16(d_mlp_all + first * hidden, count * hidden, d_out_store.data() + first * hidden);
    };
    const auto to_attention = [&](std::size_t first, std::size_t count, float* dn, linalg::work who) {
      thread_scratch& own = layers.own_scratch();
      if (const row_rotation* by = layers.rotation(w, &block_rotations::mlp_input)) by->rows(dn, count, hidden, true);
      const float* const stream = mlp_stream(input);
      norm_part(stream, inverse2.data(), dn, first, count);
      float* const dh = dh_all + first * hidden;
      layers.norm_backward(stream + first * hidden, inverse2.data() + first, dn, dy + first * hidden, count, hidden, w.post_attention_norm, dh);
      if (!attention_norm.empty())
        output_norm_backward(attention_out.data() + first * hidden, attention_inverse.data() + first, (spec.parallel ? dy : dh_all) + first * hidden, count,
                             attention_norm, d_attention.data() + first * hidden);
      if constexpr (narrow) kernels::to_bf16(d_attention_all + first * hidden, count * hidden, d_attention_store.data() + first * hidden);
      if (!into_attention) return;
      const std::size_t width = attention.o_width();
      float* const d_o = own.d_attended.get(count * width);
      layers.input_gradient(spec.o, d_attention_rounded + first * hidden, count, d_o, false, who);
      layers.filter_backward(spec.o, d_o, first, count);
      if (const row_rotation* by = layers.rotation(w, &block_rotations::o_input)) by->rows(d_o, count, width, true);
      attention.take_gradient(d_o, first, count);
    };
    if (mixing) {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work) { from_mlp(first, count); });
      float* const dn = d_normed2.get(tokens * hidden);
      mixture.backward(w, d_mlp_all, dn);
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) { to_attention(first, count, dn + first * hidden, who); });
    } else {
      for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
        from_mlp(first, count);
        to_attention(first, count, mlp.backward(w, d_out_all, first, count, who), who);
      });
    }
    if (vectors != nullptr) add_parts(vectors->post_attention_norm);
    if (into_attention) attention.backward(w);

    typename block_layers<T>::weight_gradients gradients{layers, d_linears, hook, vectors, w, accumulate, {}};
    if (mixing) mixture.weight_gradients(gradients);
    else mlp.weight_gradients(gradients, d_out_all, normed2.data(), tokens);
    gradients.add(spec.o, d_attention_rounded, attention.output(w), tokens);
    if (into_attention) attention.weight_gradients(gradients, normed.data());
    gradients.run();

    if (dx == nullptr && vectors == nullptr) return;
    attention.prepare_input_gradient();
    for_tiles([&](std::size_t first, std::size_t count, linalg::work who) {
      float* const dn = layers.own_scratch().d_normed.get(count * hidden);
      attention.input_gradient(dn, first, count, who);
      layers.filter_backward(spec.reader(attention.input_reader()), dn, first, count);
      if (const row_rotation* by = layers.rotation(w, &block_rotations::attention_input)) by->rows(dn, count, hidden, true);
      norm_part(input, inverse.data(), dn, first, count);
      if (dx == nullptr) return;
      layers.norm_backward(input + first * hidden, inverse.data() + first, dn, dh_all + first * hidden, count, hidden, w.input_norm, dx + first * hidden);
    });
    if (vectors != nullptr) add_parts(vectors->input_norm);
  }
  using thread_scratch = typename block_layers<T>::thread_scratch;

  void forward_cached(const block_weights& w, const float* x, std::size_t count, kv_cache& cache, float* y) override {
    assert(!narrow);
    tokens = count;
    layers.use_weights(w, 0);
    make_room();
    layers.prepare_scratch();
    norm_input(w, x, 0, count);
    attention.forward_cached(w, normed.data(), count, cache);
    finish(w, x, y);
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
  const std::size_t step = sequences_at_once(seqlen);
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

void block_runner::set_input_filter(input_filter filter, filter_gradient gradient) { impl_->set_filter({std::move(filter), {}}, std::move(gradient)); }
void block_runner::set_input_filters(input_filters filters) { impl_->set_filter(std::move(filters), {}); }

void block_runner::set_attention_filter(attention_filter filter) { impl_->set_heads_filter(std::move(filter)); }
void block_runner::count_expert_tokens(std::vector<std::uint64_t>* into) { impl_->count_expert_tokens(into); }

void block_runner::attention_output(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out) {
  impl_->attention_output(w, x, sequences, seqlen, out);
}
void block_runner::mlp_input(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* out) {
  impl_->mlp_input(w, x, sequences, seqlen, out);
}
void block_runner::mlp_output(const block_weights& w, const float* x, std::size_t tokens, float* out) { impl_->mlp_output(w, x, tokens, out); }

linalg::operand block_runner::attend(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen,
                                     attention_sensitivity* sensitivity) {
  return impl_->attend(w, x, sequences, seqlen, sensitivity);
}

linalg::operand block_runner::gate(const block_weights& w, const float* x, std::size_t tokens, mlp_sensitivity* sensitivity) {
  return impl_->gate_rows(w, x, tokens, sensitivity);
}

void block_runner::add_linear(const block_weights& w, int linear, const linalg::operand& rows, const float* residual, float* y) {
  impl_->add_linear(w, linear, rows, residual, y);
}

void block_runner::forward_cached(const block_weights& w, const float* x, std::size_t tokens, kv_cache& cache, float* y) {
  impl_->forward_cached(w, x, tokens, cache, y);
}

}  // namespace auto_round::model
