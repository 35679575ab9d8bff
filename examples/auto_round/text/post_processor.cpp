#include "text/post_processor.hpp"

#include <string>
#include <utility>

#include "text/json_fields.hpp"

namespace auto_round::text {
namespace {

bool is_id(const io::json& v) { return v.is_int() && v.as_int() >= 0 && v.as_int() < INT32_MAX; }

// What a later processor adds lies outside of what the earlier ones added.
void wrap(post_processor& out, std::vector<std::int32_t> prefix, const std::vector<std::int32_t>& suffix) {
  prefix.insert(prefix.end(), out.prefix.begin(), out.prefix.end());
  out.prefix = std::move(prefix);
  out.suffix.insert(out.suffix.end(), suffix.begin(), suffix.end());
}

result<void> read_template(const io::json& part, json_fields& f, post_processor& out) {
  std::vector<std::int32_t> prefix, suffix;
  int sequences = 0;
  for (const io::json& piece : f.list("single")) {
    if (piece.at("Sequence").is_object()) {
      if (piece.at("Sequence").at("id").as_string() != "A") f.complain("has another sequence than A in \"single\"");
      ++sequences;
      continue;
    }
    const std::string name = piece.at("SpecialToken").at("id").as_string();
    const io::json* token = part.at("special_tokens").find(name);
    if (name.empty() || token == nullptr) {
      f.complain("names the special token \"" + name + "\" without saying its ids");
      break;
    }
    for (const io::json& id : token->at("ids").items()) {
      if (!is_id(id)) f.complain("has a special token with an id that is no integer of 0 to 2147483646");
      (sequences == 0 ? prefix : suffix).push_back(static_cast<std::int32_t>(id.as_int()));
    }
  }
  if (!f.ok()) return f.failure();
  if (sequences != 1)
    return fail(error_kind::unsupported, "post_processor TemplateProcessing does not hold the text exactly once, which this version cannot do");
  wrap(out, std::move(prefix), suffix);
  return {};
}

result<void> read_processors(const io::json& part, post_processor& out) {
  if (part.is_null()) return {};
  const std::string type = part.at("type").as_string();
  json_fields f(part, "post_processor " + type);
  if (type == "Sequence") {
    for (const io::json& p : f.list("processors")) {
      if (p.is_null()) f.complain("holds a null");
      if (auto r = read_processors(p, out); !r) return r;
    }
  } else if (type == "TemplateProcessing") {
    return read_template(part, f, out);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    const auto& cls = part.at("cls").items();
    const auto& sep = part.at("sep").items();
    if (cls.size() != 2 || sep.size() != 2 || !is_id(cls[1]) || !is_id(sep[1])) {
      f.complain("needs \"cls\" and \"sep\" of the form [token, id]");
    } else {
      wrap(out, {static_cast<std::int32_t>(cls[1].as_int())}, {static_cast<std::int32_t>(sep[1].as_int())});
    }
  } else if (type != "ByteLevel") {
    return fail(error_kind::unsupported, "the tokenizer has a post_processor of type \"" + type + "\", which this version cannot do");
  }
  if (!f.ok()) return f.failure();
  return {};
}

}  // namespace

result<post_processor> post_processor::from_json(const io::json& part) {
  post_processor out;
  if (auto r = read_processors(part, out); !r) return forward_error(r);
  return out;
}

}  // namespace auto_round::text
