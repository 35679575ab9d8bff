// Calibration and evaluation texts, and chat templates.
#include "hostile/model_files.hpp"

namespace hostile {
namespace {

std::vector<std::string> calibrates(const std::string& file, const std::vector<std::string>& more = {}) {
  std::vector<std::string> a = {"quantize", "--model", "@/model", "--output_dir", "@/out", "--scheme", "W4A16G32", "--iters", "0", "--enable_opt_rtn",
                                "--dataset", "@/" + file, "--nsamples", "4", "--seqlen", "16", "--batch_size", "2"};
  a.insert(a.end(), more.begin(), more.end());
  return a;
}

class list {
 public:
  void text(std::string name, std::string file, std::string content, std::vector<std::string> says, int status = bad_input) {
    if (status != accepted) says.push_back("@/" + file);
    const std::vector<std::string> arguments = calibrates(file);
    all_.push_back({std::move(name), [file = std::move(file), content = std::move(content)](const fs::path& dir) {
                      tiny_model().write(dir / "model");
                      put(dir / file, content);
                    }, arguments, status, std::move(says)});
  }
  void lines(std::string name, const std::string& content, std::vector<std::string> says, int status = bad_input) {
    text(std::move(name), "calib.jsonl", content, std::move(says), status);
  }
  void evaluated(std::string name, std::string file, std::string content, std::vector<std::string> says, int status = bad_input) {
    if (status != accepted) says.push_back("@/" + file);
    all_.push_back({"eval: " + std::move(name), [file, content = std::move(content)](const fs::path& dir) {
                      tiny_model().write(dir / "model");
                      put(dir / file, content);
                    }, {"eval", "--model", "@/model", "--ppl", "@/" + file, "--seqlen", "16"}, status, std::move(says)});
  }
  void chat(std::string name, std::string text, std::vector<std::string> says, int status = bad_input) {
    all_.push_back({"chat template: " + std::move(name), [text = std::move(text)](const fs::path& dir) {
                      tiny_model().write(dir / "model");
                      put(dir / "model" / "chat_template.jinja", text);
                      put(dir / "calib.jsonl", tiny_model::calibration(16));
                    }, calibrates("calib.jsonl:apply_chat_template"), status, std::move(says)});
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

const std::string good_line = R"({"text":"a long enough text for sixteen tokens"})" "\n";

void calibration(list& l) {
  l.lines("sound", tiny_model::calibration(16), {}, accepted);
  l.lines("empty file", "", {});
  l.lines("blank lines only", "\n\n\n", {"line 1"});
  l.lines("a blank line between others", good_line + "\n" + good_line, {"line 2", "empty"});
  l.lines("a line that is no JSON", good_line + "hello\n", {"line 2"});
  l.lines("a line cut short", good_line + R"({"text":"abc)", {"line 2"});
  l.lines("two values on a line", R"({"text":"a"}{"text":"b"})", {"line 1"});
  l.lines("a number", "42\n", {"line 1"});
  l.lines("null", "null\n", {"line 1"});
  l.lines("an empty object", "{}\n", {"line 1"});
  l.lines("an empty list", "[]\n", {"line 1"});
  l.lines("a text that is a number", R"({"text":7})", {"line 1"});
  l.lines("a text that is null", R"({"text":null})", {"line 1"});
  l.lines("a text that is an object", R"({"text":{"text":"x"}})", {"line 1"});
  l.lines("a key twice", R"({"text":"a","text":"b"})", {"line 1", "twice"});
  l.lines("bytes that are no UTF-8", "{\"text\":\"\xFF\xFE\xC0\x80\"}\n", {"line 1", "UTF-8"});
  l.lines("a sequence of UTF-8 cut short", "{\"text\":\"\xE2\x82\"}\n", {"line 1", "UTF-8"});
  l.lines("a lone surrogate", R"({"text":"\ud800 and more"})", {"line 1", "surrogate"});
  l.lines("surrogates in the wrong order", R"({"text":"\udc00\ud800"})", {"line 1", "surrogate"});
  l.lines("a zero byte", std::string("{\"text\":\"a\0b\"}\n", 15), {"line 1", "zero byte"});
  l.lines("a byte order mark", "\xEF\xBB\xBF" + good_line, {"line 1", "byte order mark"});
  l.lines("UTF-16", std::string("\xFF\xFE{\0\"\0", 6), {"UTF-16", "UTF-8"});
  l.lines("100,000 brackets", std::string(100'000, '[') + "\n", {"line 1", "too deep"});
  l.lines("token ids that are negative", "[1,2,-3]\n", {"line 1", "token ids"});
  l.lines("token ids that are fractions", "[1,2.5]\n", {"line 1", "token ids"});
  l.lines("token ids of 2^31", "[1,2147483648]\n", {"line 1", "token ids"});
  l.lines("token ids that the tokenizer does not have", repeated("[100000,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]\n", 4), {"100000"});
  l.lines("messages without role", R"([{"content":"x"}])", {"line 1", "role"});
  l.lines("messages whose content is a list", R"([{"role":"user","content":[1]}])", {"line 1", "content"});
  l.lines("messages without a template", R"([{"role":"user","content":"x"}])", {"chat template"});
  l.lines("one token, again and again", repeated(R"({"text":")" + std::string(200, 'a') + "\"}\n", 8), {"more than half"});
  l.lines("texts that are too short", repeated(R"({"text":"ab"})" "\n", 50), {"16 tokens"});
  l.lines("a line of 12 MB", R"({"text":")" + repeated("many words ", 1'100'000) + "\"}\n", {}, accepted);
  l.lines("a line of 17 MB", R"({"text":")" + std::string(17u << 20, 'x') + "\"}\n", {"line 1", "longer than"});
  l.lines("100,000 lines", repeated(good_line, 100'000), {}, accepted);
  l.text("another suffix", "calib.parquet", "PAR1", {".jsonl"}, usage);
  l.text("a list that is a number", "calib.json", "7", {"list of records"});
  l.text("an empty list of records", "calib.json", "[]", {});
  l.text("a list of numbers", "calib.json", "[1,2,3]", {"record 1"});
  l.text("an object of numbers", "calib.json", R"({"a":1})", {"\"a\""});
  l.text("an empty text", "calib.txt", "", {});
  l.text("a text of zero bytes", "calib.txt", std::string(100'000, '\0'), {});
  l.text("a text that is no UTF-8", "calib.txt", repeated("\xFF\xFEnoise \x80\x81 words and more of them here\n", 100), {}, accepted);
}

void evaluation(list& l) {
  l.evaluated("an empty text", "text.txt", "", {"less than one window"});
  l.evaluated("a line that is no JSON", "text.jsonl", good_line + "{", {"text.jsonl:2"});
  l.evaluated("a line without text", "text.jsonl", good_line + "{\"t\":1}\n", {"text.jsonl:2"});
  l.evaluated("bytes that are no UTF-8", "text.jsonl", "\"\xFF\"\n", {"text.jsonl:1"});
  l.evaluated("a text of random bytes", "text.txt", repeated("\xF0\x28\x8C\xBC\xFF words \x80", 200), {}, accepted);
}

void templates(list& l) {
  const std::string file = "@/model/chat_template.jinja";
  l.chat("sound", "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", {}, accepted);
  for (const auto& [name, text] : std::vector<std::pair<std::string, std::string>>{
           {"an unclosed tag", "{% for m in messages"},
           {"an unclosed block", "{% for m in messages %}x"},
           {"an unclosed expression", "{{ messages"},
           {"an unknown tag", "{% launch missiles %}"},
           {"an unknown filter", "{{ 'a' | exec }}"},
           {"a call of something hidden", "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
           {"an import", "{% import 'os' as os %}{{ os.system('id') }}"},
           {"an include", "{% include '/etc/passwd' %}"},
           {"a loop of 10^9", "{% for i in range(1000000000) %}x{% endfor %}"},
           {"loops within each other", "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}"},
           {"a string of 10^9", "{{ 'x' * 1000000000 }}"},
           {"a string that doubles", "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}"},
           {"a list that doubles", "{% set ns = namespace(s=[1,2]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}"},
           {"a macro that calls itself", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"},
           {"10,000 parentheses", "{{ " + std::string(10'000, '(') + "1" + std::string(10'000, ')') + " }}"},
           {"10,000 negations", "{{ " + repeated("not ", 10'000) + "1 }}"},
           {"10,000 blocks within each other", repeated("{% if 1 %}", 10'000) + repeated("{% endif %}", 10'000)},
           {"a division by zero", "{{ 1 // 0 }}"},
           {"the most negative number by -1", "{{ (-9223372036854775807 - 1) // -1 }}"},
           {"a power of powers", "{{ 9 ** 9 ** 9 ** 9 }}"},
           {"a raised exception", "{{ raise_exception('no') }}"},
       }) {
    const bool wrong = name == "a call of something hidden" || name == "a division by zero" || name == "a raised exception";
    l.chat(name, text, {file}, wrong ? bad_input : unsupported);
  }
}

}  // namespace

std::vector<one_case> text_cases() {
  list l;
  calibration(l);
  evaluation(l);
  templates(l);
  return l.take();
}

}  // namespace hostile
