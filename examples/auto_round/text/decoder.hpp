// The "decoder" of tokenizer.json: token strings -> text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::text {

class decoder {
 public:
  /// ByteLevel, Metaspace, WordPiece, Replace, ByteFallback, Fuse, Strip, Sequence, or null. error_kind::unsupported names any other.
  static result<decoder> from_json(const io::json& part);
  decoder();
  decoder(decoder&&) noexcept;
  decoder& operator=(decoder&&) noexcept;
  ~decoder();

  /// The text of `tokens`; without a decoder they are joined by blanks, as the package does.
  std::string apply(std::vector<std::string> tokens) const;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::text
