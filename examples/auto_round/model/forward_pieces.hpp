// How passes are divided: what is alive at a time follows from shapes alone, so that estimates of memory can say it too.
#pragma once

#include <algorithm>
#include <cstddef>

namespace auto_round::model {

constexpr std::size_t piece_tokens = 2048;  ///< forward's share of a large batch, about

/// Sequences that go through a block together.
constexpr std::size_t sequences_at_once(std::size_t seqlen) { return std::max<std::size_t>(1, piece_tokens / std::max<std::size_t>(1, seqlen)); }

/// Rows of logits that take at most 32 MiB: as many as should be alive at a time.
constexpr std::size_t logit_rows_at_once(std::size_t vocab) { return std::clamp<std::size_t>((std::size_t{8} << 20) / std::max<std::size_t>(1, vocab), 1, 512); }

/// Tokens whose activations fit 256 MiB: what log_likelihoods takes by itself.
constexpr std::size_t likelihood_rows(std::size_t hidden) { return (std::size_t{64} << 20) / std::max<std::size_t>(1, hidden); }

}  // namespace auto_round::model
