// A LLaMA block in double, one product after the other, for tests of what the executor makes of it.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <vector>

#include "model/block.hpp"

namespace support {

/// A plain block (model_spec::plain) as written in a textbook, in double. `change(i, rows)` may change the rows that linear layer i reads.
inline std::vector<double> textbook_block(const auto_round::model::model_spec& s, const std::vector<std::vector<double>>& weights,
                                          const auto_round::model::block_weights& w, const std::vector<double>& x, std::size_t sequences, std::size_t seqlen,
                                          const std::function<void(int, std::vector<double>&)>& change) {
  const auto hidden = static_cast<std::size_t>(s.hidden_size), hd = static_cast<std::size_t>(s.head_dim);
  const auto heads = static_cast<std::size_t>(s.num_heads), kv_heads = static_cast<std::size_t>(s.num_kv_heads);
  const std::size_t tokens = sequences * seqlen;
  const auto linear = [&](int i, std::vector<double> in) {
    change(i, in);
    const auto out_n = static_cast<std::size_t>(s.linears[static_cast<std::size_t>(i)].out_features), in_n = in.size() / tokens;
    std::vector<double> y(tokens * out_n);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t o = 0; o < out_n; ++o) {
        double sum = w.bias[static_cast<std::size_t>(i)].empty() ? 0.0 : static_cast<double>(w.bias[static_cast<std::size_t>(i)][o]);
        for (std::size_t k = 0; k < in_n; ++k) sum += weights[static_cast<std::size_t>(i)][o * in_n + k] * in[t * in_n + k];
        y[t * out_n + o] = sum;
      }
    return y;
  };
  const auto norm = [&](const std::vector<double>& in, const std::vector<float>& g) {
    std::vector<double> y(in.size());
    for (std::size_t t = 0; t < tokens; ++t) {
      double squares = 0;
      for (std::size_t i = 0; i < hidden; ++i) squares += in[t * hidden + i] * in[t * hidden + i];
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(hidden) + s.rms_norm_eps);
      for (std::size_t i = 0; i < hidden; ++i) y[t * hidden + i] = in[t * hidden + i] * inverse * static_cast<double>(g[i]);
    }
    return y;
  };
  const auto rotate = [&](std::vector<double>& v, std::size_t n) {
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t h = 0; h < n; ++h)
        for (std::size_t i = 0; i < hd / 2; ++i) {
          const double angle = static_cast<double>(t % seqlen) * std::pow(s.rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(hd));
          double &a = v[(t * n + h) * hd + i], &b = v[(t * n + h) * hd + i + hd / 2];
          const double a0 = a;
          a = a0 * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + a0 * std::sin(angle);
        }
  };
  const std::vector<double> n1 = norm(x, w.input_norm);
  std::vector<double> q = linear(0, n1), k = linear(1, n1);
  const std::vector<double> v = linear(2, n1);
  rotate(q, heads);
  rotate(k, kv_heads);
  std::vector<double> o(tokens * heads * hd);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t g = h / (heads / kv_heads), start = t / seqlen * seqlen;
      std::vector<double> p;
      double total = 0;
      for (std::size_t j = start; j <= t; ++j) {
        double dot = 0;
        for (std::size_t i = 0; i < hd; ++i) dot += q[(t * heads + h) * hd + i] * k[(j * kv_heads + g) * hd + i];
        p.push_back(std::exp(dot / std::sqrt(static_cast<double>(hd))));
        total += p.back();
      }
      for (std::size_t j = start; j <= t; ++j)
        for (std::size_t i = 0; i < hd; ++i) o[(t * heads + h) * hd + i] += p[j - start] / total * v[(j * kv_heads + g) * hd + i];
    }
  std::vector<double> h = linear(3, o);
  for (std::size_t i = 0; i < h.size(); ++i) h[i] += x[i];
  const std::vector<double> n2 = norm(h, w.post_attention_norm);
  std::vector<double> gate = linear(4, n2);
  const std::vector<double> up = linear(5, n2);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  std::vector<double> y = linear(6, gate);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += h[i];
  return y;
}

inline std::vector<std::vector<double>> doubles(const auto_round::model::block_weights& w) {
  std::vector<std::vector<double>> out;
  for (const auto& l : w.linears) out.emplace_back(l.begin(), l.end());
  return out;
}

}  // namespace support
