#include "text/dataset_spec.hpp"

#include <algorithm>
#include <charconv>
#include <optional>

namespace auto_round::text {
namespace {

constexpr std::string_view kKeys = "split, num, concat, apply_chat_template, system_prompt";
constexpr std::string_view kDefaultSystemPrompt = "You are a helpful assistant.";

// Reads words up to a separator outside of quotation marks.
class word_reader {
 public:
  explicit word_reader(std::string_view text) : text_(text) {}
  bool done() const { return at_ >= text_.size(); }
  /// The separator at the place where the last word ended, or 0 at the end; moves behind it.
  char separator() { return done() ? '\0' : text_[at_++]; }

  std::string word(std::string_view separators) {
    std::string out;
    std::size_t kept = 0;  // what quotation marks protect from trimming
    while (!done() && separators.find(text_[at_]) == std::string_view::npos) {
      const char c = text_[at_++];
      if (c == '"' || c == '\'') {
        const std::size_t end = text_.find(c, at_);
        // An apostrophe inside a word is one.
        if (end == std::string_view::npos || !out.empty()) {
          out.push_back(c);
          continue;
        }
        out.append(text_, at_, end - at_);
        at_ = end + 1;
        kept = out.size();
      } else if (c != ' ' || !out.empty()) {
        out.push_back(c);
      }
    }
    while (out.size() > kept && out.back() == ' ') out.pop_back();
    return out;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

/// A key alone means true; nothing if the value is neither true nor false.
std::optional<bool> truth_of(const std::string& value, bool given) {
  std::string lower = value;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 0x20) : c; });
  if (!given || lower == "true") return true;
  return lower == "false" ? std::optional(false) : std::nullopt;
}

}  // namespace

result<std::vector<dataset_part>> parse_dataset(std::string_view text) {
  std::vector<dataset_part> parts;
  std::string system_prompt(kDefaultSystemPrompt);
  word_reader in(text);
  const auto bad = [&](const std::string& what) { return fail(error_kind::usage, "--dataset \"" + std::string(text) + "\": " + what); };
  for (char separator = ','; separator == ',';) {
    dataset_part part;
    part.name = in.word(",:");
    if (part.name.empty()) return bad("a name is missing");
    separator = in.separator();
    while (separator == ':') {
      const std::string key = in.word(",:=");
      separator = in.separator();
      std::string value;
      const bool given = separator == '=';
      if (given) {
        value = in.word(",:=");
        separator = in.separator();
        if (separator == '=') return bad("put the value of " + key + " between quotation marks, it has a '='");
      }
      if (key == "num") {
        std::int64_t num = 0;
        const auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), num);
        if (code != std::errc() || end != value.data() + value.size() || num < 1)
          return bad("num needs a number of 1 or more, not \"" + value + "\"");
        part.num = num;
      } else if (key == "concat" || key == "apply_chat_template") {
        const auto on = truth_of(value, given);
        if (!on) return bad(key + " is true or false, not \"" + value + "\"");
        (key == "concat" ? part.concat : part.apply_chat_template) = *on;
      } else if (key == "system_prompt") {
        if (!given) return bad("system_prompt needs a value; system_prompt= means no system turn");
        system_prompt = std::move(value);
        part.apply_chat_template = true;
      } else if (key != "split") {
        return bad("there is no option \"" + key + "\"; the options are " + std::string(kKeys));
      }
    }
    part.system_prompt = system_prompt;
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace auto_round::text
