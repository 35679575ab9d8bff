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

/// All const members may be called from several threads at a time.
class tokenizer {
 public:
  /// Reads DIR/tokenizer.json and, if present, DIR/tokenizer_config.json and DIR/chat_template.jinja. error_kind::unsupported names the first part
  /// it cannot do; error_kind::input says what is wrong with a file.
  static result<tokenizer> open(const std::string& dir);
  /// The same from the texts of the files (an empty text: no such file); `name` stands for the file in errors.
  static result<tokenizer> parse(std::string_view tokenizer_json, std::string_view tokenizer_config, std::string_view chat_template,
                                 const std::string& name);
  tokenizer(tokenizer&&) noexcept;
  tokenizer& operator=(tokenizer&&) noexcept;
  ~tokenizer();

  /// Token ids of UTF-8 `text`; invalid bytes count as U+FFFD. `add_special_tokens` runs the post-processor (BOS and the like).
  /// error_kind::input if a pattern of the pre-tokenizer needs more steps on this text than any sane pattern does.
  result<std::vector<std::int32_t>> encode(std::string_view text, bool add_special_tokens) const;
  /// encode() with special tokens, cut to `max_tokens` ids as the original's truncation does: the text loses its end, special tokens are kept.
  result<std::vector<std::int32_t>> encode_truncated(std::string_view text, std::size_t max_tokens) const;
  /// Text of ids; special tokens are left out if `skip_special`, ids without a token always. Bytes that form no UTF-8 become U+FFFD.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const;

  std::size_t vocab_size() const;                       ///< largest id + 1
  std::int32_t token_id(std::string_view token) const;  ///< -1 if there is no such token
  std::int32_t bos_id() const;                          ///< -1 if there is none; from tokenizer_config.json
  std::int32_t eos_id() const;                          ///< -1 if there is none
  std::int32_t pad_id() const;                          ///< -1 if there is none
  const std::string& bos_token() const;                 ///< empty if there is none
  const std::string& eos_token() const;                 ///< empty if there is none
  const std::string& chat_template() const;             ///< Jinja text of the default template; empty if there is none
  std::string chat_template_file() const;               ///< where it was found, for errors
  std::int64_t model_max_length() const;                ///< from tokenizer_config.json; 0 if absent or absurdly large

 private:
  tokenizer();
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::text
