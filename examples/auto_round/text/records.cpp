#include "text/records.hpp"

#include <optional>
#include <string_view>
#include <utility>

#include "io/file.hpp"
#include "io/json.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

// Python's str.rstrip.
void strip_end(std::string& text) {
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (!is_python_space(next_code_point(text, at))) end = at;
  }
  text.resize(end);
}

result<record> conversation(const io::json::array& list, const std::string& path, const std::string& where) {
  std::vector<chat_message> messages;
  for (const io::json& m : list) {
    // {"role", "content"} as chat templates have it, or ShareGPT's {"from", "value"}.
    const bool share = m.find("from") != nullptr;
    std::string role = m.at(share ? "from" : "role").as_string();
    const io::json& content = m.at(share ? "value" : "content");
    if (role == "human") role = "user";
    if (role == "gpt") role = "assistant";
    if (role.empty() || !content.is_string()) {
      return fail(error_kind::input, where + " has a message without a role or without a text as its content", path);
    }
    messages.push_back({std::move(role), content.as_string()});
  }
  return record(std::move(messages));
}

/// The text in known columns; nothing if the record does not have them.
std::optional<std::string> text_of(const io::json& value, const record_columns& columns) {
  const io::json* first = value.find(columns.first);
  if (columns.first.empty() || first == nullptr) return std::nullopt;
  std::string text;
  if (columns.join_messages) {
    for (const io::json& m : first->items()) text += m.at("content").as_string();
  } else {
    if (!first->is_string()) return std::nullopt;
    text = first->as_string();
    if (!columns.second.empty()) text += std::string(columns.separator) + value.at(columns.second).as_string();
  }
  return text;
}

result<record> record_of(const io::json& value, const record_columns& columns, const std::string& path, const std::string& where) {
  if (auto text = text_of(value, columns)) {
    strip_end(*text);
    return record(std::move(*text));
  }
  const io::json* content = &value;
  if (value.is_object()) {
    if (value.members().size() == 1) {
      content = &value.members()[0].second;
    } else {
      content = nullptr;
      for (const char* key : {"text", "input_ids", "messages", "conversations"}) {
        if (content == nullptr) content = value.find(key);
      }
      if (content == nullptr) {
        return fail(error_kind::input, where + " has several keys, none of them text, input_ids, messages or conversations", path);
      }
    }
  }
  if (content->is_string()) {
    std::string text = content->as_string();
    strip_end(text);
    return record(std::move(text));
  }
  const auto& items = content->items();
  if (!items.empty() && items[0].is_object()) return conversation(items, path, where);
  if (!items.empty()) {
    std::vector<std::int32_t> ids;
    for (const io::json& id : items) {
      if (!id.is_int() || id.as_int() < 0 || id.as_int() > INT32_MAX)
        return fail(error_kind::input, where + " is a list of something else than token ids", path);
      ids.push_back(static_cast<std::int32_t>(id.as_int()));
    }
    return record(std::move(ids));
  }
  return fail(error_kind::input, where + " holds no text, no token ids and no messages", path);
}

// Calls `use` with each line, without its line end, and its number from 1.
template <class Use>
result<void> each_line(std::string_view text, const Use& use) {
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (auto r = use(line, ++number); !r) return r;
    at = end + 1;
  }
  return {};
}

}  // namespace

result<std::vector<record>> read_records(const std::string& path, bool whole_text, const record_columns& columns) {
  std::vector<record> out;
  const auto add = [&](result<record> r) -> result<void> {
    if (!r) return forward_error(r);
    out.push_back(std::move(*r));
    return {};
  };
  if (path.ends_with(".json")) {
    const auto root = io::read_json(path);
    if (!root) return forward_error(root);
    if (!root->is_array() && !root->is_object())
      return fail(error_kind::input, "the file holds neither a list of records nor an object of them", path);
    for (const io::json& r : root->items()) {
      if (auto added = add(record_of(r, columns, path, "record " + std::to_string(out.size() + 1))); !added) return forward_error(added);
    }
    for (const auto& [key, r] : root->members()) {
      if (auto added = add(record_of(r, columns, path, "the record \"" + key.substr(0, 64) + "\"")); !added) return forward_error(added);
    }
    return out;
  }
  const auto file = io::mapped_file::open(path);
  if (!file) return forward_error(file);
  const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  // A byte order mark and, among ASCII, zero bytes. Other bytes that are no UTF-8 are replaced.
  if ((text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) && text.substr(0, 256).find('\0') != std::string_view::npos)
    return fail(error_kind::input, "the text is UTF-16; save it as UTF-8", path);
  result<void> done;
  if (path.ends_with(".jsonl")) {
    done = each_line(text, [&](std::string_view line, std::size_t number) -> result<void> {
      const std::string where = "line " + std::to_string(number);
      if (line.empty()) return fail(error_kind::input, where + " is empty; every line must hold one record", path);
      const auto value = io::parse_json(line, path + ", " + where);
      if (!value) return forward_error(value);
      return add(record_of(*value, columns, path, where));
    });
  } else if (path.ends_with(".txt")) {
    const auto add_text = [&](std::string_view part) {
      std::string content = to_well_formed(part);
      strip_end(content);
      if (!content.empty()) out.emplace_back(std::move(content));
    };
    if (whole_text) {
      add_text(text);
    } else {
      done = each_line(text, [&](std::string_view line, std::size_t) -> result<void> {
        add_text(line);
        return {};
      });
    }
  } else {
    return fail(error_kind::usage, "calibration data must be a .json, .jsonl or .txt file", path);
  }
  if (!done) return forward_error(done);
  return out;
}

}  // namespace auto_round::text
