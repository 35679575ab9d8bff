#include "text/tokenize_lines.hpp"

#include <string_view>

#include "io/file.hpp"
#include "io/json.hpp"

namespace auto_round::text {

result<void> tokenize_lines(const tokenizer& tok, const std::string& path, const std::function<void(const std::string&)>& write) {
  const auto file = io::mapped_file::open(path);
  if (!file) return forward_error(file);
  const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  std::size_t number = 0;
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    ++number;
    const std::string where = path + ", line " + std::to_string(number);
    const auto line = io::parse_json(text.substr(at, end - at), where);
    if (!line) return forward_error(line);
    const io::json& content = line->is_object() ? line->at("text") : *line;
    if (!content.is_string()) return fail(error_kind::input, "the line is neither a string nor an object with a string \"text\"", where);
    const auto ids = tok.encode(content.as_string(), true);
    if (!ids) return fail(ids.error().kind, ids.error().message + "; met in " + where, ids.error().file);
    out.assign(1, '[');
    for (const std::int32_t id : *ids) {
      if (out.size() > 1) out.append(", ");
      out.append(std::to_string(id));
    }
    write(out.append("]\n"));
    at = end + 1;
  }
  return {};
}

}  // namespace auto_round::text
