// links: ar_arch ar_model OpenMP::OpenMP_CXX
// Log-likelihoods that lm-eval got from a small random LLaMA model (float32, transformers) and ours on the same token ids: within 1e-3 relative,
// the same greedy flag unless two tokens are nearly equal.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "arch/architecture.hpp"
#include "io/checkpoint_dir.hpp"
#include "model/decoder.hpp"
#include "support/golden_json.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;

TEST(GoldenEvaluation, LogLikelihoodsOfTheTinyModel) {
  const fs::path topic = golden::root() / "evaluation";
  const auto dir = io::checkpoint_dir::open((topic / "tiny").string());
  ASSERT_TRUE(dir) << describe(dir.error());
  const auto spec = arch::read_spec(dir->config(), "config.json");
  ASSERT_TRUE(spec) << describe(spec.error());
  const model::float_source source(*dir, *spec);
  const auto vocab = static_cast<std::size_t>(spec->vocab_size);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(topic)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("tiny_", 0) != 0 || name.find("_requests.jsonl") == std::string::npos) continue;
    ++files;
    std::istringstream lines(golden::read_bytes(entry.path()));
    std::size_t count = 0;
    for (std::string line; std::getline(lines, line); ++count) {
      const auto request = golden::parse_json(line);
      auto ids = request["ctx_ids"].get<std::vector<std::int32_t>>();
      const auto continuation = request["cont_ids"].get<std::vector<std::int32_t>>();
      ids.insert(ids.end(), continuation.begin(), continuation.end());
      const auto longest = static_cast<std::size_t>(spec->max_position_embeddings) + 1;
      if (ids.size() > longest) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(longest));
      ids.pop_back();
      const auto logits = model::logits(source, ids);
      ASSERT_TRUE(logits) << describe(logits.error());
      double sum = 0, margin = 1e9;
      bool greedy = true;
      for (std::size_t i = 0; i < continuation.size(); ++i) {
        const float* const row = logits->data() + (ids.size() - continuation.size() + i) * vocab;
        const auto target = static_cast<std::size_t>(continuation[i]);
        double total = 0;
        float other = -1e30f;
        for (std::size_t v = 0; v < vocab; ++v) {
          total += std::exp(static_cast<double>(row[v]));
          if (v != target) other = std::max(other, row[v]);
        }
        sum += static_cast<double>(row[target]) - std::log(total);
        greedy = greedy && row[target] > other;
        margin = std::min(margin, std::fabs(static_cast<double>(row[target] - other)));
      }
      const auto want = request["ll"].get<double>();
      EXPECT_NEAR(sum, want, 1e-3 * std::fabs(want)) << name << " line " << count;
      if (margin > 1e-4) {
        EXPECT_EQ(greedy, request["greedy"].get<bool>()) << name << " line " << count;
      }
    }
    EXPECT_GT(count, 0u) << name;
  }
  EXPECT_GT(files, 0u) << "no tiny_*_requests.jsonl in " << topic;
}

}  // namespace
