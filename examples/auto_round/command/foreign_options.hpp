// Options of the Python program that quantize and eval both know, and that do nothing here or cannot be had.
#pragma once

#include "command/options.hpp"

namespace auto_round::command {

/// About the machine and the evaluation.
void declare_foreign_evaluation(option_set& o);

}  // namespace auto_round::command
