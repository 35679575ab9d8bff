// The pull parser of json_reader.hpp.
#include "io/json_reader.hpp"

#include <cstdint>

namespace auto_round::io {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::size_t utf8_sequence(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[at + i]); };
  const auto continues = [&](std::size_t i, std::uint8_t low = 0x80, std::uint8_t high = 0xBF) { return byte(i) >= low && byte(i) <= high; };
  const std::size_t left = text.size() - at;
  if (left == 0) return 0;
  const std::uint8_t b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xC2 && b <= 0xDF) return left >= 2 && continues(1) ? 2 : 0;
  if (b >= 0xE0 && b <= 0xEF) {
    const std::uint8_t low = b == 0xE0 ? 0xA0 : 0x80;   // below: overlong
    const std::uint8_t high = b == 0xED ? 0x9F : 0xBF;  // above: surrogates
    return left >= 3 && continues(1, low, high) && continues(2) ? 3 : 0;
  }
  if (b >= 0xF0 && b <= 0xF4) {
    const std::uint8_t low = b == 0xF0 ? 0x90 : 0x80;   // below: overlong
    const std::uint8_t high = b == 0xF4 ? 0x8F : 0xBF;  // above: past U+10FFFF
    return left >= 4 && continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t b) { out += static_cast<char>(static_cast<unsigned char>(b)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

json_token json_reader::fail(const char* what, std::size_t at) {
  if (state_ != state::failed) {
    problem_ = std::string(what) + " at byte " + std::to_string(at);
    state_ = state::failed;
  }
  return json_token::error;
}

void json_reader::skip_blanks() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
}

json_token json_reader::next() {
  if (state_ == state::failed) return json_token::error;
  if (at_ == 0 && text_.substr(0, 3) == "\xEF\xBB\xBF") return fail("there is a byte order mark", 0);
  skip_blanks();
  if (state_ == state::done) return at_ == text_.size() ? json_token::end : fail("something follows the JSON value", at_);
  if (at_ == text_.size()) return fail("the JSON text ends too early", at_);
  const char c = text_[at_];
  switch (state_) {
    case state::value:
    case state::item:
      return value_token();
    case state::first_item:
      return c == ']' ? close(json_token::end_array) : value_token();
    case state::first_key:
      if (c == '}') return close(json_token::end_object);
      [[fallthrough]];
    case state::key:
      if (c != '"') return fail("a key in double quotes is missing", at_);
      if (!string()) return json_token::error;
      skip_blanks();
      if (at_ == text_.size() || text_[at_] != ':') return fail("a colon is missing", at_);
      ++at_;
      state_ = state::value;
      return json_token::key;
    case state::after_value:
      if (c == ',') {
        ++at_;
        state_ = open_objects_.back() ? state::key : state::item;
        return next();  // one level deep: the states set here do not come back to this line
      }
      if (open_objects_.back() && c == '}') return close(json_token::end_object);
      if (!open_objects_.back() && c == ']') return close(json_token::end_array);
      return fail("a comma or a closing bracket is missing", at_);
    case state::done:
    case state::failed:
      break;
  }
  return json_token::error;
}

json_token json_reader::value_token() {
  const char c = text_[at_];
  if (c == '{' || c == '[') {
    if (open_objects_.size() >= limits_.depth) return fail("the nesting is too deep", at_);
    ++at_;
    open_objects_.push_back(c == '{');
    state_ = c == '{' ? state::first_key : state::first_item;
    return c == '{' ? json_token::begin_object : json_token::begin_array;
  }
  if (c == '"') return string() ? scalar(json_token::string) : json_token::error;
  if (c == '-' || is_digit(c)) return number();
  if (c == 't') return literal("true", json_token::true_);
  if (c == 'f') return literal("false", json_token::false_);
  if (c == 'n') return literal("null", json_token::null);
  if (c == 'N' && limits_.non_finite_literals) return literal("NaN", json_token::number);
  if (c == 'I' && limits_.non_finite_literals) return literal("Infinity", json_token::number);
  return fail("a value is missing", at_);
}

json_token json_reader::close(json_token token) {
  ++at_;
  open_objects_.pop_back();
  return scalar(token);
}

json_token json_reader::scalar(json_token token) {
  state_ = open_objects_.empty() ? state::done : state::after_value;
  return token;
}

json_token json_reader::literal(std::string_view word, json_token token) {
  if (text_.substr(at_, word.size()) != word) return fail("a value is missing", at_);
  at_ += word.size();
  value_ = word;
  return scalar(token);
}

json_token json_reader::number() {
  const std::size_t start = at_;
  const auto digits = [&] {
    const std::size_t first = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    return at_ > first;
  };
  if (text_[at_] == '-') {
    if (limits_.non_finite_literals && text_.substr(at_, 9) == "-Infinity") return literal("-Infinity", json_token::number);
    ++at_;
  }
  if (at_ < text_.size() && text_[at_] == '0') {
    ++at_;  // a leading zero stands alone
  } else if (!digits()) {
    return fail("a digit is missing", at_);
  }
  if (at_ < text_.size() && text_[at_] == '.') {
    ++at_;
    if (!digits()) return fail("a digit is missing", at_);
  }
  if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
    ++at_;
    if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
    if (!digits()) return fail("a digit is missing", at_);
  }
  value_ = text_.substr(start, at_ - start);
  return scalar(json_token::number);
}

bool json_reader::string() {
  value_.clear();
  ++at_;
  for (;;) {
    const std::size_t start = at_;
    for (; at_ < text_.size(); ++at_) {
      const auto c = static_cast<std::uint8_t>(text_[at_]);
      if (c < 0x20 || c == '"' || c == '\\') break;
      if (c < 0x80) continue;
      const std::size_t length = utf8_sequence(text_, at_);
      if (length == 0) return fail("a string is not valid UTF-8", at_), false;
      at_ += length - 1;
    }
    value_.append(text_, start, at_ - start);
    if (at_ == text_.size()) return fail("a quote is missing", at_), false;
    if (text_[at_] == '"') {
      ++at_;
      return true;
    }
    if (text_[at_] != '\\') return fail("a string holds a bare control character", at_), false;
    ++at_;
    if (!escape()) return false;
  }
}

bool json_reader::escape() {
  const char c = at_ < text_.size() ? text_[at_++] : '\0';
  switch (c) {
    case '"':
    case '\\':
    case '/':
      value_ += c;
      return true;
    case 'b':
      value_ += '\b';
      return true;
    case 'f':
      value_ += '\f';
      return true;
    case 'n':
      value_ += '\n';
      return true;
    case 'r':
      value_ += '\r';
      return true;
    case 't':
      value_ += '\t';
      return true;
    case 'u':
      break;
    default:
      return fail("an escape is unknown", at_), false;
  }
  unsigned unit = 0;
  if (!four_hex_digits(unit)) return false;
  if (unit >= 0xD800 && unit <= 0xDFFF) {
    unsigned low = 0;
    const bool pair = unit < 0xDC00 && text_.substr(at_, 2) == "\\u";
    if (pair) {
      at_ += 2;
      if (!four_hex_digits(low)) return false;
    }
    if (low < 0xDC00 || low > 0xDFFF) return fail("half of a surrogate pair stands alone", at_), false;
    append_utf8(value_, 0x10000 + ((static_cast<char32_t>(unit) - 0xD800) << 10) + (static_cast<char32_t>(low) - 0xDC00));
    return true;
  }
  append_utf8(value_, unit);
  return true;
}

bool json_reader::four_hex_digits(unsigned& out) {
  out = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    unsigned digit = 0;
    if (is_digit(c)) {
      digit = static_cast<unsigned>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<unsigned>(c - 'a') + 10;
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<unsigned>(c - 'A') + 10;
    } else {
      return fail("a hexadecimal digit is missing", at_), false;
    }
    out = out * 16 + digit;
  }
  return true;
}

bool json_reader::skip(json_token first) {
  if (first == json_token::error || first == json_token::end) return false;
  if (first != json_token::begin_object && first != json_token::begin_array) return true;
  const std::size_t outside = open_objects_.size() - 1;
  while (open_objects_.size() > outside) {
    if (next() == json_token::error) return false;
  }
  return true;
}

}  // namespace auto_round::io
