// The command report: one table over several finished runs of quantize, each reloaded from what it saved: size, perplexity, distance to the float
// model, cost, and a sentence that it writes.
#include <fmt/format.h>

#include <cstdio>

#include "command/command.hpp"
#include "command/eval_text.hpp"
#include "command/model_path.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"
#include "model/decoder.hpp"
#include "report/resources.hpp"
#include "report/table.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::command {
namespace {

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// One finished run: what quantize said of itself (--json), and what its output does.
struct run_record {
  std::string scheme, method, format, path;
  std::int64_t bytes_before = 0, bytes_after = 0, peak_memory = 0;
  double bits_per_weight = 0, seconds = 0;
  model::evaluation quality;
  std::string sentence;
};

class report_command final : public command {
 public:
  std::string_view name() const override { return "report"; }
  std::string_view summary() const override { return "compare finished runs in one table"; }

  void declare(option_set& o) override {
    o.positional("FILES", positional_runs_, "results of quantize --json, separated by commas");
    o.text("runs", "FILES", runs_, "results of quantize --json, separated by commas");
    o.text("ref", "DIR", reference_, "the float model");
    o.text("ppl", "FILE", text_, "text to score, .txt or .jsonl");
    o.text("prompt", "TEXT", prompt_, "let every model continue this text (greedily)");
    o.integer("seqlen,seq_len", seqlen_, "tokens of a window (512)");
    o.integer("max_tokens", max_tokens_, "score at most so many tokens (all)");
    o.integer("max_new_tokens", new_tokens_, "length of the continuation (40)");
    o.flag("json", json_, true, "print one JSON object on stdout");
  }

  result<void> run() override {
    if (!positional_runs_.empty()) runs_ = positional_runs_;
    if (runs_.empty()) return fail(error_kind::usage, "no runs given; write --runs A.json,B.json (what `quantize --json` printed)");
    if (reference_.empty() || text_.empty()) return fail(error_kind::usage, "write --ref DIR (the float model) and --ppl FILE (the text to score)");
    if (seqlen_ < 2 || new_tokens_ < 1) return fail(error_kind::usage, "--seqlen must be at least 2 and --max_new_tokens at least 1");
    if (auto r = find_local_model(reference_); !r) return r;
    auto reference = exporting::open_model(reference_);
    if (!reference) return forward_error(reference);
    auto ids = read_eval_tokens((*reference)->tokenizer_directory(), text_, max_tokens_, (*reference)->spec().vocab_size);
    if (!ids) return forward_error(ids);
    if (static_cast<std::int64_t>(ids->size()) < seqlen_) return fail(error_kind::input, "the text is shorter than one window; choose a smaller --seqlen", text_);

    std::vector<run_record> records;
    run_record original;
    original.scheme = "float";
    original.method = "-";
    original.path = reference_;
    auto e = model::evaluate(**reference, *ids, seqlen_, nullptr);
    if (!e) return forward_error(e);
    original.quality = *e;
    if (auto r = write_sentence(**reference, original); !r) return r;
    for (const std::string& file : split_at_commas(runs_)) {
      if (auto r = measure(file, **reference, *ids, records); !r) return r;
    }
    if (!records.empty()) original.bytes_after = original.bytes_before = records.front().bytes_before;
    records.insert(records.begin(), original);
    json_ ? print_json(records) : print_table(records);
    return {};
  }

 private:
  /// Every format that the run wrote becomes a record.
  result<void> measure(const std::string& file, const exporting::stored_model& reference, const std::vector<std::int32_t>& ids,
                       std::vector<run_record>& records) const {
    auto read = io::read_json(file);
    if (!read) return forward_error(read);
    const io::json& run = *read;
    if (run.at("formats").items().empty()) return fail(error_kind::input, "this is not what `quantize --json` prints: it has no formats", file);
    for (const io::json& f : run.at("formats").items()) {
      run_record r;
      r.scheme = run.at("scheme").as_string();
      r.method = run.at("method").as_string();
      r.format = f.at("format").as_string();
      r.path = f.at("path").as_string();
      r.bytes_before = run.at("weight_bytes_before").as_int();
      r.bytes_after = f.at("weight_bytes").as_int();
      r.bits_per_weight = f.at("bits_per_weight").as_double();
      r.seconds = run.at("seconds").as_double();
      r.peak_memory = run.at("peak_memory_bytes").as_int();
      auto model = exporting::open_model(r.path);
      if (!model) return fail(model.error().kind, fmt::format("{}; named in {}", model.error().message, file), model.error().file, model.error().tensor);
      if ((*model)->spec().vocab_size != reference.spec().vocab_size) {
        return fail(error_kind::usage, "this run belongs to another model than --ref: their vocabularies differ", file);
      }
      auto e = model::evaluate(**model, ids, seqlen_, &reference);
      if (!e) return forward_error(e);
      r.quality = *e;
      if (auto written = write_sentence(**model, r); !written) return written;
      records.push_back(std::move(r));
    }
    return {};
  }

  result<void> write_sentence(const exporting::stored_model& model, run_record& r) const {
    if (prompt_.empty()) return {};
    auto tok = text::tokenizer::open(model.tokenizer_directory());
    if (!tok) return forward_error(tok);
    auto ids = tok->encode(prompt_, true);
    if (!ids) return forward_error(ids);
    for (const std::int32_t id : *ids) {
      if (id < 0 || id >= model.spec().vocab_size) return fail(error_kind::input, "tokenizer and model do not belong together: an id is out of range", r.path);
    }
    if (ids->empty()) return fail(error_kind::usage, "the prompt has no tokens; write a longer --prompt");
    model::generation_options options;
    options.max_tokens = new_tokens_;
    options.eos_id = tok->eos_id();
    auto out = model::generate(model, *ids, options);
    if (!out) return forward_error(out);
    r.sentence = prompt_ + tok->decode(*out, true);
    return {};
  }

  void print_table(const std::vector<run_record>& records) const {
    using report::align;
    const std::vector<report::column> columns = {{"scheme", align::left}, {"method", align::left}, {"before", align::right}, {"after", align::right},
                                                 {"bits/weight", align::right}, {"perplexity", align::right}, {"KL to float", align::right}, {"same top-1", align::right},
                                                 {"time", align::right}, {"peak memory", align::right}};
    std::vector<std::vector<std::string>> rows;
    for (const run_record& r : records) {
      const bool is_float = &r == &records.front();
      const auto size = [](std::int64_t b) { return report::human_bytes(static_cast<std::uint64_t>(b)); };
      rows.push_back({r.scheme, r.method, is_float ? "" : size(r.bytes_before), r.bytes_after == 0 ? "" : size(r.bytes_after),
                      is_float ? "" : fmt::format("{:.2f}", r.bits_per_weight), fmt::format("{:.4f}", r.quality.perplexity),
                      is_float ? "" : fmt::format("{:.6f}", r.quality.kl), is_float ? "" : fmt::format("{:.2f} %", 100 * r.quality.top1),
                      is_float ? "" : report::human_seconds(r.seconds), is_float ? "" : size(r.peak_memory)});
    }
    fmt::print("{}", report::text_table(columns, rows));
    fmt::print("Sizes are those of the weights; perplexity over {} tokens of {}; KL in nats.\n", records.front().quality.tokens, text_);
    if (prompt_.empty()) return;
    fmt::print("\nEach model continues \"{}\":\n", prompt_);
    for (const run_record& r : records) fmt::print("  {} {}: {}\n", r.scheme, r.method == "-" ? "" : r.method, r.sentence);
  }

  void print_json(const std::vector<run_record>& records) const {
    io::json::array all;
    for (const run_record& r : records) {
      io::json one = io::json::object{};
      one.set("scheme", r.scheme).set("method", r.method).set("format", r.format).set("path", r.path);
      one.set("weight_bytes_before", r.bytes_before).set("weight_bytes", r.bytes_after).set("bits_per_weight", r.bits_per_weight);
      one.set("ppl", r.quality.perplexity).set("nll", r.quality.nll).set("tokens", r.quality.tokens);
      if (r.quality.has_reference) one.set("kl", r.quality.kl).set("top1", r.quality.top1);
      one.set("seconds", r.seconds).set("peak_memory_bytes", r.peak_memory).set("text", r.sentence);
      all.push_back(std::move(one));
    }
    io::json out = io::json::object{};
    out.set("runs", std::move(all));
    fmt::print("{}\n", io::dump(out));
  }

  std::string runs_, positional_runs_, reference_, text_, prompt_;
  std::int64_t seqlen_ = 512, max_tokens_ = 0, new_tokens_ = 40;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<command> make_report() { return std::make_unique<report_command>(); }

}  // namespace auto_round::command
