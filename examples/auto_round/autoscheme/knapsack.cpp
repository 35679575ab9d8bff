#include "autoscheme/knapsack.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace auto_round::autoscheme {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A sum over the items so far, and where it came from.
struct sum {
  std::uint64_t bits = 0;
  double loss = 0;
  std::uint32_t before = 0, option = 0;
};

/// One edge of the lower convex hull of an item's options: what its bits buy.
struct upgrade {
  std::uint64_t bits;
  double gain;  ///< of loss
  double rate() const { return gain / static_cast<double>(bits); }
};

/// The cheapest option of an item and the upgrades from there along its hull, in order of falling rates.
struct hull {
  item_option cheapest;
  std::vector<upgrade> upgrades;
};

hull hull_of(const item& options) {
  item sorted = options;
  std::sort(sorted.begin(), sorted.end(), [](const item_option& a, const item_option& b) { return a.bits != b.bits ? a.bits < b.bits : a.loss < b.loss; });
  std::vector<item_option> corners;
  for (const item_option& o : sorted) {
    if (!corners.empty() && o.loss >= corners.back().loss) continue;  // so bits differ from here on
    const auto rate = [](const item_option& from, const item_option& to) { return (from.loss - to.loss) / static_cast<double>(to.bits - from.bits); };
    while (corners.size() >= 2 && rate(corners[corners.size() - 2], corners.back()) <= rate(corners.back(), o)) corners.pop_back();
    corners.push_back(o);
  }
  hull h{corners.front(), {}};
  for (std::size_t i = 1; i < corners.size(); ++i) h.upgrades.push_back({corners[i].bits - corners[i - 1].bits, corners[i - 1].loss - corners[i].loss});
  return h;
}

/// The upgrades of all items, best rate first: the frontier of the relaxed problem, in which an item may take a mixture of two options.
struct relaxation {
  std::uint64_t bits = 0;
  double loss = 0;  ///< with the cheapest option of each item
  std::vector<upgrade> upgrades;

  explicit relaxation(std::span<const item> items) {
    for (const item& i : items) {
      const hull h = hull_of(i);
      bits += h.cheapest.bits;
      loss += h.cheapest.loss;
      upgrades.insert(upgrades.end(), h.upgrades.begin(), h.upgrades.end());
    }
    std::stable_sort(upgrades.begin(), upgrades.end(), [](const upgrade& a, const upgrade& b) { return a.rate() > b.rate(); });
  }
};

/// For sums after the first i items: no way to complete one loses less than loss + rate * bits + after[i], and it takes at least least[i] bits more.
struct bound {
  double rate = 0;  ///< of the upgrade that the relaxed problem can afford in part: what a bit is worth
  std::vector<double> after;
  std::vector<std::uint64_t> least;
  double known = infinity;  ///< the loss of some choice within the budget
  double relaxed = 0;       ///< no choice loses less
  double rounding = 0;      ///< what the arithmetic of these sums may be wrong by, with a wide margin

  bound(std::span<const item> items, std::uint64_t budget) : after(items.size() + 1), least(items.size() + 1) {
    const relaxation all(items);
    std::uint64_t bits = all.bits;
    double loss = all.loss;
    auto next = all.upgrades.begin();
    for (; next != all.upgrades.end() && next->bits <= budget - bits; ++next) {
      bits += next->bits;
      loss -= next->gain;
    }
    known = loss;
    if (next != all.upgrades.end()) rate = next->rate();
    double largest = 0;
    after.back() = -rate * static_cast<double>(budget);
    for (std::size_t i = items.size(); i-- > 0;) {
      double best = infinity, worst = 0;
      std::uint64_t fewest = std::numeric_limits<std::uint64_t>::max();
      for (const item_option& o : items[i]) {
        best = std::min(best, o.loss + rate * static_cast<double>(o.bits));
        worst = std::max(worst, std::abs(o.loss));
        fewest = std::min(fewest, o.bits);
      }
      after[i] = after[i + 1] + best;
      least[i] = least[i + 1] + fewest;
      largest += worst;
    }
    relaxed = after.front();
    rounding = 1e-11 * (largest + rate * static_cast<double>(budget));
  }
};

/// Item after item in `tables`, one more than there are items. `limit`: sums that cannot lose less than that are dropped, if `bounds` is given.
/// False if no sum is left, or if more than `most` are (unless 0) and there is no beam.
struct program {
  std::span<const item> items;
  std::uint64_t budget = 0;
  std::size_t beam = 0, most = 0;
  const bound* bounds = nullptr;
  double limit = infinity;

  std::vector<std::vector<sum>> tables{};
  std::uint64_t states = 0;

  bool run(bool keep_tables = true) {
    tables.assign(1, {sum{}});
    for (const item& i : items) {
      tables.emplace_back();
      step(i, tables[tables.size() - 2], tables.back());
      if (!keep_tables) tables[tables.size() - 2] = {};
      if (tables.back().empty() || (most != 0 && tables.back().size() > most)) return false;
    }
    return true;
  }

 private:
  /// Every option shifts the sorted sums, so the next larger bits are at the front of one of the shifted rows.
  void step(const item& options, const std::vector<sum>& from, std::vector<sum>& to) {
    std::vector<std::size_t> front(options.size(), 0);
    std::vector<std::size_t> tied;
    double best = infinity;
    const std::size_t done = tables.size() - 1;
    const std::uint64_t room = bounds == nullptr ? budget : bounds->least[done] > budget ? 0 : budget - bounds->least[done];
    for (;;) {
      std::uint64_t bits = std::numeric_limits<std::uint64_t>::max();
      for (std::size_t o = 0; o < options.size(); ++o) {
        if (front[o] == from.size()) continue;
        const std::uint64_t b = from[front[o]].bits + options[o].bits;
        if (b < bits) tied.clear();
        if (b <= bits) tied.push_back(o);
        bits = std::min(bits, b);
      }
      if (tied.empty() || bits > room) break;
      // In the order in which the program of auto-round meets them.
      std::sort(tied.begin(), tied.end(), [&](std::size_t a, std::size_t b) { return front[a] != front[b] ? front[a] < front[b] : a < b; });
      sum found{bits, 0, 0, 0};
      for (std::size_t i = 0; i < tied.size(); ++i) {
        const std::size_t o = tied[i], at = front[o]++;
        const double loss = from[at].loss + options[o].loss;
        if (i == 0 || loss < found.loss) found = {bits, loss, static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(o)};
      }
      states += tied.size();
      tied.clear();
      if (!(found.loss < best)) continue;
      best = found.loss;
      if (bounds == nullptr || found.loss + bounds->rate * static_cast<double>(bits) + bounds->after[done] <= limit) to.push_back(found);
    }
    if (beam != 0 && to.size() > beam) thin_out(to);
  }

  void thin_out(std::vector<sum>& sums) const {
    if (beam == 1) {
      sums = {sums.back()};  // losses fall
      return;
    }
    std::vector<sum> kept;
    std::size_t last = sums.size();
    const double step = static_cast<double>(sums.size() - 1) / static_cast<double>(beam - 1);
    for (std::size_t i = 0; i < beam; ++i) {
      const auto at = std::min(sums.size() - 1, static_cast<std::size_t>(std::nearbyint(static_cast<double>(i) * step)));
      if (at != last) kept.push_back(sums[at]);
      last = at;
    }
    sums = std::move(kept);
  }
};

knapsack_answer answer_of(const program& p, std::uint64_t states) {
  knapsack_answer a;
  std::size_t at = p.tables.back().size() - 1;
  a.bits = p.tables.back()[at].bits;
  a.loss = p.tables.back()[at].loss;
  a.states = states;
  a.choice.resize(p.items.size());
  for (std::size_t i = p.items.size(); i-- > 0;) {
    const sum& s = p.tables[i + 1][at];
    a.choice[i] = s.option;
    at = s.before;
  }
  return a;
}

}  // namespace

std::optional<knapsack_answer> solve(std::span<const item> items, std::uint64_t budget, std::size_t most_states) {
  bool finite = true;
  std::uint64_t least = 0;
  for (const item& i : items) {
    if (i.empty()) return std::nullopt;
    for (const item_option& o : i) finite = finite && std::isfinite(o.loss);
    least += std::min_element(i.begin(), i.end(), [](const item_option& a, const item_option& b) { return a.bits < b.bits; })->bits;
  }
  if (least > budget) return std::nullopt;
  program p{.items = items, .budget = budget, .beam = most_states};
  if (!finite || most_states != 0) {
    if (!p.run()) return std::nullopt;
    return answer_of(p, p.states);
  }
  // The best answer mostly loses little more than the relaxed problem. Whatever is found within the limit is the best, so the limit starts near there.
  const bound bounds(items, budget);
  p.bounds = &bounds;
  const double gap = bounds.known - bounds.relaxed;
  for (const double share : {1.0 / 64, 1.0 / 16, 1.0 / 4, 1.0}) {
    p.limit = bounds.relaxed + share * gap + bounds.rounding;
    if (p.run() && p.tables.back().back().loss <= p.limit - bounds.rounding / 2) return answer_of(p, p.states);
  }
  p.bounds = nullptr;  // not seen: it would mean that the margin for rounding is too small
  if (!p.run()) return std::nullopt;
  return answer_of(p, p.states);
}

frontier optima(std::span<const item> items, std::size_t most) {
  frontier f;
  for (const item& i : items)
    if (i.empty()) return f;
  program p{.items = items, .budget = std::numeric_limits<std::uint64_t>::max(), .most = most};
  f.complete = p.run(false);
  if (f.complete) {
    for (const sum& s : p.tables.back()) f.points.push_back({s.bits, s.loss});
    return f;
  }
  const relaxation all(items);
  frontier_point at{all.bits, all.loss};
  f.points.push_back(at);
  for (const upgrade& u : all.upgrades) {
    at.bits += u.bits;
    at.loss -= u.gain;
    f.points.push_back(at);
  }
  return f;
}

}  // namespace auto_round::autoscheme
