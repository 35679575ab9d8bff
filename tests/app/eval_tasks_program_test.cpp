// links: nlohmann_json::nlohmann_json
// Tasks from the command line: the small model of the golden data answers the golden documents; what is missing is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/golden_json.hpp"
#include "support/program.hpp"

namespace {

namespace fs = std::filesystem;
using support::run;
using testing::HasSubstr;

class EvalTasks : public testing::Test {
 protected:
  EvalTasks() {
    fs::create_directory(documents_);
    for (const auto& entry : fs::directory_iterator(topic_ / "docs")) fs::copy(entry.path(), fs::path(documents_) / entry.path().filename());
  }
  support::outcome eval(const std::vector<std::string>& more) const {
    std::vector<std::string> a = {"eval", "--model", (topic_ / "tiny").string(), "--tokenizer", (golden::root() / "calibration" / "tok_plain").string()};
    a.insert(a.end(), more.begin(), more.end());
    return run(a);
  }
  support::outcome eval_here(std::vector<std::string> more) const {
    more.insert(more.end(), {"--task_dir", documents_});
    return eval(more);
  }

  support::temp_dir dir_;
  std::string documents_ = dir_ / "docs";
  fs::path topic_ = golden::root() / "evaluation";
};

TEST_F(EvalTasks, TableAndJson) {
  const std::string names = "piqa,lambada_openai,mmlu_anatomy,mmlu_marketing";
  const auto table = eval_here({"--tasks", names});
  ASSERT_EQ(0, table.status) << table.err;
  EXPECT_THAT(table.out, HasSubstr("|Tasks"));
  EXPECT_THAT(table.out, HasSubstr("|piqa"));
  EXPECT_THAT(table.out, HasSubstr("|  - anatomy"));
  EXPECT_THAT(table.out, HasSubstr("over lambada_openai, piqa, mmlu"));
  const auto out = eval_here({"--tasks", names, "--json"});
  ASSERT_EQ(0, out.status) << out.err;
  const auto got = golden::parse_json(out.out), want = golden::read_json(topic_ / "tiny_plain_results.json");
  for (const char* task : {"piqa", "mmlu_anatomy", "mmlu_marketing"}) {
    EXPECT_EQ(want[task]["acc,none"].get<double>(), got["results"][task]["acc,none"].get<double>()) << task;
  }
  EXPECT_EQ(12, got["groups"]["mmlu"]["sample_len"].get<int>());
  EXPECT_FALSE(got["config"]["add_bos_token"].get<bool>());
  EXPECT_EQ(160, got["config"]["max_length"].get<int>());
  EXPECT_EQ(64u, got["files_sha256"]["piqa.jsonl"].get<std::string>().size());
}

TEST_F(EvalTasks, AModelAgainstItselfDiffersNowhere) {
  const auto out = eval_here({"--tasks", "boolq,arc_easy", "--limit", "5", "--ref", (topic_ / "tiny").string(), "--json"});
  ASSERT_EQ(0, out.status) << out.err;
  const auto got = golden::parse_json(out.out);
  EXPECT_EQ(3u, got["differences"].size());
  for (const auto& d : got["differences"]) {
    EXPECT_EQ(0, d["changed"].get<int>());
    EXPECT_EQ(5, d["documents"].get<int>());
  }
}

TEST_F(EvalTasks, WhatIsMissingIsNamed) {
  const auto no_folder = eval({"--tasks", "piqa"});
  EXPECT_EQ(2, no_folder.status);
  EXPECT_THAT(no_folder.err, testing::AllOf(HasSubstr("--task_dir"), HasSubstr("piqa.jsonl")));
  const auto no_pool = eval_here({"--tasks", "piqa,winogrande", "--num_fewshot", "2"});
  EXPECT_EQ(3, no_pool.status);
  EXPECT_THAT(no_pool.err, testing::AllOf(HasSubstr("winogrande.train.jsonl"), HasSubstr("piqa.train.jsonl"), HasSubstr(documents_)));
  const auto whole_group = eval_here({"--tasks", "mmlu"});
  EXPECT_EQ(3, whole_group.status);
  EXPECT_THAT(whole_group.err, testing::AllOf(HasSubstr("mmlu_astronomy.jsonl"), HasSubstr("question, choices, answer")));
  EXPECT_EQ(2, eval_here({"--tasks", "hellaswog"}).status);
  EXPECT_EQ(2, eval_here({"--tasks", "piqa", "--limit", "0"}).status);
  EXPECT_EQ(2, eval({}).status);
}

TEST_F(EvalTasks, BehindAQuantizationTheOutputOfTheLastFormatAnswers) {
  const std::string model = dir_ / "model", out = dir_ / "out";
  fs::copy(topic_ / "tiny", model);
  for (const auto& entry : fs::directory_iterator(golden::root() / "calibration" / "tok_plain")) fs::copy(entry.path(), fs::path(model) / entry.path().filename());
  const std::vector<std::string> quantize = {"quantize", model, "--scheme", "W4A16", "--group_size", "32", "--iters", "0", "--format", "auto_round,fake", "--output_dir", out};
  auto with = quantize;
  with.insert(with.end(), {"--tasks", "piqa", "--task_dir", dir_ / "nowhere"});
  const auto missing = run(with);
  EXPECT_EQ(3, missing.status);
  EXPECT_THAT(missing.err, HasSubstr("piqa.jsonl"));
  EXPECT_FALSE(fs::exists(out)) << "told before any work";
  with = quantize;
  with.insert(with.end(), {"--tasks", "piqa", "--task_dir", documents_, "--json"});
  const auto got = run(with);
  ASSERT_EQ(0, got.status) << got.err;
  const auto facts = golden::parse_json(got.out);
  const auto alone = run({"eval", "--model", facts["formats"][1]["path"].get<std::string>(), "--tasks", "piqa", "--task_dir", documents_, "--json"});
  ASSERT_EQ(0, alone.status) << alone.err;
  EXPECT_EQ(golden::parse_json(alone.out)["results"], facts["evaluation"]["results"]);
}

// Thirteen by eval, eleven behind a quantization; with the subjects of mmlu that makes 69 and 67 files, of which four are named.
TEST_F(EvalTasks, WithoutNamesAreThoseOfTheOriginal) {
  fs::create_directory(dir_ / "empty");
  const auto asked = eval({"--tasks", "--task_dir", dir_ / "empty"});
  EXPECT_EQ(asked.status, 3);
  EXPECT_THAT(asked.err, HasSubstr("and 65 more into"));
  const auto behind = run({"quantize", "--model", (topic_ / "tiny").string(), "--iters", "0", "--output_dir", dir_ / "out", "--tasks", "--task_dir", dir_ / "empty"});
  EXPECT_EQ(behind.status, 3);
  EXPECT_THAT(behind.err, HasSubstr("and 63 more into"));
}

TEST_F(EvalTasks, AreListed) {
  const auto out = run({"list", "tasks"});
  ASSERT_EQ(0, out.status) << out.err;
  EXPECT_THAT(out.out, testing::AllOf(HasSubstr("lambada_openai"), HasSubstr("mmlu_world_religions"), HasSubstr("piqa.train.jsonl"), HasSubstr("goal, sol1, sol2, label")));
}

}  // namespace
