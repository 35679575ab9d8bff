// links: ar_io
// JSON: what is accepted, what is refused, and that an unchanged document is written back byte for byte.
#include "io/json.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "io/file.hpp"
#include "support/peak_memory.hpp"

namespace {

using auto_round::error_kind;
using auto_round::io::dump;
using auto_round::io::dump_options;
using auto_round::io::json;
using auto_round::io::parse_json;

constexpr dump_options kOneLine{-1};
constexpr dump_options kCompact{-2};

std::string repeat(const std::string& s, std::size_t n) {
  std::string out;
  for (std::size_t i = 0; i < n; ++i) out += s;
  return out;
}

json parsed(const std::string& text) {
  auto r = parse_json(text, "test.json");
  if (!r) ADD_FAILURE() << text.substr(0, 100) << ": " << describe(r.error());
  return r ? *r : json();
}

TEST(Json, ReadsEveryKindOfValue) {
  const json v = parsed(R"( {"n": null, "t": true, "f": false, "i": -12, "d": 0.5, "s": "a\"b", "a": [1, [], {}], "o": {"k": "v"}} )");
  ASSERT_TRUE(v.is_object());
  EXPECT_TRUE(v.find("n")->is_null());
  EXPECT_TRUE(v.at("t").as_bool());
  EXPECT_FALSE(v.at("f").as_bool(true));
  EXPECT_EQ(v.at("i").as_int(), -12);
  EXPECT_EQ(v.at("d").as_double(), 0.5);
  EXPECT_EQ(v.at("s").as_string(), "a\"b");
  EXPECT_EQ(v.at("a").items().size(), 3u);
  EXPECT_EQ(v.at("o").at("k").as_string(), "v");
  EXPECT_EQ(v.find("absent"), nullptr);
  EXPECT_TRUE(v.at("absent").is_null());
  EXPECT_TRUE(v.at("i").at("no object").is_null());
}

TEST(Json, WrongTypesGiveTheFallback) {
  const json v = parsed(R"({"s": "x", "d": 1.5, "w": 3.0, "e": 1e3, "big": 1e300})");
  EXPECT_EQ(v.at("s").as_int(7), 7);
  EXPECT_EQ(v.at("s").as_double(7.5), 7.5);
  EXPECT_TRUE(v.at("s").as_bool(true));
  EXPECT_EQ(v.at("d").as_int(7), 7) << "not integral";
  EXPECT_EQ(v.at("w").as_int(), 3);
  EXPECT_EQ(v.at("e").as_int(), 1000);
  EXPECT_EQ(v.at("big").as_int(7), 7) << "integral but not of 64 bits";
  EXPECT_TRUE(v.at("d").as_string().empty());
  EXPECT_TRUE(v.at("d").items().empty());
  EXPECT_TRUE(v.at("d").members().empty());
}

TEST(Json, IntegersOf64BitsAreExact) {
  EXPECT_EQ(parsed("9223372036854775807").as_int(), INT64_MAX);
  EXPECT_EQ(parsed("-9223372036854775808").as_int(), INT64_MIN);
  const json larger = parsed("18446744073709551615");
  EXPECT_FALSE(larger.is_int());
  EXPECT_EQ(larger.as_double(), 18446744073709551615.0);
  EXPECT_EQ(dump(larger), "18446744073709551615");
}

TEST(Json, NumbersKeepTheirText) {
  for (const char* text : {"0", "-0", "1e-05", "1E5", "1.50", "0.1000000000000000055511151231257827", "123456789012345678901234567890", "1e+2",
                           "-0.0", "1e-400", "4.9e-324"}) {
    EXPECT_EQ(dump(parsed(text)), text);
  }
}

TEST(Json, PythonsNonFiniteLiteralsAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {{"NaN", "NaN is not JSON"},
                                                       {"[1, NaN]", "NaN is not JSON, near byte 4"},
                                                       {"[Infinity]", "Infinity is not JSON"},
                                                       {"{\"a\": -Infinity}", "Infinity is not JSON"}};
  for (const auto& [text, says] : cases) {
    const auto r = parse_json(text, "f");
    ASSERT_FALSE(r) << text;
    EXPECT_NE(r.error().message.find(says), std::string::npos) << r.error().message;
  }
}

TEST(Json, BlanksOutsideStringsMeanNothingAndInsideEverything) {
  EXPECT_EQ(dump(parsed(" \t\r\n[ \n 1 , \"a  b\" , \"\\\\\" , \"\\\"  \"\n\n]\r\n"), kCompact), R"([1,"a  b","\\","\"  "])");
  EXPECT_EQ(parsed("[\"\\\\\",\n  \"  x\"]").items()[1].as_string(), "  x") << "an escaped backslash before the closing quote";
}

TEST(Json, UnicodeEscapesAndTheirWayBack) {
  EXPECT_EQ(parsed(R"("\u00e9\u4f60\ud83d\ude00\u0000")").as_string(), std::string("\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80\0", 10));
  EXPECT_EQ(dump(parsed("\"\xC3\xA9\xF0\x9F\x98\x80\x7F\"")), R"("\u00e9\ud83d\ude00\u007f")") << "as json.dumps writes with ensure_ascii";
  EXPECT_EQ(dump(parsed("\"\xC3\xA9\xF0\x9F\x98\x80\x7F\""), {-1, false, false}), "\"\xC3\xA9\xF0\x9F\x98\x80\x7F\"");
  EXPECT_EQ(dump(json("\b\f\n\r\t\"\\/\x01")), R"("\b\f\n\r\t\"\\/\u0001")");
}

// What repr() of Python 3.11 prints.
TEST(Json, FloatsAreWrittenAsPythonDoes) {
  const std::pair<double, const char*> cases[] = {{1.0, "1.0"},
                                                  {0.1, "0.1"},
                                                  {1e-05, "1e-05"},
                                                  {0.0001, "0.0001"},
                                                  {1.5e-7, "1.5e-07"},
                                                  {1e16, "1e+16"},
                                                  {9999999999999998.0, "9999999999999998.0"},
                                                  {123456.789, "123456.789"},
                                                  {0.0, "0.0"},
                                                  {-0.0, "-0.0"},
                                                  {1e22, "1e+22"},
                                                  {1e100, "1e+100"},
                                                  {5e-324, "5e-324"},
                                                  {1.7976931348623157e308, "1.7976931348623157e+308"},
                                                  {500000.0, "500000.0"},
                                                  {-2.5, "-2.5"},
                                                  {0.30000000000000004, "0.30000000000000004"},
                                                  {1234567890123456.0, "1234567890123456.0"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(dump(json(value)), text);
  EXPECT_EQ(dump(json(std::nan(""))), "NaN");
}

TEST(Json, LayoutsOfPythonsDumps) {
  const std::string text = R"({"b": [1, {"c": []}], "a": {}})";
  const json v = parsed(text);
  EXPECT_EQ(dump(v, kOneLine), text);
  EXPECT_EQ(dump(v, kCompact), R"({"b":[1,{"c":[]}],"a":{}})");
  EXPECT_EQ(dump(v), "{\n  \"b\": [\n    1,\n    {\n      \"c\": []\n    }\n  ],\n  \"a\": {}\n}");
  EXPECT_EQ(dump(v, {-1, true, true}), R"({"a": {}, "b": [1, {"c": []}]})");
  EXPECT_EQ(dump(v, {1, false, true}).substr(0, 8), "{\n \"b\": ");
}

TEST(Json, SetReplacesInPlaceAndAppends) {
  json v = parsed(R"({"a": 1, "b": 2})");
  v.set("a", 5).set("c", json::array{json(1), json("x")});
  EXPECT_EQ(dump(v, kOneLine), R"({"a": 5, "b": 2, "c": [1, "x"]})");
  EXPECT_TRUE(v.erase("b"));
  EXPECT_FALSE(v.erase("b"));
  EXPECT_EQ(dump(v, kOneLine), R"({"a": 5, "c": [1, "x"]})");
}

TEST(Json, ModelFilesAreWrittenBackByteForByte) {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(AR_SOURCE_DIR "/examples/data")) {
    const std::string name = entry.path().filename().string();
    if (name != "config.json" && name != "generation_config.json" && name != "quantization_config.json") continue;
    const auto text = auto_round::io::read_text(entry.path().string());
    ASSERT_TRUE(text) << describe(text.error());
    std::string body = *text;
    while (!body.empty() && body.back() == '\n') body.pop_back();
    EXPECT_EQ(dump(parsed(*text)), body) << entry.path();
    ++files;
  }
  EXPECT_GE(files, 2);
}

TEST(Json, FilesThatAreNoJsonAreRefused) {
  struct hostile {
    const char* name;
    std::string text;
    const char* says;
  };
  const std::vector<hostile> cases = {
      {"empty", "", "unexpected end of input"},
      {"blanks only", " \n\t", "unexpected end of input"},
      {"byte order mark", "\xEF\xBB\xBF{}", "byte order mark"},
      {"two values", "{} {}", "expected end of input"},
      {"trailing zero byte", std::string("{}\0", 3), "zero byte, at byte 2"},
      {"zero byte in a string", std::string("\"a\0\"", 4), "zero byte, at byte 2"},
      {"unfinished object", "{\"a\": 1", "unexpected end of input"},
      {"unfinished string", "{\"a", "quote"},
      {"unfinished escape", "\"\\", "backslash"},
      {"trailing comma in array", "[1,]", "unexpected ']'"},
      {"trailing comma in object", "{\"a\": 1,}", "key"},
      {"missing comma", "[1 2]", "unexpected number"},
      {"missing colon", "{\"a\" 1}", "expected ':'"},
      {"key without quotes", "{a: 1}", "key"},
      {"number as key", "{1: 1}", "key"},
      {"mismatched brackets", "[1}", "unexpected '}'"},
      {"closing only", "]", "unexpected ']'"},
      {"comment", "{} // c", "invalid literal, near byte 3"},
      {"single quotes", "['a']", "invalid literal, near byte 1"},
      {"leading zero", "[01]", "unexpected number"},
      {"leading plus", "[+1]", "invalid literal"},
      {"point without digits", "[1.]", "digit"},
      {"point first", "[.5]", "invalid literal"},
      {"exponent without digits", "[1e]", "digit"},
      {"minus alone", "[-]", "digit"},
      {"hexadecimal number", "[0x10]", "invalid literal"},
      {"number above all doubles", "[1e400]", "too large"},
      {"400 digits", "[" + std::string(400, '9') + "]", "too large"},
      {"negative NaN", "[-NaN]", "NaN is not JSON"},
      {"word", "[nul]", "invalid literal"},
      {"bare newline in string", "[\"a\nb\"]", "control character"},
      {"unknown escape", R"(["\x41"])", "backslash"},
      {"three hexadecimal digits", R"(["\u12"])", "4 hex digits"},
      {"high surrogate alone", R"(["\ud83d"])", "surrogate"},
      {"low surrogate alone", R"(["\ude00"])", "surrogate"},
      {"two high surrogates", R"(["\ud83d\ud83d"])", "surrogate"},
      {"invalid UTF-8", "[\"\xFF\"]", "UTF-8"},
      {"overlong UTF-8", "[\"\xC0\x80\"]", "UTF-8"},
      {"surrogate in UTF-8", "[\"\xED\xA0\x80\"]", "UTF-8"},
      {"past U+10FFFF", "[\"\xF4\x90\x80\x80\"]", "UTF-8"},
      {"cut UTF-8", "[\"\xE4\xBD\"]", "UTF-8"},
      {"duplicate keys", R"({"a": 1, "b": 2, "a": 3})", "twice"},
      {"duplicate keys by escape", R"({"a": 1, "\u0061": 2})", "twice"},
      {"duplicate keys, nested", R"({"x": [{"a": 1, "a": 1}]})", "twice"},
      {"depth 201", repeat("[", 201) + repeat("]", 201), "too deep"},
      {"a million open brackets", std::string(1'000'000, '['), "too deep"},
      {"a million open objects", repeat("{\"a\":", 1'000'000), "too deep"},
  };
  ASSERT_GE(cases.size(), 25u);
  for (const hostile& c : cases) {
    SCOPED_TRACE(c.name);
    const support::peak_memory memory;
    const auto r = parse_json(c.text, "some.json");
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, error_kind::input);
    EXPECT_EQ(r.error().file, "some.json");
    EXPECT_NE(r.error().message.find(c.says), std::string::npos) << r.error().message;
    EXPECT_LT(memory.bytes(), 64u * 1024 + 4 * c.text.size());
  }
}

TEST(Json, EveryPrefixOfADocumentIsRefused) {
  const std::string text = R"({"a": [1, -2.5e3, "x\u00e9\ud83d\ude00", true, null], "b": {"c": false}})";
  for (std::size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(parse_json(text.substr(0, n), "f")) << text.substr(0, n);
  EXPECT_TRUE(parse_json(text, "f"));
}

TEST(Json, DepthOf200IsAccepted) { EXPECT_TRUE(parse_json(repeat("[", 200) + repeat("]", 200), "f")); }

TEST(Json, ValuesAndBytesAreBounded) {
  EXPECT_TRUE(parse_json("[[0], {\"a\": 1}]", "f", {100, 5}));
  const auto values = parse_json("[[0], {\"a\": 1}]", "f", {100, 4});
  ASSERT_FALSE(values);
  EXPECT_NE(values.error().message.find("more than 4 values"), std::string::npos);
  EXPECT_FALSE(parse_json("[[[[[]]]]]", "f", {100, 4}));
  const auto bytes = parse_json("[1, 2, 3, 4]", "f", {10, 10});
  ASSERT_FALSE(bytes);
  EXPECT_NE(bytes.error().message.find("more than 10 bytes"), std::string::npos);
}

// The parser keeps what it read since the last string or number, so that may not be any number of bytes; blanks do not count.
TEST(Json, LongTokensAreBounded) {
  EXPECT_TRUE(parse_json("[\"" + std::string(1 << 20, 'x') + "\"]", "f"));
  const std::pair<const char*, std::string> refused[] = {{"an open string", "[\"" + std::string(40 << 20, 'x')},
                                                         {"digits", "[" + std::string(40 << 20, '1') + "]"}};
  for (const auto& [name, text] : refused) {
    SCOPED_TRACE(name);
    const support::peak_memory memory;
    const auto r = parse_json(text, "f");
    ASSERT_FALSE(r);
    EXPECT_NE(r.error().message.find("a token is longer than 16777216 bytes"), std::string::npos) << r.error().message;
    EXPECT_LT(memory.bytes(), std::size_t{256} << 20);
  }
  const std::string good = "[1," + std::string(40 << 20, '\n') + "2]" + std::string(40 << 20, ' '), bad = good + "x";
  const support::peak_memory memory;
  EXPECT_TRUE(parse_json(good, "f"));
  EXPECT_FALSE(parse_json(bad, "f"));
  EXPECT_LT(memory.bytes(), 64u * 1024);
}

TEST(Json, AHundredThousandKeysAreCheckedInNoTime) {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += "\"k" + std::to_string(i) + "\":0,";
  const auto good = parse_json(text + "\"z\":0}", "f");
  EXPECT_TRUE(good);
  EXPECT_FALSE(parse_json(text + "\"k777\":0}", "f"));
}

// Documents made at random, and then damaged: our tree holds what the library's own tree holds, and is refused when that is, or for equal keys.
TEST(Json, AgreesWithTheTreeOfNlohmann) {
  std::mt19937 random(20261123);
  const auto pick = [&](std::uint32_t n) { return static_cast<int>(random() % n); };
  const auto text_of = [&] {
    static const char* const pieces[] = {"a", "\xC3\xA9", "\\n", "\\u0041", "\\ud83d\\ude00", "\xE4\xBD\xA0", " ", "0", "\\\\", "\\/"};
    std::string s = "\"";
    for (int i = pick(4); i > 0; --i) s += pieces[pick(10)];
    return s + "\"";
  };
  const auto value = [&](const auto& self, int depth) -> std::string {
    switch (pick(depth > 3 ? 5 : 7)) {
      case 0:
        return "null";
      case 1:
        return pick(2) != 0 ? "true" : "false";
      case 2:
        return std::to_string(static_cast<std::int32_t>(random()));
      case 3:
        return std::to_string(pick(1000)) + "." + std::to_string(pick(1000)) + (pick(2) != 0 ? "e-" + std::to_string(pick(30)) : "");
      case 4:
        return text_of();
      case 5: {
        std::string s = "[";
        const int n = pick(4);
        for (int i = 0; i < n; ++i) s += (i != 0 ? ",\n\t " : " ") + self(self, depth + 1);
        return s + "]";
      }
      default: {
        std::string s = "{";
        const int n = pick(4);
        for (int i = 0; i < n; ++i) s += (i != 0 ? "," : "") + std::string("\"k") + std::to_string(i) + "\" : " + self(self, depth + 1);
        return s + "}";
      }
    }
  };
  int accepted = 0, refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = value(value, 0);
    if (round % 2 != 0) text[static_cast<std::size_t>(pick(static_cast<std::uint32_t>(text.size())))] = "{}[],:\"\\ x0-.e\x80\x01\n\t"[pick(18)];
    const auto ours = parse_json(text, "f");
    bool duplicate = false;
    std::vector<std::vector<std::string>> keys;
    const auto watch = [&](int, nlohmann::ordered_json::parse_event_t event, nlohmann::ordered_json& parsed_key) {
      if (event == nlohmann::ordered_json::parse_event_t::object_start) keys.emplace_back();
      if (event == nlohmann::ordered_json::parse_event_t::object_end) keys.pop_back();
      if (event == nlohmann::ordered_json::parse_event_t::key) {
        for (const std::string& k : keys.back()) duplicate |= k == parsed_key.get<std::string>();
        keys.back().push_back(parsed_key.get<std::string>());
      }
      return true;
    };
    const auto theirs = nlohmann::ordered_json::parse(text, watch, false);
    ASSERT_EQ(static_cast<bool>(ours), !theirs.is_discarded() && !duplicate) << text;
    if (!ours) {
      ++refused;
      continue;
    }
    ++accepted;
    const auto again = nlohmann::ordered_json::parse(dump(*ours, kCompact), nullptr, false);
    ASSERT_EQ(again, theirs) << text;
  }
  EXPECT_GT(accepted, 10'000);
  EXPECT_GT(refused, 3'000);
}

TEST(Json, FilesAreReadWithALimit) {
  const auto r = auto_round::io::read_json(AR_SOURCE_DIR "/examples/data/tiny-stories/config.json", {16, 16});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().kind, error_kind::input);
  EXPECT_NE(r.error().message.find("at most 16"), std::string::npos) << r.error().message;
}

}  // namespace
