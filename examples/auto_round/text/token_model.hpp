// The "model" of tokenizer.json, of whatever kind: a piece of text -> token ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "text/bpe.hpp"
#include "text/unigram.hpp"
#include "text/word_piece.hpp"

namespace auto_round::text {

class token_model {
 public:
  /// What one thread remembers between pieces.
  struct memory {
    bpe::memory merges;
    unigram::memory paths;
  };

  /// BPE, Unigram, WordPiece or WordLevel; strings of the object are moved out. error_kind::unsupported for other types.
  static result<token_model> from_json(io::json& model);

  /// Appends the ids of `piece`, well-formed UTF-8. With `byte_level` the bytes of the piece are looked up by their printable forms.
  result<void> encode(std::string_view piece, bool byte_level, memory& m, std::vector<std::int32_t>& out) const;

  std::int32_t id_of(std::string_view token) const;    ///< -1 if absent
  const std::string* token_of(std::int32_t id) const;  ///< null if absent
  std::size_t size() const;                            ///< number of tokens
  std::int32_t largest_id() const;                     ///< -1 if empty

 private:
  std::variant<bpe, unigram, word_piece> kind_;
};

}  // namespace auto_round::text
