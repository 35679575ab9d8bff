#include "command/model_free_journal.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "command/fingerprint.hpp"
#include "export/export_checksums.hpp"
#include "io/file.hpp"
#include "io/json.hpp"

namespace auto_round::command {
namespace {

namespace fs = std::filesystem;
constexpr const char* journal_name = "journal.json";

/// Everything that the bytes of the output depend on: the files of the source and the plan.
std::string describe_run(const io::checkpoint_dir& source, const plan::model_free_plan& plan) {
  std::string text;
  for (const auto& file : plan.texts) text += file.content;
  text += plan.format + (plan.search ? " searched" : "") + io::dump(files_of(source));
  for (const exporting::layer_decision& l : plan.layers) text += fmt::format("\n{} {} {}", l.name, l.quantize, describe(l.scheme));
  return hash_of(text);
}

}  // namespace

result<model_free_journal> model_free_journal::open(const std::string& folder, const io::checkpoint_dir& source, const plan::model_free_plan& plan, bool restart,
                                                     std::string& note) {
  model_free_journal j;
  j.folder_ = folder;
  j.run_ = describe_run(source, plan);
  std::error_code ec;
  const bool there = fs::exists(folder, ec);
  if (!there)
    if (auto r = io::create_folder(folder); !r) return forward_error(r);
  const std::string path = folder + "/" + journal_name;
  if (!there || !fs::exists(path, ec)) {
    for (const auto& e : fs::directory_iterator(folder, ec)) {  // a run may have been killed while it wrote its first journal
      if (e.path().filename() != std::string(journal_name) + ".new")
        return fail(error_kind::output, "the folder was not made by this program; remove it or choose another --output_dir", folder);
    }
    if (auto r = j.write(); !r) return forward_error(r);  // before the first shard, by which a later run would not know the folder
    return j;
  }
  // A torn journal is none: what it would have said is done again.
  const auto json = io::read_json(path);
  std::map<std::string, std::string> recorded;
  if (json) {
    for (const auto& [name, sum] : json->at("files").members()) recorded[name] = sum.as_string();
  }
  const bool same = json && json->at("run").as_string() == j.run_;
  if (same && !restart) {
    j.finished_ = std::move(recorded);
    return j;
  }
  if (!same) note = "input or options are not those of the run that was begun in " + folder + "; it starts anew";
  if (auto r = j.write(); !r) return forward_error(r);
  for (const plan::shard& s : plan.shards) recorded[s.name];
  for (const auto& [name, sum] : recorded) {
    if (name.find('/') == std::string::npos) fs::remove(folder + "/" + name, ec);
  }
  return j;
}

bool model_free_journal::has(const std::string& name) const {
  const auto known = finished_.find(name);
  if (known == finished_.end()) return false;
  const auto now = exporting::file_sha256_hex(folder_ + "/" + name);
  return now && *now == known->second;
}

result<void> model_free_journal::record(const std::string& name) {
  auto sum = exporting::file_sha256_hex(folder_ + "/" + name);
  if (!sum) return forward_error(sum);
  finished_[name] = std::move(*sum);
  return write();
}

result<void> model_free_journal::write() const {
  io::json files = io::json::object{};
  for (const auto& [name, sum] : finished_) files.set(name, sum);
  io::json out = io::json::object{};
  out.set("version", 1).set("run", run_).set("files", std::move(files));
  const std::string path = folder_ + "/" + journal_name, fresh = path + ".new";
  std::error_code ec;
  fs::remove(fresh, ec);
  if (auto r = io::write_text(fresh, io::dump(out) + "\n"); !r) return r;
  fs::rename(fresh, path, ec);
  if (ec) return fail(error_kind::output, "the journal cannot be replaced: " + ec.message(), path);
  return {};
}

void model_free_journal::remove() const {
  std::error_code ec;
  fs::remove(folder_ + "/" + journal_name, ec);
  fs::remove(folder_, ec);
}

}  // namespace auto_round::command
