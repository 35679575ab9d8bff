// Regular expressions over layer names in configurations of packed checkpoints: extra_config, dynamic, modules_to_not_convert.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "error.hpp"

namespace auto_round::exporting {

class name_patterns {
 public:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  name_patterns();
  name_patterns(name_patterns&&) noexcept;
  name_patterns& operator=(name_patterns&&) noexcept;
  ~name_patterns();

  /// error_kind::input naming `file` for a broken pattern, or more of them than a configuration can sensibly have.
  result<void> add(const std::string& pattern, const std::string& file);
  /// Index of the first pattern that is found in `name`, or found at its start; `none` if there is none. error_kind::input for a pattern that takes
  /// too long.
  result<std::size_t> first_found(const std::string& name, bool at_start = false) const;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::exporting
