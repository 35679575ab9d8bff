#include "command/run_journal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <system_error>

#include "ar/version.hpp"
#include "command/fingerprint.hpp"
#include "model/linalg.hpp"

namespace auto_round::command {
namespace {

std::string lines_of(const tune::layer_choices& choices) {
  std::string text;
  for (const auto& [name, c] : choices) text += fmt::format("{} {} {}\n", name, static_cast<int>(c.scale_type), describe(c.scheme));
  return text;
}

}  // namespace

bool matters_for_results(const std::string& option) {
  constexpr std::string_view free[] = {"output_dir", "threads", "progress", "quiet", "json",           "log_json",       "report",
                                       "dry_run",    "restart", "resume",   "overwrite", "format", "max_shard_size", "autoscheme_json",
                                       "tasks",      "task_dir", "limit",   "num_fewshot", "add_bos_token", "max_length", "max_memory"};
  return std::ranges::find(free, option) == std::end(free);
}

io::json key_of_run(const given_options& options, const exporting::stored_model& source, const text::calibration_set& calibration) {
  io::json key = io::json::object{};
  io::json::array given;
  for (const auto& [name, value] : options) given.push_back(io::json::array{io::json(name), io::json(value)});
  key.set("version", AR_VERSION_STRING).set("arithmetic", linalg::description()).set("options", std::move(given));
  if (source.directory() != nullptr) key.set("model files", files_of(*source.directory())).set("config.json", config_hash(source));
  key.set("calibration text", fmt::format("{} samples of {}: {} {}", calibration.rows(), calibration.seqlen, hash_of(calibration.ids), hash_of(calibration.valid)));
  return key;
}

result<void> run_journal::open(const std::string& output, bool restart, const given_options& options, const exporting::stored_model& source,
                               const text::calibration_set& calibration, const tune::layer_choices& choices) {
  path_ = output + ".journal";
  key_ = key_of_run(options, source, calibration);
  key_.set("schemes of layers", hash_of(lines_of(choices)));
  std::error_code ec;
  if (!std::filesystem::exists(std::filesystem::symlink_status(path_, ec))) return {};
  auto opened = tune::journal::open(path_, key_, restart);
  if (!opened) return forward_error(opened);
  journal_.emplace(std::move(*opened));
  known_ = journal_->parts();
  return {};
}

tl::unexpected<error> run_journal::not_ours() const {
  return fail(error_kind::output, "the journal holds something else than the part that is due; --restart begins anew", path_);
}

result<std::optional<std::vector<std::byte>>> run_journal::next(part of) {
  if (!journal_ || read_ == known_) return std::optional<std::vector<std::byte>>();
  auto record = journal_->read(read_);
  if (!record) return forward_error(record);
  if (record->of != of) return std::optional<std::vector<std::byte>>();
  ++read_;
  return std::optional(std::move(record->bytes));
}

bool run_journal::add(part of, std::vector<std::byte> bytes) {
  if (lost_ || read_ < known_) return true;  // what is known lies behind this part
  if (!journal_) {
    auto begun = tune::journal::open(path_, key_);
    if (begun) journal_.emplace(std::move(*begun));
  }
  if (journal_ && journal_->add(of, std::move(bytes))) return true;
  lost_ = true;
  return false;
}

result<std::optional<tune::recorded_block>> run_journal::next_block(std::int64_t first_block) {
  auto bytes = next(part::tuned_block);
  if (!bytes) return forward_error(bytes);
  if (!*bytes) return std::optional<tune::recorded_block>();
  auto block = tune::block_of_record(**bytes);
  if (!block || block->result.first_block != first_block) return not_ours();
  last_known_ = first_block;
  return block;
}

bool run_journal::add_block(const tune::block_result& block, std::span<const tune::quantized_layer> layers) {
  return lost_ || block.first_block <= last_known_ || add(part::tuned_block, tune::to_record(block, layers));
}

void run_journal::remove() {
  if (journal_) static_cast<void>(journal_->remove());
  journal_.reset();
}

}  // namespace auto_round::command
