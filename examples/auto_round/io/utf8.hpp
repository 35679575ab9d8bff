// UTF-8, strictly: which bytes are a character, and which bytes a code point becomes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace auto_round::io {

/// Length in bytes of the well-formed UTF-8 sequence that starts at `text[at]`, 0 if there is none (overlong forms and surrogates are none).
std::size_t utf8_sequence(std::string_view text, std::size_t at);

/// Appends the UTF-8 form of a code point below 0x110000 that is no surrogate.
void append_utf8(std::string& out, char32_t c);

}  // namespace auto_round::io
