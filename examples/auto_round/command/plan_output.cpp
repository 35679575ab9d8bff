#include "command/plan_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>

#include "export/export_checksums.hpp"
#include "export/export_verify.hpp"

namespace auto_round::command {
namespace {

namespace fs = std::filesystem;

/// What lies in a folder of one format that its SHA256SUMS does not name, the folder itself if it has none; nothing if this program made all of it.
std::optional<std::string> not_made_here(const fs::path& folder) {
  const auto sums = exporting::read_checksums(folder.string());
  if (!sums || sums->empty()) return folder.string();
  std::error_code ec;
  for (const fs::directory_entry& e : fs::directory_iterator(folder, ec)) {
    const std::string name = e.path().filename().string();
    if (name != exporting::checksums_name && std::ranges::find(*sums, name, [](const auto& line) { return line.first; }) == sums->end()) return e.path().string();
  }
  return ec ? std::optional(folder.string()) : std::nullopt;
}

/// The same of a folder of one format, or of one folder for each format.
std::optional<std::string> foreign_part(const fs::path& folder) {
  std::error_code ec;
  if (fs::exists(folder / exporting::checksums_name, ec)) return not_made_here(folder);
  for (const fs::directory_entry& e : fs::directory_iterator(folder, ec)) {
    if (!fs::exists(e.path() / exporting::checksums_name, ec)) return folder.string();
    if (auto found = not_made_here(e.path())) return found;
  }
  return ec ? std::optional(folder.string()) : std::nullopt;
}

/// `inner` is `outer` or lies in it.
bool lies_in(const std::string& inner, const std::string& outer) {
  std::error_code ec;
  const fs::path in = fs::weakly_canonical(inner, ec), out = fs::weakly_canonical(outer, ec);
  return std::mismatch(out.begin(), out.end(), in.begin(), in.end()).first == out.end();
}

}  // namespace

result<io::output_dir> begin_output(const std::string& path, bool overwrite, const std::string& model) {
  if (!overwrite || path.empty()) return io::output_dir::begin(path);
  std::error_code ec;
  if (fs::is_directory(path, ec) && !fs::is_empty(path, ec)) {
    if (lies_in(model, path)) return fail(error_kind::usage, "--overwrite would remove the model that is read; name another output folder", path);
    if (const auto foreign = foreign_part(path)) {
      return fail(error_kind::output, fmt::format("the {} was not made by this program, and --overwrite replaces nothing else; name another output folder or move it away first", fs::is_directory(*foreign, ec) ? "folder" : "file"), *foreign);
    }
  }
  return io::output_dir::begin(path, io::output_dir::existing::replace);
}

result<void> check_new_file(const std::string& option, const std::string& path) {
  if (path.empty()) return {};
  if (const auto file = io::output_file::create(path); !file)
    return fail(error_kind::output, "--" + option + ": " + file.error().message + "; name another one (a file is never replaced)", path);
  return {};
}

std::string export_folder(const plan::run_plan& plan, const std::string& base, std::size_t i) {
  return plan.jobs.size() > 1 ? base + "/" + plan.folder(i) : base;
}

result<void> begin_exports(plan::run_plan& plan, const std::string& base) {
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const std::string folder = export_folder(plan, base, i);
    if (plan.jobs.size() > 1) {
      if (auto r = io::create_folder(folder); !r) return r;
    }
    if (auto r = plan.exporters[i]->begin(folder); !r) return r;
  }
  return {};
}

result<void> finish_exports(plan::run_plan& plan) {
  for (auto& e : plan.exporters) {
    if (auto r = e->finish(); !r) return r;
  }
  return {};
}

result<void> verify_exports(const plan::run_plan& plan, const std::string& base) {
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    if (auto r = exporting::verify_output(plan.jobs[i], *plan.exporters[i], export_folder(plan, base, i)); !r) return r;
  }
  return {};
}

}  // namespace auto_round::command
