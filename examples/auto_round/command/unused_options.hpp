// Options that were written and that a run will not look at: the user is told, once.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "command/quantize_run.hpp"

namespace auto_round::command {

/// What a run does, as far as options depend on it.
struct run_kind {
  bool shard_wise = false;  ///< --model_free
  bool tuned = false;
  bool reads_text = false;
  bool integers = false;       ///< some layer is quantized to integers whose scales are numbers
  tuning how = tuning::block;  ///< if tuned
};

/// One line for each reason: "--lr, --batch_size: without effect, for nothing is tuned (--iters 0)".
std::vector<std::string> unused_options(const run_options& options, const run_kind& run);

/// The same of options for tasks that are not asked; empty if none was written.
std::string unused_task_options(std::span<const std::string> written);

}  // namespace auto_round::command
