// What a run has finished, part by part, on disk: a run that was killed goes on behind the last whole part and gives the same bytes as one that was not.
// Runs are deterministic, so only results are kept; the activations between blocks are computed again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "io/record_log.hpp"
#include "tune/importance.hpp"
#include "tune/layer.hpp"
#include "tune/signround.hpp"
#include "tune/static_scales.hpp"

namespace auto_round::tune {

/// Makes `key`, which names everything that results depend on, one member each, the first record of an empty log. A log that begins with another key is
/// refused (error_kind::output) with the names of the members that differ.
result<void> begin_or_check(io::record_log& log, const io::json& key);

class journal {
 public:
  /// What a record holds, in the order in which a run makes them.
  enum class part : std::uint8_t { rotation = 1, smoothed_block, importance, tuned_block };
  struct record {
    part of = part::tuned_block;
    std::vector<std::byte> bytes;
  };

  /// Opens the journal at `path` or begins one. One of another key is refused as begin_or_check() does; with `restart` the parts of any earlier run are
  /// forgotten instead.
  static result<journal> open(const std::string& path, const io::json& key, bool restart = false);

  std::size_t parts() const { return log_.size() == 0 ? 0 : log_.size() - 1; }  ///< that were recorded, those of add() included
  /// The recorded part number `i` < parts(), as add() got it.
  result<record> read(std::size_t i) const;
  /// Records a part and waits until it is on the disk.
  result<void> add(part of, std::vector<std::byte> bytes);
  result<void> remove() { return log_.remove(); }

 private:
  explicit journal(io::record_log log) : log_(std::move(log)) {}
  io::record_log log_;  // the key, then the parts in order
};

/// Records of a unit of tuned blocks, all of it but the schemes of its layers, and back; nothing for bytes that are no such record.
/// @{
std::vector<std::byte> to_record(const block_result& block, std::span<const quantized_layer> layers);
std::optional<recorded_block> block_of_record(std::span<const std::byte> record);
/// @}

/// Records of what a pass over the calibration set found, and back into empty ones; false for bytes that are no such record.
/// @{
std::vector<std::byte> to_record(const importance_matrix& importance, const static_maxima& maxima);
bool from_record(std::span<const std::byte> record, importance_matrix& importance, static_maxima& maxima);
/// @}

}  // namespace auto_round::tune
