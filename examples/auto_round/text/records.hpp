// The records of a calibration file: .json, .jsonl and .txt (spec calibration.md section 3.1).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "error.hpp"
#include "text/chat_template.hpp"

namespace auto_round::text {

/// A text, the ids of a text that is tokenized already, or a conversation.
using record = std::variant<std::string, std::vector<std::int32_t>, std::vector<chat_message>>;

/// Which keys of a record hold its text, where that is known. Empty: found as described below.
struct record_columns {
  std::string_view first{}, second{}, separator{};  ///< the text is first, or first + separator + second
  bool join_messages = false;                       ///< `first` is a list of {"role", "content"}; their contents are put together
};

/// Reads the records of a file in their order. .json: a list, or an object whose values are the records; .jsonl: one a line; .txt: one for each
/// line that is not blank, or, with `whole_text`, the file. A record is a string, or an object: the value of its only key, else of `text`,
/// `input_ids`, `messages` or `conversations`. White space at the end of a text goes, as Python's rstrip takes it.
/// Records without the keys that `columns` names are read as if it were empty.
/// error_kind::usage for other extensions, error_kind::input for files and records (the message says which).
result<std::vector<record>> read_records(const std::string& path, bool whole_text, const record_columns& columns = {});

}  // namespace auto_round::text
