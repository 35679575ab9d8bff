#include "evaluation/requests.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "ar/tune.hpp"
#include "text/unicode.hpp"

namespace auto_round::evaluation {
namespace {

constexpr std::uint64_t kFewshotSeed = 1234;  // lm-eval's default

/// random.sample(range(n), k)
std::vector<std::size_t> sample(ar::python_random& random, std::size_t n, std::size_t k) {
  std::size_t set_size = 21;  // CPython's estimate of what a set takes; up to there it permutes a copy of the list
  if (k > 5) {
    std::size_t power = 1;
    while (power < 3 * k) power *= 4;
    set_size += power;
  }
  std::vector<std::size_t> out, pool;
  if (n <= set_size) {
    for (std::size_t i = 0; i < n; ++i) pool.push_back(i);
    for (std::size_t i = 0; i < k; ++i) {
      const std::size_t j = random.below(static_cast<std::uint32_t>(n - i));
      out.push_back(pool[j]);
      pool[j] = pool[n - i - 1];
    }
    return out;
  }
  while (out.size() < k) {
    const std::size_t j = random.below(static_cast<std::uint32_t>(n));
    if (std::find(out.begin(), out.end(), j) == out.end()) out.push_back(j);
  }
  return out;
}

result<question> read_question(const task& t, document& d) {
  question q = t.ask(d);
  const std::size_t choices = q.requests();
  if (t.score != scoring::rolling && d.ok() && q.gold >= choices) {
    d.complain("the right answer is number " + std::to_string(q.gold) + " of " + std::to_string(choices) + " choices; is this a test split without answers?");
  }
  if (!d.ok()) return d.failure();
  return q;
}

/// Draws the examples of one document after the other.
class example_drawer {
 public:
  static result<example_drawer> make(const task& t, std::vector<document> pool, std::size_t count) {
    example_drawer d(t, std::move(pool), count);
    const std::size_t needed = count + (t.without_itself ? 1 : 0);
    if (count > 0 && d.pool_.size() < needed) {
      return fail(error_kind::input, t.name + ": " + std::to_string(count) + " examples in front of a document need a pool of " + std::to_string(needed) +
                                         " documents, there are " + std::to_string(d.pool_.size()));
    }
    return d;
  }

  /// The text in front of a document: each example, its right answer and an empty line.
  result<std::string> next(const document& asked) {
    std::string text;
    if (count_ == 0) return text;
    std::vector<std::size_t> chosen;
    if (t_->pool == examples::first) {
      for (std::size_t i = 0; i < count_; ++i) chosen.push_back(i);
    } else {
      chosen = sample(random_, pool_.size(), count_ + (t_->without_itself ? 1 : 0));
      const auto is_itself = [&](std::size_t i) { return t_->without_itself && pool_[i] == asked; };
      std::erase_if(chosen, is_itself);
      if (chosen.size() < count_) {  // several copies of it were drawn: again, from a pool without it
        std::vector<std::size_t> others;
        for (std::size_t i = 0; i < pool_.size(); ++i) {
          if (!is_itself(i)) others.push_back(i);
        }
        if (others.size() < count_) return fail(error_kind::input, t_->name + ": the pool of examples holds too few others", asked.where());
        chosen = sample(random_, others.size(), count_);
        for (std::size_t& i : chosen) i = others[i];
      }
      chosen.resize(count_);
    }
    for (const std::size_t i : chosen) {
      const auto q = read_question(*t_, pool_[i]);
      if (!q) return forward_error(q);
      text += q->context(q->gold) + std::string(t_->example_gap) + q->answer(q->gold) + "\n\n";
    }
    return text;
  }

 private:
  example_drawer(const task& t, std::vector<document> pool, std::size_t count) : t_(&t), pool_(std::move(pool)), count_(count) {}

  const task* t_;
  std::vector<document> pool_;
  std::size_t count_;
  ar::python_random random_{kFewshotSeed};
};

}  // namespace

result<asked_task> ask(const task& t, std::vector<document> documents, std::vector<document> pool, std::int64_t num_fewshot, double limit) {
  if (limit >= 1) {
    documents.erase(documents.begin() + static_cast<std::ptrdiff_t>(std::min(limit, static_cast<double>(documents.size()))), documents.end());
  } else if (limit > 0) {
    documents.erase(documents.begin() + static_cast<std::ptrdiff_t>(std::ceil(limit * static_cast<double>(documents.size()))), documents.end());
  }
  asked_task out;
  out.what = &t;
  out.num_fewshot = t.pool == examples::none ? 0 : num_fewshot;
  auto drawer = example_drawer::make(t, std::move(pool), static_cast<std::size_t>(out.num_fewshot));
  if (!drawer) return forward_error(drawer);
  for (document& d : documents) {
    auto q = read_question(t, d);
    if (!q) return forward_error(q);
    if (t.score == scoring::rolling) {
      out.requests.push_back({"", q->answers[0]});
    } else {
      const auto front = drawer->next(d);
      if (!front) return forward_error(front);
      for (std::size_t i = 0; i < q->requests(); ++i) out.requests.push_back({t.description + *front + q->context(i), " " + q->answer(i)});
    }
    out.questions.push_back(std::move(*q));
  }
  return out;
}

result<std::vector<std::int32_t>> encoder::encode(std::string_view text) const {
  bool special = add_bos_;
  if (special) {
    const auto p = prefix();
    if (!p) return forward_error(p);
    const std::string begin = tok_.decode(std::span<const std::int32_t>(&*p, 1), false);
    special = begin.empty() || !text.starts_with(begin);
  }
  return tok_.encode(text, special);
}

result<std::int32_t> encoder::prefix() const {
  if (tok_.bos_id() >= 0) return tok_.bos_id();
  if (tok_.eos_id() >= 0) return tok_.eos_id();
  return fail(error_kind::input, "the tokenizer has neither a begin nor an end token (tokenizer_config.json), so the first token of a text cannot be scored");
}

result<token_request> encoder::pair(const request& r) const {
  token_request out;
  if (r.context.empty()) {
    const auto p = prefix();
    if (!p) return forward_error(p);
    auto ids = tok_.encode(r.continuation, false);
    if (!ids) return forward_error(ids);
    out.continuation = std::move(*ids);
    if (out.continuation.empty() || out.continuation.front() != *p) {
      out.context = {*p};
    } else {
      out.context = {out.continuation.front()};
      out.continuation.erase(out.continuation.begin());
    }
  } else {
    std::string_view context = r.context;
    const std::string_view stripped = text::strip(context);
    context = context.substr(0, stripped.empty() ? 0 : static_cast<std::size_t>(stripped.data() - context.data()) + stripped.size());
    auto whole = encode(r.context + r.continuation);
    if (!whole) return forward_error(whole);
    auto front = encode(context);
    if (!front) return forward_error(front);
    if (front->size() < whole->size()) out.continuation.assign(whole->begin() + static_cast<std::ptrdiff_t>(front->size()), whole->end());
    out.context = std::move(*front);
  }
  if (out.continuation.empty()) {
    return fail(error_kind::input, "the tokenizer leaves no token for the answer \"" + r.continuation.substr(0, 80) + "\"");
  }
  return out;
}

result<std::vector<token_request>> encoder::rolling(const std::string& text, std::size_t longest) const {
  const auto encoded = encode(text);
  if (!encoded) return forward_error(encoded);
  const std::vector<std::int32_t>& ids = *encoded;
  const auto p = prefix();
  if (!p) return forward_error(p);
  std::vector<token_request> out;
  const auto part = [&](std::size_t begin, std::size_t end) {
    return std::vector<std::int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end));
  };
  for (std::size_t done = 0; done < ids.size();) {
    const std::size_t end = std::min(done + longest, ids.size());
    // Input and scored tokens of a window overlap but for one; what is in front of the scored tokens is its context.
    out.push_back({done == 0 ? std::vector{*p} : part(end - longest - 1, done), part(done, end)});
    done = end;
  }
  return out;
}

bool adds_bos(const text::tokenizer& tok) {
  const auto ids = tok.encode("", true);
  return ids && tok.bos_id() >= 0 && !ids->empty() && ids->front() == tok.bos_id();
}

}  // namespace auto_round::evaluation
