// What people read of the table of options: --help, shell completion, the manual page.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "command/options.hpp"

namespace auto_round::command {

/// A command as its texts need it.
struct described_command {
  std::string_view name, summary;
  const option_set* options = nullptr;
};

std::string help_text(std::string_view program, const described_command& command);

/// The part of a help text on the options of a group whose names have `part` in them.
std::string group_text(const option_set& options, std::string_view group, std::string_view part = "");

/// A script that completes commands, options and their choices; `shell` is bash, zsh or fish, `programs` the names under which the program is installed.
std::string completion_script(std::string_view shell, std::span<const described_command> commands, std::span<const std::string> programs);

/// The page auto-round(1) for man(1), as roff.
std::string manual_page(std::span<const described_command> commands);

}  // namespace auto_round::command
