// links: ar_plan
// The plan: schemes and formats as users write them, decisions about layers, and sizes before a byte is written.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "export/export_format.hpp"
#include "plan.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace auto_round;

ar::scheme_fields resolved(const std::string& preset, const plan::scheme_overrides& o = {}) {
  const auto s = plan::resolve_scheme(preset, o, {"auto_round"});
  EXPECT_TRUE(s.has_value()) << describe(s.error());
  return s.value_or(ar::scheme_fields{});
}

error_kind refused(const std::string& preset, const plan::scheme_overrides& o = {}) {
  const auto s = plan::resolve_scheme(preset, o, {"auto_round"});
  EXPECT_FALSE(s.has_value()) << preset;
  return s ? error_kind::internal : s.error().kind;
}

TEST(Scheme, PresetsAreFoundInAnyCaseAndCompleted) {
  const ar::scheme_fields s = resolved(" w2a16G32 ");
  EXPECT_EQ(s.bits, 2);
  EXPECT_EQ(s.group_size, 32);
  EXPECT_TRUE(s.sym);
  EXPECT_EQ(s.act_bits, 16);
  EXPECT_EQ(s.act_data_type, "float");
  EXPECT_EQ(s.act_group_size, 32);
}

TEST(Scheme, OverridesReplaceFields) {
  plan::scheme_overrides o;
  o.bits = 3;
  o.group_size = -1;
  o.sym = false;
  const ar::scheme_fields s = resolved("W4A16", o);
  EXPECT_EQ(s.bits, 3);
  EXPECT_EQ(s.group_size, -1);
  EXPECT_FALSE(s.sym);
}

TEST(Scheme, ADataTypeWithAWidthSetsTheBits) {
  plan::scheme_overrides o;
  o.data_type = "int8";
  const ar::scheme_fields s = resolved("W4A16", o);
  EXPECT_EQ(s.bits, 8);
  EXPECT_EQ(s.data_type, "int");
}

TEST(Scheme, WrongOnesAreRefusedWithTheRightKind) {
  EXPECT_EQ(refused("W9A16"), error_kind::usage);
  EXPECT_EQ(refused("MXFP4", {.bits = 3}), error_kind::unsupported);
  EXPECT_EQ(refused("W4A16", {.bits = 0}), error_kind::usage);
  EXPECT_EQ(refused("W4A16", {.bits = 12}), error_kind::unsupported);
  EXPECT_EQ(refused("W4A16", {.group_size = -2}), error_kind::usage);
  EXPECT_EQ(refused("W8A16", {.sym = false}), error_kind::usage);
  EXPECT_EQ(refused("W4A16", {.data_type = "mx_fp5"}), error_kind::unsupported);
  EXPECT_EQ(refused("FP8_BLOCK", {.act_dynamic = false}), error_kind::unsupported);
  EXPECT_NE(plan::resolve_scheme("W4A61", {}, {}).error().message.find("W4A16"), std::string::npos) << "near names are listed";
}

TEST(Formats, AreNormalizedAndChecked) {
  EXPECT_EQ(plan::parse_formats(" Auto_Round, fake,auto_round").value(), (std::vector<std::string>{"auto_round", "fake"}));
  EXPECT_EQ(plan::parse_formats("gguf:Q4_0,fake").value(), (std::vector<std::string>{"gguf:q4_0", "fake"}));
  EXPECT_EQ(plan::parse_formats("gguf:q4_0,auto_round").error().kind, error_kind::usage);
  EXPECT_EQ(plan::parse_formats("gguf:q4_0,gguf:q8_0").error().kind, error_kind::usage);
  EXPECT_EQ(plan::parse_formats("gguf:q*_k_s,fake", 4).value(), (std::vector<std::string>{"gguf:q4_k_s", "fake"}));
  EXPECT_EQ(plan::parse_formats("gguf:q*_k_s").error().kind, error_kind::usage);
  EXPECT_EQ(plan::parse_formats("AUTO_ROUND:auto_gptq , mlx").value(), (std::vector<std::string>{"auto_round:auto_gptq", "mlx"}));
  EXPECT_EQ(plan::parse_formats("auto_round,,mlx").error().kind, error_kind::usage);
  EXPECT_EQ(plan::parse_formats("autoawq").error().kind, error_kind::unsupported);
  EXPECT_EQ(plan::parse_formats("").error().kind, error_kind::usage);
}

TEST(Sizes, AreReadWithBinaryUnits) {
  EXPECT_EQ(plan::parse_bytes("5GB").value(), std::uint64_t{5} << 30);
  EXPECT_EQ(plan::parse_bytes("30 kb").value(), 30u << 10);
  EXPECT_EQ(plan::parse_bytes("1000").value(), 1000u);
  for (const char* bad : {"", "GB", "0", "-1", "5XB", "99999999999999999999", "99999999999GB"}) EXPECT_FALSE(plan::parse_bytes(bad).has_value()) << bad;
}

TEST(Names, AreCompressedAsInTheOriginalsLogs) {
  EXPECT_EQ(plan::compress_names({"m.0.e.0.w", "m.0.e.1.w", "m.1.e.0.w", "m.1.e.1.w"}), (std::vector<std::string>{"m.[0-1].e.[0-1].w"}));
  EXPECT_EQ(plan::compress_names({"l.0.a", "l.2.a", "l.3.a", "x"}), (std::vector<std::string>{"l.[0,2-3].a", "x"}));
  EXPECT_EQ(plan::compress_names({"l.7.a"}), (std::vector<std::string>{"l.7.a"}));
}

class PlanOfAModel : public testing::Test {
 protected:
  void open(const support::tiny_model& m) {
    m.write(dir_.path() / "model");
    auto opened = exporting::open_model(dir_ / "model");
    ASSERT_TRUE(opened.has_value()) << describe(opened.error());
    source_ = std::move(*opened);
  }
  result<plan::run_plan> make(plan::request r) {
    r.how = exporting::method::rtn;
    r.iters = 0;
    return plan::make_plan(r, *source_);
  }
  support::temp_dir dir_;
  std::unique_ptr<exporting::stored_model> source_;
};

TEST_F(PlanOfAModel, SaysWhatHappensToEveryTensorOnce) {
  open(support::tiny_model());
  const auto p = make({.scheme = "W4A16G32"});
  ASSERT_TRUE(p.has_value()) << describe(p.error());
  const exporting::output_plan& out = p->exporters.front()->plan();
  EXPECT_EQ(out.tensors.size(), source_->directory()->tensors().size());
  EXPECT_EQ(out.quantized_layers(), 14u);
  // q_proj: 64 x 64 four-bit codes, 2 groups of 64 half-precision scales and 4-bit zero points.
  for (const auto& t : out.tensors) {
    if (t.name == "model.layers.0.self_attn.q_proj.weight") {
      EXPECT_EQ(t.output_bytes, 64u * 64 / 2 + 2 * 64 * 2 + 2 * 64 / 2);
    }
    if (t.name == "lm_head.weight") {
      EXPECT_EQ(t.what, exporting::action::keep);
    }
  }
  EXPECT_TRUE(p->warnings.empty() || p->warnings.front().find("group size") != std::string::npos);
}

TEST_F(PlanOfAModel, TheShardWiseRouteIsTakenWhereTheOriginalTakesIt) {
  open(support::tiny_model());
  EXPECT_TRUE(make({.scheme = "W4A16G32"})->jobs.front().model_free);
  EXPECT_FALSE(make({.scheme = "W3A16G32"})->jobs.front().model_free) << "3 bits";
  EXPECT_FALSE(make({.scheme = "W4A16G64"})->jobs.front().model_free) << "96 columns, groups of 64";
  EXPECT_FALSE(make({.scheme = "W4A16G32", .way = plan::route::regular})->jobs.front().model_free);
  EXPECT_EQ(make({.scheme = "W3A16G32", .way = plan::route::model_free}).error().kind, error_kind::unsupported);
}

TEST_F(PlanOfAModel, LayersWhoseShapeDoesNotFitStayAndSayWhy) {
  support::tiny_model m;
  m.intermediate = 80;
  m.config["intermediate_size"] = 80;
  for (const char* l : {"0", "1"}) {
    const std::string p = std::string("model.layers.") + l + ".mlp.";
    m.add(p + "gate_proj.weight", 80, 64);
    m.add(p + "up_proj.weight", 80, 64);
    m.add(p + "down_proj.weight", 64, 80);
  }
  open(m);
  const auto p = make({.scheme = "W4A16G32"});
  ASSERT_TRUE(p.has_value()) << describe(p.error());
  EXPECT_EQ(p->exporters.front()->plan().quantized_layers(), 8u);
  for (const auto& t : p->exporters.front()->plan().tensors) {
    if (t.name == "model.layers.1.mlp.up_proj.weight") {
      EXPECT_NE(t.note.find("multiples of 32"), std::string::npos);
    }
  }
}

TEST_F(PlanOfAModel, IgnoredLayersAreKeptAndUnknownOnesRefused) {
  open(support::tiny_model());
  const auto p = make({.scheme = "W4A16G32", .rules = {.ignore_layers = " layers.1 , o_proj"}});
  ASSERT_TRUE(p.has_value()) << describe(p.error());
  EXPECT_EQ(p->exporters.front()->plan().quantized_layers(), 6u);
  EXPECT_EQ(make({.scheme = "W4A16G32", .rules = {.ignore_layers = "down_porj"}}).error().kind, error_kind::usage);
  EXPECT_EQ(make({.scheme = "W4A16G32", .rules = {.ignore_layers = "proj"}}).error().kind, error_kind::usage) << "nothing would be left";
}

TEST_F(PlanOfAModel, SplittingWhatServersFuseIsWarnedAbout) {
  open(support::tiny_model());
  const auto p = make({.scheme = "W4A16G32", .rules = {.ignore_layers = "k_proj"}});
  ASSERT_TRUE(p.has_value());
  ASSERT_FALSE(p->warnings.empty());
  EXPECT_NE(p->warnings.front().find("fuse"), std::string::npos);
}

TEST_F(PlanOfAModel, GgufFormatsPrescribeTypesAndFallBackWhereRowsAreShort) {
  open(support::tiny_model());
  const auto p = make({.formats = {"gguf:q4_k_s"}});
  ASSERT_TRUE(p.has_value()) << describe(p.error());
  std::map<std::string, std::string> types;
  for (const auto& t : p->exporters.front()->plan().tensors) types[t.name] = t.output_type;
  EXPECT_EQ(types["model.layers.0.self_attn.q_proj.weight"], "Q5_0") << "64 columns are no block of 256";
  EXPECT_EQ(types["lm_head.weight"], "Q8_0");
  EXPECT_EQ(types["model.norm.weight"], "F32");
}

TEST_F(PlanOfAModel, RulesNameTypesOfAGgufFileAndWhatGoesByBitsIsSaid) {
  for (const bool tied : {false, true}) {
    open(support::tiny_model(1, tied));
    const auto types = [&](const char* rules, plan::rule_order order = plan::rule_order::exact_first, const char* ignored = "") {
      const auto p = make({.formats = {"gguf:q4_0"}, .rules = {.config = *plan::parse_layer_config(rules), .ignore_layers = ignored, .order = order}});
      EXPECT_TRUE(p.has_value()) << rules << ": " << (p ? "" : describe(p.error()));
      std::map<std::string, std::string> all;
      if (!p) return all;
      for (const auto& t : p->exporters.front()->plan().tensors) all[t.name] = t.output_type;
      for (const std::string& w : p->warnings) all["warnings"] += w + "\n";
      return all;
    };
    const std::string q = "model.layers.1.self_attn.q_proj.weight", down = "model.layers.0.mlp.down_proj.weight", embedding = "model.embed_tokens.weight";
    auto fp4 = types(R"({"q_proj": "NVFP4", "down_proj": {"scheme": "MXFP4"}})");
    EXPECT_EQ(fp4[q], "NVFP4");
    EXPECT_EQ(fp4[down], "MXFP4");
    EXPECT_EQ(fp4["model.layers.0.mlp.up_proj.weight"], "Q4_0");
    EXPECT_EQ(fp4["warnings"], "");
    auto as_original = types(R"({"down_proj": "MXFP4"})", plan::rule_order::reference);
    EXPECT_EQ(as_original[down], "Q4_0");
    EXPECT_NE(as_original["warnings"].find("\"down_proj\""), std::string::npos);
    auto by_bits = types(R"({"down_proj": {"sym": false, "group_size": 16}, "q_proj": {"bits": 8, "group_size": 64}})");
    EXPECT_EQ(by_bits[down], "Q4_0");
    EXPECT_EQ(by_bits[q], "Q8_0");
    for (const char* word : {"\"down_proj\"", "become Q4_0", "\"q_proj\"", "become Q8_0"}) EXPECT_NE(by_bits["warnings"].find(word), std::string::npos) << by_bits["warnings"];
    // What no other format quantizes.
    EXPECT_EQ(types("{}")[embedding], tied ? "Q8_0" : "Q4_0");
    EXPECT_EQ(types(R"({"model.embed_tokens": "GGUF:Q5_1"})")[embedding], "Q5_1");
    EXPECT_EQ(types(R"({"model.embed_tokens": {"bits": 16}})")[embedding], "F16");
    EXPECT_EQ(types(R"({"lm_head": "GGUF:Q5_1"})")[tied ? embedding : "lm_head.weight"], "Q5_1");
    EXPECT_EQ(types("{}", plan::rule_order::exact_first, "model.embed_tokens")[embedding], "F16");
    auto ignored = types("{}", plan::rule_order::exact_first, "lm_head");
    EXPECT_EQ(ignored["warnings"].find("--ignore_layers model.embed_tokens keeps it") != std::string::npos, tied) << ignored["warnings"];
    // Widths that the model's own K type does not have.
    const auto wide = make({.formats = {"gguf:q4_k_m"}, .rules = {.config = *plan::parse_layer_config(R"({"down_proj": {"bits": 8}})")}});
    ASSERT_TRUE(wide.has_value()) << describe(wide.error());
    for (const auto& t : wide->exporters.front()->plan().tensors) {
      if (t.name == down) {
        EXPECT_EQ(t.output_type, "Q8_0");
      }
    }
    const auto short_rows = make({.formats = {"gguf:q4_0"}, .rules = {.config = *plan::parse_layer_config(R"({"down_proj": "NVFP4"})")}});
    ASSERT_FALSE(short_rows.has_value()) << "96 columns, blocks of 64";
    EXPECT_EQ(short_rows.error().kind, error_kind::unsupported);
  }
}

TEST_F(PlanOfAModel, ModulesThatAreKeptAnywayMayBeIgnored) {
  open(support::tiny_model());
  for (const char* ignored : {"norm", "model.norm", "embed_tokens", "model.layers.0.input_layernorm"}) {
    const auto p = make({.scheme = "W4A16G32", .rules = {.ignore_layers = ignored}});
    ASSERT_TRUE(p.has_value()) << ignored << ": " << describe(p.error());
    EXPECT_EQ(p->exporters.front()->plan().quantized_layers(), 14u);
  }
}

TEST_F(PlanOfAModel, ARuleForTheHeadDoesNotPassANoForIt) {
  open(support::tiny_model());
  const auto with = [&](const char* rules, plan::rule_order order = plan::rule_order::exact_first) {
    return make({.scheme = "W4A16G32", .rules = {.config = *plan::parse_layer_config(rules), .keep_lm_head = true, .order = order}});
  };
  const auto named = with("{lm_head: W8A16}");
  ASSERT_FALSE(named.has_value());
  EXPECT_EQ(named.error().kind, error_kind::usage);
  EXPECT_NE(named.error().message.find("--no_quant_lm_head"), std::string::npos);
  for (const auto& matched : {with(R"({".*head": {"bits": 8, "group_size": 32}})"), with("{lm_head: W8A16}", plan::rule_order::reference)}) {
    ASSERT_TRUE(matched.has_value());
    EXPECT_NE(std::ranges::find_if(matched->warnings, [](const std::string& w) { return w.find("--no_quant_lm_head") != std::string::npos; }), matched->warnings.end());
  }
  EXPECT_TRUE(with("{lm_head: {bits: 16}}").has_value());
}

TEST_F(PlanOfAModel, AQuantizedCheckpointIsNoSource) {
  support::tiny_model m;
  m.config["quantization_config"] = {{"quant_method", "auto-round"}, {"packing_format", "auto_round"}, {"bits", 4}, {"group_size", 32}, {"sym", true}};
  open(m);
  EXPECT_EQ(make({}).error().kind, error_kind::unsupported);
}

}  // namespace
