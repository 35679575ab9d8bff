// Parsing of the command line: the only file that sees CLI11. Long options may be written with '-' or '_' and abbreviated as long as they are
// unambiguous; the last of several occurrences wins, as in Python's argparse, from which users come.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "ar/version.hpp"
#include "command/command.hpp"

namespace auto_round::command {
namespace {

constexpr std::array recipes = {
    recipe{"default", 8, 200, 2048, 128, 0, 0},
    recipe{"best", 8, 1000, 2048, 512, 0, 0},
    recipe{"light", 8, 50, 2048, 128, 5e-3, 0},
    recipe{"rtn", 8, 0, 2048, 1, 0, -1},
    recipe{"opt-rtn", 8, 0, 2048, 128, 0, 1},
};

std::string with_underscores(std::string s) {
  std::replace(s.begin(), s.end(), '-', '_');
  return s;
}

/// "--group-size=64" -> "--group_size=64", "--enable_min" -> "--enable_minmax_tuning". Unknown names stay for CLI11 to refuse.
result<std::string> canonical(const std::string& argument, const option_set& set) {
  if (!argument.starts_with("--") || argument.size() == 2) return argument;
  const std::size_t equal = std::min(argument.find('='), argument.size());
  const std::string name = with_underscores(argument.substr(2, equal - 2)), rest = argument.substr(equal);
  std::vector<std::string> candidates;
  const option* last = nullptr;
  bool several = false;
  for (const option& o : set.options()) {
    for (const std::string& n : o.names) {
      if (n == name) return "--" + n + rest;
      if (!n.starts_with(name)) continue;
      candidates.push_back("--" + n);
      several |= last != nullptr && last != &o;
      last = &o;
    }
  }
  if (several) return fail(error_kind::usage, fmt::format("ambiguous option: --{} could match {}", name, fmt::join(candidates, ", ")));
  return candidates.empty() ? "--" + name + rest : candidates.front() + rest;
}

std::string nearest_option(const std::string& unknown, const option_set& set) {
  // The longest common prefix is enough to find a mistyped ending; other typos get no suggestion.
  std::string best;
  std::size_t most = 5;  // "--" and three letters
  for (const option& o : set.options()) {
    for (const std::string& n : o.names) {
      const std::string full = "--" + n;
      const auto common = static_cast<std::size_t>(std::mismatch(full.begin(), full.end(), unknown.begin(), unknown.end()).first - full.begin());
      if (common > most) {
        most = common;
        best = full;
      }
    }
  }
  return best;
}

result<void> parse(command& which, const std::string& program, const std::vector<std::string>& arguments, bool& help_shown) {
  option_set set;
  which.declare(set);
  CLI::App app(std::string(which.summary()), fmt::format("{} {}", program, which.name()));
  app.set_help_flag("-h,--help", "print this help");
  app.get_formatter()->column_width(44);
  error failed;
  bool has_failed = false;
  const auto call = [&](const option& o, const std::string& value) {
    if (has_failed) return;
    set.seen(o, value);
    if (const auto r = o.set(value); !r) {
      failed = r.error();
      has_failed = true;
    }
  };
  for (const option& o : set.options()) {
    std::string names;
    for (const std::string& n : o.names) names += (names.empty() ? "--" : ",--") + n;
    CLI::Option* added = nullptr;
    if (o.value_name.empty()) {
      added = app.add_flag_callback(names, [&o, &call] { call(o, ""); }, o.help);
    } else {
      added = app.add_option_function<std::vector<std::string>>(
          names, [&o, &call](const std::vector<std::string>& values) { call(o, values.empty() ? "" : values.back()); }, o.help);
      added->type_name(o.value_name)->expected(o.optional_value ? 0 : 1, 1)->take_last();
    }
    added->group(o.hidden ? "" : o.group);
  }
  if (const option* p = set.positional()) {
    app.add_option_function<std::string>("MODEL", [&call, p](const std::string& v) { call(*p, v); }, p->help)->type_name("")->group("");
  }

  std::vector<std::string> normal;
  for (const std::string& a : arguments) {
    auto c = canonical(a, set);
    if (!c) return forward_error(c);
    normal.push_back(std::move(*c));
  }
  std::reverse(normal.begin(), normal.end());  // CLI11 takes them from the back
  try {
    app.parse(normal);
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    help_shown = true;
    return {};
  } catch (const CLI::ExtrasError&) {
    std::string unknown;
    for (const std::string& a : app.remaining()) unknown += (unknown.empty() ? "" : " ") + a;
    const std::string near = app.remaining().empty() ? std::string() : nearest_option(app.remaining().front(), set);
    return fail(error_kind::usage, fmt::format("unrecognized arguments: {}{}", unknown, near.empty() ? "" : "; did you mean " + near + "?"));
  } catch (const CLI::ParseError& e) {
    return fail(error_kind::usage, e.what());
  }
  if (has_failed) return tl::unexpected<error>(failed);
  for (const std::string& line : set.notices()) fmt::print(stderr, "note: {}\n", line);
  return {};
}

std::vector<std::unique_ptr<command>> commands(const recipe& defaults) {
  std::vector<std::unique_ptr<command>> all;
  all.push_back(make_quantize(defaults));
  all.push_back(make_eval());
  all.push_back(make_generate());
  all.push_back(make_inspect());
  all.push_back(make_verify());
  all.push_back(make_list());
  all.push_back(make_report());
  all.push_back(make_tokenize());
  return all;
}

std::string overview(const std::string& program, const std::vector<std::unique_ptr<command>>& all) {
  std::string text = fmt::format("usage: {} [quantize] --model DIR [options]\n       {} COMMAND [options]\n\ncommands:\n", program, program);
  for (const auto& c : all) text += fmt::format("  {:<10} {}\n", c->name(), c->summary());
  return text + fmt::format("\n`{} COMMAND --help` prints a command's options.\n", program);
}

}  // namespace

const recipe& recipe_of_program(std::string_view program) {
  for (const recipe& r : recipes) {
    if (program == fmt::format("auto-round-{}", r.name) || program == fmt::format("auto_round_{}", with_underscores(std::string(r.name)))) return r;
  }
  return recipes.front();
}

result<void> run_program(const std::string& path, const std::vector<std::string>& arguments) {
  const std::string program = std::filesystem::path(path).filename().string();
  const recipe& defaults = recipe_of_program(program);
  const auto all = commands(defaults);
  std::vector<std::string> rest = arguments;
  if (rest.empty()) {
    std::fputs(overview(program, all).c_str(), stderr);
    return fail(error_kind::usage, "no model given; write --model DIR");
  }
  if (rest.front() == "--version") {
    fmt::print("{} {}\n", program, AR_VERSION_STRING);
    return {};
  }
  std::string wanted = "quantize";
  // The recipes quantize only, so that a model may be called "eval" there.
  if (defaults.name == "default") {
    const auto known = std::find_if(all.begin(), all.end(), [&](const auto& c) { return c->name() == rest.front(); });
    if (known != all.end()) {
      wanted = rest.front();
      rest.erase(rest.begin());
    } else if (rest.front() == "help" || (rest.size() == 1 && (rest.front() == "-h" || rest.front() == "--help"))) {
      const bool named = rest.front() == "help" && rest.size() > 1;
      if (!named) {
        std::fputs(overview(program, all).c_str(), stdout);
        return {};
      }
      wanted = rest[1];
      rest = {"--help"};
    } else {
      for (const char* alias : {"list", "eval"}) {  // the original's old spelling: --list and --eval anywhere
        const auto at = std::find(rest.begin(), rest.end(), fmt::format("--{}", alias));
        if (at == rest.end()) continue;
        rest.erase(at);
        wanted = alias;
        break;
      }
    }
  }
  for (const auto& c : all) {
    if (c->name() != wanted) continue;
    bool help_shown = false;
    if (auto r = parse(*c, program, rest, help_shown); !r) return r;
    return help_shown ? result<void>{} : c->run();
  }
  return fail(error_kind::usage, fmt::format("there is no command \"{}\"", wanted));
}

}  // namespace auto_round::command
