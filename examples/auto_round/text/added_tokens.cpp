#include "text/added_tokens.hpp"

#include <algorithm>

#include "text/unicode.hpp"

namespace auto_round::text {

void added_token_finder::add(std::string content, const added_token& token) {
  if (!content.empty()) entries_.push_back({std::move(content), token});
}

void added_token_finder::finish() {
  std::stable_sort(entries_.begin(), entries_.end(), [](const entry& a, const entry& b) { return a.content < b.content; });
  entries_.erase(std::unique(entries_.begin(), entries_.end(), [](const entry& a, const entry& b) { return a.content == b.content; }),
                 entries_.end());
  for (const entry& e : entries_) starts_[static_cast<unsigned char>(e.content[0])] = true;
}

// Narrows the sorted entries to those that the text may still begin with: what the first and the last of them share, all of them share.
const added_token_finder::entry* added_token_finder::longest_at(std::string_view text, std::size_t at) const {
  const entry* best = nullptr;
  const std::string_view rest = text.substr(at);
  auto first = entries_.begin(), last = entries_.end();
  for (std::size_t depth = 0; first != last;) {
    const std::string_view low = first->content, high = std::prev(last)->content;
    std::size_t shared = depth;
    if (low.data() == high.data()) {
      shared = low.size();
    } else {
      while (shared < low.size() && low[shared] == high[shared]) ++shared;
    }
    if (rest.size() < shared || rest.compare(depth, shared - depth, low, depth, shared - depth) != 0) break;
    depth = shared;
    if (low.size() == depth) best = &*first++;  // the shortest of those that share this prefix sorts first
    if (depth == rest.size()) break;
    const auto byte = [depth](const entry& e) { return static_cast<unsigned char>(e.content[depth]); };
    const auto wanted = static_cast<unsigned char>(rest[depth]);
    first = std::lower_bound(first, last, wanted, [&](const entry& e, unsigned char w) { return byte(e) < w; });
    last = std::upper_bound(first, last, wanted, [&](unsigned char w, const entry& e) { return w < byte(e); });
  }
  return best;
}

char32_t added_token_finder::code_point_at(std::string_view text, std::size_t begin) { return next_code_point(text, begin); }

char32_t added_token_finder::code_point_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return next_code_point(text, begin);
}

std::size_t added_token_finder::white_space_before(std::string_view text, std::size_t end) {
  while (end > 0 && is_white_space(code_point_before(text, end))) {
    do --end;
    while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  }
  return end;
}

std::size_t added_token_finder::white_space_after(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    std::size_t next = begin;
    if (!is_white_space(next_code_point(text, next))) break;
    begin = next;
  }
  return begin;
}

}  // namespace auto_round::text
