#include "command/eval_tasks.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "evaluation/evaluate.hpp"
#include "export/export_checksums.hpp"
#include "io/file.hpp"
#include "model/forward_pieces.hpp"
#include "plan_inference_memory.hpp"
#include "report/progress.hpp"
#include "report/resources.hpp"

namespace auto_round::command {
namespace {

using evaluation::asked_task;
using evaluation::metric;
using evaluation::task;
using evaluation::task_scores;

struct task_file {
  std::string path;
  const task* what;
};

std::string pool_suffix(const task& t) {
  switch (t.pool) {
    case evaluation::examples::training: return ".train.jsonl";
    case evaluation::examples::first: return ".dev.jsonl";
    case evaluation::examples::own: return ".jsonl";
    case evaluation::examples::none: return {};
  }
  return {};
}

result<void> check_present(const std::vector<task_file>& files, const std::string& directory) {
  std::vector<const task_file*> missing;
  std::error_code ignored;
  for (const task_file& f : files) {
    if (!std::filesystem::is_regular_file(f.path, ignored)) missing.push_back(&f);
  }
  if (missing.empty()) return {};
  const auto name = [](const task_file* f) { return std::filesystem::path(f->path).filename().string(); };
  std::string list = fmt::format("{} (one JSON object a line, with the fields {})", name(missing[0]), missing[0]->what->fields);
  for (std::size_t i = 1; i < std::min<std::size_t>(missing.size(), 4); ++i) list += ", " + name(missing[i]);
  if (missing.size() > 4) list += fmt::format(" and {} more", missing.size() - 4);
  return fail(error_kind::input,
              fmt::format("documents are missing: put {} into {}; examples/export_tasks.py writes the files of all tasks where there is a network", list, directory),
              missing[0]->path);
}

result<std::vector<asked_task>> ask_all(const task_options& options, io::json& hashes) {
  const auto tasks = evaluation::find_tasks(*options.tasks);
  if (!tasks) return forward_error(tasks);
  if (options.directory.empty()) {
    return fail(error_kind::usage, fmt::format("tasks are read from local files: write --task_dir DIR, a folder that holds {}.jsonl{}", (*tasks)[0]->name,
                                               tasks->size() > 1 ? " and so on" : ""));
  }
  const std::int64_t shots = options.num_fewshot.value_or(0);
  if (shots < 0) return fail(error_kind::usage, "--num_fewshot must not be negative");
  if (options.limit && !(*options.limit > 0)) return fail(error_kind::usage, "--limit must be a number of documents, or a share of them below 1");
  std::vector<task_file> files;
  for (const task* t : *tasks) {
    files.push_back({options.directory + "/" + t->name + ".jsonl", t});
    if (shots > 0 && t->pool != evaluation::examples::none && t->pool != evaluation::examples::own)
      files.push_back({options.directory + "/" + t->name + pool_suffix(*t), t});
  }
  if (auto r = check_present(files, options.directory); !r) return forward_error(r);
  for (const task_file& f : files) {
    const auto content = io::mapped_file::open(f.path);
    if (!content) return forward_error(content);
    hashes.set(std::filesystem::path(f.path).filename().string(), exporting::sha256_hex(content->bytes()));
  }
  std::vector<asked_task> out;
  for (const task* t : *tasks) {
    const std::string path = options.directory + "/" + t->name;
    auto documents = evaluation::read_documents(path + ".jsonl");
    if (!documents) return forward_error(documents);
    std::vector<evaluation::document> pool;
    if (shots > 0 && t->pool != evaluation::examples::none) {
      auto read = evaluation::read_documents(path + pool_suffix(*t));
      if (!read) return forward_error(read);
      pool = std::move(*read);
    }
    auto asked = evaluation::ask(*t, std::move(*documents), std::move(pool), shots, options.limit.value_or(0));
    if (!asked) return forward_error(asked);
    out.push_back(std::move(*asked));
  }
  return out;
}

result<bool> adds_bos(const task_options& options, const text::tokenizer& tok, const std::string& model_path) {
  if (options.add_bos.empty()) return evaluation::adds_bos(tok);
  if (options.add_bos == "true") return true;
  if (options.add_bos == "false") return false;
  if (options.add_bos != "peer") return fail(error_kind::usage, "--add_bos_token is true, false or peer (what auto-round does)");
  std::string lower = model_path;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower.find("llama") != std::string::npos;
}

// Markdown as lm-eval prints it: numbers to the right.
std::string markdown(const std::vector<std::string>& titles, const std::vector<bool>& right, const std::vector<std::vector<std::string>>& rows) {
  const auto width_of = [](const std::string& s) {
    return static_cast<std::size_t>(std::count_if(s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
  };
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < titles.size(); ++i) {
    widths.push_back(std::max<std::size_t>(3, width_of(titles[i])));
    for (const auto& row : rows) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string out;
  const auto add = [&](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const std::string padding(widths[i] - width_of(cells[i]), ' ');
      out += "|" + (right[i] ? padding + cells[i] : cells[i] + padding);
    }
    out += "|\n";
  };
  add(titles);
  for (std::size_t i = 0; i < titles.size(); ++i) out += "|" + std::string(widths[i] - (right[i] ? 1 : 0), '-') + (right[i] ? ":" : "");
  out += "|\n";
  for (const auto& row : rows) add(row);
  return out;
}

std::string number(double v) { return fmt::format("{:.4f}", v); }

/// What stands in a row of the table, tasks behind the groups that they are in.
struct line {
  std::string name, version, shots;
  const std::vector<metric>* metrics = nullptr;
  const metric* acc = nullptr;  // of a group
};

std::vector<line> lines_of(const std::vector<task_scores>& tasks, const std::vector<evaluation::group_scores>& groups) {
  std::vector<line> out;
  const auto add_task = [&](const task_scores& t, const std::string& name) {
    out.push_back({name, std::string(t.what->version), fmt::format("{}", t.num_fewshot), &t.metrics, nullptr});
  };
  const auto alias = [](std::string_view name, std::string_view parent) { return std::string(parent.empty() ? name : name.substr(parent.size() + 1)); };
  for (const task_scores& t : tasks) {
    if (t.what->group.empty()) add_task(t, t.what->name);
  }
  std::string_view parent;
  for (const evaluation::group_scores& g : groups) {
    if (g.what->parent.empty()) parent = g.what->name;
    out.push_back({(g.what->parent.empty() ? "" : " - ") + alias(g.what->name, g.what->parent), std::string(g.what->version), "", nullptr, &g.acc});
    for (const task_scores& t : tasks) {
      if (t.what->group == g.what->name) add_task(t, "  - " + alias(t.what->name, parent));
    }
  }
  return out;
}

void print_table(const std::vector<task_scores>& tasks, const std::vector<evaluation::group_scores>& groups) {
  std::vector<std::vector<std::string>> rows;
  for (const line& l : lines_of(tasks, groups)) {
    std::string name = l.name, version = l.version;
    const auto add = [&](const metric& m) {
      // As lm-eval has it: an error that is not computed is N/A where one is defined.
      const std::string error = m.standard_error ? number(*m.standard_error) : "N/A";
      rows.push_back({std::exchange(name, ""), std::exchange(version, ""), "none", l.shots, m.name, m.higher_is_better ? "↑" : "↓", number(m.value), "±", error});
    };
    if (l.acc != nullptr) add(*l.acc);
    if (l.metrics == nullptr) continue;
    for (const metric& m : *l.metrics) add(m);
  }
  fmt::print("{}", markdown({"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"},
                            {false, true, false, true, false, false, true, false, true}, rows));
  if (const auto mean = evaluation::mean_of(tasks, groups)) fmt::print("mean acc {:.4f} over {}\n", mean->value, fmt::join(mean->over, ", "));
}

/// How far the model is from the reference on the same documents.
struct difference {
  std::string task, metric;
  double model = 0, reference = 0, value = 0, standard_error = 0;
  std::int64_t changed = 0, documents = 0;
};

std::vector<difference> differences(const std::vector<task_scores>& model, const std::vector<task_scores>& reference) {
  std::vector<difference> out;
  for (std::size_t t = 0; t < model.size(); ++t) {
    for (std::size_t m = 0; m < model[t].metrics.size(); ++m) {
      const metric& own = model[t].metrics[m];
      if (!own.higher_is_better) continue;  // perplexities are no means of documents
      const std::vector<double>&x = model[t].by_document[m], &y = reference[t].by_document[m];
      difference d{model[t].what->name, own.name, own.value, reference[t].metrics[m].value, 0, 0, 0, model[t].documents};
      d.value = d.model - d.reference;
      double squares = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        squares += (x[i] - y[i] - d.value) * (x[i] - y[i] - d.value);
        d.changed += x[i] != y[i];
      }
      const auto n = static_cast<double>(x.size());
      d.standard_error = n < 2 ? NAN : std::sqrt(squares / (n - 1) / n);
      out.push_back(std::move(d));
    }
  }
  return out;
}

void print_differences(const std::vector<difference>& all) {
  std::vector<std::vector<std::string>> rows;
  for (const difference& d : all) {
    rows.push_back({d.task, d.metric, number(d.reference), number(d.model), fmt::format("{:+.4f}", d.value), "±", number(d.standard_error),
                    fmt::format("{} of {}", d.changed, d.documents)});
  }
  fmt::print("\nThe same documents with the reference:\n{}",
             markdown({"Tasks", "Metric", "Reference", "Model", "Difference", "", "Stderr", "Documents that changed"},
                      {false, false, true, true, true, false, true, true}, rows));
}

io::json value_of(double v) { return std::isfinite(v) ? io::json(v) : io::json("N/A"); }

void set_metric(io::json& to, const metric& m) {
  to.set(m.name + ",none", value_of(m.value));
  to.set(m.name + "_stderr,none", m.standard_error ? value_of(*m.standard_error) : io::json("N/A"));
}

void add_json(const std::vector<task_scores>& tasks, const std::vector<evaluation::group_scores>& groups, io::json& out) {
  io::json results = io::json::object{}, group_results = io::json::object{}, versions = io::json::object{}, shots = io::json::object{};
  for (const evaluation::group_scores& g : groups) {
    io::json one = io::json::object{};
    one.set("sample_len", g.documents);
    set_metric(one, g.acc);
    group_results.set(std::string(g.what->name), std::move(one));
    versions.set(std::string(g.what->name), std::string(g.what->version));
  }
  for (const task_scores& t : tasks) {
    io::json one = io::json::object{};
    one.set("sample_len", t.documents);
    for (const metric& m : t.metrics) set_metric(one, m);
    results.set(t.what->name, std::move(one));
    versions.set(t.what->name, std::string(t.what->version));
    shots.set(t.what->name, t.num_fewshot);
  }
  out.set("results", std::move(results)).set("groups", std::move(group_results)).set("versions", std::move(versions)).set("n-shot", std::move(shots));
  if (const auto mean = evaluation::mean_of(tasks, groups)) {
    io::json::array over;
    for (const std::string& name : mean->over) over.emplace_back(name);
    out.set("mean_acc", mean->value).set("mean_acc_over", std::move(over));
  }
}

}  // namespace

void task_options::declare(option_set& o) {
  option names{.names = {"tasks", "task"}, .value_name = "NAMES", .count = values::at_most_one,
               .help = "answer these tasks, separated by commas; without names all of the original's (auto-round list tasks)", .group = {}, .set = {}};
  names.set = [this](const std::string& v) -> result<void> {
    tasks = v;
    return {};
  };
  for (const evaluation::task_group& g : evaluation::all_groups()) names.suggestions.emplace_back(g.name);
  for (const evaluation::task& t : evaluation::all_tasks()) names.suggestions.emplace_back(t.name);
  o.add(std::move(names));
  o.text("task_dir", "DIR", directory, "folder with the tasks' documents: NAME.jsonl, for few-shot examples NAME.train.jsonl or NAME.dev.jsonl");
  o.real("limit", limit, "only the first N documents of each task; below 1: that share of them");
  o.integer("num_fewshot", num_fewshot, "examples in front of each document (0)");
  option bos{.names = {"add_bos_token"}, .value_name = "true|false|peer", .count = values::at_most_one,
             .help = "put the begin token in front of texts (as the tokenizer does; peer: as auto-round does, by the model's name)", .group = {}, .set = {}};
  bos.set = [this](const std::string& v) -> result<void> {
    add_bos = v.empty() ? "true" : v;
    return {};
  };
  o.add(std::move(bos));
  o.integer("max_length", max_length, "most tokens of a request of a task (the model's own limit)");
}

result<void> evaluate_tasks(const task_options& options, const exporting::stored_model& model, const exporting::stored_model* reference,
                            const std::string& model_path, const std::string& tokenizer_directory, bool json, std::uint64_t max_memory, io::json& out) {
  const std::uint64_t before = report::peak_memory_bytes();  // of a quantization, where one went before
  io::json hashes = io::json::object{};
  const auto asked = ask_all(options, hashes);
  if (!asked) return forward_error(asked);
  const auto tok = text::tokenizer::open(tokenizer_directory);
  if (!tok) return forward_error(tok);
  const auto bos = adds_bos(options, *tok, model_path);
  if (!bos) return forward_error(bos);
  if (options.max_length < 0) return fail(error_kind::usage, "--max_length must be positive");
  std::int64_t longest = options.max_length;
  if (longest == 0) longest = model.spec().max_position_embeddings;
  if (longest == 0) longest = tok->model_max_length();
  if (longest == 0) longest = 2048;

  report::progress progress;
  evaluation::run_options run{.add_bos = *bos, .longest = static_cast<std::size_t>(longest), .on_block = {}};
  const exporting::stored_model* asked_model = &model;
  run.before = [&](std::size_t tokens, std::size_t longest_request) -> result<std::size_t> {
    const std::size_t most = model::likelihood_rows(static_cast<std::size_t>(asked_model->spec().hidden_size));
    plan::evaluation_facts f{.models = {{&asked_model->spec(), plan::sizes_of(*asked_model)}}, .tokens = std::max(longest_request, std::min(tokens, most)), 
                              .seqlen = longest_request, .many_lengths = true, .threads = omp_get_max_threads()};
    if (f.so_far == before) f.so_far = report::current_memory_bytes();
    auto estimate = plan::fit_evaluation(f, std::max<std::size_t>(1, longest_request), max_memory);
    if (!estimate) return forward_error(estimate);
    fmt::print(stderr, "tasks: about {} of memory ({})\n", report::human_bytes(estimate->bytes()), estimate->explain());
    out.set("planned_memory_bytes", static_cast<std::int64_t>(estimate->bytes()));
    return static_cast<std::size_t>(f.tokens);
  };
  run.on_block = [&](std::int64_t done, std::int64_t all) {
    if (done == 1) progress.start("tasks", all);
    progress.finish_unit(fmt::format("block {} of {}", done, all));
  };
  const auto scores = evaluation::answer(model, *tok, *asked, run);
  if (!scores) return forward_error(scores);
  std::vector<task_scores> compared;
  if (reference != nullptr) {
    asked_model = reference;
    auto other = evaluation::answer(*reference, *tok, *asked, run);
    if (!other) return forward_error(other);
    compared = std::move(*other);
  }
  progress.finish();
  const auto groups = evaluation::score_groups(*scores);
  if (!json) {
    fmt::print("{}, begin token {}, at most {} tokens{}\n", model_path, *bos ? "added" : "not added", longest,
               options.limit ? fmt::format(", limit {}", *options.limit) : "");
    print_table(*scores, groups);
    if (reference != nullptr) print_differences(differences(*scores, compared));
    return {};
  }
  add_json(*scores, groups, out);
  if (reference != nullptr) {
    io::json::array list;
    for (const difference& d : differences(*scores, compared)) {
      io::json one = io::json::object{};
      one.set("task", d.task).set("metric", d.metric).set("reference", d.reference).set("model", d.model).set("difference", d.value);
      one.set("stderr", value_of(d.standard_error)).set("changed", d.changed).set("documents", d.documents);
      list.push_back(std::move(one));
    }
    out.set("differences", std::move(list));
  }
  io::json config = io::json::object{};
  config.set("model", model_path).set("add_bos_token", *bos).set("max_length", longest).set("limit", options.limit ? io::json(*options.limit) : io::json());
  out.set("config", std::move(config)).set("files_sha256", std::move(hashes));
  return {};
}

result<void> check_tasks(const task_options& options) {
  if (!options.tasks) return {};
  if (options.max_length < 0) return fail(error_kind::usage, "--max_length must be positive");
  io::json hashes = io::json::object{};
  const auto asked = ask_all(options, hashes);
  if (!asked) return forward_error(asked);
  return {};
}

result<io::json> score_output(const task_options& options, const std::string& path, std::uint64_t max_memory, bool json) {
  io::json out = io::json::object{};
  if (!options.tasks) return out;
  const report::stopwatch clock;
  const auto model = exporting::open_model(path);
  if (!model) return forward_error(model);
  if (auto r = evaluate_tasks(options, **model, nullptr, path, (*model)->tokenizer_directory(), json, max_memory, out); !r) {
    r.error().message = "the output is finished, but not its tasks: " + r.error().message;
    return forward_error(r);
  }
  if (!json) fmt::print(stderr, "evaluation running time={:.0f}s\n", clock.seconds());
  return out;
}

}  // namespace auto_round::command
