// The only file that sees nlohmann/json: its SAX parser between a source that bounds what the parser keeps and a handler that bounds the nesting.
#include "io/json_events.hpp"

#include <iterator>
#include <nlohmann/json.hpp>

namespace auto_round::io {
namespace {

constexpr std::size_t kDeepest = 200;
constexpr std::size_t kLongestToken = std::size_t{16} << 20;

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/// The text, a byte at a time. The parser keeps all it read since the last string or number began, and copies that into its error with eight
/// bytes for a control character. So a run of blanks between tokens is given as one space, and the text ends early where a token grows too long.
class byte_source {
 public:
  explicit byte_source(std::string_view text) : text_(text) {}

  bool at_end() const { return at_ == text_.size() || too_long(); }
  char byte() const { return !in_string_ && is_blank(text_[at_]) ? ' ' : text_[at_]; }
  void advance() {
    last_ = at_;
    ++kept_;
    const char c = text_[at_++];
    if (in_string_) {
      in_string_ = escaped_ || c != '"';
      escaped_ = !escaped_ && c == '\\';
    } else if (c == '"') {
      in_string_ = true;
    } else if (is_blank(c)) {
      while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
    }
  }

  void token_ended() { kept_ = 0; }  ///< a string or a number: the parser begins to forget
  bool too_long() const { return kept_ >= kLongestToken; }
  std::size_t last() const { return last_; }

 private:
  std::string_view text_;
  std::size_t at_ = 0, last_ = 0, kept_ = 0;
  bool in_string_ = false, escaped_ = false;
};

/// What the parser takes for an iterator; without a source it is the end.
struct byte_iterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  byte_source* source = nullptr;

  char operator*() const { return source->byte(); }
  byte_iterator& operator++() {
    source->advance();
    return *this;
  }
  bool operator==(const byte_iterator& other) const { return at_end() == other.at_end(); }
  bool operator!=(const byte_iterator& other) const { return !(*this == other); }
  bool at_end() const { return source == nullptr || source->at_end(); }
};

/// The SAX interface of nlohmann/json, handed on as events.
class handler {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;

  handler(std::string_view text, byte_source& source, json_sink& sink) : text_(text), source_(source), sink_(sink) {}

  bool null() { return give({.token = json_token::null}); }
  bool boolean(bool value) { return give({.token = value ? json_token::true_ : json_token::false_}); }
  bool number_unsigned(number_unsigned_t value) { return give_kept({.token = json_token::whole, .whole = value}); }
  bool number_integer(number_integer_t value) {  // only numbers with a minus sign come here
    if (value == 0) return give_kept({.token = json_token::real, .text = "-0", .real = -0.0});
    return give_kept({.token = json_token::negative, .negative = value});
  }
  bool number_float(double value, const std::string& written) { return give_kept({.token = json_token::real, .text = written, .real = value}); }
  bool string(const std::string& value) { return give_kept({.token = json_token::string, .text = value}); }
  bool key(const std::string& value) { return give_kept({.token = json_token::key, .text = value}); }
  bool start_object(std::size_t) { return open(json_token::begin_object); }
  bool end_object() { return close(json_token::end_object); }
  bool start_array(std::size_t) { return open(json_token::begin_array); }
  bool end_array() { return close(json_token::end_array); }
  bool binary(const nlohmann::json::binary_t&) { return false; }  // JSON has none

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& e) {
    const std::string_view rest = text_.substr(source_.last());
    if (e.id == kNumberTooLarge) return bad("a number is too large");
    if (rest.substr(0, 3) == "NaN") return bad("NaN is not JSON");
    if (rest.substr(0, 8) == "Infinity") return bad("Infinity is not JSON");
    std::string_view what = e.what();  // "[id] parse error at line 1, column 5: syntax error ...; last read: '...'; expected ..."
    if (const std::size_t start = what.find(": "); start != what.npos) what.remove_prefix(start + 2);
    return bad(std::string(what.substr(0, what.find("; last read"))));
  }

  std::string& problem() { return problem_; }

 private:
  static constexpr int kNumberTooLarge = 406;  // nlohmann/json: out_of_range.406

  bool give(json_event event) {
    event.offset = source_.last();
    return sink_.take(event);
  }
  bool give_kept(json_event event) {
    source_.token_ended();
    return give(event);
  }
  bool open(json_token token) { return ++depth_ <= kDeepest ? give({.token = token}) : bad("the nesting is too deep"); }
  bool close(json_token token) {
    --depth_;
    return give({.token = token});
  }
  bool bad(std::string what) {
    problem_ = std::move(what) + ", near byte " + std::to_string(source_.last());
    return false;
  }

  std::string_view text_;
  byte_source& source_;
  json_sink& sink_;
  std::size_t depth_ = 0;
  std::string problem_;
};

}  // namespace

std::string read_json_events(std::string_view text, json_sink& sink) {
  // Both would be taken for something else: a mark to skip, and the end of the text.
  if (text.substr(0, 3) == "\xEF\xBB\xBF") return "there is a byte order mark";
  if (const std::size_t zero = text.find('\0'); zero != text.npos) return "there is a zero byte, at byte " + std::to_string(zero);
  byte_source source(text);
  handler events(text, source, sink);
  nlohmann::json::sax_parse(byte_iterator{&source}, byte_iterator{}, &events);
  if (source.too_long()) return "a token is longer than " + std::to_string(kLongestToken) + " bytes, near byte " + std::to_string(source.last());
  return std::move(events.problem());
}

}  // namespace auto_round::io
