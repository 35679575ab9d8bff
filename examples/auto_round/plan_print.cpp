// The plan as a table and as JSON: what --dry-run prints.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "export/export_inventory.hpp"
#include "plan.hpp"
#include "report/resources.hpp"
#include "report/table.hpp"

namespace auto_round::plan {
namespace {

/// A name split at its last dotted component that is a number.
struct numbered {
  std::string prefix, suffix;
  std::uint64_t number = 0;
};

std::optional<numbered> split_number(const std::string& name) {
  for (std::size_t end = name.size(); end > 0;) {
    const std::size_t dot = name.rfind('.', end - 1);
    const std::size_t begin = dot == std::string::npos ? 0 : dot + 1;
    const std::string part = name.substr(begin, end - begin);
    if (!part.empty() && part.size() < 19 && part.find_first_not_of("0123456789") == std::string::npos) {
      return numbered{name.substr(0, begin), name.substr(end), std::stoull(part)};
    }
    if (dot == std::string::npos) break;
    end = dot;
  }
  return std::nullopt;
}

std::string ranges(std::vector<std::uint64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] <= numbers[j] + 1) ++j;
    text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[i]);
    if (numbers[j] != numbers[i]) text += fmt::format("-{}", numbers[j]);
    i = j + 1;
  }
  return text;
}

}  // namespace

std::vector<std::string> compress_names(std::vector<std::string> names) {
  for (std::size_t before = 0; before != names.size();) {
    before = names.size();
    std::map<std::pair<std::string, std::string>, std::vector<std::uint64_t>> groups;
    std::vector<std::string> next;
    for (const std::string& name : names) {
      if (const auto n = split_number(name)) {
        groups[{n->prefix, n->suffix}].push_back(n->number);
      } else {
        next.push_back(name);
      }
    }
    for (const auto& [ends, numbers] : groups) {
      const std::string middle = ranges(numbers);
      const bool bare = middle.find_first_of(",-") == std::string::npos;
      next.push_back(ends.first + (bare ? middle : "[" + middle + "]") + ends.second);
    }
    names = std::move(next);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string summary(std::size_t quantized, std::span<const exporting::layer_decision> layers) {
  std::vector<std::pair<std::string, std::vector<std::string>>> kept;  // by reason, in the order in which reasons appear
  for (const exporting::layer_decision& l : layers) {
    if (l.quantize) continue;
    const auto known = std::find_if(kept.begin(), kept.end(), [&](const auto& k) { return k.first == l.reason; });
    if (known != kept.end()) known->second.push_back(l.name);
    else kept.push_back({l.reason, {l.name}});
  }
  std::string text = fmt::format("Summary: quantized {}/{} in the model", quantized, layers.size());
  for (std::size_t i = 0; i < kept.size(); ++i) text += fmt::format("{}{} ({})", i == 0 ? "; unquantized layers: " : ", ", fmt::join(compress_names(kept[i].second), ", "), kept[i].first);
  return text;
}

std::string describe(const run_plan& plan) {
  std::string out;
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const exporting::output_plan& p = plan.exporters[i]->plan();
    const exporting::job& run = plan.jobs[i];
    // Tensors that differ in nothing but the number of their block share a line.
    struct line {
      std::vector<std::string> names;
      std::vector<std::string> cells;
      std::uint64_t bytes = 0, elements = 0;
    };
    std::vector<line> lines;
    std::map<std::string, std::size_t> known;
    for (const exporting::tensor_plan& t : p.tensors) {
      const auto n = split_number(t.name);
      const std::string shape = exporting::shape_text(t.shape);
      const std::string key = fmt::format("{}|{}|{}|{}|{}|{}|{}", n ? n->prefix : t.name, n ? n->suffix : "", shape, t.source_type, name_of(t.what), t.output_type,
                                          t.note);
      const auto [at, fresh] = known.emplace(key, lines.size());
      if (fresh) lines.push_back({{}, {shape, t.source_type, name_of(t.what), t.output_type, {}, {}, t.note}, 0, 0});
      line& l = lines[at->second];
      l.names.push_back(t.name);
      l.bytes += t.output_bytes;
      std::uint64_t elements = 1;
      for (const std::uint64_t d : t.shape) elements *= d;
      l.elements += elements;
    }
    std::vector<std::vector<std::string>> rows;
    for (line& l : lines) {
      std::vector<std::string> row = {fmt::format("{}", fmt::join(compress_names(l.names), ", "))};
      l.cells[4] = l.bytes == 0 || l.elements == 0 ? "-" : fmt::format("{:.3f}", 8.0 * static_cast<double>(l.bytes) / static_cast<double>(l.elements));
      l.cells[5] = fmt::format("{}", l.bytes);
      row.insert(row.end(), l.cells.begin(), l.cells.end());
      rows.push_back(std::move(row));
    }
    using report::align;
    out += fmt::format("Format {}, scheme {}\n\n", run.format, plan.scheme_name);
    out += report::text_table({{"tensor"}, {"shape"}, {"from"}, {"what"}, {"to"}, {"bits/weight", align::right}, {"bytes", align::right}, {"note"}}, rows);
    rows.clear();
    for (const exporting::file_plan& f : p.files) rows.push_back({f.name, fmt::format("{}", f.bytes)});
    rows.push_back({"all files", fmt::format("{}", p.total_bytes())});
    out += "\n" + report::text_table({{"file"}, {"bytes", align::right}}, rows);
    std::uint64_t source_bytes = 0;
    for (const exporting::tensor_plan& t : p.tensors) source_bytes += t.source_bytes;
    out += fmt::format("\nWeights: {} -> {} ({:.2f} bits per weight; quantized layers alone {:.2f}), {} layers quantized.\n", report::human_bytes(source_bytes),
                       report::human_bytes(p.weight_bytes()), p.bits_per_weight(), p.bits_per_quantized_weight(), p.quantized_layers());
  }
  out += fmt::format("Peak memory: about {} ({}).\n", report::human_bytes(plan.memory.bytes()), plan.memory.explain());
  return out;
}

io::json to_json(const run_plan& plan) {
  const auto number = [](std::uint64_t v) { return io::json(static_cast<std::int64_t>(v)); };
  io::json out = io::json::object{};
  out.set("scheme", plan.scheme_name);
  io::json::array outputs;
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const exporting::output_plan& p = plan.exporters[i]->plan();
    io::json::array tensors, files;
    for (const exporting::tensor_plan& t : p.tensors) {
      io::json::array shape;
      for (const std::uint64_t d : t.shape) shape.push_back(number(d));
      io::json entry = io::json::object{};
      entry.set("name", t.name).set("output_name", t.output_name).set("shape", std::move(shape)).set("from", t.source_type).set("action", name_of(t.what));
      entry.set("to", t.output_type).set("source_bytes", number(t.source_bytes)).set("bytes", number(t.output_bytes));
      if (!t.note.empty()) entry.set("note", t.note);
      tensors.push_back(std::move(entry));
    }
    for (const exporting::file_plan& f : p.files) {
      io::json entry = io::json::object{};
      files.push_back(entry.set("name", f.name).set("bytes", number(f.bytes)));
    }
    io::json one = io::json::object{};
    one.set("format", plan.jobs[i].format).set("folder", plan.folder(i)).set("model_free", plan.jobs[i].model_free).set("bytes", number(p.total_bytes()));
    one.set("weight_bytes", number(p.weight_bytes())).set("bits_per_weight", p.bits_per_weight()).set("bits_per_quantized_weight", p.bits_per_quantized_weight());
    one.set("quantized_layers", p.quantized_layers()).set("files", std::move(files)).set("tensors", std::move(tensors));
    outputs.push_back(std::move(one));
  }
  out.set("outputs", std::move(outputs)).set("bytes", number(plan.total_bytes())).set("peak_memory_bytes", number(plan.memory.bytes()));
  io::json parts = io::json::object{};
  for (const memory_part& part : plan.memory.peak().parts) parts.set(part.what, number(part.bytes));
  out.set("peak_memory_stage", plan.memory.peak().name).set("peak_memory_parts", std::move(parts));
  io::json::array warnings;
  for (const std::string& w : plan.warnings) warnings.emplace_back(w);
  return out.set("warnings", std::move(warnings));
}

}  // namespace auto_round::plan
