// How block_runner::forward divides a batch.
#pragma once

#include <algorithm>
#include <cstddef>

namespace auto_round::model {

constexpr std::size_t piece_tokens = 2048;  ///< forward's share of a large batch, about

/// Sequences that go through a block together.
constexpr std::size_t sequences_at_once(std::size_t seqlen) { return std::max<std::size_t>(1, piece_tokens / std::max<std::size_t>(1, seqlen)); }

}  // namespace auto_round::model
