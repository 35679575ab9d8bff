// Regular expressions for tests, compiled in one unit: std::regex in a dozen of them would be a good part of their compile time.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace support {

class pattern {
 public:
  /// ECMAScript's syntax, as of std::regex, which throws where the expression is wrong.
  explicit pattern(const std::string& expression);

  /// The whole text and what each group matched, "" if nothing; empty if the expression does not match the text from end to end.
  std::vector<std::string> match(const std::string& text) const;
  /// The same for the first place of the text that the expression matches.
  std::vector<std::string> search(const std::string& text) const;

 private:
  struct compiled;
  std::shared_ptr<const compiled> compiled_;
};

}  // namespace support
