// links: ar_text
// Chat templates render as transformers renders them (recorded by tests/peers/record_chat_templates.py), and hostile ones end with an error.
#include "text/chat_template.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/golden_json.hpp"

namespace {

using namespace auto_round;
using text::chat_template;

result<std::string> render(const std::string& source, const std::vector<text::chat_message>& messages = {{"user", "hello"}}) {
  const auto parsed = chat_template::parse(source);
  if (!parsed) return tl::unexpected<error>(parsed.error());
  return parsed->render(messages, true, "<s>", "</s>");
}

std::string text_of(const std::string& source) {
  const auto r = render(source);
  return r ? *r : "error: " + r.error().message;
}

error_kind kind_of(const std::string& source) {
  const auto r = render(source);
  EXPECT_FALSE(r) << source << " gave " << *r;
  if (r) return error_kind::internal;
  EXPECT_GT(r.error().message.size(), 20u);
  return r.error().kind;
}

std::string repeated(const std::string& s, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += s;
  return out;
}

TEST(ChatTemplate, RendersAsTransformers) {
  const auto cases = golden::read_json(std::filesystem::path(AR_TEST_DATA) / "chat_templates.json");
  ASSERT_GT(cases.size(), 50u);
  for (const auto& c : cases) {
    SCOPED_TRACE(c["name"].get<std::string>() + " " + c["messages"].dump());
    std::vector<text::chat_message> messages;
    for (const auto& m : c["messages"]) messages.push_back({m[0], m[1]});
    const auto parsed = chat_template::parse(c["template"].get<std::string>());
    ASSERT_TRUE(parsed) << parsed.error().message;
    const auto rendered = parsed->render(messages, c["add_generation_prompt"], c["bos_token"], c["eos_token"]);
    if (c.contains("error")) {
      ASSERT_FALSE(rendered) << *rendered;
      EXPECT_EQ(rendered.error().kind, error_kind::input);
    } else {
      ASSERT_TRUE(rendered) << rendered.error().message;
      EXPECT_EQ(*rendered, c["text"].get<std::string>());
    }
  }
}

TEST(ChatTemplate, OneLineFeedAtTheEndGoes) {
  EXPECT_EQ(text_of("a\n"), "a");
  EXPECT_EQ(text_of("a\n\n"), "a\n");
  EXPECT_EQ(text_of(""), "");
}

TEST(ChatTemplate, VariablesOfALoopEndWithItsRound) {
  EXPECT_EQ(text_of("{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}"), "21");
  EXPECT_EQ(text_of("{% if true %}{% set x = 3 %}{% endif %}{{ x }}"), "3");
}

TEST(ChatTemplate, MacrosSeeTheirParametersAndWhatIsSetOutside) {
  EXPECT_EQ(text_of("{% set x = 'o' %}{% macro f(a, b='d') %}{{ a }}{{ b }}{{ x }}{{ y is defined }}{% set x = 'i' %}{% endmacro %}"
                    "{% for y in [1] %}{{ f('a') }}{{ f(b='B', a='A') }}{{ x }}{% endfor %}"),
            "adoFalseABoFalseo");
  EXPECT_EQ(text_of("{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}"), "543210");
}

TEST(ChatTemplate, LoopsAreLeftFromWithin) {
  EXPECT_EQ(text_of("{% for i in range(9) %}{% for j in range(3) %}{% if j == 1 %}{% continue %}{% endif %}{{ j }}{% endfor %}{% if i == 1 %}{% break %}{% endif %}|{% endfor %}"), "02|02");
  EXPECT_EQ(text_of("{% for i in [3, 4, 5] if i > 3 %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}"), "1/2:4 2/2:5 ");
}

TEST(ChatTemplate, NamesWhatItCannotDo) {
  EXPECT_EQ(kind_of("{% include 'x' %}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{% for m in messages recursive %}{% endfor %}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{{ messages | groupby('role') }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{{ 'a'.casefold() }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{{ strftime_now('%Y') }}"), error_kind::unsupported);
}

TEST(ChatTemplate, BrokenTemplatesAreErrors) {
  for (const char* source : {"{{",
                             "{{ }}",
                             "{%",
                             "{% %}",
                             "{% if %}",
                             "{% if true %}",
                             "{% endif %}",
                             "{% for m in messages %}",
                             "{{ 'a }}",
                             "{# never",
                             "{{ a b }}",
                             "{{ (1 }}",
                             "{{ [1, }}",
                             "{{ m[ }}",
                             "{{ m[1:2:3:4] }}",
                             "{{ 99999999999 }}",
                             "{{ 'a\\q' }}",
                             "{{ a ? b }}",
                             "{% set = 1 %}",
                             "{% set a.b = 1 %}",
                             "{% set a.b.c = 1 %}",
                             "{{ missing.name }}",
                             "{{ missing[0] }}",
                             "{{ 1 // 0 }}",
                             "{{ 1 % 0 }}",
                             "{{ 'a' - 1 }}",
                             "{{ -'a' }}",
                             "{{ messages[::0] }}",
                             "{{ 2 ** 3 }}",
                             "{% for c in 'abc' %}{% endfor %}",
                             "{{ \xFF }}",
                             "{% else %}",
                             "{{ }",
                             "{{ f(a= }}",
                             "{{ 'a' | }}",
                             "{{ x is }}",
                             "{% break %}",
                             "{% macro f( %}{% endmacro %}",
                             "{% macro f() %}",
                             "{% macro f() %}{% endmacro %}{{ f(1) }}",
                             "{% for m in messages %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}",
                             "{% for a, b, c in messages %}{% endfor %}",
                             "{% for a, b in [1] %}{% endfor %}",
                             "{% set x %}",
                             "{{ {1: 2} }}",
                             "{{ {'a' 2} }}",
                             "{{ 'a'.replace('', 'b') }}",
                             "{{ messages | map('nothing') }}",
                             "{{ messages | selectattr('role', 'nothing') }}"}) {
    const auto r = render(source);
    EXPECT_FALSE(r) << source << " gave " << (r ? *r : "");
  }
}

TEST(ChatTemplate, DepthAndWorkAreBounded) {
  EXPECT_EQ(kind_of("{{ " + repeated("(", 100000) + "1" + repeated(")", 100000) + " }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{{ " + repeated("- ", 100000) + "1 }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{{ 1" + repeated(" + 1", 100000) + " }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of(repeated("{% if true %}", 100000)), error_kind::unsupported);
  EXPECT_EQ(kind_of("{% if false %}" + repeated("{% elif false %}", 100000) + "{% endif %}"), error_kind::unsupported);
  // Nine nested loops over 40 messages would take 10^14 steps.
  const std::vector<text::chat_message> many(40, {"user", "x"});
  const auto r = render(repeated("{% for m in messages %}", 9) + repeated("{% endfor %}", 9), many);
  EXPECT_FALSE(r);
  EXPECT_EQ(kind_of("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{% macro f() %}" + repeated("{% if true %}", 300) + "{{ f() }}" + repeated("{% endif %}", 300) + "{% endmacro %}{{ f() }}"), error_kind::unsupported);
  EXPECT_EQ(kind_of("{{ range(99999999) | length }}"), error_kind::unsupported);
  // Doubling a string 60 times over.
  EXPECT_FALSE(render("{% set ns = namespace(s='abcdefgh') %}" + repeated("{% set ns.s = ns.s + ns.s %}", 60) + "{{ ns.s }}"));
}

}  // namespace
