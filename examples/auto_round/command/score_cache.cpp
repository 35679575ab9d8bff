#include "command/score_cache.hpp"

#include <cmath>
#include <filesystem>
#include <span>

#include "export/export_checksums.hpp"
#include "io/file.hpp"

namespace auto_round::command {
namespace {

constexpr int version = 1;

std::string text_of(const io::json& config) { return io::dump(config, {.indent = -2, .sort_keys = true}); }

}  // namespace

std::string score_cache::name_of(const io::json& config) const {
  const std::string text = text_of(config);
  return exporting::sha256_hex(std::as_bytes(std::span(text))).substr(0, 16);
}

std::string score_cache::path_of(const io::json& config) const { return folder_ + "/scores_" + name_of(config) + ".json"; }

result<void> score_cache::make_folder() const {
  std::error_code ec;
  if (std::filesystem::is_directory(folder_, ec)) return {};
  return io::create_folder(folder_);
}

result<std::optional<tune::pass_file>> score_cache::pass(const io::json& config) const {
  if (folder_.empty()) return std::optional<tune::pass_file>();
  if (auto r = make_folder(); !r) return forward_error(r);
  auto file = tune::pass_file::open(folder_ + "/pass_" + name_of(config) + ".log", config);
  if (!file) return forward_error(file);
  return std::optional(std::move(*file));
}

std::optional<std::vector<double>> score_cache::find(const io::json& config, const std::vector<std::string>& names) const {
  if (folder_.empty()) return std::nullopt;
  const std::string path = path_of(config);
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) return std::nullopt;
  const auto file = io::read_json(path);
  if (!file || file->at("version").as_int() != version || file->at("score_granularity").as_string() != "per_op") return std::nullopt;
  if (text_of(file->at("cache_config")) != text_of(config)) return std::nullopt;
  const io::json::object& stored = file->at("layer_scores").members();
  if (stored.size() != names.size()) return std::nullopt;
  std::vector<double> scores;
  for (std::size_t i = 0; i < names.size(); ++i) {  // in the order in which they were written
    const auto& [name, score] = stored[i];
    if (name != names[i] || !score.is_number() || !std::isfinite(score.as_double()) || score.as_double() < 0) return std::nullopt;
    scores.push_back(score.as_double());
  }
  return scores;
}

result<void> score_cache::keep(const io::json& config, const std::vector<std::string>& names, const std::vector<double>& scores) const {
  if (folder_.empty()) return {};
  io::json layers = io::json::object{};
  for (std::size_t i = 0; i < names.size(); ++i) layers.members().emplace_back(names[i], scores[i]);
  io::json file = io::json::object{};
  file.set("version", version).set("score_granularity", "per_op").set("cache_config", config).set("layer_scores", std::move(layers));
  if (auto r = make_folder(); !r) return r;
  const std::string path = path_of(config);
  std::error_code ec;
  std::filesystem::remove(path, ec);
  return io::write_text(path, io::dump(file) + "\n");
}

}  // namespace auto_round::command
