// What a command of the program is, and the list of them. Each command/<name>.cpp is one command: its options and what it does.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "command/options.hpp"
#include "error.hpp"

namespace auto_round::command {

class command {
 public:
  virtual ~command() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view summary() const = 0;  ///< one line
  virtual void declare(option_set& options) = 0;
  /// People's text goes to stderr, results to stdout.
  virtual result<void> run() = 0;
  /// Whether threads share out many small products, so that it matters how they wait for each other.
  virtual bool shares_products() const { return false; }
};

/// Values that the name of the program fills in for options that the user leaves out (auto-round-best, -light, -rtn, -opt-rtn).
struct recipe {
  std::string_view name;
  std::int64_t batch_size, iters, seqlen, nsamples;
  double lr;         ///< 0: none
  int opt_rtn;       ///< -1 off, 0 automatic, 1 on
};
const recipe& recipe_of_program(std::string_view program);  ///< by argv[0]; "default" for any other name

std::unique_ptr<command> make_quantize(const recipe& defaults);
std::unique_ptr<command> make_convert();
std::unique_ptr<command> make_eval();
std::unique_ptr<command> make_generate();
std::unique_ptr<command> make_inspect();
std::unique_ptr<command> make_verify();
std::unique_ptr<command> make_list();
std::unique_ptr<command> make_report();
std::unique_ptr<command> make_tokenize();

/// Which command a line means, and what is left for it. "help" is one here.
struct routed_line {
  std::string command;
  std::vector<std::string> rest;
};
routed_line route(std::string_view program, const std::vector<std::string>& arguments);

/// The options of a line as a file for --config: checked as far as each can be by itself, nothing is run. Values are as they were typed.
result<std::string> effective_options(const std::string& command, const std::vector<std::string>& arguments);

/// Finds the command, reads its options and runs it. `arguments` without argv[0]. Prints help and version itself.
result<void> run_program(const std::string& program, const std::vector<std::string>& arguments);

}  // namespace auto_round::command
