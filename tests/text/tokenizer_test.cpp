// links: ar_text
// The tokenizer against the `tokenizers` package (recorded ids), its rules one by one on small vocabularies, and hostile tokenizer.json files.
#include "text/tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "support/golden_json.hpp"
#include "support/temp_dir.hpp"
#include "text/tokenize_lines.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;
using text::tokenizer;
using ids = std::vector<std::int32_t>;

const std::filesystem::path kData = AR_TEST_DATA;

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("missing " + path.string());
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

result<tokenizer> parsed(const ordered_json& file, const std::string& config = {}) { return tokenizer::parse(file.dump(), config, {}, "test"); }

tokenizer made(const ordered_json& file, const std::string& config = {}) {
  auto tok = parsed(file, config);
  if (!tok) throw std::runtime_error(describe(tok.error()));
  return std::move(*tok);
}

ids encoded(const tokenizer& tok, std::string_view text, bool special = false) {
  auto r = tok.encode(text, special);
  if (!r) throw std::runtime_error(describe(r.error()));
  return std::move(*r);
}

// One token for each character of `letters`, in order, and then one for each merge.
ordered_json small(const std::string& letters, const std::vector<std::string>& merges = {}) {
  ordered_json vocabulary = ordered_json::object();
  for (const char c : letters) vocabulary[std::string(1, c)] = vocabulary.size();
  for (const std::string& m : merges) {
    std::string whole = m;
    whole.erase(whole.find(' '), 1);
    vocabulary[whole] = vocabulary.size();
  }
  return {{"version", "1.0"}, {"added_tokens", ordered_json::array()}, {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

ordered_json added(int id, const std::string& content, const ordered_json& flags = ordered_json::object()) {
  ordered_json t = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                    {"rstrip", false}, {"normalized", false}, {"special", false}};
  t.update(flags);
  return t;
}

// --- the package's own results ---

TEST(Tokenizer, EqualsThePackageOnRecordedLines) {
  const auto texts = lines_of(kData / "tokenizer" / "lines.jsonl");
  ASSERT_GE(texts.size(), 2000u);
  int tokenizers = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kData / "tokenizer")) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto tok = tokenizer::open(entry.path().string());
    ASSERT_TRUE(tok) << describe(tok.error());
    const auto wanted = lines_of(entry.path() / "ids.jsonl");
    ASSERT_EQ(wanted.size(), texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto text = golden::parse_json(texts[i]).get<std::string>();
      ASSERT_EQ(encoded(*tok, text, true), golden::parse_json(wanted[i]).get<ids>()) << "line " << i << " " << texts[i].substr(0, 200);
    }
    ++tokenizers;
  }
  EXPECT_GE(tokenizers, 12);
}

TEST(Tokenizer, EveryPartEqualsThePackage) {
  std::vector<std::filesystem::directory_entry> folders;
  for (const char* set : {"tokenizer_parts", "tokenizer_models"}) {
    for (const auto& entry : std::filesystem::directory_iterator(kData / set)) folders.push_back(entry);
  }
  for (const auto& entry : folders) {
    SCOPED_TRACE(entry.path().filename().string());
    const auto tok = tokenizer::open(entry.path().string());
    ASSERT_TRUE(tok) << describe(tok.error());
    for (const std::string& line : lines_of(entry.path() / "cases.jsonl")) {
      const ordered_json c = golden::parse_json(line);
      const auto wanted = c["ids"].get<ids>();
      EXPECT_EQ(encoded(*tok, c["text"].get<std::string>(), true), wanted) << c["text"];
      EXPECT_EQ(tok->decode(wanted, true), c["decoded"].get<std::string>()) << c["text"];
      EXPECT_EQ(tok->decode(wanted, false), c["decoded_all"].get<std::string>()) << c["text"];
    }
  }
  EXPECT_GE(folders.size(), 49u);
}

// --- the rules ---

TEST(Bpe, MergesTheLowestRankLeftmostFirst) {
  const tokenizer tok = made(small("abcd", {"b c", "a b", "ab c"}));
  EXPECT_EQ(encoded(tok, "abc"), (ids{0, 4}));  // b c before a b
  EXPECT_EQ(encoded(tok, "abd"), (ids{5, 3}));
  const tokenizer doubles = made(small("a", {"a a"}));
  EXPECT_EQ(encoded(doubles, "aaaaa"), (ids{1, 1, 0}));
  EXPECT_EQ(encoded(doubles, ""), ids{});
}

TEST(Unigram, TakesTheBestSumAndOfEqualOnesTheEarlierStart) {
  const auto made_of = [](const std::string& vocabulary) {
    return made({{"model", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", golden::parse_json(vocabulary)}}}});
  };
  const tokenizer tok = made_of(R"([["<unk>", 0], ["a", -1], ["b", -1], ["ab", -2.5], ["abc", -3], ["bc", -1]])");
  EXPECT_EQ(encoded(tok, "ab"), (ids{1, 2}));    // -2 beats -2.5
  EXPECT_EQ(encoded(tok, "abc"), (ids{1, 5}));   // -2 beats -3
  EXPECT_EQ(encoded(tok, "xya"), (ids{0, 1}));   // neighbors that no token covers are one
  EXPECT_EQ(encoded(tok, "<unk>x"), (ids{0}));   // and so is the unknown token's own text
  EXPECT_EQ(encoded(made_of(R"([["<unk>", 0], ["a", -1], ["b", -1], ["ab", -2]])"), "ab"), (ids{3}));
  EXPECT_EQ(encoded(tok, ""), ids{});
}

TEST(WordPiece, TheLongestPrefixOrTheUnknownToken) {
  const tokenizer tok = made({{"model", {{"type", "WordPiece"}, {"unk_token", "?"}, {"max_input_chars_per_word", 4}, {"vocab", {{"?", 0}, {"a", 1}, {"ab", 2}, {"##b", 3}, {"##é", 4}}}}}});
  EXPECT_EQ(encoded(tok, "ab"), (ids{2}));
  EXPECT_EQ(encoded(tok, "abb\xC3\xA9"), (ids{2, 3, 4}));
  EXPECT_EQ(encoded(tok, "abc"), (ids{0}));     // the whole word
  EXPECT_EQ(encoded(tok, "abbbb"), (ids{0}));   // five characters
}

TEST(Bpe, OfEqualMergesTheLastRankCounts) { EXPECT_EQ(encoded(made(small("abc", {"a b", "b c", "a b"})), "abc"), (ids{0, 4})); }

TEST(Bpe, MergesMayBePairsAndMayHoldBlanks) {
  ordered_json file = small("a ");
  file["model"]["vocab"]["a "] = 2;
  file["model"]["merges"] = ordered_json::array({ordered_json::array({"a", " "})});
  EXPECT_EQ(encoded(made(file), "a a"), (ids{2, 0}));
}

TEST(Bpe, IgnoreMergesTakesWholePieces) {
  ordered_json file = small("abc");
  file["model"]["vocab"]["abc"] = 3;
  EXPECT_EQ(encoded(made(file), "abc"), (ids{0, 1, 2}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(encoded(made(file), "abc"), (ids{3}));
  EXPECT_EQ(encoded(made(file), "abca"), (ids{0, 1, 2, 0}));
}

TEST(Bpe, UnknownCharacters) {
  ordered_json file = small("ab");
  EXPECT_EQ(encoded(made(file), "axxb"), (ids{0, 1}));  // without unk_token they vanish
  file["model"]["vocab"]["<unk>"] = 2;
  file["model"]["unk_token"] = "<unk>";
  EXPECT_EQ(encoded(made(file), "axxb"), (ids{0, 2, 2, 1}));
  file["model"]["fuse_unk"] = true;
  EXPECT_EQ(encoded(made(file), "axxb"), (ids{0, 2, 1}));
  file["model"]["byte_fallback"] = true;
  file["model"]["vocab"]["<0xC3>"] = 3;
  file["model"]["vocab"]["<0xA9>"] = 4;
  EXPECT_EQ(encoded(made(file), "aéb"), (ids{0, 3, 4, 1}));
  EXPECT_EQ(encoded(made(file), "xé"), (ids{3, 4, 2}));  // the package writes a pending unknown behind the bytes
}

TEST(Bpe, EndOfWordSuffixBelongsToTheLastCharacter) {
  ordered_json file = small("ab");
  file["model"]["vocab"]["b</w>"] = 2;
  file["model"]["vocab"]["ab</w>"] = 3;
  file["model"]["merges"] = ordered_json::array({"a b</w>"});
  file["model"]["end_of_word_suffix"] = "</w>";
  EXPECT_EQ(encoded(made(file), "ab"), (ids{3}));
  EXPECT_EQ(encoded(made(file), "bab"), (ids{1, 3}));
}

TEST(Bpe, LongPiecesTakeNoQuadraticTime) {
  ordered_json file = small("ab", {"a b", "ab ab", "abab abab"});
  const tokenizer tok = made(file);
  std::string text;
  for (int i = 0; i < 500000; ++i) text += "ab";
  const ids out = encoded(tok, text);
  EXPECT_EQ(out.size(), 125000u);
  EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](std::int32_t id) { return id == 4; }));
}

TEST(AddedTokens, LeftmostThenLongest) {
  ordered_json file = small("abcd ");
  file["added_tokens"] = {added(5, "ab"), added(6, "abcd"), added(7, "bc")};
  EXPECT_EQ(encoded(made(file), "abcab bcd"), (ids{5, 2, 5, 4, 7, 3}));
}

TEST(AddedTokens, StripsAndWords) {
  ordered_json file = small("abc ");
  file["added_tokens"] = {added(4, "<l>", {{"lstrip", true}}), added(5, "<r>", {{"rstrip", true}}), added(6, "<w>", {{"single_word", true}})};
  const tokenizer tok = made(file);
  EXPECT_EQ(encoded(tok, "a <l> b"), (ids{0, 4, 3, 1}));
  EXPECT_EQ(encoded(tok, "a <r> b"), (ids{0, 3, 5, 1}));
  EXPECT_EQ(encoded(tok, "<w> <w>"), (ids{6, 3, 6}));
  EXPECT_EQ(encoded(tok, "a<w> <w>b"), (ids{0, 3, 1}));  // < w > are not in the vocabulary
}

TEST(AddedTokens, NormalizedOnesAreSoughtInTheNormalizedText) {
  ordered_json file = small("abcd");
  file["normalizer"] = {{"type", "Lowercase"}};
  file["added_tokens"] = {added(4, "AB", {{"normalized", true}}), added(5, "CD")};
  EXPECT_EQ(encoded(made(file), "abABcdCD"), (ids{4, 4, 2, 3, 5}));
}

TEST(AddedTokens, IdsGoOnBehindTheVocabularyWhateverTheFileSays) {
  ordered_json file = small("ab");
  file["added_tokens"] = {added(9, "<x>"), added(0, "a", {{"special", true}})};
  const tokenizer tok = made(file);
  EXPECT_EQ(encoded(tok, "<x>ab"), (ids{2, 0, 1}));
  EXPECT_EQ(tok.vocab_size(), 3u);
  EXPECT_EQ(tok.token_id("<x>"), 2);
  EXPECT_EQ(tok.token_id("missing"), -1);
}

TEST(PostProcessor, TemplatesWrapTheText) {
  ordered_json file = small("ab");
  file["added_tokens"] = {added(2, "<s>", {{"special", true}}), added(3, "</s>", {{"special", true}})};
  const ordered_json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const auto token = [](const std::string& t) { return ordered_json{{"SpecialToken", {{"id", t}, {"type_id", 0}}}}; };
  const ordered_json processor = {{"type", "TemplateProcessing"},
                                  {"single", {token("<s>"), a, token("</s>")}},
                                  {"pair", ordered_json::array({a})},
                                  {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {2}}}}, {"</s>", {{"id", "</s>"}, {"ids", {3}}}}}}};
  file["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, processor}}};
  const tokenizer tok = made(file);
  EXPECT_EQ(encoded(tok, "ab", true), (ids{2, 0, 1, 3}));
  EXPECT_EQ(encoded(tok, "ab", false), (ids{0, 1}));
  // Truncation takes from the text, not from the special tokens.
  EXPECT_EQ(*tok.encode_truncated("abab", 6), (ids{2, 0, 1, 0, 1, 3}));
  EXPECT_EQ(*tok.encode_truncated("abab", 4), (ids{2, 0, 1, 3}));
  EXPECT_EQ(*tok.encode_truncated("abab", 2), (ids{2, 3}));
  EXPECT_EQ(*tok.encode_truncated("abab", 1), (ids{2}));
  EXPECT_EQ(*tok.encode_truncated("abab", 0), ids{});
  EXPECT_EQ(tok.decode(encoded(tok, "ab", true), true), "a b");
  file["post_processor"] = {{"type", "BertProcessing"}, {"sep", {"</s>", 3}}, {"cls", {"<s>", 2}}};
  EXPECT_EQ(encoded(made(file), "ab", true), (ids{2, 0, 1, 3}));
}

TEST(Config, SpecialTokensAndTheLlamaFlag) {
  ordered_json file = small("ab");
  file["added_tokens"] = {added(2, "<s>", {{"special", true}}), added(3, "</s>", {{"special", true}})};
  const tokenizer plain = made(file, R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null, "model_max_length": 77,
      "tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "chat_template": [{"name": "x", "template": "no"}, {"name": "default", "template": "yes"}]})");
  EXPECT_EQ(plain.bos_id(), 2);
  EXPECT_EQ(plain.eos_id(), 3);
  EXPECT_EQ(plain.pad_id(), -1);
  EXPECT_EQ(plain.eos_token(), "</s>");
  EXPECT_EQ(plain.model_max_length(), 77);
  EXPECT_EQ(plain.chat_template(), "yes");
  EXPECT_EQ(encoded(plain, "a", true), (ids{0}));
  const tokenizer llama = made(file, R"({"bos_token": "<s>", "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true,
      "model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(encoded(llama, "a", true), (ids{2, 0}));
  EXPECT_EQ(encoded(llama, "a", false), (ids{0}));
  EXPECT_EQ(llama.model_max_length(), 0);
}

TEST(Text, IllFormedBytesCountAsReplacementCharacters) {
  ordered_json file = small("ab");
  file["model"]["vocab"]["\xEF\xBF\xBD"] = 2;
  const tokenizer tok = made(file);
  EXPECT_EQ(encoded(tok, "a\xFF"), (ids{0, 2}));
  EXPECT_EQ(encoded(tok, "\xC3"), (ids{2}));
  EXPECT_EQ(encoded(tok, "\xE2\x82z\xF0\x9F\x98"), (ids{2, 2}));  // one for each maximal part
  EXPECT_EQ(encoded(tok, "\xED\xA0\x80"), (ids{2, 2, 2}));        // a surrogate
  EXPECT_EQ(encoded(tok,
                    "\xC0\xAF\xF5\x80"
                    "b"),
            (ids{2, 2, 2, 2, 1}));  // overlong, beyond Unicode
  EXPECT_EQ(encoded(tok, "\xF0\x80\x80"), (ids{2, 2, 2}));
}

TEST(Text, ManyMarksAreNormalizedInTheirOrder) {
  ordered_json file = small("a");
  file["normalizer"] = {{"type", "NFC"}};
  file["model"]["vocab"]["\xCC\xA3"] = 1;      // U+0323, class 220
  file["model"]["vocab"]["\xCC\x81"] = 2;      // U+0301, class 230
  file["model"]["vocab"]["\xE1\xBA\xA1"] = 3;  // U+1EA1 = a + U+0323
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += "\xCC\x81\xCC\xA3";
  const ids out = encoded(made(file), text);
  ASSERT_EQ(out.size(), 400000u);
  EXPECT_EQ(out[0], 3);
  EXPECT_TRUE(std::is_sorted(out.begin() + 1, out.end()));
}

TEST(Threads, MayShareATokenizer) {
  const auto tok = tokenizer::open((kData / "tokenizer" / "gpt2").string());
  ASSERT_TRUE(tok);
  const auto texts = lines_of(kData / "tokenizer" / "lines.jsonl");
  const auto wanted = lines_of(kData / "tokenizer" / "gpt2" / "ids.jsonl");
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t * 50; i < 400; ++i) {
        const auto r = tok->encode(golden::parse_json(texts[i]).get<std::string>(), true);
        wrong[t] += !r || *r != golden::parse_json(wanted[i]).get<ids>();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, (std::vector<int>{0, 0, 0, 0}));
}

TEST(TokenizeLines, WritesOneArrayALine) {
  const support::temp_dir dir;
  const tokenizer tok = made(small("ab"));
  std::string out;
  const auto collect = [&](const std::string& s) { out += s; };
  ASSERT_TRUE(text::tokenize_lines(tok, dir.write("a.jsonl", "\"ab\"\n{\"text\": \"b\"}\n\"\""), collect));
  EXPECT_EQ(out, "[0, 1]\n[1]\n[]\n");
  const auto bad = text::tokenize_lines(tok, dir.write("b.jsonl", "\"a\"\n7\n"), collect);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().kind, error_kind::input);
  EXPECT_NE(describe(bad.error()).find("line 2"), std::string::npos);
  EXPECT_FALSE(text::tokenize_lines(tok, dir / "missing.jsonl", collect));
}

// --- hostile files ---

struct hostile {
  const char* name;
  std::string file;
  error_kind kind;
};

std::string model_with(const std::string& vocabulary, const std::string& merges = "[]", const std::string& more = "") {
  return R"({"model": {"type": "BPE", "vocab": )" + vocabulary + R"(, "merges": )" + merges + more + "}}";
}
std::string part_with(const std::string& part) { return R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, )" + part + "}"; }

TEST(Hostile, EveryBrokenFileIsAnErrorThatSaysWhat) {
  const auto input = error_kind::input, unsupported = error_kind::unsupported;
  const std::vector<hostile> cases = {
      {"empty", "", input},
      {"no JSON", "{", input},
      {"a list", "[]", input},
      {"no model", "{}", input},
      {"model is a list", R"({"model": []})", input},
      {"vocab missing", R"({"model": {"merges": []}})", input},
      {"vocab is a list", model_with("[]"), input},
      {"merges missing", R"({"model": {"vocab": {}}})", input},
      {"merges is an object", model_with("{}", "{}"), input},
      {"negative id", model_with(R"({"a": -1})"), input},
      {"id too large", model_with(R"({"a": 2147483647})"), input},
      {"id beyond 64 bits", model_with(R"({"a": 18446744073709551616})"), input},
      {"id a fraction", model_with(R"({"a": 1.5})"), input},
      {"id a string", model_with(R"({"a": "1"})"), input},
      {"equal ids", model_with(R"({"a": 1, "b": 1})"), input},
      {"equal tokens", model_with(R"({"a": 1, "a": 2})"), input},
      {"merge of one word", model_with(R"({"a": 0})", R"(["a"])"), input},
      {"merge of three words", model_with(R"({"a": 0})", R"(["a a a"])"), input},
      {"merge a number", model_with(R"({"a": 0})", "[1]"), input},
      {"merge of three parts", model_with(R"({"a": 0})", R"([["a", "a", "a"]])"), input},
      {"merge of an unknown token", model_with(R"({"a": 0})", R"(["a b"])"), input},
      {"merge to an unknown token", model_with(R"({"a": 0, "b": 1})", R"(["a b"])"), input},
      {"unk_token unknown", model_with(R"({"a": 0})", "[]", R"(, "unk_token": "<unk>")"), input},
      {"unk_token a number", model_with(R"({"a": 0})", "[]", R"(, "unk_token": 3)"), input},
      {"byte_fallback a string", model_with(R"({"a": 0})", "[]", R"(, "byte_fallback": "yes")"), input},
      {"dropout", model_with(R"({"a": 0})", "[]", R"(, "dropout": 0.1)"), unsupported},
      {"subword prefix", model_with(R"({"a": 0})", "[]", R"(, "continuing_subword_prefix": "##")"), unsupported},
      {"another model", R"({"model": {"type": "Other", "vocab": {}, "merges": []}})", unsupported},
      {"Unigram without vocab", R"({"model": {"type": "Unigram"}})", input},
      {"Unigram with an object as vocab", R"({"model": {"type": "Unigram", "vocab": {}}})", input},
      {"Unigram token without score", R"({"model": {"type": "Unigram", "vocab": [["a"]]}})", input},
      {"Unigram score a string", R"({"model": {"type": "Unigram", "vocab": [["a", "1"]]}})", input},
      {"Unigram unk_id outside", R"({"model": {"type": "Unigram", "unk_id": 1, "vocab": [["a", 0]]}})", input},
      {"Unigram unk_id negative", R"({"model": {"type": "Unigram", "unk_id": -1, "vocab": [["a", 0]]}})", input},
      {"Unigram token too long", R"({"model": {"type": "Unigram", "vocab": [[")" + std::string(5000, 'a') + R"(", 0]]}})", unsupported},
      {"WordPiece with a list as vocab", R"({"model": {"type": "WordPiece", "vocab": []}})", input},
      {"WordPiece with equal ids", R"({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 0}}})", input},
      {"WordPiece with words of any length", R"({"model": {"type": "WordPiece", "max_input_chars_per_word": 100000, "vocab": {}}})", unsupported},
      {"added tokens an object", part_with(R"("added_tokens": {})"), input},
      {"added token a string", part_with(R"("added_tokens": ["a"])"), input},
      {"added token without id", part_with(R"("added_tokens": [{"content": "x"}])"), input},
      {"added token with a negative id", part_with(R"("added_tokens": [{"id": -5, "content": "x"}])"), input},
      {"added token with a number as content", part_with(R"("added_tokens": [{"id": 5, "content": 7}])"), input},
      {"normalizer unknown", part_with(R"("normalizer": {"type": "Other"})"), unsupported},
      {"Precompiled without a map", part_with(R"("normalizer": {"type": "Precompiled"})"), input},
      {"Precompiled no base64", part_with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA-A"})"), input},
      {"Precompiled cut short", part_with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "CAAAAAAAAAA="})"), input},
      {"Precompiled of an odd size", part_with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "AwAAAAAAAAA="})"), input},
      {"Precompiled with broken texts", part_with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAD/"})"), input},
      {"normalizer a string", part_with(R"("normalizer": "NFC")"), unsupported},
      {"normalizer null inside", part_with(R"("normalizer": {"type": "Sequence", "normalizers": [null]})"), input},
      {"Replace of nothing", part_with(R"("normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"})"), input},
      {"pre_tokenizer unknown", part_with(R"("pre_tokenizer": {"type": "UnicodeScripts"})"), unsupported},
      {"Split without pattern", part_with(R"("pre_tokenizer": {"type": "Split", "behavior": "Isolated"})"), input},
      {"Split with another behavior", part_with(R"("pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Eaten"})"), input},
      {"broken pattern", part_with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})"), input},
      {"verb in a pattern", part_with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(*LIMIT_MATCH=999)a"}, "behavior": "Isolated"})"),
       input},
      {"class intersection", part_with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[a-z&&[^b]]"}, "behavior": "Isolated"})"),
       unsupported},
      {"ByteLevel with a number", part_with(R"("pre_tokenizer": {"type": "ByteLevel", "use_regex": 1})"), input},
      {"Metaspace with two characters", part_with(R"("pre_tokenizer": {"type": "Metaspace", "replacement": "ab"})"), input},
      {"Metaspace contradicting itself", part_with(R"("pre_tokenizer": {"type": "Metaspace", "replacement": "_", "add_prefix_space": false})"),
       input},
      {"post_processor unknown", part_with(R"("post_processor": {"type": "Other"})"), unsupported},
      {"template without text", part_with(R"("post_processor": {"type": "TemplateProcessing", "single": []})"), unsupported},
      {"template with an unknown token",
       part_with(R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {}})"), input},
      {"template with a negative id", part_with(R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}},
       {"Sequence": {"id": "A"}}], "special_tokens": {"x": {"ids": [-1]}}})"),
       input},
      {"decoder unknown", part_with(R"("decoder": {"type": "CTC"})"), unsupported},
      {"Strip without content", part_with(R"("decoder": {"type": "Strip", "start": 1, "stop": 0})"), input},
      {"Strip with a negative count", part_with(R"("decoder": {"type": "Strip", "content": " ", "start": -1, "stop": 0})"), input},
      {"deep JSON", part_with(R"("x": )" + std::string(100000, '[')), input},
  };
  for (const hostile& c : cases) {
    SCOPED_TRACE(c.name);
    const auto tok = tokenizer::parse(c.file, {}, {}, "some/tokenizer.json");
    ASSERT_FALSE(tok);
    EXPECT_EQ(tok.error().kind, c.kind) << describe(tok.error());
    EXPECT_GT(tok.error().message.size(), 10u);
    EXPECT_EQ(tok.error().file, "some/tokenizer.json");
  }
}

TEST(Hostile, UnigramWithoutUnknownTokenNamesTheCharacter) {
  const auto tok = tokenizer::parse(R"({"model": {"type": "Unigram", "vocab": [["a", -1], ["b", -1], ["ab", -1.5]]}})", {}, {}, "x");
  ASSERT_TRUE(tok) << describe(tok.error());
  EXPECT_EQ(encoded(*tok, "aba"), (ids{2, 0}));
  const auto r = tok->encode("ac", false);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().kind, error_kind::input);
  EXPECT_NE(r.error().message.find("\"c\""), std::string::npos) << r.error().message;
}

TEST(Hostile, DamagedCharacterMapsStayInTheirBounds) {
  // A double array of 64 units, each with every bit that steers a walk, whose offsets and values lead everywhere; then replacements.
  std::uint64_t state = 1;
  for (int round = 0; round < 200; ++round) {
    std::string bytes("\x00\x01\x00\x00", 4);
    for (int i = 0; i < 256; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      bytes.push_back(static_cast<char>(state >> 56 & (i % 4 == 0 ? 0x7F : 0xFF)));
    }
    bytes += "ab";
    constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string coded;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
      std::uint32_t three = 0;
      for (std::size_t j = i; j < i + 3; ++j) three = three << 8 | (j < bytes.size() ? static_cast<unsigned char>(bytes[j]) : 0u);
      for (int shift = 18; shift >= 0; shift -= 6) coded.push_back(kDigits[three >> shift & 63]);
    }
    coded.resize(bytes.size() / 3 * 4 + (bytes.size() % 3 == 0 ? 0 : bytes.size() % 3 + 1));
    const auto tok = tokenizer::parse(part_with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": ")" + coded + "\"}"), {}, {}, "x");
    ASSERT_TRUE(tok) << describe(tok.error());
    for (int c = 1; c < 128; ++c) EXPECT_TRUE(tok->encode(std::string(3, static_cast<char>(c)), false));
  }
}

TEST(Hostile, NestedPartsEndWithAnErrorOrARightResult) {
  std::string nested = "null";
  for (int i = 0; i < 50; ++i) nested = R"({"type": "Sequence", "normalizers": [)" + nested + "]}";
  EXPECT_FALSE(tokenizer::parse(part_with(R"("normalizer": )" + nested), {}, {}, "x"));
  nested = R"({"type": "NFC"})";
  for (int i = 0; i < 50; ++i) nested = R"({"type": "Sequence", "normalizers": [)" + nested + "]}";
  EXPECT_TRUE(tokenizer::parse(part_with(R"("normalizer": )" + nested), {}, {}, "x"));
}

TEST(Hostile, OddButLegalVocabularies) {
  EXPECT_EQ(encoded(made(small("")), "anything"), ids{});
  EXPECT_EQ(made(small("")).vocab_size(), 0u);
  const auto huge = tokenizer::parse(model_with(R"({"a": 2147483646, "b": 3})"), {}, {}, "x");
  ASSERT_TRUE(huge);  // ids are numbers, not sizes: nothing of that length is allocated
  EXPECT_EQ(encoded(*huge, "ab"), (ids{2147483646, 3}));
  EXPECT_EQ(huge->vocab_size(), 2147483647u);
  EXPECT_EQ(huge->decode(ids{2147483646, 3, 5, -1}, false), "a b");
  // No id is left for an added token.
  EXPECT_FALSE(tokenizer::parse(R"({"model": {"vocab": {"a": 2147483646}, "merges": []}, "added_tokens": [{"id": 0, "content": "a"},
      {"id": 1, "content": "<x>"}]})",
                                {}, {}, "x"));
  const auto bytes = tokenizer::parse(
      model_with(R"({"<0x-1>": 0, "<0xZZ>": 1, "<0x41>": 2, "<0x+1>": 3, "a": 4})", "[]", R"(, "byte_fallback": true)"), {}, {}, "x");
  ASSERT_TRUE(bytes);
  EXPECT_EQ(encoded(*bytes, "A-Za"), (ids{2, 4}));
}

TEST(Hostile, ByteTokensThatAreNone) {
  ordered_json file = small("");
  file["model"]["vocab"] = {{"<0x-1>", 0}, {"<0xZZ>", 1}, {"<0x41>", 2}, {"<0xFF>", 3}, {"a", 4}};
  file["decoder"] = {{"type", "ByteFallback"}};
  const tokenizer tok = made(file);
  EXPECT_EQ(tok.decode(ids{0, 2, 1}, false), "<0x-1>A<0xZZ>");
  EXPECT_EQ(tok.decode(ids{2, 3, 4}, false),
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "a");
}

TEST(Hostile, AMegabyteInOneToken) {
  const std::string big(1 << 20, 'x');
  ordered_json file = small("x");
  file["model"]["vocab"][big] = 1;
  file["model"]["ignore_merges"] = true;
  const tokenizer tok = made(file);
  EXPECT_EQ(encoded(tok, big), (ids{1}));
  EXPECT_EQ(tok.decode(ids{1}, false), big);
  file["added_tokens"] = ordered_json::array({added(2, big)});
  EXPECT_EQ(parsed(file).error().kind, error_kind::input);
  // The longest that is allowed nearly matches at every place.
  const std::string most(4095, 'x');
  file["added_tokens"] = ordered_json::array({added(2, most + "y")});
  EXPECT_EQ(encoded(made(file), most + "x" + most + "y"), [] {
    ids wanted(4096, 0);
    wanted.push_back(2);
    return wanted;
  }());
}

TEST(Hostile, PatternsThatNeverEndAreGivenUp) {
  ordered_json file = small("ab");
  const std::string many(5000, 'a');
  for (const char* pattern : {"(a+)+b", "(a|aa)+b", "(a*)*b", "(?:a?){40}a{40}b", "((a+)+)+$b"}) {
    SCOPED_TRACE(pattern);
    file["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    const auto tok = parsed(file);
    ASSERT_TRUE(tok) << describe(tok.error());
    const auto r = tok->encode(many + "c", false);
    if (!r) {
      EXPECT_EQ(r.error().kind, error_kind::input);
      EXPECT_NE(r.error().message.find(pattern), std::string::npos);
    } else {
      EXPECT_EQ(r->size(), many.size());  // the engine saw that there is no b
    }
  }
  // Too large once its repeats are written out, or too long.
  file["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "((a{1000}){1000}){1000}"}}}, {"behavior", "Isolated"}};
  EXPECT_FALSE(parsed(file));
  file["pre_tokenizer"]["pattern"]["Regex"] = std::string(100000, 'a');
  EXPECT_FALSE(parsed(file));
  file["pre_tokenizer"]["pattern"]["Regex"] = std::string(50000, '(');
  EXPECT_FALSE(parsed(file));
}

TEST(Hostile, LongRunsNeedNoDeepStack) {
  // Groups under a repeat keep a frame for each round.
  ordered_json file = small("ab");
  file["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(?:a|b)+"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const tokenizer tok = made(file);
  const auto r = tok.encode(std::string(300000, 'a'), false);
  if (r) {
    EXPECT_EQ(r->size(), 300000u);
  } else {
    EXPECT_EQ(r.error().kind, error_kind::input);
  }
}

TEST(Open, SaysWhatIsMissing) {
  const support::temp_dir dir;
  const auto none = tokenizer::open(dir.path().string());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, error_kind::unsupported);
  EXPECT_NE(describe(none.error()).find("tokenizer.json"), std::string::npos);
  EXPECT_EQ(tokenizer::open((dir.path() / "nowhere").string()).error().kind, error_kind::input);
  dir.write("tokenizer.json", model_with(R"({"a": 0})"));
  dir.write("tokenizer_config.json", R"({"bos_token": "a"})");
  dir.write("chat_template.jinja", "{{ bos_token }}");
  const auto tok = tokenizer::open(dir.path().string());
  ASSERT_TRUE(tok) << describe(tok.error());
  EXPECT_EQ(tok->bos_id(), 0);
  EXPECT_EQ(tok->chat_template(), "{{ bos_token }}");
  dir.write("tokenizer_config.json", "{");
  EXPECT_NE(describe(tokenizer::open(dir.path().string()).error()).find("tokenizer_config.json"), std::string::npos);
}

}  // namespace
