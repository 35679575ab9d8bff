// The calibration set: from local .jsonl, .json and .txt files to a matrix of token ids, in the original's order bit for bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::text {

struct calibration_options {
  std::string dataset;  ///< the --dataset text: parts separated by ',', options by ':' (dataset_spec.hpp); names are files, named_datasets.hpp, or "builtin"
  std::int64_t nsamples = 128;
  std::int64_t seqlen = 2048;  ///< lowered to the tokenizer's model_max_length, with a warning; the model's own limit is the caller's
  std::int64_t seed = 42;
  std::int64_t batch_size = 8;
  std::string dataset_dir{};  ///< folder of local copies of named data sets, and of files that are not found otherwise
};

struct calibration_set {
  std::int64_t seqlen = 0;
  std::vector<std::int32_t> ids;         ///< rows() x seqlen
  std::vector<std::uint8_t> valid;       ///< rows() x seqlen, 0 where the loss ignores the position (labels == -100)
  std::vector<std::int64_t> batch_rows;  ///< rows of each batch after the collate filter (0: the batch vanished); they sum to rows()
  // What a report says about it. Records are looked at in shuffled order and only as far as needed, so the drops may cover a part of them.
  std::int64_t records = 0;  ///< in all files
  std::int64_t dropped_short = 0, dropped_repetitive = 0;
  std::int64_t longest_record_tokens = 0;  ///< of those looked at, cut to seqlen
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  ///< which data sets names stood for, and their files
  std::int64_t rows() const { return seqlen == 0 ? 0 : static_cast<std::int64_t>(ids.size()) / seqlen; }
  /// Positions that the loss counts, of all and of `count` from `first` on.
  std::int64_t valid_tokens() const { return valid_tokens(0, valid.size()); }
  std::int64_t valid_tokens(std::size_t first, std::size_t count) const {
    return std::ranges::count_if(std::span(valid).subspan(first, count), [](auto v) { return v != 0; });
  }
};

/// error_kind::usage for the grammar, unknown keys and numbers out of range, error_kind::input for files, records and for zero usable rows (the
/// message says how many records were read, the longest in tokens, and the largest seqlen that would keep nsamples rows). Several threads.
result<calibration_set> load_calibration(const tokenizer& tok, const calibration_options& options);

}  // namespace auto_round::text
