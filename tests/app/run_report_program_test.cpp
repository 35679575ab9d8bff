// links: nlohmann_json::nlohmann_json
// quantize --report DIR: both files of a real run, and that nothing is replaced.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "support/golden_json.hpp"
#include "support/program.hpp"

namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(RunReport, HoldsLossesAndDistortionsOfARun) {
  const support::temp_dir dir;
  const std::string model = std::string(AR_SOURCE_DIR) + "/examples/data/tiny-stories";
  const auto quantize = [&](const std::string& out, std::vector<std::string> more) {
    std::vector<std::string> a = {"--model", model, "--output_dir", dir / out, "--report", dir / "report", "--quiet"};
    a.insert(a.end(), more.begin(), more.end());
    return support::run(a);
  };
  const auto o = quantize("out", {"--dataset", model + "/calib.jsonl", "--nsamples", "8", "--seqlen", "64", "--iters", "3", "--descent_sweeps", "0"});
  ASSERT_EQ(0, o.status) << o.err;
  const auto report = golden::read_json(dir / "report/report.json");
  ASSERT_EQ(4u, report["blocks"].size());
  for (const auto& b : report["blocks"]) EXPECT_GE(b["first_loss"].get<double>(), b["best_loss"].get<double>());
  ASSERT_EQ(28u, report["layers"].size());
  for (const auto& l : report["layers"]) {
    // A uniform grid of 16 steps over +-3 standard deviations is off by some tenth of the weight's size (sweeps may go further).
    EXPECT_GT(l["relative_error"].get<double>(), 0.02) << l["name"];
    EXPECT_LT(l["relative_error"].get<double>(), 0.3) << l["name"];
  }
  EXPECT_GT(report["tensors"].size(), report["layers"].size());
  const std::string page = golden::read_bytes(dir / "report/report.html");
  EXPECT_THAT(page, testing::AllOf(HasSubstr("Loss of each block"), HasSubstr("Distortion of each tensor"), HasSubstr("</html>")));

  const auto again = quantize("other", {"--iters", "0"});
  EXPECT_EQ(4, again.status);
  EXPECT_THAT(again.err, HasSubstr("report.json"));
  EXPECT_FALSE(fs::exists(dir / "other"));
}

}  // namespace
