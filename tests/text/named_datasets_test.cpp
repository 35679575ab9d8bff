// links: ar_text
// Data sets with a name: where a local copy is found, which columns are read, the original's order; and the sample that is always there.
#include "text/named_datasets.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"
#include "text/calibration.hpp"
#include "text/numpy_random.hpp"

namespace {

using namespace auto_round;
using support::tiny_model;

class NamedDatasets : public testing::Test {
 protected:
  NamedDatasets() {
    tiny_model().write(dir_ / "model");
    std::filesystem::create_directory(dir_ / "sets");
  }
  text::tokenizer tokenizer() const { return std::move(*text::tokenizer::open(dir_ / "model")); }
  text::calibration_options options(const std::string& name, std::int64_t rows = 5) const { return {name, rows, 16, 42, 8, dir_ / "sets"}; }
  void put(const std::string& name, const std::string& content) const { tiny_model::put(dir_ / ("sets/" + name), content); }
  std::vector<std::int32_t> row(const text::calibration_set& set, std::int64_t i) const {
    return {set.ids.begin() + i * set.seqlen, set.ids.begin() + (i + 1) * set.seqlen};
  }
  support::temp_dir dir_;
};

TEST_F(NamedDatasets, RowsComeInTheOrderOfNumpysPermutation) {
  std::vector<std::string> texts;
  std::string lines;
  for (int i = 0; i < 30; ++i) {
    texts.push_back("record number " + std::to_string(i) + " of the set");
    lines += "{\"meta\": {\"n\": 1}, \"text\": \"" + texts.back() + "\"}\n";
  }
  put("pile-10k.jsonl", lines);
  const text::tokenizer tok = tokenizer();
  const auto order = text::numpy_permutation(std::vector<std::uint32_t>{42}, 30);
  for (const char* name : {"pile-10k", "NeelNanda/pile-10k", "pile"}) {  // the original finds parts of names too
    const auto set = text::load_calibration(tok, options(name));
    ASSERT_TRUE(set.has_value()) << describe(set.error());
    ASSERT_EQ(set->rows(), 5);
    for (std::int64_t i = 0; i < 5; ++i) EXPECT_EQ(row(*set, i), *tok.encode_truncated(texts[order[static_cast<std::size_t>(i)]], 16)) << name << " " << i;
  }
}

TEST_F(NamedDatasets, KnownColumnsAreTheText) {
  const text::tokenizer tok = tokenizer();
  put("opencode-instruct.jsonl", "{\"id\": \"x\", \"input\": \"write a program\", \"output\": \"int main() {}\"}\n");
  put("ultrachat_200k.json", R"([{"prompt": "p", "messages": [{"role": "user", "content": "good morning "}, {"role": "assistant", "content": "and a good day"}]}])");
  put("mbpp.jsonl", "{\"text\": \"add two numbers\", \"code\": \"def add(a, b)\", \"test\": \"\"}\n");
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"opencode-instruct", "write a program\n\nint main() {}"}, {"ultrachat_200k", "good morning and a good day"}, {"mbpp", "add two numbersdef add(a, b)"}};
  for (const auto& [name, content] : expected) {
    const auto set = text::load_calibration(tok, options(name, 1));
    ASSERT_TRUE(set.has_value()) << name << ": " << describe(set.error());
    EXPECT_EQ(row(*set, 0), *tok.encode_truncated(content, 16)) << name;
  }
}

TEST_F(NamedDatasets, WhatIsNotThereIsSaidWithTheWayToGetIt) {
  const auto missing = text::load_calibration(tokenizer(), options("HuggingFaceFW/fineweb-edu"));
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().kind, error_kind::unsupported);
  for (const char* word : {"fineweb-edu.jsonl", "load_dataset", "--dataset_dir"}) EXPECT_NE(missing.error().message.find(word), std::string::npos) << word;
  EXPECT_EQ(text::load_calibration(tokenizer(), options("nothing_of_the_kind")).error().kind, error_kind::usage);
  EXPECT_EQ(text::load_calibration(tokenizer(), options("pile-10k-mine.jsonl")).error().kind, error_kind::input) << "a file, not a part of a name";
}

TEST_F(NamedDatasets, FilesAreLookedForInTheFolderToo) {
  put("own.jsonl", "{\"text\": \"a text of more than sixteen bytes\"}\n");
  EXPECT_TRUE(text::load_calibration(tokenizer(), options("own.jsonl", 1)).has_value());
}

TEST_F(NamedDatasets, TheBuiltinSampleFillsRows) {
  const auto set = text::load_calibration(tokenizer(), {"builtin", 64, 128, 42, 8});
  ASSERT_TRUE(set.has_value()) << describe(set.error());
  EXPECT_EQ(set->rows(), 64);
  EXPECT_TRUE(text::load_calibration(tokenizer(), {"builtin:num=3,builtin:num=3", 6, 128, 42, 8}).has_value()) << "in combinations too";
}

}  // namespace
