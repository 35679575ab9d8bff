// The command convert: one quantized checkpoint into another, without quantizing anew.
#include <fmt/format.h>
#include <omp.h>

#include <memory>
#include <optional>

#include "command/command.hpp"
#include "command/convert_run.hpp"
#include "command/model_path.hpp"
#include "plan.hpp"

namespace auto_round::command {
namespace {

class convert final : public command {
 public:
  std::string_view name() const override { return "convert"; }
  std::string_view summary() const override { return "turn a quantized checkpoint into another format, without loss where that is possible"; }

  void declare(option_set& o) override {
    o.positional("MODEL", positional_model_, "quantized model folder or GGUF file");
    o.text("model,model_name,model_name_or_path", "PATH", run_.model, "the quantized checkpoint: a folder in any format that `eval` reads, or a GGUF file");
    o.text("output_dir", "DIR", run_.output_dir, "the finished folder; with several formats one folder below it for each (./tmp_autoround)");
    o.flag("overwrite", run_.overwrite, true, "replace an output folder that this program made, once the new one is finished");
    o.text("format,formats", "LIST", formats_, "formats to write (`auto-round list formats`), several separated by commas; fake: dequantized weights");
    o.suggest("format", exporting::all_spellings());
    o.flag("allow_loss", run_.allow_loss, true, "write layers, too, whose weights the format rounds (scales to another type, zero points that it does not have)");
    o.bytes("max_shard_size", run_.max_shard_bytes, "largest safetensors file: N with B, KB, MB or GB (5GB)");
    o.bytes("max_memory", run_.max_memory, "refuse what would take more memory: N with B, KB, MB or GB (no limit)");
    o.flag("dry_run", run_.dry_run, true, "print what would happen to each tensor, all sizes and what would be lost, then stop");
    o.flag("json", run_.json, true, "print one JSON object with the results on stdout");
    o.choice("progress", "bar,lines,never,auto", progress_, "bar, lines, never or auto (auto: a bar on a terminal)");
    o.flag("quiet", run_.quiet, true, "print errors only");
    o.integer("threads", threads_, "threads (all cores)");
  }

  result<void> run() override {
    if (!positional_model_.empty()) run_.model = positional_model_;
    if (run_.model.empty()) return fail(error_kind::usage, "no model given; write --model PATH");
    if (auto r = find_local_model(run_.model); !r) return r;
    take_slashes_off(run_.output_dir);
    if (formats_.empty()) return fail(error_kind::usage, "no format given; write --format NAME (`auto-round list formats` prints all)");
    auto formats = plan::parse_formats(formats_);
    if (!formats) return forward_error(formats);
    run_.formats = std::move(*formats);
    using report::progress_style;
    run_.progress = progress_ == "bar" ? progress_style::bar : progress_ == "lines" ? progress_style::lines : progress_ == "never" ? progress_style::none : progress_style::automatic;
    if (run_.quiet) run_.progress = progress_style::none;
    if (threads_ && (*threads_ < 1 || *threads_ > 4096)) return fail(error_kind::usage, fmt::format("--threads {} is out of range", *threads_));
    if (threads_) omp_set_num_threads(static_cast<int>(*threads_));
    return run_convert(run_);
  }

 private:
  std::string positional_model_, formats_, progress_ = "auto";
  std::optional<std::int64_t> threads_;
  convert_options run_;
};

}  // namespace

std::unique_ptr<command> make_convert() { return std::make_unique<convert>(); }

}  // namespace auto_round::command
