// The "normalizer" of tokenizer.json: what happens to the text between added tokens before it is cut into pieces.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "error.hpp"
#include "io/json.hpp"
#include "text/regex.hpp"

namespace auto_round::text {

class normalizer {
 public:
  /// NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Replace, Prepend, Strip, Precompiled, Nmt, BertNormalizer, Sequence, or null. error_kind::unsupported names any other.
  static result<normalizer> from_json(const io::json& part);
  normalizer();
  normalizer(normalizer&&) noexcept;
  normalizer& operator=(normalizer&&) noexcept;
  ~normalizer();

  bool empty() const;  ///< leaves every text as it is
  /// `text` is well-formed UTF-8, and so is the result.
  result<std::string> apply(std::string text, regex::workspace& space) const;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// Bytes that a step of the normalizer may make of `from` bytes. Those of Unicode and of real character maps make at most 18 of one; steps that
/// multiply a text, one behind the other, would fill any memory.
constexpr std::size_t most_normalized_bytes(std::size_t from) { return 64 * from + (std::size_t{1} << 20); }

/// The value of a "pattern" field: {"String": s} gives s as an Oniguruma pattern that matches it, {"Regex": r} gives r.
result<std::string> read_pattern(const io::json& pattern, const std::string& part);

}  // namespace auto_round::text
