// Patterns over layer names, as users write them in --layer_config and as configuration files store them.
#pragma once

#include <memory>
#include <string>

#include "error.hpp"

namespace auto_round::exporting {

/// The regular expression that a pattern means (auto-round 0.16.1, to_standard_regex): text without ".*" and without any of ^ $ | ( ) [ ] ? + is
/// literal; otherwise every "." that does not belong to ".*" is. Open ends are closed with ".*": "layers.1.mlp" -> ".*layers\.1\.mlp.*".
std::string exported_regex(const std::string& pattern);

/// A pattern compiled; it is searched for, not matched as a whole.
class layer_pattern {
 public:
  /// error_kind::usage if what exported_regex() makes of it is no regular expression.
  static result<layer_pattern> compile(const std::string& pattern);
  layer_pattern(layer_pattern&&) noexcept;
  layer_pattern& operator=(layer_pattern&&) noexcept;
  ~layer_pattern();
  bool found_in(const std::string& name) const;

 private:
  layer_pattern();
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::exporting
