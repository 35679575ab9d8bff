// The command list: schemes, formats, architectures and tasks that this version knows.
#include <fmt/format.h>

#include <cstdio>

#include "arch/architecture.hpp"
#include "command/command.hpp"
#include "evaluation/task.hpp"
#include "export/export_format.hpp"
#include "plan.hpp"
#include "report/table.hpp"

namespace auto_round::command {
namespace {

class list final : public command {
 public:
  std::string_view name() const override { return "list"; }
  std::string_view summary() const override { return "list schemes, formats, architectures or tasks"; }

  void declare(option_set& o) override { o.positional("WHAT", what_, "schemes, formats, architectures or tasks; everything but tasks if left out"); }

  result<void> run() override {
    const bool schemes = what_ == "schemes" || what_ == "scheme", formats = what_ == "formats" || what_ == "format";
    const bool architectures = what_ == "architectures" || what_ == "architecture" || what_ == "models";
    const bool tasks = what_ == "tasks" || what_ == "task";
    if (!what_.empty() && !schemes && !formats && !architectures && !tasks) {
      return fail(error_kind::usage, fmt::format("list what? \"{}\" is unknown; schemes, formats, architectures and tasks can be listed", what_));
    }
    if (what_.empty() || schemes) print_schemes();
    if (what_.empty() || formats) print_formats();
    if (what_.empty() || architectures) print_architectures();
    if (tasks) print_tasks();
    return {};
  }

 private:
  static void print_schemes() {
    std::vector<std::vector<std::string>> rows;
    for (const ar::preset& p : ar::presets) {
      const auto resolved = plan::resolve_scheme(std::string(p.name), {}, {"fake"});
      const std::string group = p.fields.group_rows != 0 ? fmt::format("{}x{}", p.fields.group_rows, p.fields.group_size) : fmt::format("{}", p.fields.group_size);
      rows.push_back({std::string(p.name), std::string(p.fields.data_type), fmt::format("{}", p.fields.bits), group, p.fields.sym ? "yes" : "no",
                      fmt::format("{}", p.fields.act_bits.value_or(16)), resolved ? "yes" : "not yet"});
    }
    using report::align;
    fmt::print("{}\n", report::text_table({{"scheme"}, {"data type"}, {"bits", align::right}, {"group", align::right}, {"symmetric"}, {"activation bits", align::right},
                                           {"supported"}}, rows));
  }

  /// What each format really stores, which is asked of the formats themselves.
  static void print_formats() {
    fmt::print("formats and the schemes that they hold\n");
    for (const exporting::export_format* f : exporting::all()) {
      for (const std::string_view spelling : f->spellings) fmt::print("{}\n\t{}\n", spelling, fmt::join(schemes_of(*f, spelling), ", "));
    }
    fmt::print("\n");
  }

  static std::vector<std::string> schemes_of(const exporting::export_format& f, std::string_view spelling) {
    if (f.own_scheme(spelling) != nullptr) return {"prescribed by the format"};
    if (spelling == "fake") return {"all"};
    std::vector<std::string> names;
    for (const ar::preset& p : ar::presets) {
      if (std::string_view(p.name).starts_with("GGUF:")) continue;
      const auto scheme = plan::resolve_scheme(std::string(p.name), {}, {std::string(spelling)});
      if (!scheme) continue;
      const auto answer = f.accepts(spelling, *scheme);
      if (answer && *answer == exporting::holding::packed) names.emplace_back(p.name);
    }
    return names;
  }

  static void print_architectures() {
    std::vector<std::vector<std::string>> rows;
    for (const arch::architecture* a : arch::all()) rows.push_back({std::string(a->name), fmt::format("{}", fmt::join(a->model_classes, ", "))});
    fmt::print("{}\n", report::text_table({{"architecture"}, {"model classes"}}, rows));
  }

  static void print_tasks() {
    std::vector<std::vector<std::string>> rows;
    for (const evaluation::task& t : evaluation::all_tasks()) {
      const char* const examples = t.pool == evaluation::examples::training ? ".train.jsonl" : t.pool == evaluation::examples::first ? ".dev.jsonl" : "";
      rows.push_back({t.name, std::string(t.version), t.group, t.name + ".jsonl", *examples != '\0' ? t.name + examples : "", std::string(t.fields)});
    }
    fmt::print("{}\n", report::text_table({{"task"}, {"version"}, {"group"}, {"documents"}, {"few-shot examples"}, {"fields"}}, rows));
  }

  std::string what_;
};

}  // namespace

std::unique_ptr<command> make_list() { return std::make_unique<list>(); }

}  // namespace auto_round::command
