// Reading of evaluation texts.
#include "command/eval_text.hpp"

#include <fmt/format.h>

#include "io/file.hpp"
#include "io/json.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::command {
namespace {

result<std::vector<std::int32_t>> read_lines(const text::tokenizer& tok, const std::string& content, const std::string& file) {
  std::vector<std::int32_t> ids;
  std::size_t number = 0;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t end = std::min(content.find('\n', at), content.size());
    const std::string_view line = std::string_view(content).substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    auto record = io::parse_json(line, fmt::format("{}:{}", file, number));
    if (!record) return forward_error(record);
    const io::json& value = record->is_object() ? record->at("text") : *record;
    if (!value.is_string()) return fail(error_kind::input, "the line is neither a string nor an object with \"text\"", fmt::format("{}:{}", file, number));
    auto encoded = tok.encode(value.as_string(), false);
    if (!encoded) return forward_error(encoded);
    if (tok.bos_id() >= 0) ids.push_back(tok.bos_id());
    ids.insert(ids.end(), encoded->begin(), encoded->end());
    if (tok.eos_id() >= 0) ids.push_back(tok.eos_id());
  }
  return ids;
}

}  // namespace

result<std::vector<std::int32_t>> read_eval_tokens(const std::string& tokenizer_directory, const std::string& file, std::int64_t max_tokens,
                                                   std::int64_t vocab_size) {
  auto tok = text::tokenizer::open(tokenizer_directory);
  if (!tok) return forward_error(tok);
  auto content = io::read_text(file);
  if (!content) return forward_error(content);
  auto ids = file.ends_with(".jsonl") ? read_lines(*tok, *content, file) : tok->encode(*content, true);
  if (!ids) return ids;
  if (max_tokens > 0 && static_cast<std::int64_t>(ids->size()) > max_tokens) ids->resize(static_cast<std::size_t>(max_tokens));
  for (const std::int32_t id : *ids) {
    if (id < 0 || id >= vocab_size) {
      return fail(error_kind::input, fmt::format("the tokenizer gives id {}, but the model has {} tokens: they do not belong together", id, vocab_size),
                  tokenizer_directory + "/tokenizer.json");
    }
  }
  return ids;
}

}  // namespace auto_round::command
