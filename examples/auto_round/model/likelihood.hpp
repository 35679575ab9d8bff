// Log-likelihoods of many short texts, with one block of the model in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "error.hpp"
#include "model/decoder.hpp"

namespace auto_round::model {

/// Tokens whose last `scored` are looked at, each given all tokens before it: 1 <= scored < ids.size().
struct likelihood_request {
  std::vector<std::int32_t> ids;
  std::size_t scored = 0;
};

struct likelihood {
  double sum = 0;      ///< natural logarithms of the probabilities, added
  bool greedy = true;  ///< each token is the most likely one at its place (of equal ones the first)
};

/// Float arithmetic, sums in double. Texts that begin another one are read off its pass, texts of similar length run together. `rows_at_once` tokens
/// (at least one text) are in memory at a time, the model is read once for all of them; 0 takes as many as fit 256 MiB.
/// `on_block` (may be empty) is called after each block with the number done and the number in all. error_kind::input for ids outside the vocabulary.
result<std::vector<likelihood>> log_likelihoods(const weight_source& source, std::span<const likelihood_request> requests, std::size_t rows_at_once = 0,
                                                const std::function<void(std::int64_t, std::int64_t)>& on_block = {});

/// Tokens that all of the requests make log_likelihoods run: without texts that begin another one, with the padding of texts that run together.
std::size_t likelihood_tokens(std::span<const likelihood_request> requests);

}  // namespace auto_round::model
