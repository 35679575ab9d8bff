// The options of a command as a table: names, kinds, where the value goes, one line of help, and what happens. The parser, --help, shell completion and
// the manual page are made from it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace auto_round::command {

/// A name as the table has it: '_' for the '-' that the user may write.
std::string with_underscores(std::string name);

/// What an option does in this program.
enum class effect {
  works,
  notice,   ///< accepted; the user is told once why it changes nothing here
  refused,  ///< known from the original, but doing without it would silently give another result
};

/// How many values follow an option.
enum class values { none, one, at_most_one, some };

struct option {
  std::vector<std::string> names;  ///< without dashes, with '_' between words (the user may write '-'); the first is the canonical one
  std::string value_name{};        ///< "N", "DIR"; empty for a flag
  values count = values::one;
  std::string help{};              ///< what it does, or why it does nothing
  std::string group{};
  std::vector<std::string> choices{};  ///< the values that are possible; empty: any
  std::vector<std::string> suggestions{};  ///< of other options: values that completion offers
  std::string exclusive{};             ///< options with the same text exclude each other on one command line
  effect what = effect::works;
  std::function<std::string(const std::string& before, const std::string& next)> joined{};  ///< of an option whose occurrences add up: one value for two of them
  std::function<result<void>(const std::string& value)> set{};  ///< called once per occurrence, in order; flags get "", several values are joined by blanks
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
  /// As plan::parse_bytes.
  void bytes(std::string_view names, std::uint64_t& to, std::string_view help);
  void flag(std::string_view names, bool& to, bool value, std::string_view help);
  void flag(std::string_view names, std::optional<bool>& to, bool value, std::string_view help);
  /// A flag and its negation, --no_NAME.
  void flag_pair(const std::string& name, bool& to, std::string_view help, std::string_view opposite);
  /// One of a few words, separated by commas in `choices`.
  void choice(std::string_view names, std::string_view choices, std::string& to, std::string_view help);
  /// Accepted without effect; `why` is told to the user once.
  void notice(std::string_view names, bool takes_value, std::string_view why);
  /// Known from the original, but doing without it would silently give another result: error_kind::unsupported with `why`.
  void refuse(std::string_view names, bool takes_value, std::string_view why);
  /// The options with these names, separated by commas, exclude each other.
  void exclude(std::string_view names);
  /// Completion offers `values` for the option whose first name is `name`.
  void suggest(std::string_view name, std::vector<std::string> values);
  /// The one argument without a name; sets the same variable as option `name`.
  void positional(std::string_view value_name, std::string& to, std::string_view help, values count = values::one);
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
/// "'x' is none of a, b" as the original says it.
result<void> check_choice(const std::string& option, const std::string& text, const std::vector<std::string>& choices);

}  // namespace auto_round::command
