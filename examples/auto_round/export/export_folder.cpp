// Sharding and writing of safetensors folders.
#include "export/export_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "export/export_checksums.hpp"
#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr const char* index_name = "model.safetensors.index.json";

}  // namespace

bool is_companion_file(std::string_view name) {
  static constexpr std::array stale = {"quantization_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json", "config.json", index_name};
  if (std::find(stale.begin(), stale.end(), name) != stale.end() || name.ends_with(".index.json")) return false;
  for (const std::string_view suffix : {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken"}) {
    if (name.ends_with(suffix)) return true;
  }
  return name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

result<std::vector<file_plan>> companions_of(const io::checkpoint_dir& source) {
  std::vector<file_plan> all;
  for (const std::string& name : source.side_files()) {
    if (name == checksums_name || !is_companion_file(name)) continue;
    const std::string path = source.path() + "/" + name;
    std::error_code ec;
    const std::uint64_t bytes = std::filesystem::file_size(path, ec);
    if (ec) return fail(error_kind::input, "cannot read a file beside the model: " + ec.message(), path);
    all.push_back({name, bytes});
  }
  return all;
}

result<void> checkpoint_folder::add_companions(const io::checkpoint_dir& source) {
  auto companions = companions_of(source);
  if (!companions) return forward_error(companions);
  copied_from_ = source.path();
  for (file_plan& f : *companions)
    if (std::ranges::none_of(texts_, [&](const auto& text) { return text.first == f.name; })) copies_.push_back(std::move(f));
  return {};
}

void checkpoint_folder::lay_out(std::uint64_t max_shard_bytes) {
  std::uint64_t filled = 0;
  shards_.clear();
  for (const io::tensor_decl& t : tensors_) {
    const std::uint64_t bytes = t.bytes();
    if (shards_.empty() || (filled > 0 && bytes <= max_shard_bytes && filled + bytes > max_shard_bytes) || filled > max_shard_bytes) {
      shards_.emplace_back();
      filled = 0;
    }
    shards_.back().tensors.push_back(t);
    filled += bytes;
  }
  std::uint64_t total_bytes = 0, total_elements = 0;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    shard& s = shards_[i];
    s.name = shards_.size() == 1 ? "model.safetensors" : fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, shards_.size());
    io::sort_as_reference(s.tensors);
    for (const io::tensor_decl& t : s.tensors) {
      shard_of_[t.name] = i;
      total_bytes += t.bytes();
      total_elements += t.bytes() / io::size_of(t.type);
    }
  }
  if (shards_.size() < 2) return;
  io::json map = io::json::object{};
  for (const io::tensor_decl& t : tensors_) map.members().emplace_back(t.name, shards_[shard_of_[t.name]].name);
  io::json metadata = io::json::object{};
  metadata.set("format", "safetensors").set("total_shards", shards_.size()).set("total_parameters", static_cast<std::int64_t>(total_elements));
  metadata.set("total_size", static_cast<std::int64_t>(total_bytes));
  io::json index = io::json::object{};
  index.set("metadata", std::move(metadata)).set("weight_map", std::move(map));
  add_text(index_name, io::dump(index));
}

std::vector<file_plan> checkpoint_folder::files() const {
  std::vector<file_plan> files;
  for (const shard& s : shards_) files.push_back({s.name, io::safetensors_size(s.tensors, {})});
  for (const auto& [name, text] : texts_) files.push_back({name, text.size()});
  files.insert(files.end(), copies_.begin(), copies_.end());
  std::vector<std::string> names;
  for (const file_plan& f : files) names.push_back(f.name);
  files.push_back({checksums_name, checksums_size(names)});
  return files;
}

result<void> checkpoint_folder::begin(const std::string& directory) {
  directory_ = directory;
  for (shard& s : shards_) {
    auto writer = io::safetensors_writer::create(directory + "/" + s.name, s.tensors, {});
    if (!writer) return forward_error(writer);
    s.writer = std::make_unique<io::safetensors_writer>(std::move(*writer));
  }
  return {};
}

result<void> checkpoint_folder::write(const std::string& tensor, std::span<const std::byte> data, std::uint64_t offset_bytes) {
  const auto at = shard_of_.find(tensor);
  if (at == shard_of_.end()) return fail(error_kind::internal, "a tensor is written that was not planned", directory_, tensor);
  return shards_[at->second].writer->write(tensor, data, offset_bytes);
}

result<void> checkpoint_folder::finish() {
  for (shard& s : shards_) {
    if (auto r = s.writer->finish(); !r) return r;
  }
  for (const file_plan& c : copies_) {
    if (auto r = io::copy_file_durably(copied_from_ + "/" + c.name, directory_ + "/" + c.name); !r) return r;
  }
  for (const auto& [name, text] : texts_) {
    if (auto r = io::write_text(directory_ + "/" + name, text); !r) return r;
  }
  std::vector<std::string> names;
  for (const file_plan& f : files()) {
    if (f.name != checksums_name) names.push_back(f.name);
  }
  return write_checksums(directory_, names);
}

}  // namespace auto_round::exporting
