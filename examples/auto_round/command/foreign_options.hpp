// Options of the Python program that quantize and eval both know, and that do nothing here or cannot be had.
#pragma once

#include <string_view>

#include "command/options.hpp"

namespace auto_round::command {

/// About the machine and the evaluation. `batch_size`: the names that its batch size has in this command, eval_bs first.
void declare_foreign_evaluation(option_set& o, std::string_view batch_size);

}  // namespace auto_round::command
