// The debugging command `tokenize`: shows what a tokenizer makes of a file.
#pragma once

#include <functional>
#include <string>

#include "error.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::text {

/// Reads a .jsonl file in which each line is a JSON string, or an object with a string "text", and passes to `write`, line by line, the ids with
/// special tokens as a JSON array and a line feed. An error names the line; what was written before it stands.
result<void> tokenize_lines(const tokenizer& tok, const std::string& path, const std::function<void(const std::string&)>& write);

}  // namespace auto_round::text
