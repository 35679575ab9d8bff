// JSON as a plain tree that writes an unchanged value back unchanged. nlohmann/json reads the syntax (json_events.hpp); its own tree is not used,
// because that keeps neither the text of numbers nor the count of values within bounds, and takes the last of two equal keys.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "error.hpp"

namespace auto_round::io {

/// A JSON value. Objects keep the order of the file; numbers keep their text, so that an unchanged value is written back unchanged.
class json {
 public:
  struct number {
    double value = 0;
    std::string text;  ///< as read or as to be written
  };
  using array = std::vector<json>;
  using object = std::vector<std::pair<std::string, json>>;

  json() = default;  // null
  json(std::nullptr_t) {}
  json(bool b) : v_(b) {}
  json(std::int64_t i) : v_(i) {}
  json(int i) : v_(static_cast<std::int64_t>(i)) {}
  json(std::size_t i) : v_(static_cast<std::int64_t>(i)) {}
  json(double d);  ///< text as Python's repr writes it: shortest that reads back, 1e-05, 1.0
  json(const char* s) : v_(std::string(s)) {}
  json(std::string s) : v_(std::move(s)) {}
  json(std::string_view s) : v_(std::string(s)) {}
  json(array a) : v_(std::move(a)) {}
  json(object o) : v_(std::move(o)) {}
  json(number n) : v_(std::move(n)) {}

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(v_); }
  bool is_bool() const { return std::holds_alternative<bool>(v_); }
  bool is_int() const { return std::holds_alternative<std::int64_t>(v_); }
  bool is_number() const { return is_int() || std::holds_alternative<number>(v_); }
  bool is_string() const { return std::holds_alternative<std::string>(v_); }
  bool is_array() const { return std::holds_alternative<array>(v_); }
  bool is_object() const { return std::holds_alternative<object>(v_); }

  bool as_bool(bool otherwise = false) const { return is_bool() ? std::get<bool>(v_) : otherwise; }
  std::int64_t as_int(std::int64_t otherwise = 0) const;  ///< integers, and numbers that are integral
  double as_double(double otherwise = 0) const;
  std::string number_text() const;       ///< as read or as to be written; empty if it is no number
  const std::string& as_string() const;  ///< empty string if it is none
  const array& items() const;            ///< empty if it is no array
  const object& members() const;         ///< empty if it is no object
  array& items();                        ///< turns the value into an array if it is none
  object& members();                     ///< turns the value into an object if it is none

  const json* find(std::string_view key) const;  ///< null if it is no object or has no such key
  const json& at(std::string_view key) const;    ///< a null value if absent
  json& set(std::string key, json value);        ///< replaces in place or appends; returns *this
  bool erase(std::string_view key);

 private:
  std::variant<std::nullptr_t, bool, std::int64_t, number, std::string, array, object> v_ = nullptr;
};

/// Bounds on memory: a value takes 48 bytes or more while its text may take two. Real tokenizers hold about 2 million values.
struct json_limits {
  std::uint64_t bytes = std::uint64_t{256} << 20;
  std::size_t values = 8'000'000;
};

/// Parses strict JSON (UTF-8). Rejects duplicate keys, nesting deeper than 200, numbers too large for a double, Python's NaN and Infinity
/// literals, and anything after the value. `file` only names it in errors, which are error_kind::input. Integers that fit 64 bits become
/// integers; every other number keeps its text, -0 and integers above INT64_MAX too.
result<json> parse_json(std::string_view text, const std::string& file, json_limits limits = {});
result<json> read_json(const std::string& path, json_limits limits = {});

struct dump_options {
  int indent = 2;            ///< -1: one line, separators ", " and ": " as Python writes them; -2: compact, no blanks
  bool sort_keys = false;    ///< by code point, as Python does
  bool ensure_ascii = true;  ///< non-ASCII as \uXXXX
};
std::string dump(const json& value, dump_options options = {});

}  // namespace auto_round::io
