// WikiText pages come in words separated by blanks; this puts them together again as lm-eval does.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace auto_round::evaluation {

std::string detokenize_wikitext(std::string_view page);

/// Pieces between runs of white space; an empty one in front or behind counts (Python's re.split).
std::size_t count_words(std::string_view text);

}  // namespace auto_round::evaluation
