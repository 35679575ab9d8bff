// The command list: what this version knows: schemes, formats, architectures, data sets, algorithms.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "arch/architecture.hpp"
#include "command/command.hpp"
#include "command/option_text.hpp"
#include "evaluation/task.hpp"
#include "export/export_format.hpp"
#include "plan.hpp"
#include "report/table.hpp"
#include "text/named_datasets.hpp"

namespace auto_round::command {
namespace {

using report::align;

void print_schemes() {
  std::vector<std::vector<std::string>> rows;
  for (const ar::preset& p : ar::presets) {
    const auto resolved = plan::resolve_scheme(std::string(p.name), {}, {"fake"});
    const std::string group = p.fields.group_rows != 0 ? fmt::format("{}x{}", p.fields.group_rows, p.fields.group_size) : fmt::format("{}", p.fields.group_size);
    rows.push_back({std::string(p.name), std::string(p.fields.data_type), fmt::format("{}", p.fields.bits), group, p.fields.sym ? "yes" : "no",
                    fmt::format("{}", p.fields.act_bits.value_or(16)), resolved ? "yes" : "not yet"});
  }
  fmt::print("{}\n", report::text_table({{"scheme"}, {"data type"}, {"bits", align::right}, {"group", align::right}, {"symmetric"}, {"activation bits", align::right},
                                         {"supported"}}, rows));
}

bool stores(const exporting::export_format& f, std::string_view spelling, const ar::scheme_fields& scheme) {
  const auto answer = f.accepts(spelling, scheme);
  return answer && *answer == exporting::holding::packed;
}

/// Presets that a format really stores, which is asked of the formats themselves.
std::vector<std::string> schemes_of(const exporting::export_format& f, std::string_view spelling) {
  if (f.own_scheme(spelling) != nullptr) return {"prescribed by the format"};
  if (spelling == "fake") return {"all"};
  std::vector<std::string> names;
  for (const ar::preset& p : ar::presets) {
    if (std::string_view(p.name).starts_with("GGUF:")) continue;
    const auto scheme = plan::resolve_scheme(std::string(p.name), {}, {std::string(spelling)});
    if (!scheme || !stores(f, spelling, *scheme)) continue;
    ar::scheme_fields beside = *scheme;  // of what is no expert
    if (p.name == "W4A16_MIXED") beside.bits = 8;
    if (stores(f, spelling, beside)) names.emplace_back(p.name);
  }
  return names;
}

void print_formats() {
  fmt::print("formats and the schemes that they hold\n");
  for (const exporting::export_format* f : exporting::all()) {
    for (const std::string_view spelling : f->spellings) fmt::print("{}\n\t{}\n", spelling, fmt::join(schemes_of(*f, spelling), ", "));
  }
  fmt::print("\n");
}

void print_architectures() {
  std::vector<std::vector<std::string>> rows;
  for (const arch::architecture* a : arch::all()) rows.push_back({std::string(a->name), fmt::format("{}", fmt::join(a->model_classes, ", "))});
  fmt::print("{}\n", report::text_table({{"architecture"}, {"model classes"}}, rows));
}

void print_datasets() {
  std::vector<std::vector<std::string>> rows = {{std::string(text::builtin_dataset), "part of this program: a small sample", "packed"}};
  for (const text::named_dataset& d : text::named_datasets()) {
    const std::string columns = d.columns.second.empty() ? std::string(d.columns.first) : fmt::format("{} + {}", d.columns.first, d.columns.second);
    rows.push_back({std::string(d.short_name), fmt::format("{}.jsonl in --dataset_dir: {}", d.short_name, d.full_name), columns});
  }
  rows.push_back({"FILE", ".jsonl, .json or .txt", "text, input_ids, messages or conversations, or the only column"});
  fmt::print("{}\n", report::text_table({{"data set"}, {"where"}, {"text"}}, rows));
}

struct algorithm {
  std::string_view name, what, when;
  std::string_view group, part = "";  ///< of its options, in the help of quantize
};

constexpr std::string_view rotation_options = "Rotation";
constexpr std::array algorithms = {
    algorithm{"auto_round", "tunes rounding and ranges by SignRound; the default where --iters is not 0", "quantizer", "Tuning"},
    algorithm{"rtn", "rounds to nearest, with searched scales by --enable_opt_rtn", "quantizer", "Tuning", "opt_rtn"},
    algorithm{"awq", "evens out channels and clips before rounding", "before it", "AWQ (--algorithm awq)"},
    algorithm{"quarot", "multiplies weights with Hadamard matrices", "before it", rotation_options},
    algorithm{"spinquant", "the same with trained rotations", "before it", rotation_options},
    algorithm{"hadamard", "rotations in place, also random_hadamard and quarot_hadamard", "before it", rotation_options},
};

void print_algorithms() {
  std::vector<std::vector<std::string>> rows;
  for (const algorithm& a : algorithms) rows.push_back({std::string(a.name), std::string(a.what), std::string(a.when)});
  fmt::print("{}\n", report::text_table({{"algorithm"}, {"what it does"}, {"when"}}, rows));
}

/// One of them with its options.
result<void> print_algorithm(std::string_view name) {
  for (const algorithm& a : algorithms) {
    if (a.name != name) continue;
    option_set options;
    make_quantize(recipe_of_program({}))->declare(options);
    fmt::print("{}: {}\n{}", a.name, a.what, group_text(options, a.group, a.part));
    return {};
  }
  std::vector<std::string_view> names;
  for (const algorithm& a : algorithms) names.push_back(a.name);
  return fail(error_kind::usage, fmt::format("there is no algorithm \"{}\"; there are {}", name, fmt::join(names, ", ")));
}

void print_tasks() {
  std::vector<std::vector<std::string>> rows;
  for (const evaluation::task& t : evaluation::all_tasks()) {
    const char* const examples = t.pool == evaluation::examples::training ? ".train.jsonl" : t.pool == evaluation::examples::first ? ".dev.jsonl" : "";
    rows.push_back({t.name, std::string(t.version), t.group, t.name + ".jsonl", *examples != '\0' ? t.name + examples : "", std::string(t.fields)});
  }
  fmt::print("{}\n", report::text_table({{"task"}, {"version"}, {"group"}, {"documents"}, {"few-shot examples"}, {"fields"}}, rows));
}

struct topic {
  const char* names;  ///< separated by blanks; the first is the plural that help shows
  void (*print)();
  result<void> (*print_one)(std::string_view name) = nullptr;
};

constexpr std::array topics = {
    topic{"schemes scheme", print_schemes},
    topic{"formats format", print_formats},
    topic{"architectures architecture models model arch", print_architectures},
    topic{"datasets dataset data", print_datasets},
    topic{"algorithms algorithm algs alg", print_algorithms, print_algorithm},
    topic{"tasks task", print_tasks},
};

class list final : public command {
 public:
  std::string_view name() const override { return "list"; }
  std::string_view summary() const override { return "list schemes, formats, architectures, datasets, algorithms or tasks"; }

  void declare(option_set& o) override { o.positional("WHAT", what_, "schemes, formats, architectures, datasets, algorithms or tasks; everything but tasks if left out; algorithms NAME: one with its options", values::some); }

  result<void> run() override {
    if (what_.empty()) {
      for (const topic& t : topics) {
        if (t.print != print_tasks) t.print();  // they are many
      }
      return {};
    }
    const std::size_t end = std::min(what_.find(' '), what_.size());
    const std::string what = what_.substr(0, end), one = what_.substr(std::min(end + 1, what_.size()));
    for (const topic& t : topics) {
      if (fmt::format(" {} ", t.names).find(fmt::format(" {} ", what)) == std::string::npos) continue;
      if (!one.empty() && t.print_one == nullptr) return fail(error_kind::usage, fmt::format("list {}: unrecognized arguments: {}", what, one));
      if (!one.empty()) return t.print_one(one);
      t.print();
      return {};
    }
    return fail(error_kind::usage, fmt::format("list what? \"{}\" is unknown; schemes, formats, architectures, datasets, algorithms and tasks can be listed", what));
  }

 private:
  std::string what_;
};

}  // namespace

std::unique_ptr<command> make_list() { return std::make_unique<list>(); }

}  // namespace auto_round::command
