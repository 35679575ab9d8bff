// SentencePiece's unigram model: of all ways to cut a text into tokens the one whose scores add up to the most.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "text/bpe.hpp"

namespace auto_round::text {

class unigram {
 public:
  /// What one thread needs while encoding.
  struct memory {
    struct best {
      double score = 0;
      std::int32_t id = -1;
      std::size_t begin = SIZE_MAX;  // of the last token of the best path that ends here; SIZE_MAX: none
    };
    std::vector<best> ends;
    std::string mapped;
    std::vector<std::pair<std::size_t, std::size_t>> parts;
  };

  /// From the "model" object; its strings are moved out. error_kind::unsupported for tokens of more than 4096 bytes, error_kind::input for what is wrong.
  static result<unigram> from_json(io::json& model);

  /// Appends the ids of `piece`, well-formed UTF-8. With `byte_level` the bytes of the piece are looked up by their printable forms. What no token
  /// covers becomes one unknown token, or with byte fallback its bytes; error_kind::input if the model has neither.
  result<void> encode(std::string_view piece, bool byte_level, memory& m, std::vector<std::int32_t>& out) const;

  std::int32_t id_of(std::string_view token) const;    ///< -1 if absent; of equal tokens the last
  const std::string* token_of(std::int32_t id) const;  ///< null if absent
  std::size_t size() const { return tokens_.size(); }  ///< number of tokens
  std::int32_t largest_id() const { return static_cast<std::int32_t>(tokens_.size()) - 1; }

 private:
  /// Children of a node lie together, in the order of their bytes.
  struct node {
    std::uint32_t first_child = 0;
    std::uint16_t children = 0;
    unsigned char byte = 0;
    std::int32_t id = -1;
  };
  void build_trie();
  const node* child_of(const node& parent, unsigned char byte) const;
  result<void> find_best(std::string_view text, memory& m) const;

  std::vector<std::string> tokens_;
  std::vector<double> scores_;
  string_map<std::int32_t> ids_;
  std::vector<node> trie_;
  std::int32_t byte_ids_[256];  // of "<0xNN>", -1 if absent
  std::int32_t unknown_id_ = -1;
  double unknown_score_ = 0;
  bool byte_fallback_ = false;
};

}  // namespace auto_round::text
