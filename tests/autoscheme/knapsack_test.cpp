// links: ar_autoscheme
// The knapsack: the same answer as auto-round's dynamic program written down plainly, with work that stays small where that program's explodes.
#include "autoscheme/knapsack.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace {

using namespace auto_round::autoscheme;

struct plain_answer {
  double loss = 0;
  std::vector<std::size_t> choice;
};

/// auto-round 0.16.1, choose_bits_per_layer_with_path, without a beam; sums by bits, each with its path.
std::optional<plain_answer> plainly(const std::vector<item>& items, std::uint64_t budget) {
  std::map<std::uint64_t, plain_answer> sums{{0, {}}};
  for (const item& options : items) {
    std::map<std::uint64_t, plain_answer> next;
    for (const auto& [bits, sum] : sums) {
      for (std::size_t o = 0; o < options.size(); ++o) {
        const std::uint64_t b = bits + options[o].bits;
        const double loss = sum.loss + options[o].loss;
        if (b > budget || (next.contains(b) && !(loss < next[b].loss))) continue;
        next[b] = {loss, sum.choice};
        next[b].choice.push_back(o);
      }
    }
    double best = std::numeric_limits<double>::infinity();
    sums.clear();
    for (const auto& [bits, sum] : next) {
      if (!(sum.loss < best)) continue;
      best = sum.loss;
      sums[bits] = sum;
    }
    if (sums.empty()) return std::nullopt;
  }
  return sums.rbegin()->second;
}

/// `kind` 0: continuous losses; 1: small integers, so that nearly everything ties; 2: of very different size; 3: multiples of the bits, where every
/// choice of equal bits loses the same; 4: integers and fractions whose sums round.
std::vector<item> random_items(std::mt19937& random, int kind) {
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  std::vector<item> items(1 + below(10));
  const std::uint64_t unit = 1 + below(3);
  for (item& i : items) {
    i.resize(1 + below(5));
    const std::uint64_t size = 1 + below(6);
    for (item_option& o : i) {
      o.bits = kind == 0 ? below(1000) : unit * size * (1 + below(8));
      const double u = static_cast<double>(random()) / 4294967296.0;
      if (kind == 0) o.loss = u;
      if (kind == 1) o.loss = below(4);
      if (kind == 2) o.loss = std::ldexp(u, -static_cast<int>(below(40)));
      if (kind == 3) o.loss = 0.1 * static_cast<double>(300 - o.bits);
      if (kind == 4) o.loss = below(3) + 0.1 * below(3) - (below(8) == 0 ? 1.7 : 0);
    }
  }
  return items;
}

TEST(Knapsack, EqualsThePlainProgramTiesIncluded) {
  std::mt19937 random(17);
  int feasible = 0;
  for (int round = 0; round < 6000; ++round) {
    const std::vector<item> items = random_items(random, round % 5);
    std::uint64_t least = 0, most = 0;
    for (const item& i : items) {
      const auto [a, b] = std::minmax_element(i.begin(), i.end(), [](const item_option& x, const item_option& y) { return x.bits < y.bits; });
      least += a->bits;
      most += b->bits;
    }
    const std::uint64_t budget = round % 7 == 0 ? least : least + random() % (most - least + 3) - (least > 0 && round % 11 == 0);
    const auto expected = plainly(items, budget);
    const auto answer = solve(items, budget);
    ASSERT_EQ(expected.has_value(), answer.has_value()) << "round " << round;
    if (!expected) continue;
    ++feasible;
    ASSERT_EQ(answer->loss, expected->loss) << "round " << round;
    ASSERT_EQ(answer->choice, expected->choice) << "round " << round;
    ASSERT_LE(answer->bits, budget);
  }
  EXPECT_GT(feasible, 5000);
}

TEST(Knapsack, SumsWithoutANumberBehaveAsInThePlainProgram) {
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {
    std::vector<item> items = random_items(random, 1);
    for (item& i : items)
      for (item_option& o : i)
        if (random() % 6 == 0) o.loss = random() % 2 == 0 ? std::nan("") : std::numeric_limits<double>::infinity();
    const std::uint64_t budget = random() % 120;
    const auto expected = plainly(items, budget);
    const auto answer = solve(items, budget);
    ASSERT_EQ(expected.has_value(), answer.has_value()) << "round " << round;
    if (expected) {
      ASSERT_EQ(answer->choice, expected->choice) << "round " << round;
    }
  }
}

TEST(Knapsack, NoOptionOrNoRoomMeansNoAnswer) {
  EXPECT_FALSE(solve(std::vector<item>{{}}, 100));
  EXPECT_FALSE(solve(std::vector<item>{{{5, 1.0}}, {{6, 1.0}}}, 10));
  const auto nothing = solve({}, 0);
  ASSERT_TRUE(nothing);
  EXPECT_EQ(nothing->loss, 0);
}

/// Shapes of Qwen3-32B: 64 blocks of q, k, v, o, gate, up, down; q k v and gate up together if `shared`. Sensitivities of the layers differ by
/// powers of ten, as measured ones do; losses fall with the bits, not quite regularly.
std::vector<item> qwen3_32b(bool shared, std::span<const std::pair<int, int>> options, std::uint32_t seed) {
  constexpr std::uint64_t hidden = 5120, heads = 8192, kv = 1024, inner = 25600;
  std::vector<std::vector<std::uint64_t>> groups = {{heads * hidden}, {kv * hidden}, {kv * hidden}, {heads * hidden}, {inner * hidden}, {inner * hidden}, {inner * hidden}};
  if (shared) groups = {{heads * hidden, kv * hidden, kv * hidden}, {heads * hidden}, {inner * hidden, inner * hidden}, {inner * hidden}};
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<item> items;
  for (int block = 0; block < 64; ++block) {
    for (const auto& layers : groups) {
      item i(options.size());
      const double sensitivity = std::exp(1.5 * normal(random));
      for (std::size_t o = 0; o < i.size(); ++o) {
        const auto [bits, group] = options[o];
        for (const std::uint64_t n : layers) {
          i[o].bits += n * static_cast<std::uint64_t>(bits) + n / static_cast<std::uint64_t>(group) * static_cast<std::uint64_t>(16 + bits);
          i[o].loss += sensitivity * std::sqrt(static_cast<double>(n)) * std::pow(4.0, -bits) * (1 + group / 512.0) * std::exp(0.2 * normal(random));
        }
      }
      items.push_back(std::move(i));
    }
  }
  return items;
}

constexpr std::pair<int, int> mixed_groups[] = {{2, 128}, {3, 64}, {4, 32}, {6, 128}, {8, 32}};
constexpr std::pair<int, int> one_group[] = {{2, 128}, {3, 128}, {4, 128}, {6, 128}, {8, 128}};
constexpr double qwen3_32b_weights = 64.0 * (2 * 8192 + 2 * 1024 + 3 * 25600) * 5120;

TEST(Knapsack, ALargeModelTakesMillionsOfSumsNotBillions) {
  // auto-round's program forms some 10^10 sums here (12 minutes and more). A sum takes a few nanoseconds, so that this bound is below a second.
  constexpr std::uint64_t bound = 20'000'000;
  for (const bool shared : {false, true}) {
    for (const auto& options : {std::span<const std::pair<int, int>>(mixed_groups), std::span<const std::pair<int, int>>(one_group)}) {
      for (std::uint32_t seed = 1; seed <= 5; ++seed) {
        const std::vector<item> items = qwen3_32b(shared, options, seed);
        for (const double average : {2.2, 2.5, 3.0, 4.0, 5.5, 7.9}) {
          const auto budget = static_cast<std::uint64_t>(qwen3_32b_weights * average);
          const auto answer = solve(items, budget);
          ASSERT_TRUE(answer);
          EXPECT_LT(answer->states, bound) << shared << " " << average << " seed " << seed;
          EXPECT_LE(answer->bits, budget);
        }
      }
    }
  }
}

TEST(Knapsack, EqualLayersOfALargeModelStaySmallToo) {
  // All layers of a shape alike: every order of choices ties.
  std::vector<item> items = qwen3_32b(false, mixed_groups, 1);
  for (std::size_t i = 7; i < items.size(); ++i) items[i] = items[i % 7];
  for (const double average : {2.5, 4.0, 6.0}) {
    const auto answer = solve(items, static_cast<std::uint64_t>(qwen3_32b_weights * average));
    ASSERT_TRUE(answer);
    EXPECT_LT(answer->states, 20'000'000u) << average;
  }
}

TEST(Frontier, IsTheAnswerForEveryBudget) {
  std::mt19937 random(23);
  for (int round = 0; round < 200; ++round) {
    const std::vector<item> items = random_items(random, round % 5);
    const frontier all = optima(items, 100'000);
    ASSERT_TRUE(all.complete);
    ASSERT_FALSE(all.points.empty());
    for (std::size_t i = 0; i < all.points.size(); ++i) {
      const auto answer = solve(items, all.points[i].bits);
      ASSERT_TRUE(answer);
      EXPECT_EQ(answer->loss, all.points[i].loss);
      EXPECT_EQ(answer->bits, all.points[i].bits);
      if (i + 1 == all.points.size()) continue;
      EXPECT_GT(all.points[i].loss, all.points[i + 1].loss);
      EXPECT_EQ(solve(items, all.points[i + 1].bits - 1)->loss, all.points[i].loss);  // and nothing better up to the next one
    }
  }
}

TEST(Frontier, OfALargeModelIsItsConvexHull) {
  const std::vector<item> items = qwen3_32b(true, mixed_groups, 3);
  const frontier hull = optima(items, 10'000);
  EXPECT_FALSE(hull.complete);
  ASSERT_GT(hull.points.size(), 500u);  // up to four upgrades for each of 256 items
  for (std::size_t i = 0; i < hull.points.size(); i += 97) {
    const auto answer = solve(items, hull.points[i].bits);
    ASSERT_TRUE(answer);
    EXPECT_NEAR(answer->loss, hull.points[i].loss, 1e-9 * hull.points[0].loss);  // sums in another order
    EXPECT_EQ(answer->bits, hull.points[i].bits);
  }
}

}  // namespace
