#include "plan_inference_memory.hpp"

#include <omp.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "export/export_inventory.hpp"
#include "model/block.hpp"
#include "model/forward_pieces.hpp"
#include "model/linalg.hpp"
#include "plan_block_memory.hpp"

namespace auto_round::plan {
namespace {

using bytes_t = std::uint64_t;
constexpr bytes_t mib = bytes_t{1} << 20, float_bytes = sizeof(float);

bytes_t u(std::int64_t v) { return v > 0 ? static_cast<bytes_t>(v) : 0; }

/// Rows of packed weights as floats, one panel for each thread (model/packed_matrix.cpp).
bytes_t panels(const model::model_spec& spec, int threads) {
  bytes_t widest = u(spec.hidden_size);
  for (const model::linear_desc& l : spec.linears) widest = std::max(widest, u(l.in_features));
  return u(threads) * std::max(bytes_t{128} << 10, 32 * widest) * float_bytes;
}

/// What block_runner keeps for a token beside the rows that it keeps without input_filters.
bytes_t quantized_row(const exporting::stored_model& model) {
  const model::model_spec& spec = model.spec();
  const bytes_t hidden = u(spec.hidden_size), attended = u(spec.num_heads) * u(spec.value_size());
  bytes_t most = 0;
  for (std::int64_t b = 0; b < spec.num_layers; ++b) {
    const auto filters = model.input_filters(b);
    if (!filters || !filters->filter) continue;  // an error comes again, and is told, when the block is read
    bytes_t copies = 0;
    for (const int copy : model::copies_of_rows(spec, filters->readers)) copies = std::max(copies, u(copy + 1));
    const model::mixture_spec& m = spec.mixture;
    const bytes_t rows = spec.is_mixture(b) ? u(m.active) + (m.shared >= 0 ? 1 : 0) : 1, shared = spec.is_mixture(b) && m.shared >= 0 ? hidden : 0;
    most = std::max(most, attended + shared + copies * rows * hidden);
  }
  return most * float_bytes;
}

memory_part program(bytes_t base, bytes_t touched) { return {"the program", base + touched * mib, {}}; }

constexpr bytes_t touched_by_blocks = 4, touched_by_head = 4, touched_by_tokens = 2;  // code, and what the backend generates; MiB, measured

}  // namespace

std::uint64_t memory_before_products() {
  static_cast<void>(linalg::fast_bf16());  // asks the backend
  return report::current_memory_bytes();
}

weight_sizes sizes_of(const exporting::stored_model& model) {
  const model::model_spec& spec = model.spec();
  weight_sizes s;
  s.tied = spec.tie_word_embeddings;
  s.quantized_row = quantized_row(model);
  std::map<std::string, bytes_t> blocks;
  std::set<std::string> needed;  // nobody reads what else lies in the files
  for (const exporting::required_tensor& t : exporting::required_tensors(spec)) needed.insert(t.name);
  for (const exporting::stored_model::entry& e : model.entries()) {
    if (!needed.contains(e.name)) continue;
    bytes_t elements = 1;
    for (const bytes_t d : e.shape) elements *= d;
    const bool stays = e.shape.size() == 2 && (e.quantized || e.type == "F16" || e.type == "BF16");
    const bytes_t taken = stays ? e.bytes : elements * float_bytes;
    if (!stays) s.largest_file_part = std::max(s.largest_file_part, e.name == spec.embed_name && !s.tied ? 0 : e.bytes);
    if (e.name == spec.embed_name) {
      s.embedding = taken;
      if (!stays) s.embedding_piece = std::min(elements * float_bytes, 16 * mib);
    }
    if (e.name == (s.tied ? spec.embed_name : spec.head_name)) s.head = taken;
    if (!e.name.starts_with(spec.block_prefix)) continue;
    const std::size_t at = spec.block_prefix.size(), end = e.name.find('.', at);
    blocks[e.name.substr(at, end - at)] += taken;
  }
  for (const auto& [number, size] : blocks) {
    s.block = std::max(s.block, size);
    s.blocks += size;
  }
  return s;
}

memory_estimate estimate_evaluation(const evaluation_facts& f) {
  memory_estimate all;
  all.add({"reading text", {{"the program and the text so far", f.so_far, {}}}, {}});
  bytes_t streams = 0, heads = 0, logits = 0;
  for (const evaluated_model& m : f.models) {
    if (!f.together) streams = heads = logits = 0;
    const model::model_spec& spec = *m.spec;
    const bytes_t hidden = u(spec.hidden_size);
    streams += f.tokens * hidden * float_bytes;
    const memory_part stream{"activations", streams, {}};
    bytes_t piece = forward_tokens(f.tokens / std::max<bytes_t>(1, f.seqlen), f.seqlen);
    if (f.many_lengths) piece = std::max(piece, std::min<bytes_t>(f.tokens, model::piece_tokens));
    all.add({"reading rows of the embedding", {program(f.base, touched_by_blocks), stream, {"rows of the embedding", m.sizes.embedding_piece, {}}}, {}});
    all.add({"running blocks", {program(f.base, touched_by_blocks), stream, {"a block's weights", m.sizes.block + m.sizes.largest_file_part, {}},
                                {"a piece on its way through a block", block_runner_bytes(spec, std::max<bytes_t>(piece, 1), f.seqlen, false, f.threads, false) + piece * m.sizes.quantized_row + panels(spec, f.threads), "--seqlen"}}, {}});
    heads += m.sizes.head;
    logits += head_rows(spec) * (u(spec.vocab_size) + 2 * hidden) * float_bytes + panels(spec, f.threads);
    all.add({"computing logits", {program(f.base, touched_by_head), stream, {"heads", heads, {}}, {"logits", logits, {}}}, {}});
  }
  return all;
}

result<memory_estimate> fit_evaluation(evaluation_facts& f, std::uint64_t step, std::uint64_t limit) {
  memory_estimate estimate = estimate_evaluation(f);
  const bytes_t most = memory_limit(limit);
  const auto too_much = [&] { return most != 0 && estimate.bytes() > most; };
  while (too_much() && f.tokens > step) {
    f.tokens = std::max(step, f.tokens / 2 / step * step);
    estimate = estimate_evaluation(f);
  }
  while (too_much() && f.threads > 1) {
    f.threads /= 2;
    estimate = estimate_evaluation(f);
  }
  if (auto r = check_memory(estimate, limit); !r) return forward_error(r);
  omp_set_num_threads(f.threads);
  return estimate;
}

memory_estimate estimate_generation(const evaluated_model& m, std::uint64_t prompt, std::uint64_t tokens, int threads) {
  const model::model_spec& spec = *m.spec;
  const memory_part weights{"weights", m.sizes.blocks + m.sizes.head + (m.sizes.tied ? 0 : m.sizes.embedding), {}};
  const bytes_t row = u(spec.num_kv_heads) * (u(spec.head_dim) + u(spec.value_size())) * float_bytes;
  const bytes_t base = memory_before_products();
  memory_estimate all;
  all.add({"reading weights", {program(base, 1), weights, {"a tensor's file", m.sizes.largest_file_part, {}}}, {}});
  // A cache that is full grows to twice its size.
  all.add({"generating", {program(base, touched_by_tokens), weights, {"the cache of keys and values", u(spec.num_layers) * row * std::max(prompt, tokens) * 3 / 2, "--max_tokens"},
                          {"the prompt on its way through a block", block_runner_bytes(spec, prompt, prompt, false, threads, false) + prompt * (u(spec.hidden_size) * float_bytes + m.sizes.quantized_row) + panels(spec, threads), {}},
                          {"logits", u(spec.vocab_size) * float_bytes, {}}}, {}});
  return all;
}

}  // namespace auto_round::plan
