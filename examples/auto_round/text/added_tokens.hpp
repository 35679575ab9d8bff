// Added tokens: strings like <|im_start|> that are cut out of the text before anything else looks at it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace auto_round::text {

struct added_token {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only between non-word characters
  bool lstrip = false;       ///< swallows white space on its left
  bool rstrip = false;       ///< swallows white space on its right
  bool normalized = false;   ///< looked for in the normalized text
  bool special = false;      ///< left out when decoding
};

/// Part of a text: an added token, or (id -1) what lies between.
struct text_part {
  std::size_t begin = 0, end = 0;
  std::int32_t id = -1;
};

/// Finds the leftmost, of those the longest token, then goes on behind it.
class added_token_finder {
 public:
  /// `contents[i]` is what to look for in place of `tokens[i].content`. Empty contents are never found.
  void add(std::string content, const added_token& token);
  /// To be called once after the last add(). Of equal contents the first added counts.
  void finish();
  bool empty() const { return entries_.empty(); }

  /// Appends the parts of `text`, in order. Neighbors of a single_word token are judged by `is_word` of one code point.
  template <class IsWord>
  void split(std::string_view text, const IsWord& is_word, std::vector<text_part>& out) const;

 private:
  struct entry {
    std::string content;
    added_token token;
  };
  const entry* longest_at(std::string_view text, std::size_t at) const;
  static std::size_t white_space_before(std::string_view text, std::size_t end);
  static std::size_t white_space_after(std::string_view text, std::size_t begin);
  static char32_t code_point_before(std::string_view text, std::size_t end);
  static char32_t code_point_at(std::string_view text, std::size_t begin);

  std::vector<entry> entries_;  // sorted by content after finish()
  bool starts_[256] = {};       // first bytes of the contents
};

template <class IsWord>
void added_token_finder::split(std::string_view text, const IsWord& is_word, std::vector<text_part>& out) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const entry* found = starts_[static_cast<unsigned char>(text[at])] ? longest_at(text, at) : nullptr;
    if (found == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + found->content.size();
    at = end;
    if (found->token.single_word &&
        ((begin > 0 && is_word(code_point_before(text, begin))) || (end < text.size() && is_word(code_point_at(text, end))))) {
      continue;
    }
    if (found->token.lstrip) begin = std::max(white_space_before(text, begin), done);
    if (found->token.rstrip) end = white_space_after(text, end);
    if (done < begin) out.push_back({done, begin, -1});
    out.push_back({begin, end, found->token.id});
    done = end;
  }
  if (done < text.size()) out.push_back({done, text.size(), -1});
}

}  // namespace auto_round::text
