// Walks over a model block by block.
#include "model/decoder.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "model/evaluate_windows.hpp"
#include "model/head.hpp"
#include "model/kernels.hpp"
#include "model/linalg.hpp"

namespace auto_round::model {
namespace {

std::uint64_t product(const std::vector<std::uint64_t>& shape) {
  std::uint64_t n = 1;
  for (std::uint64_t d : shape) n *= d;
  return n;
}

std::string text_of(const std::vector<std::uint64_t>& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s.append(i == 0 ? "" : ", ").append(std::to_string(shape[i]));
  return s + "]";
}

result<void> check_shape(const weight_source& source, const std::string& name, const std::vector<std::uint64_t>& shape) {
  if (!source.has(name)) return fail(error_kind::input, "a tensor that the model needs is missing", source.location(), name);
  const std::vector<std::uint64_t> actual = source.shape(name);
  if (!actual.empty() && actual != shape)
    return fail(error_kind::input, "the tensor has shape " + text_of(actual) + " where config.json asks for " + text_of(shape), source.location(), name);
  return {};
}

std::vector<std::uint64_t> embedding_shape(const model_spec& spec) {
  return {static_cast<std::uint64_t>(spec.vocab_size), static_cast<std::uint64_t>(spec.hidden_size)};
}

/// Adds the rows of learned positions from `first` on to sequences of `seqlen` rows.
result<void> add_positions(const weight_source& source, std::size_t first, std::size_t seqlen, std::span<float> x) {
  const model_spec& spec = source.spec();
  if (spec.positions_name.empty()) return {};
  const auto hidden = static_cast<std::size_t>(spec.hidden_size), offset = static_cast<std::size_t>(spec.positions_offset);
  const auto rows = static_cast<std::size_t>(spec.max_position_embeddings) + offset;
  if (auto r = check_shape(source, spec.positions_name, {rows, hidden}); !r) return r;
  if (first + seqlen > static_cast<std::size_t>(spec.max_position_embeddings))
    return fail(error_kind::usage, "the model knows " + std::to_string(spec.max_position_embeddings) + " positions; a sequence has " + std::to_string(first + seqlen) + " tokens",
                source.location(), spec.positions_name);
  std::vector<float> table(seqlen * hidden);
  if (auto r = source.read_part(spec.positions_name, rows * hidden, (first + offset) * hidden, table); !r) return r;
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += table[i % table.size()];
  return {};
}

result<void> check_ids(const weight_source& source, std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids)
    if (id < 0 || id >= source.spec().vocab_size)
      return fail(error_kind::input,
                  "token " + std::to_string(id) + " is outside the model's vocabulary of " + std::to_string(source.spec().vocab_size) +
                      "; the tokenizer does not belong to this model",
                  source.location(), source.spec().embed_name);
  return {};
}

constexpr std::size_t few_tokens = 256;  // generation comes back to the embedding at once

/// From rows of the table to the first block's input, for sequences of `seqlen` rows that begin at position `first`.
result<void> finish_embedding(const weight_source& source, std::size_t first, std::size_t seqlen, std::span<float> x) {
  if (source.spec().embed_scale != 1)
    for (float& v : x) v *= static_cast<float>(source.spec().embed_scale);
  if (x.empty()) return {};
  return add_positions(source, first, seqlen, x);
}

/// Output of the last block for whole sequences of `seqlen` ids.
result<std::vector<float>> run_blocks(const weight_source& source, std::span<const std::int32_t> ids, std::size_t seqlen,
                                      const std::function<void()>& on_block, weight_form form) {
  auto x = embed(source, ids, seqlen);
  if (!x) return x;
  block_runner runner(source.spec(), linalg::precision::f32);
  for (std::int64_t layer = 0; layer < source.spec().num_layers; ++layer) {
    const auto w = read_block(source, layer, form);
    if (!w) return forward_error(w);
    auto filters = source.input_filters(layer);
    if (!filters) return forward_error(filters);
    runner.set_input_filters(std::move(*filters));
    runner.forward(*w, x->data(), ids.size() / seqlen, seqlen, x->data());
    source.done_with_block(layer);
    if (on_block) on_block();
  }
  return x;
}

std::int32_t sample(const float* row, std::size_t vocab, double temperature, std::mt19937_64& generator) {
  std::size_t largest = 0;
  (void)kernels::log_sum_exp(row, vocab, largest);
  if (temperature <= 0) return static_cast<std::int32_t>(largest);
  std::vector<double> cumulative(vocab);
  double total = 0;
  for (std::size_t i = 0; i < vocab; ++i) {
    total += std::exp((static_cast<double>(row[i]) - static_cast<double>(row[largest])) / temperature);
    cumulative[i] = total;
  }
  const double u = static_cast<double>(generator() >> 11) * 0x1p-53 * total;
  const auto at = std::upper_bound(cumulative.begin(), cumulative.end(), u) - cumulative.begin();
  return static_cast<std::int32_t>(std::min<std::ptrdiff_t>(at, static_cast<std::ptrdiff_t>(vocab) - 1));
}

}  // namespace

result<void> weight_source::read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const {
  std::vector<float> whole(elements);
  if (auto r = read(name, whole); !r) return r;
  std::copy_n(whole.data() + first, out.size(), out.data());
  return {};
}

result<std::vector<float>> read_tensor(const weight_source& source, const std::string& name, const std::vector<std::uint64_t>& shape) {
  if (auto r = check_shape(source, name, shape); !r) return forward_error(r);
  std::vector<float> v(product(shape));
  if (auto r = source.read(name, v); !r) return forward_error(r);
  return v;
}

result<stored_matrix> read_matrix(const weight_source& source, const std::string& name, std::uint64_t rows, std::uint64_t cols, weight_form form) {
  stored_matrix m;
  if (form == weight_form::stored) {
    if (auto r = check_shape(source, name, {rows, cols}); !r) return forward_error(r);
    auto packed = source.packed(name, rows, cols);
    if (!packed) return forward_error(packed);
    m.packed = std::move(*packed);
    if (m.packed != nullptr) return m;
  }
  auto floats = read_tensor(source, name, {rows, cols});
  if (!floats) return forward_error(floats);
  m.floats = std::move(*floats);
  return m;
}

result<block_weights> read_block(const weight_source& source, std::int64_t layer, weight_form form) {
  const model_spec& spec = source.spec();
  const std::string prefix = spec.block_prefix + std::to_string(layer) + ".";
  const auto hidden = static_cast<std::uint64_t>(spec.hidden_size);
  block_weights w;
  const auto read_into = [&](const std::string& name, const std::vector<std::uint64_t>& shape, std::vector<float>& to) -> result<void> {
    auto v = read_tensor(source, name, shape);
    if (!v) return forward_error(v);
    to = std::move(*v);
    return {};
  };
  w.linears.resize(spec.linears.size());
  w.packed.resize(spec.linears.size());
  w.bias.resize(spec.linears.size());
  for (std::size_t i = 0; i < spec.linears.size(); ++i) {
    if (!spec.has_linear(layer, static_cast<int>(i))) continue;
    const linear_desc& d = spec.linears[i];
    const auto out = static_cast<std::uint64_t>(d.out_features), in = static_cast<std::uint64_t>(d.in_features);
    auto weight = read_matrix(source, prefix + d.name + ".weight", out, in, form);
    if (!weight) return forward_error(weight);
    w.linears[i] = std::move(weight->floats);
    w.packed[i] = std::move(weight->packed);
    if (d.bias)
      if (auto r = read_into(prefix + d.name + ".bias", {out}, w.bias[i]); !r) return forward_error(r);
  }
  if (auto r = read_into(prefix + spec.input_norm_name, {hidden}, w.input_norm); !r) return forward_error(r);
  if (auto r = read_into(prefix + spec.post_attention_norm_name, {hidden}, w.post_attention_norm); !r) return forward_error(r);
  for (const part_desc& part : spec.parts)
    if (spec.exists(part.where, layer))
      if (auto r = read_into(prefix + part.name, {part.shape.begin(), part.shape.end()}, w.part(part.part)); !r) return forward_error(r);
  if (spec.unit_offset) {
    for (std::vector<float>* norm : {&w.input_norm, &w.post_attention_norm, &w.part(block_part::attention_output_norm), &w.part(block_part::mlp_output_norm),
                                     &w.part(block_part::query_norm), &w.part(block_part::key_norm)})
      for (float& x : *norm) x += 1.0f;
  }
  w.layer = layer;
  w.rotations = source.rotations(layer);
  return w;
}

namespace {

/// Rows of the embedding, [ids.size() x hidden], as they are stored.
result<std::vector<float>> embedding_rows(const weight_source& source, std::span<const std::int32_t> ids) {
  const model_spec& spec = source.spec();
  const auto hidden = static_cast<std::size_t>(spec.hidden_size);
  if (auto r = check_shape(source, spec.embed_name, embedding_shape(spec)); !r) return forward_error(r);
  if (auto r = check_ids(source, ids); !r) return forward_error(r);
  std::vector<float> x(ids.size() * hidden);
  const auto packed = source.packed(spec.embed_name, static_cast<std::uint64_t>(spec.vocab_size), hidden);
  if (!packed) return forward_error(packed);
  // The table is read in pieces of 16 MiB, those that hold no wanted row are left out: it may be larger than all blocks of a small model.
  const auto vocab = static_cast<std::size_t>(spec.vocab_size), step = std::max<std::size_t>(1, (std::size_t{4} << 20) / hidden);
  std::vector<std::vector<std::size_t>> wanted((vocab + step - 1) / step);
  for (std::size_t t = 0; t < ids.size(); ++t) wanted[static_cast<std::size_t>(ids[t]) / step].push_back(t);
  std::vector<float> rows;
  for (std::size_t piece = 0; piece < wanted.size(); ++piece) {
    if (wanted[piece].empty()) continue;
    if (*packed != nullptr) {
      for (const std::size_t t : wanted[piece]) (*packed)->decode(static_cast<std::size_t>(ids[t]), 1, x.data() + t * hidden);
      if (ids.size() > few_tokens) source.done_with_block(-1);
      continue;
    }
    const std::size_t first = piece * step;
    rows.resize(std::min(step, vocab - first) * hidden);
    if (auto r = source.read_part(spec.embed_name, vocab * hidden, first * hidden, rows); !r) return forward_error(r);
    for (const std::size_t t : wanted[piece]) std::copy_n(rows.data() + (static_cast<std::size_t>(ids[t]) - first) * hidden, hidden, x.data() + t * hidden);
  }
  return x;
}

}  // namespace

result<std::vector<float>> embed(const weight_source& source, std::span<const std::int32_t> ids, std::size_t seqlen) {
  auto x = embedding_rows(source, ids);
  if (!x) return x;
  if (auto r = finish_embedding(source, 0, seqlen == 0 ? ids.size() : seqlen, *x); !r) return forward_error(r);
  return x;
}

result<std::vector<float>> embed(const weight_source& source, std::span<const std::int32_t> ids, std::span<const std::size_t> lengths) {
  const auto hidden = static_cast<std::size_t>(source.spec().hidden_size);
  auto x = embedding_rows(source, ids);
  std::span<float> rest = x ? std::span(*x) : std::span<float>();
  for (std::size_t i = 0; x && i < lengths.size(); ++i) {
    if (auto r = finish_embedding(source, 0, lengths[i], rest.first(lengths[i] * hidden)); !r) return forward_error(r);
    rest = rest.subspan(lengths[i] * hidden);
  }
  return x;
}

result<std::vector<float>> logits(const weight_source& source, std::span<const std::int32_t> ids, weight_form form) {
  if (ids.empty()) return std::vector<float>{};
  const auto x = run_blocks(source, ids, ids.size(), {}, form);
  if (!x) return forward_error(x);
  const auto h = read_head(source, form);
  if (!h) return forward_error(h);
  std::vector<float> scratch, out(ids.size() * h->vocab);
  h->logits(x->data(), ids.size(), scratch, out.data());
  return out;
}

result<evaluation> evaluate(const weight_source& source, std::span<const std::int32_t> ids, std::int64_t seqlen, const weight_source* reference,
                            const std::function<void(std::int64_t, std::int64_t)>& on_block) {
  return evaluate_windows(source, ids, seqlen, reference, 0, on_block);
}

result<evaluation> evaluate_windows(const weight_source& source, std::span<const std::int32_t> ids, std::int64_t seqlen, const weight_source* reference, std::size_t windows_at_once,
                                    const std::function<void(std::int64_t, std::int64_t)>& on_block) {
  const model_spec& spec = source.spec();
  if (seqlen < 2) return fail(error_kind::usage, "seqlen must be at least 2");
  const auto window = static_cast<std::size_t>(seqlen);
  const std::size_t windows = ids.size() / window;
  if (windows == 0)
    return fail(error_kind::input, "the text has " + std::to_string(ids.size()) + " tokens, less than one window of " + std::to_string(window) +
                                       "; give more text or a smaller seqlen");
  if (reference != nullptr && reference->spec().vocab_size != spec.vocab_size)
    return fail(error_kind::input,
                "the reference has a vocabulary of " + std::to_string(reference->spec().vocab_size) + " tokens, the model one of " +
                    std::to_string(spec.vocab_size) + "; they must be the same",
                reference->location());
  const std::size_t step = windows_at_once == 0 ? windows : std::min(windows_at_once, windows), passes = (windows + step - 1) / step;

  std::int64_t done = 0;
  const std::int64_t blocks = static_cast<std::int64_t>(passes) * (spec.num_layers + (reference == nullptr ? 0 : reference->spec().num_layers));
  const auto count_block = [&] {
    ++done;
    if (on_block) on_block(done, blocks);
  };
  evaluation e;
  e.has_reference = reference != nullptr;
  double nll_sum = 0, kl_sum = 0;
  std::int64_t agree = 0;
  for (std::size_t start = 0; start < windows; start += step) {
    const std::size_t count = std::min(step, windows - start);
    const std::span<const std::int32_t> some = ids.subspan(start * window, count * window);
    const auto x = run_blocks(source, some, window, count_block, weight_form::stored);
    if (!x) return forward_error(x);
    std::vector<float> x_ref;
    if (reference != nullptr) {
      auto xr = run_blocks(*reference, some, window, count_block, weight_form::stored);
      if (!xr) return forward_error(xr);
      x_ref = std::move(*xr);
    }
    const auto h = read_head(source, weight_form::stored);
    if (!h) return forward_error(h);
    output_head h_ref;
    if (reference != nullptr) {
      auto hr = read_head(*reference, weight_form::stored);
      if (!hr) return forward_error(hr);
      h_ref = std::move(*hr);
    }

    const std::size_t vocab = h->vocab, most = h->rows_at_once();
    std::vector<float> scratch, rows(most * vocab), rows_ref(reference == nullptr ? 0 : most * vocab);
    std::vector<double> nll(most), kl(most);
    std::vector<std::uint8_t> same(most);
    for (std::size_t w = 0; w < count; ++w)
      for (std::size_t first = 0; first + 1 < window; first += most) {
        const std::size_t n = std::min(most, window - 1 - first), at = w * window + first;
        h->logits(x->data() + at * h->hidden, n, scratch, rows.data());
        if (reference != nullptr) h_ref.logits(x_ref.data() + at * h_ref.hidden, n, scratch, rows_ref.data());
#pragma omp parallel for schedule(static)
        for (std::size_t r = 0; r < n; ++r) {
          const float* const q = rows.data() + r * vocab;
          std::size_t best = 0, best_ref = 0;
          const double lse = kernels::log_sum_exp(q, vocab, best);
          nll[r] = lse - static_cast<double>(q[static_cast<std::size_t>(some[at + r + 1])]);
          if (reference == nullptr) continue;
          const float* const p = rows_ref.data() + r * vocab;
          const double lse_ref = kernels::log_sum_exp(p, vocab, best_ref);
          kl[r] = kernels::kl_divergence(p, static_cast<float>(lse_ref), q, static_cast<float>(lse_ref - lse), vocab);
          same[r] = best == best_ref;
        }
        for (std::size_t r = 0; r < n; ++r) {
          nll_sum += nll[r];
          kl_sum += kl[r];
          agree += same[r];
        }
      }
    source.done_with_block(-1);
    if (reference != nullptr) reference->done_with_block(-1);
  }
  e.tokens = static_cast<std::int64_t>(windows * (window - 1));
  const auto count = static_cast<double>(e.tokens);
  e.nll = nll_sum / count;
  e.perplexity = std::exp(e.nll);
  if (e.has_reference) {
    e.kl = kl_sum / count;
    e.top1 = static_cast<double>(agree) / count;
  }
  return e;
}

struct resident_model::impl {
  const weight_source& source;
  std::vector<block_weights> blocks;
  std::vector<block_runner::input_filters> filters;
  output_head head;
  stored_matrix table;  // of the embedding, unless the head is the same

  /// Row `id` of the embedding.
  void embed_token(std::int32_t id, float* out) const {
    const bool tied = source.spec().tie_word_embeddings;
    const packed_pointer& packed = tied ? head.packed : table.packed;
    const std::vector<float>& floats = tied ? head.weight : table.floats;
    if (packed != nullptr) packed->decode(static_cast<std::size_t>(id), 1, out);
    else std::copy_n(floats.data() + static_cast<std::size_t>(id) * head.hidden, head.hidden, out);
  }
  result<std::vector<float>> embed(std::span<const std::int32_t> ids) const {
    std::vector<float> x(ids.size() * head.hidden);
    for (std::size_t t = 0; t < ids.size(); ++t) embed_token(ids[t], x.data() + t * head.hidden);
    if (auto r = finish_embedding(source, 0, ids.size(), x); !r) return forward_error(r);
    return x;
  }
};

resident_model::resident_model() = default;
resident_model::resident_model(resident_model&&) noexcept = default;
resident_model::~resident_model() = default;

result<resident_model> resident_model::read(const weight_source& source, weight_form form) {
  const model_spec& spec = source.spec();
  resident_model m;
  m.impl_ = std::make_unique<impl>(impl{source, {}, {}, {}, {}});
  for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) {
    auto w = read_block(source, layer, form);
    if (!w) return forward_error(w);
    m.impl_->blocks.push_back(std::move(*w));
    auto filters = source.input_filters(layer);
    if (!filters) return forward_error(filters);
    m.impl_->filters.push_back(std::move(*filters));
    source.done_with_block(layer);
  }
  auto head = read_head(source, form);
  if (!head) return forward_error(head);
  m.impl_->head = std::move(*head);
  if (!spec.tie_word_embeddings) {
    auto table = read_matrix(source, spec.embed_name, embedding_shape(spec)[0], embedding_shape(spec)[1], form);
    if (!table) return forward_error(table);
    m.impl_->table = std::move(*table);
  }
  return m;
}

std::uint64_t resident_model::weight_bytes() const {
  const auto floats = [](const std::vector<float>& v) { return v.size() * sizeof(float); };
  const output_head& head = impl_->head;
  std::uint64_t n = impl_->table.bytes() + floats(head.weight) + floats(head.norm) + floats(head.norm_bias);
  if (head.packed != nullptr) n += head.packed->bytes();
  for (const block_weights& w : impl_->blocks) {
    for (const auto* group : {&w.linears, &w.bias})
      for (const std::vector<float>& v : *group) n += floats(v);
    for (const packed_pointer& p : w.packed) n += p == nullptr ? 0 : p->bytes();
    for (const std::vector<float>& v : w.parts) n += floats(v);
    n += floats(w.input_norm) + floats(w.post_attention_norm);
  }
  return n;
}

result<std::vector<std::int32_t>> generate(const resident_model& model, std::span<const std::int32_t> prompt, const generation_options& options,
                                           const std::function<bool(std::int32_t)>& on_token) {
  const resident_model::impl& m = *model.impl_;
  const model_spec& spec = m.source.spec();
  const std::size_t hidden = m.head.hidden;
  if (prompt.empty()) return fail(error_kind::usage, "the prompt is empty; give at least one token");
  if (!(options.temperature >= 0)) return fail(error_kind::usage, "temperature must not be negative");
  if (auto r = check_ids(m.source, prompt); !r) return forward_error(r);
  auto x = m.embed(prompt);
  if (!x) return forward_error(x);

  std::mt19937_64 generator(options.seed);
  block_runner runner(spec, linalg::precision::f32);
  std::vector<kv_cache> caches(m.blocks.size());
  std::vector<float> scratch, row(m.head.vocab);
  std::vector<std::int32_t> out;
  std::vector<std::int32_t> all(prompt.begin(), prompt.end());
  std::size_t fresh = prompt.size();  // tokens whose rows x holds
  auto position = static_cast<std::int64_t>(prompt.size());
  while (static_cast<std::int64_t>(out.size()) < options.max_tokens && position <= spec.max_position_embeddings) {
    for (std::size_t l = 0; l < m.blocks.size(); ++l) {
      runner.set_input_filters(m.filters[l]);
      runner.forward_cached(m.blocks[l], x->data(), fresh, caches[l], x->data());
    }
    m.head.logits(x->data() + (fresh - 1) * hidden, 1, scratch, row.data());
    const std::int32_t token = sample(row.data(), row.size(), options.temperature, generator);
    if (token == options.eos_id) break;
    out.push_back(token);
    if (on_token && !on_token(token)) break;
    if (position >= spec.max_position_embeddings) break;
    all.push_back(token);
    // Beyond the original context all tokens turn by other frequencies; what is cached no longer fits.
    if (spec.rope.type == rope_spec::kind::longrope && position == spec.rope.original_max_position) {
      x = m.embed(all);
      if (!x) return forward_error(x);
      caches.assign(m.blocks.size(), {});
      fresh = all.size();
      ++position;
      continue;
    }
    m.embed_token(token, x->data());
    if (auto r = finish_embedding(m.source, static_cast<std::size_t>(position), 1, std::span(*x).first(hidden)); !r) return forward_error(r);
    fresh = 1;
    ++position;
  }
  return out;
}

result<std::vector<std::int32_t>> generate(const weight_source& source, std::span<const std::int32_t> prompt, const generation_options& options,
                                           const std::function<bool(std::int32_t)>& on_token) {
  if (prompt.empty()) return fail(error_kind::usage, "the prompt is empty; give at least one token");
  const auto model = resident_model::read(source);
  if (!model) return forward_error(model);
  return generate(*model, prompt, options, on_token);
}

}  // namespace auto_round::model
