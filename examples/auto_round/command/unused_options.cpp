#include "command/unused_options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

namespace auto_round::command {

namespace {

bool contains(std::span<const std::string> written, std::string_view name) { return std::ranges::find(written, name) != written.end(); }

/// Those of `names` that were written, and why they do nothing; empty if none was.
std::string line_about(std::span<const std::string> written, std::initializer_list<std::string_view> names, std::string_view why) {
  std::string list;
  for (const std::string_view name : names) {
    if (contains(written, name)) list += fmt::format("{}--{}", list.empty() ? "" : ", ", name);
  }
  return list.empty() ? list : fmt::format("{}: without effect, for {}", list, why);
}

}  // namespace

std::string unused_task_options(std::span<const std::string> written) {
  return line_about(written, {"task_dir", "limit", "num_fewshot", "add_bos_token", "max_length"}, "no task is asked (--tasks)");
}

std::vector<std::string> unused_options(const run_options& o, const run_kind& run) {
  std::vector<std::string> lines;
  const auto written = [&](std::string_view name) { return contains(o.written, name); };
  const auto add = [&](std::string line) {
    if (!line.empty()) lines.push_back(std::move(line));
  };
  const auto tell = [&](std::initializer_list<std::string_view> names, std::string_view why) { add(line_about(o.written, names, why)); };
  if (!run.tuned) {
    const bool batches = o.awq || (o.rotation && o.rotation->trained);
    tell({batches ? "" : "batch_size", "tuning", "lr", "minmax_lr", "momentum", "gradient_accumulate_steps", "nblocks", "descent_sweeps", "enable_minmax_tuning", "disable_minmax_tuning", "not_use_best_mse",
          "enable_alg_ext", "enable_norm_bias_tuning", "enable_adam", "dynamic_max_gap", "clamp_gradient", "scale_gradient"},
         "nothing is tuned (--iters 0)");
  } else if (run.how == tuning::gram && o.descent_sweeps > 0) {
    tell({"iters", "lr", "minmax_lr", "batch_size", "not_use_best_mse"}, "tuning by gram has no iterations (--tuning block has)");
  } else if (run.how == tuning::hybrid) {
    tell({"lr", "minmax_lr", "not_use_best_mse"}, "tuning by hybrid has steps of its own (--tuning block has these)");
  }
  if (!run.reads_text) tell({"nsamples", "seqlen", "dataset"}, "this run reads no calibration text");
  if (!run.integers) tell({"scale_dtype"}, "no layer has integers with scales of a choosable type");
  if (run.shard_wise) {
    tell({"iters", "report", "imatrix"}, "shard by shard weights are only rounded, and nothing is measured (--disable_model_free)");
    tell({"max_shard_size"}, "shard by shard each file of the source becomes one file (--disable_model_free)");
  }
  if (!o.tasks.tasks) add(unused_task_options(o.written));
  if (!o.autoscheme.wanted())
    tell({"score_gradient", "score_nsamples", "score_seqlen", "score_batch_size", "score_cache", "bits_accounting"}, "no schemes are chosen from (--schemes)");
  if (!written("static_kv_dtype")) tell({"static_kv_granularity"}, "a KV cache gets no scales of its own (--static_kv_dtype)");
  if (!written("static_attention_dtype")) tell({"static_attention_granularity"}, "queries get no scales (--static_attention_dtype)");
  return lines;
}

}  // namespace auto_round::command
