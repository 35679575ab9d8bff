#include "text/word_piece.hpp"

#include <algorithm>
#include <limits>

#include "text/json_fields.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

// Bounds the work for a word: it is tried at every length. Real ones have 100 characters and 20 bytes.
constexpr std::size_t kLongestWord = 1000, kLongestPiece = 1024;

}  // namespace

result<word_piece> word_piece::from_json(const io::json& model) {
  const std::string type = model.at("type").as_string();
  json_fields f(model, "model " + type);
  word_piece out;
  out.whole_only_ = type == "WordLevel";
  out.unknown_ = f.text("unk_token", out.whole_only_ ? "<unk>" : "[UNK]");
  out.prefix_ = f.text("continuing_subword_prefix", out.whole_only_ ? "" : "##");
  if (!model.at("max_input_chars_per_word").is_null()) out.longest_word_ = static_cast<std::size_t>(f.id("max_input_chars_per_word"));
  if (!model.at("vocab").is_object()) f.complain("has no object \"vocab\"");
  if (!f.ok()) return f.failure();
  if (out.longest_word_ > kLongestWord) return fail(error_kind::unsupported, "the tokenizer's model takes words of more than 1000 characters");
  const auto& members = model.at("vocab").members();
  out.ids_.reserve(members.size());
  for (const auto& [token, id] : members) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= std::numeric_limits<std::int32_t>::max()) {
      return fail(error_kind::input, "the token \"" + token.substr(0, 64) + "\" has an id that is no integer of 0 to 2147483646");
    }
    if (token.size() > kLongestPiece && !out.whole_only_) return fail(error_kind::unsupported, "a token of the vocabulary has more than 1024 bytes");
    const auto value = static_cast<std::int32_t>(id.as_int());
    const auto place = out.ids_.emplace(token, value).first;
    if (!out.tokens_.emplace(value, &place->first).second) return fail(error_kind::input, "two tokens have the id " + std::to_string(value));
    out.largest_id_ = std::max(out.largest_id_, value);
    out.longest_token_ = std::max(out.longest_token_, token.size());
  }
  out.unknown_id_ = out.id_of(out.unknown_);
  return out;
}

std::int32_t word_piece::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* word_piece::token_of(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

result<void> word_piece::encode(std::string_view piece, bool byte_level, std::vector<std::int32_t>& out) const {
  std::string mapped;
  if (byte_level) {
    for (const char c : piece) append_byte_char(mapped, static_cast<unsigned char>(c));
    piece = mapped;
  }
  const auto unknown = [&]() -> result<void> {
    if (unknown_id_ < 0) return fail(error_kind::input, "a word is not in the vocabulary, and neither is the tokenizer's unknown token \"" + unknown_ + "\"");
    out.push_back(unknown_id_);
    return {};
  };
  if (whole_only_) {
    const std::int32_t id = id_of(piece);
    if (id < 0) return unknown();
    out.push_back(id);
    return {};
  }
  const auto begins = [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; };
  if (static_cast<std::size_t>(std::count_if(piece.begin(), piece.end(), begins)) > longest_word_) return unknown();
  const std::size_t first = out.size();
  std::string candidate;
  for (std::size_t begin = 0; begin < piece.size();) {
    const std::string_view front = begin > 0 ? std::string_view(prefix_) : std::string_view();
    // No token is longer than the longest: what a piece is tried at is bounded.
    std::size_t end = std::min(piece.size(), begin + (longest_token_ > front.size() ? longest_token_ - front.size() : 0));
    while (end > begin && end < piece.size() && !begins(piece[end])) --end;
    std::int32_t id = -1;
    while (end > begin) {
      candidate.assign(front).append(piece.substr(begin, end - begin));
      id = id_of(candidate);
      if (id >= 0) break;
      do --end;
      while (end > begin && !begins(piece[end]));
    }
    if (id < 0) {
      out.resize(first);
      return unknown();
    }
    out.push_back(id);
    begin = end;
  }
  return {};
}

}  // namespace auto_round::text
