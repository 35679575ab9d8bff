// Rotary position embedding: inverse frequencies for every scaling variant, and the cosines and sines of a range of positions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/spec.hpp"

namespace auto_round::model {

struct rope_frequencies {
  std::vector<float> inverse;  ///< [head_dim / 2], radians per position
  float scaling = 1.0f;        ///< factor of cosines and sines (yarn, longrope)
};

/// For a sequence of `seqlen` tokens; only dynamic and longrope depend on it. In float where transformers (5.x, modeling_rope_utils.py) computes
/// in float, so that angles at large positions agree.
/// `windowed`: of the blocks whose attention sees a window only, where those turn otherwise.
rope_frequencies compute_rope(const model_spec& spec, std::int64_t seqlen, bool windowed = false);
/// yarn's factor for a length that is `factor` times the original one.
double yarn_magnitude(double factor, double mscale);

/// Cosines and sines of positions [first, first + count), [count x half] each. Pair i of a head is (x[i], x[i + half]), or neighbors in latent attention.
struct rope_table {
  std::size_t first = 0, count = 0, seqlen = 0, half = 0;
  std::vector<float> cos, sin;

  /// Computes the table unless it is already the one asked for.
  void prepare(const model_spec& spec, std::size_t first_position, std::size_t positions, std::size_t sequence_length, bool windowed = false);
};

}  // namespace auto_round::model
