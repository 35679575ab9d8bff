// tokenizer.json and tokenizer_config.json: vocabularies that contradict themselves, and small texts that make much work.
#include "hostile/model_files.hpp"

namespace hostile {
namespace {

constexpr const char* file = "@/model/tokenizer.json";

class list {
 public:
  void change(std::string name, std::function<void(json&)> what, std::vector<std::string> says, int status = bad_input) {
    on_text(std::move(name), "\"hello world\"\n", std::move(what), std::move(says), status);
  }
  /// The text of the sound file is changed.
  void file_text(std::string name, std::string text, std::function<void(std::string&)> what, std::vector<std::string> says, int status = bad_input) {
    if (status != accepted) says.push_back(file);
    all_.push_back({std::move(name),
                    [what = std::move(what), text = std::move(text)](const fs::path& dir) {
                      tiny_model m;
                      m.write(dir / "model");
                      std::string content = m.tokenizer.dump();
                      what(content);
                      put(dir / "model" / "tokenizer.json", content);
                      put(dir / "text.jsonl", text);
                    },
                    {"tokenize", "--model", "@/model", "--file", "@/text.jsonl"}, status, std::move(says)});
  }
  /// Lines of JSON are tokenized.
  void on_text(std::string name, std::string text, std::function<void(json&)> what, std::vector<std::string> says, int status = bad_input) {
    if (status != accepted) says.push_back(file);
    all_.push_back({std::move(name),
                    [what = std::move(what), text = std::move(text)](const fs::path& dir) {
                      tiny_model m;
                      what(m.tokenizer);
                      m.write(dir / "model");
                      put(dir / "text.jsonl", text);
                    },
                    {"tokenize", "--model", "@/model", "--file", "@/text.jsonl"}, status, std::move(says)});
  }
  void model(std::string name, const std::string& key, const json& value, std::vector<std::string> says, int status = bad_input) {
    change(std::move(name), [key, value](json& t) { t["model"][key] = value; }, std::move(says), status);
  }
  void part(std::string name, const std::string& key, const json& value, std::vector<std::string> says, int status = bad_input) {
    change(std::move(name), [key, value](json& t) { t[key] = value; }, std::move(says), status);
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

void vocabularies(list& l) {
  l.change("sound", [](json&) {}, {}, accepted);
  l.part("no model", "model", nullptr, {"model"});
  l.part("the model is a list", "model", json::array(), {"model"});
  l.model("an unknown kind of model", "type", "Oracle", {"Oracle"}, unsupported);
  l.model("the kind of model is a number", "type", 7, {"type"});
  l.model("no vocabulary", "vocab", nullptr, {"vocab"});
  l.model("the vocabulary is a list", "vocab", json::array({"a"}), {"vocab"});
  const auto id = [&](std::string name, const json& value) {
    l.change(std::move(name), [value](json& t) { t["model"]["vocab"]["a"] = value; }, {"\"a\"", "id"});
  };
  id("an id of -1", -1);
  id("an id of 2^31", std::int64_t{1} << 31);
  id("an id of 2^63", std::uint64_t{1} << 63);
  id("an id of 1.5", 1.5);
  id("an id of 1e3", 1e3);
  id("an id that is a text", "65");
  id("an id that is null", nullptr);
  id("an id that is a list", {65});
  l.change("two tokens of one id", [](json& t) { t["model"]["vocab"]["b"] = 65; }, {"two tokens have the id 65"});
  l.change("an id far beyond all others", [](json& t) { t["model"]["vocab"]["zz"] = INT32_MAX - 1; }, {}, accepted);
  l.change("an empty vocabulary", [](json& t) { t["model"]["vocab"] = json::object(), t["pre_tokenizer"] = nullptr; }, {}, accepted);
  l.change("a token of a megabyte", [](json& t) { t["model"]["vocab"][std::string(1u << 20, 'x')] = 256; }, {}, accepted);
  l.file_text("100,000 tokens that begin alike", "\"" + std::string(100'000, 'h') + "\"\n", [](std::string& t) {
    std::string more;
    for (int i = 0; i < 100'000; ++i) more += "\"" + std::string(100, 'h') + std::to_string(i) + "\":" + std::to_string(256 + i) + ",";
    t.insert(t.find("\"vocab\":{") + 9, more);
  }, {}, accepted);
  l.model("merges are missing", "merges", nullptr, {"merges"});
  l.model("merges are an object", "merges", json::object(), {"merges"});
  l.model("a merge of one word", "merges", {"ab"}, {"\"ab\""});
  l.model("a merge of three words", "merges", {"a b c"}, {"\"a b c\""});
  l.model("a merge of numbers", "merges", json::array({json::array({1, 2})}), {"merge 0"});
  l.model("a merge of one part", "merges", json::array({json::array({"a"})}), {"merge 0"});
  l.model("a merge is null", "merges", json::array({nullptr}), {"merge 0"});
  l.model("a merge to a token that is not there", "merges", {"a b"}, {"\"ab\"", "not in the vocabulary"});
  l.model("a merge of a token that is not there", "merges", {"qq b"}, {"\"qq\"", "not in the vocabulary"});
  l.change("merges in a circle", [](json& t) {
    t["model"]["vocab"]["hh"] = 256, t["model"]["vocab"]["hhh"] = 257;
    t["model"]["merges"] = {"h h", "hh h", "h hh", "h h"};
  }, {}, accepted);
  l.model("merges of a million bytes", "merges", {std::string(500'000, 'a') + " " + std::string(500'000, 'b')}, {"not in the vocabulary"});
  l.model("unk_token that is not there", "unk_token", "<nobody>", {"<nobody>"});
  l.model("unk_token is a number", "unk_token", 3, {"unk_token"});
  l.model("dropout", "dropout", 0.5, {"dropout"}, unsupported);
  l.model("dropout is a text", "dropout", "yes", {"dropout"});
  l.model("a prefix of subwords", "continuing_subword_prefix", "##", {"continuing_subword_prefix"}, unsupported);
  l.model("byte_fallback is a number", "byte_fallback", 2, {"byte_fallback"});
  l.change("byte fallback to tokens of no byte", [](json& t) {
    t["model"]["byte_fallback"] = true, t["pre_tokenizer"] = nullptr;
    t["model"]["vocab"] = {{"<0x-1>", 0}, {"<0x100>", 1}, {"<0xZZ>", 2}};
  }, {}, accepted);
  const auto unigram = [&](std::string name, const json& model, std::vector<std::string> says) {
    l.change(std::move(name), [model](json& t) {
      t["model"] = model;
      t["pre_tokenizer"] = nullptr;
    }, std::move(says));
  };
  unigram("Unigram whose unk_id is out of range", {{"type", "Unigram"}, {"unk_id", 5}, {"vocab", json::array({json::array({"a", -1.0})})}}, {"unk_id"});
  unigram("Unigram whose unk_id is negative", {{"type", "Unigram"}, {"unk_id", -1}, {"vocab", json::array({json::array({"a", -1.0}), json::array({"b", -2.0})})}}, {"unk_id"});
  unigram("Unigram without vocabulary", {{"type", "Unigram"}, {"unk_id", 0}}, {"vocab"});
  unigram("Unigram of numbers", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", json::array({json::array({1, 2})})}}, {});
  unigram("Unigram of a score that is a text", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", json::array({json::array({"a", "x"})})}}, {});
  unigram("WordPiece without its unknown token", {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"vocab", {{"a", 0}}}}, {"[UNK]"});
  unigram("WordPiece of a negative length", {{"type", "WordPiece"}, {"unk_token", "a"}, {"max_input_chars_per_word", -5}, {"vocab", {{"a", 0}}}}, {"max_input_chars_per_word"});
  unigram("WordLevel without its unknown token", {{"type", "WordLevel"}, {"unk_token", "[UNK]"}, {"vocab", {{"a", 0}}}}, {"[UNK]"});
}

void added(list& l) {
  const auto token = [](const json& more) {
    json t = {{"id", 300}, {"content", "<x>"}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}};
    t.update(more);
    return json::array({t});
  };
  l.part("added_tokens is an object", "added_tokens", json::object(), {"added_tokens"});
  l.part("an added token is a text", "added_tokens", {"x"}, {"added token"});
  l.part("an added token without id", "added_tokens", token({{"id", nullptr}}), {"\"id\""});
  l.part("an added token of id -1", "added_tokens", token({{"id", -1}}), {"\"id\""});
  l.part("an added token of id 2^40", "added_tokens", token({{"id", std::int64_t{1} << 40}}), {"\"id\""});
  l.part("an added token whose content is a number", "added_tokens", token({{"content", 7}}), {"\"content\""});
  l.part("an added token of 4,097 bytes", "added_tokens", token({{"content", std::string(4097, 'x')}}), {"4096"});
  l.part("an added token whose flag is a text", "added_tokens", token({{"lstrip", "yes"}}), {"\"lstrip\""});
  l.part("an empty added token", "added_tokens", token({{"content", ""}}), {}, accepted);
  l.on_text("20,000 added tokens that begin alike, and a text of nothing else", "\"" + std::string(100'000, 'h') + "\"\n", [token](json& t) {
    for (int i = 0; i < 20'000; ++i) t["added_tokens"].push_back(token({{"content", std::string(200, 'h') + std::to_string(i)}, {"id", 256 + i}})[0]);
  }, {}, accepted);
}

void parts(list& l) {
  const auto replace = [](const std::string& pattern, const std::string& content) { return json{{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", content}}; };
  l.part("an unknown normalizer", "normalizer", {{"type", "Launder"}}, {"Launder"}, unsupported);
  l.part("a normalizer without type", "normalizer", json::object(), {"normalizer"}, unsupported);
  l.part("the normalizer is a list", "normalizer", json::array(), {"normalizer"}, unsupported);
  l.part("a sequence of no list", "normalizer", {{"type", "Sequence"}, {"normalizers", 7}}, {"normalizers"});
  l.part("a sequence that holds null", "normalizer", {{"type", "Sequence"}, {"normalizers", json::array({nullptr})}}, {"null"});
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 80; ++i) nested = {{"type", "Sequence"}, {"normalizers", json::array({nested})}};
  l.part("80 sequences within each other", "normalizer", nested, {}, accepted);
  for (int i = 0; i < 80; ++i) nested = {{"type", "Sequence"}, {"normalizers", json::array({nested})}};
  l.part("160 sequences within each other", "normalizer", nested, {"too deep"});
  json doubling = json::array();
  for (int i = 0; i < 40; ++i) doubling.push_back(replace("l", "ll"));
  l.part("40 normalizers that double the text", "normalizer", {{"type", "Sequence"}, {"normalizers", doubling}}, {"normalizer"});
  json blowing = json::array();
  for (int i = 0; i < 3; ++i) blowing.push_back(replace("", std::string(10'000, 'x')));
  l.part("3 normalizers that put 10,000 letters between any two", "normalizer", {{"type", "Sequence"}, {"normalizers", blowing}}, {"normalizer"});
  l.change("30 normalizers that prepend a megabyte", [](json& t) {
    json prefixes = json::array();
    for (int i = 0; i < 30; ++i) prefixes.push_back({{"type", "Prepend"}, {"prepend", std::string(1u << 20, 'p')}});
    t["normalizer"] = {{"type", "Sequence"}, {"normalizers", prefixes}};
  }, {"normalizer"});
  l.part("Replace without pattern", "normalizer", {{"type", "Replace"}, {"content", "x"}}, {"pattern"});
  l.part("Replace of an empty string", "normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}}, {"pattern"});
  l.part("Replace by a number", "normalizer", {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", 7}}, {"content"});
  l.part("a regular expression with an open bracket", "normalizer", replace("(", "x"), {"pattern"});
  l.part("a regular expression with a backward range", "normalizer", replace("[z-a]", "x"), {"pattern"});
  l.part("a quantifier of nothing", "normalizer", replace("*a", "x"), {"pattern"});
  l.part("a repetition of 10^9", "normalizer", replace("(a{1000}){1000000}", "x"), {"pattern"});
  l.part("nested repetitions that multiply", "normalizer", replace("((((a{1000}){1000}){1000}){1000})", "x"), {"pattern"});
  l.part("a thousand open groups", "normalizer", replace(std::string(1000, '('), "x"), {"pattern"});
  l.part("100,000 groups within each other", "normalizer", replace(std::string(100'000, '(') + "a" + std::string(100'000, ')'), "x"), {"pattern"});
  l.part("a pattern of a megabyte", "normalizer", replace(repeated("[a-z]+|", 150'000) + "x", "x"), {"pattern"});
  l.part("recursion of a pattern into itself", "normalizer", replace("(?R)", "x"), {"(?R"}, unsupported);
  l.part("a call of code", "normalizer", replace("(?{system('id')})", "x"), {"(?{"}, unsupported);
  l.part("a pattern that is no UTF-8 by \\x", "normalizer", replace("\\x{110000}", "x"), {"pattern"});
  const auto slow = [&](std::string name, const std::string& pattern, const std::string& text) {
    l.on_text(std::move(name), "\"" + text + "\"\n", [pattern](json& t) {
      t["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    }, {"pattern"});
  };
  slow("catastrophic backtracking, (a+)+$", "(a+)+$", std::string(5'000, 'a') + "!");
  slow("catastrophic backtracking, (a|aa)+$", "(a|aa)+$", std::string(5'000, 'a') + "!");
  slow("catastrophic backtracking, (.*.*.*.*)*[xy]", "(.*.*.*.*)*[xy]", std::string(5'000, 'a'));
  slow("catastrophic backtracking in a look-ahead", "(?=(a+)+$)a", std::string(5'000, 'a') + "!");
  l.part("a charsmap that is no base64", "normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "!!!"}}, {"charsmap"});
  l.part("a charsmap that is empty", "normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", ""}}, {}, accepted);
  l.part("a charsmap that is missing", "normalizer", {{"type", "Precompiled"}}, {"charsmap"});
  l.part("a charsmap whose length lies", "normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "/////w=="}}, {"charsmap"});
  l.change("a charsmap of 15 MB of base64", [](json& t) { t["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", std::string(15u << 20, '/')}}; }, {"charsmap"});
  // A trie of one cell that leads to itself.
  l.part("a charsmap whose trie is a circle", "normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "BAAAAAEAAIA="}}, {}, accepted);
  l.part("an unknown pre-tokenizer", "pre_tokenizer", {{"type", "Chainsaw"}}, {"Chainsaw"}, unsupported);
  l.part("a pre-tokenizer is a text", "pre_tokenizer", "ByteLevel", {"pre_tokenizer"}, unsupported);
  l.part("Split without behavior", "pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Explode"}}, {"behavior"});
  l.part("Metaspace by a word", "pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "word"}, {"prepend_scheme", "never"}}, {"replacement"});
  l.part("Metaspace with an unknown scheme", "pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "sometimes"}}, {"prepend_scheme"});
  l.part("ByteLevel whose flag is a text", "pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", "x"}}, {"add_prefix_space"});
  l.part("an unknown post-processor", "post_processor", {{"type", "Mill"}}, {"Mill"}, unsupported);
  l.part("a template without single", "post_processor", {{"type", "TemplateProcessing"}, {"special_tokens", json::object()}}, {"single"});
  l.part("a template of a token that is not there", "post_processor",
         {{"type", "TemplateProcessing"}, {"single", json::array({json{{"SpecialToken", {{"id", "[X]"}, {"type_id", 0}}}}})}, {"pair", json::array()}, {"special_tokens", json::object()}}, {"[X]"});
  l.part("a template token of a negative id", "post_processor",
         {{"type", "TemplateProcessing"}, {"single", json::array({json{{"SpecialToken", {{"id", "[X]"}, {"type_id", 0}}}}})}, {"pair", json::array()},
          {"special_tokens", {{"[X]", {{"id", "[X]"}, {"ids", {-5}}, {"tokens", {"[X]"}}}}}}}, {});
  l.part("an unknown decoder", "decoder", {{"type", "Enigma"}}, {"Enigma"}, unsupported);
  json deep = {{"type", "ByteLevel"}};
  for (int i = 0; i < 150; ++i) deep = {{"type", "Sequence"}, {"decoders", json::array({deep})}};
  l.part("150 decoders within each other", "decoder", deep, {"too deep"});
}

}  // namespace

std::vector<one_case> tokenizer_cases() {
  list l;
  vocabularies(l);
  added(l);
  parts(l);
  return l.take();
}

}  // namespace hostile
