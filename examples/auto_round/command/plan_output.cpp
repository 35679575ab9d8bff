#include "command/plan_output.hpp"

#include "export/export_verify.hpp"
#include "io/file.hpp"

namespace auto_round::command {

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
