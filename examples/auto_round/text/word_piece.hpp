// The models WordPiece (the longest token that fits, from left to right) and WordLevel (whole pieces only) of tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "text/bpe.hpp"

namespace auto_round::text {

class word_piece {
 public:
  /// From the "model" object of either type. error_kind::input for what is wrong.
  static result<word_piece> from_json(const io::json& model);

  /// Appends the ids of `piece`, or of the unknown token; error_kind::input if that is needed and not there.
  result<void> encode(std::string_view piece, bool byte_level, std::vector<std::int32_t>& out) const;

  std::int32_t id_of(std::string_view token) const;        ///< -1 if absent
  const std::string* token_of(std::int32_t id) const;      ///< null if absent
  std::size_t size() const { return ids_.size(); }         ///< number of tokens
  std::int32_t largest_id() const { return largest_id_; }  ///< -1 if empty

 private:
  string_map<std::int32_t> ids_;
  std::unordered_map<std::int32_t, const std::string*> tokens_;  // into the keys of ids_
  std::string unknown_, prefix_;
  std::size_t longest_word_ = 100;  // code points
  std::size_t longest_token_ = 0;   // bytes
  std::int32_t unknown_id_ = -1, largest_id_ = -1;
  bool whole_only_ = false;
};

}  // namespace auto_round::text
