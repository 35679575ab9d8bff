// From the documents of a task to what a model is asked, as text and as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evaluation/task.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::evaluation {

/// A continuation to score behind its context. Kind rolling: the whole text is the continuation, the context is empty.
struct request {
  std::string context, continuation;
};

/// A task's questions and the requests that they make, question after question.
struct asked_task {
  const task* what = nullptr;
  std::int64_t num_fewshot = 0;
  std::vector<question> questions;
  std::vector<request> requests;
};

/// `limit`: 0 asks all documents, 1 and more the first so many, a fraction below 1 that share of them, rounded up. Few-shot examples come from `pool`
/// (task::pool says which documents those are), drawn as Python's random.Random(1234) draws them, from the first document on. Tasks without few-shot
/// form ignore `num_fewshot`. error_kind::input for fields and labels, and for a pool that is too small.
result<asked_task> ask(const task& t, std::vector<document> documents, std::vector<document> pool, std::int64_t num_fewshot, double limit);

/// Tokens of a request: the last `continuation.size()` of both are scored.
struct token_request {
  std::vector<std::int32_t> context, continuation;
};

class encoder {
 public:
  /// `add_bos`: texts get the special tokens of the tokenizer's post-processor, unless they begin with the text of the begin token.
  encoder(const text::tokenizer& tok, bool add_bos) : tok_(tok), add_bos_(add_bos) {}
  /// White space at the end of the context belongs to the continuation; both are tokenized together and cut where the tokens of the context alone end.
  /// An empty context is the prefix token. error_kind::input if no token is left for the continuation.
  result<token_request> pair(const request& r) const;
  /// A whole text in windows of at most `longest` scored tokens, the first behind the prefix token, each other behind what fits of the text before it.
  result<std::vector<token_request>> rolling(const std::string& text, std::size_t longest) const;

 private:
  result<std::vector<std::int32_t>> encode(std::string_view text) const;
  result<std::int32_t> prefix() const;

  const text::tokenizer& tok_;
  bool add_bos_;
};

/// True if the tokenizer itself puts its begin token in front of every text.
bool adds_bos(const text::tokenizer& tok);

}  // namespace auto_round::evaluation
