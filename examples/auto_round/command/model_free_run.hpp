// Model-free mode: one pass over the files of a checkpoint, tensor by tensor, without knowing the model.
#pragma once

#include "command/quantize_run.hpp"
#include "error.hpp"

namespace auto_round::command {

/// Plans, rounds, writes, checks, commits, reports. If it fails nothing is left behind but the finished ones of several files, in OUTPUT_DIR.shards beside
/// a journal: the next run with the same input and options goes on behind them.
result<void> run_model_free(const run_options& options);

}  // namespace auto_round::command
