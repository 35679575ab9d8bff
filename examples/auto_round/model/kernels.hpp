// The elementwise and row kernels of a decoder block, single-threaded, compiled for every instruction set that Highway knows and chosen at run
// time. Where a result feeds a matrix product it is written in the product's element type: float, or bfloat16 rounded to nearest even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace auto_round::kernels {

void to_bf16(const float* in, std::size_t n, std::uint16_t* out);
void from_bf16(const std::uint16_t* in, std::size_t n, float* out);

/// out = w * (x * inverse), inverse = 1 / sqrt(mean(x^2) + eps), for each row of x[rows x n], in transformers' order of operations.
/// inverse[rows] is kept if not null. `out` may be x where the types agree.
void rms_norm(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, float* out, float* inverse);
void rms_norm(const float* x, std::size_t rows, std::size_t n, const float* w, float eps, std::uint16_t* out, float* inverse);

/// dx = residual + gradient of rms_norm's input, from dy and what the forward kept. dx may be residual or dy.
void rms_norm_backward(const float* x, const float* inverse, const float* dy, const float* residual, std::size_t rows, std::size_t n, const float* w, float* dx);

/// out = gate / (1 + exp(-gate)) * up. `out` may be gate.
void swiglu(const float* gate, const float* up, std::size_t n, float* out);
void swiglu(const float* gate, const float* up, std::size_t n, std::uint16_t* out);

/// Gradients of gate and up from that of the product. d_gate may be gate and d_up may be up.
void swiglu_backward(const float* gate, const float* up, const float* dy, std::size_t n, float* d_gate, float* d_up);
void swiglu_backward(const float* gate, const float* up, const float* dy, std::size_t n, std::uint16_t* d_gate, std::uint16_t* d_up);

enum class activation { silu, gelu, gelu_tanh, relu };
/// "silu", "gelu", "gelu_pytorch_tanh" or "gelu_new", "relu"; false for others.
bool find_activation(std::string_view name, activation& out);

/// out = f(gate) * up, or f(gate) where up is null. `out` may be gate.
void gated(activation f, const float* gate, const float* up, std::size_t n, float* out);
void gated(activation f, const float* gate, const float* up, std::size_t n, std::uint16_t* out);
/// Gradients of gate and up from that of the product; as swiglu_backward. Without up there is no d_up.
void gated_backward(activation f, const float* gate, const float* up, const float* dy, std::size_t n, float* d_gate, float* d_up);
void gated_backward(activation f, const float* gate, const float* up, const float* dy, std::size_t n, std::uint16_t* d_gate, std::uint16_t* d_up);

/// out = x less its mean, for each row of x[rows x n]: what makes an RMSNorm a LayerNorm, and the backward of itself. `out` may be x.
void center_rows(const float* x, std::size_t rows, std::size_t n, float* out);

/// s = cap * tanh(scale * s / cap)
void soft_cap(float* s, std::size_t n, float scale, float cap);
/// From what soft_cap gave: slope = scale * (1 - (s / cap)^2), its derivative. `slope` may be s.
void soft_cap_slope(const float* s, std::size_t n, float scale, float cap, float* slope);
/// y *= x
void multiply(const float* x, std::size_t n, float* y);

/// As rotate, for heads whose pairs are neighbors: values 2 i and 2 i + 1, i < half.
void rotate_neighbors(const float* in, std::size_t half, const float* cos, const float* sin, float sign, float* out);

/// Rotates `heads` heads of `head_dim` values that follow each other at `in`: values i and i + half of a head, i < half, by the angle whose
/// cosine and sine are given; values from 2 * half on are copied. Backward is the rotation by the opposite angle (`sign` = -1).
void rotate(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign, float* out);
void rotate(const float* in, std::size_t heads, std::size_t head_dim, std::size_t half, const float* cos, const float* sin, float sign, std::uint16_t* out);

/// p[0, n) = softmax(scale * s[0, n)), p[n, padded) = 0; returns the logarithm of the sum of exp(scale * s). `p` may be s, which is overwritten.
float softmax(float* s, std::size_t n, std::size_t padded, float scale, float* p);
float softmax(float* s, std::size_t n, std::size_t padded, float scale, std::uint16_t* p);

/// From scores s, the forward's log-sum `lse`, dP and delta = sum of dO * O: p = exp(scale * s - lse) and ds = scale * p * (dP - delta) in
/// [0, n), both 0 in [n, padded). `p` may be s and ds may be dp.
void softmax_backward(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, float* p, float* ds);
void softmax_backward(const float* s, const float* dp, std::size_t n, std::size_t padded, float scale, float lse, float delta, std::uint16_t* p, std::uint16_t* ds);

/// One row of attention, p[0, n) with output o: a change of the score with key s moves the output by p[s] * (v_s - o) times that. Given the products
/// vo[s] = v_s . o and the squared norms vv of v_s, kk of k_s, oo of o and qq of the query, adds p[s]^2 |v_s - o|^2 * qq to key[s] and returns the sum
/// of p[s]^2 |v_s - o|^2 * kk[s].
float attention_sensitivity(const float* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key);
float attention_sensitivity(const std::uint16_t* p, const float* vo, const float* vv, const float* kk, float oo, float qq, std::size_t n, float* key);

float dot(const float* a, const float* b, std::size_t n);
float dot(const float* a, const std::uint16_t* b, std::size_t n);
/// y += a * x
void axpy(float a, const float* x, std::size_t n, float* y);

/// out = a - b. `out` may be a or b where the types agree.
void subtract(const float* a, const float* b, std::size_t n, float* out);
void subtract(const float* a, const float* b, std::size_t n, std::uint16_t* out);

/// For a row of weights whose change is d = wq - w: g += g0, and returns the sum of d * (g + g0) with g as it was (a quadratic loss with Hessian
/// product g and linear term g0, half of whose gradient then lies in g). `g0` may be null for zeros.
float quadratic_loss(const float* wq, const float* w, const float* g0, std::size_t n, float* g);

/// log of the sum of exp(x[0, n)); `largest` receives the index of the first maximum.
double log_sum_exp(const float* x, std::size_t n, std::size_t& largest);
/// The KL divergence of two rows of logits, in nats: sum of exp(p - p_lse) * (p - q - shift), shift = p_lse - q_lse (as a difference, because the
/// result may be smaller than the rounding of either).
double kl_divergence(const float* p, float p_lse, const float* q, float shift, std::size_t n);

/// out[0, head_dim) = sum over rows of softmax(scale * k q) * v: one query against `rows` keys and values of head_dim each, `stride` apart.
/// `weights` is scratch for `rows` floats.
void attend(const float* q, const float* k, const float* v, std::size_t rows, std::size_t stride, std::size_t head_dim, float scale, float* weights, float* out);
/// The same with values of `value_dim`, `value_stride` apart, and scores that a cap above 0 bounds.
void attend(const float* q, const float* k, const float* v, std::size_t rows, std::size_t stride, std::size_t head_dim, std::size_t value_stride,
            std::size_t value_dim, float scale, float cap, float* weights, float* out);

}  // namespace auto_round::kernels
