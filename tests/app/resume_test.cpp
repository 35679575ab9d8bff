// links: ar_test_support
// An interrupted tuning run goes on where it was and gives the same bytes, wherever it was killed, whatever happened to its journal.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "support/faults.hpp"
#include "support/tiny_model.hpp"

namespace {

using support::bytes_of;
using support::fault_stride;
using support::files_in;
using support::run;
using support::tiny_model;
namespace fs = std::filesystem;

class Resume : public testing::Test {
 protected:
  Resume() : model_(dir_ / "model"), out_(dir_ / "out"), journal_(dir_ / "out.journal") {
    tiny_model(3).write(model_);
    tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(12));
  }

  std::vector<std::string> arguments(const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> a = {"--model", model_, "--output_dir", out, "--scheme", "W2A16G32", "--iters", "3", "--dataset", dir_ / "calib.jsonl",
                                  "--nsamples", "8", "--seqlen", "16"};
    if (std::find(more.begin(), more.end(), "--enable_opt_rtn") == more.end()) a.push_back("--disable_opt_rtn");
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }
  auto undisturbed(const std::vector<std::string>& more = {}) {
    const auto o = run(arguments(dir_ / "reference", more));
    EXPECT_EQ(o.status, 0) << o.err;
    auto files = files_in(dir_ / "reference");
    fs::remove_all(dir_ / "reference");
    return files;
  }
  support::outcome disturbed(const std::string& fault, const std::vector<std::string>& more = {}) { return support::run_with_fault(arguments(out_, more), fault); }
  long calls(const std::vector<std::string>& more = {}) {
    const long n = support::calls_that_change_the_disk(arguments(dir_ / "counted", more));
    fs::remove_all(dir_ / "counted");
    return n;
  }
  /// A journal that holds all blocks: that of a run that was killed before its end.
  std::string whole_journal(const std::vector<std::string>& more = {}) {
    for (long n = calls(more) - 1; n > 0; --n) {
      disturbed("kill:" + std::to_string(n), more);
      if (fs::exists(journal_) && !fs::exists(out_)) return bytes_of(journal_);
      fs::remove_all(out_);
    }
    ADD_FAILURE() << "no journal was left behind";
    return {};
  }

  support::temp_dir dir_;
  std::string model_, out_, journal_;
};

TEST_F(Resume, KilledAtAnyCallThatChangesTheDisk) {
  long resumed = 0;
  const long calls = support::kill_everywhere({arguments(out_), out_, undisturbed(), {journal_, out_ + ".partial"}}, [] {},
                                              [&](const support::outcome& again) { resumed += again.err.find("going on with an interrupted run") != std::string::npos; });
  EXPECT_GT(calls, 40);
  EXPECT_GT(resumed, 20 / fault_stride());
}

TEST_F(Resume, TheDiskBecomesFullAtAnyCall) { support::fill_the_disk_everywhere({arguments(out_), out_, undisturbed(), {journal_, out_ + ".partial"}}); }

TEST_F(Resume, EveryWayToTune) {
  const std::vector<std::vector<std::string>> ways = {
      {"--tuning", "gram"},
      {"--tuning", "hybrid"},
      {"--tuning", "block"},
      {"--tuning", "block", "--nblocks", "2"},
      {"--tuning", "block", "--enable_alg_ext", "--momentum", "0.5"},
      {"--tuning", "block", "--enable_adam", "--no_enable_quanted_input"},
      {"--enable_norm_bias_tuning", "--format", "fake"},
      {"--scheme", "FP8_STATIC", "--format", "fake"},
      {"--scheme", "NVFP4", "--format", "fake"},
      {"--tuning", "gram", "--algorithm", "quarot,awq,auto_round"},
  };
  for (const auto& way : ways) {
    std::string name;
    for (const std::string& w : way) name += w + " ";
    SCOPED_TRACE(name);
    const auto expected = undisturbed(way);
    const long all = calls(way);
    for (const long n : {all / 2, all - 4}) {
      fs::remove_all(out_);
      const auto killed = disturbed("kill:" + std::to_string(n), way);
      ASSERT_EQ(killed.status, 137) << killed.err;
      const auto again = run(arguments(out_, way));
      ASSERT_EQ(again.status, 0) << again.err;
      EXPECT_TRUE(n < all - 4 || again.err.find("going on with an interrupted run") != std::string::npos) << again.err;
      ASSERT_EQ(files_in(out_), expected) << "killed at call " << n << " of " << all;
    }
  }
}

TEST_F(Resume, APassThatIsDoneIsNotDoneAgain) {
  struct pass {
    std::vector<std::string> options;
    std::string line;        // that each of its units prints
    std::size_t units, each; // in all; of a recorded part
  };
  const std::vector<pass> passes = {
      {{"--iters", "0", "--algorithm", "awq", "--awq_apply_clip"}, "smoothed in", 2, 1},
      {{"--iters", "0", "--algorithm", "awq", "--awq_search_tokens", "32"}, "smoothed in", 2, 1},  // blocks behind are given float activations
      {{"--iters", "1", "--algorithm", "awq,auto_round", "--awq_apply_clip", "--awq_clip_as_init"}, "smoothed in", 2, 1},
      {{"--iters", "0", "--enable_opt_rtn", "--format", "gguf:q4_k_s"}, "importance collected", 2, 2},
      {{"--iters", "0", "--scheme", "FP8_STATIC", "--format", "fake"}, "static scales collected", 2, 2},
      {{"--iters", "0", "--algorithm", "spinquant", "--rotation_iters", "3"}, "rotation: loss", 3, 1},
  };
  for (const pass& p : passes) {
    std::string name;
    for (const std::string& w : p.options) name += w + " ";
    SCOPED_TRACE(name);
    std::vector<std::string> options = p.options;
    options.insert(options.end(), {"--progress", "lines"});
    const auto expected = undisturbed(options);
    // A journal of all parts, cut behind each of them.
    const std::string whole = whole_journal(options);
    std::vector<std::size_t> ends = {8};  // behind the magic, the key and each part
    while (ends.back() < whole.size()) {
      std::uint64_t bytes = 0;
      std::memcpy(&bytes, whole.data() + ends.back(), sizeof bytes);
      ends.push_back(ends.back() + sizeof bytes + static_cast<std::size_t>(bytes));
    }
    ASSERT_EQ(ends.back(), whole.size());
    ASSERT_GE((ends.size() - 2) * p.each, p.units);
    for (std::size_t parts = 0; parts + 1 < ends.size(); ++parts) {
      SCOPED_TRACE(parts);
      fs::remove_all(out_);
      tiny_model::put(journal_, whole.substr(0, ends[parts + 1]));
      const auto again = run(arguments(out_, options));
      ASSERT_EQ(again.status, 0) << again.err;
      ASSERT_EQ(files_in(out_), expected) << again.err;
      std::size_t done = 0;
      for (std::size_t at = again.err.find(p.line); at != std::string::npos; at = again.err.find(p.line, at + 1)) ++done;
      EXPECT_EQ(done, p.units - std::min(p.units, parts * p.each)) << again.err;
    }
    fs::remove_all(out_);
  }
}

/// A pass for importance or for static scales whose state lies beside the output, without a journal yet.
const std::vector<std::pair<std::vector<std::string>, std::string>> passes_in_progress = {
    {{"--iters", "0", "--enable_opt_rtn", "--format", "gguf:q4_k_s", "--progress", "lines"}, "importance collected"},
    {{"--iters", "0", "--scheme", "FP8_STATIC", "--static_kv_dtype", "fp8", "--format", "llm_compressor", "--progress", "lines"}, "static scales collected"},
};

TEST_F(Resume, APassThatWasCutShortGoesOnBehindItsLastBlock) {
  const std::string pass = dir_ / "out.pass";
  for (const auto& [options, line] : passes_in_progress) {
    SCOPED_TRACE(line);
    const auto expected = undisturbed(options);
    for (long n = 1; !fs::exists(pass); ++n) {
      fs::remove_all(out_);
      ASSERT_EQ(disturbed("kill:" + std::to_string(n), options).status, 137);
      ASSERT_FALSE(fs::exists(journal_)) << "no state of the pass was left behind";
    }
    const std::string state = bytes_of(pass);
    const auto again = run(arguments(out_ + "/", options));
    ASSERT_EQ(again.status, 0) << again.err;
    EXPECT_NE(again.err.find("going on with a pass that was cut short: 1 blocks are in " + pass), std::string::npos) << again.err;
    EXPECT_EQ(again.err.find(line), again.err.rfind(line)) << "the first block is known\n" << again.err;
    EXPECT_EQ(files_in(out_), expected);
    EXPECT_FALSE(fs::exists(pass));
    // Another run is not gone on with; --restart begins anew.
    fs::remove_all(out_);
    tiny_model::put(pass, state);
    std::vector<std::string> other = options;
    other.insert(other.end(), {"--seed", "7"});
    const auto refused = run(arguments(out_, other));
    EXPECT_EQ(refused.status, 4) << refused.err;
    EXPECT_NE(refused.err.find("differs from this one in: options"), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find(pass), std::string::npos) << refused.err;
    EXPECT_EQ(bytes_of(pass), state);
    other = options;
    other.push_back("--restart");
    const auto anew = run(arguments(out_, other));
    EXPECT_EQ(anew.status, 0) << anew.err;
    EXPECT_EQ(anew.err.find("going on"), std::string::npos) << anew.err;
    EXPECT_FALSE(fs::exists(pass));
    fs::remove_all(out_);
  }
}

TEST_F(Resume, APassIsKilledAtAnyCallThatChangesTheDisk) {
  long resumed = 0;
  const std::vector<std::string>& options = passes_in_progress.front().first;
  support::kill_everywhere({arguments(out_, options), out_, undisturbed(options), {journal_, out_ + ".partial", out_ + ".pass", out_ + ".pass.new"}}, [] {},
                           [&](const support::outcome& again) { resumed += again.err.find("going on with") != std::string::npos; });
  EXPECT_GT(resumed, 20 / fault_stride());
}

TEST_F(Resume, APassFindsTheDiskFullAtAnyCall) {
  const std::vector<std::string>& options = passes_in_progress.front().first;
  support::fill_the_disk_everywhere({arguments(out_, options), out_, undisturbed(options), {journal_, out_ + ".partial", out_ + ".pass", out_ + ".pass.new"}});
}

TEST_F(Resume, ACutOrDamagedJournalCostsBlocksButNoRightByte) {
  const auto expected = undisturbed();
  const std::string whole = whole_journal();
  ASSERT_FALSE(whole.empty());
  const std::size_t step = std::max<std::size_t>(1, whole.size() / 7);
  std::vector<std::string> damaged;
  for (std::size_t n = 0; n < whole.size(); n += step) {
    damaged.push_back(whole.substr(0, n));
    std::string flipped = whole;
    flipped[n] = static_cast<char>(flipped[n] ^ 16);
    if (n >= 8) damaged.push_back(flipped);
  }
  damaged.push_back(whole + "what a killed run was about to write");
  for (std::size_t i = 0; i < damaged.size(); ++i) {
    SCOPED_TRACE(i);
    fs::remove_all(out_);
    tiny_model::put(journal_, damaged[i]);
    const auto o = run(arguments(out_));
    ASSERT_EQ(o.status, 0) << o.err;
    ASSERT_EQ(files_in(out_), expected);
  }
}

TEST_F(Resume, AnotherRunIsNotGoneOnWith) {
  const auto expected = undisturbed();
  const std::string whole = whole_journal();
  const auto refused = [&](const std::string& reason, const std::vector<std::string>& more) {
    tiny_model::put(journal_, whole);
    const auto o = run(arguments(out_, more));
    EXPECT_EQ(o.status, 4) << o.err;
    EXPECT_NE(o.err.find(reason), std::string::npos) << o.err;
    EXPECT_NE(o.err.find("--restart"), std::string::npos) << o.err;
    EXPECT_EQ(bytes_of(journal_), whole);
    EXPECT_FALSE(fs::exists(out_));
  };
  refused("options", {"--lr", "0.01"});
  refused("schemes of layers", {"--ignore_layers", "q_proj"});
  const auto text = bytes_of(dir_ / "calib.jsonl");
  tiny_model::put(dir_ / "calib.jsonl", tiny_model::calibration(13));
  refused("calibration text", {});
  tiny_model::put(dir_ / "calib.jsonl", text);
  // Where and how a run reports does not matter.
  tiny_model::put(journal_, whole);
  const auto o = run(arguments(out_, {"--threads", "1", "--progress", "lines"}));
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("going on"), std::string::npos) << o.err;
  EXPECT_EQ(files_in(out_), expected);
  // --restart begins anew, but only over a journal.
  fs::remove_all(out_);
  tiny_model::put(journal_, whole);
  const auto anew = run(arguments(out_, {"--lr", "0.01", "--restart"}));
  EXPECT_EQ(anew.status, 0) << anew.err;
  EXPECT_EQ(anew.err.find("going on"), std::string::npos);
  fs::remove_all(out_);
  tiny_model::put(journal_, "my diary");
  EXPECT_EQ(run(arguments(out_, {"--restart"})).status, 4);
  EXPECT_EQ(bytes_of(journal_), "my diary");
  fs::remove(journal_);
  // A changed model.
  tiny_model::put(journal_, whole);
  fs::last_write_time(fs::path(model_) / "model.safetensors", fs::file_time_type::clock::now());
  refused("model files", {});
}

}  // namespace
