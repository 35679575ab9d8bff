// Files of importance matrices, as llama.cpp writes and reads them: GGUF files, and the older .dat. Source: llama.cpp, common/imatrix-loader.cpp and
// tools/imatrix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"

namespace auto_round::io {

/// What a file says about one weight. Experts of a fused weight are rows.
struct imatrix_entry {
  std::string name;            ///< "blk.0.attn_q.weight"
  std::uint64_t cols = 0;
  std::vector<float> sums;     ///< [experts x cols] sums of squared activations
  std::vector<float> counts;   ///< [experts] tokens that went into them; 0: the expert was never reached
  /// sums / counts, [experts x cols]; all 1 where nothing was counted, as llama.cpp has it.
  std::vector<float> mean() const;
};
struct imatrix_file {
  std::vector<std::string> datasets;
  std::uint32_t chunk_count = 0, chunk_size = 0;  ///< of the calibration text; chunks have chunk_size tokens
  std::vector<imatrix_entry> entries;
};

/// Reads either form, told apart by the magic. Every size is checked against the bytes present. error_kind::input for what is no such file, and for
/// values that are negative or not finite.
result<imatrix_file> read_imatrix(const std::string& path);

/// Writes a new file, entries sorted by name: the .dat form if `path` ends in ".dat", else GGUF. The .dat form loses counts: it holds means times the
/// number of chunks, and leaves out entries without data.
result<void> write_imatrix(const std::string& path, imatrix_file contents);

}  // namespace auto_round::io
