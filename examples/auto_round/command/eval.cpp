// The command eval: perplexity, tasks, and how far the model is from a reference.
#include <fmt/format.h>
#include <omp.h>

#include <cstdio>

#include "command/command.hpp"
#include "command/eval_tasks.hpp"
#include "command/eval_text.hpp"
#include "command/foreign_options.hpp"
#include "command/model_path.hpp"
#include "command/unused_options.hpp"
#include "export/export_format.hpp"
#include "model/evaluate_windows.hpp"
#include "model/forward_pieces.hpp"
#include "model/linalg.hpp"
#include "plan_inference_memory.hpp"
#include "report/resources.hpp"

namespace auto_round::command {
namespace {

class eval final : public command {
 public:
  std::string_view name() const override { return "eval"; }
  std::string_view summary() const override { return "perplexity and task scores of a checkpoint, and how far it is from a reference"; }
  bool shares_products() const override { return true; }

  void declare(option_set& o) override {
    o.watch([this](const option& given, const std::string&) {
      if (!given.names.empty()) written_.push_back(given.names.front());
    });
    o.positional("MODEL", positional_model_, "model folder or GGUF file");
    o.text("model,model_name,model_name_or_path", "PATH", model_, "model folder (float or quantized, by this program or others) or GGUF file");
    o.text("ppl", "FILE", text_, ".txt: the whole file; .jsonl: the texts of all lines, each with begin and end token");
    o.text("ref", "PATH", reference_, "compare with this model: adds KL divergence and top-1 agreement, and differences of task scores");
    o.text("tokenizer", "DIR", tokenizer_, "folder of tokenizer.json (that of the reference, or of the model)");
    o.integer("seqlen,seq_len", seqlen_, "tokens of a window; windows do not overlap (512)");
    o.integer("max_tokens", max_tokens_, "use at most so many tokens of the text (all)");
    o.flag("float_activations", float_activations_, true, "layers read float rows, even if the checkpoint says that engines quantize them");
    o.bytes("max_memory", max_memory_, "most memory to take: N with B, KB, MB or GB; texts run in smaller parts, or the command is refused before a model is read (no limit)");
    o.flag("json", json_, true, "print one JSON object on stdout");
    o.group("Tasks");
    tasks_.declare(o);
    declare_foreign_evaluation(o, "eval_bs,bs,batch_size");
    o.notice("seed", true, "nothing is drawn by chance");
    o.refuse("apply_chat_template", false, "tasks are asked with plain prompts");
  }

  result<void> run() override {
    if (!positional_model_.empty()) model_ = positional_model_;
    if (model_.empty()) return fail(error_kind::usage, "no model given; write --model PATH");
    if (auto r = find_local_model(model_); !r) return r;
    if (text_.empty() && !tasks_.tasks) return fail(error_kind::usage, "nothing to evaluate; write --ppl FILE (.txt or .jsonl) or --tasks NAMES");
    if (max_tokens_ < 0) return fail(error_kind::usage, "--max_tokens must not be negative");
    if (seqlen_ < 2) return fail(error_kind::usage, "--seqlen must be at least 2: the first token of a window is not scored");
    if (const std::string line = unused_task_options(written_); !tasks_.tasks && !line.empty()) fmt::print(stderr, "note: {}\n", line);
    const report::stopwatch clock;
    auto model = exporting::open_model(model_);
    if (!model) return forward_error(model);
    if (float_activations_) (*model)->read_float_inputs();
    std::unique_ptr<exporting::stored_model> reference;
    if (!reference_.empty()) {
      if (auto r = find_local_model(reference_); !r) return r;
      auto opened = exporting::open_model(reference_);
      if (!opened) return forward_error(opened);
      reference = std::move(*opened);
      if (reference->spec().vocab_size != (*model)->spec().vocab_size) {
        return fail(error_kind::usage, "the two models have different vocabularies and cannot be compared", reference_);
      }
    }
    const std::string tokenizer = !tokenizer_.empty() ? tokenizer_ : reference ? reference->tokenizer_directory() : (*model)->tokenizer_directory();
    io::json out = io::json::object{};
    if (!text_.empty()) {
      if (auto r = score_text(**model, reference.get(), tokenizer, out); !r) return r;
    }
    if (tasks_.tasks) {
      if (auto r = evaluate_tasks(tasks_, **model, reference.get(), model_, tokenizer, json_, max_memory_, out); !r) return r;
    }
    if (json_) {
      out.set("seconds", clock.seconds()).set("peak_memory_bytes", static_cast<std::int64_t>(report::peak_memory_bytes()));
      fmt::print("{}\n", io::dump(out, {.indent = -1}));
    } else {
      fmt::print(stderr, "{}, peak memory {}\n", report::human_seconds(clock.seconds()), report::human_bytes(report::peak_memory_bytes()));
    }
    return {};
  }

 private:
  result<void> score_text(const exporting::stored_model& model, const exporting::stored_model* reference, const std::string& tokenizer, io::json& out) const {
    auto ids = read_eval_tokens(tokenizer, text_, max_tokens_, model.spec().vocab_size);
    if (!ids) return forward_error(ids);
    if (static_cast<std::int64_t>(ids->size()) < seqlen_) {
      return fail(error_kind::input, fmt::format("the text has {} tokens, less than one window of {}; choose a smaller --seqlen", ids->size(), seqlen_), text_);
    }
    if (const std::int64_t positions = model.spec().max_position_embeddings; positions > 0 && seqlen_ > positions)
      fmt::print(stderr, "warning: the model knows {} positions, and windows have {} tokens: it was not made for that; --seqlen {} fits\n", positions, seqlen_, positions);
    const auto window = static_cast<std::size_t>(seqlen_);
    plan::evaluation_facts f{.models = {{&model.spec(), plan::sizes_of(model)}}, .tokens = ids->size() / window * window, .seqlen = window, .threads = omp_get_max_threads()};
    if (reference != nullptr) f.models.push_back({&reference->spec(), plan::sizes_of(*reference)});
    auto estimate = plan::fit_evaluation(f, model::sequences_at_once(window) * window, max_memory_);
    if (!estimate) return forward_error(estimate);
    fmt::print(stderr, "perplexity: about {} of memory ({})\n", report::human_bytes(estimate->bytes()), estimate->explain());
    out.set("planned_memory_bytes", static_cast<std::int64_t>(estimate->bytes()));
    // Behind the first block, which has made what the backend keeps of each product: that must not lie between buffers that come and go.
    const auto on_block = [&](std::int64_t done, std::int64_t) {
      if (done == 1 && !tasks_.tasks) linalg::keep_buffers();
    };
    auto e = model::evaluate_windows(model, *ids, seqlen_, reference, static_cast<std::size_t>(f.tokens) / window, on_block);
    if (!e) return forward_error(e);
    out.set("ppl", e->perplexity).set("nll", e->nll).set("tokens", e->tokens);
    if (e->has_reference) out.set("kl", e->kl).set("top1", e->top1);
    if (json_) return {};
    fmt::print("perplexity {:.4f} over {} tokens\n", e->perplexity, e->tokens);
    if (e->has_reference) fmt::print("KL divergence to the reference {:.6f} nats, same most likely token {:.2f} %\n", e->kl, 100 * e->top1);
    return {};
  }

  std::string model_, positional_model_, text_, reference_, tokenizer_;
  std::vector<std::string> written_;  // canonical names of the options that were given
  std::int64_t seqlen_ = 512, max_tokens_ = 0;
  std::uint64_t max_memory_ = 0;
  task_options tasks_;
  bool float_activations_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<command> make_eval() { return std::make_unique<eval>(); }

}  // namespace auto_round::command
