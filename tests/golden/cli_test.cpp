// links: ar_command
// Command lines of auto-round 0.16.1 (golden/cli): which are accepted, what they set, which command they mean. Values are compared as they were typed;
// options of the original that this program refuses must still be read like the original reads them.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "command/argument_reader.hpp"
#include "command/command.hpp"
#include "command/option_text.hpp"
#include "support/golden_json.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

ordered_json argv() { return golden::read_json(golden::root() / "cli" / "argv.json"); }

/// Where the original's parser keeps a value, and the name of the option here if it is another one.
const std::map<std::string, std::string> names = {{"model_name", "model"}, {"n_grid", "awq_n_grid"}, {"duo_scaling", "awq_duo_scaling"}, {"rotation_hadamard_type", "rotation_type"}};
/// Flags that set a value to false, or that have another name.
const std::map<std::pair<std::string, bool>, std::string> flags = {{{"enable_minmax_tuning", false}, "disable_minmax_tuning"},
                                                                  {{"enable_quanted_input", false}, "disable_quanted_input"},
                                                                  {{"enable_torch_compile", false}, "disable_torch_compile"},
                                                                  {{"disable_opt_rtn", false}, "enable_opt_rtn"},
                                                                  {{"r2", false}, "no_r2"}};

/// Values whose defaults the original writes out when the option stands alone.
bool stands_alone(const std::string& key) { return key == "tasks"; }

std::string without_marks(const std::string& text, const std::string& marks) {
  std::string out;
  for (const char c : text) out += marks.find(c) == std::string::npos ? c : ' ';
  return out;
}

void expect_value(const std::string& key, const ordered_json& want, const ordered_json& got) {
  if (key == "model" && want.is_null()) return;  // the original's positional argument was not given
  if (want.is_boolean()) {
    const auto flag = flags.find({key, want.get<bool>()});
    const std::string name = flag != flags.end() ? flag->second : key;
    EXPECT_TRUE(got.contains(name)) << name << " in " << got.dump();
    return;
  }
  const auto other = names.find(key);
  std::string name = other != names.end() ? other->second : key;
  if (key == "bits" && !got.contains(name)) name = "avg_bits";  // another name of the same value
  ASSERT_TRUE(got.contains(name)) << name << " in " << got.dump();
  const std::string text = got[name].get<std::string>();
  if (want.is_number()) {
    EXPECT_EQ(std::stod(text), want.get<double>());
  } else if (want.is_string()) {
    if (!stands_alone(key) || !text.empty()) {
      EXPECT_EQ(text, want.get<std::string>());
    }
  } else {  // lists: the words in their order
    std::string words;
    for (const auto& item : want) words += (words.empty() ? "" : " ") + (item.is_string() ? item.get<std::string>() : item.is_array() ? std::string() : item.dump());
    if (!want.empty() && want.front().is_array()) {  // several occurrences
      words.clear();
      for (const auto& list : want)
        for (const auto& item : list) words += (words.empty() ? "" : ",") + item.get<std::string>();
    }
    if (!words.empty()) {
      EXPECT_EQ(without_marks(text, ",;"), without_marks(words, ","));
    }
  }
}

TEST(CommandLine, EveryLineIsReadAsTheOriginalReadsIt) {
  const ordered_json all = argv();
  int accepted = 0, refused = 0;
  for (const char* command : {"quantize", "eval"}) {
    for (const auto& c : all[command]) {
      SCOPED_TRACE(std::string(command) + " " + c.dump());
      const auto arguments = c["argv"].get<std::vector<std::string>>();
      const auto got = command::effective_options(command, arguments);
      if (c.contains("exit")) {
        // Two spellings of one option are not ambiguous here.
        if (arguments.back() == "6" && arguments[arguments.size() - 2] == "--it") continue;
        ASSERT_FALSE(got.has_value()) << *got;
        EXPECT_EQ(static_cast<int>(got.error().kind), c["exit"].get<int>()) << got.error().message;
        ++refused;
        continue;
      }
      if (!got) {
        EXPECT_EQ(got.error().kind, error_kind::unsupported) << got.error().message;
        ADD_FAILURE() << got.error().message;
        continue;
      }
      ++accepted;
      const ordered_json options = golden::parse_json(*got);
      for (const auto& [key, value] : c["changed"].items()) expect_value(key, value, options);
    }
  }
  EXPECT_GT(accepted, 40);
  EXPECT_GT(refused, 8);
}

TEST(CommandLine, LinesMeanTheCommandThatTheyMeanInTheOriginal) {
  const ordered_json all = argv();
  for (const auto& c : all["routing"]) {
    SCOPED_TRACE(c.dump());
    const auto line = command::route("auto-round", c["argv"].get<std::vector<std::string>>());
    EXPECT_EQ(line.command, c["command"].get<std::string>());
    EXPECT_EQ(line.rest, c["rest"].get<std::vector<std::string>>());
  }
  EXPECT_EQ(command::route("auto-round-rtn", {"eval", "M"}).command, "quantize") << "the recipes quantize only";
  EXPECT_EQ(command::route("auto_round_eval", {"M"}).command, "eval");
}

TEST(CommandLine, RecipesAreThoseOfTheOriginal) {
  const ordered_json all = argv();
  for (const auto& [name, values] : all["recipes_after_defaults"].items()) {
    const std::string program = name == "default" ? "auto-round" : "auto_round_" + name;
    const command::recipe& r = command::recipe_of_program(program);
    EXPECT_EQ(r.batch_size, values["batch_size"].get<std::int64_t>()) << name;
    EXPECT_EQ(r.iters, values["iters"].get<std::int64_t>()) << name;
    EXPECT_EQ(r.seqlen, values["seqlen"].get<std::int64_t>()) << name;
    EXPECT_EQ(r.nsamples, values["nsamples"].get<std::int64_t>()) << name;
    EXPECT_EQ(r.lr, values["lr"].is_null() ? 0.0 : values["lr"].get<double>()) << name;
    EXPECT_EQ(r.opt_rtn, !values.contains("disable_opt_rtn") ? 0 : values["disable_opt_rtn"].get<bool>() ? -1 : 1) << name;
  }
}

/// --schemes takes blanks and commas.
TEST(CommandLine, ListsOfSchemesAreNormalized) {
  const ordered_json all = argv();
  for (const auto& c : all["schemes_normalisation"]) {
    std::vector<std::string> arguments = {"M", "--schemes"};
    for (const auto& token : c["in"]) arguments.push_back(token.get<std::string>());
    const auto got = command::effective_options("quantize", arguments);
    ASSERT_TRUE(got.has_value()) << got.error().message;
  }
}

TEST(CommandLine, EveryOptionOfTheOriginalIsKnown) {
  const ordered_json all = argv();
  command::option_set set;
  const auto quantize = command::make_quantize(command::recipe_of_program("auto-round"));
  quantize->declare(set);
  std::set<std::string> known;
  for (const command::option& o : set.options()) known.insert(o.names.begin(), o.names.end());
  const std::map<std::string, std::string> spelled = {{"svdquant_smooth_enabled", "enable_svdquant_smooth"}, {"svdquant_residual_early_stop", "enable_svdquant_residual_early_stop"}};
  for (const auto& [key, value] : all["quantize_defaults"].items()) {
    const auto other = names.find(key), own = spelled.find(key);
    const std::string name = own != spelled.end() ? own->second : other != names.end() ? other->second : key;
    EXPECT_TRUE(known.contains(name)) << name << " is neither supported nor refused with a reason";
  }
  for (const command::option& o : set.options()) {
    EXPECT_FALSE(o.help.empty()) << o.names.front();
    for (const std::string& n : o.names) EXPECT_EQ(n.find('-'), std::string::npos) << n;
  }
}

TEST(CommandLine, TextsAreMadeFromTheTable) {
  command::option_set set;
  const auto quantize = command::make_quantize(command::recipe_of_program("auto-round"));
  quantize->declare(set);
  const std::vector<command::described_command> commands = {{"quantize", quantize->summary(), &set}};
  const std::vector<std::string> programs = {"auto-round"};
  const std::string help = command::help_text("auto-round", commands[0]), manual = command::manual_page(commands);
  for (const command::option& o : set.options()) {
    const std::string name = "--" + o.names.front();
    if (o.what == command::effect::works) {
      EXPECT_NE(help.find(name), std::string::npos) << name;
    }
    std::string in_manual = "\\-\\-" + o.names.front();
    EXPECT_NE(manual.find(in_manual), std::string::npos) << name;
    if (o.what != command::effect::works) continue;
    for (const char* shell : {"bash", "zsh", "fish"}) {
      const std::string script = command::completion_script(shell, commands, programs);
      EXPECT_NE(script.find(std::string(shell) == "fish" ? " -l " + o.names.front() : name), std::string::npos) << shell << " " << name;
    }
  }
}

}  // namespace
