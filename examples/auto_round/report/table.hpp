// Plain text tables for people.
#pragma once

#include <string>
#include <vector>

namespace auto_round::report {

enum class align { left, right };

struct column {
  std::string title;
  align side = align::left;
};

/// Columns padded to their widest cell, two blanks between them, a rule under the titles; every line ends with '\n'. Rows may be shorter than
/// the column list. Widths count Unicode code points, not bytes.
std::string text_table(const std::vector<column>& columns, const std::vector<std::vector<std::string>>& rows);

}  // namespace auto_round::report
