// links: ar_plan
// Rules for single layers against auto-round 0.16.1 (golden/layer-config): the text of --layer_config, patterns, and what becomes of every layer. The part
// that lives in the repository leaves out half of the blocks of its largest model; what happens to a layer does not depend on the others.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "export/export_layer_pattern.hpp"
#include "export/export_safetensors.hpp"
#include "plan.hpp"
#include "plan_scheme.hpp"
#include "support/golden_json.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

std::filesystem::path data(const char* name) { return golden::root() / "layer-config" / name; }

/// Ours as the golden files write it: infinities and NaN are strings there.
ordered_json plain(const io::json& v) {
  if (v.is_null()) return nullptr;
  if (v.is_bool()) return v.as_bool();
  if (v.is_int()) return v.as_int();
  if (v.is_number()) {
    const double d = v.as_double();
    if (std::isfinite(d)) return d;
    return std::isnan(d) ? "nan" : d > 0 ? "inf" : "-inf";
  }
  if (v.is_string()) return v.as_string();
  if (v.is_array()) {
    ordered_json a = ordered_json::array();
    for (const io::json& item : v.items()) a.push_back(plain(item));
    return a;
  }
  ordered_json o = ordered_json::object();
  for (const auto& [key, item] : v.members()) o[key] = plain(item);
  return o;
}

/// The other way round, for rules.
io::json ours(const ordered_json& v) { return io::parse_json(v.dump(), "test").value(); }

TEST(LayerConfig, TextIsReadAsInTheOriginal) {
  const auto cases = golden::read_json(data("parse.json"));
  ASSERT_GT(cases.size(), 15u);
  for (const auto& c : cases) {
    SCOPED_TRACE(c.dump());
    const auto got = plan::parse_layer_config(c["in"].get<std::string>());
    if (c.contains("error")) {
      ASSERT_FALSE(got.has_value()) << plain(*got).dump();
      EXPECT_EQ(got.error().kind, error_kind::usage);
      EXPECT_NE(got.error().message.find(c["error_text"].get<std::string>()), std::string::npos) << got.error().message;
    } else {
      ASSERT_TRUE(got.has_value()) << got.error().message;
      const ordered_json want = c["out"], have = plain(*got);
      EXPECT_EQ(have, want);
      EXPECT_EQ(have.dump(), want.dump()) << "types of numbers count";
    }
  }
}

TEST(LayerConfig, RulesThatAreNoObjectAreRefused) {
  for (const char* text : {"[1,2]", "5", "nothing", "/no/such/file.json"}) EXPECT_FALSE(plan::read_layer_config(text).has_value()) << text;
}

TEST(LayerConfig, PatternsMeanWhatTheyMeanInTheOriginal) {
  const auto regex = golden::read_json(data("regex.json"));
  const auto& names = regex["to_standard_regex"]["names"];
  for (const auto& c : regex["to_standard_regex"]["cases"]) {
    SCOPED_TRACE(c["in"].dump());
    EXPECT_EQ(exporting::exported_regex(c["in"].get<std::string>()), c["regex"].get<std::string>());
    const auto pattern = exporting::layer_pattern::compile(c["in"].get<std::string>());
    ASSERT_TRUE(pattern.has_value()) << pattern.error().message;
    for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(pattern->found_in(names[i].get<std::string>()), c["search"][i].get<bool>()) << names[i];
  }
  for (const auto& c : regex["compress_layer_names"]) {
    std::string joined;
    for (const std::string& n : plan::compress_names(c["in"].get<std::vector<std::string>>())) joined += (joined.empty() ? "" : ", ") + n;
    EXPECT_EQ(joined, c["out"].get<std::string>());
  }
  for (const auto& c : regex["infer_bits"]) {
    if (c["in"].is_null()) continue;  // no type: 16 bits, which no caller asks
    const auto bits = plan::bits_in_name(c["in"].get<std::string>());
    EXPECT_EQ(bits, c["out"].is_null() ? std::optional<int>() : std::optional<int>(c["out"].get<int>())) << c.dump();
  }
}

struct model {
  plan::model_outline outline;
  std::vector<exporting::layer_decision> layers;
};

model read_model(const ordered_json& m, const ar::scheme_fields& scheme) {
  model out;
  for (const auto& group : m["blocks"])
    for (const auto& b : group) out.outline.blocks.push_back(b.get<std::string>());
  out.outline.head = m["lm_head"].get<std::string>();
  out.outline.tied_head = m["tie_word_embeddings"].get<bool>();
  for (const auto& p : m["predefined_ignore"]) out.outline.predefined_ignore.push_back(p.get<std::string>());
  for (const auto& module : m["modules"]) {
    const std::string name = module[0].get<std::string>(), kind = module[1].get<std::string>();
    if (kind == "Linear" || kind == "Conv1D") {
      exporting::layer_decision l;
      l.name = name;
      l.rows = module[2][0].get<std::uint64_t>();
      l.cols = module[2][1].get<std::uint64_t>();
      for (std::size_t b = 0; b < out.outline.blocks.size(); ++b) {
        if (name.starts_with(out.outline.blocks[b] + ".")) l.block = static_cast<std::int64_t>(b);
      }
      l.quantize = l.block >= 0;
      l.scheme = scheme;
      out.layers.push_back(std::move(l));
    } else if (module[3].get<bool>()) {
      out.outline.other_leaves.push_back(name);
    }
  }
  return out;
}

plan::scheme_overrides overrides_of(const ordered_json& args) {
  plan::scheme_overrides o;
  if (args.contains("bits")) o.bits = args["bits"].get<std::int64_t>();
  if (args.contains("group_size")) o.group_size = args["group_size"].get<std::int64_t>();
  if (args.contains("sym")) o.sym = args["sym"].get<bool>();
  return o;
}

plan::layer_rules rules_of(const ordered_json& args) {
  plan::layer_rules r;
  if (args.contains("layer_config")) r.config = ours(args["layer_config"]);
  if (args.contains("ignore_layers")) r.ignore_layers = args["ignore_layers"].get<std::string>();
  if (args.contains("quant_lm_head")) r.quant_lm_head = args["quant_lm_head"].get<bool>();
  if (args.contains("to_quant_block_names")) r.to_quant_block_names = args["to_quant_block_names"].get<std::string>();
  return r;
}

/// An entry of the golden map as our scheme.
ar::scheme_fields scheme_of(const ordered_json& e) {
  ar::scheme_fields s;
  s.bits = e["bits"].get<int>();
  if (e["group_size"].is_array()) {
    s.group_rows = e["group_size"][0].get<int>();
    s.group_size = e["group_size"][1].get<int>();
  } else {
    s.group_size = e["group_size"].get<int>();
  }
  s.sym = e["sym"].get<bool>();
  s.data_type = plan::kept(e["data_type"].get<std::string>());
  s.act_bits = e["act_bits"].get<int>();
  s.act_group_size = e["act_group_size"].get<int>();
  s.act_sym = e["act_sym"].get<bool>();
  s.act_data_type = plan::kept(e["act_data_type"].get<std::string>());
  s.act_dynamic = e["act_dynamic"].get<bool>();
  if (!e["super_bits"].is_null()) s.super_bits = e["super_bits"].get<int>();
  if (!e["super_group_size"].is_null()) s.super_group_size = e["super_group_size"].get<int>();
  return s;
}

void expect_layer(const exporting::layer_decision& got, const ordered_json* want, const ar::scheme_fields& whole) {
  SCOPED_TRACE(got.name + ": " + got.reason);
  if (want == nullptr) {  // no entry: not quantized
    EXPECT_FALSE(got.quantize);
    return;
  }
  const ar::scheme_fields s = scheme_of(*want);
  ASSERT_EQ(got.quantize, ar::quantizes(s));
  if (!got.quantize) {
    if (!got.kept_type.empty()) {  // a head that nobody asked for has none
      EXPECT_EQ(got.kept_type, s.data_type) << "ignored layers are \"float\", those of odd shapes \"fp\"";
    }
    return;
  }
  const auto known = plan::with_known_types(s);  // "int8" is 8 bits of "int"
  ASSERT_TRUE(known.has_value());
  EXPECT_EQ(got.scheme, *known);
  if (want->contains("fixed_by_user")) {
    EXPECT_EQ(got.chosen, (*want)["fixed_by_user"].get<bool>() && !(s == whole && !got.chosen)) << "fixed by the user";
  }
}

TEST(LayerConfig, EveryLayerGetsWhatItGetsInTheOriginal) {
  const auto all = golden::read_json(data("resolve.json"));
  int resolved = 0, refused = 0;
  for (const auto& c : all["cases"]) {
    const std::string name = c["name"].get<std::string>();
    if (name == "gptq_w5") continue;  // the gate of a format
    SCOPED_TRACE(name + " " + c["args"].dump());
    const auto& args = c["args"];
    const std::string preset = args["scheme"].get<std::string>(), format = args.value("format", "auto_round");
    const auto whole = plan::resolve_scheme(preset, overrides_of(args), {format});
    if (!whole) {
      EXPECT_TRUE(c.contains("error")) << whole.error().message;
      ++refused;
      continue;
    }
    model m = read_model(all["models"][c["model"].get<std::string>()], *whole);
    plan::layer_rules rules = rules_of(args);
    rules.order = plan::rule_order::reference;
    const auto got = plan::apply_layer_rules(rules, *whole, preset, {format}, m.outline, m.layers);
    if (c.contains("error")) {
      EXPECT_FALSE(got.has_value());
      if (!got) {
        EXPECT_EQ(got.error().kind, error_kind::usage) << got.error().message;
      }
      ++refused;
      continue;
    }
    ASSERT_TRUE(got.has_value()) << got.error().message;
    ++resolved;
    exporting::job job;
    job.scheme = *whole;
    job.layers = m.layers;
    const bool whole_numbers = whole->data_type == "int" && whole->act_bits.value_or(16) >= 16;
    if (whole_numbers) exporting::apply_multiple_of_32_rule(job.layers);
    if (whole->data_type == "mx_fp" || whole->data_type == "nv_fp") exporting::apply_whole_groups_rule(job);
    for (const auto& l : job.layers) {
      const auto at = c["layer_config"].find(l.name);
      expect_layer(l, at == c["layer_config"].end() ? nullptr : &*at, *whole);
    }
    std::set<std::string> patterns, wanted;
    for (const auto& p : got->patterns) patterns.insert(p.pattern);
    for (const auto& [p, entry] : c["regex_config"].items()) wanted.insert(p);
    EXPECT_EQ(patterns, wanted);
    for (const auto& p : got->patterns) {
      const ar::scheme_fields s = scheme_of(c["regex_config"][p.pattern]);
      EXPECT_EQ(p.kept_type.empty(), ar::quantizes(s)) << p.pattern;
      EXPECT_EQ(p.scheme.bits, s.bits) << p.pattern;
      EXPECT_EQ(p.scheme.group_size, s.group_size) << p.pattern;
    }
  }
  EXPECT_GE(resolved, 20);
  EXPECT_GE(refused, 5);
}

/// Where this program deviates: names beat patterns, and a rule that matches nothing is an error.
TEST(LayerConfig, ByDefaultNamesBeatPatternsAndEveryRuleMustMatch) {
  const auto all = golden::read_json(data("resolve.json"));
  const std::set<std::string> unmatched = {"ignore_unmatched", "config_unmatched", "config_norm"}, names_first = {"precedence_order", "precedence_order2", "ignore_exact_vs_regex",
                                                                                                                "odd_shapes_user"};
  int same = 0;
  for (const auto& c : all["cases"]) {
    const std::string name = c["name"].get<std::string>();
    if (c.contains("error")) continue;
    SCOPED_TRACE(name);
    const auto& args = c["args"];
    const std::string preset = args["scheme"].get<std::string>(), format = args.value("format", "auto_round");
    const auto whole = plan::resolve_scheme(preset, overrides_of(args), {format});
    ASSERT_TRUE(whole.has_value());
    model m = read_model(all["models"][c["model"].get<std::string>()], *whole);
    const auto got = plan::apply_layer_rules(rules_of(args), *whole, preset, {format}, m.outline, m.layers);
    if (unmatched.contains(name)) {
      ASSERT_FALSE(got.has_value());
      EXPECT_EQ(got.error().kind, error_kind::usage);
      continue;
    }
    ASSERT_TRUE(got.has_value()) << got.error().message;
    if (names_first.contains(name)) continue;
    model reference = read_model(all["models"][c["model"].get<std::string>()], *whole);
    plan::layer_rules rules = rules_of(args);
    rules.order = plan::rule_order::reference;
    ASSERT_TRUE(plan::apply_layer_rules(rules, *whole, preset, {format}, reference.outline, reference.layers).has_value());
    for (std::size_t i = 0; i < m.layers.size(); ++i) {
      EXPECT_EQ(m.layers[i].quantize, reference.layers[i].quantize) << m.layers[i].name;
      EXPECT_EQ(m.layers[i].scheme, reference.layers[i].scheme) << m.layers[i].name;
    }
    ++same;
  }
  EXPECT_GE(same, 15);
}

}  // namespace
