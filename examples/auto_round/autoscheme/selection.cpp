#include "autoscheme/selection.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <unordered_map>

namespace auto_round::autoscheme {
namespace {

constexpr double snap = 1e-3;    // targets this near to an end of the range mean the end
constexpr int high_bits = 6;     // what the head wants
constexpr int whole_bits = 16;

std::uint64_t fewest_bits(const item& i) {
  return std::min_element(i.begin(), i.end(), [](const item_option& a, const item_option& b) { return a.bits < b.bits; })->bits;
}

}  // namespace

result<selector> selector::make(request what) {
  selector s(std::move(what));
  request& w = s.what_;
  const std::size_t n = w.layers.size();
  if (n == 0) return fail(error_kind::usage, "AutoScheme has no layers to choose for");
  if (w.options.empty()) return fail(error_kind::usage, "AutoScheme needs options to choose from");
  if (w.scores.size() != w.options.size()) return fail(error_kind::internal, "each option needs scores");
  for (std::size_t o = 0; o < w.options.size(); ++o) {
    if (w.scores[o].size() != n) return fail(error_kind::internal, "each layer needs a score");
    for (std::size_t l = 0; l < n; ++l) {
      if (std::isfinite(w.scores[o][l])) continue;
      return fail(error_kind::input, fmt::format("the score under option {} is not finite; the calibration text may be unusable", w.options[o].name), {},
                  w.layers[l].name);
    }
  }
  for (const layer& l : w.layers) s.weights_ += l.weights();
  s.costs_.assign(w.options.size(), std::vector<std::uint64_t>(n));
  for (std::size_t o = 0; o < w.options.size(); ++o) {
    for (std::size_t l = 0; l < n; ++l) {
      const ar::scheme_fields scheme = w.layers[l].fixed ? *w.layers[l].fixed : w.reference ? w.options[o].scheme : s.scheme_of(l, o);
      s.costs_[o][l] = bits_of(w.layers[l], scheme, w.options[o].gguf, w.count);
    }
    const std::uint64_t bits = std::accumulate(s.costs_[o].begin(), s.costs_[o].end(), std::uint64_t{0});
    s.averages_.push_back(static_cast<double>(bits) / static_cast<double>(s.weights_));
  }
  s.make_items();
  return s;
}

ar::scheme_fields selector::scheme_of(std::size_t l, std::size_t o) const {
  if (o == what_.options.size()) return *what_.layers[l].fixed;
  const option& chosen = what_.options[o];
  // auto-round knows only the fallback of the K types here, and not for embeddings; what else does not fit is a fixed layer there.
  if (what_.reference && (!chosen.scheme.super_bits || what_.layers[l].embedding)) return chosen.scheme;
  return fitting(what_.layers[l], chosen.scheme, chosen.gguf);
}

/// Groups in the order of their lists, then the other layers; each with its sums over the group's layers.
void selector::make_items() {
  const std::vector<layer>& layers = what_.layers;
  std::vector<std::string> names, free;
  std::unordered_map<std::string, std::size_t> number;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (!layers[l].embedding) names.push_back(layers[l].name);
    if (layers[l].fixed || layers[l].embedding) continue;
    free.push_back(layers[l].name);
    number[layers[l].name] = l;
  }
  std::vector<name_list> groups = shared_groups(names, what_.blocks, what_.shared_layers);
  if (what_.moe) {
    std::vector<name_list> experts = expert_groups(free, what_.blocks);
    if (!experts.empty()) {
      groups.insert(groups.end(), experts.begin(), experts.end());
      groups = merge(groups);
    }
  }
  std::vector<bool> taken(layers.size());
  const auto add = [&](const name_list& group) {
    std::vector<std::size_t> members;
    for (const std::string& name : group) {
      const auto at = number.find(name);
      if (at == number.end() || taken[at->second]) continue;
      taken[at->second] = true;
      members.push_back(at->second);
    }
    if (!members.empty()) members_.push_back(std::move(members));
  };
  for (const name_list& g : groups) add(g);
  for (const std::string& name : free) add({name});
  for (const std::vector<std::size_t>& members : members_) {
    item i(what_.options.size());
    for (std::size_t o = 0; o < i.size(); ++o) {
      for (const std::size_t l : members) {
        i[o].bits += cost(l, o);
        i[o].loss += what_.scores[o][l];
      }
    }
    items_.push_back(std::move(i));
  }
}

/// Scores say little about embeddings: few of their rows are seen. auto-round's rules, in the order of preference.
std::size_t selector::embedding_option(double avg_bits, std::uint64_t budget, std::span<const std::size_t> rank) const {
  const std::vector<option>& options = what_.options;
  const auto bits = [&](std::size_t o) { return options[o].scheme.bits; };
  std::vector<std::size_t> candidates;
  if (what_.tie_word_embeddings) {
    for (const std::size_t o : rank)
      if (avg_bits > high_bits || bits(o) <= high_bits) candidates.push_back(o);
  } else {
    const int floor = static_cast<int>(std::floor(avg_bits));
    int wanted = 0;
    for (const std::size_t o : rank)
      if (bits(o) >= floor && (wanted == 0 || bits(o) < wanted)) wanted = bits(o);
    for (const std::size_t o : rank)
      if (bits(o) == wanted) candidates.push_back(o);
  }
  if (candidates.empty() || !what_.tie_word_embeddings) candidates.insert(candidates.end(), rank.begin(), rank.end());
  std::vector<std::size_t> cheapest(options.size());
  std::iota(cheapest.begin(), cheapest.end(), std::size_t{0});
  std::stable_sort(cheapest.begin(), cheapest.end(), [&](std::size_t a, std::size_t b) { return bits(a) < bits(b); });
  candidates.insert(candidates.end(), cheapest.begin(), cheapest.end());

  std::uint64_t others = 0, weights = 0;
  for (const item& i : items_) others += fewest_bits(i);
  for (std::size_t l = 0; l < what_.layers.size(); ++l)
    if (what_.layers[l].embedding && !what_.layers[l].fixed) weights += what_.layers[l].weights();
  // auto-round counts only the codes of embeddings here; what the scales take may then be missing for the others.
  const auto cost_of = [&](std::size_t o) {
    if (what_.reference) return weights * static_cast<std::uint64_t>(bits(o));
    std::uint64_t sum = 0;
    for (std::size_t l = 0; l < what_.layers.size(); ++l)
      if (what_.layers[l].embedding && !what_.layers[l].fixed) sum += cost(l, o);
    return sum;
  };
  for (const std::size_t o : candidates)
    if (cost_of(o) <= budget && budget - cost_of(o) >= others) return o;
  return cheapest.front();
}

/// The head's errors go into the logits undamped: it gets 6 bits or more where it can.
std::vector<std::size_t> selector::head_options(double avg_bits, std::uint64_t budget, std::span<const std::size_t> rank, std::size_t head) const {
  const auto bits = [&](std::size_t o) { return what_.options[o].scheme.bits; };
  std::vector<std::size_t> allowed;
  for (std::size_t o = 0; o < what_.options.size(); ++o)
    if (bits(o) >= high_bits) allowed.push_back(o);
  if (allowed.empty()) allowed = {rank.front()};
  if (allowed.size() > 1 && avg_bits > high_bits) allowed = {*std::max_element(allowed.begin(), allowed.end(), [&](std::size_t a, std::size_t b) { return bits(a) < bits(b); })};
  std::uint64_t others = 0;
  for (std::size_t i = 0; i < items_.size(); ++i)
    if (i != head) others += fewest_bits(items_[i]);
  const auto fits = [&] {
    return std::any_of(allowed.begin(), allowed.end(), [&](std::size_t o) { return items_[head][o].bits + others <= budget; });
  };
  for (std::size_t i = 0; i < rank.size() && !fits(); ++i)
    if (std::find(allowed.begin(), allowed.end(), rank[i]) == allowed.end()) allowed.push_back(rank[i]);
  std::sort(allowed.begin(), allowed.end());
  return allowed;
}

result<selection> selector::select(double avg_bits) const {
  const double least = least_avg_bits(), most = most_avg_bits();
  if (std::abs(avg_bits - least) < snap) avg_bits = least;
  else if (std::abs(avg_bits - most) < snap) avg_bits = most;
  if (!(avg_bits >= least && avg_bits <= most)) {
    std::string each;
    for (std::size_t o = 0; o < averages_.size(); ++o) each += fmt::format("{}{} {:.3f}", o == 0 ? "" : ", ", what_.options[o].name, averages_[o]);
    return fail(error_kind::usage, fmt::format("an average of {:.3f} bits cannot be reached with these options: {:.3f} to {:.3f} can ({}). Layers that stay in 16 "
                                               "bits raise it; give options on both sides of the target",
                                               avg_bits, least, most, each));
  }
  const std::vector<layer>& layers = what_.layers;
  const std::size_t fixed = what_.options.size();
  selection s;
  s.weights = weights_;
  s.choice.assign(layers.size(), fixed);
  s.schemes.resize(layers.size());

  std::vector<double> losses(what_.options.size(), 0.0);
  for (std::size_t o = 0; o < losses.size(); ++o)
    for (const item& i : items_) losses[o] += i[o].loss;
  std::vector<std::size_t> rank(losses.size());
  std::iota(rank.begin(), rank.end(), std::size_t{0});
  std::stable_sort(rank.begin(), rank.end(), [&](std::size_t a, std::size_t b) { return losses[a] < losses[b]; });

  auto budget = static_cast<std::int64_t>(static_cast<double>(weights_) * avg_bits);
  const auto pay = [&](std::uint64_t bits) { budget -= static_cast<std::int64_t>(bits); };
  const auto left = [&] { return static_cast<std::uint64_t>(std::max<std::int64_t>(budget, 0)); };
  for (std::size_t l = 0; l < layers.size(); ++l)
    if (layers[l].fixed) pay(cost(l, 0));
  std::optional<std::size_t> embeddings;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (!layers[l].embedding || layers[l].fixed) continue;
    if (!embeddings) embeddings = embedding_option(avg_bits, left(), rank);
    s.choice[l] = *embeddings;
    pay(cost(l, *embeddings));
  }
  std::vector<item> items = items_;
  std::vector<std::size_t> head_choice;
  std::size_t head = items.size();
  for (std::size_t i = 0; i < items.size(); ++i)
    if (layers[members_[i].front()].name == what_.head_name) head = i;
  if (head < items.size()) {
    head_choice = head_options(avg_bits, left(), rank, head);
    items[head].clear();
    for (const std::size_t o : head_choice) items[head].push_back(items_[head][o]);
  }
  auto found = budget > 0 || items.empty() ? solve(items, left()) : std::nullopt;
  if (!found) {
    return fail(error_kind::usage, fmt::format("an average of {:.3f} bits is too small: what is fixed and the embeddings leave too little for the other layers", avg_bits));
  }
  s.states = found->states;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::size_t o = i == head ? head_choice[found->choice[i]] : found->choice[i];
    for (const std::size_t l : members_[i]) s.choice[l] = o;
  }
  s.loss = found->loss;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    s.schemes[l] = scheme_of(l, s.choice[l]);
    s.bits += bits_of(layers[l], s.schemes[l], s.choice[l] < fixed && what_.options[s.choice[l]].gguf, what_.count);
  }
  return s;
}

frontier selector::optima(std::size_t most) const {
  std::uint64_t base = 0;
  for (std::size_t l = 0; l < what_.layers.size(); ++l) {
    if (what_.layers[l].fixed) base += cost(l, 0);
    if (what_.layers[l].fixed || !what_.layers[l].embedding) continue;
    std::uint64_t cheapest = cost(l, 0);
    for (std::size_t o = 1; o < what_.options.size(); ++o) cheapest = std::min(cheapest, cost(l, o));
    base += cheapest;
  }
  frontier f = autoscheme::optima(items_, most);
  for (frontier_point& p : f.points) p.bits += base;
  return f;
}

}  // namespace auto_round::autoscheme
