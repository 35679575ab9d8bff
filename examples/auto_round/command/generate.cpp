// The command generate: continues a prompt.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "command/command.hpp"
#include "command/model_path.hpp"
#include "export/export_format.hpp"
#include "model/decoder.hpp"
#include "model/linalg.hpp"
#include "plan_inference_memory.hpp"
#include "report/resources.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::command {
namespace {

/// A point in time, in seconds since a clock began and in CPU seconds of the process.
struct moment {
  explicit moment(const report::stopwatch& clock) : wall(clock.seconds()), cpu(report::cpu_seconds()) {}
  double wall, cpu;
};

class generate final : public command {
 public:
  std::string_view name() const override { return "generate"; }
  std::string_view summary() const override { return "continue a prompt"; }
  bool shares_products() const override { return true; }

  void declare(option_set& o) override {
    o.positional("MODEL", positional_model_, "model folder or GGUF file");
    o.text("model,model_name,model_name_or_path", "PATH", model_, "model folder (float or quantized, by this program or others) or GGUF file");
    o.text("prompt", "TEXT", prompt_, "the beginning of the text");
    o.integer("max_tokens", options_.max_tokens, "at most so many new tokens (64)");
    o.real("temperature", temperature_, "0: always the most likely token (0)");
    o.integer("seed", seed_, "seed for temperatures above 0 (42)");
    o.flag("ignore_eos", ignore_eos_, true, "go on behind the token that ends a text");
    o.text("tokenizer", "DIR", tokenizer_, "folder of tokenizer.json (the model's)");
    o.flag("float_activations", float_activations_, true, "layers read float rows, even if the checkpoint says that engines quantize them");
    o.bytes("max_memory", max_memory_, "refuse what would take more memory: N with B, KB, MB or GB (no limit)");
    o.flag("json", json_, true, "print one JSON object on stdout");
  }

  result<void> run() override {
    if (!positional_model_.empty()) model_ = positional_model_;
    if (model_.empty()) return fail(error_kind::usage, "no model given; write --model PATH");
    if (auto r = find_local_model(model_); !r) return r;
    if (options_.max_tokens < 1) return fail(error_kind::usage, "--max_tokens must be at least 1");
    options_.temperature = temperature_.value_or(0);
    if (options_.temperature < 0) return fail(error_kind::usage, "--temperature must not be negative");
    options_.seed = static_cast<std::uint64_t>(seed_);
    linalg::keep_buffers();
    auto model = exporting::open_model(model_);
    if (!model) return forward_error(model);
    if (float_activations_) (*model)->read_float_inputs();
    auto tok = text::tokenizer::open(tokenizer_.empty() ? (*model)->tokenizer_directory() : tokenizer_);
    if (!tok) return forward_error(tok);
    auto prompt = tok->encode(prompt_, true);
    if (!prompt) return forward_error(prompt);
    if (prompt->empty() && tok->bos_id() >= 0) prompt->push_back(tok->bos_id());
    if (prompt->empty()) return fail(error_kind::usage, "the prompt is empty, and the tokenizer has no begin token; write --prompt TEXT");
    for (const std::int32_t id : *prompt) {
      if (id < 0 || id >= (*model)->spec().vocab_size) return fail(error_kind::input, "tokenizer and model do not belong together: an id is out of range", model_);
    }
    options_.eos_id = ignore_eos_ ? -1 : tok->eos_id();
    const auto tokens = static_cast<std::uint64_t>(prompt->size()) + static_cast<std::uint64_t>(options_.max_tokens);
    const std::int64_t positions = (*model)->spec().max_position_embeddings;
    if (positions > 0 && prompt->size() > static_cast<std::size_t>(positions))
      return fail(error_kind::usage, fmt::format("the prompt has {} tokens, and the model knows {} positions; write a shorter --prompt", prompt->size(), positions), model_);
    const plan::memory_estimate estimate = plan::estimate_generation({&(*model)->spec(), plan::sizes_of(**model)}, prompt->size(),
                                                                     positions > 0 ? std::min(tokens, static_cast<std::uint64_t>(positions)) : tokens, omp_get_max_threads());
    if (auto r = plan::check_memory(estimate, max_memory_); !r) return r;
    fmt::print(stderr, "about {} of memory ({})\n", report::human_bytes(estimate.bytes()), estimate.explain());
    const report::stopwatch clock;
    const auto weights = model::resident_model::read(**model);
    if (!weights) return forward_error(weights);
    // What the prompt took ends with the first token.
    const moment loaded(clock);
    std::optional<moment> first;
    moment last = loaded;
    auto ids = model::generate(*weights, *prompt, options_, [&](std::int32_t) {
      last = moment(clock);
      if (!first) first = last;
      return true;
    });
    if (!ids) return forward_error(ids);
    if (positions > 0 && prompt->size() + ids->size() > static_cast<std::size_t>(positions) && static_cast<std::int64_t>(ids->size()) < options_.max_tokens)
      fmt::print(stderr, "note: the text ends after {} of {} tokens (--max_tokens): the model knows no more than {} positions\n", ids->size(), options_.max_tokens, positions);
    const std::string text = tok->decode(*ids, true);
    if (json_) {
      io::json::array numbers;
      for (const std::int32_t id : *ids) numbers.emplace_back(static_cast<std::int64_t>(id));
      io::json out = io::json::object{};
      const moment begun = first.value_or(moment(clock));
      out.set("text", text).set("prompt", prompt_).set("ids", std::move(numbers)).set("prompt_tokens", static_cast<std::int64_t>(prompt->size()));
      out.set("load_seconds", loaded.wall).set("prompt_seconds", begun.wall - loaded.wall).set("prompt_cpu_seconds", begun.cpu - loaded.cpu);
      if (ids->size() > 1) out.set("generation_seconds", last.wall - begun.wall).set("generation_cpu_seconds", last.cpu - begun.cpu);
      out.set("seconds", clock.seconds()).set("weight_bytes", static_cast<std::int64_t>(weights->weight_bytes()));
      out.set("planned_memory_bytes", static_cast<std::int64_t>(estimate.bytes()));
      out.set("peak_memory_bytes", static_cast<std::int64_t>(report::peak_memory_bytes()));
      fmt::print("{}\n", io::dump(out, {.indent = -1}));
    } else {
      fmt::print("{}{}\n", prompt_, text);
    }
    return {};
  }

 private:
  std::string model_, positional_model_, prompt_, tokenizer_;
  std::optional<double> temperature_;
  std::int64_t seed_ = 42;
  std::uint64_t max_memory_ = 0;
  model::generation_options options_;
  bool json_ = false, ignore_eos_ = false, float_activations_ = false;
};

}  // namespace

std::unique_ptr<command> make_generate() { return std::make_unique<generate>(); }

}  // namespace auto_round::command
