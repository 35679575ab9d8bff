// Highway implementations of model/kernels.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/kernels.hpp"

HWY_BEFORE_NAMESPACE();
namespace auto_round::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;
template <class Tag>
using Vec = hn::Vec<Tag>;

HWY_INLINE void put(D d, Vec<D> v, float* p) { hn::StoreU(v, d, p); }
#if HWY_TARGET != HWY_SCALAR
HWY_INLINE void put(One d, Vec<One> v, float* p) { hn::StoreU(v, d, p); }
#endif

/// Rounds to bfloat16, nearest even. Highway's own conversion truncates (1.0.3).
template <class Tag>
HWY_INLINE void put(Tag, Vec<Tag> v, std::uint16_t* p) {
  const hn::RebindToUnsigned<Tag> du;
  const hn::RebindToSigned<Tag> di;
  const hn::Rebind<std::uint16_t, Tag> d16;
  const auto bits = hn::BitCast(du, v);
  const auto high = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(high, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu))));
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  const auto result = hn::IfThenElse(nan, hn::Or(high, hn::Set(du, 0x40u)), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, result)), d16, p);
}

template <class Tag>
HWY_INLINE Vec<Tag> get(Tag d, const float* p) {
  return hn::LoadU(d, p);
}
template <class Tag>
HWY_INLINE Vec<Tag> get(Tag d, const std::uint16_t* p) {
  const hn::RebindToUnsigned<Tag> du;
  const hn::Rebind<std::uint16_t, Tag> d16;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p))));
}

/// f(tag, i) for whole vectors from 0, then value by value.
template <class F>
HWY_INLINE void each(std::size_t n, const F& f) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) f(d, i);
  for (; i < n; ++i) f(One(), i);
}

HWY_INLINE float sum(Vec<D> v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }

/// Sum over i of f(tag, i), in four chains of vectors.
template <class F>
HWY_INLINE float reduce(std::size_t n, const F& f) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, f(d, i));
    s1 = hn::Add(s1, f(d, i + lanes));
    s2 = hn::Add(s2, f(d, i + 2 * lanes));
    s3 = hn::Add(s3, f(d, i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, f(d, i));
  float total = sum(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
  for (; i < n; ++i) total += hn::GetLane(f(One(), i));
  return total;
}

template <class T>
void convert(const float* in, std::size_t n, T* out) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR { put(d, hn::LoadU(d, in + i), out + i); });
}
void to_bf16_impl(const float* in, std::size_t n, std::uint16_t* out) { convert(in, n, out); }
void from_bf16_impl(const std::uint16_t* in, std::size_t n, float* out) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR { hn::StoreU(get(d, in + i), d, out + i); });
}

template <class T>
void subtract_impl(const float* a, const float* b, std::size_t n, T* out) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR { put(d, hn::Sub(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), out + i); });
}
void subtract_f32(const float* a, const float* b, std::size_t n, float* out) { subtract_impl(a, b, n, out); }
void subtract_b16(const float* a, const float* b, std::size_t n, std::uint16_t* out) { subtract_impl(a, b, n, out); }

float quadratic_loss_impl(const float* wq, const float* w, const float* g0, std::size_t n, float* g) {
  if (g0 == nullptr)
    return reduce(n, [&](auto d, std::size_t i) HWY_ATTR { return hn::Mul(hn::Sub(hn::LoadU(d, wq + i), hn::LoadU(d, w + i)), hn::LoadU(d, g + i)); });
  return reduce(n, [&](auto d, std::size_t i) HWY_ATTR {
    const auto linear = hn::LoadU(d, g0 + i);
    const auto half = hn::Add(hn::LoadU(d, g + i), linear);
    hn::StoreU(half, d, g + i);
    return hn::Mul(hn::Sub(hn::LoadU(d, wq + i), hn::LoadU(d, w + i)), hn::Add(half, linear));
  });
}

template <class T>
float attention_sensitivity_impl(const T* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key) {
  return reduce(n, [&](auto d, std::size_t i) HWY_ATTR {
    const auto weight = get(d, p + i);
    const auto apart = hn::Max(hn::Zero(d), hn::NegMulAdd(hn::Set(d, 2.0f), hn::LoadU(d, vo + i), hn::Add(hn::LoadU(d, vv + i), hn::Set(d, oo))));
    const auto moved = hn::Mul(hn::Mul(weight, weight), apart);
    hn::StoreU(hn::MulAdd(moved, hn::Set(d, qq), hn::LoadU(d, key + i)), d, key + i);
    return hn::Mul(moved, hn::LoadU(d, kk + i));
  });
}
float attention_sensitivity_f32(const float* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key) {
  return attention_sensitivity_impl(p, vo, vv, kk, oo, qq, n, key);
}
float attention_sensitivity_b16(const std::uint16_t* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key) {
  return attention_sensitivity_impl(p, vo, vv, kk, oo, qq, n, key);
}

template <class T>
void rms_norm_impl(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, T* out, float* inverse) {
  for (std::size_t r = 0; r < rows; ++r, x += n, out += n) {
    const float squares = reduce(n, [&](auto d, std::size_t i) HWY_ATTR {
      const auto v = hn::LoadU(d, x + i);
      return hn::Mul(v, v);
    });
    const float inv = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    if (inverse != nullptr) inverse[r] = inv;
    each(n, [&](auto d, std::size_t i) HWY_ATTR { put(d, hn::Mul(hn::LoadU(d, w + i), hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inv))), out + i); });
  }
}
void rms_norm_f32(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, float* out, float* inverse) {
  rms_norm_impl(x, rows, n, w, eps, out, inverse);
}
void rms_norm_b16(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, std::uint16_t* out, float* inverse) {
  rms_norm_impl(x, rows, n, w, eps, out, inverse);
}

void rms_norm_backward_impl(const float* x, const float* inverse, const float* dy, const float* residual, std::size_t rows, std::size_t n, const float* w,
                            float* dx) {
  for (std::size_t r = 0; r < rows; ++r, x += n, dy += n, residual += n, dx += n) {
    const float inv = inverse[r];
    // With u = w * dy: dx = inv * (u - x * inv^2 * mean(u * x)).
    const float ux = reduce(n, [&](auto d, std::size_t i) HWY_ATTR {
      return hn::Mul(hn::Mul(hn::LoadU(d, w + i), hn::LoadU(d, dy + i)), hn::LoadU(d, x + i));
    });
    const float c = ux / static_cast<float>(n) * inv * inv;
    each(n, [&](auto d, std::size_t i) HWY_ATTR {
      const auto u = hn::Mul(hn::LoadU(d, w + i), hn::LoadU(d, dy + i));
      const auto g = hn::Mul(hn::Set(d, inv), hn::NegMulAdd(hn::LoadU(d, x + i), hn::Set(d, c), u));
      hn::StoreU(hn::Add(hn::LoadU(d, residual + i), g), d, dx + i);
    });
  }
}

template <class T>
void swiglu_impl(const float* gate, const float* up, std::size_t n, T* out) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR {
    const auto g = hn::LoadU(d, gate + i);
    const auto s = hn::Div(g, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, hn::Neg(g))));
    put(d, hn::Mul(s, hn::LoadU(d, up + i)), out + i);
  });
}
void swiglu_f32(const float* gate, const float* up, std::size_t n, float* out) { swiglu_impl(gate, up, n, out); }
void swiglu_b16(const float* gate, const float* up, std::size_t n, std::uint16_t* out) { swiglu_impl(gate, up, n, out); }

template <class T>
void swiglu_backward_impl(const float* gate, const float* up, const float* dy, std::size_t n, T* d_gate, T* d_up) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR {
    const auto one = hn::Set(d, 1.0f);
    const auto g = hn::LoadU(d, gate + i), u = hn::LoadU(d, up + i), y = hn::LoadU(d, dy + i);
    const auto sigmoid = hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(g))));
    const auto slope = hn::Mul(sigmoid, hn::MulAdd(g, hn::Sub(one, sigmoid), one));
    put(d, hn::Mul(hn::Mul(y, u), slope), d_gate + i);
    put(d, hn::Mul(y, hn::Mul(g, sigmoid)), d_up + i);
  });
}
void swiglu_backward_f32(const float* gate, const float* up, const float* dy, std::size_t n, float* d_gate, float* d_up) {
  swiglu_backward_impl(gate, up, dy, n, d_gate, d_up);
}
void swiglu_backward_b16(const float* gate, const float* up, const float* dy, std::size_t n, std::uint16_t* d_gate, std::uint16_t* d_up) {
  swiglu_backward_impl(gate, up, dy, n, d_gate, d_up);
}

/// f(x) and f'(x). All but ReLU and the exact GELU are x times the sigmoid of a polynomial t(x).
template <class D>
struct slope_pair {
  Vec<D> value, slope;
};
template <bool tanh, class Tag>
HWY_INLINE slope_pair<Tag> sigmoid_unit(Tag d, Vec<Tag> x) {
  const auto one = hn::Set(d, 1.0f);
  auto t = x, dt = one;
  if constexpr (tanh) {
    const auto c = hn::Set(d, 1.5957691216057308f);  // 2 sqrt(2 / pi)
    const auto square = hn::Mul(x, x);
    t = hn::Mul(hn::Mul(c, x), hn::MulAdd(hn::Set(d, 0.044715f), square, one));
    dt = hn::Mul(c, hn::MulAdd(hn::Set(d, 3 * 0.044715f), square, one));
  }
  const auto sigmoid = hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(t))));
  return {hn::Mul(x, sigmoid), hn::MulAdd(hn::Mul(hn::Mul(x, sigmoid), hn::Sub(one, sigmoid)), dt, sigmoid)};
}
template <class Tag>
HWY_INLINE slope_pair<Tag> relu_unit(Tag d, Vec<Tag> x) {
  const auto zero = hn::Zero(d);
  return {hn::Max(x, zero), hn::IfThenElseZero(hn::Gt(x, zero), hn::Set(d, 1.0f))};
}

/// use(tag, i, pair) for all i.
template <class F>
HWY_INLINE void each_activation(activation f, const float* gate, std::size_t n, const F& use) {
  if (f == activation::relu) return each(n, [&](auto d, std::size_t i) HWY_ATTR { use(d, i, relu_unit(d, hn::LoadU(d, gate + i))); });
  if (f == activation::silu) return each(n, [&](auto d, std::size_t i) HWY_ATTR { use(d, i, sigmoid_unit<false>(d, hn::LoadU(d, gate + i))); });
  if (f == activation::gelu_tanh) return each(n, [&](auto d, std::size_t i) HWY_ATTR { use(d, i, sigmoid_unit<true>(d, hn::LoadU(d, gate + i))); });
  const One d;
  for (std::size_t i = 0; i < n; ++i) {
    const float x = gate[i], phi = 0.5f * (1.0f + std::erf(x * 0.70710678f));
    use(d, i, slope_pair<One>{hn::Set(d, x * phi), hn::Set(d, phi + x * 0.39894228f * std::exp(-0.5f * x * x))});
  }
}

template <class T>
void gated_impl(activation f, const float* gate, const float* up, std::size_t n, T* out) {
  each_activation(f, gate, n, [&](auto d, std::size_t i, auto pair) HWY_ATTR {
    put(d, up == nullptr ? pair.value : hn::Mul(pair.value, hn::LoadU(d, up + i)), out + i);
  });
}
void gated_f32(activation f, const float* gate, const float* up, std::size_t n, float* out) { gated_impl(f, gate, up, n, out); }
void gated_b16(activation f, const float* gate, const float* up, std::size_t n, std::uint16_t* out) { gated_impl(f, gate, up, n, out); }

template <class T>
void gated_backward_impl(activation f, const float* gate, const float* up, const float* dy, std::size_t n, T* d_gate, T* d_up) {
  each_activation(f, gate, n, [&](auto d, std::size_t i, auto pair) HWY_ATTR {
    const auto y = hn::LoadU(d, dy + i);
    const auto u = up == nullptr ? hn::Set(d, 1.0f) : hn::LoadU(d, up + i);
    put(d, hn::Mul(hn::Mul(y, u), pair.slope), d_gate + i);
    if (up != nullptr) put(d, hn::Mul(y, pair.value), d_up + i);
  });
}
void gated_backward_f32(activation f, const float* gate, const float* up, const float* dy, std::size_t n, float* d_gate, float* d_up) {
  gated_backward_impl(f, gate, up, dy, n, d_gate, d_up);
}
void gated_backward_b16(activation f, const float* gate, const float* up, const float* dy, std::size_t n, std::uint16_t* d_gate, std::uint16_t* d_up) {
  gated_backward_impl(f, gate, up, dy, n, d_gate, d_up);
}

void center_rows_impl(const float* x, std::size_t rows, std::size_t n, float* out) {
  for (std::size_t r = 0; r < rows; ++r, x += n, out += n) {
    const float mean = reduce(n, [&](auto d, std::size_t i) HWY_ATTR { return hn::LoadU(d, x + i); }) / static_cast<float>(n);
    each(n, [&](auto d, std::size_t i) HWY_ATTR { hn::StoreU(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, mean)), d, out + i); });
  }
}

void soft_cap_impl(float* s, std::size_t n, float scale, float cap) {
  const float before = scale / cap;
  each(n, [&](auto d, std::size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::Set(d, cap), hn::Tanh(d, hn::Mul(hn::LoadU(d, s + i), hn::Set(d, before)))), d, s + i);
  });
}
void soft_cap_slope_impl(const float* s, std::size_t n, float scale, float cap, float* slope) {
  const float inverse = 1.0f / cap;
  each(n, [&](auto d, std::size_t i) HWY_ATTR {
    const auto t = hn::Mul(hn::LoadU(d, s + i), hn::Set(d, inverse));
    hn::StoreU(hn::Mul(hn::Set(d, scale), hn::NegMulAdd(t, t, hn::Set(d, 1.0f))), d, slope + i);
  });
}
void multiply_impl(const float* x, std::size_t n, float* y) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i); });
}

template <class T>
void rotate_impl(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign, T* out) {
  for (std::size_t h = 0; h < heads; ++h, in += head_dim, out += head_dim) {
    each(half, [&](auto d, std::size_t i) HWY_ATTR {
      const auto a = hn::LoadU(d, in + i), b = hn::LoadU(d, in + half + i);
      const auto c = hn::LoadU(d, cos + i), s = hn::Mul(hn::Set(d, sign), hn::LoadU(d, sin + i));
      put(d, hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), out + i);
      put(d, hn::Add(hn::Mul(b, c), hn::Mul(a, s)), out + half + i);
    });
    convert(in + 2 * half, head_dim - 2 * half, out + 2 * half);
  }
}
void rotate_f32(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign, float* out) {
  rotate_impl(in, heads, head_dim, half, cos, sin, sign, out);
}
void rotate_b16(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign,
                std::uint16_t* out) {
  rotate_impl(in, heads, head_dim, half, cos, sin, sign, out);
}

HWY_INLINE float maximum(const float* x, std::size_t n) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
  auto m = hn::Set(d, -std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) m = hn::Max(m, hn::LoadU(d, x + i));
  float best = hn::GetLane(hn::MaxOfLanes(d, m));
  for (; i < n; ++i) best = std::max(best, x[i]);
  return best;
}

/// f(tag, i, mask of i + lane < n) over [0, padded): whole vectors first, so that a row of `padded` values needs no tail when it holds whole vectors.
template <class F>
HWY_INLINE void each_masked(std::size_t n, std::size_t padded, const F& f) {
  each(padded, [&](auto d, std::size_t i) HWY_ATTR { f(d, i, hn::FirstN(d, n > i ? n - i : 0)); });
}

template <class T>
float softmax_impl(float* s, std::size_t n, std::size_t padded, float scale, T* p) {
  const float top = scale * maximum(s, n);
  const D d;
  auto sums = hn::Zero(d);
  float tail = 0;
  const std::size_t lanes = hn::Lanes(d);
  const auto term = [&](auto tag, std::size_t i) HWY_ATTR {
    const auto x = hn::MulSub(hn::LoadU(tag, s + i), hn::Set(tag, scale), hn::Set(tag, top));
    const auto e = hn::IfThenElseZero(hn::FirstN(tag, n - i), hn::Exp(tag, x));
    hn::StoreU(e, tag, s + i);
    return e;
  };
  std::size_t i = 0;
  for (; i + lanes <= padded && i < n; i += lanes) sums = hn::Add(sums, term(d, i));
  for (; i < n; ++i) tail += hn::GetLane(term(One(), i));
  const float total = sum(sums) + tail;
  const float share = 1.0f / total;
  const std::size_t done = i;
  each(done, [&](auto tag, std::size_t j) HWY_ATTR { put(tag, hn::Mul(hn::LoadU(tag, s + j), hn::Set(tag, share)), p + j); });
  std::fill(p + done, p + padded, T());
  return top + std::log(total);
}
float softmax_f32(float* s, std::size_t n, std::size_t padded, float scale, float* p) { return softmax_impl(s, n, padded, scale, p); }
float softmax_b16(float* s, std::size_t n, std::size_t padded, float scale, std::uint16_t* p) { return softmax_impl(s, n, padded, scale, p); }

template <class T>
void softmax_backward_impl(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, T* p, T* ds) {
  each_masked(n, padded, [&](auto d, std::size_t i, auto inside) HWY_ATTR {
    const auto x = hn::MulSub(hn::LoadU(d, s + i), hn::Set(d, scale), hn::Set(d, lse));
    const auto w = hn::IfThenElseZero(inside, hn::Exp(d, x));
    const auto g = hn::Mul(hn::Mul(w, hn::Set(d, scale)), hn::Sub(hn::LoadU(d, dp + i), hn::Set(d, delta)));
    put(d, w, p + i);
    put(d, hn::IfThenElseZero(inside, g), ds + i);
  });
}
void softmax_backward_f32(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, float* p, float* ds) {
  softmax_backward_impl(s, dp, n, padded, scale, lse, delta, p, ds);
}
void softmax_backward_b16(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, std::uint16_t* p,
                          std::uint16_t* ds) {
  softmax_backward_impl(s, dp, n, padded, scale, lse, delta, p, ds);
}

template <class T>
float dot_impl(const float* a, const T* b, std::size_t n) {
  return reduce(n, [&](auto d, std::size_t i) HWY_ATTR { return hn::Mul(hn::LoadU(d, a + i), get(d, b + i)); });
}
float dot_f32(const float* a, const float* b, std::size_t n) { return dot_impl(a, b, n); }
float dot_b16(const float* a, const std::uint16_t* b, std::size_t n) { return dot_impl(a, b, n); }

void axpy_impl(float a, const float* x, std::size_t n, float* y) {
  each(n, [&](auto d, std::size_t i) HWY_ATTR { hn::StoreU(hn::MulAdd(hn::Set(d, a), hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i); });
}

double log_sum_exp_impl(const float* x, std::size_t n, std::size_t& largest) {
  const float top = maximum(x, n);
  largest = static_cast<std::size_t>(std::find(x, x + n, top) - x);
  if (largest == n) largest = 0;
  double total = 0;
  constexpr std::size_t block = 2048;  // float sums stay short
  for (std::size_t b = 0; b < n; b += block)
    total += static_cast<double>(reduce(std::min(block, n - b), [&](auto d, std::size_t i) HWY_ATTR {
      return hn::Exp(d, hn::Sub(hn::LoadU(d, x + b + i), hn::Set(d, top)));
    }));
  return static_cast<double>(top) + std::log(total);
}

double kl_divergence_impl(const float* p, float p_lse, const float* q, float shift, std::size_t n) {
  double total = 0;
  constexpr std::size_t block = 2048;
  for (std::size_t b = 0; b < n; b += block)
    total += static_cast<double>(reduce(std::min(block, n - b), [&](auto d, std::size_t i) HWY_ATTR {
      const auto x = hn::LoadU(d, p + b + i);
      const auto log_ratio = hn::Sub(hn::Sub(x, hn::LoadU(d, q + b + i)), hn::Set(d, shift));
      return hn::Mul(hn::Exp(d, hn::Sub(x, hn::Set(d, p_lse))), log_ratio);
    }));
  return total;
}

void attend_capped(const float* q, const float* k, const float* v, std::size_t rows, std::size_t stride, std::size_t head_dim, std::size_t value_stride,
                   std::size_t value_dim, float scale, float cap, float* weights, float* out) {
  for (std::size_t r = 0; r < rows; ++r) weights[r] = dot_impl(q, k + r * stride, head_dim);
  if (cap > 0) soft_cap_impl(weights, rows, scale, cap);
  softmax_impl(weights, rows, rows, cap > 0 ? 1.0f : scale, weights);
  std::fill_n(out, value_dim, 0.0f);
  for (std::size_t r = 0; r < rows; ++r) axpy_impl(weights[r], v + r * value_stride, value_dim, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace auto_round::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace auto_round::kernels {

HWY_EXPORT(to_bf16_impl);
HWY_EXPORT(from_bf16_impl);
HWY_EXPORT(subtract_f32);
HWY_EXPORT(subtract_b16);
HWY_EXPORT(quadratic_loss_impl);
HWY_EXPORT(attention_sensitivity_f32);
HWY_EXPORT(attention_sensitivity_b16);
HWY_EXPORT(rms_norm_f32);
HWY_EXPORT(rms_norm_b16);
HWY_EXPORT(rms_norm_backward_impl);
HWY_EXPORT(swiglu_f32);
HWY_EXPORT(swiglu_b16);
HWY_EXPORT(swiglu_backward_f32);
HWY_EXPORT(swiglu_backward_b16);
HWY_EXPORT(rotate_f32);
HWY_EXPORT(rotate_b16);
HWY_EXPORT(softmax_f32);
HWY_EXPORT(softmax_b16);
HWY_EXPORT(softmax_backward_f32);
HWY_EXPORT(softmax_backward_b16);
HWY_EXPORT(dot_f32);
HWY_EXPORT(dot_b16);
HWY_EXPORT(axpy_impl);
HWY_EXPORT(log_sum_exp_impl);
HWY_EXPORT(kl_divergence_impl);
HWY_EXPORT(attend_capped);
HWY_EXPORT(gated_f32);
HWY_EXPORT(gated_b16);
HWY_EXPORT(gated_backward_f32);
HWY_EXPORT(gated_backward_b16);
HWY_EXPORT(center_rows_impl);
HWY_EXPORT(soft_cap_impl);
HWY_EXPORT(soft_cap_slope_impl);
HWY_EXPORT(multiply_impl);

void to_bf16(const float* in, std::size_t n, std::uint16_t* out) { HWY_DYNAMIC_DISPATCH(to_bf16_impl)(in, n, out); }
void from_bf16(const std::uint16_t* in, std::size_t n, float* out) { HWY_DYNAMIC_DISPATCH(from_bf16_impl)(in, n, out); }

void rms_norm(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, float* out, float* inverse) {
  HWY_DYNAMIC_DISPATCH(rms_norm_f32)(x, rows, n, w, eps, out, inverse);
}
void rms_norm(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, std::uint16_t* out, float* inverse) {
  HWY_DYNAMIC_DISPATCH(rms_norm_b16)(x, rows, n, w, eps, out, inverse);
}
void rms_norm_backward(const float* x, const float* inverse, const float* dy, const float* residual, std::size_t rows, std::size_t n, const float* w,
                       float* dx) {
  HWY_DYNAMIC_DISPATCH(rms_norm_backward_impl)(x, inverse, dy, residual, rows, n, w, dx);
}

void swiglu(const float* gate, const float* up, std::size_t n, float* out) { HWY_DYNAMIC_DISPATCH(swiglu_f32)(gate, up, n, out); }
void swiglu(const float* gate, const float* up, std::size_t n, std::uint16_t* out) { HWY_DYNAMIC_DISPATCH(swiglu_b16)(gate, up, n, out); }
void swiglu_backward(const float* gate, const float* up, const float* dy, std::size_t n, float* d_gate, float* d_up) {
  HWY_DYNAMIC_DISPATCH(swiglu_backward_f32)(gate, up, dy, n, d_gate, d_up);
}
void swiglu_backward(const float* gate, const float* up, const float* dy, std::size_t n, std::uint16_t* d_gate, std::uint16_t* d_up) {
  HWY_DYNAMIC_DISPATCH(swiglu_backward_b16)(gate, up, dy, n, d_gate, d_up);
}

void rotate(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign, float* out) {
  HWY_DYNAMIC_DISPATCH(rotate_f32)(in, heads, head_dim, half, cos, sin, sign, out);
}
void rotate(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign, std::uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(rotate_b16)(in, heads, head_dim, half, cos, sin, sign, out);
}

float softmax(float* s, std::size_t n, std::size_t padded, float scale, float* p) { return HWY_DYNAMIC_DISPATCH(softmax_f32)(s, n, padded, scale, p); }
float softmax(float* s, std::size_t n, std::size_t padded, float scale, std::uint16_t* p) {
  return HWY_DYNAMIC_DISPATCH(softmax_b16)(s, n, padded, scale, p);
}
void softmax_backward(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, float* p, float* ds) {
  HWY_DYNAMIC_DISPATCH(softmax_backward_f32)(s, dp, n, padded, scale, lse, delta, p, ds);
}
void softmax_backward(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, std::uint16_t* p,
                      std::uint16_t* ds) {
  HWY_DYNAMIC_DISPATCH(softmax_backward_b16)(s, dp, n, padded, scale, lse, delta, p, ds);
}

float dot(const float* a, const float* b, std::size_t n) { return HWY_DYNAMIC_DISPATCH(dot_f32)(a, b, n); }
float dot(const float* a, const std::uint16_t* b, std::size_t n) { return HWY_DYNAMIC_DISPATCH(dot_b16)(a, b, n); }
void axpy(float a, const float* x, std::size_t n, float* y) { HWY_DYNAMIC_DISPATCH(axpy_impl)(a, x, n, y); }

float attention_sensitivity(const float* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key) {
  return HWY_DYNAMIC_DISPATCH(attention_sensitivity_f32)(p, vo, vv, kk, oo, qq, n, key);
}
float attention_sensitivity(const std::uint16_t* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key) {
  return HWY_DYNAMIC_DISPATCH(attention_sensitivity_b16)(p, vo, vv, kk, oo, qq, n, key);
}
void subtract(const float* a, const float* b, std::size_t n, float* out) { HWY_DYNAMIC_DISPATCH(subtract_f32)(a, b, n, out); }
void subtract(const float* a, const float* b, std::size_t n, std::uint16_t* out) { HWY_DYNAMIC_DISPATCH(subtract_b16)(a, b, n, out); }
float quadratic_loss(const float* wq, const float* w, const float* g0, std::size_t n, float* g) {
  return HWY_DYNAMIC_DISPATCH(quadratic_loss_impl)(wq, w, g0, n, g);
}

double log_sum_exp(const float* x, std::size_t n, std::size_t& largest) { return HWY_DYNAMIC_DISPATCH(log_sum_exp_impl)(x, n, largest); }
double kl_divergence(const float* p, float p_lse, const float* q, float shift, std::size_t n) {
  return HWY_DYNAMIC_DISPATCH(kl_divergence_impl)(p, p_lse, q, shift, n);
}
void attend(const float* q, const float* k, const float* v, std::size_t rows, std::size_t stride, std::size_t head_dim, float scale, float* weights,
            float* out) {
  attend(q, k, v, rows, stride, head_dim, stride, head_dim, scale, 0.0f, weights, out);
}
void attend(const float* q, const float* k, const float* v, std::size_t rows, std::size_t stride, std::size_t head_dim, std::size_t value_stride,
            std::size_t value_dim, float scale, float cap, float* weights, float* out) {
  HWY_DYNAMIC_DISPATCH(attend_capped)(q, k, v, rows, stride, head_dim, value_stride, value_dim, scale, cap, weights, out);
}

bool find_activation(std::string_view name, activation& out) {
  if (name == "silu" || name == "swish") out = activation::silu;
  else if (name == "gelu") out = activation::gelu;
  else if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") out = activation::gelu_tanh;
  else if (name == "relu") out = activation::relu;
  else return false;
  return true;
}
void gated(activation f, const float* gate, const float* up, std::size_t n, float* out) { HWY_DYNAMIC_DISPATCH(gated_f32)(f, gate, up, n, out); }
void gated(activation f, const float* gate, const float* up, std::size_t n, std::uint16_t* out) { HWY_DYNAMIC_DISPATCH(gated_b16)(f, gate, up, n, out); }
void gated_backward(activation f, const float* gate, const float* up, const float* dy, std::size_t n, float* d_gate, float* d_up) {
  HWY_DYNAMIC_DISPATCH(gated_backward_f32)(f, gate, up, dy, n, d_gate, d_up);
}
void gated_backward(activation f, const float* gate, const float* up, const float* dy, std::size_t n, std::uint16_t* d_gate, std::uint16_t* d_up) {
  HWY_DYNAMIC_DISPATCH(gated_backward_b16)(f, gate, up, dy, n, d_gate, d_up);
}
void center_rows(const float* x, std::size_t rows, std::size_t n, float* out) { HWY_DYNAMIC_DISPATCH(center_rows_impl)(x, rows, n, out); }
void soft_cap(float* s, std::size_t n, float scale, float cap) { HWY_DYNAMIC_DISPATCH(soft_cap_impl)(s, n, scale, cap); }
void soft_cap_slope(const float* s, std::size_t n, float scale, float cap, float* slope) { HWY_DYNAMIC_DISPATCH(soft_cap_slope_impl)(s, n, scale, cap, slope); }
void multiply(const float* x, std::size_t n, float* y) { HWY_DYNAMIC_DISPATCH(multiply_impl)(x, n, y); }

void rotate_neighbors(const float* in, std::size_t half, const float* cos, const float* sin, float sign, float* out) {
  for (std::size_t i = 0; i < half; ++i) {
    const float a = in[2 * i], b = in[2 * i + 1], s = sign * sin[i];
    out[2 * i] = a * cos[i] - b * s;
    out[2 * i + 1] = b * cos[i] + a * s;
  }
}

}  // namespace auto_round::kernels
#endif
