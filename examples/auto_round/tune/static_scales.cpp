#include "tune/static_scales.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "ar/dispatch.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::tune {
namespace {

float largest_magnitude(const float* x, std::size_t n) {
  float m = 0;
#pragma omp parallel for schedule(static) reduction(max : m)
  for (std::size_t i = 0; i < n; ++i) m = std::max(m, std::abs(x[i]));
  return m;
}

}  // namespace

bool needs_input_maximum(const ar::scheme_fields& s) {
  if (s.act_bits.value_or(16) > 8) return false;
  return !s.act_dynamic.value_or(true) || s.act_data_type.value_or(std::string_view()).find("static") != std::string_view::npos;
}

maxima_collector::maxima_collector(const model::model_spec& spec, std::vector<std::string> layers, const attention_scales& attention)
    : spec_(spec), attention_(attention) {
  for (std::string& layer : layers) all_.inputs.emplace(std::move(layer), 0.0f);
  if (!attention.wanted()) return;
  const auto heads = [](bool each, std::int64_t n) { return each ? static_cast<std::size_t>(n) : std::size_t{1}; };
  attention_maxima zeros;
  if (attention.queries) zeros.q.resize(heads(attention.queries_per_head, spec.num_heads));
  zeros.k.resize(heads(attention.cache_per_head, spec.num_kv_heads));
  zeros.v = zeros.k;
  all_.attention.assign(static_cast<std::size_t>(spec.num_layers), zeros);
}

model::block_runner::attention_filter maxima_collector::begin_block(std::int64_t block) {
  block_ = block;
  wanted_.assign(spec_.linears.size(), nullptr);
  for (std::size_t i = 0; i < wanted_.size(); ++i)
    if (const auto at = all_.inputs.find(spec_.linear_name(block, static_cast<int>(i))); at != all_.inputs.end()) wanted_[i] = &at->second;
  if (!attention_.wanted()) return {};
  return [this](std::span<const model::block_runner::attention_rows> rows) { watch_attention(rows); };
}

void maxima_collector::input(int linear, const float* x, std::size_t tokens) {
  float* const m = wanted_[static_cast<std::size_t>(linear)];
  if (m != nullptr) *m = std::max(*m, largest_magnitude(x, tokens * static_cast<std::size_t>(spec_.linears[static_cast<std::size_t>(linear)].in_features)));
}

void maxima_collector::input(const std::string& layer, const float* x, std::size_t n) {
  const auto at = all_.inputs.find(layer);
  if (at != all_.inputs.end()) at->second = std::max(at->second, largest_magnitude(x, n));
}

bool maxima_collector::restore(static_maxima seen) {
  const auto alike = [](const attention_maxima& a, const attention_maxima& b) { return a.q.size() == b.q.size() && a.k.size() == b.k.size() && a.v.size() == b.v.size(); };
  if (!std::ranges::equal(seen.inputs, all_.inputs, {}, [](const auto& x) { return x.first; }, [](const auto& x) { return x.first; })) return false;
  if (!std::ranges::equal(seen.attention, all_.attention, alike)) return false;
  all_ = std::move(seen);
  return true;
}

void maxima_collector::watch_attention(std::span<const model::block_runner::attention_rows> rows) {
  attention_maxima& m = all_.attention[static_cast<std::size_t>(block_)];
  const auto head_dim = static_cast<std::size_t>(spec_.head_dim), shared = static_cast<std::size_t>(spec_.num_heads / spec_.num_kv_heads);
  if (attention_.last_batch && attention_.cache == attention_scales::type::fp8) {
    std::ranges::fill(m.k, 0.0f);
    std::ranges::fill(m.v, 0.0f);
  }
  for (const auto& r : rows) {
    const std::size_t head = attention_.cache_per_head ? r.kv_head : 0;
    m.k[head] = std::max(m.k[head], largest_magnitude(r.k.data(), r.k.size()));
    m.v[head] = std::max(m.v[head], largest_magnitude(r.v.data(), r.v.size()));
    if (m.q.empty()) continue;
    for (std::size_t i = 0; i < r.q.size(); i += head_dim) {
      float& q = m.q[attention_.queries_per_head ? r.kv_head * shared + i / head_dim % shared : 0];
      for (std::size_t c = 0; c < head_dim; ++c) q = std::max(q, std::abs(r.q[i + c]));
    }
  }
  if (attention_.cache != attention_scales::type::fp8) return;
  const ar::range_kernels& fp8 = *tuned_kernels("fp", 8, true);
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& r = rows[i];
    const std::size_t head = attention_.cache_per_head ? r.kv_head : 0;
    for (const auto& [x, largest] : {std::pair{r.k, m.k[head]}, {r.v, m.v[head]}}) {
      ar::type_values type(8);
      type.tensor.maximum = largest;
      // NaN and infinity stay: whoever reads the activations reports them.
      static_cast<void>(fp8.qdq(type, -1, {x.data(), x.size() / head_dim, head_dim}, {x.data(), x.size() / head_dim, head_dim}));
    }
  }
}

}  // namespace auto_round::tune
