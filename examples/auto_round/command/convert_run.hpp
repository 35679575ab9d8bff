// One conversion, from checked request to committed output.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"
#include "report/progress.hpp"

namespace auto_round::command {

struct convert_options {
  std::string model, output_dir = "./tmp_autoround";
  std::vector<std::string> formats;
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;
  std::uint64_t max_memory = 0;  ///< 0: no limit
  bool allow_loss = false;  ///< write what the format rounds, too
  bool overwrite = false;   ///< replace an output folder that this program made
  bool dry_run = false, json = false, quiet = false;
  report::progress_style progress = report::progress_style::automatic;
};

/// Plans, compares every weight with what a reader of each new checkpoint will compute, and only then writes, verifies and commits. If it fails nothing is
/// left behind.
result<void> run_convert(const convert_options& options);

}  // namespace auto_round::command
