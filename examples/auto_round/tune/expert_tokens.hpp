// Who a router sent the calibration set to.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace auto_round::tune {

/// For each block with a mixture of experts, by its number: how many tokens of the calibration set each routed expert was given.
using expert_tokens = std::map<std::int64_t, std::vector<std::uint64_t>>;

}  // namespace auto_round::tune
