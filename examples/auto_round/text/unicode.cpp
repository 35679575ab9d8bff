#include "text/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "io/utf8.hpp"

namespace auto_round::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct range {
  char32_t first, last;
};

// Ranges that hold every code point which got a decomposition or a combining class after Unicode 9.0, and none that had one before. Found by
// comparing utf8proc 2.8 with tokenizers 0.23.3 over all code points (NFC ... NFKD, and the order relative to marks of each class).
constexpr range kInert[] = {{0x7FD, 0x7FD},     {0x898, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
                            {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},
                            {0xAB69, 0xAB69},   {0x10781, 0x107BA}, {0x10D24, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
                            {0x11839, 0x11A99}, {0x11D42, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

// Upper case letters that utf8proc 2.8 (Unicode 15) does not know yet, up to Unicode 17: lower = upper + offset.
struct lower_range {
  char32_t first, last;
  std::int32_t offset;
};
constexpr lower_range kNewLower[] = {{0x1C89, 0x1C89, 1},      {0xA7CB, 0xA7CB, 0x264 - 0xA7CB},
                                     {0xA7CC, 0xA7CC, 1},      {0xA7CE, 0xA7CE, 1},
                                     {0xA7D2, 0xA7D2, 1},      {0xA7D4, 0xA7D4, 1},
                                     {0xA7DA, 0xA7DA, 1},      {0xA7DC, 0xA7DC, 0x19B - 0xA7DC},
                                     {0x10D50, 0x10D65, 0x20}, {0x16EA0, 0x16EB8, 0x1B}};

bool is_inert(utf8proc_int32_t point) {
  const auto c = static_cast<char32_t>(point);
  return c >= kInert[0].first && std::any_of(std::begin(kInert), std::end(kInert), [c](const range& r) { return c >= r.first && c <= r.last; });
}

int combining_class(utf8proc_int32_t c) { return is_inert(c) ? 0 : utf8proc_get_property(c)->combining_class; }

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Length of the longest prefix of text[at..] that begins a well-formed sequence (at least 1): what one U+FFFD stands for.
std::size_t ill_formed_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  const unsigned lead = byte(0), second = byte(1);
  const auto continues = [](unsigned b) { return b >= 0x80 && b <= 0xBF; };
  bool second_fits = false;
  if (lead >= 0xC2 && lead <= 0xDF) return 1;
  if (lead >= 0xE0 && lead <= 0xEF) second_fits = second >= (lead == 0xE0 ? 0xA0u : 0x80u) && second <= (lead == 0xED ? 0x9Fu : 0xBFu);
  if (lead >= 0xF0 && lead <= 0xF4) second_fits = second >= (lead == 0xF0 ? 0x90u : 0x80u) && second <= (lead == 0xF4 ? 0x8Fu : 0xBFu);
  if (!second_fits) return 1;
  return lead >= 0xF0 && continues(byte(2)) ? 3 : 2;
}

}  // namespace

std::string to_well_formed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::size_t copied = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = io::utf8_sequence(text, at);
    if (length != 0) {
      at += length;
      continue;
    }
    out.append(text, copied, at - copied);
    out.append(kReplacement);
    at += ill_formed_length(text, at);
    copied = at;
  }
  out.append(text, copied);
  return out;
}

char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t lead = byte(at);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t c = length == 1 ? lead : lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) c = (c << 6) | (byte(at + i) & 0x3F);
  at += length;
  return c;
}

void append_code_point(std::string& out, char32_t c) { io::append_utf8(out, c); }

std::string normalize(std::string_view text, normal_form form) {
  if (is_ascii(text)) return std::string(text);
  const bool compose = form == normal_form::nfc || form == normal_form::nfkc;
  const bool compatible = form == normal_form::nfkc || form == normal_form::nfkd;
  const auto decompose_options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0));

  // utf8proc_decompose would do this in one call, but it orders marks by exchanges of neighbors: quadratic for a long run of marks.
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto c = static_cast<utf8proc_int32_t>(next_code_point(text, at));
    utf8proc_int32_t parts[32];
    int boundary = 0;
    const utf8proc_ssize_t count = is_inert(c) ? 0 : utf8proc_decompose_char(c, parts, 32, decompose_options, &boundary);
    if (count <= 0 || count > 32) {
      points.push_back(c);
    } else {
      points.insert(points.end(), parts, parts + count);
    }
  }
  for (auto run = points.begin(); run != points.end();) {
    if (combining_class(*run) == 0) {
      ++run;
      continue;
    }
    const auto stop = std::find_if(run, points.end(), [](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(run, stop, [](utf8proc_int32_t a, utf8proc_int32_t b) { return combining_class(a) < combining_class(b); });
    run = stop;
  }
  std::string out;
  out.reserve(text.size());
  // Inert code points compose with nothing, and nothing composes across them.
  for (auto run = points.begin(); run != points.end();) {
    if (is_inert(*run)) {
      append_code_point(out, static_cast<char32_t>(*run++));
      continue;
    }
    const auto stop = std::find_if(run, points.end(), is_inert);
    auto length = static_cast<utf8proc_ssize_t>(stop - run);
    if (compose) length = utf8proc_normalize_utf32(&*run, length, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    for (utf8proc_ssize_t i = 0; i < length; ++i) append_code_point(out, static_cast<char32_t>(run[i]));
    run = stop;
  }
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c < 0x80) {
      out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 0x20 : c));
      continue;
    }
    if (c == 0x130) {  // the one letter whose lower case is two code points
      out.append("i\xCC\x87");
      continue;
    }
    const auto known = std::find_if(std::begin(kNewLower), std::end(kNewLower), [c](const lower_range& r) { return c >= r.first && c <= r.last; });
    if (known != std::end(kNewLower)) {
      append_code_point(out, static_cast<char32_t>(static_cast<std::int32_t>(c) + known->offset));
    } else {
      append_code_point(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return out;
}

std::size_t grapheme_end(std::string_view text, std::size_t at) {
  utf8proc_int32_t state = 0;
  auto last = static_cast<utf8proc_int32_t>(next_code_point(text, at));
  while (at < text.size()) {
    std::size_t behind = at;
    const auto next = static_cast<utf8proc_int32_t>(next_code_point(text, behind));
    if (utf8proc_grapheme_break_stateful(last, next, &state)) break;
    last = next;
    at = behind;
  }
  return at;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::string_view strip(std::string_view text) {
  std::size_t begin = text.size(), end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t first = at;
    if (is_python_space(next_code_point(text, at))) continue;
    begin = std::min(begin, first);
    end = at;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string_view{};
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  std::string out;
  std::size_t at = 0;
  append_code_point(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(next_code_point(text, at)))));
  return out + to_lower(text.substr(at));
}

}  // namespace auto_round::text
