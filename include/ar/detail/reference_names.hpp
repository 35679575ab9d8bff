// The names under which auto-round 0.16.1 knows a data type. A data type lists them, separated by blanks, as reference_names.
#pragma once

#include <string_view>

#include "ar/config.hpp"

namespace ar::detail {

/// Text that starts with `s`: what is left of it, or false.
AR_INLINE constexpr bool take(std::string_view& text, std::string_view s) noexcept {
  if (text.substr(0, s.size()) != s) return false;
  text.remove_prefix(s.size());
  return true;
}
/// Takes the decimal digits of `bits`, or nothing if it is negative.
AR_INLINE constexpr bool take_number(std::string_view& text, int bits) noexcept {
  if (bits < 0) return true;
  char digits[4] = {};
  int n = 0;
  for (int b = bits; (b > 0 || n == 0) && n < 4; b /= 10) digits[n++] = static_cast<char>('0' + b % 10);
  while (n > 0) {
    if (text.empty() || text.front() != digits[--n]) return false;
    text.remove_prefix(1);
  }
  return true;
}

/// A name in pieces: prefix, data type, width if it is not negative, suffix.
struct name_pieces {
  std::string_view prefix, type;
  int bits = -1;
  std::string_view suffix{};
  AR_INLINE constexpr bool is(std::string_view name) const noexcept {
    return take(name, prefix) && take(name, type) && take_number(name, bits) && take(name, suffix) && name.empty();
  }
};

/// The name in `list` that is made of these pieces, or an empty view.
AR_INLINE constexpr std::string_view find_name(std::string_view list, const name_pieces& pieces) noexcept {
  while (!list.empty()) {
    const std::size_t end = list.find(' ') == std::string_view::npos ? list.size() : list.find(' ');
    if (const std::string_view name = list.substr(0, end); pieces.is(name)) return name;
    list.remove_prefix(end == list.size() ? end : end + 1);
  }
  return {};
}

/// The pieces in the order in which they are tried after a prefix: D, D and the width, each also with the symmetry.
AR_INLINE constexpr name_pieces variant_of_name(int i, std::string_view prefix, std::string_view type, int bits, bool sym) noexcept {
  return {prefix, type, i % 2 == 0 ? -1 : bits, i < 2 ? "" : sym ? "_sym" : "_asym"};
}
inline constexpr int name_variants = 4;

}  // namespace ar::detail
