// links: ar_evaluation ar_arch ar_model OpenMP::OpenMP_CXX
// What lm-eval 0.4.13 asks a model for documents of every task and what it makes of the answers: requests, few-shot contexts, token ids, windows and metrics
// exactly; log-likelihoods of a small random LLaMA model (float32, transformers) within 1e-3 relative, the same greedy flag unless two tokens are nearly equal.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>

#include "arch/architecture.hpp"
#include "evaluation/evaluate.hpp"
#include "io/checkpoint_dir.hpp"
#include "model/decoder.hpp"
#include "support/float_source.hpp"
#include "support/golden_json.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;
using namespace auto_round::evaluation;
using rows = std::vector<nlohmann::ordered_json>;

fs::path topic() { return golden::root() / "evaluation"; }

rows read_lines(const fs::path& path) {
  std::istringstream lines(golden::read_bytes(path));
  rows out;
  for (std::string line; std::getline(lines, line);) out.push_back(golden::parse_json(line));
  return out;
}

std::vector<document> documents_of(const std::string& name) {
  auto d = read_documents((topic() / "docs" / (name + ".jsonl")).string());
  EXPECT_TRUE(d) << describe(d.error());
  return d ? std::move(*d) : std::vector<document>{};
}

const task* find_task(const std::string& name) {
  const auto found = find_tasks(name);
  return found && found->size() == 1 ? found->front() : nullptr;
}

// Every task that has documents, asked without examples, in the order of the recorded requests.
std::vector<asked_task> all_asked(const rows& recorded) {
  std::vector<asked_task> out;
  for (const auto& r : recorded) {
    const auto name = r["task"].get<std::string>();
    if (!out.empty() && out.back().what->name == name) continue;
    const task* const t = find_task(name);
    if (t == nullptr) {
      ADD_FAILURE() << "no task " << name;
      continue;
    }
    auto asked = ask(*t, documents_of(name), {}, 0, 0);
    EXPECT_TRUE(asked) << describe(asked.error());
    if (asked) out.push_back(std::move(*asked));
  }
  return out;
}

TEST(GoldenEvaluation, RequestsOfEveryTask) {
  const rows recorded = read_lines(topic() / "fake_requests.jsonl");
  ASSERT_FALSE(recorded.empty());
  std::size_t at = 0, files = 0;
  const auto asked = all_asked(recorded);
  for (const asked_task& t : asked) {
    std::size_t doc = 0, idx = 0;
    for (const request& r : t.requests) {
      ASSERT_LT(at, recorded.size());
      const auto& want = recorded[at++];
      EXPECT_EQ(want["task"], t.what->name);
      EXPECT_EQ(want["doc"], doc);
      EXPECT_EQ(want["idx"], idx);
      EXPECT_EQ(want["context"].is_null() ? "" : want["context"].get<std::string>(), r.context) << t.what->name << " document " << doc;
      EXPECT_EQ(want["continuation"].get<std::string>(), r.continuation) << t.what->name << " document " << doc;
      if (++idx == t.questions[doc].requests()) ++doc, idx = 0;
    }
  }
  EXPECT_EQ(at, recorded.size());
  for (const auto& entry : fs::directory_iterator(topic() / "docs")) files += entry.is_regular_file();
  EXPECT_EQ(files, asked.size());
}

TEST(GoldenEvaluation, MetricsOfRecordedAnswers) {
  const rows recorded = read_lines(topic() / "fake_requests.jsonl");
  const auto results = golden::read_json(topic() / "fake_results.json"), errors = golden::read_json(topic() / "fake_stderr.json");
  const auto by_document = golden::read_json(topic() / "fake_per_doc.json");
  std::size_t at = 0;
  std::vector<task_scores> all;
  for (const asked_task& t : all_asked(recorded)) {
    std::vector<model::likelihood> answers;
    for (std::size_t i = 0; i < t.requests.size(); ++i, ++at) {
      answers.push_back({recorded[at]["ll"].get<double>(), recorded[at]["greedy"].is_boolean() && recorded[at]["greedy"].get<bool>()});
    }
    all.push_back(score(t, answers));
    const task_scores& s = all.back();
    const std::string& name = t.what->name;
    const auto& want = results["results"][name];
    EXPECT_EQ(want["sample_len"], s.documents) << name;
    EXPECT_EQ(results["versions"][name].get<double>(), std::stod(std::string(t.what->version))) << name;
    EXPECT_EQ(want.size(), 1 + 2 * s.metrics.size()) << name;  // each value and its error
    for (std::size_t m = 0; m < s.metrics.size(); ++m) {
      const metric& got = s.metrics[m];
      const auto value = want[got.name + ",none"].get<double>();
      EXPECT_NEAR(value, got.value, 1e-12 * std::fabs(value)) << name << " " << got.name;
      if (got.standard_error) {
        EXPECT_NEAR(errors[name][got.name + "_stderr,none"].get<double>(), *got.standard_error, 1e-12) << name << " " << got.name;
      } else {
        EXPECT_FALSE(errors[name].contains(got.name + "_stderr,none")) << name << " " << got.name;
      }
      ASSERT_EQ(by_document[name].size(), s.by_document[m].size());
      for (std::size_t d = 0; d < s.by_document[m].size(); ++d) {
        const auto& one = by_document[name][d][got.name];
        const double expected = one.is_array() ? one[0].get<double>() : one.get<double>();
        EXPECT_NEAR(expected, s.by_document[m][d], 1e-12 * std::max(1.0, std::fabs(expected))) << name << " " << got.name << " document " << d;
        if (one.is_array()) {
          const question& q = t.questions[d];
          EXPECT_EQ(one[1].get<std::size_t>(), got.name == "word_perplexity" ? q.words : q.bytes) << name << " document " << d;
        }
      }
    }
  }
  ASSERT_EQ(at, recorded.size());
  // A group's accuracy is that of its documents taken together.
  std::vector<double> pooled;
  for (const task_scores& s : all) {
    if (!s.what->group.empty()) pooled.insert(pooled.end(), s.by_document[0].begin(), s.by_document[0].end());
  }
  const auto groups = score_groups(all);
  ASSERT_FALSE(groups.empty());
  EXPECT_EQ("mmlu", groups[0].what->name);
  double right = 0;
  for (const double x : pooled) right += x;
  EXPECT_NEAR(right / static_cast<double>(pooled.size()), groups[0].acc.value, 1e-12);
  EXPECT_EQ(static_cast<std::int64_t>(pooled.size()), groups[0].documents);
}

TEST(GoldenEvaluation, FewShotContexts) {
  const rows recorded = read_lines(topic() / "fewshot_requests.jsonl");
  ASSERT_FALSE(recorded.empty());
  std::map<std::string, asked_task> asked;
  std::map<std::string, std::size_t> at;
  for (const auto& want : recorded) {
    const auto name = want["task"].get<std::string>();
    if (!asked.contains(name)) {
      const task* const t = find_task(name);
      ASSERT_NE(nullptr, t) << name;
      auto made = ask(*t, documents_of(name), documents_of(name), 2, 3);
      ASSERT_TRUE(made) << describe(made.error());
      EXPECT_EQ(3u, made->questions.size());
      asked.emplace(name, std::move(*made));
    }
    const request& got = asked.at(name).requests.at(at[name]++);
    EXPECT_EQ(want["context"].get<std::string>(), got.context) << name;
    EXPECT_EQ(want["continuation"].get<std::string>(), got.continuation) << name;
  }
  for (const auto& [name, t] : asked) EXPECT_EQ(at[name], t.requests.size()) << name;
}

struct tiny_model {
  result<io::checkpoint_dir> dir = io::checkpoint_dir::open((topic() / "tiny").string());
  result<model::model_spec> spec = dir ? arch::read_spec(dir->config(), "config.json") : fail(error_kind::input, "no model");
};

TEST(GoldenEvaluation, TokensWindowsAndLikelihoodsOfTheTinyModel) {
  const tiny_model tiny;
  ASSERT_TRUE(tiny.dir && tiny.spec);
  const support::float_source source(*tiny.dir, *tiny.spec);
  const auto longest = static_cast<std::size_t>(tiny.spec->max_position_embeddings);
  const auto asked = all_asked(read_lines(topic() / "fake_requests.jsonl"));
  for (const bool bos : {false, true}) {
    const std::string kind = bos ? "bos" : "plain";
    const auto tok = text::tokenizer::open((golden::root() / "calibration" / ("tok_" + kind)).string());
    ASSERT_TRUE(tok) << describe(tok.error());
    const encoder encode(*tok, bos);
    std::vector<token_request> tokens;
    std::vector<std::string> continuations;  // of each; empty for a window
    for (const bool rolling : {false, true}) {  // the recorded list has the windows of texts last
      for (const asked_task& t : asked) {
        if ((t.what->score == scoring::rolling) != rolling) continue;
        for (const request& r : t.requests) {
          result<std::vector<token_request>> made;
          if (rolling) {
            made = encode.rolling(r.continuation, longest);
          } else if (auto pair = encode.pair(r)) {
            made->push_back(std::move(*pair));
          } else {
            made = forward_error(pair);
          }
          ASSERT_TRUE(made) << describe(made.error());
          tokens.insert(tokens.end(), made->begin(), made->end());
          continuations.insert(continuations.end(), made->size(), rolling ? "" : r.context + "\n" + r.continuation);
        }
      }
    }
    // The repository holds a part of the recorded lines; their order is that of the requests.
    const rows recorded = read_lines(topic() / ("tiny_" + kind + "_requests.jsonl"));
    ASSERT_FALSE(recorded.empty());
    std::vector<model::likelihood_request> requests;
    std::size_t at = 0;
    for (const auto& line : recorded) {
      const auto& text = line["request"];
      const std::string wanted = text.is_null() ? "" : text[0].get<std::string>() + "\n" + text[1].get<std::string>();
      const auto context = line["ctx_ids"].get<std::vector<std::int32_t>>(), continuation = line["cont_ids"].get<std::vector<std::int32_t>>();
      while (at < tokens.size() && (continuations[at] != wanted || (text.is_null() && tokens[at].continuation != continuation))) ++at;
      ASSERT_LT(at, tokens.size()) << kind << ": no such request: " << line.dump().substr(0, 200);
      ASSERT_EQ(context, tokens[at].context) << kind << " request " << at;
      ASSERT_EQ(continuation, tokens[at].continuation) << kind << " request " << at;
      model::likelihood_request r{context, continuation.size()};
      r.ids.insert(r.ids.end(), continuation.begin(), continuation.end());
      if (r.ids.size() > longest + 1) r.ids.erase(r.ids.begin(), r.ids.end() - static_cast<std::ptrdiff_t>(longest + 1));
      requests.push_back(std::move(r));
      ++at;
    }
    const auto got = model::log_likelihoods(source, requests);
    ASSERT_TRUE(got) << describe(got.error());
    const auto in_small_passes = model::log_likelihoods(source, requests, 400);
    ASSERT_TRUE(in_small_passes) << describe(in_small_passes.error());
    std::size_t other_greedy = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const auto want = recorded[i]["ll"].get<double>();
      EXPECT_NEAR(want, (*got)[i].sum, 1e-3 * std::fabs(want)) << kind << " line " << i;
      if (recorded[i]["greedy"].is_boolean()) other_greedy += recorded[i]["greedy"].get<bool>() != (*got)[i].greedy;
      // Another batch, other shapes of products: float rounding of logits near 5, some 100 tokens.
      EXPECT_NEAR((*got)[i].sum, (*in_small_passes)[i].sum, 1e-4) << kind << " line " << i;
    }
    EXPECT_EQ(0u, other_greedy) << kind;  // no two tokens of this model are nearly equal where it matters

    const auto scores = answer(source, *tok, asked, {.add_bos = bos, .longest = longest, .on_block = {}});
    ASSERT_TRUE(scores) << describe(scores.error());
    const auto want = golden::read_json(topic() / ("tiny_" + kind + "_results.json"));
    for (const task_scores& s : *scores) {
      for (const metric& m : s.metrics) {
        const auto value = want[s.what->name][m.name + ",none"].get<double>();
        // Accuracies count documents; a perplexity's exponent is within 1e-3 of some 40 nats a word.
        const bool counted = m.higher_is_better && s.what->score != scoring::mass;
        EXPECT_NEAR(value, m.value, counted ? 1e-12 : 1e-2 * value) << kind << " " << s.what->name << " " << m.name;
      }
    }
  }
}

}  // namespace
