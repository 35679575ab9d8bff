// What the parts of a decoder block share: memory, tiles of rows, products with linear layers, norms, filters and rotations on the way. T is the
// element type of what enters matrix products: float, or bfloat16 bits.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "model/block.hpp"
#include "model/kernels.hpp"

namespace auto_round::model {

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

// Below these, waking threads costs more than it saves.
constexpr linalg::work own_work = linalg::work::own;
constexpr std::size_t small_batch = 128, small_cache = 256;

template <class T>
void narrow_or_copy(const float* in, std::size_t n, T* out) {
  if constexpr (std::is_same_v<T, bf16>)
    kernels::to_bf16(in, n, out);
  else
    std::copy_n(in, n, out);
}

template <class T>
class block_layers {
 public:
  static constexpr bool narrow = std::is_same_v<T, bf16>;

  explicit block_layers(const model_spec& s)
      : spec(s),
        hidden(static_cast<std::size_t>(s.hidden_size)),
        eps(static_cast<float>(s.rms_norm_eps)),
        rounded_weights_(s.linears.size()),
        weights_(s.linears.size()),
        forward_weights_(s.linears.size()),
        backward_weights_(s.linears.size()),
        unfiltered_(s.linears.size()) {}

  model_spec spec;
  std::size_t hidden;
  float eps;
  block_runner::input_filter filter;  // see set_filters
  block_runner::filter_gradient through_filter;
  block_runner::attention_filter heads_filter;
  std::vector<std::uint64_t>* expert_tokens = nullptr;  // see count_expert_tokens

  /// What a thread needs for a tile of rows or a piece of attention; kept, because fresh memory of this size costs page faults on every call.
  struct thread_scratch {
    buffer<float> qkv, d_product, d_normed, d_attended;
    buffer<float> scores, dp, out, heads, rotated, centered, slopes;
    buffer<T> p, ds;
  };

  // ---- tiles of rows ----

  /// Rows that one thread takes through several layers while they are in its second-level cache. Where weights are packed, few rows cost nothing.
  static std::size_t tile_rows() { return narrow && linalg::fast_bf16() ? 128 : 256; }

  /// f(first, count, who) over tiles of `rows` rows, in parallel; one call, whose products are shared by all threads, if there is no second tile.
  /// The tiles follow from the number of rows alone.
  template <class F>
  void for_tiles(std::size_t rows, const F& f) {
    prepare_scratch();
    const std::size_t tile = tile_rows(), tiles = (rows + tile - 1) / tile;
    if (tiles <= 1) return f(0, rows, linalg::work::shared);
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < tiles; ++i) f(i * tile, std::min(tile, rows - i * tile), linalg::work::own);
  }

  void prepare_scratch() {
    const auto threads = static_cast<std::size_t>(omp_get_max_threads());
    if (scratch_.size() < threads) scratch_.resize(threads);
  }
  thread_scratch& own_scratch() { return scratch_[static_cast<std::size_t>(omp_get_thread_num())]; }

  // ---- linear layers ----

  void use_weights(const block_weights& w, std::size_t total) {
    for (std::size_t i = 0; i < spec.linears.size(); ++i)
      if (has(w, static_cast<int>(i))) use_weight(w, static_cast<int>(i), total);
  }

  static bool has(const block_weights& w, int linear) {
    const auto i = static_cast<std::size_t>(linear);
    return (i < w.linears.size() && !w.linears[i].empty()) || (narrow && i < w.linears_bf16.size() && !w.linears_bf16[i].empty()) || packed(w, linear) != nullptr;
  }
  static const packed_matrix* packed(const block_weights& w, int linear) {
    const auto i = static_cast<std::size_t>(linear);
    return i < w.packed.size() ? w.packed[i].get() : nullptr;
  }

  void use_weight(const block_weights& w, int linear, std::size_t total) {
    const auto i = static_cast<std::size_t>(linear);
    if (packed(w, linear) != nullptr) return;  // read where it lies
    if constexpr (narrow) {
      if (i < w.linears_bf16.size() && !w.linears_bf16[i].empty()) {
        weights_[i] = w.linears_bf16[i].data();
      } else {
        rounded_weights_[i].resize(w.linears[i].size());
        linalg::to_bf16(w.linears[i].data(), w.linears[i].size(), rounded_weights_[i].data());
        weights_[i] = rounded_weights_[i].data();
      }
    } else {
      weights_[i] = w.linears[i].data();
    }
    forward_weights_[i].set(true, weight(linear), tile_rows(), is_expert(linear) ? 0 : total);
  }

  /// Before input_gradient; `total` rows will come.
  void use_backward(std::initializer_list<int> linears, std::size_t total) {
    for (const int i : linears)
      if (i >= 0) backward_weights_[static_cast<std::size_t>(i)].set(false, weight(i), tile_rows(), total);
  }

  bool is_expert(int linear) const { return spec.mixture.experts > 0 && linear >= spec.mixture.first && linear < spec.mixture.first + 3 * spec.mixture.experts; }
  std::size_t out_features(int i) const { return static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(i)].out_features); }
  std::size_t in_features(int i) const { return static_cast<std::size_t>(spec.linears[static_cast<std::size_t>(i)].in_features); }
  linalg::operand weight(int i) const { return matrix(weights_[static_cast<std::size_t>(i)], out_features(i), in_features(i), in_features(i)); }

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
    if constexpr (!narrow) {
      if (const packed_matrix* p = packed(w, i); p != nullptr) return multiply(*p, x, rows, y, stride, add, who);
    }
    if (who == own_work)
      forward_weights_[index].multiply(matrix(x, rows, in, in), y, stride, add);
    else
      linalg::gemm_nt(matrix(x, rows, in, in), weight(i), y, stride, add);
  }

  /// dx (+)= dy W for `rows` rows.
  void input_gradient(int i, const T* dy, std::size_t rows, float* dx, bool add, linalg::work who) const {
    const linalg::operand a = matrix(dy, rows, out_features(i), out_features(i));
    if (who == own_work)
      backward_weights_[static_cast<std::size_t>(i)].multiply(a, dx, in_features(i), add);
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

  /// Tells the hook what the layers that share the input of `linear` read.
  void call_hook(const block_runner::input_hook& hook, int linear, const T* x, std::size_t rows) {
    if (!hook || rows == 0) return;
    const float* const floats = as_floats(x, rows * in_features(linear), widened);
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i)
      if (spec.reader(i) == linear) hook(i, floats, rows);
  }

  // ---- gradients of weights ----

  /// Gradients that a backward pass was asked for: collects products until run().
  struct weight_gradients {
    block_layers& layers;
    std::span<float* const> d_linears;
    const block_runner::gradient_hook& hook;
    vector_gradients* vectors;
    const block_weights& w;
    bool accumulate;
    std::vector<linalg::gradient_product> products;

    void add(int i, const T* d, const T* in, std::size_t rows) {
      const auto index = static_cast<std::size_t>(i);
      const std::size_t out = layers.out_features(i), cols = layers.in_features(i);
      if (float* const to = d_linears[index]; to != nullptr) {
        if (rows == 0) {
          if (!accumulate) std::fill_n(to, out * cols, 0.0f);
        } else {
          products.push_back({matrix(d, rows, out, out), matrix(in, rows, cols, cols), to, cols});
          if (hook) hook(i, layers.as_floats(d, rows * out, layers.widened), layers.as_floats(in, rows * cols, layers.widened_too), rows);
        }
      }
      if (vectors == nullptr || index >= w.bias.size() || w.bias[index].empty()) return;
      std::vector<float>& to = vectors->bias[index];
      if (!accumulate || to.empty()) to.assign(out, 0.0f);
      const float* const all = layers.as_floats(d, rows * out, layers.widened);
      for (std::size_t t = 0; t < rows; ++t) kernels::axpy(1.0f, all + t * out, out, to.data());
    }
    void run() {
      linalg::gemm_tn(products.data(), products.size(), accumulate);
      products.clear();
    }
  };

  // ---- filters ----

  void set_filters(block_runner::input_filters filters) {
    filter = std::move(filters.filter);
    readers_ = std::move(filters.readers);
    copy_ = copies_of_rows(spec, readers_);
    copied_.resize(copy_.empty() ? 0 : static_cast<std::size_t>(*std::max_element(copy_.begin(), copy_.end()) + 1));
  }
  /// Whether some layers read copies of the rows that they share with others, which hooks and backward do not know.
  bool copies() const { return !copied_.empty(); }

  /// The filter on all rows of the input of `linear` and the layers that share it. Where these are a part of the rows that layers read in a pass, the part
  /// begins at row `first` of `total`.
  void apply_filter(int linear, T* x, std::size_t rows, std::size_t first = 0, std::size_t total = 0) {
    if (!filter || rows == 0) return;
    const std::size_t width = in_features(linear), n = rows * width;
    for (std::size_t i = 0; copies() && i < copy_.size(); ++i) {
      if (copy_[i] < 0 || readers_[i] != static_cast<int>(i) || spec.reader(readers_[i]) != linear) continue;
      T* const own = copied_[static_cast<std::size_t>(copy_[i])].get(std::max(total, rows) * width) + first * width;
      std::copy_n(x, n, own);
      filter_rows(readers_[i], own, rows);
    }
    if (through_filter) {
      if constexpr (narrow)
        kernels::from_bf16(x, n, unfiltered(linear).get(n));
      else
        std::copy_n(x, n, unfiltered(linear).get(n));
    }
    filter_rows(linear, x, rows);
  }

  /// What a layer reads behind apply_filter, from row `first` of the pass on; `x`: that row where all that share it find it.
  const T* rows_of(int linear, const T* x, std::size_t first) const {
    if (!copies()) return x;
    const int copy = copy_[static_cast<std::size_t>(linear)];
    return copy < 0 ? x : copied_[static_cast<std::size_t>(copy)].data() + first * in_features(linear);
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

  // ---- norms ----

  /// RMSNorm of rows of `n` values, or LayerNorm with its bias, and the rotation behind it.
  void norm_rows(const float* x, std::size_t rows, std::size_t n, float epsilon, const std::vector<float>& weight, const std::vector<float>& bias, const row_rotation* by,
                 T* out, float* inverse) {
    if (spec.layer_norm) {
      float* const centered = own_scratch().centered.get(rows * n);
      kernels::center_rows(x, rows, n, centered);
      kernels::rms_norm(centered, rows, n, weight.data(), epsilon, centered, inverse);
      if (!bias.empty())
        for (std::size_t r = 0; r < rows; ++r) kernels::axpy(1.0f, bias.data(), n, centered + r * n);
      return narrow_or_copy(centered, rows * n, out);
    }
    if constexpr (narrow) {
      if (by != nullptr) {
        float* const wide = own_scratch().rotated.get(rows * n);
        kernels::rms_norm(x, rows, n, weight.data(), epsilon, wide, inverse);
        by->rows(wide, rows, n);
        return kernels::to_bf16(wide, rows * n, out);
      }
    }
    kernels::rms_norm(x, rows, n, weight.data(), epsilon, out, inverse);
    if (by != nullptr) rotate_rows(*by, out, rows, n, out);
  }

  /// dx = residual + the gradient of the norm's input; dx may be residual or dy.
  void norm_backward(const float* x, const float* inverse, const float* dy, const float* residual, std::size_t rows, std::size_t n, const std::vector<float>& weight,
                     float* dx) {
    if (!spec.layer_norm) return kernels::rms_norm_backward(x, inverse, dy, residual, rows, n, weight.data(), dx);
    float* const centered = own_scratch().centered.get(2 * rows * n);
    float* const zeros = centered + rows * n;
    kernels::center_rows(x, rows, n, centered);
    std::fill_n(zeros, rows * n, 0.0f);
    kernels::rms_norm_backward(centered, inverse, dy, zeros, rows, n, weight.data(), centered);
    kernels::center_rows(centered, rows, n, centered);
    for (std::size_t i = 0; i < rows * n; ++i) dx[i] = residual[i] + centered[i];
  }

  buffer<float> widened, widened_too;

 private:
  void filter_rows(int linear, T* x, std::size_t rows) {
    if constexpr (narrow) {
      const std::size_t n = rows * in_features(linear);
      kernels::from_bf16(x, n, widened.get(n));
      filter(linear, widened.data(), rows);
      kernels::to_bf16(widened.data(), n, x);
    } else {
      filter(linear, x, rows);
    }
  }
  buffer<float>& unfiltered(int linear) { return unfiltered_[static_cast<std::size_t>(linear)]; }

  std::vector<std::vector<bf16>> rounded_weights_;
  std::vector<const T*> weights_;
  std::vector<linalg::prepared> forward_weights_, backward_weights_;
  std::vector<buffer<float>> unfiltered_;  // rows before the filter, where its backward wants them, by the layer that reads them first
  std::vector<int> readers_, copy_;  // input_filters::readers and what follows from them; empty where layers that share rows read them alike
  std::vector<buffer<T>> copied_;    // attention's rows are done with when the MLP's come
  std::vector<thread_scratch> scratch_;
};

}  // namespace auto_round::model
