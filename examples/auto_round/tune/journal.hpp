// What a tuning run has finished, block by block, on disk: a run that was killed goes on behind the last whole block and gives the same bytes as one that
// was not. Tuning is deterministic, so only results are kept; the activations between blocks are computed again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "io/record_log.hpp"
#include "tune/layer.hpp"
#include "tune/signround.hpp"

namespace auto_round::tune {

class journal {
 public:
  /// Opens the journal at `path` or begins one. `key` names everything that results depend on, one member each. A journal of another key is refused
  /// (error_kind::output) with the names of the members that differ; with `restart` the blocks of any earlier run are forgotten instead.
  static result<journal> open(const std::string& path, const io::json& key, bool restart = false);

  std::size_t blocks() const { return log_.size() == 0 ? 0 : log_.size() - 1; }  ///< that were recorded, those of add() included
  /// The recorded unit number `i` < blocks(), as add() got it, except for the schemes of its layers, which are empty.
  result<recorded_block> read(std::size_t i) const;
  /// Records a unit and waits until it is on the disk.
  result<void> add(const block_result& block, std::span<const quantized_layer> layers);
  result<void> remove() { return log_.remove(); }

 private:
  explicit journal(io::record_log log) : log_(std::move(log)) {}
  io::record_log log_;  // the key, then the units in order
};

}  // namespace auto_round::tune
