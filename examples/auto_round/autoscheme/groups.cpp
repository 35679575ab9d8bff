#include "autoscheme/groups.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>

#include "text/regex.hpp"

namespace auto_round::autoscheme {
namespace {

constexpr double least_loss = 1e-12;  // of an expert that was reached

/// Index of the block that a layer lies in; the longest name wins. Number of blocks: none.
std::size_t block_of(const std::string& layer, std::span<const std::string> blocks) {
  std::size_t found = blocks.size();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const std::string& name = blocks[b];
    const bool inside = layer.starts_with(name) && (layer.size() == name.size() || layer[name.size()] == '.');
    if (inside && (found == blocks.size() || name.size() > blocks[found].size())) found = b;
  }
  return found;
}

/// One entry of a list that is no full name.
class pattern {
 public:
  explicit pattern(const std::string& text) : text_(text) {
    if (auto r = text::regex::compile(text)) regex_ = std::move(*r);
  }
  bool finds(const std::string& name) {
    if (regex_) {
      std::vector<text::span_match> hits;
      if (regex_->find_all(name, space_, hits) && !hits.empty()) return true;
    }
    return name.find(text_) != std::string::npos;
  }

 private:
  std::string text_;
  std::optional<text::regex> regex_;
  text::regex::workspace space_;
};

}  // namespace

std::vector<name_list> merge(const std::vector<name_list>& lists) {
  std::vector<std::string> names;  // in order of first appearance
  std::unordered_map<std::string, std::size_t> number;
  std::vector<std::size_t> parent;
  const auto root = [&](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  for (const name_list& list : lists) {
    for (const std::string& name : list) {
      if (!number.try_emplace(name, names.size()).second) continue;
      parent.push_back(names.size());
      names.push_back(name);
    }
    for (const std::string& name : list) {
      const std::size_t a = root(number[list.front()]), b = root(number[name]);
      parent[b] = a;
    }
  }
  std::vector<name_list> merged;
  std::unordered_map<std::size_t, std::size_t> place;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto [at, fresh] = place.try_emplace(root(i), merged.size());
    if (fresh) merged.emplace_back();
    merged[at->second].push_back(names[i]);
  }
  return merged;
}

std::vector<name_list> shared_groups(std::span<const std::string> layers, std::span<const std::string> blocks, const std::vector<name_list>& patterns) {
  const std::set<std::string> known(layers.begin(), layers.end());
  std::vector<name_list> groups;
  std::vector<name_list> loose;
  for (const name_list& list : patterns) {
    name_list unique;
    for (const std::string& entry : list)
      if (std::find(unique.begin(), unique.end(), entry) == unique.end()) unique.push_back(entry);
    const bool direct = std::all_of(unique.begin(), unique.end(), [&](const std::string& entry) { return known.contains(entry); });
    (direct ? groups : loose).push_back(std::move(unique));
  }
  std::vector<std::vector<std::string>> inside(blocks.size());
  for (const std::string& name : layers)
    if (const std::size_t b = block_of(name, blocks); b < blocks.size()) inside[b].push_back(name);

  std::map<std::string, pattern> compiled;
  for (const name_list& list : loose)
    for (const std::string& entry : list)
      if (!known.contains(entry)) compiled.try_emplace(entry, entry);
  for (const std::vector<std::string>& block : inside) {
    for (const name_list& list : loose) {
      std::set<std::string> found;
      for (const std::string& entry : list) {
        const auto p = compiled.find(entry);
        if (p == compiled.end()) {
          found.insert(entry);
          continue;
        }
        for (const std::string& name : block)
          if (p->second.finds(name)) found.insert(name);
      }
      if (!found.empty()) groups.emplace_back(found.begin(), found.end());
    }
  }
  return merge(groups);
}

name_list without_layers(std::span<const std::string> layers, const std::vector<name_list>& patterns) {
  name_list out;
  for (const name_list& list : patterns) {
    for (const std::string& entry : list) {
      pattern p(entry);
      if (std::none_of(layers.begin(), layers.end(), [&](const std::string& name) { return p.finds(name); })) out.push_back(entry);
    }
  }
  return out;
}

std::string expert_of(const std::string& layer) {
  constexpr std::string_view mark = ".experts.";
  for (std::size_t at = layer.find(mark); at != std::string::npos; at = layer.find(mark, at + 1)) {
    const std::size_t digits = at + mark.size(), end = layer.find_first_not_of("0123456789", digits);
    if (end != digits && digits < layer.size() && (end == std::string::npos || layer[end] == '.')) return layer.substr(0, end);
  }
  if (layer.find(".moe.") == std::string::npos) return {};
  return layer.substr(0, layer.rfind('.'));
}

std::vector<name_list> expert_groups(std::span<const std::string> layers, std::span<const std::string> blocks) {
  std::vector<name_list> all(blocks.size());
  for (const std::string& name : layers) {
    if (expert_of(name).empty()) continue;
    if (const std::size_t b = block_of(name, blocks); b < blocks.size()) all[b].push_back(name);
  }
  std::erase_if(all, [](const name_list& g) { return g.size() < 2; });
  for (name_list& g : all) std::sort(g.begin(), g.end());
  return all;
}

void fill_inactive_experts(std::span<const std::string> layers, std::span<double> loss, std::span<const std::string> blocks) {
  struct expert {
    std::vector<std::size_t> layers;
    double sum = 0;
    std::size_t reached = 0;
  };
  // In order of appearance, because sums depend on it.
  std::vector<std::vector<std::pair<std::string, expert>>> experts(blocks.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string key = expert_of(layers[i]);
    const std::size_t b = block_of(layers[i], blocks);
    if (!std::isfinite(loss[i]) || key.empty() || b == blocks.size()) continue;
    auto at = std::find_if(experts[b].begin(), experts[b].end(), [&](const auto& e) { return e.first == key; });
    if (at == experts[b].end()) at = experts[b].insert(at, {key, {}});
    expert& e = at->second;
    e.layers.push_back(i);
    if (std::abs(loss[i]) < least_loss) continue;
    e.sum += loss[i];
    ++e.reached;
  }
  for (const auto& block : experts) {
    double sum = 0;
    std::size_t active = 0;
    for (const auto& [key, e] : block) {
      if (e.reached == 0) continue;
      sum += e.sum / static_cast<double>(e.reached);
      ++active;
    }
    if (active == 0) continue;
    for (const auto& [key, e] : block) {
      if (e.reached != 0) continue;
      for (const std::size_t i : e.layers) loss[i] = sum / static_cast<double>(active);
    }
  }
}

}  // namespace auto_round::autoscheme
