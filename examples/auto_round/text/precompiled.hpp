// SentencePiece's compiled character map: a double array from sequences of bytes to what replaces them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace auto_round::text {

class precompiled_map {
 public:
  /// From the text of "precompiled_charsmap" (base64): the size of the array in bytes, the array, then the replacements, each ending with a zero byte;
  /// numbers of 32 bits, little end first. error_kind::input for what is damaged. Empty text: a map without entries.
  static result<precompiled_map> from_base64(std::string_view text);

  /// `text`, well-formed UTF-8, with every grapheme of fewer than 6 bytes, else every character, replaced by the entry of its shortest prefix that has
  /// one. So a mark behind a letter with an entry of its own is lost: the `tokenizers` package does that. Nothing if that is much more than `most` bytes.
  std::optional<std::string> apply(std::string_view text, std::size_t most) const;

 private:
  /// The entry of the shortest prefix of `key`; null view (data() == nullptr) if there is none.
  std::string_view find(std::string_view key) const;

  std::vector<std::uint32_t> array_;
  std::string replacements_;
};

}  // namespace auto_round::text
