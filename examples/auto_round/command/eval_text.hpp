// The text that eval scores, as token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"

namespace auto_round::command {

/// .txt: the whole file, with the special tokens that the tokenizer adds to any text. .jsonl: for each line bos + text + eos (where the tokenizer
/// has them), joined; a line is a string or an object with "text". Cut to `max_tokens` if that is positive. Ids must lie below `vocab_size`.
result<std::vector<std::int32_t>> read_eval_tokens(const std::string& tokenizer_directory, const std::string& file, std::int64_t max_tokens,
                                                   std::int64_t vocab_size);

}  // namespace auto_round::command
