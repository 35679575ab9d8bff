// numpy.random.default_rng(seed).permutation(n), bit for bit (numpy 2.4; seeding by SeedSequence, generator PCG64).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace auto_round::text {

/// The permuted 0 ... n-1. `seed`: the 32-bit words of a seed that is not negative, least significant first; 0 is one word 0.
std::vector<std::uint32_t> numpy_permutation(std::span<const std::uint32_t> seed, std::uint32_t n);

}  // namespace auto_round::text
