// Rows or columns shared out among threads where every piece may fail.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace auto_round::tune {

/// f(first, n) -> ar::errc for pieces of `step` >= 1 (the last may be shorter) of `count` items, in parallel; the first error in the order of the items,
/// or ok. Which thread takes which piece is open.
template <class F>
ar::errc for_pieces(std::size_t count, std::size_t step, const F& f) {
  const std::size_t pieces = ar::ceil_div(count, step);
  std::vector<ar::errc> outcome(pieces, ar::errc::ok);
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < pieces; ++i) outcome[i] = f(i * step, std::min(step, count - i * step));
  const auto bad = std::find_if(outcome.begin(), outcome.end(), [](ar::errc e) { return e != ar::errc::ok; });
  return bad == outcome.end() ? ar::errc::ok : *bad;
}

}  // namespace auto_round::tune
