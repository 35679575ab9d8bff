// Likelihoods from logits by plain loops, to hold model/likelihood against.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace support {

/// The logarithm of the probability of ids[1], ids[2], ... given what is before each; logits [at least ids.size() - 1 x vocab].
inline double log_likelihood(std::span<const float> logits, std::span<const std::int32_t> ids, std::size_t vocab) {
  double sum = 0;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
    const std::span<const float> row = logits.subspan(t * vocab, vocab);
    double total = 0;
    for (const float v : row) total += std::exp(static_cast<double>(v));
    sum += static_cast<double>(row[static_cast<std::size_t>(ids[t + 1])]) - std::log(total);
  }
  return sum;
}

}  // namespace support
