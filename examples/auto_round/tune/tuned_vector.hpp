// Norm weights and biases in the tuning loop (enable_norm_bias_tuning): a four-bit range over the whole vector whose offsets move the values, without
// rounding; the result is stored in float (signround.md section 9).
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "ar/tune.hpp"

namespace auto_round::tune {

class tuned_vector {
 public:
  explicit tuned_vector(std::vector<float> value) : value_(std::move(value)), v_(value_.size(), 0.0f) {
    float lo = 0, hi = 0;
    for (const float x : value_) {
      lo = std::min(lo, x);
      hi = std::max(hi, x);
    }
    scale_ = std::max(ar::round_to_f16((hi - lo) / top), ar::round_to_f16(1e-5f));
    zero_ = -lo / scale_;
  }

  /// The vector with the offsets of the moment.
  void apply(std::vector<float>& out) const { apply(v_, out); }
  /// With those that were marked best, or the current ones.
  void apply_best(std::vector<float>& out) const { apply(best_.empty() ? v_ : best_, out); }

  /// p <- p - lr sgn(dL/dv), from the gradient of the vector; or a step of Adam, the `t`th.
  void step(std::span<const float> gradient, float lr, float momentum, bool adam, int t) {
    std::vector<float> d(v_.size());
    for (std::size_t i = 0; i < d.size(); ++i) {
      const float steps = at(v_, i);
      d[i] = 0.0f < steps && steps < top ? gradient[i] * scale_ : 0.0f;
    }
    if (adam || momentum != 0) mean_.resize(v_.size());
    if (adam) {
      square_.resize(v_.size());
      ar::adam_step(v_.data(), d.data(), d.size(), lr, t, mean_.data(), square_.data());
    } else {
      ar::sign_step(v_.data(), d.data(), d.size(), lr, momentum, mean_.empty() ? nullptr : mean_.data(), t == 1);
    }
  }
  void mark_best() { best_ = v_; }
  const std::vector<float>& offsets() const { return v_; }

 private:
  static constexpr float top = 15.0f;
  float at(const std::vector<float>& v, std::size_t i) const { return value_[i] / scale_ + v[i] + zero_; }
  void apply(const std::vector<float>& v, std::vector<float>& out) const {
    out.resize(v.size());
    for (std::size_t i = 0; i < v.size(); ++i) out[i] = scale_ * (std::min(std::max(at(v, i), 0.0f), top) - zero_);
  }

  std::vector<float> value_, v_, best_, mean_, square_;
  float scale_ = 1, zero_ = 0;
};

}  // namespace auto_round::tune
