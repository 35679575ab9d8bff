#include "model/spec.hpp"

namespace auto_round::model {

std::vector<std::vector<int>> model_spec::fused_groups() const {
  std::vector<std::vector<int>> groups;
  if (latent.rank == 0 && fused == fused_heads::none) groups.push_back({q, k, v});
  if (gate >= 0 && gate != up) groups.push_back({gate, up});
  for (int e = 0; e < static_cast<int>(mixture.experts); ++e) groups.push_back({mixture.first + 3 * e, mixture.first + 3 * e + 1});
  if (mixture.shared >= 0) groups.push_back({mixture.shared, mixture.shared + 1});
  return groups;
}

}  // namespace auto_round::model
