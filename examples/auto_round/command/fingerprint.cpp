#include "command/fingerprint.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <system_error>

namespace auto_round::command {
namespace {
constexpr int whole_bits = 16;
}

io::json files_of(const io::checkpoint_dir& source) {
  io::json files = io::json::object{};
  for (const std::string& file : source.files()) {
    std::error_code ec;
    const auto bytes = std::filesystem::file_size(file, ec);
    const auto when = std::filesystem::last_write_time(file, ec).time_since_epoch();
    files.set(std::filesystem::path(file).filename().string(),
              io::json::array{io::json(static_cast<std::int64_t>(bytes)), io::json(static_cast<std::int64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(when).count()))});
  }
  return files;
}

std::string config_hash(const exporting::stored_model& source) { return hash_of(io::dump(source.directory()->config(), {.indent = -2, .sort_keys = true})); }

result<void> add_transformed(io::json& key, const exporting::stored_model& source, const model::weight_source& weights) {
  if (&weights == &source) return {};
  auto block = model::read_block(weights, 0);
  if (!block) return forward_error(block);
  std::string digests;
  for (const std::vector<float>& w : block->linears) digests += hash_of(w);
  key.set("transformed", hash_of(digests));
  return {};
}

std::string describe(const ar::scheme_fields& s) {
  return fmt::format("{} {} {} {} {} {}/{} {}/{}/{}/{}/{}", s.bits, s.group_size, s.group_rows, s.sym, s.data_type, s.super_bits.value_or(0), s.super_group_size.value_or(0),
                     s.act_bits.value_or(whole_bits), s.act_group_size.value_or(0), s.act_sym.value_or(true), s.act_data_type.value_or(""), s.act_dynamic.value_or(true));
}

}  // namespace auto_round::command
