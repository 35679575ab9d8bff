// A pull parser for JSON: one token at a time, no tree, no recursion. The tree of json.hpp and the headers of safetensors files are read with it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace auto_round::io {

enum class json_token { error, end, begin_object, end_object, begin_array, end_array, key, string, number, true_, false_, null };

/// Reads strict JSON (RFC 8259, UTF-8): no comments, no trailing commas, no byte order mark, lone surrogates refused. Memory is bounded by
/// the longest string. After an error every further call of next() gives the error again.
class json_reader {
 public:
  struct limits {
    std::size_t depth = 200;           ///< most open objects and arrays at a time
    bool non_finite_literals = false;  ///< accept NaN, Infinity and -Infinity as numbers, as Python does
  };
  json_reader(std::string_view text, limits limit) : text_(text), limits_(limit) {}

  /// The next token; `end` after the only value of the text, once nothing but white space is left.
  json_token next();
  /// Key or string: decoded to UTF-8. Number: as written. Valid until the next call of next(); may be moved from.
  std::string& value() { return value_; }
  /// Skips the rest of the value whose first token was `first`. False on an error in it.
  bool skip(json_token first);

  const std::string& problem() const { return problem_; }  ///< after an error: "a quote is missing at byte 12"
  std::size_t offset() const { return at_; }               ///< bytes consumed so far

 private:
  enum class state { value, first_item, item, first_key, key, after_value, done, failed };

  json_token fail(const char* what, std::size_t at);
  json_token value_token();
  json_token close(json_token token);
  json_token scalar(json_token token);
  json_token literal(std::string_view word, json_token token);
  json_token number();
  bool string();
  bool escape();
  bool four_hex_digits(unsigned& out);
  void skip_blanks();

  std::string_view text_;
  limits limits_;
  std::size_t at_ = 0;
  state state_ = state::value;
  std::vector<bool> open_objects_;  // one entry for each open bracket: true for an object
  std::string value_;
  std::string problem_;
};

/// Length in bytes of the well-formed UTF-8 sequence that starts at `text[at]`, 0 if there is none (overlong forms and surrogates are none).
std::size_t utf8_sequence(std::string_view text, std::size_t at);

/// Appends the UTF-8 form of a code point below 0x110000 that is no surrogate.
void append_utf8(std::string& out, char32_t c);

}  // namespace auto_round::io
