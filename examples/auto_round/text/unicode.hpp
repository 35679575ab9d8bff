// Unicode facts that the tokenizer needs beyond regular expressions: well-formed UTF-8, normalization forms, lower case, white space.
#pragma once

#include <string>
#include <string_view>

namespace auto_round::text {

enum class normal_form { nfc, nfd, nfkc, nfkd };

/// `text` with every maximal ill-formed subsequence replaced by U+FFFD, as Python's errors="replace" does.
std::string to_well_formed(std::string_view text);

/// Code point at `text[at]` of well-formed UTF-8; `at` moves behind it.
char32_t next_code_point(std::string_view text, std::size_t& at);
void append_code_point(std::string& out, char32_t c);

/// Normalization form of well-formed text, in O(n log n) whatever the text. The `tokenizers` package has tables of Unicode 9.0 for this; the
/// code points that got a decomposition or a combining class since then are left alone here too.
std::string normalize(std::string_view text, normal_form form);

/// Full lower case of each code point by itself (no final sigma), as Rust's char::to_lowercase with Unicode 17.
std::string to_lower(std::string_view text);

/// Where the extended grapheme cluster that begins at `text[at]` ends (Unicode 15).
std::size_t grapheme_end(std::string_view text, std::size_t at);

/// The 25 code points with the property White_Space.
bool is_white_space(char32_t c);

// As Python has it:
bool is_python_space(char32_t c);                 ///< str.isspace and \s: white space and the four separators of ASCII
std::string_view strip(std::string_view text);    ///< str.strip
std::string capitalize(std::string_view text);    ///< str.capitalize, but for letters whose capital is more than one (U+00DF) and final sigma

}  // namespace auto_round::text
