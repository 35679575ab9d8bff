#include "evaluation/scores.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace auto_round::evaluation {
namespace {

std::size_t largest(const std::vector<double>& x) { return static_cast<std::size_t>(std::max_element(x.begin(), x.end()) - x.begin()); }

double code_points(const std::string& s) {
  return static_cast<double>(std::count_if(s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

double sum(const std::vector<double>& x) {
  double total = 0;
  for (const double v : x) total += v;
  return total;
}

metric mean(std::string name, const std::vector<double>& x) {
  const auto n = static_cast<double>(x.size());
  metric m{std::move(name), true, sum(x) / n, {}};
  if (x.size() >= 2) {
    double squares = 0;
    for (const double v : x) squares += (v - m.value) * (v - m.value);
    m.standard_error = std::sqrt(squares / (n - 1)) / std::sqrt(n);
  }
  return m;
}

const metric* acc_of(const task_scores& t) {
  const auto found = std::find_if(t.metrics.begin(), t.metrics.end(), [](const metric& m) { return m.name == "acc"; });
  return found == t.metrics.end() ? nullptr : &*found;
}

}  // namespace

task_scores score(const asked_task& asked, std::span<const model::likelihood> likelihoods) {
  const task& t = *asked.what;
  task_scores out{&t, static_cast<std::int64_t>(asked.questions.size()), asked.num_fewshot, {}, {}};
  std::vector<double> acc, acc_norm, log_likelihood;
  double words = 0, bytes = 0;
  std::size_t at = 0;
  for (const question& q : asked.questions) {
    const std::size_t n = q.requests();
    const auto mine = likelihoods.subspan(at, n);
    at += n;
    std::vector<double> ll, per_character;
    for (std::size_t i = 0; i < n; ++i) {
      ll.push_back(mine[i].sum);
      per_character.push_back(mine[i].sum / code_points(q.answer(i)));
    }
    switch (t.score) {
      case scoring::choice:
        acc.push_back(largest(ll) == q.gold);
        acc_norm.push_back(largest(per_character) == q.gold);
        break;
      case scoring::mass: {
        double right = 0, all = 0;
        for (std::size_t i = 0; i < n; ++i) all += std::exp(ll[i]);
        for (std::size_t i = 0; i < n; ++i) right += q.labels[i] == 1 ? std::exp(ll[i]) / all : 0;
        acc.push_back(right);
        break;
      }
      case scoring::continuation:
        acc.push_back(mine[0].greedy);
        log_likelihood.push_back(ll[0]);
        break;
      case scoring::rolling:
        log_likelihood.push_back(ll[0]);
        words += static_cast<double>(q.words);
        bytes += static_cast<double>(q.bytes);
        break;
    }
  }
  const auto add = [&](metric m, std::vector<double> values) {
    out.metrics.push_back(std::move(m));
    out.by_document.push_back(std::move(values));
  };
  const double total = sum(log_likelihood);
  if (t.score == scoring::rolling) {
    add({"bits_per_byte", false, -total / bytes / std::numbers::ln2, {}}, log_likelihood);
    add({"byte_perplexity", false, std::exp(-total / bytes), {}}, log_likelihood);
    add({"word_perplexity", false, std::exp(-total / words), {}}, log_likelihood);
    return out;
  }
  add(mean("acc", acc), acc);
  if (t.acc_norm) add(mean("acc_norm", acc_norm), acc_norm);
  if (t.score == scoring::continuation) add({"perplexity", false, std::exp(-total / static_cast<double>(out.documents)), {}}, log_likelihood);
  return out;
}

std::vector<group_scores> score_groups(const std::vector<task_scores>& tasks) {
  std::vector<group_scores> out;
  const auto groups = all_groups();
  for (const task_group& g : groups) {
    double correct = 0, n = 0, variance = 0, members = 0;
    bool errors = true;
    for (const task_scores& t : tasks) {
      const auto own = std::find_if(groups.begin(), groups.end(), [&](const task_group& x) { return x.name == t.what->group; });
      const metric* const acc = acc_of(t);
      if (own == groups.end() || acc == nullptr || (own->name != g.name && own->parent != g.name)) continue;
      const auto size = static_cast<double>(t.documents);
      correct += acc->value * size;
      n += size;
      members += 1;
      errors = errors && acc->standard_error.has_value();
      if (acc->standard_error) variance += (size - 1) * *acc->standard_error * *acc->standard_error * size;
    }
    if (members == 0) continue;
    group_scores s{&g, static_cast<std::int64_t>(n), {"acc", true, correct / n, {}}};
    if (errors) s.acc.standard_error = std::sqrt(variance / (n - members) / n);
    out.push_back(std::move(s));
  }
  return out;
}

std::optional<mean_accuracy> mean_of(const std::vector<task_scores>& tasks, const std::vector<group_scores>& groups) {
  mean_accuracy m;
  for (const task_scores& t : tasks) {
    if (const metric* const acc = acc_of(t); acc != nullptr && t.what->group.empty()) {
      m.value += acc->value;
      m.over.push_back(t.what->name);
    }
  }
  for (const group_scores& g : groups) {
    if (!g.what->parent.empty()) continue;
    m.value += g.acc.value;
    m.over.emplace_back(g.what->name);
  }
  if (m.over.size() < 2) return {};
  m.value /= static_cast<double>(m.over.size());
  return m;
}

}  // namespace auto_round::evaluation
