// One option for each item under a budget: the multiple-choice knapsack, solved exactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "error.hpp"

namespace auto_round::autoscheme {

/// What an item costs and loses with one of its options.
struct item_option {
  std::uint64_t bits = 0;
  double loss = 0;
};
using item = std::vector<item_option>;

struct knapsack_answer {
  std::vector<std::size_t> choice;  ///< index of the option, for each item
  std::uint64_t bits = 0;
  double loss = 0;           ///< sum over the items from first to last
  std::uint64_t states = 0;  ///< (bits, loss) sums that were formed: the work
};

/// The choice with the smallest sum of losses whose bits are within `budget`; empty if there is none. It is the one that auto-round's dynamic program
/// finds, bit for bit and ties included: item after item it keeps the sums (bits, loss), losses added from first to last, that no sum of fewer bits
/// equals in loss; of equal bits and loss, the sum with the smaller bits before this item, then the first option. NaN therefore hides what
/// comes after it with the same bits, as there.
///
/// Where all losses are finite the work is far below that of the program: a sum is dropped as soon as a Lagrangian bound says that it cannot lead to an
/// answer as good as one that is known to exist (docs/design.md says why this leaves ties alone).
///
/// `most_states`, unless 0, is auto-round's beam: how many sums are kept after each item, evenly spaced; then the answer may be worse, or none.
/// Sums of bits must fit 64 bits.
std::optional<knapsack_answer> solve(std::span<const item> items, std::uint64_t budget, std::size_t most_states = 0);

struct frontier_point {
  std::uint64_t bits = 0;
  double loss = 0;
};

struct frontier {
  std::vector<frontier_point> points;  ///< bits ascend, losses descend; every point is the optimum for its bits
  bool complete = false;  ///< every optimum is there; else those on the lower convex hull, between which `solve` finds the others
};

/// The optima for all budgets. All of them, if there are at most `most` of them after every item; else the convex hull's.
/// Losses must be finite.
frontier optima(std::span<const item> items, std::size_t most);

}  // namespace auto_round::autoscheme
