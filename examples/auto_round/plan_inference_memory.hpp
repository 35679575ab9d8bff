// How much memory eval and generate take at their peak: from what the checkpoint stores, before any weight is read.
#pragma once

#include <cstdint>
#include <vector>

#include "error.hpp"
#include "export/export_format.hpp"
#include "plan_memory.hpp"

namespace auto_round::plan {

/// What weights of a checkpoint take in memory: packed as they are stored where they stay so, else as floats.
struct weight_sizes {
  std::uint64_t block = 0;      ///< of the largest
  std::uint64_t blocks = 0;     ///< of all
  std::uint64_t head = 0, embedding = 0;
  bool tied = false;            ///< the head is the embedding
  std::uint64_t embedding_piece = 0;  ///< as floats, where the embedding is not packed
  std::uint64_t quantized_row = 0;    ///< for each token on its way through a block, what layers read quantized beside the float rows
  std::uint64_t largest_file_part = 0;  ///< pages of a tensor that becomes floats, resident while it is read
};
weight_sizes sizes_of(const exporting::stored_model& model);

/// A model that is read block by block.
struct evaluated_model {
  const model::model_spec* spec = nullptr;
  weight_sizes sizes;
};

/// Resident memory now, with what the backend of matrix products takes from its first use on.
std::uint64_t memory_before_products();

/// Evaluation by walking over models block by block, one after the other, then over all of their heads.
struct evaluation_facts {
  std::uint64_t base = memory_before_products();
  std::uint64_t so_far = report::peak_memory_bytes();  ///< what reading the text took
  std::vector<evaluated_model> models;
  std::uint64_t tokens = 0;  ///< whose activations are in memory at a time
  std::uint64_t seqlen = 0;  ///< of the longest sequence
  bool many_lengths = false; ///< others are shorter, and more of them go through a block at a time
  bool together = true;      ///< streams of all models are in memory for a comparison; else each model has its turn
  int threads = 1;
};
memory_estimate estimate_evaluation(const evaluation_facts& facts);

/// Tokens at a time for all `tokens`: all of them, or, where --max_memory needs it, a part that is a multiple of `step`, and then fewer threads, which is
/// what the program has from then on.
/// error_kind::usage as check_memory if nothing fits. `limit` 0: no limit.
result<memory_estimate> fit_evaluation(evaluation_facts& facts, std::uint64_t step, std::uint64_t limit);

/// Generation with all weights in memory. `prompt` tokens run at once, `tokens` are in the cache in the end.
memory_estimate estimate_generation(const evaluated_model& model, std::uint64_t prompt, std::uint64_t tokens, int threads);

}  // namespace auto_round::plan
