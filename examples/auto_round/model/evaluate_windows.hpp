// Perplexity in bounded memory: some windows of a text at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "error.hpp"
#include "model/decoder.hpp"

namespace auto_round::model {

/// As evaluate. Activations of `windows_at_once` windows are in memory at a time (0: of all), and the models are read again for the next ones. Multiples of
/// sequences_at_once(seqlen) give the same bits.
result<evaluation> evaluate_windows(const weight_source& source, std::span<const std::int32_t> ids, std::int64_t seqlen, const weight_source* reference, std::size_t windows_at_once,
                                    const std::function<void(std::int64_t, std::int64_t)>& on_block = {});

}  // namespace auto_round::model
