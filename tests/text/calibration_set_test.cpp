// links: ar_text
// The calibration set beyond the golden cases: the grammar of --dataset, files of every kind, packing with special tokens, errors that help.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "support/temp_dir.hpp"
#include "text/calibration.hpp"
#include "text/dataset_spec.hpp"
#include "text/numpy_random.hpp"
#include "text/records.hpp"

namespace {

using namespace auto_round;
using text::parse_dataset;
using ids = std::vector<std::int32_t>;

// One id for each letter: a 0 ... z 25, blank 26; special tokens <s> 27, </s> 28. `bos` puts <s> in front of every text.
text::tokenizer letters(bool bos, const std::string& config = R"("bos_token": "<s>", "eos_token": "</s>")") {
  std::string vocabulary;
  for (char c = 'a'; c <= 'z'; ++c) vocabulary += std::string("\"") + c + "\": " + std::to_string(c - 'a') + ", ";
  const std::string special = R"("single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true)";
  std::string file = R"({"added_tokens": [{"id": 27, "content": "<s>", )" + special + R"(}, {"id": 28, "content": "</s>", )" + special +
                     R"(}], "model": {"type": "BPE", "merges": [], "vocab": {)" + vocabulary + R"(" ": 26}})";
  if (bos) {
    file += R"(, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
               "special_tokens": {"<s>": {"id": "<s>", "ids": [27]}}})";
  }
  auto tok = text::tokenizer::parse(file + "}", "{" + config + "}", "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}", "letters");
  if (!tok) throw std::runtime_error(describe(tok.error()));
  return std::move(*tok);
}

ids row(const text::calibration_set& set, std::int64_t r) { return ids(set.ids.begin() + r * set.seqlen, set.ids.begin() + (r + 1) * set.seqlen); }

ids letters_of(const std::string& s) {
  ids out;
  for (const char c : s) out.push_back(c == ' ' ? 26 : c == '<' ? 27 : c == '>' ? 28 : c - 'a');
  return out;
}

text::calibration_set loaded(const text::tokenizer& tok, const text::calibration_options& options) {
  auto set = text::load_calibration(tok, options);
  if (!set) throw std::runtime_error(describe(set.error()));
  return std::move(*set);
}

// --- grammar ---

TEST(DatasetSpec, PartsAndOptions) {
  const auto parts = parse_dataset("a.json , b.txt : num = 5:concat,c.jsonl:concat=False:apply_chat_template:split=train+test");
  ASSERT_TRUE(parts);
  ASSERT_EQ(parts->size(), 3u);
  EXPECT_EQ((*parts)[0].name, "a.json");
  EXPECT_FALSE((*parts)[0].num || (*parts)[0].concat || (*parts)[0].apply_chat_template);
  EXPECT_EQ((*parts)[1].name, "b.txt");
  EXPECT_EQ((*parts)[1].num, 5);
  EXPECT_TRUE((*parts)[1].concat);
  EXPECT_FALSE((*parts)[2].concat);
  EXPECT_TRUE((*parts)[2].apply_chat_template);
}

TEST(DatasetSpec, SystemPromptsKeepBlanksAndStayInForce) {
  const auto parts =
      parse_dataset("a.json:apply_chat_template,b.json:system_prompt= You are terse. ,c.json:apply_chat_template,d.json:system_prompt=");
  ASSERT_TRUE(parts);
  EXPECT_EQ((*parts)[0].system_prompt, "You are a helpful assistant.");
  EXPECT_EQ((*parts)[1].system_prompt, "You are terse.");
  EXPECT_TRUE((*parts)[1].apply_chat_template);
  EXPECT_EQ((*parts)[2].system_prompt, "You are terse.");
  EXPECT_EQ((*parts)[3].system_prompt, "");
  EXPECT_TRUE((*parts)[3].apply_chat_template);
}

TEST(DatasetSpec, QuotationMarksKeepSeparators) {
  const auto parts = parse_dataset(R"('C:\x, y.json':num=3,"it's.json":system_prompt="a=b: c, d ":concat,o'neill.json)");
  ASSERT_TRUE(parts);
  ASSERT_EQ(parts->size(), 3u);
  EXPECT_EQ((*parts)[0].name, R"(C:\x, y.json)");
  EXPECT_EQ((*parts)[0].num, 3);
  EXPECT_EQ((*parts)[1].name, "it's.json");
  EXPECT_EQ((*parts)[1].system_prompt, "a=b: c, d ");
  EXPECT_TRUE((*parts)[1].concat);
  EXPECT_EQ((*parts)[2].name, "o'neill.json");
}

TEST(DatasetSpec, MistakesAreUsageErrors) {
  for (const char* text :
       {"", " ", ",", "a.json,", ",a.json", "a.json:", "a.json:nums=3", "a.json:num", "a.json:num=", "a.json:num=x", "a.json:num=0", "a.json:num=-1",
        "a.json:num=99999999999999999999", "a.json:num=3x", "a.json:system_prompt", "a.json:system_prompt=a=b", ":num=3", "a.json:concat=maybe", "a.json:apply_chat_template=0"}) {
    const auto parts = parse_dataset(text);
    ASSERT_FALSE(parts) << text;
    EXPECT_EQ(parts.error().kind, error_kind::usage) << text;
  }
  EXPECT_NE(parse_dataset("a:nums=3").error().message.find("system_prompt"), std::string::npos);  // names the keys there are
}

// --- records ---

TEST(Records, EveryShapeOfARecord) {
  const support::temp_dir dir;
  const auto file =
      dir.write("a.json", R"(["one \t", {"any": "two\u00a0\u2003"}, {"id": 7, "text": "three"}, {"id": 7, "input_ids": [1, 2]}, {"input_ids": "four"},
      [3, 4], {"messages": [{"role": "user", "content": "hi"}]}, {"id": 1, "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}])");
  const auto records = text::read_records(file, false);
  ASSERT_TRUE(records) << describe(records.error());
  ASSERT_EQ(records->size(), 8u);
  EXPECT_EQ(std::get<std::string>((*records)[0]), "one");
  EXPECT_EQ(std::get<std::string>((*records)[1]), "two");
  EXPECT_EQ(std::get<std::string>((*records)[2]), "three");
  EXPECT_EQ(std::get<ids>((*records)[3]), (ids{1, 2}));
  EXPECT_EQ(std::get<std::string>((*records)[4]), "four");
  EXPECT_EQ(std::get<ids>((*records)[5]), (ids{3, 4}));
  const auto& chat = std::get<std::vector<text::chat_message>>((*records)[7]);
  ASSERT_EQ(chat.size(), 2u);
  EXPECT_EQ(chat[0].role, "user");
  EXPECT_EQ(chat[1].role, "assistant");
  EXPECT_EQ(chat[1].content, "y");
}

TEST(Records, FilesOfEachKind) {
  const support::temp_dir dir;
  EXPECT_EQ(text::read_records(dir.write("o.json", R"({"b": "one", "a": "two"})"), false)->size(), 2u);
  EXPECT_EQ(text::read_records(dir.write("l.jsonl", "\"a\"\r\n{\"text\": \"b\"}\n\"c\""), false)->size(), 3u);
  const std::string txt = dir.write("t.txt", "first \n\n  \nsecond\r\n\xFFthird");
  const auto lines = text::read_records(txt, false);
  ASSERT_EQ(lines->size(), 3u);
  EXPECT_EQ(std::get<std::string>((*lines)[1]), "second");
  EXPECT_EQ(std::get<std::string>((*lines)[2]), "\xEF\xBF\xBDthird");
  ASSERT_EQ(text::read_records(txt, true)->size(), 1u);
  EXPECT_EQ(text::read_records(dir.write("e.txt", ""), false)->size(), 0u);
}

TEST(Records, BrokenOnesSayWhere) {
  const support::temp_dir dir;
  const auto message = [&](const std::string& name, const std::string& content) {
    const auto records = text::read_records(dir.write(name, content), false);
    EXPECT_FALSE(records) << content;
    return records ? std::string() : describe(records.error());
  };
  EXPECT_NE(message("a.jsonl", "\"a\"\n\n\"b\"").find("line 2"), std::string::npos);
  EXPECT_NE(message("a.jsonl", "\"a\"\n{").find("line 2"), std::string::npos);
  EXPECT_NE(message("a.json", R"(["a", 5])").find("record 2"), std::string::npos);
  EXPECT_NE(message("a.json", R"([{"a": "x", "b": "y"}])").find("text"), std::string::npos);
  EXPECT_NE(message("a.json", R"([{"text": null, "b": "y"}])").find("record 1"), std::string::npos);
  EXPECT_NE(message("a.json", "[[1, -2]]").find("token ids"), std::string::npos);
  EXPECT_NE(message("a.json", "[[1, \"x\"]]").find("token ids"), std::string::npos);
  EXPECT_NE(message("a.json", "[[]]").find("record 1"), std::string::npos);
  EXPECT_NE(message("a.json", R"([[{"role": "user"}]])").find("message"), std::string::npos);
  EXPECT_NE(message("a.json", "7").find("list of records"), std::string::npos);
  EXPECT_NE(message("a.csv", "x").find(".jsonl"), std::string::npos);
  EXPECT_NE(message("a.txt", std::string("\xFF\xFEh\0i\0", 6)).find("UTF-16"), std::string::npos);
}

// --- the set ---

TEST(CalibrationSet, PackedRowsHaveTheirOwnSpecialTokens) {
  const support::temp_dir dir;
  const std::string file = dir.write("a.json", R"(["abcde", "fghij", "klmno", "pqrst"])");
  const text::tokenizer tok = letters(true);
  const auto set = loaded(tok, {file + ":concat", 100, 6, 0, 2});
  // 20 letters give four rows of <s> and five letters: nothing is lost at the borders.
  ASSERT_EQ(set.rows(), 4);
  std::vector<int> seen(26, 0);
  for (std::int64_t r = 0; r < 4; ++r) {
    EXPECT_EQ(row(set, r)[0], 27);
    for (std::size_t i = 1; i < 6; ++i) ++seen[static_cast<std::size_t>(row(set, r)[i])];
  }
  EXPECT_EQ(std::accumulate(seen.begin(), seen.begin() + 20, 0), 20);
  EXPECT_EQ(set.batch_rows, (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(set.records, 4);
}

TEST(CalibrationSet, AWholeTextFileIsPacked) {
  const support::temp_dir dir;
  const std::string file = dir.write("a.txt", "abcdefghijklmnopqrstuvwxyz");
  const auto set = loaded(letters(false), {file + ":concat", 100, 10, 0, 8});
  ASSERT_EQ(set.rows(), 2);
  EXPECT_EQ(row(set, 0), letters_of("abcdefghij"));
  EXPECT_EQ(row(set, 1), letters_of("klmnopqrst"));
}

TEST(CalibrationSet, PositionsThatTheLossIgnores) {
  const support::temp_dir dir;
  const std::string file = dir.write("a.json", R"(["abcddd"])");
  const auto valid = [&](const text::tokenizer& tok) { return loaded(tok, {file, 1, 6, 0, 1}).valid; };
  EXPECT_EQ(valid(letters(false)), (std::vector<std::uint8_t>{1, 1, 1, 0, 0, 0}));                         // repeats of the last token
  EXPECT_EQ(valid(letters(false, R"("pad_token": "b")")), (std::vector<std::uint8_t>{1, 0, 1, 1, 1, 0}));  // only the pad token, and the last
}

TEST(CalibrationSet, TokenIdsAndConversations) {
  const support::temp_dir dir;
  const text::tokenizer tok = letters(true);
  EXPECT_EQ(row(loaded(tok, {dir.write("a.json", "[[1, 2, 3, 4]]"), 1, 3, 0, 1}), 0), (ids{1, 2, 3}));
  const std::string chat = dir.write("b.json", R"([{"messages": [{"role": "user", "content": "ab"}, {"role": "bot", "content": "c"}]}])");
  EXPECT_EQ(row(loaded(tok, {chat, 1, 14, 0, 1}), 0), letters_of("<user ab bot c"));
  EXPECT_EQ(row(loaded(tok, {chat + ":system_prompt=be nice", 1, 20, 0, 1}), 0), letters_of("<system be nice user"));
  const auto unknown = text::load_calibration(tok, {dir.write("c.json", "[[1, 29]]"), 1, 2, 0, 1});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("29"), std::string::npos);
}

TEST(CalibrationSet, NotEnoughTextSaysWhatWouldWork) {
  const support::temp_dir dir;
  const std::string file = dir.write("a.json", R"(["abcdefgh", "abcdef", "abcd", "ab"])");
  const auto none = text::load_calibration(letters(false), {file, 3, 100, 0, 8});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, error_kind::input);
  const std::string& message = none.error().message;
  EXPECT_NE(message.find("4 records"), std::string::npos) << message;
  EXPECT_NE(message.find("8 tokens"), std::string::npos) << message;
  EXPECT_NE(message.find("--seqlen 4"), std::string::npos) << message;  // keeps three rows
  const auto some = loaded(letters(false), {file, 3, 6, 0, 8});
  EXPECT_EQ(some.rows(), 2);
  EXPECT_EQ(some.dropped_short, 2);
  EXPECT_EQ(some.longest_record_tokens, 6);
  EXPECT_EQ(some.warnings.size(), 2u);  // fewer rows than nsamples, and than a batch
  const auto repeated = text::load_calibration(letters(false), {dir.write("r.json", R"(["aaaaaaaa"])"), 1, 8, 0, 8});
  ASSERT_FALSE(repeated);
  EXPECT_NE(repeated.error().message.find("half"), std::string::npos);
  const auto empty = text::load_calibration(letters(false), {dir.write("e.json", "[]"), 1, 8, 0, 8});
  ASSERT_FALSE(empty);
  EXPECT_NE(empty.error().message.find("0 records"), std::string::npos);
}

TEST(CalibrationSet, TheTokenizersLimitLowersSeqlen) {
  const support::temp_dir dir;
  const auto set = loaded(letters(false, R"("model_max_length": 4)"), {dir.write("a.json", R"(["abcdef"])"), 1, 2048, 0, 1});
  EXPECT_EQ(set.seqlen, 4);
  EXPECT_EQ(row(set, 0), letters_of("abcd"));
  EXPECT_EQ(set.warnings.size(), 1u);
}

TEST(CalibrationSet, MistakesAndMissingFiles) {
  const text::tokenizer tok = letters(false);
  const auto kind = [&](const std::string& dataset) { return text::load_calibration(tok, {dataset, 8, 8, 0, 8}).error().kind; };
  EXPECT_EQ(kind("nosuch.json"), error_kind::input);
  EXPECT_EQ(kind("folder/nosuch"), error_kind::input);
  EXPECT_EQ(kind("nosuch"), error_kind::usage);
  EXPECT_EQ(kind("NeelNanda/pile-10k"), error_kind::unsupported);
  EXPECT_EQ(kind("."), error_kind::input);
  text::calibration_options options{"a.json", 0, 8, 0, 8};
  EXPECT_EQ(text::load_calibration(tok, options).error().kind, error_kind::usage);
  options = {"a.json", 8, 0, 0, 8};
  EXPECT_EQ(text::load_calibration(tok, options).error().kind, error_kind::usage);
  options = {"a.json", 8, 8, -1, 8};
  EXPECT_EQ(text::load_calibration(tok, options).error().kind, error_kind::usage);
  options = {"a.json", 8, 8, 0, 0};
  EXPECT_EQ(text::load_calibration(tok, options).error().kind, error_kind::usage);
}

TEST(CalibrationSet, ThreadsDoNotChangeIt) {
  const std::string file = std::string(AR_SOURCE_DIR) + "/examples/data/tiny-stories/calib.jsonl";
  const auto tok = text::tokenizer::open(std::string(AR_SOURCE_DIR) + "/examples/data/tiny-stories");
  ASSERT_TRUE(tok) << describe(tok.error());
  const auto once = loaded(*tok, {file, 64, 128, 42, 8}), again = loaded(*tok, {file, 64, 128, 42, 8});
  EXPECT_EQ(once.ids, again.ids);
  EXPECT_EQ(once.rows(), 64);
  EXPECT_EQ(once.dropped_short, again.dropped_short);
}

TEST(NumpyPermutation, SmallOnes) {
  const std::uint32_t seed[] = {42};
  EXPECT_TRUE(text::numpy_permutation(seed, 0).empty());
  EXPECT_EQ(text::numpy_permutation(seed, 1), (std::vector<std::uint32_t>{0}));
}

}  // namespace
