// The regular expressions of tokenizer files: Oniguruma's syntax and Unicode 16 classes, run by PCRE2 (which only regex.cpp sees).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace auto_round::text {

/// A half-open byte range of the text.
struct span_match {
  std::size_t begin = 0, end = 0;
};

/// A compiled pattern; const members may be called from several threads at a time, each with a workspace of its own.
class regex {
 public:
  /// What a thread needs to match: registers and the stack of the compiled code.
  class workspace {
   public:
    workspace();
    workspace(workspace&&) noexcept;
    workspace& operator=(workspace&&) noexcept;
    ~workspace();

   private:
    friend class regex;
    struct impl;
    std::unique_ptr<impl> impl_;
  };

  /// Compiles an Oniguruma pattern. error_kind::unsupported for syntax whose meaning PCRE2 cannot give, error_kind::input for a broken pattern.
  static result<regex> compile(std::string_view pattern);
  regex(regex&&) noexcept;
  regex& operator=(regex&&) noexcept;
  ~regex();

  /// Replaces `out` by all matches in well-formed UTF-8 `text`, from left to right without overlap; an empty match directly behind the one
  /// before is skipped. error_kind::input when the pattern needs more than a fixed number of steps for one match.
  result<void> find_all(std::string_view text, workspace& space, std::vector<span_match>& out) const;

 private:
  regex();
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// The pattern as PCRE2 (UTF, UCP, multi-line) understands it; exposed for tests.
result<std::string> translate_oniguruma(std::string_view pattern);

/// The word characters of Rust's regex crate, which the package asks in two places, as the inside of a class in Oniguruma's syntax.
inline constexpr std::string_view kRustWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D})";

}  // namespace auto_round::text
