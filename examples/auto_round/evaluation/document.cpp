#include "evaluation/document.hpp"

#include <algorithm>
#include <charconv>

#include "io/file.hpp"

namespace auto_round::evaluation {
namespace {

bool read_index(const io::json& value, std::size_t& to) {
  if (value.is_int()) {
    to = static_cast<std::size_t>(value.as_int());
    return value.as_int() >= 0;
  }
  const std::string& s = value.as_string();
  const auto [end, wrong] = std::from_chars(s.data(), s.data() + s.size(), to);
  return wrong == std::errc{} && end == s.data() + s.size();
}

}  // namespace

const io::json& document::field(std::string_view key) const {
  const io::json* value = &value_;
  for (std::size_t begin = 0; begin <= key.size();) {
    const std::size_t end = std::min(key.find('.', begin), key.size());
    value = &value->at(key.substr(begin, end - begin));
    begin = end + 1;
  }
  return *value;
}

void document::complain(const std::string& what) {
  if (problem_.empty()) problem_ = what;
}

std::string document::text(std::string_view key) {
  const io::json& v = field(key);
  if (!v.is_string()) complain("the field \"" + std::string(key) + "\" is absent or no text");
  return v.as_string();
}

std::vector<std::string> document::texts(std::string_view key) {
  const io::json& v = field(key);
  std::vector<std::string> out;
  for (const io::json& one : v.items()) {
    if (!one.is_string()) complain("the field \"" + std::string(key) + "\" holds something else than texts");
    out.push_back(one.as_string());
  }
  if (out.empty()) complain("the field \"" + std::string(key) + "\" is absent or no list of texts");
  return out;
}

std::size_t document::index(std::string_view key) {
  std::size_t i = 0;
  if (!read_index(field(key), i)) complain("the field \"" + std::string(key) + "\" is absent or no integer of 0 or more");
  return i;
}

std::vector<std::size_t> document::indices(std::string_view key) {
  std::vector<std::size_t> out;
  for (const io::json& one : field(key).items()) {
    if (!read_index(one, out.emplace_back())) complain("the field \"" + std::string(key) + "\" holds something else than integers of 0 or more");
  }
  if (out.empty()) complain("the field \"" + std::string(key) + "\" is absent or no list of integers");
  return out;
}

bool document::operator==(const document& other) const {
  const io::dump_options sorted{.indent = -2, .sort_keys = true};
  return io::dump(value_, sorted) == io::dump(other.value_, sorted);
}

result<std::vector<document>> read_documents(const std::string& path) {
  const auto content = io::read_text(path);
  if (!content) return forward_error(content);
  std::vector<document> out;
  std::size_t number = 0;
  for (std::size_t at = 0; at < content->size();) {
    const std::size_t end = std::min(content->find('\n', at), content->size());
    const std::string_view line = std::string_view(*content).substr(at, end - at);
    at = end + 1;
    std::string where = path + ", line " + std::to_string(++number);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    auto value = io::parse_json(line, where);
    if (!value) return forward_error(value);
    if (!value->is_object()) return fail(error_kind::input, "the line holds no JSON object", std::move(where));
    out.emplace_back(std::move(*value), std::move(where));
  }
  if (out.empty()) return fail(error_kind::input, "the file holds no documents", path);
  return out;
}

}  // namespace auto_round::evaluation
