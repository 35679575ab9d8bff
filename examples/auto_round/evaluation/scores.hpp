// From likelihoods to the numbers of a task, and to those of a group of tasks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evaluation/requests.hpp"
#include "model/likelihood.hpp"

namespace auto_round::evaluation {

/// A value of a task, as lm-eval computes it.
struct metric {
  std::string name;
  bool higher_is_better = true;
  double value = 0;
  std::optional<double> standard_error;  ///< of accuracies of two documents or more
};

struct task_scores {
  const task* what = nullptr;
  std::int64_t documents = 0, num_fewshot = 0;
  std::vector<metric> metrics;
  /// By document, in the order of `metrics`: what their means are taken of (log-likelihoods for perplexities).
  std::vector<std::vector<double>> by_document;
};

/// `likelihoods`: one for each request, in order.
task_scores score(const asked_task& asked, std::span<const model::likelihood> likelihoods);

struct group_scores {
  const task_group* what = nullptr;
  std::int64_t documents = 0;
  metric acc;  ///< the mean, weighted by the tasks' sizes
};

/// The groups with at least one task among `tasks`, parents first.
std::vector<group_scores> score_groups(const std::vector<task_scores>& tasks);

/// Plain mean of `acc` over the tasks that have it, a group without parent counted once. Empty if there are fewer than two.
struct mean_accuracy {
  double value = 0;
  std::vector<std::string> over;
};
std::optional<mean_accuracy> mean_of(const std::vector<task_scores>& tasks, const std::vector<group_scores>& groups);

}  // namespace auto_round::evaluation
