#include "model/rounded_block.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "ar/numeric/half.hpp"
#include "model/linalg.hpp"

namespace auto_round::model {
namespace {

using ar::round_to_bf16;

constexpr std::size_t keys_at_once = 512;  // torch takes so many keys before it looks for a larger score

/// e^x as torch's attention has it for bfloat16 (Vectorized::fexp_u20): the bits of a float are its logarithm, but for a cubic polynomial of the fraction
/// (Malossi, Ineichen, Bekas, Curioni: Fast Exponential Computation on SIMD Architectures, 2015). Relative error up to 1e-4, which moves what is rounded.
float fast_exp(float x) {
  if (x < -0x1.5d58ap+6f) return 0;
  const float power = x * 0x1.715476p+0f, fraction = power - std::floor(power);
  float bend = std::fma(fraction, -0.079204240219773236f, -0.22433836478672356f);
  bend = std::fma(fraction, bend, 0.30354260500649682f);
  bend = std::fma(fraction, bend, 0.00010703434948458272f);
  return std::bit_cast<float>(static_cast<std::int32_t>(std::fma(0x1p23f, power - bend, 127 * 0x1p23f)));
}

/// In double, so that the order hardly ever decides how a sum is rounded.
double dot(const float* a, const float* b, std::size_t n) {
  constexpr std::size_t lanes = 8;
  double sums[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) sums[j] += double{a[i + j]} * double{b[i + j]};
  for (; i < n; ++i) sums[0] += double{a[i]} * double{b[i]};
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

std::vector<float> rms_norm(const float* x, std::size_t rows, std::size_t n, const std::vector<float>& weight, double eps) {
  std::vector<float> out(rows * n);
#pragma omp parallel for schedule(static)
  for (std::size_t r = 0; r < rows; ++r) {
    const float* const in = x + r * n;
    const float inverse = 1.0f / std::sqrt(static_cast<float>(dot(in, in, n) / static_cast<double>(n)) + static_cast<float>(eps));
    for (std::size_t i = 0; i < n; ++i) out[r * n + i] = round_to_bf16(weight[i] * round_to_bf16(in[i] * inverse));
  }
  return out;
}

/// The rows of sequence `s` of one head, out of rows of `heads` heads.
std::vector<float> rows_of_head(const std::vector<float>& from, std::size_t s, std::size_t seqlen, std::size_t heads, std::size_t first, std::size_t count, std::size_t width) {
  std::vector<float> out;
  out.reserve(seqlen * count * width);
  for (std::size_t t = 0; t < seqlen; ++t) {
    const float* const at = from.data() + ((s * seqlen + t) * heads + first) * width;
    out.insert(out.end(), at, at + count * width);
  }
  return out;
}

}  // namespace

bool rounded_block::covers(const model_spec& spec) {
  return spec.plain() && spec.attention_scale == 0 && std::ranges::all_of(spec.windows, [](std::int64_t w) { return w == 0; });
}

std::vector<float> rounded_block::linear(const block_weights& w, int layer, const std::vector<float>& x, std::size_t tokens) const {
  const auto i = static_cast<std::size_t>(layer);
  const auto out = static_cast<std::size_t>(spec_.linears[i].out_features), in = static_cast<std::size_t>(spec_.linears[i].in_features);
  std::vector<std::uint16_t> rows(x.size()), weight(out * in);
  linalg::to_bf16(x.data(), x.size(), rows.data());
  linalg::to_bf16(w.linears[i].data(), weight.size(), weight.data());
  std::vector<float> y(tokens * out);
  linalg::gemm_nt({rows.data(), tokens, in, in, true}, {weight.data(), out, in, in, true}, y.data(), out);
  const std::vector<float> none, &bias = i < w.bias.size() ? w.bias[i] : none;
  for (std::size_t n = 0; n < y.size(); ++n) y[n] = round_to_bf16(bias.empty() ? y[n] : y[n] + bias[n % out]);
  return y;
}

/// Norm of each head, where there is one, and rotary embedding.
void rounded_block::to_heads(const block_weights& w, block_part norm, std::vector<float>& rows, std::size_t heads, std::size_t seqlen) const {
  const auto width = static_cast<std::size_t>(spec_.head_dim), half = width / 2;
  if (!w.part(norm).empty()) rows = rms_norm(rows.data(), rows.size() / width, width, w.part(norm), spec_.rms_norm_eps);
#pragma omp parallel for schedule(static)
  for (std::size_t h = 0; h < rows.size() / width; ++h) {
    const std::size_t position = h / heads % seqlen;
    float* const head = rows.data() + h * width;
    for (std::size_t i = 0; i < half; ++i) {
      const float cos = round_to_bf16(rope_.cos[position * half + i]), sin = round_to_bf16(rope_.sin[position * half + i]);
      const float a = head[i], b = head[i + half];
      head[i] = round_to_bf16(round_to_bf16(a * cos) - round_to_bf16(b * sin));
      head[i + half] = round_to_bf16(round_to_bf16(b * cos) + round_to_bf16(a * sin));
    }
  }
}

std::vector<float> rounded_block::attend(std::vector<float>& q, std::vector<float>& k, std::vector<float>& v, std::size_t sequences, std::size_t seqlen) const {
  const auto heads = static_cast<std::size_t>(spec_.num_heads), kv_heads = static_cast<std::size_t>(spec_.num_kv_heads), width = static_cast<std::size_t>(spec_.head_dim);
  const std::size_t group = heads / kv_heads, tasks = sequences * kv_heads;
  std::vector<std::vector<float>> queries(tasks), keys(tasks), values(tasks);
  std::vector<block_runner::attention_rows> seen(tasks);
  for (std::size_t task = 0; task < tasks; ++task) {
    const std::size_t s = task / kv_heads, kv = task % kv_heads;
    queries[task] = rows_of_head(q, s, seqlen, heads, kv * group, group, width);
    keys[task] = rows_of_head(k, s, seqlen, kv_heads, kv, 1, width);
    values[task] = rows_of_head(v, s, seqlen, kv_heads, kv, 1, width);
    seen[task] = {kv, queries[task], keys[task], values[task]};
  }
  if (filter_) {
    filter_(seen);
    for (const auto& rows : seen)
      for (const std::span<float> part : {rows.q, rows.k, rows.v})
        for (float& value : part) value = round_to_bf16(value);
  }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  std::vector<float> out(q.size());
#pragma omp parallel for schedule(static)
  for (std::size_t task = 0; task < tasks; ++task) {
    const std::size_t s = task / kv_heads, kv = task % kv_heads;
    std::vector<float> p(seqlen);
    std::vector<double> sum(width);
    for (std::size_t t = 0; t < seqlen; ++t) {
      const std::size_t seen_keys = hides_last_ && t > 0 && t + 1 == seqlen ? t : t + 1;
      for (std::size_t g = 0; g < group; ++g) {
        const float* const query = queries[task].data() + (t * group + g) * width;
        float most = -std::numeric_limits<float>::infinity();
        double total = 0;
        std::ranges::fill(sum, 0.0);
        for (std::size_t first = 0; first < seen_keys; first += keys_at_once) {
          const std::size_t end = std::min(first + keys_at_once, seen_keys);
          const float before = most;
          for (std::size_t u = first; u < end; ++u) {
            p[u] = static_cast<float>(dot(query, keys[task].data() + u * width, width)) * scale;
            most = std::max(most, p[u]);
          }
          const std::size_t block = std::min(keys_at_once, seqlen - first), whole = first + block - block % 16;  // vectors of 16 floats
          const double shrink = first == 0 ? 0.0 : double{std::exp(before - most)};
          total *= shrink;
          for (double& value : sum) value *= shrink;
          for (std::size_t u = first; u < end; ++u) {
            const float e = u < whole ? fast_exp(p[u] - most) : std::exp(p[u] - most), rounded = round_to_bf16(e);
            total += double{e};
            for (std::size_t i = 0; i < width; ++i) sum[i] += double{rounded} * double{values[task][u * width + i]};
          }
        }
        float* const to = out.data() + ((s * seqlen + t) * heads + kv * group + g) * width;
        for (std::size_t i = 0; i < width; ++i) to[i] = round_to_bf16(static_cast<float>(sum[i]) * (1.0f / static_cast<float>(total)));
      }
    }
  }
  return out;
}

void rounded_block::forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const block_runner::input_hook& hook) {
  const auto hidden = static_cast<std::size_t>(spec_.hidden_size);
  const std::size_t tokens = sequences * seqlen;
  const auto show = [&](int layer, const std::vector<float>& rows) {
    for (int i = 0; hook && i < static_cast<int>(spec_.linears.size()); ++i)
      if (spec_.reader(i) == layer) hook(i, rows.data(), tokens);
  };
  rope_.prepare(spec_, 0, seqlen, seqlen);

  const std::vector<float> normed = rms_norm(x, tokens, hidden, w.input_norm, spec_.rms_norm_eps);
  show(spec_.q, normed);
  std::vector<float> q = linear(w, spec_.q, normed, tokens), k = linear(w, spec_.k, normed, tokens), v = linear(w, spec_.v, normed, tokens);
  to_heads(w, block_part::query_norm, q, static_cast<std::size_t>(spec_.num_heads), seqlen);
  to_heads(w, block_part::key_norm, k, static_cast<std::size_t>(spec_.num_kv_heads), seqlen);
  const std::vector<float> attended = attend(q, k, v, sequences, seqlen);
  show(spec_.o, attended);
  std::vector<float> stream = linear(w, spec_.o, attended, tokens);
  for (std::size_t i = 0; i < stream.size(); ++i) stream[i] = round_to_bf16(x[i] + stream[i]);

  const std::vector<float> normed2 = rms_norm(stream.data(), tokens, hidden, w.post_attention_norm, spec_.rms_norm_eps);
  show(spec_.gate, normed2);
  std::vector<float> gate = linear(w, spec_.gate, normed2, tokens);
  const std::vector<float> up = linear(w, spec_.up, normed2, tokens);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = round_to_bf16(round_to_bf16(gate[i] / (1.0f + std::exp(-gate[i]))) * up[i]);
  show(spec_.down, gate);
  const std::vector<float> down = linear(w, spec_.down, gate, tokens);
  for (std::size_t i = 0; i < stream.size(); ++i) y[i] = round_to_bf16(stream[i] + down[i]);
}

}  // namespace auto_round::model
