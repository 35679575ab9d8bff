// Coordinate descent on the loss of tune/gram_rows.hpp: one weight after the other moves to the number of its grid that is best with all others as
// they are, which no rounding offset of half a step could reach. What a weight's column still has to repair is known exactly from the Gram matrix, so a
// sweep over all columns costs what one iteration costs (Behdin et al., QuantEase, arXiv:2309.01885; in blocks of columns as GPTQ, arXiv:2210.17323).
#pragma once

#include <cstddef>
#include <vector>

#include "ar/detail/tune_types.hpp"

namespace auto_round::tune {

/// Rows of a layer with the numbers that their weights may be; everything is [n x cols] or [n x groups].
struct descent_rows {
  std::size_t n = 0, cols = 0, group_size = 0;
  const float* weight = nullptr;
  const float* low = nullptr;    ///< the smallest and the largest number of each group's grid
  const float* high = nullptr;
  const float* cross = nullptr;  ///< the loss is d H d^T + 2 d . cross; null for zeros
  const float* gram = nullptr;   ///< H [cols x cols], symmetric
};

class gram_descent {
 public:
  /// Moves `value` [n x cols], numbers of the grid, in `sweeps` passes over the columns. Never raises the loss but by rounding errors. Results lie on
  /// the grid within a few units in the last place. `factor`, if not null [n x groups]: before its columns a group's scale moves to its best as well, and
  /// this is by what all sweeps together have multiplied it; the grid is then low * factor .. high * factor. Groups of more than 256 columns, and a last one
  /// that is short, keep their scale. Single-threaded; buffers are kept.
  void run(const ar::tune_grid& grid, const descent_rows& rows, int sweeps, float* value, float* factor = nullptr);

 private:
  std::vector<float> value_, change_, gradient_, low_, high_, factor_, image_;  // transposed: [columns or groups x lanes]
};

}  // namespace auto_round::tune
