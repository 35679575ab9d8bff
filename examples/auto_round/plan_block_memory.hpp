// What passes through a block allocate, for every estimate that has some in it.
#pragma once

#include <cstdint>

#include "model/spec.hpp"

namespace auto_round::plan {

/// What a model::block_runner keeps for batches of `tokens` tokens in sequences of `seqlen` (model/block*.hpp); `train`: with what backward needs.
std::uint64_t block_runner_bytes(const model::model_spec& spec, std::uint64_t tokens, std::uint64_t seqlen, bool bf16, int threads, bool train);

/// Tokens of a piece of block_runner::forward for `sequences` of `seqlen`.
std::uint64_t forward_tokens(std::uint64_t sequences, std::uint64_t seqlen);

/// Rows of logits that are computed at a time (model::output_head::rows_at_once).
std::uint64_t head_rows(const model::model_spec& spec);

}  // namespace auto_round::plan
