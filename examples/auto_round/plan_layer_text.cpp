// The text of --layer_config. Source: auto-round 0.16.1, parse_layer_config_arg.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <utility>

#include "io/file.hpp"
#include "plan_layers.hpp"

namespace auto_round::plan {
namespace {

bool blank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && blank(s.front())) s.remove_prefix(1);
  while (!s.empty() && blank(s.back())) s.remove_suffix(1);
  return s;
}

std::string_view without_quotes(std::string_view s) {
  if (s.size() >= 2 && s.front() == s.back() && (s.front() == '"' || s.front() == '\'')) return s.substr(1, s.size() - 2);
  return s;
}

std::string lower(std::string_view s) {
  std::string out(s);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

/// Quotation marks that word processors write.
std::string with_plain_quotes(std::string_view text) {
  constexpr std::string_view typographic[] = {"\u201C", "\u201D", "\u201E", "\u201F", "\u2018", "\u2019"};
  std::string out;
  while (!text.empty()) {
    const auto mark = std::find_if(std::begin(typographic), std::end(typographic), [&](std::string_view m) { return text.starts_with(m); });
    out += mark == std::end(typographic) ? text.front() : '"';
    text.remove_prefix(mark == std::end(typographic) ? 1 : mark->size());
  }
  return out;
}

/// "\d" inside a JSON string is no escape; it is meant as it stands.
std::string with_doubled_backslashes(std::string_view text) {
  std::string out;
  bool inside = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') inside = !inside;
    const bool escape = i + 1 < text.size() && std::string_view("\"\\/bfnrtu").find(text[i + 1]) != std::string_view::npos;
    out += c;
    if (inside && c == '\\' && !escape) out += '\\';
  }
  return out;
}

/// What an unquoted word, or the text of a string, means.
io::json scalar(std::string_view text) {
  const std::string_view s = without_quotes(text);
  std::string_view digits = s;
  if (digits.starts_with('-')) digits.remove_prefix(1);
  std::int64_t integer = 0;
  const bool all_digits = !digits.empty() && std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  if (all_digits && std::from_chars(s.data(), s.data() + s.size(), integer).ec == std::errc()) return integer;
  std::string_view number = s;
  if (number.starts_with('+')) number.remove_prefix(1);
  double real = 0;
  const auto [end, ec] = std::from_chars(number.data(), number.data() + number.size(), real);
  const bool signs = s.starts_with('+') && number.starts_with('-');
  if (ec == std::errc() && end == number.data() + number.size() && !signs && number.find('(') == std::string_view::npos) {
    if (!std::isfinite(real)) return io::json::number{real, std::string(std::isnan(real) ? "NaN" : real > 0 ? "Infinity" : "-Infinity")};
    return real;
  }
  const std::string word = lower(s);
  if (word == "true") return true;
  if (word == "false") return false;
  if (word == "null" || word == "none") return nullptr;
  return std::string(s);
}

std::string key_text(const io::json& value, std::string_view written) { return value.is_string() ? value.as_string() : std::string(without_quotes(written)); }

io::json with_scalars(const io::json& value) {
  if (value.is_string()) return scalar(value.as_string());
  if (value.is_array()) {
    io::json::array items;
    for (const io::json& item : value.items()) items.push_back(with_scalars(item));
    return items;
  }
  if (!value.is_object()) return value;
  io::json out = io::json::object{};
  for (const auto& [key, member] : value.members()) out.set(key_text(scalar(key), key), with_scalars(member));
  return out;
}

/// dict = '{' { key ':' value [','] } '}' over single marks and words.
class relaxed_reader {
 public:
  explicit relaxed_reader(std::string_view text) : rest_(text) {}

  result<io::json> read() {
    if (auto r = expect("{"); !r) return forward_error(r);
    return dict(0);
  }

 private:
  /// Behind the opening brace.
  result<io::json> dict(int depth) {
    if (depth > 20) return fail(error_kind::usage, "nested too deeply");
    io::json out = io::json::object{};
    while (true) {
      auto key = next();
      if (!key) return forward_error(key);
      if (*key == "}") return out;
      if (auto r = expect(":"); !r) return forward_error(r);
      auto value = next();
      if (!value) return forward_error(value);
      if (*value == "{") {
        auto inner = dict(depth + 1);
        if (!inner) return inner;
        out.set(key_text(scalar(*key), *key), std::move(*inner));
      } else {
        out.set(key_text(scalar(*key), *key), scalar(*value));
      }
      if (trimmed(rest_).starts_with(',')) (void)next();
    }
  }

  result<void> expect(std::string_view wanted) {
    auto token = next();
    if (!token) return forward_error(token);
    if (*token != wanted) return fail(error_kind::usage, fmt::format("Expected '{}', got '{}'", wanted, *token));
    return {};
  }

  result<std::string_view> next() {
    constexpr std::string_view marks = "{}:,";
    rest_ = trimmed(rest_);
    if (rest_.empty()) return fail(error_kind::usage, "Unexpected end of input");
    std::size_t n = 1;
    if (marks.find(rest_.front()) == std::string_view::npos) {
      while (n < rest_.size() && !blank(rest_[n]) && marks.find(rest_[n]) == std::string_view::npos) ++n;
    }
    const std::string_view token = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return token;
  }

  std::string_view rest_;
};

}  // namespace

result<io::json> parse_layer_config(const std::string& text) {
  const std::string plain = with_plain_quotes(text);
  const std::string_view body = trimmed(without_quotes(trimmed(plain)));
  if (auto json = io::parse_json(body, "--layer_config")) return with_scalars(*json);
  if (auto json = io::parse_json(with_doubled_backslashes(body), "--layer_config")) return with_scalars(*json);
  auto relaxed = relaxed_reader(body).read();
  if (!relaxed) return fail(error_kind::usage, "--layer_config: " + relaxed.error().message + "; write {name:{bits:8},other:W8A16}, JSON, or the name of a JSON file");
  return relaxed;
}

result<io::json> read_layer_config(const std::string& text) {
  std::string content = text;
  std::error_code ec;
  const bool inline_text = text.find('{') != std::string::npos;
  if (!inline_text && std::filesystem::is_regular_file(text, ec)) {
    auto read = io::read_text(text, std::uint64_t{64} << 20);
    if (!read) return forward_error(read);
    content = std::move(*read);
  } else if (!inline_text && (text.ends_with(".json") || text.find('/') != std::string::npos)) {
    return fail(error_kind::usage, "--layer_config: there is no such file", text);
  }
  const std::string file = content == text ? std::string() : text;
  auto json = parse_layer_config(content);
  if (!json) return fail(json.error().kind, json.error().message, file);
  if (!json->is_object()) return fail(error_kind::usage, "--layer_config must map names or patterns of layers to schemes: {name:{bits:8}}", file);
  return json;
}

}  // namespace auto_round::plan
