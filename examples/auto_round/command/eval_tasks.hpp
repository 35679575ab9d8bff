// Tasks for eval: their files, the run, the table that lm-eval prints and its JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "command/options.hpp"
#include "error.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"

namespace auto_round::command {

struct task_options {
  std::optional<std::string> tasks;  ///< names separated by commas, empty for the default; absent: no tasks
  std::string directory;             ///< of the documents
  std::optional<double> limit;
  std::optional<std::int64_t> num_fewshot;
  std::string add_bos;               ///< "true", "false", "peer", or empty: as the tokenizer does
  std::int64_t max_length = 0;       ///< 0: the model's own

  void declare(option_set& o);
};

/// Scores the tasks, prints tables on stdout unless `json`, and adds results to `out`. `reference` (may be null) answers the same documents: then the
/// differences are told with the standard error of paired values. `model_path` names the model in the results. Texts run in smaller parts where `max_memory`
/// (0: no limit) needs it; the estimate is told on stderr before a model is read.
result<void> evaluate_tasks(const task_options& options, const exporting::stored_model& model, const exporting::stored_model* reference,
                            const std::string& model_path, const std::string& tokenizer_directory, bool json, std::uint64_t max_memory, io::json& out);

/// What can be told before a model is there: names, numbers, and whether the documents are there and well formed.
result<void> check_tasks(const task_options& options);

/// Scores the tasks with a finished checkpoint: tables on stdout and the time on stderr, or, if `json`, the results that eval prints. Empty without tasks.
/// What the program still holds of the quantization counts for `max_memory`.
result<io::json> score_output(const task_options& options, const std::string& path, std::uint64_t max_memory, bool json);

}  // namespace auto_round::command
