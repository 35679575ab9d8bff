// The "post_processor" of tokenizer.json, as far as ids are concerned: the special tokens in front of and behind a text.
#pragma once

#include <cstdint>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::text {

struct post_processor {
  std::vector<std::int32_t> prefix, suffix;

  /// TemplateProcessing, ByteLevel (adds nothing), BertProcessing, RobertaProcessing, Sequence, or null. error_kind::unsupported names any other.
  static result<post_processor> from_json(const io::json& part);
};

}  // namespace auto_round::text
