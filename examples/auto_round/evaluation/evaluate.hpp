// Lets a model answer tasks.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "evaluation/requests.hpp"
#include "evaluation/scores.hpp"
#include "model/decoder.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::evaluation {

struct run_options {
  bool add_bos = false;
  std::size_t longest = 2048;  ///< most tokens that are scored or read at once; longer requests lose their beginning
  std::function<void(std::int64_t, std::int64_t)> on_block;  ///< model::log_likelihoods
  /// Asked before the model is read, with the tokens that all requests make it run and those of the longest: how many of them are in memory at a time (model::log_likelihoods). Its
  /// error ends the run. Empty: as many as that takes by itself.
  std::function<result<std::size_t>(std::size_t tokens, std::size_t longest)> before = {};
};

/// The scores of each task, in order. All requests go through the model together.
result<std::vector<task_scores>> answer(const model::weight_source& source, const text::tokenizer& tok, std::span<const asked_task> tasks,
                                        const run_options& options);

}  // namespace auto_round::evaluation
