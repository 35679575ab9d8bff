#include "evaluation/wikitext.hpp"

#include "text/unicode.hpp"

namespace auto_round::evaluation {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  if (done != 0) text = out.append(text, done);
}

// re.sub(OPEN \s* ([^CLOSE]*?) \s* CLOSE, OPEN \1 CLOSE)
void trim_between(std::string& text, char open, char close) {
  std::string out;
  std::size_t done = 0;
  while (true) {
    const std::size_t begin = text.find(open, done);
    const std::size_t end = begin == std::string::npos ? begin : text.find(close, begin + 1);
    if (end == std::string::npos) break;
    out.append(text, done, begin + 1 - done);
    out.append(text::strip(std::string_view(text).substr(begin + 1, end - begin - 1)));
    out.push_back(close);
    done = end + 1;
  }
  if (done != 0) text = out.append(text, done);
}

// The reference's re.sub(r"/' [0-9]/", r"/'[0-9]/"), slashes and all: the class stands in the result.
void quoted_digit(std::string& text) {
  for (std::size_t at = text.find("/' "); at != std::string::npos; at = text.find("/' ", at + 1)) {
    if (at + 4 < text.size() && text[at + 3] >= '0' && text[at + 3] <= '9' && text[at + 4] == '/') text.replace(at, 5, "/'[0-9]/");
  }
}

}  // namespace

std::string detokenize_wikitext(std::string_view page) {
  std::string t(page);
  replace_all(t, "s '", "s'");
  quoted_digit(t);
  for (const auto& [from, to] : {std::pair{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}, {" : ", ": "}, {" ; ", "; "}, {" . ", ". "}, {" ! ", "! "},
                                 {" ? ", "? "}, {" , ", ", "}}) {
    replace_all(t, from, to);
  }
  for (const std::string_view pair : {"()", "[]", "{}", "\"\"", "''"}) trim_between(t, pair[0], pair[1]);
  for (const auto& [from, to] : {std::pair{"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}, {" \xC2\xB0 ", "\xC2\xB0"}, {" \n", "\n"}, {"\n ", "\n"},
                                 {" N ", " 1 "}, {" 's", "'s"}}) {
    replace_all(t, from, to);
  }
  return t;
}

std::size_t count_words(std::string_view text) {
  std::size_t words = 1;
  bool in_space = false;
  for (std::size_t at = 0; at < text.size();) {
    const bool space = text::is_python_space(text::next_code_point(text, at));
    words += space && !in_space;
    in_space = space;
  }
  return words;
}

}  // namespace auto_round::evaluation
