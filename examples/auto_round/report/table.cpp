// Layout of text tables.
#include "report/table.hpp"

#include <algorithm>

namespace auto_round::report {
namespace {

std::size_t width_of(const std::string& s) {
  return static_cast<std::size_t>(std::count_if(s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

void append_cell(std::string& line, const std::string& text, std::size_t width, align side, bool last) {
  const std::string padding(width - width_of(text), ' ');
  if (side == align::right) line += padding;
  line += text;
  if (side == align::left && !last) line += padding;
  if (!last) line += "  ";
}

}  // namespace

std::string text_table(const std::vector<column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const column& c : columns) widths.push_back(width_of(c.title));
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string out;
  const auto add_line = [&](const auto& cell) {
    std::string line;
    for (std::size_t i = 0; i < columns.size(); ++i) append_cell(line, cell(i), widths[i], columns[i].side, i + 1 == columns.size());
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  };
  add_line([&](std::size_t i) { return columns[i].title; });
  add_line([&](std::size_t i) { return std::string(widths[i], '-'); });
  for (const auto& row : rows) add_line([&](std::size_t i) { return i < row.size() ? row[i] : std::string(); });
  return out;
}

}  // namespace auto_round::report
