#include "command/plan_output.hpp"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "export/export_checksums.hpp"
#include "export/export_verify.hpp"

namespace auto_round::command {
namespace {

namespace fs = std::filesystem;

/// A folder of one format, or of one folder for each format.
bool made_here(const fs::path& folder) {
  std::error_code ec;
  const auto has_sums = [&](const fs::path& p) { return fs::is_regular_file(p / exporting::checksums_name, ec); };
  if (has_sums(folder)) return true;
  const fs::directory_iterator inside(folder, ec);
  return !ec && std::all_of(begin(inside), end(inside), [&](const fs::directory_entry& e) { return has_sums(e.path()); });
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
    if (!made_here(path)) return fail(error_kind::output, "the folder was not made by this program, and --overwrite replaces no other; name another one or empty it first", path);
  }
  return io::output_dir::begin(path, io::output_dir::existing::replace);
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
