// The exports of a plan inside the output folder of a run, one folder for each if there are several.
#pragma once

#include <cstddef>
#include <string>

#include "error.hpp"
#include "io/file.hpp"
#include "plan.hpp"

namespace auto_round::command {

/// Where job `i` writes if the whole output is `base`.
std::string export_folder(const plan::run_plan& plan, const std::string& base, std::size_t i);

/// The output folder of a run that reads `model`. overwrite: one that this program made is replaced when the run has succeeded; any other is refused.
result<io::output_dir> begin_output(const std::string& path, bool overwrite, const std::string& model);

/// A file that the run writes when much is done already can be written and is not there: tried, nothing of it stays. An empty path: no such file.
result<void> check_new_file(const std::string& option, const std::string& path);

result<void> begin_exports(plan::run_plan& plan, const std::string& base);
result<void> finish_exports(plan::run_plan& plan);
/// Reads everything back and compares it with what was planned.
result<void> verify_exports(const plan::run_plan& plan, const std::string& base);

}  // namespace auto_round::command
