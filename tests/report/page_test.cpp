// links: ar_report ar_io
// report.html: complete in itself, every text from outside escaped, charts only where there is data.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "io/json.hpp"
#include "report/chart.hpp"
#include "report/page.hpp"

namespace {

using namespace auto_round;
using testing::HasSubstr;
using testing::Not;

io::json parsed(const std::string& text) { return *io::parse_json(text, "test"); }

const char* const kRun = R"json({"model": "M", "scheme": "W4A16", "method": "SignRound", "quantized_layers": 2, "weight_bytes_before": 2048, "seconds": 1.5, "cpu_seconds": 3,
  "peak_memory_bytes": 1048576, "formats": [{"format": "auto_round", "path": "OUT", "bytes": 1000, "weight_bytes": 900, "bits_per_weight": 4.5, "bits_per_quantized_weight": 4.2}],
  "kept_layers": ["lm_head (outside)"], "timing": {"tune": 1.0, "write": 0.5, "stages": {"pack": 1}},
  "expert_tokens": [{"block": "model.layers.5", "tokens": [7, 0, 2]}],
  "blocks": [{"block": 0, "first_loss": 1e-3, "best_loss": 4e-4, "best_iteration": 7, "memory_bytes": 5000000}, {"block": 1, "first_loss": 0, "best_loss": 1e-5, "memory_bytes": 6000000}],
  "layers": [{"name": "layers.0.q_proj", "relative_error": 0.08}, {"name": "layers.1.q_proj", "relative_error": 0.09}, {"name": "layers.1.experts.3.up", "relative_error": 0.1}],
  "tensors": [{"name": "layers.0.q_proj.weight", "shape": [16, 32], "from": "F32", "type": "W4 g32 sym", "bytes": 288}],
  "autoscheme": {"avg_bits": 3.5, "loss": 0.2, "options": [{"name": "W4A16", "avg_bits": 4.1, "loss": 0.1}], "frontier": {"points": [{"avg_bits": 3, "loss": 0.5}, {"avg_bits": 4, "loss": 0.1}]}}})json";

TEST(ReportPage, HoldsEveryChartAndNothingFromOutside) {
  const std::string page = report::html_page(parsed(kRun));
  for (const char* part : {"Loss of each block", "Distortion of each tensor", "AutoScheme", "Size by stored type", "Memory while tuning", ">Time<", "4.50", "900 B", "layers.0.q_proj.weight",
                           "W4 g32 sym", "0.0800", "<td>model.layers.5</td><td class=\"n\">3</td><td class=\"n\">1</td><td class=\"n\">0</td><td class=\"n\">3.0</td><td class=\"n\">7</td>", "lm_head (outside)", "experts.*.up", "prefers-color-scheme:dark", "width=device-width"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  for (const char* part : {"<script", "http://", "https://", "url(", "@import", "src=", "nan", "inf"}) EXPECT_THAT(page, Not(HasSubstr(part)));
}

TEST(ReportPage, WithoutDataThereAreNoCharts) {
  const std::string page = report::html_page(parsed(R"({"model": "M", "scheme": "W4A16"})"));
  EXPECT_THAT(page, testing::AllOf(HasSubstr("</html>"), Not(HasSubstr("<svg")), Not(HasSubstr("<figure"))));
  // Other kinds than expected are no data either.
  EXPECT_THAT(report::html_page(parsed(R"({"model": 1, "formats": {}, "blocks": [1, "x", null], "layers": 3, "autoscheme": [], "timing": {"a": "b"}})")), Not(HasSubstr("<svg")));
  EXPECT_THAT(report::html_page(parsed("[]")), HasSubstr("</html>"));
}

TEST(ReportPage, TextsAreEscaped) {
  EXPECT_EQ("&lt;a href=&quot;x&quot;&gt;&amp;&#39;", report::escape_html("<a href=\"x\">&'"));
  EXPECT_EQ("a\xEF\xBF\xBD" "b\xEF\xBF\xBD\xEF\xBF\xBD\xC3\xA9", report::escape_html(std::string("a\0b\x1b\xff\xC3\xA9", 7)));
  const std::string evil = "</title></text><script>alert(1)</script>\\u0007";
  std::string text = kRun;
  for (const char* name : {"\"M\"", "W4A16", "SignRound", "OUT", "auto_round", "lm_head", "q_proj", "experts", "W4 g32 sym", "\"tune"}) {
    for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + evil.size() + 4)) {
      text.insert(at + (name[0] == '"' ? 1 : 0), evil);
    }
  }
  const std::string page = report::html_page(parsed(text));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;"));
  EXPECT_EQ(page.find("</title>"), page.rfind("</title>\n<style>"));  // the page's own, and before any text
  EXPECT_EQ(std::string::npos, page.find('\x07'));
}

TEST(Chart, AxesHaveRoundTicksWithinTheirRange) {
  for (const bool log : {false, true}) {
    for (const std::vector<double>& values : {std::vector<double>{1e-7, 3e-7}, {0.02, 5, 1e4}, {3}, {0, 1e-300, 2}, {NAN, INFINITY, 4}, {}, {5, 5.0000001}}) {
      const report::axis a(values, log, false, 100, 0);
      const auto ticks = a.ticks();
      EXPECT_GE(ticks.size(), log ? 2u : 1u);
      EXPECT_LE(ticks.size(), 12u);
      double last = 101;
      for (const double t : ticks) {
        EXPECT_TRUE(a.has(t));
        EXPECT_LT(a.place(t), last);  // upwards on the page
        EXPECT_GT(a.place(t), -1);
        last = a.place(t);
      }
      for (const double v : values) {
        if (a.has(v)) {
          EXPECT_TRUE(a.place(v) >= 0 && a.place(v) <= 100) << v;
        }
      }
    }
  }
  EXPECT_FALSE(report::axis({1, 2}, true, false, 0, 1).has(0));
  EXPECT_FALSE(report::axis({1, 2}, false, false, 0, 1).has(NAN));
}

TEST(Chart, WithoutAPointThereIsNone) {
  EXPECT_EQ("", report::svg_of({"t", "x", "y", true, false, {{"s", {{1, 0, ""}, {2, NAN, ""}, {INFINITY, 1, ""}}}}}));
  EXPECT_EQ("", report::svg_bar("t", {{"a", 0, ""}, {"b", -1, ""}, {"c", NAN, ""}}));
  EXPECT_NE("", report::svg_bar("t", {{"a", 1e-300, ""}}));
}

}  // namespace
