#include "model/head.hpp"

#include <algorithm>

#include "model/forward_pieces.hpp"
#include "model/kernels.hpp"
#include "model/linalg.hpp"

namespace auto_round::model {

void output_head::logits(const float* x, std::size_t rows, std::vector<float>& scratch, float* out) const {
  scratch.resize(rows * hidden);
  normalize(x, rows, scratch.data());
  if (packed != nullptr) multiply(*packed, scratch.data(), rows, out, vocab);
  else linalg::gemm_nt({scratch.data(), rows, hidden, hidden}, {weight.data(), vocab, hidden, hidden}, out, vocab);
  if (cap > 0) kernels::soft_cap(out, rows * vocab, 1.0f, cap);
}

void output_head::normalize(const float* x, std::size_t rows, float* out, float* inverse) const {
  if (layer_norm) {
    kernels::center_rows(x, rows, hidden, out);
    x = out;
  }
  kernels::rms_norm(x, rows, hidden, norm.data(), eps, out, inverse);
  if (!norm_bias.empty())
    for (std::size_t r = 0; r < rows; ++r) kernels::axpy(1.0f, norm_bias.data(), hidden, out + r * hidden);
}

std::size_t output_head::rows_at_once() const { return logit_rows_at_once(vocab); }

result<output_head> read_final_norm(const weight_source& source) {
  const model_spec& spec = source.spec();
  output_head h;
  h.hidden = static_cast<std::size_t>(spec.hidden_size);
  h.vocab = static_cast<std::size_t>(spec.vocab_size);
  h.eps = static_cast<float>(spec.rms_norm_eps);
  h.cap = static_cast<float>(spec.logit_cap);
  h.layer_norm = spec.layer_norm;
  auto norm = read_tensor(source, spec.final_norm_name, {h.hidden});
  if (!norm) return forward_error(norm);
  h.norm = std::move(*norm);
  if (spec.unit_offset)
    for (float& x : h.norm) x += 1.0f;
  if (spec.final_norm_bias_name.empty()) return h;
  auto bias = read_tensor(source, spec.final_norm_bias_name, {h.hidden});
  if (!bias) return forward_error(bias);
  h.norm_bias = std::move(*bias);
  return h;
}

result<output_head> read_head(const weight_source& source, weight_form form) {
  const model_spec& spec = source.spec();
  auto found = read_final_norm(source);
  if (!found) return found;
  output_head& h = *found;
  auto weight = read_matrix(source, spec.tie_word_embeddings ? spec.embed_name : spec.head_name, h.vocab, h.hidden, form);
  if (!weight) return forward_error(weight);
  h.weight = std::move(weight->floats);
  h.packed = std::move(weight->packed);
  return found;
}

double causal_loss(const output_head& head, const float* x, std::span<const std::int32_t> ids, std::span<const std::uint8_t> valid, std::size_t seqlen,
                   float* dx, float* d_weight) {
  const std::size_t hidden = head.hidden, vocab = head.vocab, most = head.rows_at_once();
  // Row t predicts token t + 1.
  std::vector<std::size_t> scored;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t)
    if ((t + 1) % seqlen != 0 && (valid.empty() || valid[t + 1] != 0)) scored.push_back(t);
  std::fill_n(dx, ids.size() * hidden, 0.0f);
  if (d_weight != nullptr) std::fill_n(d_weight, vocab * hidden, 0.0f);
  if (scored.empty()) return 0;

  const float share = 1.0f / static_cast<float>(scored.size());
  std::vector<float> rows(most * hidden), normed(most * hidden), inverse(most), logits(most * vocab), d_normed(most * hidden), d_rows(most * hidden);
  const std::vector<float> zeros(most * hidden, 0.0f);
  std::vector<float> slopes(head.cap > 0 ? most * vocab : 0);
  std::vector<double> losses(most);
  double sum = 0;
  for (std::size_t first = 0; first < scored.size(); first += most) {
    const std::size_t n = std::min(most, scored.size() - first);
    for (std::size_t r = 0; r < n; ++r) std::copy_n(x + scored[first + r] * hidden, hidden, rows.data() + r * hidden);
    head.normalize(rows.data(), n, normed.data(), inverse.data());
    linalg::gemm_nt({normed.data(), n, hidden, hidden}, {head.weight.data(), vocab, hidden, hidden}, logits.data(), vocab);
#pragma omp parallel for schedule(static)
    for (std::size_t r = 0; r < n; ++r) {
      float* const p = logits.data() + r * vocab;
      if (head.cap > 0) {
        kernels::soft_cap(p, vocab, 1.0f, head.cap);
        kernels::soft_cap_slope(p, vocab, 1.0f, head.cap, slopes.data() + r * vocab);
      }
      const auto target = static_cast<std::size_t>(ids[scored[first + r] + 1]);
      const float logit = p[target];
      losses[r] = static_cast<double>(kernels::softmax(p, vocab, vocab, 1.0f, p)) - static_cast<double>(logit);
      p[target] -= 1.0f;
      for (std::size_t i = 0; i < vocab; ++i) p[i] *= share;
      if (head.cap > 0) kernels::multiply(slopes.data() + r * vocab, vocab, p);
    }
    for (std::size_t r = 0; r < n; ++r) sum += losses[r];
    linalg::gemm_nn({logits.data(), n, vocab, vocab}, {head.weight.data(), vocab, hidden, hidden}, d_normed.data(), hidden);
    if (d_weight != nullptr) linalg::gemm_tn({logits.data(), n, vocab, vocab}, {normed.data(), n, hidden, hidden}, d_weight, hidden, true);
    if (head.layer_norm) kernels::center_rows(rows.data(), n, hidden, rows.data());
    kernels::rms_norm_backward(rows.data(), inverse.data(), d_normed.data(), zeros.data(), n, hidden, head.norm.data(), d_rows.data());
    if (head.layer_norm) kernels::center_rows(d_rows.data(), n, hidden, d_rows.data());
    for (std::size_t r = 0; r < n; ++r) std::copy_n(d_rows.data() + r * hidden, hidden, dx + scored[first + r] * hidden);
  }
  return sum / static_cast<double>(scored.size());
}

}  // namespace auto_round::model
