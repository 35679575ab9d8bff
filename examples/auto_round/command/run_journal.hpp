// The journal of a run, beside its output folder: an interrupted run goes on behind its last whole part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "export/export_format.hpp"
#include "text/calibration.hpp"
#include "tune/journal.hpp"
#include "tune/signround.hpp"

namespace auto_round::command {

/// Options as they were given, by canonical name, in order; those that results do not depend on are left out.
using given_options = std::vector<std::pair<std::string, std::string>>;
/// False for options that change where and how a run reports and where it writes, but not what.
bool matters_for_results(const std::string& option);

/// What the results of a run depend on but the schemes of its layers: program, arithmetic, options, model and text.
io::json key_of_run(const given_options& options, const exporting::stored_model& source, const text::calibration_set& calibration);

class run_journal {
 public:
  using part = tune::journal::part;

  /// Opens what an earlier run to `output` left, if anything; a journal of its own comes into being with the first part. With `restart` what was left is
  /// forgotten. Errors as tune::journal::open.
  result<void> open(const std::string& output, bool restart, const given_options& options, const exporting::stored_model& source,
                    const text::calibration_set& calibration, const tune::layer_choices& choices);
  std::size_t parts() const { return journal_ ? journal_->parts() : 0; }
  const std::string& path() const { return path_; }

  /// The record that is due, if it is of this part; nothing where the earlier run made no such part or did not come so far.
  result<std::optional<std::vector<std::byte>>> next(part of);
  /// For bytes of next() that hold something else.
  tl::unexpected<error> not_ours() const;
  /// Records a part that next() did not give. False if it could not be written: the run then goes on without a journal.
  bool add(part of, std::vector<std::byte> bytes);

  /// For tuning_events::recorded.
  result<std::optional<tune::recorded_block>> next_block(std::int64_t first_block);
  /// Records a block that was tuned; one that came from the journal is there already.
  bool add_block(const tune::block_result& block, std::span<const tune::quantized_layer> layers);
  /// The run has come to its end.
  void remove();

 private:
  std::string path_;
  io::json key_;
  std::optional<tune::journal> journal_;
  bool lost_ = false;  // it could not be written
  std::size_t read_ = 0, known_ = 0;
  std::int64_t last_known_ = -1;  // first block of the last unit of tuned blocks that was read
};

}  // namespace auto_round::command
