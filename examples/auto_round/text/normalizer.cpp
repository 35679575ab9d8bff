#include "text/normalizer.hpp"

#include <functional>
#include <utility>
#include <vector>

#include "text/json_fields.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

using step = std::function<result<std::string>(std::string, regex::workspace&)>;

std::string strip(const std::string& text, bool left, bool right) {
  std::size_t begin = 0, end = 0;
  bool started = !left;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    const bool blank = is_white_space(next_code_point(text, at));
    if (!started && !blank) {
      begin = here;
      started = true;
    }
    if (!blank) end = at;
  }
  if (!started) return {};
  return text.substr(begin, (right ? end : text.size()) - begin);
}

step replace_step(regex pattern, std::string content) {
  // A std::function must be copyable.
  return [pattern = std::make_shared<const regex>(std::move(pattern)), content = std::move(content)](std::string text,
                                                                                                     regex::workspace& space) -> result<std::string> {
    std::vector<span_match> found;
    if (auto r = pattern->find_all(text, space, found); !r) return forward_error(r);
    if (found.empty()) return text;
    std::string out;
    std::size_t done = 0;
    for (const span_match& m : found) {
      out.append(text, done, m.begin - done);
      out += content;
      done = m.end;
    }
    out.append(text, done);
    return out;
  };
}

step form_step(normal_form form) {
  return [form](std::string text, regex::workspace&) -> result<std::string> { return normalize(text, form); };
}

result<void> read_steps(const io::json& part, std::vector<step>& steps) {
  if (part.is_null()) return {};
  const std::string type = part.at("type").as_string();
  json_fields f(part, "normalizer " + type);
  if (type == "Sequence") {
    for (const io::json& p : f.list("normalizers")) {
      if (p.is_null()) f.complain("holds a null");
      if (auto r = read_steps(p, steps); !r) return r;
    }
  } else if (type == "NFC") {
    steps.push_back(form_step(normal_form::nfc));
  } else if (type == "NFD") {
    steps.push_back(form_step(normal_form::nfd));
  } else if (type == "NFKC") {
    steps.push_back(form_step(normal_form::nfkc));
  } else if (type == "NFKD") {
    steps.push_back(form_step(normal_form::nfkd));
  } else if (type == "Lowercase") {
    steps.push_back([](std::string text, regex::workspace&) -> result<std::string> { return to_lower(text); });
  } else if (type == "Prepend") {
    steps.push_back([prefix = f.text("prepend")](std::string text, regex::workspace&) -> result<std::string> {
      return text.empty() ? std::move(text) : prefix + text;
    });
  } else if (type == "Strip") {
    steps.push_back([left = f.flag("strip_left", true), right = f.flag("strip_right", true)](
                        std::string text, regex::workspace&) -> result<std::string> { return strip(text, left, right); });
  } else if (type == "Replace") {
    auto pattern = read_pattern(part.at("pattern"), "normalizer Replace");
    if (!pattern) return forward_error(pattern);
    auto compiled = regex::compile(*pattern);
    if (!compiled) return forward_error(compiled);
    steps.push_back(replace_step(std::move(*compiled), f.text("content")));
  } else {
    return fail(error_kind::unsupported, "the tokenizer has a normalizer of type \"" + type + "\", which this version cannot do");
  }
  if (!f.ok()) return f.failure();
  return {};
}

}  // namespace

struct normalizer::impl {
  std::vector<step> steps;
};

normalizer::normalizer() : impl_(std::make_unique<impl>()) {}
normalizer::normalizer(normalizer&&) noexcept = default;
normalizer& normalizer::operator=(normalizer&&) noexcept = default;
normalizer::~normalizer() = default;

result<normalizer> normalizer::from_json(const io::json& part) {
  normalizer out;
  if (auto r = read_steps(part, out.impl_->steps); !r) return forward_error(r);
  return out;
}

bool normalizer::empty() const { return impl_->steps.empty(); }

result<std::string> normalizer::apply(std::string text, regex::workspace& space) const {
  for (const step& s : impl_->steps) {
    auto next = s(std::move(text), space);
    if (!next) return next;
    text = std::move(*next);
  }
  return text;
}

result<std::string> read_pattern(const io::json& pattern, const std::string& part) {
  const io::json& text = pattern.at("String");
  if (text.is_string() && !text.as_string().empty()) {
    std::string escaped;
    for (const char c : text.as_string()) {
      // Every ASCII character that is no letter or digit stands for itself behind a backslash.
      const auto b = static_cast<unsigned char>(c);
      const bool plain = b >= 0x80 || (b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') || b < 0x20;
      if (!plain) escaped.push_back('\\');
      escaped.push_back(c);
    }
    return escaped;
  }
  if (pattern.at("Regex").is_string()) return pattern.at("Regex").as_string();
  return fail(error_kind::input, part + " needs a pattern {\"String\": \"...\"} that is not empty, or {\"Regex\": \"...\"}");
}

}  // namespace auto_round::text
