#include "text/unigram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "text/json_fields.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

// Bounds the work at each place of a text. Real tokens have tens of bytes.
constexpr std::size_t kLongestToken = 4096;
constexpr double kUnknownPenalty = 10.0;  // SentencePiece's

}  // namespace

result<unigram> unigram::from_json(io::json& model) {
  json_fields f(model, "model Unigram");
  unigram out;
  out.byte_fallback_ = f.flag("byte_fallback", false);
  if (!model.at("unk_id").is_null()) out.unknown_id_ = f.id("unk_id");
  if (!f.ok()) return f.failure();
  auto& fields = model.members();
  const auto vocabulary = std::find_if(fields.begin(), fields.end(), [](const auto& field) { return field.first == "vocab"; });
  if (vocabulary == fields.end() || !vocabulary->second.is_array()) return fail(error_kind::input, "the tokenizer's model has no list \"vocab\"");
  auto& entries = vocabulary->second.items();
  if (entries.size() >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) return fail(error_kind::input, "the vocabulary has too many tokens");
  double smallest = std::numeric_limits<double>::infinity();
  for (io::json& entry : entries) {
    if (entry.items().size() != 2 || !entry.items()[0].is_string() || !entry.items()[1].is_number()) {
      return fail(error_kind::input, "token " + std::to_string(out.tokens_.size()) + " of the vocabulary is no pair [token, score]");
    }
    const std::string& token = entry.items()[0].as_string();
    if (token.size() > kLongestToken) return fail(error_kind::unsupported, "a token of the vocabulary has more than 4096 bytes");
    out.ids_.insert_or_assign(token, static_cast<std::int32_t>(out.tokens_.size()));
    out.tokens_.push_back(token);
    out.scores_.push_back(entry.items()[1].as_double());
    smallest = std::min(smallest, out.scores_.back());
  }
  if (out.unknown_id_ >= static_cast<std::int32_t>(out.tokens_.size())) return fail(error_kind::input, "the unk_id of the tokenizer's model is not in the vocabulary");
  out.unknown_score_ = smallest - kUnknownPenalty;
  for (unsigned b = 0; b < 256; ++b) out.byte_ids_[b] = out.id_of(byte_token_name(static_cast<unsigned char>(b)));
  out.build_trie();
  return out;
}

void unigram::build_trie() {
  std::vector<std::pair<std::string_view, std::int32_t>> sorted;
  for (const auto& [token, id] : ids_) {
    if (!token.empty()) sorted.emplace_back(token, id);
  }
  std::sort(sorted.begin(), sorted.end());
  struct range {
    std::size_t first, last, depth, node;
  };
  trie_.assign(1, {});
  std::vector<range> open{{0, sorted.size(), 0, 0}};
  for (std::size_t next = 0; next < open.size(); ++next) {
    range r = open[next];
    // The token that ends here is the first of its range.
    if (r.first < r.last && sorted[r.first].first.size() == r.depth) trie_[r.node].id = sorted[r.first++].second;
    trie_[r.node].first_child = static_cast<std::uint32_t>(trie_.size());
    while (r.first < r.last) {
      const char byte = sorted[r.first].first[r.depth];
      std::size_t end = r.first;
      while (end < r.last && sorted[end].first[r.depth] == byte) ++end;
      ++trie_[r.node].children;
      open.push_back({r.first, end, r.depth + 1, trie_.size()});
      trie_.push_back({0, 0, static_cast<unsigned char>(byte), -1});
      r.first = end;
    }
  }
}

const unigram::node* unigram::child_of(const node& parent, unsigned char byte) const {
  const auto first = trie_.begin() + parent.first_child, last = first + parent.children;
  const auto found = std::lower_bound(first, last, byte, [](const node& n, unsigned char b) { return n.byte < b; });
  return found != last && found->byte == byte ? &*found : nullptr;
}

std::int32_t unigram::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* unigram::token_of(std::int32_t id) const {
  return id >= 0 && static_cast<std::size_t>(id) < tokens_.size() ? &tokens_[static_cast<std::size_t>(id)] : nullptr;
}

// m.ends[i]: the best path over text[0, i). Of equal scores the first found stays: tokens that begin earlier, then shorter ones.
result<void> unigram::find_best(std::string_view text, memory& m) const {
  m.ends.assign(text.size() + 1, {});
  const auto offer = [&](std::size_t begin, std::size_t end, double score, std::int32_t id) {
    memory::best& b = m.ends[end];
    const double total = score + m.ends[begin].score;
    if (b.begin == SIZE_MAX || total > b.score) b = {total, id, begin};
  };
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t next = begin;
    next_code_point(text, next);
    bool single = false;
    const node* n = &trie_[0];
    for (std::size_t end = begin; end < text.size();) {
      n = child_of(*n, static_cast<unsigned char>(text[end]));
      if (n == nullptr) break;
      ++end;
      if (n->id < 0) continue;
      offer(begin, end, scores_[static_cast<std::size_t>(n->id)], n->id);
      single = single || end == next;
    }
    if (!single) {
      const bool better = m.ends[next].begin == SIZE_MAX || unknown_score_ + m.ends[begin].score > m.ends[next].score;
      if (better && unknown_id_ < 0) {
        return fail(error_kind::input, "the text has the character \"" + std::string(text.substr(begin, next - begin)) + "\", and the tokenizer no unknown token for it");
      }
      offer(begin, next, unknown_score_, unknown_id_);
    }
    begin = next;
  }
  return {};
}

result<void> unigram::encode(std::string_view piece, bool byte_level, memory& m, std::vector<std::int32_t>& out) const {
  std::string_view text = piece;
  if (byte_level) {
    m.mapped.clear();
    for (const char c : piece) append_byte_char(m.mapped, static_cast<unsigned char>(c));
    text = m.mapped;
  }
  if (auto r = find_best(text, m); !r) return r;
  m.parts.clear();  // from the back; unknown neighbors are one part
  bool after_unknown = false;
  for (std::size_t end = text.size(); end > 0;) {
    const memory::best& b = m.ends[end];
    const bool unknown = unknown_id_ >= 0 && b.id == unknown_id_;
    if (unknown && after_unknown) {
      m.parts.back().first = b.begin;
    } else {
      m.parts.emplace_back(b.begin, end);
    }
    after_unknown = unknown;
    end = b.begin;
  }
  for (auto part = m.parts.rbegin(); part != m.parts.rend(); ++part) {
    const std::string_view token = text.substr(part->first, part->second - part->first);
    const std::int32_t id = id_of(token);  // joined unknown parts may be a token after all
    const auto has_byte = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] >= 0; };
    if (id >= 0) {
      out.push_back(id);
    } else if (byte_fallback_ && std::all_of(token.begin(), token.end(), has_byte)) {
      for (const char c : token) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else {
      out.push_back(unknown_id_);
    }
  }
  return {};
}

}  // namespace auto_round::text
