// Sums of what the stages allocate. Where a size is not plain from the shapes, the line says which file it follows; tests/app/memory_program_test.cpp holds
// estimates against peaks.
#include "plan_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "io/file.hpp"
#include "plan_block_memory.hpp"

namespace auto_round::plan {
namespace {

using exporting::layer_decision;
using bytes_t = std::uint64_t;

constexpr bytes_t mib = bytes_t{1} << 20, float_bytes = sizeof(float);

bytes_t u(std::int64_t v) { return v > 0 ? static_cast<bytes_t>(v) : 0; }

bytes_t inner_size(const model::model_spec& spec) {
  const model::mixture_spec& m = spec.mixture;
  return std::max(u(spec.intermediate_size), m.experts > 0 ? u(m.active) * u(m.intermediate_size) + u(m.shared_size) : 0);
}

class estimator {
 public:
  estimator(const memory_facts& facts, const model::model_spec& spec, const std::vector<layer_decision>& layers)
      : f_(facts),
        spec_(spec),
        hidden_(u(spec.hidden_size)),
        inner_(inner_size(spec)),
        o_(u(spec.num_heads) * u(spec.value_size())),
        element_(facts.bf16 || (facts.rounded && facts.tuned == tuner::none && facts.smoothing_tokens == 0) ? 2 : float_bytes),  // of activations that are kept
        threads_(static_cast<bytes_t>(std::max(1, facts.threads))),
        stream_(u(facts.samples) * u(facts.seqlen) * hidden_ * (facts.spilled ? 0 : element_)) {
    std::map<std::int64_t, bytes_t> blocks;
    for (const layer_decision& l : layers) {
      if (l.block >= 0) blocks[l.block] += l.rows * l.cols;
      if (l.block >= 0 && l.quantize && l.scheme.group_size != 0) groups_ += l.rows * (l.scheme.group_size > 0 ? (l.cols + u(l.scheme.group_size) - 1) / u(l.scheme.group_size) : 1);
      const bool whole = !facts.by_rows || (l.block >= 0 && (l.linear == spec.q || l.linear == spec.k));
      if (l.quantize && l.block >= 0) whole_ = std::max(whole_, l.rows * l.cols);
      if (l.quantize) largest_ = std::max(largest_, whole ? l.rows * l.cols : std::min(l.rows * l.cols, mib));
      if (l.quantize && l.block < 0 && whole) head_ = std::max(head_, l.rows * l.cols);
      widest_ = std::max(widest_, l.block >= 0 ? l.cols : 0);
    }
    for (const auto& [block, size] : blocks) block_ = std::max(block_, size);
  }

  memory_estimate run() {
    if (reads_text()) {
      add("reading text", 4, {{"the tokenizer", 2 * mib + 10 * f_.tokenizer_bytes, {}}});
      if (runs_calibration()) add("embedding the calibration set", 4, {text(), streams(1), {"rows of the embedding", embedding_rows(), {}}});
    }
    if (f_.scored.samples > 0) score();
    if (f_.trained.samples > 0) train();
    if (f_.smoothing_tokens > 0) smooth();
    if (f_.importance) importance(f_.samples, f_.seqlen);
    if (f_.tuned == tuner::block) tune_blocks();
    else if (f_.tuned != tuner::none) tune_gram();
    round();
    return std::move(out_);
  }

 private:
  bool runs_calibration() const { return f_.tuned != tuner::none || f_.importance || f_.smoothing_tokens > 0; }
  bool reads_text() const { return f_.scored.samples > 0 || f_.trained.samples > 0 || runs_calibration(); }

  /// `parts` beside what every stage has.
  void add(const char* name, bytes_t touched, std::vector<memory_part> parts, const char* instead = "") {
    // `touched`: code and data that the stage touches for the first time, and oneDNN's generated code; MiB, measured.
    parts.insert(parts.begin(), {"the program", f_.base + touched * mib, {}});
    out_.add({name, std::move(parts), instead});
  }

  /// What stays in the heap of it, between blocks that live on.
  memory_part text() const { return {"the tokenizer", f_.tokenizer_bytes * 5 / 2, {}}; }
  memory_part streams(bytes_t n) const { return {"activations of the calibration set", n * stream_, "--nsamples, --seqlen"}; }
  bytes_t embedding_rows() const {
    const bytes_t all = u(f_.samples) * u(f_.seqlen) * hidden_, piece = std::max<bytes_t>(bytes_t{16} << 20, u(f_.seqlen) * hidden_);
    return (std::min(all, piece) + std::min(u(spec_.vocab_size) * hidden_, bytes_t{4} << 20)) * float_bytes;
  }

  bytes_t runner(bytes_t tokens, bool train) const { return runner(tokens, u(f_.seqlen), f_.bf16, train); }
  bytes_t runner(bytes_t tokens, bytes_t seqlen, bool bf16, bool train) const { return block_runner_bytes(spec_, tokens, seqlen, bf16, f_.threads, train); }
  memory_part batch(bytes_t bytes) const { return {"a batch on its way through a block", bytes, "--batch_size, --seqlen"}; }

  std::int64_t batch_samples() const { return std::min(f_.batch_size, f_.samples); }

  void importance(std::int64_t samples, std::int64_t seqlen) {
    const std::int64_t batch_of = std::min(f_.batch_size, samples);
    const bytes_t batch_tokens = u(batch_of) * u(seqlen), tokens = forward_tokens(u(batch_of), u(seqlen)), stream = u(samples) * u(seqlen) * hidden_ * (f_.spilled ? 0 : f_.rounded ? 2 : element_);
    const bytes_t way = f_.rounded ? batch_tokens * (4 * hidden_ + 2 * o_ + 2 * u(spec_.num_kv_heads) * u(spec_.head_dim) + 5 * inner_ / 2) * float_bytes
                                   : runner(tokens, u(seqlen), f_.bf16, false) + (f_.bf16 ? tokens * std::max(inner_, hidden_) * float_bytes : 0);
    add("collecting importance", 4, {text(), {"activations of the calibration set", stream, "--nsamples, --seqlen"},
                                  {"a block's weights", block_ * (float_bytes + (f_.bf16 && !f_.rounded ? 2 : 0)) + (f_.rounded ? largest_ * 2 : 0), {}},
                                  batch(batch_tokens * hidden_ * float_bytes + way)});
  }

  /// transform/spinquant.cpp: floats throughout. A block is there as floats and rounded, with ranges of groups; what its backward pass needs is there once, or for
  /// each of the blocks.
  void train() {
    const training_facts& t = f_.trained;
    const bytes_t tokens = u(t.samples) * u(t.seqlen), rows = tokens * hidden_ * float_bytes, vocab = u(spec_.vocab_size), blocks = u(spec_.num_layers), kept = t.spilled ? 1 : blocks;
    const memory_part weights{t.spilled ? "a block's weights and gradients" : "weights of all blocks", (2 * kept + 1) * block_ * float_bytes + whole_ * float_bytes + groups_ * 4 * float_bytes, {}};
    const memory_part streams{"the stream between blocks", (t.spilled ? 0 : blocks * rows) + 6 * rows, "--seqlen"};
    const memory_part way{"a batch on its way through all blocks", kept * runner(tokens, u(t.seqlen), false, true), "--seqlen"};
    const bytes_t head = vocab * hidden_ * float_bytes, square = hidden_ * hidden_ * float_bytes;
    const bytes_t logits = head_rows(spec_) * (3 * vocab + 8 * hidden_) * float_bytes + threads_ * vocab * 8;
    add("training a rotation", 5, {text(), weights, streams, way, {"the head", head, {}}, {"matrices", 3 * square + std::max({logits, 9 * square, 8 * whole_ * float_bytes}), {}}});
  }

  /// autoscheme/delta_loss.cpp: floats throughout. First forward to the head, then backward block by block.
  void score() {
    const scoring_facts& s = f_.scored;
    if (s.importance_samples > 0) importance(s.importance_samples, s.importance_seqlen);
    const bytes_t tokens = u(std::min(s.batch_size, s.samples)) * u(s.seqlen), rows = tokens * hidden_ * float_bytes, vocab = u(spec_.vocab_size);
    const memory_part inputs{"inputs of all blocks", s.spilled ? 0 : u(spec_.num_layers) * rows, "--score_batch_size, --score_seqlen"};
    const auto way = [&](bytes_t bytes) { return memory_part{"a batch on its way through a block", bytes, "--score_batch_size, --score_seqlen"}; };
    const bytes_t logits = head_rows(spec_) * (vocab * (spec_.logit_cap > 0 ? 2 : 1) + 6 * hidden_) * float_bytes;
    const bytes_t head = vocab * hidden_ * float_bytes * (1 + (s.head ? 2 : 0));
    add("scoring options at the head", 4, {text(), inputs, {"the head", head, {}}, {"logits", std::max(logits, f_.head_bytes), {}}, way(2 * rows + runner(tokens, u(s.seqlen), false, false))});
    const bytes_t weights = block_ * float_bytes * (s.gradient_at_quantized ? 3 : 2);
    const bytes_t rounded = std::max(s.gradient_at_quantized ? 0 : whole_ * float_bytes, s.activations ? 2 * tokens * widest_ * float_bytes : 0);
    add("scoring options", 9, {text(), inputs, {"a block's weights and gradients", weights + rounded, {}}, way((s.spilled ? 4 : 3) * rows + runner(tokens, u(s.seqlen), false, true))});
  }

  /// tune/gram.cpp
  void tune_gram() {
    const bytes_t seqlen = std::max<bytes_t>(1, u(f_.seqlen)), samples = u(f_.samples), step = std::min(samples, std::max<bytes_t>(1, 1024 / seqlen)), tokens = step * seqlen;
    const bytes_t pieces = step == 0 ? 1 : (samples + step - 1) / step, all_tokens = std::max<bytes_t>(1, samples * seqlen);
    const bytes_t used = std::clamp<bytes_t>((16 * widest_ * pieces + all_tokens - 1) / all_tokens, 1, std::max<bytes_t>(1, pieces));
    const bytes_t middle = stream_ == 0 ? 0 : std::min(samples, used * step) * seqlen * hidden_ * element_;
    const bytes_t difference = f_.spilled ? 0 : all_tokens * hidden_ * 2;  // of the float model's stream, in bfloat16
    const bytes_t rows = tokens * (7 * hidden_ * float_bytes + (f_.bf16 ? (widest_ + hidden_) * element_ : 0));
    const bytes_t kept = std::min(f_.kept_bytes, used * tokens * o_ * element_);
    // Three pairs of statistics of inputs of the width of the stream, one of which grows to the widest input; that matrix damped and, in bfloat16, rounded.
    const bytes_t wide = std::max(widest_, hidden_);
    const bytes_t grams = (4 * hidden_ * hidden_ + wide * wide + hidden_ * wide + wide * wide) * float_bytes + (f_.bf16 ? wide * wide * element_ : 0);
    const bytes_t tuners = threads_ * 64 * widest_ * 5 * float_bytes;
    const bytes_t scales = block_ / 8;
    const memory_part stats{"Gram matrices", grams, {}}, activations{"activations of the calibration set", stream_ + difference + middle, "--nsamples, --seqlen"};
    add("tuning a block", 8, {text(), activations, stats, {"a block's weights, tuned and as they were", block_ * (2 * float_bytes + 1 + (f_.bf16 ? 4 : 0)) + scales + tuners, {}},
                           {"a piece on its way through a block", rows + runner(tokens, false) + kept, "--seqlen"}}, "--iters 0");
    if (f_.tuned != tuner::hybrid) return;
    const bytes_t samples_of_batch = std::max<bytes_t>(1, u(f_.batch_size) / 8), batch_tokens = std::min(samples, samples_of_batch) * seqlen;
    // Offsets, their stored gradients and momentum, gradients of the weights; behind the loop the tuned weights beside them.
    add("tuning a block's layers together", 10,
        {text(), activations, stats, {"a block's weights with offsets, gradients and momentum", block_ * (6 * float_bytes + 2 + element_ + (f_.bf16 ? 2 : 0)) + scales + tuners, {}},
         {"a piece on its way through a block", rows + runner(tokens, false), "--seqlen"}, batch(2 * batch_tokens * hidden_ * float_bytes + runner(batch_tokens, true))},
        "--tuning gram");
  }

  /// tune/signround.cpp, tune/block_loop.cpp
  void tune_blocks() {
    const bytes_t unit = block_ * u(f_.nblocks), tokens = u(batch_samples()) * u(f_.seqlen);
    const bool stores = f_.momentum || f_.adam || f_.gradient_accumulate_steps > 1;
    bytes_t sets = f_.keep_best ? 2 : 1;
    sets += (stores ? 1u : 0u) + (f_.momentum ? 1u : 0u) + (f_.adam ? 2u : 0u);
    const bytes_t weights = unit * (2 * float_bytes + sets * float_bytes + element_ + (f_.bf16 ? 2 : 0)) + unit / 8;
    const bytes_t between = 2 * (u(f_.nblocks) - 1) * tokens * hidden_ * float_bytes;
    const bytes_t rows = 2 * tokens * hidden_ * float_bytes, tuned = unit * (float_bytes + 1);
    add("tuning a block", 7, {text(), streams(2), {"a block's weights with offsets and gradients", weights + (tuned > rows ? tuned : 0), {}},
                           batch((tuned > rows ? 0 : rows) + between + u(f_.nblocks) * runner(tokens, true))}, "--tuning gram");
    if (!f_.tuned_head) return;
    const bytes_t head = u(spec_.vocab_size) * hidden_;
    add("tuning the head", 7, {text(), streams(2), {"the head's weights with offsets and gradients", head * (2 * float_bytes + sets * float_bytes + element_ + float_bytes + 1), {}},
                            batch(rows + tokens * u(spec_.vocab_size) * float_bytes)});
  }

  /// transform/awq.cpp: the stream, a copy of the compared samples, their middle and a parent's output, in float; a Gram matrix and its candidate, or those of all
  /// experts, whose weights have fewer candidates at a time.
  void smooth() {
    const bytes_t n = u(f_.samples) * u(f_.smoothing_tokens) * hidden_ * float_bytes;
    const model::mixture_spec& m = spec_.mixture;
    const bytes_t grams = std::max(widest_ * widest_, u(m.experts) * u(m.intermediate_size) * u(m.intermediate_size));
    add("smoothing (AWQ)", 4, {text(), {"activations of the calibration set", 3 * n, "--nsamples, --awq_seqlen"}, {"a block's weights and candidates", (m.experts > 0 ? 2 : 3) * block_ * float_bytes, {}},
                            {"Gram matrices", (grams + hidden_ * hidden_) * float_bytes, {}}, batch(runner(u(batch_samples()) * u(f_.smoothing_tokens), false))});
  }

  /// A layer in float, dequantized, as codes and packed, and the pages that it is read from; where it is rotated, at first in double.
  void round() {
    const bytes_t rounding_bytes = f_.rotated ? 14 : f_.by_rows ? 13 : 11;
    std::vector<memory_part> parts;
    if (reads_text()) parts.push_back(text());
    parts.push_back({head_ >= largest_ && head_ > 0 ? "the head or the embedding" : "the largest layer", largest_ * rounding_bytes, {}});
    add("rounding", (reads_text() ? bytes_t{4} : 3) + (f_.rotated ? 2u : 0u), std::move(parts));
  }

  const memory_facts& f_;
  const model::model_spec& spec_;
  bytes_t hidden_, inner_, o_, element_, threads_, stream_;
  bytes_t groups_ = 0, block_ = 0, largest_ = 0, whole_ = 0, head_ = 0, widest_ = 0;
  memory_estimate out_;
};

}  // namespace

std::uint64_t memory_stage::bytes() const {
  std::uint64_t n = 0;
  for (const memory_part& p : parts) n += p.bytes;
  return n;
}

void memory_estimate::add(memory_stage stage) { stages_.push_back(std::move(stage)); }

const memory_stage& memory_estimate::peak() const { return *std::ranges::max_element(stages_, {}, &memory_stage::bytes); }

std::uint64_t memory_estimate::bytes() const { return stages_.empty() ? 0 : peak().bytes(); }

std::string memory_estimate::explain() const {
  if (stages_.empty()) return {};
  std::vector<memory_part> parts = peak().parts;
  std::ranges::stable_sort(parts, std::greater<>(), &memory_part::bytes);
  std::string out = peak().name + ":";
  for (std::size_t i = 0; i < std::min<std::size_t>(3, parts.size()); ++i) {
    out += fmt::format("{} {} {}", i == 0 ? "" : ",", parts[i].what, report::human_bytes(parts[i].bytes));
    if (!parts[i].lowered_by.empty()) out += fmt::format(" (less with smaller {})", parts[i].lowered_by);
  }
  return out;
}

namespace {

/// What a run takes of the address space beside the memory that it will have: libraries, stacks of threads, blocks that malloc keeps. Of files of tensors
/// only what is being read is mapped (io::tensor_file), which is resident then.
bytes_t space_beside_memory() {
  constexpr bytes_t stacks_and_heap = 32 * mib;
  const bytes_t space = report::current_address_space(), resident = report::current_memory_bytes();
  return (std::max(space, resident) - resident) + stacks_and_heap;
}

}  // namespace

std::uint64_t memory_limit(std::uint64_t max_memory) {
  const bytes_t most = max_memory == 0 ? 0 : std::max<bytes_t>(1, max_memory / 21 * 20), allowed = io::address_space_limit();
  if (allowed == 0) return most;
  const bytes_t beside = space_beside_memory(), left = allowed > beside ? allowed - beside : 1;
  return most == 0 ? left : std::min(most, left);
}

result<void> check_memory(const memory_estimate& estimate, std::uint64_t limit) {
  const bytes_t allowed = io::address_space_limit(), resident = report::current_memory_bytes();
  const bytes_t space = space_beside_memory() + std::max(estimate.bytes(), resident);
  if (allowed != 0 && space > allowed) {
    return fail(error_kind::usage, fmt::format("the system limits the address space to {} (ulimit -v), and this run takes about {}: {} of memory, libraries, and "
                                               "what threads and the heap set aside; limit the memory by --max_memory or a cgroup instead; nothing was done",
                                               report::human_bytes(allowed), report::human_bytes(space), report::human_bytes(estimate.bytes())));
  }
  if (const bytes_t most = memory_limit(limit); most == 0 || estimate.bytes() <= most) return {};
  const std::string& instead = estimate.peak().instead;
  return fail(error_kind::usage, fmt::format("--max_memory {}: this run takes about {}, or a twentieth more ({}){}; nothing was done", report::human_bytes(limit), report::human_bytes(estimate.bytes()),
                                             estimate.explain(), instead.empty() ? "" : fmt::format("; {} takes less", instead)));
}

memory_estimate estimate_memory(const memory_facts& facts, const model::model_spec& spec, const std::vector<layer_decision>& layers) {
  return estimator(facts, spec, layers).run();
}

}  // namespace auto_round::plan
