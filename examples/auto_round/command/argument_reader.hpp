// Command lines as Python's argparse reads them, from which users come: options in the order of the line, the last of several values wins, unique
// beginnings of names are enough, a value may follow '=' or a blank, and negative numbers are values.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "command/options.hpp"
#include "error.hpp"

namespace auto_round::command {

/// An option with its value ("" for flags; several values are joined by blanks), and where it was found ("" for the command line).
struct given_option {
  const option* which = nullptr;
  std::string value;
  std::string source{};
};

struct given_arguments {
  std::vector<given_option> options;  ///< in the order of the line
  std::string positional;             ///< the argument without a name, or empty
  bool help = false;                  ///< -h or --help: nothing else matters
};

/// error_kind::usage with argparse's sentences for unknown and ambiguous options, missing values, values out of the choices, and options that exclude
/// each other.
result<given_arguments> read_arguments(const option_set& set, const std::vector<std::string>& arguments);

/// Options from a JSON object, "scheme": "W4A16": any spelling of names; true sets a flag, false leaves it out; lists are several values,
/// separated by commas where an option takes one text.
result<std::vector<given_option>> read_config_file(const option_set& set, const std::string& file);

/// Options that environment variables stand for; `notes` receives a line for each variable that is known but means nothing here. error_kind::unsupported
/// for one that would change the result of the original, and here does not.
result<std::vector<given_option>> read_environment(const option_set& set, std::vector<std::string>& notes);

/// One variable of the original and what becomes of it.
struct environment_variable {
  const char* name;    ///< ending in '*': all that begin so
  const char* option;  ///< the option that it sets, or null
  const char* text;    ///< what it does, or why nothing
  effect what;
  const char* harmless = "";  ///< if it is refused: the value that asks for what is done anyway
};
const std::vector<environment_variable>& environment_variables();

/// What `given` says, as a file for --config.
std::string config_text(const std::vector<given_option>& given, const std::string& positional);

}  // namespace auto_round::command
