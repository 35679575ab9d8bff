// The --dataset option: what to read, how much of it, and how to render it (spec calibration.md section 2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace auto_round::text {

struct dataset_part {
  std::string name;
  std::optional<std::int64_t> num;  ///< most rows of this part
  bool concat = false;              ///< packs records into full rows
  bool apply_chat_template = false;
  std::string system_prompt;  ///< empty: no system turn
};

/// dataset = part (',' part)*, part = name (':' key ['=' value])*. Blanks around names, keys and values are dropped (the original drops those
/// inside as well); quotation marks ' or " around a name or value keep blanks, ',', ':' and '=' in it. Keys: split (without effect on local
/// files), num, concat, apply_chat_template, system_prompt; as in the original a system prompt stays in force for the parts behind it.
/// error_kind::usage says what is wrong.
result<std::vector<dataset_part>> parse_dataset(std::string_view text);

}  // namespace auto_round::text
