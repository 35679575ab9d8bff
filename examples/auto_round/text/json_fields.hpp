// Reads the typed fields of one JSON object and keeps the first thing that is wrong, so that a reader checks once, at its end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::text {

class json_fields {
 public:
  /// `part` names the object in errors: "pre_tokenizer ByteLevel".
  json_fields(const io::json& object, std::string part) : object_(object), part_(std::move(part)) {
    if (!object.is_object()) complain("is no object");
  }

  /// The value of a field, or `otherwise` if it is absent or null.
  bool flag(std::string_view key, bool otherwise) {
    const io::json& v = object_.at(key);
    if (!v.is_bool() && !v.is_null()) complain("needs true or false for \"" + std::string(key) + "\"");
    return v.as_bool(otherwise);
  }
  std::string text(std::string_view key, std::string_view otherwise = {}) {
    const io::json& v = object_.at(key);
    if (!v.is_string() && !v.is_null()) complain("needs a string for \"" + std::string(key) + "\"");
    return v.is_string() ? v.as_string() : std::string(otherwise);
  }
  /// An integer of 0 ... 2^31 - 1.
  std::int32_t id(std::string_view key) {
    const io::json& v = object_.at(key);
    if (!v.is_int() || v.as_int() < 0 || v.as_int() > INT32_MAX) {
      complain("needs an integer of 0 to 2147483647 for \"" + std::string(key) + "\"");
      return 0;
    }
    return static_cast<std::int32_t>(v.as_int());
  }
  const io::json::array& list(std::string_view key) {
    const io::json& v = object_.at(key);
    if (!v.is_array()) complain("needs a list for \"" + std::string(key) + "\"");
    return v.items();
  }
  void complain(const std::string& what) {
    if (problem_.empty()) problem_ = part_ + " " + what;
  }

  bool ok() const { return problem_.empty(); }
  tl::unexpected<error> failure() const { return fail(error_kind::input, problem_); }

 private:
  const io::json& object_;
  std::string part_;
  std::string problem_;
};

}  // namespace auto_round::text
