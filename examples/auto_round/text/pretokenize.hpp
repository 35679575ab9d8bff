// The "pre_tokenizer" of tokenizer.json: cuts normalized text into the pieces within which BPE may merge.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "text/regex.hpp"

namespace auto_round::text {

/// A text in pieces. A piece with id >= 0 is an added token, which no stage touches.
struct pieces {
  struct piece {
    std::size_t begin = 0, end = 0;
    std::int32_t id = -1;
  };
  std::string text;
  std::vector<piece> list;  // in order of the text
  bool byte_level = false;  // the bytes of the pieces stand for their printable forms (ByteLevel as the last stage)
  std::string_view view(const piece& p) const { return std::string_view(text).substr(p.begin, p.end - p.begin); }
};

class pretokenizer {
 public:
  /// What one thread needs while cutting.
  struct workspace {
    regex::workspace matcher;
    std::vector<span_match> matches;
    std::vector<pieces::piece> next;
    std::string text;
  };

  /// ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, BertPreTokenizer, Punctuation, Metaspace, Sequence, or null. error_kind::unsupported names any other.
  /// One difference to the package: where a normalizer drops the beginning of a text, Metaspace with prepend_scheme "first" still prepends.
  static result<pretokenizer> from_json(const io::json& part);
  pretokenizer();
  pretokenizer(pretokenizer&&) noexcept;
  pretokenizer& operator=(pretokenizer&&) noexcept;
  ~pretokenizer();

  /// Cuts the pieces further. Empty pieces vanish.
  result<void> apply(pieces& p, workspace& space) const;

  class stage;

 private:
  std::vector<std::unique_ptr<stage>> stages_;
};

}  // namespace auto_round::text
