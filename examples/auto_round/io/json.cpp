// The tree of json.hpp: built from the events of json_events.hpp, written as Python's json.dumps writes.
#include "io/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <new>

#include "io/file.hpp"
#include "io/json_events.hpp"
#include "io/utf8.hpp"

namespace auto_round::io {
namespace {

/// Python's repr of a finite float: the shortest digits that read back, as a decimal if 1e-4 <= |d| < 1e16, with an exponent otherwise.
std::string python_repr(double d) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, std::fabs(d), std::chars_format::scientific).ptr;
  const char* const e = std::find(static_cast<const char*>(text), static_cast<const char*>(end), 'e');
  std::string digits(1, text[0]);
  if (text[1] == '.') digits.append(text + 2, static_cast<std::size_t>(e - text) - 2);
  int exponent = 0;
  std::from_chars(e[1] == '+' ? e + 2 : e + 1, end, exponent);
  std::string out = std::signbit(d) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out.append(".").append(digits, 1);
    const std::string size = std::to_string(std::abs(exponent));
    return out + (exponent < 0 ? "e-" : "e+") + (size.size() < 2 ? "0" : "") + size;
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const std::size_t whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

/// The first key that appears twice, or null. Sorts; comparing all pairs would let a small file run for hours, and so would a hash table whose
/// keys a stranger chose. The hash goes first because it lies in the array that is sorted, and the keys do not.
const std::string* duplicate_key(const json::object& members) {
  using hashed_key = std::pair<std::size_t, const std::string*>;
  std::vector<hashed_key> keys;
  keys.reserve(members.size());
  for (const auto& m : members) keys.emplace_back(std::hash<std::string>()(m.first), &m.first);
  std::sort(keys.begin(), keys.end(),
            [](const hashed_key& a, const hashed_key& b) { return a.first != b.first ? a.first < b.first : *a.second < *b.second; });
  const auto twice = std::adjacent_find(keys.begin(), keys.end(),
                                        [](const hashed_key& a, const hashed_key& b) { return a.first == b.first && *a.second == *b.second; });
  return twice == keys.end() ? nullptr : twice->second;
}

/// Builds the tree. A container counts as a value when it is opened, so that the count bounds memory.
class tree_builder final : public json_sink {
 public:
  explicit tree_builder(std::size_t most_values) : most_values_(most_values) {}

  bool take(const json_event& event) override {
    switch (event.token) {
      case json_token::begin_object:
        return open(json::object());
      case json_token::begin_array:
        return open(json::array());
      case json_token::end_object:
        if (const std::string* twice = duplicate_key(open_.back().value.members())) {
          return bad("the key " + dump(json(twice->substr(0, 200)), {-2}) + " appears twice in the object that ends at byte " +
                     std::to_string(event.offset));
        }
        return close();
      case json_token::end_array:
        return close();
      case json_token::key:
        key_ = event.text;
        return true;
      case json_token::string:
        return scalar(event.text);
      case json_token::whole:
        if (event.whole > INT64_MAX) return scalar(json::number{static_cast<double>(event.whole), std::to_string(event.whole)});
        return scalar(static_cast<std::int64_t>(event.whole));
      case json_token::negative:
        return scalar(event.negative);
      case json_token::real:
        return scalar(json::number{event.real, std::string(event.text)});
      case json_token::true_:
      case json_token::false_:
        return scalar(event.token == json_token::true_);
      case json_token::null:
        return scalar(nullptr);
    }
    return false;
  }

  const std::string& problem() const { return problem_; }
  json& root() { return root_; }

 private:
  struct open_value {
    std::string key;  // its own key in the object around it
    json value;
  };

  bool bad(std::string what) {
    problem_ = std::move(what);
    return false;
  }
  bool count() { return ++values_ <= most_values_ || bad("there are more than " + std::to_string(most_values_) + " values"); }
  bool open(json value) {
    if (!count()) return false;
    open_.push_back({std::move(key_), std::move(value)});
    key_.clear();
    return true;
  }
  bool close() {
    key_ = std::move(open_.back().key);
    json done = std::move(open_.back().value);
    open_.pop_back();
    return place(std::move(done));
  }
  bool scalar(json value) { return count() && place(std::move(value)); }
  bool place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (json& around = open_.back().value; around.is_array()) {
      around.items().push_back(std::move(value));
    } else {
      around.members().emplace_back(std::move(key_), std::move(value));
      key_.clear();
    }
    return true;
  }

  std::size_t most_values_, values_ = 0;
  std::vector<open_value> open_;  // the containers that are still open
  std::string key_;
  json root_;
  std::string problem_;
};

result<json> parse_tree(std::string_view text, const std::string& file, std::size_t most_values) {
  tree_builder tree(most_values);
  std::string problem = read_json_events(text, tree);
  if (problem.empty()) problem = tree.problem();
  if (!problem.empty()) return fail(error_kind::input, "not valid JSON: " + problem, file);
  return std::move(tree.root());
}

void dump_string(std::string& out, const std::string& s, bool ensure_ascii) {
  constexpr char kHex[] = "0123456789abcdef";
  const auto unit = [&](std::uint32_t u) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += kHex[(u >> shift) & 15u];
  };
  out += '"';
  for (std::size_t at = 0; at < s.size();) {
    const auto c = static_cast<std::uint8_t>(s[at]);
    const std::size_t length = utf8_sequence(s, at);
    if (length <= 1) {
      ++at;
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\b':
          out += "\\b";
          break;
        case '\f':
          out += "\\f";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        default:
          if (length == 0) {
            unit(0xFFFD);  // no JSON text can hold this byte
          } else if (c < 0x20 || (ensure_ascii && c == 0x7F)) {
            unit(c);
          } else {
            out += static_cast<char>(c);
          }
      }
      continue;
    }
    if (!ensure_ascii) {
      out.append(s, at, length);
    } else {
      std::uint32_t code = c & (0x7Fu >> length);
      for (std::size_t i = 1; i < length; ++i) code = code << 6 | (static_cast<std::uint8_t>(s[at + i]) & 0x3Fu);
      if (code >= 0x10000) {
        unit(0xD800 + ((code - 0x10000) >> 10));
        unit(0xDC00 + ((code - 0x10000) & 0x3FF));
      } else {
        unit(code);
      }
    }
    at += length;
  }
  out += '"';
}

struct dumper {
  std::string& out;
  const dump_options& options;

  void line(int depth) const {
    if (options.indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(options.indent) * static_cast<std::size_t>(depth), ' ');
  }
  void comma() const { out += options.indent == -1 ? ", " : ","; }

  void value(const json& v, int depth) const {
    if (v.is_object()) {
      object(v.members(), depth);
    } else if (v.is_array()) {
      bool first = true;
      out += '[';
      for (const json& item : v.items()) {
        if (!first) comma();
        first = false;
        line(depth + 1);
        value(item, depth + 1);
      }
      if (!first) line(depth);
      out += ']';
    } else if (v.is_string()) {
      dump_string(out, v.as_string(), options.ensure_ascii);
    } else if (v.is_bool()) {
      out += v.as_bool() ? "true" : "false";
    } else if (v.is_number()) {
      out += v.number_text();
    } else {
      out += "null";
    }
  }

  void object(const json::object& members, int depth) const {
    std::vector<const std::pair<std::string, json>*> order;
    order.reserve(members.size());
    for (const auto& m : members) order.push_back(&m);
    // UTF-8 bytes sort as code points do.
    if (options.sort_keys) std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    bool first = true;
    out += '{';
    for (const auto* m : order) {
      if (!first) comma();
      first = false;
      line(depth + 1);
      dump_string(out, m->first, options.ensure_ascii);
      out += options.indent == -2 ? ":" : ": ";
      value(m->second, depth + 1);
    }
    if (!first) line(depth);
    out += '}';
  }
};

}  // namespace

json::json(double d) {
  if (std::isnan(d)) {
    v_ = number{d, "NaN"};
  } else if (std::isinf(d)) {
    v_ = number{d, d < 0 ? "-Infinity" : "Infinity"};
  } else {
    v_ = number{d, python_repr(d)};
  }
}

std::int64_t json::as_int(std::int64_t otherwise) const {
  if (is_int()) return std::get<std::int64_t>(v_);
  if (!is_number()) return otherwise;
  const double d = std::get<number>(v_).value;
  return d >= -0x1p63 && d < 0x1p63 && std::trunc(d) == d ? static_cast<std::int64_t>(d) : otherwise;
}

double json::as_double(double otherwise) const {
  if (is_int()) return static_cast<double>(std::get<std::int64_t>(v_));
  return is_number() ? std::get<number>(v_).value : otherwise;
}

std::string json::number_text() const {
  if (is_int()) return std::to_string(std::get<std::int64_t>(v_));
  return is_number() ? std::get<number>(v_).text : std::string();
}

const std::string& json::as_string() const {
  static const std::string none;
  return is_string() ? std::get<std::string>(v_) : none;
}

const json::array& json::items() const {
  static const array none;
  return is_array() ? std::get<array>(v_) : none;
}

const json::object& json::members() const {
  static const object none;
  return is_object() ? std::get<object>(v_) : none;
}

json::array& json::items() {
  if (!is_array()) v_ = array();
  return std::get<array>(v_);
}

json::object& json::members() {
  if (!is_object()) v_ = object();
  return std::get<object>(v_);
}

const json* json::find(std::string_view key) const {
  for (const auto& m : members()) {
    if (m.first == key) return &m.second;
  }
  return nullptr;
}

const json& json::at(std::string_view key) const {
  static const json none;
  const json* const found = find(key);
  return found != nullptr ? *found : none;
}

json& json::set(std::string key, json value) {
  for (auto& m : members()) {
    if (m.first == key) {
      m.second = std::move(value);
      return *this;
    }
  }
  members().emplace_back(std::move(key), std::move(value));
  return *this;
}

bool json::erase(std::string_view key) {
  if (!is_object()) return false;
  return std::erase_if(members(), [&](const auto& m) { return m.first == key; }) != 0;
}

result<json> parse_json(std::string_view text, const std::string& file, json_limits limits) {
  if (text.size() > limits.bytes) return fail(error_kind::input, "the JSON text has more than " + std::to_string(limits.bytes) + " bytes", file);
  try {
    return parse_tree(text, file, limits.values);
  } catch (const std::bad_alloc&) {
    return fail(error_kind::input, "this JSON needs more memory than there is", file);
  }
}

result<json> read_json(const std::string& path, json_limits limits) {
  const result<std::string> text = read_text(path, limits.bytes);
  if (!text) return forward_error(text);
  return parse_json(*text, path, limits);
}

std::string dump(const json& value, dump_options options) {
  std::string out;
  dumper{out, options}.value(value, 0);
  return out;
}

}  // namespace auto_round::io
