// links: ar_autoscheme
// AutoScheme against auto-round 0.16.1: bits of layers, the dynamic program's choices with their ties, groups, and whole selections from given scores.
#include <gtest/gtest.h>

#include <map>

#include "autoscheme/accounting.hpp"
#include "autoscheme/groups.hpp"
#include "autoscheme/knapsack.hpp"
#include "autoscheme/selection.hpp"
#include "support/golden_json.hpp"

namespace {

using namespace auto_round;
using namespace auto_round::autoscheme;
using json = nlohmann::ordered_json;

/// Python writes NaN and Infinity, which are no JSON: outside of strings they become strings.
json read(const std::string& name) {
  const std::string text = golden::read_bytes(golden::root() / "autoscheme" / name);
  std::string clean;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') in_string = !in_string;
    bool replaced = false;
    for (const std::string word : {"NaN", "Infinity"}) {
      if (in_string || text.compare(i, word.size(), word) != 0) continue;
      clean += '"' + word + '"';
      i += word.size() - 1;
      replaced = true;
    }
    if (!replaced) clean += text[i];
  }
  return golden::parse_json(clean);
}

double number(const json& j) {
  if (j.is_string()) return j == "NaN" ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  return j.get<double>();
}

ar::scheme_fields preset(const std::string& name) {
  const ar::scheme_fields* found = ar::find_preset(name);
  if (found == nullptr) throw std::runtime_error("no preset " + name);
  return *found;
}

TEST(Accounting, BitsOfEveryPresetAndShape) {
  const json data = read("bits_accounting.json");
  int counted = 0, refused = 0;
  for (const json& row : data["rows"]) {
    const layer l{"layer", row[1].get<std::uint64_t>(), row[2].get<std::uint64_t>()};
    for (const bool ignore : {false, true}) {
      const json& expected = row[ignore ? 4 : 3];
      const ar::scheme_fields scheme = preset(row[0]);
      if (!expected.is_array()) {
        EXPECT_GT(scheme.group_rows, 0) << row;  // auto-round fails for tiles alone
        ++refused;
        continue;
      }
      EXPECT_EQ(bits_of(l, scheme, false, {.ignore_scale_zp_bits = ignore}), expected[0].get<std::uint64_t>()) << row;
      ++counted;
    }
  }
  for (const json& row : data["embedding"]) {
    const layer l{"embedding", row[1].get<std::uint64_t>(), row[2].get<std::uint64_t>(), true};
    for (const bool ignore : {false, true}) {
      EXPECT_EQ(bits_of(l, preset(row[0]), false, {.ignore_scale_zp_bits = ignore}), row[ignore ? 4 : 3][0].get<std::uint64_t>()) << row;
      ++counted;
    }
  }
  EXPECT_GE(counted, 1000);
  EXPECT_GE(refused, 10);
}

TEST(Knapsack, ChoicesLossesAndTies) {
  const json data = read("dp_cases.json");
  int beams = 0, infeasible = 0, all = 0;
  for (const json& c : data["cases"]) {
    SCOPED_TRACE(c["tag"].get<std::string>());
    std::vector<item> items;
    for (const json& name : c["order"]) {
      item i;
      for (const json& o : c["layers"][name.get<std::string>()]) {
        ASSERT_EQ(o[0].get<std::size_t>(), i.size());
        i.push_back({o[1].get<std::uint64_t>(), number(o[2])});
      }
      items.push_back(std::move(i));
    }
    const std::size_t beam = c["max_states"].is_null() ? 0 : c["max_states"].get<std::size_t>();
    const auto answer = solve(items, c["budget"].get<std::uint64_t>(), beam);
    ++all;
    beams += beam != 0;
    if (c["result"].is_null()) {
      EXPECT_FALSE(answer);
      ++infeasible;
      continue;
    }
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->loss, c["result"]["loss"].get<double>());
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(answer->choice[i], c["result"]["choice"][c["order"][i].get<std::string>()].get<std::size_t>()) << i;
      bits += items[i][answer->choice[i]].bits;
    }
    EXPECT_EQ(answer->bits, bits);
  }
  EXPECT_GE(all, 20);
  EXPECT_GE(beams, 3);
  EXPECT_GE(infeasible, 1);
}

TEST(Groups, SharedLayersMergingAndExperts) {
  const json data = read("grouping.json");
  for (const json& c : data["parse_shared_layers"]) {
    const auto patterns = c["patterns"].is_null() ? std::vector<name_list>{} : c["patterns"].get<std::vector<name_list>>();
    EXPECT_EQ(shared_groups(c["layers"].get<name_list>(), c["blocks"].get<name_list>(), patterns), c["groups"].get<std::vector<name_list>>()) << c["tag"];
  }
  for (const json& c : data["merge_lists_unionfind"])
    EXPECT_EQ(merge(c["input"].get<std::vector<name_list>>()), c["output"].get<std::vector<name_list>>()) << c["input"];
  for (const json& c : data["fill_inactive_experts"]) {
    name_list names;
    std::vector<double> loss, expected;
    for (const auto& [name, value] : c["before"].items()) {
      names.push_back(name);
      loss.push_back(number(value));
      expected.push_back(number(c["after"][name]));
    }
    fill_inactive_experts(names, loss, c["blocks"].get<name_list>());
    EXPECT_EQ(loss, expected) << c["before"];
  }
}

/// A whole selection as auto-round was asked for it.
request request_of(const json& c) {
  request r;
  r.reference = true;
  std::map<std::string, ar::scheme_fields> fixed;
  for (const auto& [name, scheme] : c["fixed"].items()) fixed[name] = preset(scheme);
  std::vector<option> options;
  for (const json& name : c["options"]) options.push_back({name, preset(name)});
  r.options = without_duplicates(std::move(options));
  for (const json& l : c["quant_layers"]) {
    layer one{l[0], l[2][0].get<std::uint64_t>(), l[2][1].get<std::uint64_t>(), l[1] == "Embedding"};
    if (fixed.contains(one.name)) one.fixed = fixed[one.name];
    r.moe = r.moe || one.name.find("experts") != std::string::npos;
    r.layers.push_back(std::move(one));
  }
  for (const option& o : r.options) {
    std::vector<double> scores(r.layers.size(), 0.0);
    if (c.contains("scores") && c["scores"].contains(o.name))
      for (std::size_t l = 0; l < scores.size(); ++l)
        if (const auto at = c["scores"][o.name].find(r.layers[l].name); at != c["scores"][o.name].end()) scores[l] = at->get<double>();
    r.scores.push_back(std::move(scores));
  }
  if (!c["shared_layers"].is_null()) r.shared_layers = c["shared_layers"].get<std::vector<name_list>>();
  r.blocks = c["blocks"].get<name_list>();
  r.head_name = c["lm_head"];
  r.tie_word_embeddings = c["tie_word_embeddings"];
  r.count.ignore_scale_zp_bits = c["ignore_scale_zp_bits"];
  return r;
}

bool same(const ar::scheme_fields& s, const json& expected) {
  if (expected.is_string()) return ar::same_scheme(s, preset(expected));
  for (const auto& [key, value] : expected.items()) {
    if (key == "bits" && s.bits != value) return false;
    if (key == "group_size" && s.group_size != value) return false;
    if (key == "sym" && s.sym != value) return false;
    if (key == "data_type" && s.data_type != value.get<std::string>()) return false;
  }
  return true;
}

TEST(Selection, WholeSelectionsFromGivenScores) {
  const json data = read("selection_cases.json");
  int selected = 0, refused = 0;
  for (const json& c : data["cases"]) {
    SCOPED_TRACE(c["tag"].get<std::string>());
    const request r = request_of(c);
    ASSERT_EQ(r.options.size(), c["options_after_dedup"].size());
    auto s = selector::make(r);
    ASSERT_TRUE(s) << describe(s.error());
    if (c.contains("error")) {
      const auto answer = s->select(c["avg_bits"].get<double>());
      ++refused;
      if (c["error"][0] == "TypeError") {
        EXPECT_TRUE(answer) << describe(answer.error());  // tiles, which auto-round cannot count
        continue;
      }
      ASSERT_FALSE(answer);
      EXPECT_EQ(answer.error().kind, error_kind::usage);
      continue;
    }
    EXPECT_EQ(s->least_avg_bits(), c["avg_range"][0].get<double>());
    EXPECT_EQ(s->most_avg_bits(), c["avg_range"][1].get<double>());
    const auto check = [&](double target, const json& expected) {
      const auto answer = s->select(target);
      ASSERT_TRUE(answer) << describe(answer.error());
      EXPECT_EQ(expected.size(), r.layers.size());
      for (std::size_t l = 0; l < r.layers.size(); ++l)
        EXPECT_TRUE(same(answer->schemes[l], expected[r.layers[l].name])) << r.layers[l].name << " " << answer->schemes[l].bits;
      ++selected;
      if (!c.contains("total_bits")) return;
      EXPECT_EQ(answer->bits, c["total_bits"].get<std::uint64_t>());
      EXPECT_EQ(answer->weights, c["total_params"].get<std::uint64_t>());
      EXPECT_EQ(answer->avg_bits(), c["final_avg"].get<double>());
    };
    if (c["avg_bits"].is_array()) {
      for (const json& target : c["avg_bits"]) check(target.get<double>(), c["layer_config"][target.dump()]);
    } else {
      check(c["avg_bits"].get<double>(), c["layer_config"]);
    }
  }
  EXPECT_GE(selected, 22);
  EXPECT_GE(refused, 3);
}

}  // namespace
