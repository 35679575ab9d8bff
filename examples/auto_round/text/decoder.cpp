#include "text/decoder.hpp"

#include <functional>
#include <optional>
#include <utility>

#include "text/bpe.hpp"
#include "text/json_fields.hpp"
#include "text/normalizer.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

using tokens = std::vector<std::string>;
using step = std::function<tokens(tokens)>;

std::string joined(const tokens& list) {
  std::string out;
  for (const std::string& t : list) out += t;
  return out;
}

// A token of byte characters gives their bytes; any other token gives its own.
tokens byte_level(tokens list) {
  std::string bytes;
  for (const std::string& token : list) {
    const std::size_t start = bytes.size();
    for (std::size_t at = 0; at < token.size();) {
      const int byte = byte_of_char(next_code_point(token, at));
      if (byte < 0) {
        bytes.resize(start);
        bytes += token;
        break;
      }
      bytes.push_back(static_cast<char>(byte));
    }
  }
  return {to_well_formed(bytes)};
}

// The byte of a token "<0xNN>". One digit behind a plus sign counts: Rust's parser takes it.
std::optional<char> byte_token(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  const int high = token[3] == '+' ? 0 : digit(token[3]), low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

// Runs of byte tokens become their text, or one U+FFFD for each byte if they form none.
tokens byte_fallback(tokens list) {
  tokens out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (to_well_formed(bytes) == bytes) {
      out.push_back(bytes);
    } else {
      for (std::size_t i = 0; i < bytes.size(); ++i) out.emplace_back("\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (std::string& token : list) {
    if (const auto byte = byte_token(token)) {
      bytes.push_back(*byte);
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  return out;
}

// Up to `start` copies of `content` go from the front of each token, up to `stop` from its end.
tokens strip(tokens list, const std::string& content, std::int32_t start, std::int32_t stop) {
  for (std::string& token : list) {
    std::string_view rest = token;
    for (std::int32_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
    for (std::int32_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
    token = std::string(rest);
  }
  return list;
}

tokens metaspace(tokens list, const std::string& replacement, bool prepended) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    std::string out;
    const std::string& token = list[i];
    for (std::size_t at = 0; at < token.size();) {
      if (token.compare(at, replacement.size(), replacement) != 0) {
        out.push_back(token[at++]);
        continue;
      }
      if (i > 0 || !prepended) out.push_back(' ');
      at += replacement.size();
    }
    list[i] = std::move(out);
  }
  return list;
}

// English as WordPiece's clean_up_tokenization_spaces writes it.
void clean_up(std::string& text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {{" .", "."},    {" ?", "?"},     {" !", "!"},   {" ,", ","},   {" ' ", "'"}, {" n't", "n't"},
                                                                      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  }
}

// A blank in front of every token but the first; tokens with the prefix go on with the word before them.
tokens word_piece(tokens list, const std::string& prefix, bool cleanup) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    std::string& token = list[i];
    if (i > 0) {
      if (token.starts_with(prefix)) {
        token.erase(0, prefix.size());
      } else {
        token.insert(0, 1, ' ');
      }
    }
    if (cleanup) clean_up(token);
  }
  return list;
}

tokens replace(tokens list, const regex& pattern, const std::string& content) {
  regex::workspace space;
  std::vector<span_match> found;
  for (std::string& token : list) {
    if (!pattern.find_all(token, space, found)) continue;
    std::string out;
    std::size_t done = 0;
    for (const span_match& m : found) {
      out.append(token, done, m.begin - done);
      out += content;
      done = m.end;
    }
    out.append(token, done);
    token = std::move(out);
  }
  return list;
}

result<void> read_steps(const io::json& part, std::vector<step>& steps) {
  if (part.is_null()) return {};
  const std::string type = part.at("type").as_string();
  json_fields f(part, "decoder " + type);
  if (type == "Sequence") {
    for (const io::json& p : f.list("decoders")) {
      if (p.is_null()) f.complain("holds a null");
      if (auto r = read_steps(p, steps); !r) return r;
    }
  } else if (type == "ByteLevel") {
    steps.emplace_back(byte_level);
  } else if (type == "ByteFallback") {
    steps.emplace_back(byte_fallback);
  } else if (type == "Fuse") {
    steps.emplace_back([](tokens list) { return tokens{joined(list)}; });
  } else if (type == "Strip") {
    const std::string content = f.text("content");
    const std::int32_t start = f.id("start"), stop = f.id("stop");
    if (content.empty()) f.complain("needs a character for \"content\"");
    steps.emplace_back([content, start, stop](tokens list) { return strip(std::move(list), content, start, stop); });
  } else if (type == "Metaspace") {
    const std::string replacement = f.text("replacement", "\xE2\x96\x81");
    const std::string scheme = f.text("prepend_scheme", "always");
    if (replacement.empty()) f.complain("needs a character for \"replacement\"");
    const bool prepended = scheme != "never";
    steps.emplace_back([replacement, prepended](tokens list) { return metaspace(std::move(list), replacement, prepended); });
  } else if (type == "WordPiece") {
    const std::string prefix = f.text("prefix", "##");
    const bool cleanup = f.flag("cleanup", true);
    steps.emplace_back([prefix, cleanup](tokens list) { return word_piece(std::move(list), prefix, cleanup); });
  } else if (type == "Replace") {
    const auto pattern = read_pattern(part.at("pattern"), "decoder Replace");
    if (!pattern) return forward_error(pattern);
    auto compiled = regex::compile(*pattern);
    if (!compiled) return forward_error(compiled);
    // A std::function must be copyable.
    auto shared = std::make_shared<const regex>(std::move(*compiled));
    steps.emplace_back([shared, content = f.text("content")](tokens list) { return replace(std::move(list), *shared, content); });
  } else {
    return fail(error_kind::unsupported, "the tokenizer has a decoder of type \"" + type + "\", which this version cannot do");
  }
  if (!f.ok()) return f.failure();
  return {};
}

}  // namespace

struct decoder::impl {
  std::vector<step> steps;
};

decoder::decoder() : impl_(std::make_unique<impl>()) {}
decoder::decoder(decoder&&) noexcept = default;
decoder& decoder::operator=(decoder&&) noexcept = default;
decoder::~decoder() = default;

result<decoder> decoder::from_json(const io::json& part) {
  decoder out;
  if (auto r = read_steps(part, out.impl_->steps); !r) return forward_error(r);
  return out;
}

std::string decoder::apply(std::vector<std::string> list) const {
  if (impl_->steps.empty()) {
    std::string out;
    for (const std::string& token : list) out += (&token == &list.front() ? "" : " ") + token;
    return out;
  }
  for (const step& s : impl_->steps) list = s(std::move(list));
  return joined(list);
}

}  // namespace auto_round::text
