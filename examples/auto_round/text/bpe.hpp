// Byte pair encoding: a piece of text -> token ids by the vocabulary and the ranked merges of tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::text {

/// Looks up std::string keys by std::string_view.
struct string_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const noexcept { return std::hash<std::string_view>{}(s); }
};
template <class T>
using string_map = std::unordered_map<std::string, T, string_hash, std::equal_to<>>;

/// Appends the printable form of a byte in byte-level vocabularies (Ġ for a blank): bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for
/// themselves, the others, ascending, for U+0100, U+0101, ...
void append_byte_char(std::string& out, unsigned char byte);
/// The byte that a code point stands for there, -1 if for none.
int byte_of_char(char32_t c);
/// "<0xNN>", the token of a byte in vocabularies with byte fallback.
std::string byte_token_name(unsigned char byte);

class bpe {
 public:
  /// What one thread remembers between pieces: results of pieces seen before, and buffers.
  struct memory {
    struct entry {
      std::uint32_t first, count;  // range of `pool`
    };
    string_map<entry> seen;
    std::vector<std::int32_t> pool;
    std::string mapped;
    struct symbol {
      std::int32_t id, previous, next;  // -1: none
    };
    std::vector<symbol> symbols;
    struct candidate {
      std::uint32_t rank;
      std::int32_t position, merged;
    };
    std::vector<candidate> queue;
  };

  /// From the "model" object; its strings are moved out. error_kind::unsupported names what it cannot do, error_kind::input what is wrong.
  static result<bpe> from_json(io::json& model);

  /// Appends the ids of `piece`. With `byte_level` the bytes of the piece are looked up by their printable forms.
  void encode(std::string_view piece, bool byte_level, memory& m, std::vector<std::int32_t>& out) const;

  std::int32_t id_of(std::string_view token) const;        ///< -1 if absent
  const std::string* token_of(std::int32_t id) const;      ///< null if absent
  std::size_t size() const { return ids_.size(); }         ///< number of tokens
  std::int32_t largest_id() const { return largest_id_; }  ///< -1 if empty

 private:
  struct merge {
    std::uint64_t pair;  // left id << 32 | right id, all ones: empty slot
    std::uint32_t rank;
    std::int32_t merged;
  };
  static std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  result<void> read_vocabulary(io::json& model);
  result<void> read_merges(io::json& model);
  result<void> add_merge(std::string_view left, std::string_view right, std::uint32_t rank);
  const merge* find_merge(std::int32_t left, std::int32_t right) const;
  void split_to_symbols(std::string_view piece, memory& m) const;
  void merge_symbols(memory& m) const;

  string_map<std::int32_t> ids_;
  std::unordered_map<std::int32_t, const std::string*> tokens_;  // into the keys of ids_
  std::vector<merge> merges_;                                    // open addressing, a power of two long
  std::string end_of_word_suffix_;
  std::int32_t byte_ids_[256];  // of "<0xNN>", -1 if absent
  std::int32_t unknown_id_ = -1;
  std::int32_t largest_id_ = -1;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace auto_round::text
