#include "command/run_journal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <string_view>

#include "ar/version.hpp"
#include "export/export_checksums.hpp"
#include "io/json.hpp"
#include "model/linalg.hpp"

namespace auto_round::command {
namespace {

template <class T>
std::string hash_of(const std::vector<T>& values) {
  return exporting::sha256_hex(std::as_bytes(std::span(values)));
}

/// Files by name, size and time of change.
io::json files_of(const exporting::stored_model& source) {
  io::json files = io::json::object{};
  if (source.directory() == nullptr) return files;
  for (const std::string& file : source.directory()->files()) {
    std::error_code ec;
    const auto bytes = std::filesystem::file_size(file, ec);
    const auto when = std::filesystem::last_write_time(file, ec).time_since_epoch();
    files.set(file, fmt::format("{} bytes, {}", bytes, std::chrono::duration_cast<std::chrono::nanoseconds>(when).count()));
  }
  return files;
}

std::string describe(const tune::layer_choices& choices) {
  std::string text;
  for (const auto& [name, c] : choices) {
    const ar::scheme_fields& s = c.scheme;
    text += fmt::format("{} {} {} {} {} {} {}/{} {} {}/{}/{}/{}\n", name, s.bits, s.group_size, s.group_rows, s.sym, s.data_type, s.super_bits.value_or(0),
                        s.super_group_size.value_or(0), static_cast<int>(c.scale_type), s.act_bits.value_or(16), s.act_group_size.value_or(0), s.act_sym.value_or(true),
                        s.act_data_type.value_or(""));
  }
  return text;
}

}  // namespace

bool matters_for_results(const std::string& option) {
  constexpr std::array<std::string_view, 12> free = {"output_dir", "threads", "progress", "quiet", "json", "log_json", "dry_run", "restart", "resume", "format", "max_shard_size", "autoscheme_json"};
  return std::find(free.begin(), free.end(), option) == free.end();
}

result<void> run_journal::open(const std::string& output, bool restart, const given_options& options, const exporting::stored_model& source,
                               const text::calibration_set& calibration, const tune::layer_choices& choices) {
  path_ = output + ".journal";
  io::json key = io::json::object{};
  io::json::array given;
  for (const auto& [name, value] : options) given.push_back(io::json::array{io::json(name), io::json(value)});
  const std::string schemes = describe(choices);
  key.set("version", AR_VERSION_STRING).set("arithmetic", linalg::description()).set("options", std::move(given)).set("model files", files_of(source));
  if (source.directory() != nullptr) {
    const std::string config = io::dump(source.directory()->config(), {.indent = -2, .sort_keys = true});
    key.set("config.json", exporting::sha256_hex(std::as_bytes(std::span(config))));
  }
  key.set("schemes of layers", exporting::sha256_hex(std::as_bytes(std::span(schemes))));
  key.set("calibration text", fmt::format("{} samples of {}: {} {}", calibration.rows(), calibration.seqlen, hash_of(calibration.ids), hash_of(calibration.valid)));
  auto opened = tune::journal::open(path_, key, restart);
  if (!opened) return forward_error(opened);
  journal_.emplace(std::move(*opened));
  known_ = journal_->blocks();
  return {};
}

result<std::optional<tune::recorded_block>> run_journal::next(std::int64_t first_block) {
  if (!journal_ || read_ == known_) return std::optional<tune::recorded_block>();
  auto block = journal_->read(read_);
  if (!block) return forward_error(block);
  if (block->result.first_block != first_block) return fail(error_kind::output, "the journal holds another block than the one that is due; --restart begins anew", path_);
  ++read_;
  last_known_ = first_block;
  return std::optional<tune::recorded_block>(std::move(*block));
}

bool run_journal::add(const tune::block_result& block, std::span<const tune::quantized_layer> layers) {
  if (!journal_ || block.first_block <= last_known_) return true;
  if (journal_->add(block, layers)) return true;
  journal_.reset();
  return false;
}

void run_journal::remove() {
  if (journal_) static_cast<void>(journal_->remove());
  journal_.reset();
}

}  // namespace auto_round::command
