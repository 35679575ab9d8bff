#include "export/export_layer_pattern.hpp"

#include <fmt/format.h>

#include <optional>
#include <string_view>
#include <vector>

#include "text/regex.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::string_view any = ".*";

bool is_word(unsigned char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80; }

/// As Python's re.escape, which leaves letters beyond ASCII alone too.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (!is_word(static_cast<unsigned char>(c))) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string exported_regex(const std::string& pattern) {
  if (pattern.find(any) == std::string::npos && pattern.find_first_of("^$|()[]?+") == std::string::npos) return fmt::format(".*{}.*", escaped(pattern));
  std::string out;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.compare(i, any.size(), any) == 0) {
      out += any;
      ++i;
    } else {
      if (pattern[i] == '.') out += '\\';
      out += pattern[i];
    }
  }
  if (!out.starts_with('^') && !out.starts_with(any)) out = std::string(any) + out;
  if (!out.ends_with('$') && !out.ends_with(any)) out += any;
  return out;
}

struct layer_pattern::impl {
  std::optional<text::regex> regex;
  mutable text::regex::workspace space;
  mutable std::vector<text::span_match> hits;
};

layer_pattern::layer_pattern() : impl_(std::make_unique<impl>()) {}
layer_pattern::layer_pattern(layer_pattern&&) noexcept = default;
layer_pattern& layer_pattern::operator=(layer_pattern&&) noexcept = default;
layer_pattern::~layer_pattern() = default;

result<layer_pattern> layer_pattern::compile(const std::string& pattern) {
  const std::string expression = exported_regex(pattern);
  auto regex = text::regex::compile(expression);
  if (!regex) return fail(error_kind::usage, fmt::format("the pattern \"{}\" becomes \"{}\", which is no regular expression: {}", pattern, expression, regex.error().message));
  layer_pattern p;
  p.impl_->regex = std::move(*regex);
  return p;
}

bool layer_pattern::found_in(const std::string& name) const {
  return impl_->regex->find_all(name, impl_->space, impl_->hits) && !impl_->hits.empty();
}

}  // namespace auto_round::exporting
