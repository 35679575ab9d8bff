// The options of a command as a table: names, kinds, where the value goes, one line of help. The parser, --help and completion are made from it;
// only command_line.cpp knows how command lines are parsed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace auto_round::command {

struct option {
  std::vector<std::string> names;  ///< without dashes, with '_' between words (the user may write '-'); the first is the canonical one
  std::string value_name;          ///< "N", "DIR"; empty for a flag
  bool optional_value = false;     ///< the value may be left out
  std::string help;
  std::string group;
  std::function<result<void>(const std::string& value)> set;  ///< called once per occurrence, in order; flags get ""
  bool hidden = false;             ///< accepted, but not in --help
};

class option_set {
 public:
  const std::vector<option>& options() const { return options_; }
  const option* positional() const { return positional_ ? &*positional_ : nullptr; }
  const std::vector<std::string>& notices() const { return notices_; }  ///< lines for the user about options that have no effect here

  void group(std::string name) { group_ = std::move(name); }
  /// `names` are separated by commas.
  void text(std::string_view names, std::string_view value_name, std::string& to, std::string_view help);
  void text(std::string_view names, std::string_view value_name, std::optional<std::string>& to, std::string_view help);
  void integer(std::string_view names, std::int64_t& to, std::string_view help);
  void integer(std::string_view names, std::optional<std::int64_t>& to, std::string_view help);
  void real(std::string_view names, std::optional<double>& to, std::string_view help);
  void flag(std::string_view names, bool& to, bool value, std::string_view help);
  void flag(std::string_view names, std::optional<bool>& to, bool value, std::string_view help);
  /// Accepted without effect; `why` is told to the user once.
  void notice(std::string_view names, bool takes_value, std::string_view why);
  /// Known from the original, but doing without it would silently give another result: error_kind::unsupported with `why`.
  void refuse(std::string_view names, bool takes_value, std::string_view why);
  /// The one argument without a name; sets the same variable as option `name`.
  void positional(std::string_view value_name, std::string& to, std::string_view help);
  void add(option o);

  /// `f` sees every option that is given, with its value, before it is set.
  void watch(std::function<void(const option&, const std::string& value)> f) { watch_ = std::move(f); }
  void seen(const option& o, const std::string& value) const {
    if (watch_) watch_(o, value);
  }

 private:
  std::function<void(const option&, const std::string&)> watch_;
  std::vector<option> options_;
  std::optional<option> positional_;
  std::vector<std::string> notices_;
  std::string group_ = "Options";
};

/// Strict readers of numbers: the whole text, error_kind::usage otherwise.
result<std::int64_t> parse_integer(const std::string& option, const std::string& text);
result<double> parse_real(const std::string& option, const std::string& text);

}  // namespace auto_round::command
