// Building of option tables.
#include "command/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "plan.hpp"

namespace auto_round::command {
namespace {

std::vector<std::string> split_names(std::string_view names) {
  std::vector<std::string> all;
  while (!names.empty()) {
    const std::size_t comma = std::min(names.find(','), names.size());
    all.emplace_back(names.substr(0, comma));
    names.remove_prefix(std::min(comma + 1, names.size()));
  }
  return all;
}

option named(std::string_view names, std::string_view value_name, std::string_view help) {
  option o;
  o.names = split_names(names);
  o.value_name = value_name;
  o.count = value_name.empty() ? values::none : values::one;
  o.help = help;
  return o;
}

}  // namespace

std::string with_underscores(std::string name) {
  std::ranges::replace(name, '-', '_');
  return name;
}

result<std::int64_t> parse_integer(const std::string& option, const std::string& text) {
  std::int64_t value = 0;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, ec] = std::from_chars(begin, text.data() + text.size(), value);
  if (ec == std::errc() && end == text.data() + text.size()) return value;
  // The original's parser reads --bits as a number with a fraction: "4.0" is an integer.
  if (auto d = parse_real(option, text); d && *d == std::floor(*d) && std::abs(*d) < 1e15) return static_cast<std::int64_t>(*d);
  return fail(error_kind::usage, fmt::format("argument --{}: invalid int value: '{}'", option, text));
}

result<double> parse_real(const std::string& option, const std::string& text) {
  double value = 0;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, ec] = std::from_chars(begin, text.data() + text.size(), value);
  if (ec == std::errc() && end == text.data() + text.size() && std::isfinite(value)) return value;
  return fail(error_kind::usage, fmt::format("argument --{}: invalid float value: '{}'", option, text));
}

result<void> check_choice(const std::string& option, const std::string& text, const std::vector<std::string>& choices) {
  if (choices.empty() || std::find(choices.begin(), choices.end(), text) != choices.end()) return {};
  return fail(error_kind::usage, fmt::format("argument --{}: invalid choice: '{}' (choose from {})", option, text, fmt::join(choices, ", ")));
}

void option_set::add(option o) {
  if (o.group.empty()) o.group = group_;
  options_.push_back(std::move(o));
}

void option_set::text(std::string_view names, std::string_view value_name, std::string& to, std::string_view help) {
  option o = named(names, value_name, help);
  o.set = [&to](const std::string& v) -> result<void> {
    to = v;
    return {};
  };
  add(std::move(o));
}

void option_set::text(std::string_view names, std::string_view value_name, std::optional<std::string>& to, std::string_view help) {
  option o = named(names, value_name, help);
  o.set = [&to](const std::string& v) -> result<void> {
    to = v;
    return {};
  };
  add(std::move(o));
}

void option_set::integer(std::string_view names, std::int64_t& to, std::string_view help) {
  option o = named(names, "N", help);
  o.set = [&to, name = o.names.front()](const std::string& v) -> result<void> {
    auto n = parse_integer(name, v);
    if (!n) return forward_error(n);
    to = *n;
    return {};
  };
  add(std::move(o));
}

void option_set::integer(std::string_view names, std::optional<std::int64_t>& to, std::string_view help) {
  option o = named(names, "N", help);
  o.set = [&to, name = o.names.front()](const std::string& v) -> result<void> {
    auto n = parse_integer(name, v);
    if (!n) return forward_error(n);
    to = *n;
    return {};
  };
  add(std::move(o));
}

void option_set::real(std::string_view names, std::optional<double>& to, std::string_view help) {
  option o = named(names, "X", help);
  o.set = [&to, name = o.names.front()](const std::string& v) -> result<void> {
    auto x = parse_real(name, v);
    if (!x) return forward_error(x);
    to = *x;
    return {};
  };
  add(std::move(o));
}

void option_set::bytes(std::string_view names, std::uint64_t& to, std::string_view help) {
  option o = named(names, "SIZE", help);
  o.set = [&to, name = o.names.front()](const std::string& v) -> result<void> {
    auto n = plan::parse_bytes(v);
    if (!n) return fail(error_kind::usage, fmt::format("argument --{}: {}", name, n.error().message));
    to = *n;
    return {};
  };
  add(std::move(o));
}

void option_set::flag(std::string_view names, bool& to, bool value, std::string_view help) {
  option o = named(names, "", help);
  o.set = [&to, value](const std::string&) -> result<void> {
    to = value;
    return {};
  };
  add(std::move(o));
}

void option_set::flag(std::string_view names, std::optional<bool>& to, bool value, std::string_view help) {
  option o = named(names, "", help);
  o.set = [&to, value](const std::string&) -> result<void> {
    to = value;
    return {};
  };
  add(std::move(o));
}

void option_set::flag_pair(const std::string& name, bool& to, std::string_view help, std::string_view opposite) {
  flag(name, to, true, help);
  flag("no_" + name, to, false, opposite);
}

void option_set::choice(std::string_view names, std::string_view choices, std::string& to, std::string_view help) {
  option o = named(names, "WHAT", help);
  o.choices = split_names(choices);
  o.set = [&to](const std::string& v) -> result<void> {
    to = v;
    return {};
  };
  add(std::move(o));
}

void option_set::notice(std::string_view names, bool takes_value, std::string_view why) {
  option o = named(names, takes_value ? "X" : "", why);
  o.what = effect::notice;
  o.count = takes_value ? values::at_most_one : values::none;
  o.set = [this, text = fmt::format("--{}: {}", o.names.front(), why)](const std::string&) -> result<void> {
    if (std::find(notices_.begin(), notices_.end(), text) == notices_.end()) notices_.push_back(text);
    return {};
  };
  add(std::move(o));
}

void option_set::refuse(std::string_view names, bool takes_value, std::string_view why) {
  option o = named(names, takes_value ? "X" : "", why);
  o.what = effect::refused;
  o.count = takes_value ? values::at_most_one : values::none;
  o.set = [text = fmt::format("--{}: {}", o.names.front(), why)](const std::string&) -> result<void> { return fail(error_kind::unsupported, text); };
  add(std::move(o));
}

void option_set::exclude(std::string_view names) {
  const std::vector<std::string> all = split_names(names);
  for (option& o : options_) {
    if (std::find(all.begin(), all.end(), o.names.front()) != all.end()) o.exclusive = names;
  }
}

void option_set::suggest(std::string_view name, std::vector<std::string> values) {
  for (option& o : options_) {
    if (o.names.front() == name) o.suggestions = values;
  }
}

void option_set::positional(std::string_view value_name, std::string& to, std::string_view help, values count) {
  option o = named("", value_name, help);
  o.count = count;
  o.set = [&to](const std::string& v) -> result<void> {
    to = v;
    return {};
  };
  positional_ = std::move(o);
}

}  // namespace auto_round::command
