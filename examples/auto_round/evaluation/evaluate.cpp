#include "evaluation/evaluate.hpp"

#include <algorithm>

namespace auto_round::evaluation {
namespace {

/// Pieces [first, first + count) of the list that the model gets belong to one request.
struct share {
  std::size_t first = 0, count = 0;
};

result<model::likelihood_request> joined(const token_request& t, std::size_t longest, const task& what) {
  if (t.continuation.size() > longest) {
    return fail(error_kind::input, what.name + ": an answer has " + std::to_string(t.continuation.size()) + " tokens, more than the " +
                                       std::to_string(longest) + " that the model reads at once");
  }
  model::likelihood_request r{t.context, t.continuation.size()};
  r.ids.insert(r.ids.end(), t.continuation.begin(), t.continuation.end());
  if (r.ids.size() > longest + 1) r.ids.erase(r.ids.begin(), r.ids.end() - static_cast<std::ptrdiff_t>(longest + 1));
  if (r.ids.size() == r.scored) return fail(error_kind::input, what.name + ": an answer has no token in front of it");
  return r;
}

}  // namespace

result<std::vector<task_scores>> answer(const model::weight_source& source, const text::tokenizer& tok, std::span<const asked_task> tasks,
                                        const run_options& options) {
  const encoder encode(tok, options.add_bos);
  std::vector<model::likelihood_request> pieces;
  std::vector<share> shares;
  for (const asked_task& t : tasks) {
    for (const request& r : t.requests) {
      result<std::vector<token_request>> tokens;
      if (t.what->score == scoring::rolling) {
        tokens = encode.rolling(r.continuation, options.longest);
      } else if (auto pair = encode.pair(r)) {
        tokens->push_back(std::move(*pair));
      } else {
        tokens = forward_error(pair);
      }
      if (!tokens) return forward_error(tokens);
      shares.push_back({pieces.size(), tokens->size()});
      for (const token_request& one : *tokens) {
        auto piece = joined(one, options.longest, *t.what);
        if (!piece) return forward_error(piece);
        pieces.push_back(std::move(*piece));
      }
    }
  }
  std::size_t rows_at_once = 0;
  if (options.before) {
    std::size_t longest = 0;
    for (const model::likelihood_request& r : pieces) longest = std::max(longest, r.ids.size() - 1);
    const auto rows = options.before(model::likelihood_tokens(pieces), longest);
    if (!rows) return forward_error(rows);
    rows_at_once = *rows;
  }
  const auto scored = model::log_likelihoods(source, pieces, rows_at_once, options.on_block);
  if (!scored) return forward_error(scored);
  std::vector<model::likelihood> likelihoods;
  for (const share& s : shares) {
    model::likelihood l;
    for (std::size_t i = s.first; i < s.first + s.count; ++i) {
      l.sum += (*scored)[i].sum;
      l.greedy = l.greedy && (*scored)[i].greedy;
    }
    likelihoods.push_back(l);
  }
  std::vector<task_scores> out;
  std::size_t at = 0;
  for (const asked_task& t : tasks) {
    out.push_back(score(t, std::span(likelihoods).subspan(at, t.requests.size())));
    at += t.requests.size();
  }
  return out;
}

}  // namespace auto_round::evaluation
