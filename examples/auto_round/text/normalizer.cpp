#include "text/normalizer.hpp"

#include <functional>
#include <utility>
#include <vector>

#include "text/json_fields.hpp"
#include "text/precompiled.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

using step = std::function<result<std::string>(std::string, regex::workspace&)>;

// The package asks old tables for these classes: what Unicode added to them later (up to 14, PCRE2's) is left out. Found by comparing over all code points.
constexpr std::string_view kNonspacingMark =
    R"(\x{1734}|(?![\x{7FD}\x{898}-\x{89F}\x{8CA}-\x{8E1}\x{9FE}\x{AFA}-\x{AFF}\x{B55}\x{C04}\x{C3C}\x{D00}\x{D3B}-\x{D3C}\x{D81}\x{EBA}\x{180F})"
    R"(\x{1885}-\x{1886}\x{1ABF}-\x{1ACE}\x{1DF6}-\x{1DFB}\x{A82C}\x{A8C5}\x{A8FF}\x{A9BD}\x{10D24}-\x{10D27}\x{10EAB}-\x{10EAC})"
    R"(\x{10F46}-\x{10F50}\x{10F82}-\x{10F85}\x{11070}\x{11073}-\x{11074}\x{110C2}\x{111C9}\x{111CF}\x{1123E}\x{1133B})"
    R"(\x{11438}-\x{1143F}\x{11442}-\x{11444}\x{11446}\x{1145E}\x{1182F}-\x{11837}\x{11839}-\x{1183A}\x{1193B}-\x{1193C}\x{1193E})"
    R"(\x{11943}\x{119D4}-\x{119D7}\x{119DA}-\x{119DB}\x{119E0}\x{11A01}-\x{11A0A}\x{11A33}-\x{11A38}\x{11A3B}-\x{11A3E}\x{11A47})"
    R"(\x{11A51}-\x{11A56}\x{11A59}-\x{11A5B}\x{11A8A}-\x{11A96}\x{11A98}-\x{11A99}\x{11C30}-\x{11C36}\x{11C38}-\x{11C3D}\x{11C3F})"
    R"(\x{11C92}-\x{11CA7}\x{11CAA}-\x{11CB0}\x{11CB2}-\x{11CB3}\x{11CB5}-\x{11CB6}\x{11D31}-\x{11D36}\x{11D3A}\x{11D3C}-\x{11D3D})"
    R"(\x{11D3F}-\x{11D45}\x{11D47}\x{11D90}-\x{11D91}\x{11D95}\x{11D97}\x{11EF3}-\x{11EF4}\x{16F4F}\x{16FE4}\x{1CF00}-\x{1CF2D})"
    R"(\x{1CF30}-\x{1CF46}\x{1E000}-\x{1E006}\x{1E008}-\x{1E018}\x{1E01B}-\x{1E021}\x{1E023}-\x{1E024}\x{1E026}-\x{1E02A})"
    R"(\x{1E130}-\x{1E136}\x{1E2AE}\x{1E2EC}-\x{1E2EF}\x{1E944}-\x{1E94A})"
    R"(])\p{Mn})";
constexpr std::string_view kMark =
    R"([\x{1CF2}\x{1CF3}]|(?![\x{7FD}\x{898}-\x{89F}\x{8CA}-\x{8D3}\x{9FE}\x{AFA}-\x{AFF}\x{B55}\x{C04}\x{C3C}\x{D00}\x{D3B}-\x{D3C}\x{D81}\x{EBA}\x{1715})"
    R"(\x{180F}\x{1ABF}-\x{1ACE}\x{1CF7}\x{1DF6}-\x{1DFA}\x{A82C}\x{A8FF}\x{10D24}-\x{10D27}\x{10EAB}-\x{10EAC}\x{10F46}-\x{10F50})"
    R"(\x{10F82}-\x{10F85}\x{11070}\x{11073}-\x{11074}\x{110C2}\x{11145}-\x{11146}\x{111C9}\x{111CE}-\x{111CF}\x{1133B}\x{1145E})"
    R"(\x{1182C}-\x{1183A}\x{11930}-\x{11935}\x{11937}-\x{11938}\x{1193B}-\x{1193E}\x{11940}\x{11942}-\x{11943}\x{119D1}-\x{119D7})"
    R"(\x{119DA}-\x{119E0}\x{119E4}\x{11A01}-\x{11A0A}\x{11A33}-\x{11A39}\x{11A3B}-\x{11A3E}\x{11A47}\x{11A51}-\x{11A5B})"
    R"(\x{11A8A}-\x{11A99}\x{11D31}-\x{11D36}\x{11D3A}\x{11D3C}-\x{11D3D}\x{11D3F}-\x{11D45}\x{11D47}\x{11D8A}-\x{11D8E})"
    R"(\x{11D90}-\x{11D91}\x{11D93}-\x{11D97}\x{11EF3}-\x{11EF6}\x{16F4F}\x{16F7F}-\x{16F87}\x{16FE4}\x{16FF0}-\x{16FF1})"
    R"(\x{1CF00}-\x{1CF2D}\x{1CF30}-\x{1CF46}\x{1E130}-\x{1E136}\x{1E2AE}\x{1E2EC}-\x{1E2EF})"
    R"(])\p{M})";
constexpr std::string_view kBertControl =
    R"([\x{0}\x{FFFD}]|(?![\t\n\r\x{890}\x{891}\x{8E2}\x{110CD}\x{13430}-\x{13438}])[\p{Cc}\p{Cf}\p{Co}])";

// What Nmt, the cleaning of SentencePiece, drops and what it turns into blanks.
constexpr std::string_view kNmtDropped = R"([\x{1}-\x{8}\x{B}\x{E}-\x{1F}\x{7F}\x{8F}\x{9F}])";
constexpr std::string_view kNmtBlank = R"([\t\n\x{C}\r\x{1680}\x{200B}-\x{200F}\x{2028}\x{2029}\x{2581}\x{FEFF}\x{FFFD}])";

// Ideographs as BertNormalizer counts them, its slip at U+2B920 included.
bool is_ideograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

std::string blanks_around_ideographs(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const bool ideograph = is_ideograph(next_code_point(text, at));
    if (ideograph) out.push_back(' ');
    out.append(text, begin, at - begin);
    if (ideograph) out.push_back(' ');
  }
  return out;
}

std::string blank_for_white_space(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (is_white_space(next_code_point(text, at))) {
      out.push_back(' ');
    } else {
      out.append(text, begin, at - begin);
    }
  }
  return out;
}

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

tl::unexpected<error> too_long(std::size_t bytes) {
  return fail(error_kind::input, "the normalizer makes more than " + std::to_string(most_normalized_bytes(bytes)) + " bytes of a text of " + std::to_string(bytes));
}

step replace_step(regex pattern, std::string content) {
  // A std::function must be copyable.
  return [pattern = std::make_shared<const regex>(std::move(pattern)), content = std::move(content)](std::string text,
                                                                                                     regex::workspace& space) -> result<std::string> {
    std::vector<span_match> found;
    if (auto r = pattern->find_all(text, space, found); !r) return forward_error(r);
    if (found.empty()) return text;
    if (content.size() > (most_normalized_bytes(text.size()) - text.size()) / found.size()) return too_long(text.size());
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

result<void> add_replace(std::string_view pattern, std::string content, std::vector<step>& steps) {
  auto compiled = regex::compile(pattern);
  if (!compiled) return forward_error(compiled);
  steps.push_back(replace_step(std::move(*compiled), std::move(content)));
  return {};
}

step plain_step(std::string (*change)(const std::string&)) {
  return [change](std::string text, regex::workspace&) -> result<std::string> { return change(text); };
}

// Clean, set ideographs apart, strip accents, lower case, in this order.
result<void> read_bert(json_fields& f, std::vector<step>& steps) {
  const bool lower = f.flag("lowercase", true);
  if (f.flag("clean_text", true)) {
    if (auto r = add_replace(kBertControl, "", steps); !r) return r;
    steps.push_back(plain_step(blank_for_white_space));
  }
  if (f.flag("handle_chinese_chars", true)) steps.push_back(plain_step(blanks_around_ideographs));
  if (f.flag("strip_accents", lower)) {
    steps.push_back(form_step(normal_form::nfd));
    if (auto r = add_replace(kNonspacingMark, "", steps); !r) return r;
  }
  if (lower) steps.push_back([](std::string text, regex::workspace&) -> result<std::string> { return to_lower(text); });
  return {};
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
    if (auto r = add_replace(*pattern, f.text("content"), steps); !r) return r;
  } else if (type == "Precompiled") {
    if (!part.at("precompiled_charsmap").is_string()) f.complain("has no \"precompiled_charsmap\"");
    auto map = precompiled_map::from_base64(f.text("precompiled_charsmap"));
    if (!map) return forward_error(map);
    steps.push_back([map = std::make_shared<const precompiled_map>(std::move(*map))](std::string text, regex::workspace&) -> result<std::string> {
      auto out = map->apply(text, most_normalized_bytes(text.size()));
      if (!out) return too_long(text.size());
      return std::move(*out);
    });
  } else if (type == "Nmt") {
    if (auto r = add_replace(kNmtDropped, "", steps); !r) return r;
    if (auto r = add_replace(kNmtBlank, " ", steps); !r) return r;
  } else if (type == "StripAccents") {
    if (auto r = add_replace(kMark, "", steps); !r) return r;
  } else if (type == "BertNormalizer") {
    if (auto r = read_bert(f, steps); !r) return r;
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
  const std::size_t bytes = text.size();
  for (const step& s : impl_->steps) {
    auto next = s(std::move(text), space);
    if (!next) return next;
    if (next->size() > most_normalized_bytes(bytes)) return too_long(bytes);
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
