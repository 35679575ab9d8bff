#include "text/bpe.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "text/json_fields.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

constexpr std::uint64_t kEmptySlot = ~std::uint64_t{0};
constexpr std::size_t kLongestRemembered = 256;    // bytes of a piece
constexpr std::size_t kMostRemembered = 1u << 16;  // pieces, then everything is forgotten

struct byte_chars {
  std::array<char32_t, 256> of_byte{};
  std::array<int, 0x144> of_char{};
};

constexpr byte_chars make_byte_chars() {
  byte_chars t{};
  for (int& b : t.of_char) b = -1;
  char32_t next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    t.of_byte[b] = itself ? b : next++;
    t.of_char[t.of_byte[b]] = static_cast<int>(b);
  }
  return t;
}
constexpr byte_chars kByteChars = make_byte_chars();
static_assert(kByteChars.of_byte[' '] == 0x120 && kByteChars.of_byte[0xAD] == 0x143);

// A multiplicative hash; its high bits are the good ones.
std::size_t slot_of(std::uint64_t pair, std::size_t slots) { return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15u) >> 20) & (slots - 1); }

std::size_t sequence_length(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

}  // namespace

void append_byte_char(std::string& out, unsigned char byte) {
  const char32_t c = kByteChars.of_byte[byte];
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else {
    out.push_back(static_cast<char>(0xC0 | (c >> 6)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

int byte_of_char(char32_t c) { return c < kByteChars.of_char.size() ? kByteChars.of_char[c] : -1; }

std::string byte_token_name(unsigned char byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
}

result<bpe> bpe::from_json(io::json& model) {
  json_fields f(model, "model BPE");
  const std::string type = f.text("type", "BPE");
  const std::string prefix = f.text("continuing_subword_prefix");
  const std::string unknown = f.text("unk_token");
  const io::json& dropout = model.at("dropout");
  bpe out;
  out.end_of_word_suffix_ = f.text("end_of_word_suffix");
  out.fuse_unknown_ = f.flag("fuse_unk", false);
  out.byte_fallback_ = f.flag("byte_fallback", false);
  out.ignore_merges_ = f.flag("ignore_merges", false);
  if (!dropout.is_number() && !dropout.is_null()) f.complain("needs a number for \"dropout\"");
  if (!f.ok()) return f.failure();
  if (type != "BPE") return fail(error_kind::unsupported, "the tokenizer's model is of type \"" + type + "\"; this version reads BPE, Unigram, WordPiece and WordLevel");
  if (!prefix.empty())
    return fail(error_kind::unsupported, "the tokenizer's BPE model has a continuing_subword_prefix, which this version cannot do");
  if (dropout.as_double() != 0) return fail(error_kind::unsupported, "the tokenizer's BPE model has dropout, so its result is random");

  if (auto r = out.read_vocabulary(model); !r) return forward_error(r);
  if (!unknown.empty()) {
    out.unknown_id_ = out.id_of(unknown);
    if (out.unknown_id_ < 0) return fail(error_kind::input, "the unk_token \"" + unknown + "\" is not in the vocabulary");
  }
  for (unsigned b = 0; b < 256; ++b) out.byte_ids_[b] = out.id_of(byte_token_name(static_cast<unsigned char>(b)));
  if (auto r = out.read_merges(model); !r) return forward_error(r);
  return out;
}

result<void> bpe::read_vocabulary(io::json& model) {
  auto& fields = model.members();
  const auto vocabulary = std::find_if(fields.begin(), fields.end(), [](const auto& f) { return f.first == "vocab"; });
  if (vocabulary == fields.end() || !vocabulary->second.is_object()) {
    return fail(error_kind::input, "the tokenizer's model has no object \"vocab\"");
  }
  auto& members = vocabulary->second.members();
  ids_.reserve(members.size());
  tokens_.reserve(members.size());
  for (auto& [token, id] : members) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= std::numeric_limits<std::int32_t>::max()) {
      return fail(error_kind::input, "the token \"" + token.substr(0, 64) + "\" has an id that is no integer of 0 to 2147483646");
    }
    const auto value = static_cast<std::int32_t>(id.as_int());
    const auto [place, fresh] = ids_.emplace(std::move(token), value);
    if (!fresh) continue;  // the JSON reader refuses equal keys
    if (!tokens_.emplace(value, &place->first).second) {
      return fail(error_kind::input, "two tokens have the id " + std::to_string(value) + ", one of them \"" + place->first.substr(0, 64) + "\"");
    }
    largest_id_ = std::max(largest_id_, value);
  }
  return {};
}

result<void> bpe::read_merges(io::json& model) {
  const io::json* merges = model.find("merges");
  if (merges == nullptr || !merges->is_array()) return fail(error_kind::input, "the tokenizer's model has no list \"merges\"");
  std::size_t slots = 16;
  while (slots < merges->items().size() * 2) slots *= 2;
  merges_.assign(slots, {kEmptySlot, 0, 0});
  std::uint32_t rank = 0;
  for (const io::json& m : merges->items()) {
    std::string_view left, right;
    if (m.is_string()) {
      const std::string_view text = m.as_string();
      if (text.starts_with("#version")) continue;
      const std::size_t blank = text.find(' ');
      if (blank == std::string_view::npos || text.find(' ', blank + 1) != std::string_view::npos) {
        return fail(error_kind::input, "the merge \"" + std::string(text.substr(0, 64)) + "\" is not of the form \"left right\"");
      }
      left = text.substr(0, blank);
      right = text.substr(blank + 1);
    } else if (m.items().size() == 2 && m.items()[0].is_string() && m.items()[1].is_string()) {
      left = m.items()[0].as_string();
      right = m.items()[1].as_string();
    } else {
      return fail(error_kind::input, "merge " + std::to_string(rank) + " is neither a string nor a pair of strings");
    }
    if (auto r = add_merge(left, right, rank); !r) return r;
    ++rank;
  }
  return {};
}

result<void> bpe::add_merge(std::string_view left, std::string_view right, std::uint32_t rank) {
  const std::string whole = std::string(left) + std::string(right);
  const std::int32_t a = id_of(left), b = id_of(right), c = id_of(whole);
  if (a < 0 || b < 0 || c < 0) {
    const std::string_view missing = a < 0 ? left : b < 0 ? right : std::string_view(whole);
    return fail(error_kind::input,
                "merge " + std::to_string(rank) + " needs the token \"" + std::string(missing.substr(0, 64)) + "\", which is not in the vocabulary");
  }
  const std::uint64_t pair = pair_of(a, b);
  std::size_t slot = slot_of(pair, merges_.size());
  while (merges_[slot].pair != kEmptySlot && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
  merges_[slot] = {pair, rank, c};  // of equal merges the last one counts
  return {};
}

const bpe::merge* bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t slot = slot_of(pair, merges_.size());; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kEmptySlot) return nullptr;
  }
}

std::int32_t bpe::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* bpe::token_of(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

void bpe::encode(std::string_view piece, bool byte_level, memory& m, std::vector<std::int32_t>& out) const {
  if (piece.empty()) return;
  if (const auto hit = m.seen.find(piece); hit != m.seen.end()) {
    const auto first = m.pool.begin() + hit->second.first;
    out.insert(out.end(), first, first + hit->second.count);
    return;
  }
  std::string_view mapped = piece;
  if (byte_level) {
    m.mapped.clear();
    for (const char c : piece) append_byte_char(m.mapped, static_cast<unsigned char>(c));
    mapped = m.mapped;
  }
  const std::size_t first = out.size();
  const std::int32_t whole = ignore_merges_ ? id_of(mapped) : -1;
  if (whole >= 0) {
    out.push_back(whole);
  } else {
    split_to_symbols(mapped, m);
    merge_symbols(m);
    for (std::int32_t at = m.symbols.empty() ? -1 : 0; at >= 0; at = m.symbols[static_cast<std::size_t>(at)].next) {
      out.push_back(m.symbols[static_cast<std::size_t>(at)].id);
    }
  }
  if (piece.size() > kLongestRemembered) return;
  if (m.seen.size() >= kMostRemembered) {
    m.seen.clear();
    m.pool.clear();
  }
  m.seen.emplace(piece, memory::entry{static_cast<std::uint32_t>(m.pool.size()), static_cast<std::uint32_t>(out.size() - first)});
  m.pool.insert(m.pool.end(), out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
}

// One symbol per character, or what stands for a character that the vocabulary lacks.
void bpe::split_to_symbols(std::string_view piece, memory& m) const {
  m.symbols.clear();
  const auto add = [&](std::int32_t id) {
    const auto at = static_cast<std::int32_t>(m.symbols.size());
    if (at > 0) m.symbols.back().next = at;
    m.symbols.push_back({id, at - 1, -1});
  };
  bool unknown_pending = false;
  std::string last;
  for (std::size_t at = 0; at < piece.size();) {
    std::string_view character = piece.substr(at, sequence_length(piece[at]));
    at += character.size();
    if (at >= piece.size() && !end_of_word_suffix_.empty()) {
      last = std::string(character) + end_of_word_suffix_;
      character = last;
    }
    if (const std::int32_t id = id_of(character); id >= 0) {
      if (unknown_pending) add(unknown_id_);
      unknown_pending = false;
      add(id);
      continue;
    }
    if (byte_fallback_ && std::all_of(character.begin(), character.end(), [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] >= 0; })) {
      // An unknown character before these bytes is written behind them: so does the package.
      for (const char c : character) add(byte_ids_[static_cast<unsigned char>(c)]);
      continue;
    }
    if (unknown_id_ < 0) continue;  // dropped without a trace
    if (unknown_pending && !fuse_unknown_) add(unknown_id_);
    unknown_pending = true;
  }
  if (unknown_pending) add(unknown_id_);
}

// Merges the pair of lowest rank, the leftmost of equals, until none is left: O(n log n) with a queue of candidates, which may be out of date.
void bpe::merge_symbols(memory& m) const {
  using candidate = memory::candidate;
  const auto later = [](const candidate& a, const candidate& b) { return a.rank != b.rank ? a.rank > b.rank : a.position > b.position; };
  auto& symbols = m.symbols;
  const auto at = [&](std::int32_t i) -> memory::symbol& { return symbols[static_cast<std::size_t>(i)]; };
  m.queue.clear();
  const auto consider = [&](std::int32_t left, bool push) {
    const std::int32_t right = at(left).next;
    if (right < 0) return;
    const merge* found = find_merge(at(left).id, at(right).id);
    if (found == nullptr) return;
    m.queue.push_back({found->rank, left, found->merged});
    if (push) std::push_heap(m.queue.begin(), m.queue.end(), later);
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i), false);
  std::make_heap(m.queue.begin(), m.queue.end(), later);
  while (!m.queue.empty()) {
    std::pop_heap(m.queue.begin(), m.queue.end(), later);
    const candidate best = m.queue.back();
    m.queue.pop_back();
    memory::symbol& left = at(best.position);
    if (left.id < 0 || left.next < 0) continue;
    memory::symbol& right = at(left.next);
    const merge* now = find_merge(left.id, right.id);
    if (now == nullptr || now->merged != best.merged) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) at(left.next).previous = best.position;
    if (left.previous >= 0) consider(left.previous, true);
    consider(best.position, true);
  }
}

}  // namespace auto_round::text
