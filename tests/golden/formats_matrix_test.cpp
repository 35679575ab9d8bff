// links: ar_plan
// Which scheme may be written to which format (golden/formats/matrix.json, auto-round 0.16.1's own resolver), for the formats of packed integers and floats. Texts
// are ours. Where the original accepts what it then fails on, or cannot load, or refuses what it advertises, this program does the right thing: listed here.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "export/export_auto_round_config.hpp"
#include "plan.hpp"
#include "support/golden_json.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

const std::vector<std::string> formats = {"auto_round", "auto_round:auto_gptq", "auto_round:gptqmodel", "auto_round:auto_awq", "auto_gptq", "auto_awq", "mlx", "auto_round:mlx"};

/// "W4A16 {"sym": false}" as a request.
plan::request request_of(const std::string& variant, const std::string& format) {
  plan::request r;
  const std::size_t blank = variant.find(' ');
  r.scheme = variant.substr(0, blank);
  r.formats = {format};
  r.how = exporting::method::rtn;
  r.iters = 0;
  r.way = plan::route::regular;
  if (blank == std::string::npos) return r;
  const ordered_json overrides = golden::parse_json(variant.substr(blank));
  for (const auto& [key, value] : overrides.items()) {
    if (key == "sym") r.overrides.sym = value.get<bool>();
    if (key == "group_size") r.overrides.group_size = value.get<std::int64_t>();
    if (key == "act_bits") r.overrides.act_bits = value.get<std::int64_t>();
    if (key == "act_data_type") r.overrides.act_data_type = value.get<std::string>();
    if (key == "act_dynamic") r.overrides.act_dynamic = value.get<bool>();
  }
  return r;
}

/// What the original writes: a packing, "fake", or "" for a refusal. Exports that fail later count as refused.
std::string expected(const ordered_json& cell) {
  if (!cell.at("resolves").get<bool>() || cell.contains("export_error")) return {};
  return cell.at("resolved").at(0).get<std::string>();
}

/// Deviations, with their reason.
std::string ours_instead(const std::string& variant, const std::string& format, const std::string& theirs) {
  // Advertised for auto_round, but refused by a check that was made for GPTQ: its loader reads them.
  if (format == "auto_round" && (variant == "W5A16" || variant == "W6A16" || variant == "W7A16")) return "auto_round:auto_gptq";
  return theirs;
}

std::string written(const plan::run_plan& p) {
  const exporting::job& job = p.jobs.front();
  if (job.format == "auto_round:mlx") return "mlx";
  return job.format.starts_with("auto_round") ? exporting::packing_format(job) : job.format;
}

TEST(FormatsMatrix, EverySchemeIsPackedFallsBackOrIsRefusedAsItShould) {
  const auto source = exporting::open_model((golden::root() / "formats" / "models" / "llama128c").string());
  ASSERT_TRUE(source.has_value());
  const ordered_json matrix = golden::read_json(golden::root() / "formats" / "matrix.json");
  std::set<std::string> outcomes;
  for (const auto& [variant, row] : matrix.items()) {
    if (variant == "W4A16_MIXED") continue;  // a recipe over layers, not a scheme of its own
    for (const std::string& format : formats) {
      // Floating types in auto_round's own packings are checked with those.
      const bool integers = variant[0] == 'W' || variant.starts_with("INT") || variant == "MXINT4";
      if (!row.contains(format) || (format == "auto_round" && (!integers || variant == "MXINT4"))) continue;
      const std::string wanted = ours_instead(variant, format, expected(row.at(format)));
      const auto made = plan::make_plan(request_of(variant, format), **source);
      const std::string where = variant + " to " + format;
      ASSERT_EQ(made.has_value(), !wanted.empty()) << where << ": " << (made ? written(*made) : describe(made.error()));
      outcomes.insert(wanted);
      if (!made) {
        EXPECT_TRUE(made.error().kind == error_kind::unsupported || made.error().kind == error_kind::usage) << where;
        continue;
      }
      EXPECT_EQ(written(*made), wanted) << where;
      if (row.at(format).contains("warnings") || wanted == "fake") {
        EXPECT_FALSE(made->warnings.empty()) << where;
      }
    }
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"", "auto_awq", "auto_gptq", "auto_round", "auto_round:auto_awq", "auto_round:auto_gptq", "auto_round:gptqmodel", "fake", "mlx"}));
}

/// What the original's resolved names mean for floating layouts.
std::string floating(const std::string& format, const std::string& resolved) {
  if (format.find("llm_compressor") != std::string::npos || format.find("fp8") != std::string::npos) return resolved.empty() ? resolved : format;
  if (resolved == "auto_round:mx_fp" || resolved == "auto_round:nv_fp") return "auto_round:llm_compressor";
  if (resolved == "auto_round:nvfp4_v2") return "auto_round:llm_compressor_nvfp4_e5m3";
  if (resolved == "auto_round:mx_int") return "auto_round";
  if (resolved == "auto_round:fp8") return "";  // its configuration has no packing_format
  return resolved == "auto_round:auto_round:fp8" ? "auto_round:fp8" : resolved;
}

TEST(FormatsMatrix, FloatingLayoutsAndCompressedTensorsHoldWhatTheyShould) {
  const auto source = exporting::open_model((golden::root() / "formats" / "models" / "llama128c").string());
  ASSERT_TRUE(source.has_value());
  const ordered_json matrix = golden::read_json(golden::root() / "formats" / "matrix.json");
  std::size_t packed = 0, refused = 0;
  for (const auto& [variant, row] : matrix.items()) {
    for (const std::string format : {"llm_compressor", "auto_round:llm_compressor", "fp8", "auto_round:fp8", "auto_round"}) {
      const bool floats = variant[0] != 'W' && !variant.starts_with("INT");
      if (!row.contains(format) || (format == "auto_round" && !floats) || variant == "W4A16_MIXED") continue;
      const ordered_json& cell = row.at(format);
      // Nothing would be quantized, and their own loader refuses what is written.
      const bool wanted = cell.at("resolves").get<bool>() && !cell.contains("export_error") && variant != "BF16";
      const auto made = plan::make_plan(request_of(variant, format), **source);
      const std::string where = variant + " to " + format;
      ASSERT_EQ(made.has_value(), wanted) << where << ": " << (made ? written(*made) : describe(made.error()));
      if (!made) {
        EXPECT_TRUE(made.error().kind == error_kind::unsupported || made.error().kind == error_kind::usage) << where;
        ++refused;
        continue;
      }
      ++packed;
      EXPECT_EQ(written(*made), floating(format, cell.at("resolved").at(0).get<std::string>())) << where;
    }
  }
  EXPECT_GT(packed, 60u);
  EXPECT_GT(refused, 60u);
}

TEST(FormatsMatrix, ARefusalSaysWhatTheFormatHoldsAndWhoHoldsTheScheme) {
  const auto source = exporting::open_model((golden::root() / "formats" / "models" / "llama128c").string());
  ASSERT_TRUE(source.has_value());
  const auto made = plan::make_plan(request_of("W8A16", "auto_awq"), **source);
  ASSERT_FALSE(made.has_value());
  for (const char* part : {"auto_awq", "4 bits", "not 8", "auto_gptq", "mlx"}) EXPECT_NE(made.error().message.find(part), std::string::npos) << made.error().message;
}

}  // namespace
