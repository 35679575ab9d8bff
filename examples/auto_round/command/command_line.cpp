// From the command line to a command that runs: which command, its options from environment, configuration file and arguments, help.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "ar/version.hpp"
#include "command/argument_reader.hpp"
#include "command/command.hpp"
#include "command/option_text.hpp"

namespace auto_round::command {
namespace {

constexpr std::array recipes = {
    recipe{"default", 8, 200, 2048, 128, 0, 0},
    recipe{"best", 8, 1000, 2048, 512, 0, 0},
    recipe{"light", 8, 50, 2048, 128, 5e-3, 0},
    recipe{"rtn", 8, 0, 2048, 1, 0, -1},
    recipe{"opt-rtn", 8, 0, 2048, 128, 0, 1},
};

constexpr const char* default_program = "auto-round";

/// A command with its table of options, which refers to it.
struct declared_command {
  std::unique_ptr<command> it;
  std::unique_ptr<option_set> options = std::make_unique<option_set>();
  std::string config{};
  bool print_config = false;

  described_command described() const { return {it->name(), it->summary(), options.get()}; }
};

std::unique_ptr<declared_command> declare(std::unique_ptr<command> which) {
  auto d = std::make_unique<declared_command>();
  d->it = std::move(which);
  d->it->declare(*d->options);
  d->options->group("Options from elsewhere");
  d->options->text("config", "FILE", d->config, "read options from a JSON object, {\"scheme\": \"W4A16\", \"iters\": 200}; those of the command line come after it");
  d->options->flag("print_config", d->print_config, true, "print the options that were given, as a file for --config, and stop");
  return d;
}

/// Reads everything that sets options into the command. True: help or the configuration was printed.
result<bool> set_options(declared_command& d, const std::string& program, const std::vector<std::string>& arguments) {
  option_set& set = *d.options;
  auto given = read_arguments(set, arguments);
  if (!given) return forward_error(given);
  if (given->help) {
    std::fputs(help_text(program, d.described()).c_str(), stdout);
    return true;
  }
  std::vector<std::string> notes;
  std::vector<given_option> all;
  if (d.it->name() == "quantize") {
    auto environment = read_environment(set, notes);
    if (!environment) return forward_error(environment);
    all = std::move(*environment);
  }
  for (const given_option& g : given->options) {
    if (g.which->names.front() != "config") continue;
    auto config = read_config_file(set, g.value);
    if (!config) return forward_error(config);
    all.insert(all.end(), config->begin(), config->end());
  }
  all.insert(all.end(), given->options.begin(), given->options.end());
  for (const given_option& g : all) {
    set.seen(*g.which, g.value);
    auto r = g.which->set(g.value);
    if (r) continue;
    error e = r.error();
    if (!g.source.empty()) e.message += " (from " + g.source + ")";
    return tl::unexpected<error>(std::move(e));
  }
  if (!given->positional.empty()) {
    if (auto r = set.positional()->set(given->positional); !r) return forward_error(r);
  }
  if (d.print_config) {
    std::fputs(config_text(all, given->positional).c_str(), stdout);
    return true;
  }
  notes.insert(notes.end(), set.notices().begin(), set.notices().end());
  for (const std::string& line : notes) fmt::print(stderr, "note: {}\n", line);
  return false;
}

std::vector<std::unique_ptr<command>> commands(const recipe& defaults) {
  std::vector<std::unique_ptr<command>> all;
  all.push_back(make_quantize(defaults));
  all.push_back(make_convert());
  all.push_back(make_eval());
  all.push_back(make_generate());
  all.push_back(make_inspect());
  all.push_back(make_verify());
  all.push_back(make_list());
  all.push_back(make_report());
  all.push_back(make_tokenize());
  return all;
}

/// `auto-round completion SHELL` and `auto-round man`: they are about all commands.
class completion final : public command {
 public:
  std::string_view name() const override { return "completion"; }
  std::string_view summary() const override { return "print a completion script for bash, zsh or fish"; }
  void declare(option_set& o) override { o.positional("SHELL", shell_, "bash, zsh or fish"); }
  result<void> run() override;

 private:
  std::string shell_;
};

class manual final : public command {
 public:
  std::string_view name() const override { return "man"; }
  std::string_view summary() const override { return "print the manual page: auto-round man | man -l -"; }
  void declare(option_set&) override {}
  result<void> run() override;
};

std::vector<std::unique_ptr<command>> all_commands(const recipe& defaults) {
  std::vector<std::unique_ptr<command>> all = commands(defaults);
  all.push_back(std::make_unique<completion>());
  all.push_back(std::make_unique<manual>());
  return all;
}

/// Everything, declared, for texts about it.
struct description {
  std::vector<std::unique_ptr<declared_command>> declared;
  std::vector<described_command> commands;

  description() {
    for (auto& c : all_commands(recipes.front())) declared.push_back(declare(std::move(c)));
    for (const auto& d : declared) commands.push_back(d->described());
  }
};

result<void> completion::run() {
  if (shell_ != "bash" && shell_ != "zsh" && shell_ != "fish") return fail(error_kind::usage, fmt::format("completion for which shell? \"{}\": bash, zsh or fish", shell_));
  std::vector<std::string> programs = {default_program};
  for (const recipe& r : recipes) {
    if (r.name != recipes.front().name) programs.push_back(fmt::format("{}-{}", default_program, r.name));
  }
  std::fputs(completion_script(shell_, description().commands, programs).c_str(), stdout);
  return {};
}

result<void> manual::run() {
  std::fputs(manual_page(description().commands).c_str(), stdout);
  return {};
}

std::string overview(const std::string& program, const std::vector<std::unique_ptr<command>>& all) {
  std::string text = fmt::format("usage: {} [quantize] --model DIR [options]\n       {} COMMAND [options]\n\ncommands:\n", program, program);
  for (const auto& c : all) text += fmt::format("  {:<11} {}\n", c->name(), c->summary());
  return text + fmt::format("\n`{} COMMAND --help` prints a command's options.\n", program);
}

const recipe* find_recipe(std::string_view program) {
  for (const recipe& r : recipes) {
    if (with_underscores(std::string(program)) == fmt::format("auto_round_{}", with_underscores(std::string(r.name)))) return &r;
  }
  return nullptr;
}

}  // namespace

const recipe& recipe_of_program(std::string_view program) {
  const recipe* r = find_recipe(program);
  return r != nullptr ? *r : recipes.front();
}

routed_line route(std::string_view program, const std::vector<std::string>& arguments) {
  routed_line line{"quantize", arguments};
  std::vector<std::string>& rest = line.rest;
  // The recipes quantize only, so that a model may be called "eval" there.
  if (recipe_of_program(program).name != recipes.front().name || rest.empty()) return line;
  if (program == "auto-round-eval" || program == "auto_round_eval") return {"eval", rest};
  const auto all = all_commands(recipes.front());
  const bool known = std::any_of(all.begin(), all.end(), [&](const auto& c) { return c->name() == rest.front(); });
  if (known || rest.front() == "help") {
    line.command = rest.front();
    rest.erase(rest.begin());
    return line;
  }
  for (const char* alias : {"list", "eval"}) {  // the original's old spelling: --list and --eval anywhere
    const auto at = std::find(rest.begin(), rest.end(), fmt::format("--{}", alias));
    if (at == rest.end()) continue;
    rest.erase(at);
    line.command = alias;
    break;
  }
  return line;
}

result<std::string> effective_options(const std::string& command, const std::vector<std::string>& arguments) {
  for (auto& c : all_commands(recipes.front())) {
    if (c->name() != command) continue;
    const auto d = declare(std::move(c));
    auto given = read_arguments(*d->options, arguments);
    if (!given) return forward_error(given);
    for (const given_option& g : given->options) {
      if (g.which->what == effect::refused) continue;  // its value is none of our business
      if (auto r = g.which->set(g.value); !r) return forward_error(r);
    }
    return config_text(given->options, given->positional);
  }
  return fail(error_kind::usage, fmt::format("there is no command \"{}\"", command));
}

namespace {

/// Threads of libgomp spin through whole time slices while they wait; how long, they read from the environment before main() begins. Where other programs keep
/// the cores busy, generation with two threads fell to a fifth of its speed (docs/benchmarks.md), so the program begins once more with short waits, unless the
/// user has said how threads wait. That takes the ten milliseconds of a start. If it cannot, it goes on as it is.
void begin_with_short_waits([[maybe_unused]] std::string program, [[maybe_unused]] std::vector<std::string> arguments) {
#if defined(__linux__) && defined(_OPENMP) && !defined(__clang__)
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  std::vector<char*> argv = {program.data()};
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  if (setenv("GOMP_SPINCOUNT", "10000", 1) == 0) execv("/proc/self/exe", argv.data());
#endif
}

}  // namespace

result<void> run_program(const std::string& path, const std::vector<std::string>& arguments) {
  const std::string program = std::filesystem::path(path).filename().string();
  const recipe& defaults = recipe_of_program(program);
  if (arguments.empty()) {
    std::fputs(overview(program, all_commands(defaults)).c_str(), stderr);
    return fail(error_kind::usage, "no model given; write --model DIR");
  }
  if (arguments.front() == "--version") {
    fmt::print("{} {}\n", program, AR_VERSION_STRING);
    return {};
  }
  routed_line line = route(program, arguments);
  const bool asks = arguments.size() == 1 && (arguments.front() == "-h" || arguments.front() == "--help") && defaults.name == recipes.front().name;
  if (asks || (line.command == "help" && line.rest.empty())) {
    std::fputs(overview(program, all_commands(defaults)).c_str(), stdout);
    return {};
  }
  if (line.command == "help") line = {line.rest.front(), {"--help"}};
  for (auto& c : all_commands(defaults)) {
    if (c->name() != line.command) continue;
    if (c->shares_products()) begin_with_short_waits(path, arguments);
    const auto d = declare(std::move(c));
    auto done = set_options(*d, program, line.rest);
    if (!done) return forward_error(done);
    return *done ? result<void>{} : d->it->run();
  }
  return fail(error_kind::usage, fmt::format("there is no command \"{}\"", line.command));
}

}  // namespace auto_round::command
