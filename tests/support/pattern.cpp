#include "support/pattern.hpp"

#include <regex>

namespace support {

struct pattern::compiled {
  std::regex expression;
};

namespace {

std::vector<std::string> groups(const std::smatch& m) { return {m.begin(), m.end()}; }

}  // namespace

pattern::pattern(const std::string& expression) : compiled_(new compiled{std::regex(expression)}) {}

std::vector<std::string> pattern::match(const std::string& text) const {
  std::smatch m;
  return std::regex_match(text, m, compiled_->expression) ? groups(m) : std::vector<std::string>();
}

std::vector<std::string> pattern::search(const std::string& text) const {
  std::smatch m;
  return std::regex_search(text, m, compiled_->expression) ? groups(m) : std::vector<std::string>();
}

}  // namespace support
