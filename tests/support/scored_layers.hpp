// The linear layers of a model as AutoScheme counts them.
#pragma once

#include <cstdint>
#include <vector>

#include "autoscheme/accounting.hpp"
#include "model/spec.hpp"

namespace support {

/// Those of all blocks, in order.
inline std::vector<auto_round::autoscheme::layer> scored_layers(const auto_round::model::model_spec& spec) {
  std::vector<auto_round::autoscheme::layer> all;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i) {
      const auto_round::model::linear_desc& d = spec.linears[static_cast<std::size_t>(i)];
      all.push_back({spec.linear_name(b, i), static_cast<std::uint64_t>(d.out_features), static_cast<std::uint64_t>(d.in_features)});
    }
  return all;
}

}  // namespace support
