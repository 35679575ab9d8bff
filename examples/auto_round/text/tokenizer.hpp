// tokenizer.json: text -> token ids -> text, equal to the Hugging Face `tokenizers` package.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace auto_round::text {

class tokenizer {
 public:
  /// Reads DIR/tokenizer.json and, if present, DIR/tokenizer_config.json. error_kind::unsupported names the first part it cannot do.
  static result<tokenizer> open(const std::string& dir);
  tokenizer(tokenizer&&) noexcept;
  tokenizer& operator=(tokenizer&&) noexcept;
  ~tokenizer();

  /// Token ids of UTF-8 `text`; invalid bytes count as U+FFFD. `add_special_tokens` runs the post-processor (BOS and the like).
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens) const;
  /// Ids cut to `max_tokens`, special tokens kept, as the original's truncation does (right side).
  std::vector<std::int32_t> encode_truncated(std::string_view text, std::size_t max_tokens) const;
  /// Text of ids; special tokens are left out if `skip_special`. Bytes that form no UTF-8 become U+FFFD.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const;

  std::size_t vocab_size() const;           ///< largest id + 1
  std::int32_t bos_id() const;              ///< -1 if there is none; from tokenizer_config.json
  std::int32_t eos_id() const;              ///< -1 if there is none
  std::int32_t pad_id() const;              ///< -1 if there is none
  std::int64_t model_max_length() const;    ///< from tokenizer_config.json; 0 if absent or absurdly large

 private:
  tokenizer();
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::text
