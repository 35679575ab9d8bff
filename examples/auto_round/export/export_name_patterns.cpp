#include "export/export_name_patterns.hpp"

#include <fmt/format.h>

#include "text/regex.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t most_patterns = 4096;  // every layer is compared with every pattern

}  // namespace

struct name_patterns::impl {
  std::vector<text::regex> all;
  text::regex::workspace space;
  std::vector<text::span_match> hits;
};

name_patterns::name_patterns() : impl_(std::make_unique<impl>()) {}
name_patterns::name_patterns(name_patterns&&) noexcept = default;
name_patterns& name_patterns::operator=(name_patterns&&) noexcept = default;
name_patterns::~name_patterns() = default;

result<void> name_patterns::add(const std::string& pattern, const std::string& file) {
  if (impl_->all.size() == most_patterns) return fail(error_kind::input, fmt::format("more than {} patterns of layer names", most_patterns), file);
  auto compiled = text::regex::compile(pattern);
  if (!compiled)
    return fail(error_kind::input, fmt::format("the pattern \"{}\" of layer names cannot be used: {}", pattern, compiled.error().message), file);
  impl_->all.push_back(std::move(*compiled));
  return {};
}

result<std::size_t> name_patterns::first_found(const std::string& name, bool at_start) const {
  for (std::size_t i = 0; i < impl_->all.size(); ++i) {
    if (auto r = impl_->all[i].find_all(name, impl_->space, impl_->hits); !r) return forward_error(r);
    if (!impl_->hits.empty() && (!at_start || impl_->hits.front().begin == 0)) return i;
  }
  return none;
}

}  // namespace auto_round::exporting
