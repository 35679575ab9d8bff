// --report DIR: report.json and report.html about one run of quantize.
#pragma once

#include <string>

#include "error.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"
#include "model/decoder.hpp"
#include "tune/layer.hpp"
#include "tune/signround.hpp"

namespace auto_round::command {

/// Collects what the end of a run no longer knows. Without a directory it does nothing.
class run_report {
 public:
  explicit run_report(std::string directory) : directory_(std::move(directory)) {}

  /// Before any work: error_kind::output if the files could not be written; neither may be there already. The folder is there
  /// from then on, unless it is only tried whether it can be.
  result<void> check(bool only_try = false) const;
  /// How far a layer's quantized weight is from `weights`, which it was made from.
  result<void> add(const tune::quantized_layer& layer, const model::weight_source& weights);
  void add(const tune::block_result& block);
  /// `run` is what --json prints, `plan` that of the first format.
  result<void> write(io::json run, const exporting::output_plan& plan) const;

 private:
  std::string directory_;
  io::json::array layers_, blocks_;
};

}  // namespace auto_round::command
