// The MLP of a decoder block, between the norm before it and what it adds to the stream, forward and backward; the same for one expert of a mixture.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "model/block_layers.hpp"

namespace auto_round::model {

/// Three linear layers around an activation; gate -1: there is none; gate == up: one layer gives both, gate first.
struct mlp_unit {
  int gate = -1, up = -1, down = -1;
  std::size_t inner = 0;  ///< what down reads

  bool fused() const { return gate == up; }
  std::size_t gate_width() const { return fused() ? 2 * inner : inner; }
};

/// What the layers of a unit do to rows; where those lie is the caller's.
template <class T>
class mlp_math {
 public:
  explicit mlp_math(block_layers<T>& layers) : l_(layers) {
    if (!kernels::find_activation(layers.spec.hidden_act, activation_)) activation_ = kernels::activation::silu;
  }

  /// product = f(gate x) * (up x). `first`: the first of the rows among those of the pass. `gate` [rows x gate_width] and, where there is a separate up,
  /// `up` [rows x inner] keep what backward needs.
  void forward(const block_weights& w, const mlp_unit& u, const T* x, std::size_t first, std::size_t rows, float* gate, float* up, T* product, linalg::work who) const {
    if (u.fused()) {
      l_.linear(w, u.up, x, rows, gate, 2 * u.inner, false, who);
      for (std::size_t r = 0; r < rows; ++r)
        kernels::gated(activation_, gate + r * 2 * u.inner, gate + r * 2 * u.inner + u.inner, u.inner, product + r * u.inner);
      return;
    }
    if (u.gate < 0) {
      l_.linear(w, u.up, x, rows, gate, u.inner, false, who);
      return kernels::gated(activation_, gate, nullptr, rows * u.inner, product);
    }
    l_.linear(w, u.gate, x, rows, gate, u.inner, false, who);
    l_.linear(w, u.up, l_.rows_of(u.up, x, first), rows, up, u.inner, false, who);
    if (activation_ == kernels::activation::silu) return kernels::swiglu(gate, up, rows * u.inner, product);
    kernels::gated(activation_, gate, up, rows * u.inner, product);
  }

  /// From the gradient of the product to those of gate and up, which may lie where gate and up were kept.
  void backward(const mlp_unit& u, const float* gate, const float* up, const float* d, std::size_t rows, T* d_gate, T* d_up) const {
    if (u.fused()) {
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t at = r * 2 * u.inner;
        kernels::gated_backward(activation_, gate + at, gate + at + u.inner, d + r * u.inner, u.inner, d_gate + at, d_gate + at + u.inner);
      }
      return;
    }
    if (u.gate < 0) return kernels::gated_backward(activation_, gate, nullptr, d, rows * u.inner, d_gate, static_cast<T*>(nullptr));
    if (activation_ == kernels::activation::silu) return kernels::swiglu_backward(gate, up, d, rows * u.inner, d_gate, d_up);
    kernels::gated_backward(activation_, gate, up, d, rows * u.inner, d_gate, d_up);
  }

  /// The same for one row of a unit with separate gate and up, in float.
  void row_gradient(const float* gate, const float* up, const float* d, std::size_t inner, float* d_gate, float* d_up) const {
    kernels::gated_backward(activation_, gate, up, d, inner, d_gate, d_up);
  }

  /// dx [rows x hidden] from the gradients of gate and up.
  void input_gradient(const mlp_unit& u, const T* d_gate, const T* d_up, std::size_t rows, float* dx, linalg::work who) const {
    if (u.fused() || u.gate < 0) return l_.input_gradient(u.up, d_gate, rows, dx, false, who);
    l_.input_gradient(u.gate, d_gate, rows, dx, false, who);
    l_.input_gradient(u.up, d_up, rows, dx, true, who);
  }

  template <class G>
  void weight_gradients(G& gradients, const mlp_unit& u, const T* d_out, const T* d_gate, const T* d_up, const T* product, const T* x, std::size_t rows) const {
    gradients.add(u.down, d_out, product, rows);
    if (u.fused() || u.gate < 0) return gradients.add(u.up, d_gate, x, rows);
    gradients.add(u.gate, d_gate, x, rows);
    gradients.add(u.up, d_up, x, rows);
  }

  /// The layer that stands for the unit's input.
  static int reader(const mlp_unit& u) { return u.gate < 0 ? u.up : u.gate; }

 private:
  block_layers<T>& l_;
  kernels::activation activation_{};
};

template <class T>
class block_mlp {
 public:
  static constexpr bool narrow = std::is_same_v<T, bf16>;

  explicit block_mlp(block_layers<T>& layers)
      : l_(layers),
        math_(layers),
        unit_{layers.spec.gate, layers.spec.up, layers.spec.down, static_cast<std::size_t>(layers.spec.intermediate_size)} {}

  const mlp_unit& unit() const { return unit_; }
  int reader() const { return math_.reader(unit_); }

  void make_room(std::size_t tokens) {
    gate_.get(tokens * unit_.gate_width()), up_.get(tokens * unit_.inner), product_.get(tokens * unit_.inner);
  }

  /// What down reads, from the rows behind the norm.
  void forward(const block_weights& w, const T* normed, std::size_t first, std::size_t count, linalg::work who) {
    T* const p = product_.data() + first * unit_.inner;
    math_.forward(w, unit_, normed + first * l_.hidden, first, count, gate_.data() + first * unit_.gate_width(), up_.data() + first * unit_.inner, p, who);
    if (const row_rotation* by = l_.rotation(w, &block_rotations::down_input)) l_.rotate_rows(*by, p, count, unit_.inner, p);
  }

  T* product() { return product_.data(); }

  /// After forward, of a unit with separate gate and up; reads the float weight of down.
  void measure(const block_weights& w, std::size_t tokens, mlp_sensitivity& out) {
    const std::size_t inner = unit_.inner, wide = unit_.gate_width();
    std::vector<float> down = w.linears[static_cast<std::size_t>(unit_.down)];
    if (const row_rotation* by = l_.rotation(w, &block_rotations::down_input)) by->rows(down.data(), l_.hidden, inner, true);
    std::vector<float> norms(inner, 0.0f);  // of what a value adds to the stream
    for (std::size_t r = 0; r < l_.hidden; ++r)
      for (std::size_t i = 0; i < inner; ++i) norms[i] += down[r * inner + i] * down[r * inner + i];
    for (float& n : norms) n = std::sqrt(n);
    out.gate.resize(tokens);
    out.up.resize(tokens);
#pragma omp parallel
    {
      std::vector<float> d_gate(wide), d_up(inner);
#pragma omp for schedule(static)
      for (std::size_t t = 0; t < tokens; ++t) {
        math_.row_gradient(gate_.data() + t * wide, up_.data() + t * inner, norms.data(), inner, d_gate.data(), d_up.data());
        out.gate[t] = kernels::dot(d_gate.data(), d_gate.data(), inner);
        out.up[t] = kernels::dot(d_up.data(), d_up.data(), inner);
      }
    }
  }

  void prepare_backward(std::size_t tokens) {
    l_.use_backward({unit_.down, unit_.gate, unit_.up}, tokens);
    if constexpr (narrow) {
      d_gate_ = d_gate_store_.get(tokens * unit_.gate_width());
      d_up_ = d_up_store_.get(tokens * unit_.inner);
    } else {
      d_gate_ = gate_.data();
      d_up_ = up_.data();
    }
  }

  /// The gradient of the rows behind the norm, before rotation, for a tile; `d_out`: what down gave.
  float* backward(const block_weights& w, const T* d_out, std::size_t first, std::size_t count, linalg::work who) {
    auto& own = l_.own_scratch();
    const std::size_t inner = unit_.inner, wide = unit_.gate_width();
    float* const d = own.d_product.get(count * inner);
    l_.input_gradient(unit_.down, d_out + first * l_.hidden, count, d, false, who);
    l_.filter_backward(unit_.down, d, first, count);
    if (const row_rotation* by = l_.rotation(w, &block_rotations::down_input)) by->rows(d, count, inner, true);
    math_.backward(unit_, gate_.data() + first * wide, up_.data() + first * inner, d, count, d_gate_ + first * wide, d_up_ + first * inner);
    float* const dn = own.d_normed.get(count * l_.hidden);
    math_.input_gradient(unit_, d_gate_ + first * wide, d_up_ + first * inner, count, dn, who);
    l_.filter_backward(reader(), dn, first, count);
    return dn;
  }

  template <class G>
  void weight_gradients(G& gradients, const T* d_out, const T* normed, std::size_t tokens) {
    math_.weight_gradients(gradients, unit_, d_out, d_gate_, d_up_, product_.data(), normed, tokens);
  }

 private:
  block_layers<T>& l_;
  mlp_math<T> math_;
  mlp_unit unit_;
  buffer<float> gate_, up_;
  buffer<T> product_, d_gate_store_, d_up_store_;
  T *d_gate_ = nullptr, *d_up_ = nullptr;
};

}  // namespace auto_round::model
