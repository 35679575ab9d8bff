// links: ar_evaluation ar_model ar_io OpenMP::OpenMP_CXX
// What the recorded documents of lm-eval do not show: single rules of its task files, few-shot draws, what is refused and how.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "evaluation/requests.hpp"
#include "evaluation/scores.hpp"
#include "evaluation/wikitext.hpp"

namespace {

using namespace auto_round;
using namespace auto_round::evaluation;
using testing::HasSubstr;

document line(const std::string& json) { return {*io::parse_json(json, "line"), "file, line 1"}; }

const task& named(const std::string& name) { return *find_tasks(name)->front(); }

result<asked_task> ask_one(const std::string& name, const std::string& json) { return ask(named(name), {line(json)}, {}, 0, 0); }

TEST(Tasks, NamesGroupsAndDefault) {
  EXPECT_EQ(57u, find_tasks("mmlu")->size());
  EXPECT_EQ(19u, find_tasks("mmlu_stem")->size());
  EXPECT_EQ(13u, find_tasks("mmlu_other")->size());
  EXPECT_EQ(12u, find_tasks("mmlu_social_sciences")->size());
  EXPECT_EQ(13u, find_tasks("mmlu_humanities")->size());
  EXPECT_EQ(12u + 57u, find_tasks("")->size());
  EXPECT_EQ(2u, find_tasks("piqa, boolq,piqa")->size());
  const auto unknown = find_tasks("piqa,hellaswog");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(error_kind::usage, unknown.error().kind);
  EXPECT_THAT(unknown.error().message, testing::AllOf(HasSubstr("hellaswog"), HasSubstr("hellaswag")));
  EXPECT_FALSE(find_tasks(" , "));
}

TEST(Tasks, TextRules) {
  // Brackets go, a title becomes a sentence of its own, pairs of blanks shrink once, and only the first letter of ctx_b is a capital.
  const auto h = ask_one("hellaswag", R"({"activity_label": " Cut", "ctx_a": "One [title] two [a[b] c]", "ctx_b": "éTÉ [x\ny]", "endings": ["a    b", "  c [d]"], "label": 1})");
  ASSERT_TRUE(h) << describe(h.error());
  EXPECT_EQ("Cut: One. two c] \xC3\x89t\xC3\xA9 [x\ny]", h->requests[0].context);
  EXPECT_EQ(" a  b", h->requests[0].continuation);
  EXPECT_EQ(" c ", h->requests[1].continuation);
  // What is behind the gap is one answer, stripped as Python strips; the options stand in two contexts.
  const auto w = ask_one("winogrande", R"({"sentence": "The _ _ fell \u2003\u001f", "option1": "cup", "option2": "jug", "answer": "2"})");
  ASSERT_TRUE(w) << describe(w.error());
  EXPECT_EQ("The jug", w->requests[1].context);
  EXPECT_EQ(" _ fell", w->requests[1].continuation);
  EXPECT_EQ(1u, w->questions[0].gold);
  // Numbers may be written as strings.
  EXPECT_EQ(1u, ask_one("piqa", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": "1"})")->questions[0].gold);
  EXPECT_EQ(2u, ask_one("openbookqa", R"({"question_stem": "q", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "  C"})")->questions[0].gold);
}

TEST(Tasks, WikiTextIsPutTogether) {
  EXPECT_EQ("a (b) c", detokenize_wikitext("a ( b ) c"));
  EXPECT_EQ("a ( b ( c", detokenize_wikitext("a ( b ( c"));       // never closed
  EXPECT_EQ("(a ( b) c )", detokenize_wikitext("( a ( b ) c )"));  // the first ends at the first end
  EXPECT_EQ("\"a\" and ' s", detokenize_wikitext("\" a \" and ' s"));
  EXPECT_EQ("/'[0-9]/ x", detokenize_wikitext("/' 5/ x"));  // the reference's replacement text, class and all
  EXPECT_EQ("= A =\n== B ==\nc", detokenize_wikitext("= A = \n = = B = = \n c"));
  EXPECT_EQ(1u, count_words(""));
  EXPECT_EQ(4u, count_words(" a \xE2\x80\x83\x1c b "));  // an empty piece in front and one behind
}

TEST(Tasks, WhatIsRefused) {
  const auto refused = [](const std::string& name, const std::string& json) {
    const auto r = ask_one(name, json);
    return r ? std::string("accepted") : describe(r.error());
  };
  EXPECT_THAT(refused("piqa", R"({"goal": "g", "sol1": "a", "label": 0})"), testing::AllOf(HasSubstr("sol2"), HasSubstr("file, line 1")));
  EXPECT_THAT(refused("piqa", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 2})"), HasSubstr("number 2 of 2"));
  EXPECT_THAT(refused("piqa", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": -1})"), HasSubstr("label"));
  EXPECT_THAT(refused("hellaswag", R"({"activity_label": "", "ctx_a": "", "ctx_b": "", "endings": [1], "label": 0})"), HasSubstr("endings"));
  EXPECT_THAT(refused("winogrande", R"({"sentence": "no gap", "option1": "", "option2": "", "answer": "1"})"), HasSubstr("'_'"));
  EXPECT_THAT(refused("arc_easy", R"({"question": "", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"})"), HasSubstr("answerKey"));
  EXPECT_THAT(refused("mmlu_anatomy", R"({"question": "", "choices": ["a", "b"], "answer": 0})"), HasSubstr("four"));
  EXPECT_THAT(refused("lambada_openai", R"({"text": "word"})"), HasSubstr("no blank"));
  EXPECT_THAT(refused("truthfulqa_mc2", R"({"question": "", "mc2_targets": {"choices": ["a", "b"], "labels": [1]}})"), HasSubstr("labels"));
}

std::vector<document> numbered(std::size_t n) {
  std::vector<document> d;
  for (std::size_t i = 0; i < n; ++i)
    d.push_back(line(R"({"question": "q)" + std::to_string(i) + R"(", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"})"));
  return d;
}

// Numbers behind "q" in a context's examples.
std::vector<int> drawn(const std::string& context) {
  std::vector<int> out;
  for (std::size_t at = context.find("q"); at != std::string::npos; at = context.find(" q", at + 1)) {
    at = context.find_first_of("0123456789", at);
    out.push_back(std::stoi(context.substr(at)));
  }
  out.pop_back();  // the document itself
  return out;
}

TEST(FewShot, DrawsAsPython) {
  // random.Random(1234): sample(range(30), 6) twice takes copies of the list, sample(range(200), 7) tries until a number is new.
  const auto asked = ask(named("arc_easy"), numbered(2), numbered(30), 6, 0);
  ASSERT_TRUE(asked) << describe(asked.error());
  EXPECT_EQ((std::vector<int>{24, 14, 3, 0, 2, 18}), drawn(asked->requests[0].context));
  EXPECT_EQ((std::vector<int>{1, 21, 22, 2, 3, 24}), drawn(asked->requests[1].context));
  const auto many = ask(named("arc_easy"), numbered(2), numbered(200), 7, 0);
  ASSERT_TRUE(many) << describe(many.error());
  EXPECT_EQ((std::vector<int>{199, 112, 29, 1, 23, 149, 8}), drawn(many->requests[0].context));
  EXPECT_EQ((std::vector<int>{171, 177, 21, 25, 196, 90, 60}), drawn(many->requests[1].context));
}

TEST(FewShot, LeavesOutTheDocumentAndItsCopies) {
  const auto boolq = [](int i) { return line(R"({"passage": "p", "question": "q)" + std::to_string(i) + R"(", "label": 0})"); };
  for (int copies = 1; copies <= 3; ++copies) {
    std::vector<document> pool{boolq(1), boolq(2)};
    for (int i = 0; i < copies; ++i) pool.push_back(boolq(0));
    const auto asked = ask(named("boolq"), {boolq(0)}, pool, 2, 0);
    ASSERT_TRUE(asked) << describe(asked.error());
    const std::string& context = asked->requests[0].context;
    EXPECT_EQ(context.find("q0"), context.rfind("q0")) << copies;
    EXPECT_THAT(context, testing::AllOf(HasSubstr("q1?\nAnswer: no\n\n"), HasSubstr("q2?\nAnswer: no\n\n"))) << copies;
  }
  EXPECT_FALSE(ask(named("boolq"), {boolq(0)}, {boolq(0), boolq(1)}, 2, 0));
}

TEST(Limit, CountsOrShares) {
  const auto asked = [](double limit) { return ask(named("arc_easy"), numbered(10), {}, 0, limit)->questions.size(); };
  EXPECT_EQ(10u, asked(0));
  EXPECT_EQ(3u, asked(3));
  EXPECT_EQ(10u, asked(1e9));
  EXPECT_EQ(3u, asked(0.25));  // 2.5 rounded up
}

TEST(Groups, PooledErrorOfEqualSubjects) {
  // lm-eval's formula: sqrt(sum((n - 1) se^2 n) / (sum n - K) / sum n).
  task_scores a{&named("mmlu_anatomy"), 3, 0, {{"acc", true, 1.0 / 3, std::sqrt(1.0 / 9)}}, {}};
  task_scores b{&named("mmlu_astronomy"), 5, 0, {{"acc", true, 0.4, std::sqrt(0.06)}}, {}};
  const auto groups = score_groups({a, b});
  ASSERT_EQ(2u, groups.size());
  EXPECT_EQ("mmlu_stem", groups[1].what->name);
  EXPECT_NEAR(3.0 / 8, groups[0].acc.value, 1e-15);
  EXPECT_NEAR(std::sqrt((2.0 / 9 * 3 + 4 * 0.06 * 5) / 6 / 8), *groups[0].acc.standard_error, 1e-15);
}

}  // namespace
