#include "model/likelihood.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "model/forward_pieces.hpp"
#include "model/head.hpp"
#include "model/kernels.hpp"

namespace auto_round::model {
namespace {

/// What a pass reads: all tokens but the last one.
std::span<const std::int32_t> input_of(const likelihood_request& r) { return std::span(r.ids).first(r.ids.size() - 1); }

/// Texts of equal padded length. Causal attention never looks at the padding behind a text.
struct batch {
  std::size_t first_row = 0, length = 0;
  std::vector<std::size_t> hosts;
};

struct pass {
  std::size_t rows = 0;
  std::vector<batch> batches;
};

/// For each request the one whose pass it is read off: itself, or one that goes on where it ends.
std::vector<std::size_t> find_hosts(std::span<const likelihood_request> requests) {
  std::vector<std::size_t> order(requests.size()), host(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::ranges::lexicographical_compare(input_of(requests[a]), input_of(requests[b]));
  });
  // Between a text and one that it begins lie only texts that it begins as well.
  for (std::size_t i = order.size(); i-- > 0;) {
    const auto own = input_of(requests[order[i]]);
    host[order[i]] = order[i];
    if (i + 1 == order.size()) continue;
    const auto next = input_of(requests[order[i + 1]]);
    if (next.size() >= own.size() && std::equal(own.begin(), own.end(), next.begin())) host[order[i]] = host[order[i + 1]];
  }
  return host;
}

std::vector<pass> plan_passes(std::span<const likelihood_request> requests, const std::vector<std::size_t>& host, std::size_t rows_at_once) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (host[i] == i) order.push_back(i);
  }
  const auto length = [&](std::size_t i) { return requests[i].ids.size() - 1; };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  std::vector<pass> passes;
  for (const std::size_t i : order) {
    const bool fits = !passes.empty() && length(i) + length(i) / 8 + 4 >= passes.back().batches.back().length;
    const std::size_t padded = fits ? passes.back().batches.back().length : length(i);
    if (passes.empty() || passes.back().rows + padded > rows_at_once) {
      passes.emplace_back().batches.push_back({0, length(i), {}});
    } else if (!fits) {
      passes.back().batches.push_back({passes.back().rows, length(i), {}});
    }
    batch& b = passes.back().batches.back();
    b.hosts.push_back(i);
    passes.back().rows += b.length;
  }
  return passes;
}

/// A token to score at a row of the last block's output.
struct target {
  std::size_t row, request;
  std::int32_t token;
};

void score(const output_head& head, const std::vector<float>& x, std::vector<target> targets, std::vector<likelihood>& out) {
  std::stable_sort(targets.begin(), targets.end(), [](const target& a, const target& b) { return a.row < b.row; });
  const std::size_t hidden = head.hidden, vocab = head.vocab, most = head.rows_at_once();
  std::vector<float> rows(most * hidden), scratch, logits(most * vocab);
  std::vector<double> lse(most);
  std::vector<std::size_t> best(most), place(targets.size());
  for (std::size_t first = 0; first < targets.size();) {
    // Targets of one row (the choices of a question) share its logits.
    std::size_t n = 0, end = first;
    for (; end < targets.size(); ++end) {
      const bool same = end > first && targets[end].row == targets[end - 1].row;
      if (!same && n == most) break;
      if (!same) std::copy_n(x.data() + targets[end].row * hidden, hidden, rows.data() + n++ * hidden);
      place[end] = n - 1;
    }
    head.logits(rows.data(), n, scratch, logits.data());
#pragma omp parallel for schedule(static)
    for (std::size_t r = 0; r < n; ++r) lse[r] = kernels::log_sum_exp(logits.data() + r * vocab, vocab, best[r]);
    for (; first < end; ++first) {
      const target& t = targets[first];
      const std::size_t r = place[first];
      likelihood& l = out[t.request];
      l.sum += static_cast<double>(logits[r * vocab + static_cast<std::size_t>(t.token)]) - lse[r];
      l.greedy = l.greedy && best[r] == static_cast<std::size_t>(t.token);
    }
  }
}

}  // namespace

std::size_t likelihood_tokens(std::span<const likelihood_request> requests) {
  const std::vector<pass> passes = plan_passes(requests, find_hosts(requests), std::numeric_limits<std::size_t>::max());
  return passes.empty() ? 0 : passes.front().rows;
}

result<std::vector<likelihood>> log_likelihoods(const weight_source& source, std::span<const likelihood_request> requests, std::size_t rows_at_once,
                                                const std::function<void(std::int64_t, std::int64_t)>& on_block) {
  const model_spec& spec = source.spec();
  for (const likelihood_request& r : requests) {
    if (r.scored == 0 || r.scored >= r.ids.size()) return fail(error_kind::internal, "a request scores none of its tokens, or its first one");
    for (const std::int32_t id : r.ids) {
      if (id < 0 || id >= spec.vocab_size) {
        return fail(error_kind::input, "token " + std::to_string(id) + " is outside the model's vocabulary of " + std::to_string(spec.vocab_size) +
                                           "; the tokenizer does not belong to this model", source.location());
      }
    }
  }
  if (rows_at_once == 0) rows_at_once = likelihood_rows(static_cast<std::size_t>(spec.hidden_size));
  const std::vector<std::size_t> host = find_hosts(requests);
  std::vector<std::vector<std::size_t>> guests(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) guests[host[i]].push_back(i);
  const std::vector<pass> passes = plan_passes(requests, host, rows_at_once);

  std::vector<likelihood> out(requests.size());
  std::int64_t done = 0;
  const std::int64_t all = static_cast<std::int64_t>(passes.size()) * spec.num_layers;
  for (const pass& p : passes) {
    std::vector<std::int32_t> ids;
    std::vector<std::size_t> lengths;
    std::vector<target> targets;
    for (const batch& b : p.batches) {
      for (const std::size_t h : b.hosts) {
        const auto input = input_of(requests[h]);
        for (const std::size_t g : guests[h]) {
          const likelihood_request& r = requests[g];
          for (std::size_t i = r.ids.size() - r.scored; i < r.ids.size(); ++i) targets.push_back({ids.size() + i - 1, g, r.ids[i]});
        }
        ids.insert(ids.end(), input.begin(), input.end());
        ids.insert(ids.end(), b.length - input.size(), input.back());
        lengths.push_back(b.length);
      }
    }
    auto x = embed(source, ids, lengths);
    if (!x) return forward_error(x);
    const auto hidden = static_cast<std::size_t>(spec.hidden_size);
    std::optional<block_runner> runner(std::in_place, spec, linalg::precision::f32);
    for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) {
      const auto w = read_block(source, layer, weight_form::stored);
      if (!w) return forward_error(w);
      auto filters = source.input_filters(layer);
      if (!filters) return forward_error(filters);
      runner->set_input_filters(std::move(*filters));
      for (const batch& b : p.batches) {
        float* const rows = x->data() + b.first_row * hidden;
        runner->forward(*w, rows, b.hosts.size(), b.length, rows);
      }
      source.done_with_block(layer);
      if (on_block) on_block(++done, all);
    }
    runner.reset();  // its rows are as much memory as the logits
    const auto head = read_head(source, weight_form::stored);
    if (!head) return forward_error(head);
    score(*head, *x, std::move(targets), out);
    source.done_with_block(-1);
  }
  return out;
}

}  // namespace auto_round::model
