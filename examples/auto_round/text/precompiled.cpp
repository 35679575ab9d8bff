#include "text/precompiled.hpp"

#include <array>

#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

result<std::string> decode_base64(std::string_view text) {
  std::array<int, 256> value;
  value.fill(-1);
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) value[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int>(i);
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  out.reserve(text.size() / 4 * 3 + 3);
  std::uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    const int v = value[static_cast<unsigned char>(c)];
    if (v < 0) return fail(error_kind::input, "normalizer Precompiled has a precompiled_charsmap that is no base64");
    bits = bits << 6 | static_cast<std::uint32_t>(v);
    have += 6;
    if (have < 8) continue;
    have -= 8;
    out.push_back(static_cast<char>(bits >> have));
  }
  return out;
}

std::uint32_t number_at(std::string_view bytes, std::size_t at) {
  std::uint32_t v = 0;
  for (int i = 3; i >= 0; --i) v = v << 8 | static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
  return v;
}

// Units of a double array: whether a value follows, the byte that leads here, and where the children are.
bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7FFFFFFFu; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000FFu; }
std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

}  // namespace

result<precompiled_map> precompiled_map::from_base64(std::string_view text) {
  precompiled_map out;
  if (text.empty()) return out;
  const auto bytes = decode_base64(text);
  if (!bytes) return forward_error(bytes);
  const std::string_view b = *bytes;
  const std::size_t size = b.size() >= 4 ? number_at(b, 0) : 0;
  if (size == 0 || size % 4 != 0 || size > b.size() - 4) return fail(error_kind::input, "normalizer Precompiled has a precompiled_charsmap that is cut short");
  for (std::size_t i = 0; i < size; i += 4) out.array_.push_back(number_at(b, 4 + i));
  out.replacements_ = to_well_formed(b.substr(4 + size));
  if (out.replacements_.size() != b.size() - 4 - size) return fail(error_kind::input, "normalizer Precompiled has replacements that are no UTF-8");
  return out;
}

std::string_view precompiled_map::find(std::string_view key) const {
  if (array_.empty()) return {};
  std::uint32_t at = offset_of(array_[0]);
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    at ^= byte;
    if (byte == 0 || at >= array_.size() || label_of(array_[at]) != byte) return {};
    const std::uint32_t unit = array_[at];
    at ^= offset_of(unit);
    if (!has_value(unit)) continue;
    const std::size_t begin = at < array_.size() ? value_of(array_[at]) : replacements_.size();
    if (begin >= replacements_.size()) return {};
    return std::string_view(replacements_).substr(begin, std::min(replacements_.find('\0', begin), replacements_.size()) - begin);
  }
  return {};
}

std::optional<std::string> precompiled_map::apply(std::string_view text, std::size_t most) const {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (out.size() > most) return std::nullopt;  // entries may be megabytes long
    const std::size_t end = grapheme_end(text, at);
    const std::string_view whole = text.substr(at, end - at);
    if (const std::string_view entry = whole.size() < 6 ? find(whole) : std::string_view(); entry.data() != nullptr) {
      out += entry;
      at = end;
      continue;
    }
    while (at < end) {
      const std::size_t begin = at;
      next_code_point(text, at);
      const std::string_view character = text.substr(begin, at - begin), replaced = find(character);
      out += replaced.data() != nullptr ? replaced : character;
    }
  }
  return out;
}

}  // namespace auto_round::text
