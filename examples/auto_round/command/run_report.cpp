#include "command/run_report.hpp"

#include <cmath>
#include <filesystem>

#include "io/file.hpp"
#include "report/page.hpp"
#include "report/resources.hpp"

namespace auto_round::command {
namespace {

constexpr const char* kJson = "/report.json";
constexpr const char* kPage = "/report.html";

double relative_error(const std::vector<float>& quantized, const std::vector<float>& weight) {
  double error = 0, size = 0;
#pragma omp parallel for schedule(static) reduction(+ : error, size)
  for (std::size_t i = 0; i < weight.size(); ++i) {
    const double w = weight[i], d = static_cast<double>(quantized[i]) - w;
    error += d * d;
    size += w * w;
  }
  return size > 0 ? std::sqrt(error / size) : 0;
}

io::json number(std::uint64_t v) { return static_cast<std::int64_t>(v); }

}  // namespace

result<void> run_report::check(bool only_try) const {
  if (directory_.empty()) return {};
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory_, ignored)) {
    if (auto r = io::create_folder(directory_); !r) return r;
    if (only_try) std::filesystem::remove(directory_, ignored);
  }
  for (const char* name : {kJson, kPage}) {
    if (std::filesystem::exists(directory_ + name, ignored)) return fail(error_kind::output, "a report is there already and is not replaced; choose another folder", directory_ + name);
  }
  return {};
}

result<void> run_report::add(const tune::quantized_layer& layer, const model::weight_source& weights) {
  if (directory_.empty()) return {};
  const auto weight = model::read_tensor(weights, layer.name + ".weight", {layer.rows, layer.cols});
  if (!weight) return forward_error(weight);
  io::json one = io::json::object{};
  one.set("name", layer.name).set("rows", layer.rows).set("cols", layer.cols).set("relative_error", relative_error(layer.weight, *weight));
  layers_.push_back(std::move(one));
  return {};
}

void run_report::add(const tune::block_result& b) {
  if (directory_.empty()) return;
  io::json one = io::json::object{};
  one.set("block", b.first_block).set("blocks", b.blocks).set("first_loss", b.first_loss).set("best_loss", b.best_loss).set("best_iteration", b.best_iteration);
  one.set("iterations", b.iterations).set("memory_bytes", number(report::current_memory_bytes()));
  blocks_.push_back(std::move(one));
}

result<void> run_report::write(io::json run, const exporting::output_plan& plan) const {
  if (directory_.empty()) return {};
  io::json::array tensors;
  for (const exporting::tensor_plan& t : plan.tensors) {
    if (t.output_bytes == 0) continue;
    io::json::array shape;
    for (const std::uint64_t d : t.shape) shape.push_back(number(d));
    io::json one = io::json::object{};
    one.set("name", t.name).set("shape", std::move(shape)).set("from", t.source_type).set("type", t.output_type).set("bytes", number(t.output_bytes));
    tensors.push_back(std::move(one));
  }
  run.set("blocks", blocks_).set("layers", layers_).set("tensors", std::move(tensors));
  if (auto r = io::write_text(directory_ + kJson, io::dump(run) + "\n"); !r) return r;
  return io::write_text(directory_ + kPage, report::html_page(run));
}

}  // namespace auto_round::command
