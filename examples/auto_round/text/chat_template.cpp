#include "text/chat_template.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

using io::json;

constexpr int kMostDepth = 400;                   // of expressions and statements
constexpr int kMostFrames = 800;                  // of statements and expressions being evaluated: macros may call themselves
constexpr std::size_t kMostWords = 1000;          // in one tag; bounds the depth of a chain like a + a + a
constexpr std::uint64_t kMostBytes = 32u << 20;  // put together while rendering
constexpr std::int64_t kMostRange = 100'000;      // Jinja's sandbox has the same
constexpr std::uint64_t kMostSteps = 500'000;     // evaluated nodes

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f'; }

}  // namespace

// One type for statements and expressions: a kind, a word, and children.
struct chat_template::node {
  enum class kind {
    block,      // children in order
    text,       // word
    print,      // child 0
    for_loop,   // words: variables; child 0: list, 1: body, 2: condition or null, 3: what stands for an empty list, or null
    leave,      // word: break or continue
    macro,      // word: name, words: parameters, children: their defaults (null: none), last the body
    capture,    // word: variable; child 0: body
    if_else,    // child 0: condition, 1: then, 2: else (perhaps absent)
    set,        // word: variable or variable.attribute; child 0: value
    literal,    // value
    name,       // word
    list,       // children
    dict,       // keys and values in turn
    attribute,  // child 0, word
    item,       // child 0 [child 1]
    slice,      // child 0 [child 1 : child 2 : child 3], absent children are literals of null
    call,       // child 0 (children 1...), words: names of keyword arguments, empty for the others
    filter,     // child 0 | word (children 1...)
    test,       // child 0 is word (children 1...)
    unary,      // word child 0
    binary,     // child 0 word child 1
    inline_if,  // child 1 if child 0 else child 2 (perhaps absent)
  };
  kind k = kind::block;
  std::string word;
  json value;
  std::vector<std::unique_ptr<node>> children;
  std::vector<std::string> words;
};

namespace {

using node = chat_template::node;
using kind = node::kind;
using node_ptr = std::unique_ptr<node>;

node_ptr make(kind k, std::string word = {}) {
  auto n = std::make_unique<node>();
  n->k = k;
  n->word = std::move(word);
  return n;
}

template <class... Children>
node_ptr make_with(kind k, std::string word, Children... children) {
  auto n = make(k, std::move(word));
  (n->children.push_back(std::move(children)), ...);
  return n;
}

struct token {
  enum class kind { end, name, string, integer, op } k = kind::end;
  std::string text;
};

// Cuts the source into texts and tags, then parses the tags. The first problem ends everything: `problem_` is set and parsing unwinds.
class parser {
 public:
  explicit parser(std::string_view source) : source_(source) {
    // Jinja drops one line feed at the end of a template.
    if (source_.ends_with('\n')) source_.remove_suffix(1);
    if (source_.ends_with('\r')) source_.remove_suffix(1);
  }

  result<node_ptr> run() {
    node_ptr root = body({});
    if (!problem_.empty()) return fail(error_kind::unsupported, "the chat template " + problem_);
    return root;
  }

 private:
  void complain(const std::string& what) {
    if (problem_.empty()) problem_ = what;
    at_ = source_.size();
    tokens_.clear();
    next_ = 0;
  }
  bool ok() const { return problem_.empty(); }

  // --- texts and tags ---

  // Statements up to a tag whose first word is among `ends`; that tag is left open in tokens_, its word in ended_by_.
  node_ptr body(const std::vector<std::string_view>& ends) {
    auto block = make(kind::block);
    ended_by_.clear();
    if (++depth_ > kMostDepth) complain("is nested too deeply");
    while (ok()) {
      add_text(*block);
      if (at_ >= source_.size()) break;
      const char opener = source_[at_ + 1];
      if (!open_tag()) break;
      if (opener == '#') continue;
      if (opener == '{') {
        block->children.push_back(make_with(kind::print, {}, expression()));
        end_of_tag();
        continue;
      }
      const std::string word = peek().text;
      if (peek().k != token::kind::name) complain("has a statement without a name");
      if (std::find(ends.begin(), ends.end(), word) != ends.end()) {
        ++next_;
        ended_by_ = word;
        break;
      }
      statement(word, *block);
    }
    --depth_;
    if (ok() && ended_by_.empty() && !ends.empty()) complain("has no {% " + std::string(ends.back()) + " %}");
    return block;
  }

  // The text up to the next tag, without what the tags before and behind it swallow.
  void add_text(node& block) {
    std::size_t end = at_;
    while (end + 1 < source_.size() && !(source_[end] == '{' && (source_[end + 1] == '{' || source_[end + 1] == '%' || source_[end + 1] == '#'))) {
      ++end;
    }
    if (end + 1 >= source_.size()) end = source_.size();
    std::size_t begin = at_, stop = end;
    if (swallow_all_) {
      while (begin < stop && is_blank(source_[begin])) ++begin;
    } else if (swallow_line_feed_) {
      if (source_.substr(begin, stop - begin).starts_with("\r\n")) ++begin;
      if (begin < stop && source_[begin] == '\n') ++begin;
    }
    const char opener = end < source_.size() ? source_[end + 1] : '\0';
    const char control = end + 2 < source_.size() ? source_[end + 2] : '\0';
    if (opener != '\0' && control == '-') {
      while (begin < stop && is_blank(source_[stop - 1])) --stop;
    } else if ((opener == '%' || opener == '#') && control != '+') {
      // Blanks go where the tag is the first thing in its line.
      std::size_t blanks = stop;
      while (begin < blanks && is_blank(source_[blanks - 1]) && source_[blanks - 1] != '\n') --blanks;
      if (blanks == 0 || source_[blanks - 1] == '\n') stop = blanks;
    }
    if (begin < stop) block.children.push_back(make(kind::text, std::string(source_.substr(begin, stop - begin))));
    at_ = end;
  }

  // Reads the tag at at_ into tokens_. False at a problem.
  bool open_tag() {
    const char opener = source_[at_ + 1];
    const std::string close = opener == '{' ? "}}" : opener == '%' ? "%}" : "#}";
    std::size_t at = at_ + 2;
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    tokens_.clear();
    next_ = 0;
    if (opener == '#') {
      at = source_.find(close, at);
      if (at == std::string_view::npos) return complain("has an unfinished comment"), false;
    } else {
      while (true) {
        while (at < source_.size() && is_blank(source_[at])) ++at;
        if (at >= source_.size()) return complain("has an unfinished tag"), false;
        const bool controlled = (source_[at] == '-' || source_[at] == '+') && source_.substr(at + 1).starts_with(close);
        if (controlled || source_.substr(at).starts_with(close)) break;
        if (!read_token(at)) return false;
        if (tokens_.size() > kMostWords) return complain("has a tag of more than 1000 words"), false;
      }
    }
    // A comment may hold the control character as its last.
    const char control = opener == '#' ? source_[at - 1] : source_[at];
    const bool controlled = control == '-' || control == '+';
    at_ = at + close.size() + (controlled && opener != '#' ? 1 : 0);
    swallow_all_ = control == '-';
    swallow_line_feed_ = opener != '{' && control != '+';
    return true;
  }

  bool read_token(std::size_t& at) {
    const char c = source_[at];
    if (is_name_start(c)) {
      const std::size_t begin = at;
      while (at < source_.size() && (is_name_start(source_[at]) || is_digit(source_[at]))) ++at;
      tokens_.push_back({token::kind::name, std::string(source_.substr(begin, at - begin))});
    } else if (is_digit(c)) {
      const std::size_t begin = at;
      while (at < source_.size() && is_digit(source_[at])) ++at;
      if (at - begin > 9) return complain("has a number that is too large"), false;
      tokens_.push_back({token::kind::integer, std::string(source_.substr(begin, at - begin))});
    } else if (c == '\'' || c == '"') {
      std::string out;
      for (++at; at < source_.size() && source_[at] != c; ++at) {
        if (source_[at] != '\\') {
          out.push_back(source_[at]);
          continue;
        }
        if (++at >= source_.size()) break;
        constexpr std::string_view kNames = "ntr\\'\"", kValues = "\n\t\r\\'\"";
        const std::size_t which = kNames.find(source_[at]);
        if (which == std::string_view::npos)
          return complain("has the escape \\" + std::string(1, source_[at]) + ", which this version cannot do"), false;
        out.push_back(kValues[which]);
      }
      if (at >= source_.size()) return complain("has an unfinished string"), false;
      ++at;
      tokens_.push_back({token::kind::string, std::move(out)});
    } else {
      for (const std::string_view op : {"==", "!=", "<=", ">=", "//", "**"}) {
        if (!source_.substr(at).starts_with(op)) continue;
        tokens_.push_back({token::kind::op, std::string(op)});
        at += 2;
        return true;
      }
      if (std::string_view("+-*/%~<>=()[]{}.,:|").find(c) == std::string_view::npos) {
        return complain("has the character '" + std::string(1, c) + "' in a tag"), false;
      }
      tokens_.push_back({token::kind::op, std::string(1, c)});
      ++at;
    }
    return true;
  }

  // --- statements ---

  void statement(const std::string& word, node& block) {
    ++next_;
    if (word == "for") {
      block.children.push_back(loop());
    } else if (word == "if") {
      block.children.push_back(conditional());
    } else if (word == "set") {
      block.children.push_back(set());
    } else if (word == "macro") {
      block.children.push_back(macro());
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) complain("has a " + word + " outside of a loop");
      end_of_tag();
      block.children.push_back(make(kind::leave, word));
    } else if (word == "generation" || word == "endgeneration") {
      end_of_tag();  // transformers' mark of what the assistant said; without effect on the text
    } else {
      complain("has the statement {% " + word + " %}, which this version cannot do");
    }
  }

  // Behind "for", through endfor.
  node_ptr loop() {
    auto n = make(kind::for_loop);
    do n->words.push_back(name());
    while (accept(","));
    if (!accept_word("in")) complain("has a for without in");
    n->children.push_back(binary(0));
    node_ptr condition = accept_word("if") ? binary(0) : nullptr;
    if (accept_word("recursive")) complain("has a recursive for, which this version cannot do");
    end_of_tag();
    ++loops_;
    n->children.push_back(body({"else", "endfor"}));
    --loops_;
    n->children.push_back(std::move(condition));
    n->children.push_back(nullptr);
    if (ended_by_ == "else") {
      end_of_tag();
      n->children[3] = body({"endfor"});
    }
    end_of_tag();
    return n;
  }

  // Behind "set": a value, or what stands up to endset.
  node_ptr set() {
    auto n = make(kind::set, name());
    if (accept(".")) n->word.append(".").append(name());
    if (accept("=")) {
      n->children.push_back(expression());
      end_of_tag();
      return n;
    }
    n->k = kind::capture;
    end_of_tag();
    n->children.push_back(body({"endset"}));
    end_of_tag();
    return n;
  }

  // Behind "macro", through endmacro.
  node_ptr macro() {
    auto n = make(kind::macro, name());
    expect("(");
    for (bool first = true; ok() && !accept(")"); first = false) {
      if (!first) expect(",");
      n->words.push_back(name());
      n->children.push_back(accept("=") ? expression() : nullptr);
    }
    end_of_tag();
    const int outside = std::exchange(loops_, 0);
    n->children.push_back(body({"endmacro"}));
    loops_ = outside;
    end_of_tag();
    return n;
  }

  // Behind "if" or "elif", through endif.
  node_ptr conditional() {
    auto n = make_with(kind::if_else, {}, expression());
    end_of_tag();
    n->children.push_back(body({"elif", "else", "endif"}));
    if (ended_by_ == "elif") {
      if (++depth_ > kMostDepth) complain("has too many elifs");
      n->children.push_back(conditional());
      --depth_;
    } else if (ended_by_ == "else") {
      end_of_tag();
      n->children.push_back(body({"endif"}));
      end_of_tag();
    } else {
      end_of_tag();
    }
    return n;
  }

  // --- expressions ---

  const token& peek() const {
    static const token kEnd;
    return next_ < tokens_.size() ? tokens_[next_] : kEnd;
  }
  bool accept(std::string_view op) {
    if (peek().k != token::kind::op || peek().text != op) return false;
    ++next_;
    return true;
  }
  bool accept_word(std::string_view word) {
    if (peek().k != token::kind::name || peek().text != word) return false;
    ++next_;
    return true;
  }
  void expect(std::string_view op) {
    if (!accept(op)) complain("lacks a '" + std::string(op) + "' in a tag");
  }
  std::string name() {
    if (peek().k != token::kind::name) {
      complain("lacks a name in a tag");
      return {};
    }
    return tokens_[next_++].text;
  }
  void end_of_tag() {
    if (next_ < tokens_.size()) complain("has \"" + peek().text + "\" where a tag should end");
  }

  node_ptr expression() {
    if (++depth_ > kMostDepth) complain("is nested too deeply");
    node_ptr value = binary(0);
    while (ok() && accept_word("if")) {
      auto n = make_with(kind::inline_if, {}, binary(0), std::move(value));
      if (accept_word("else")) n->children.push_back(expression());
      value = std::move(n);
    }
    --depth_;
    return value;
  }

  // Operators from the loosest (level 0) to the tightest.
  node_ptr binary(int level) {
    static const std::vector<std::vector<std::string_view>> kLevels = {
        {"or"}, {"and"}, {}, {"==", "!=", "<", "<=", ">", ">=", "in", "not in"}, {"+", "-"}, {"~"}, {"*", "/", "//", "%"}};
    if (++depth_ > kMostDepth) complain("is nested too deeply");
    node_ptr left;
    if (level == 2) {
      left = accept_word("not") ? make_with(kind::unary, "not", binary(2)) : binary(3);
    } else if (level == static_cast<int>(kLevels.size())) {
      left = unary();
    } else {
      left = binary(level + 1);
      for (std::string_view op; ok() && !(op = operator_among(kLevels[static_cast<std::size_t>(level)])).empty();) {
        left = make_with(kind::binary, std::string(op), std::move(left), binary(level + 1));
      }
    }
    --depth_;
    return left;
  }

  std::string_view operator_among(const std::vector<std::string_view>& ops) {
    const bool negated = peek().text == "not" && next_ + 1 < tokens_.size() && tokens_[next_ + 1].text == "in";
    for (const std::string_view op : ops) {
      if (op == "not in" ? negated && peek().k == token::kind::name : (accept(op) || accept_word(op))) {
        if (op == "not in") next_ += 2;
        return op;
      }
    }
    return {};
  }

  node_ptr unary() {
    if (accept("-")) return make_with(kind::unary, "-", unary());
    node_ptr value = primary();
    while (ok()) {
      if (accept(".")) {
        value = make_with(kind::attribute, name(), std::move(value));
      } else if (accept("[")) {
        value = subscript(std::move(value));
      } else if (accept("(")) {
        value = call(make_with(kind::call, {}, std::move(value)));
      } else if (accept("|")) {
        auto n = make_with(kind::filter, name(), std::move(value));
        value = accept("(") ? call(std::move(n)) : std::move(n);
      } else if (accept_word("is")) {
        const bool negated = accept_word("not");
        value = test_arguments(make_with(kind::test, name(), std::move(value)));
        if (negated) value = make_with(kind::unary, "not", std::move(value));
      } else {
        break;
      }
    }
    return value;
  }

  // A test's argument may stand in parentheses or, if it is one word, behind it.
  node_ptr test_arguments(node_ptr n) {
    if (accept("(")) return call(std::move(n));
    const token& t = peek();
    const bool word = t.k == token::kind::name && t.text != "and" && t.text != "or" && t.text != "not" && t.text != "if" && t.text != "else" && t.text != "in" && t.text != "is";
    if (t.k == token::kind::string || t.k == token::kind::integer || word || (t.k == token::kind::op && t.text == "[")) n->children.push_back(primary());
    return n;
  }

  // The arguments of a call or a filter, through the closing parenthesis.
  node_ptr call(node_ptr n) {
    n->words.resize(n->children.size());
    for (bool first = true; ok() && !accept(")"); first = false) {
      if (!first) expect(",");
      std::string keyword;
      if (peek().k == token::kind::name && next_ + 1 < tokens_.size() && tokens_[next_ + 1].k == token::kind::op && tokens_[next_ + 1].text == "=") {
        keyword = name();
        expect("=");
      }
      n->children.push_back(expression());
      n->words.push_back(std::move(keyword));
    }
    return n;
  }

  node_ptr subscript(node_ptr of) {
    node_ptr parts[3];
    int count = 0;
    bool slice = false;
    while (ok() && !accept("]")) {
      if (accept(":")) {
        slice = true;
        if (++count > 2) complain("has a slice with too many parts");
      } else if (parts[count] != nullptr || next_ >= tokens_.size()) {
        complain("has an unfinished subscript");
      } else {
        parts[count] = expression();
      }
    }
    if (!slice) {
      if (parts[0] == nullptr) complain("has an empty subscript");
      return make_with(kind::item, {}, std::move(of), std::move(parts[0]));
    }
    for (node_ptr& p : parts) {
      if (p == nullptr) p = make(kind::literal);
    }
    return make_with(kind::slice, {}, std::move(of), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
  }

  node_ptr primary() {
    const token t = peek();
    if (t.k == token::kind::end) {
      complain("has an unfinished expression");
      return make(kind::literal);
    }
    ++next_;
    if (t.k == token::kind::string) {
      auto n = make(kind::literal);
      n->value = json(t.text);
      while (peek().k == token::kind::string) n->value = json(n->value.as_string() + tokens_[next_++].text);
      return n;
    }
    if (t.k == token::kind::integer) {
      auto n = make(kind::literal);
      n->value = json(static_cast<std::int64_t>(std::stol(t.text)));
      return n;
    }
    if (t.k == token::kind::name) {
      auto n = make(kind::literal);
      if (t.text == "true" || t.text == "True") {
        n->value = json(true);
      } else if (t.text == "false" || t.text == "False") {
        n->value = json(false);
      } else if (t.text != "none" && t.text != "None") {
        n->k = kind::name;
        n->word = t.text;
      }
      return n;
    }
    if (t.text == "(") {
      node_ptr n = expression();
      expect(")");
      return n;
    }
    if (t.text == "[") {
      auto n = make(kind::list);
      while (ok() && !accept("]")) {
        if (!n->children.empty()) expect(",");
        if (accept("]")) break;
        n->children.push_back(expression());
      }
      return n;
    }
    if (t.text == "{") {
      auto n = make(kind::dict);
      while (ok() && !accept("}")) {
        if (!n->children.empty()) expect(",");
        if (accept("}")) break;
        n->children.push_back(expression());
        expect(":");
        n->children.push_back(expression());
      }
      return n;
    }
    complain("has '" + t.text + "' where a value should be");
    return make(kind::literal);
  }

  std::string_view source_;
  std::size_t at_ = 0;
  bool swallow_all_ = false, swallow_line_feed_ = false;
  std::vector<token> tokens_;
  std::size_t next_ = 0;
  int depth_ = 0, loops_ = 0;
  std::string ended_by_;
  std::string problem_;
};

// A value; `defined` is false for what Jinja calls undefined.
struct value {
  json v;
  bool defined = true;
};

std::string repr(const json& v);

// As Python's str() shows it.
std::string to_text(const json& v) {
  if (v.is_string()) return v.as_string();
  if (v.is_null()) return "None";
  if (v.is_bool()) return v.as_bool() ? "True" : "False";
  if (v.is_array() || v.is_object()) return repr(v);
  return io::dump(v, {.indent = -1});
}

std::string repr(const json& v) {
  if (v.is_string()) return "'" + v.as_string() + "'";
  std::string out;
  if (v.is_array()) {
    for (const json& i : v.items()) out.append(out.empty() ? "[" : ", ").append(repr(i));
    return out.empty() ? "[]" : out.append("]");
  }
  if (v.is_object()) {
    for (const auto& [key, i] : v.members()) out.append(out.empty() ? "{" : ", ").append(repr(json(key))).append(": ").append(repr(i));
    return out.empty() ? "{}" : out.append("}");
  }
  return to_text(v);
}

bool is_true(const value& x) {
  if (!x.defined || x.v.is_null()) return false;
  if (x.v.is_bool()) return x.v.as_bool();
  if (x.v.is_string()) return !x.v.as_string().empty();
  if (x.v.is_array()) return !x.v.items().empty();
  if (x.v.is_object()) return !x.v.members().empty();
  return x.v.as_double() != 0;
}

bool equal(const json& a, const json& b) {
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  if (a.is_string() && b.is_string()) return a.as_string() == b.as_string();
  if (a.is_bool() && b.is_bool()) return a.as_bool() == b.as_bool();
  if (a.is_array() && b.is_array()) return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(), equal);
  return a.is_null() && b.is_null();
}

std::string strip(const std::string& text, const std::string& set, bool left, bool right) {
  const auto goes = [&](char32_t c) {
    if (set.empty()) return is_python_space(c);
    for (std::size_t at = 0; at < set.size();) {
      if (next_code_point(set, at) == c) return true;
    }
    return false;
  };
  std::size_t begin = text.size(), end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    if (goes(next_code_point(text, at))) continue;
    begin = std::min(begin, here);
    end = at;
  }
  if (!left) begin = 0;
  if (!right) end = text.size();
  return begin < end ? text.substr(begin, end - begin) : std::string();
}

std::string mapped(std::string text, char from, char to) {
  for (char& c : text) {
    if (c >= from && c <= to) c = static_cast<char>(c ^ 0x20);
  }
  return text;
}

class renderer {
 public:
  result<std::string> run(const node& root, std::map<std::string, json> globals) {
    scopes_.push_back(std::move(globals));
    run_statement(root);
    if (!problem_.message.empty()) return tl::unexpected<error>(problem_);
    return std::move(out_);
  }

 private:
  bool ok() const { return problem_.message.empty(); }
  value complain(const std::string& what, error_kind k = error_kind::unsupported) {
    if (ok()) problem_ = {k, "the chat template " + what, {}, {}};
    return {{}, false};
  }

  // True if `more` bytes may still be put together.
  bool afford(std::size_t more) {
    bytes_ += more;
    if (bytes_ > kMostBytes) complain("makes more than 32 MiB of text");
    return ok();
  }
  void print(const std::string& s) {
    if (afford(s.size())) out_ += s;
  }
  value joined(const std::string& a, const std::string& b) { return afford(a.size() + b.size()) ? value{json(a + b)} : value{{}, false}; }

  json* find(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto found = scope->find(name); found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  struct frame {
    explicit frame(int& depth) : depth_(++depth) {}
    ~frame() { --depth_; }
    frame(const frame&) = delete;
    frame& operator=(const frame&) = delete;
    int& depth_;
  };

  void run_statement(const node& n) {
    const frame here(depth_);
    if (++steps_ > kMostSteps) complain("runs too long");
    if (depth_ > kMostFrames) complain("calls macros within macros too deeply");
    if (!ok() || leaving_ != nullptr) return;
    switch (n.k) {
      case kind::block:
        for (const node_ptr& c : n.children) run_statement(*c);
        return;
      case kind::text:
        print(n.word);
        return;
      case kind::print: {
        const value x = evaluate(*n.children[0]);
        if (x.defined) print(to_text(x.v));
        return;
      }
      case kind::for_loop:
        return run_loop(n);
      case kind::if_else:
        if (is_true(evaluate(*n.children[0]))) {
          run_statement(*n.children[1]);
        } else if (n.children.size() > 2) {
          run_statement(*n.children[2]);
        }
        return;
      case kind::set:
        return assign(n.word, evaluate(*n.children[0]));
      case kind::capture:
        return assign(n.word, {json(captured(*n.children[0]))});
      case kind::macro:
        macros_[n.word] = &n;
        return;
      case kind::leave:
        leaving_ = &n;
        return;
      default:
        complain("has an expression where a statement should be");
        return;
    }
  }

  std::string captured(const node& body) {
    std::string outside = std::exchange(out_, {});
    run_statement(body);
    return std::exchange(out_, std::move(outside));
  }

  // Binds the variables of a loop to one item; false at a problem.
  bool bind(const node& n, const json& item, std::map<std::string, json>& scope) {
    if (n.words.size() == 1) {
      scope[n.words[0]] = item;
      return true;
    }
    const json::array keys = keys_of(item);
    const json::array& parts = item.is_object() ? keys : item.items();
    if (parts.size() != n.words.size()) return complain("loops with several variables over items of another size", error_kind::input), false;
    for (std::size_t i = 0; i < n.words.size(); ++i) scope[n.words[i]] = parts[i];
    return true;
  }

  // Names set inside a loop are gone after each round, as in Jinja; namespace() is what survives.
  void run_loop(const node& n) {
    const value list = evaluate(*n.children[0]);
    if (!ok()) return;
    if (list.defined && !list.v.is_array() && !list.v.is_object() && !list.v.is_null()) {
      complain("loops over what is no list");
      return;
    }
    json::array items;
    const json::array keys = keys_of(list.v);
    for (const json& item : list.v.is_object() ? keys : list.v.items()) {
      if (n.children[2] != nullptr) {
        scopes_.emplace_back();
        const bool wanted = bind(n, item, scopes_.back()) && is_true(evaluate(*n.children[2]));
        scopes_.pop_back();
        if (!wanted) continue;
      }
      if (!ok() || !afford(64)) return;
      items.push_back(item);
    }
    if (items.empty() && n.children[3] != nullptr) return run_statement(*n.children[3]);
    for (std::size_t i = 0; i < items.size() && ok(); ++i) {
      std::map<std::string, json> scope;
      if (!bind(n, items[i], scope)) return;
      json::object loop = {{"index", json(i + 1)},
                           {"index0", json(i)},
                           {"first", json(i == 0)},
                           {"last", json(i + 1 == items.size())},
                           {"length", json(items.size())},
                           {"revindex", json(items.size() - i)},
                           {"revindex0", json(items.size() - i - 1)}};
      if (i > 0) loop.emplace_back("previtem", items[i - 1]);
      if (i + 1 < items.size()) loop.emplace_back("nextitem", items[i + 1]);
      scope["loop"] = json(std::move(loop));
      scopes_.push_back(std::move(scope));
      run_statement(*n.children[1]);
      scopes_.pop_back();
      const node* const left = std::exchange(leaving_, nullptr);
      if (left != nullptr && left->word == "break") return;
    }
  }

  void assign(const std::string& to, value x) {
    if (!ok()) return;
    const std::size_t dot = to.find('.');
    if (dot == std::string::npos) {
      scopes_.back()[to] = std::move(x.v);
      return;
    }
    json* target = find(to.substr(0, dot));
    if (target == nullptr || !target->is_object()) {
      complain("sets an attribute of what is no namespace", error_kind::input);
      return;
    }
    target->set(to.substr(dot + 1), std::move(x.v));
  }

  // The text of a macro. It sees its parameters and what was set outside of loops and macros.
  value run_macro(const node& m, const std::vector<json>& arguments, const json::object& keywords) {
    if (arguments.size() > m.words.size()) return complain("calls the macro " + m.word + " with too many arguments", error_kind::input);
    std::map<std::string, json> scope;
    for (std::size_t i = 0; i < m.words.size(); ++i) {
      const auto keyword = std::find_if(keywords.begin(), keywords.end(), [&](const auto& k) { return k.first == m.words[i]; });
      if (i < arguments.size()) {
        scope[m.words[i]] = arguments[i];
      } else if (keyword != keywords.end()) {
        scope[m.words[i]] = keyword->second;
      } else if (m.children[i] != nullptr) {
        scope[m.words[i]] = evaluate(*m.children[i]).v;
      }
    }
    std::vector<std::map<std::string, json>> outside(std::make_move_iterator(scopes_.begin() + 1), std::make_move_iterator(scopes_.end()));
    scopes_.resize(1);
    scopes_.push_back(std::move(scope));
    value text{json(captured(*m.children.back()))};
    scopes_.resize(1);
    scopes_.insert(scopes_.end(), std::make_move_iterator(outside.begin()), std::make_move_iterator(outside.end()));
    return text;
  }

  static json::array keys_of(const json& object) {
    json::array keys;
    for (const auto& [key, v] : object.members()) keys.emplace_back(key);
    return keys;
  }

  value evaluate(const node& n) {
    const frame here(depth_);
    if (++steps_ > kMostSteps) return complain("runs too long");
    if (depth_ > kMostFrames) return complain("calls macros within macros too deeply");
    if (!ok()) return {{}, false};
    switch (n.k) {
      case kind::literal:
        return {n.value};
      case kind::name: {
        const json* found = find(n.word);
        return found == nullptr ? value{{}, false} : value{*found};
      }
      case kind::list: {
        json::array list;
        for (const node_ptr& c : n.children) list.push_back(evaluate(*c).v);
        return {json(std::move(list))};
      }
      case kind::dict: {
        json object = json::object{};
        for (std::size_t i = 0; i + 1 < n.children.size(); i += 2) {
          const value key = evaluate(*n.children[i]);
          if (!key.v.is_string()) return complain("has a mapping with a key that is no text");
          object.set(key.v.as_string(), evaluate(*n.children[i + 1]).v);
        }
        return {std::move(object)};
      }
      case kind::attribute:
        return member(evaluate(*n.children[0]), n.word);
      case kind::item: {
        const value of = evaluate(*n.children[0]), index = evaluate(*n.children[1]);
        if (index.v.is_string()) return member(of, index.v.as_string());
        return element(of, index.v.as_int());
      }
      case kind::slice:
        return slice(n);
      case kind::call:
        return call(n);
      case kind::filter:
        return filter(n);
      case kind::test:
        return test(n);
      case kind::unary: {
        const value x = evaluate(*n.children[0]);
        if (n.word == "not") return {json(!is_true(x))};
        if (!x.v.is_int()) return complain("negates what is no integer");
        return {json(-x.v.as_int())};
      }
      case kind::binary:
        return binary(n);
      case kind::inline_if:
        if (is_true(evaluate(*n.children[0]))) return evaluate(*n.children[1]);
        return n.children.size() > 2 ? evaluate(*n.children[2]) : value{{}, false};
      default:
        return complain("has a statement where an expression should be");
    }
  }

  value member(const value& of, const std::string& key) {
    if (!of.defined) return complain("asks an undefined value for \"" + key + "\"", error_kind::input);
    const json* found = of.v.find(key);
    return found == nullptr ? value{{}, false} : value{*found};
  }

  value element(const value& of, std::int64_t index) {
    if (!of.defined) return complain("asks an undefined value for an element", error_kind::input);
    const json::array characters = of.v.is_string() ? characters_of(of.v.as_string()) : json::array();
    const auto& items = of.v.is_string() ? characters : of.v.items();
    const auto size = static_cast<std::int64_t>(items.size());
    if (index < 0) index += size;
    return index < 0 || index >= size ? value{{}, false} : value{items[static_cast<std::size_t>(index)]};
  }

  value slice(const node& n) {
    const value of = evaluate(*n.children[0]);
    const json from = evaluate(*n.children[1]).v, to = evaluate(*n.children[2]).v, by = evaluate(*n.children[3]).v;
    if (!of.v.is_array() && !of.v.is_string()) return complain("slices what is no list and no text");
    const json::array characters = of.v.is_string() ? characters_of(of.v.as_string()) : json::array();
    const auto& items = of.v.is_string() ? characters : of.v.items();
    const auto size = static_cast<std::int64_t>(items.size());
    const std::int64_t step = by.as_int(1);
    if (step == 0) return complain("slices with a step of zero", error_kind::input);
    const auto bound = [&](const json& b, std::int64_t otherwise) {
      if (b.is_null()) return otherwise;
      const std::int64_t i = b.as_int() < 0 ? b.as_int() + size : b.as_int();
      return step > 0 ? std::clamp<std::int64_t>(i, 0, size) : std::clamp<std::int64_t>(i, -1, size - 1);
    };
    const std::int64_t first = bound(from, step > 0 ? 0 : size - 1), last = bound(to, step > 0 ? size : -1);
    json::array out;
    for (std::int64_t i = first; step > 0 ? i < last : i > last; i += step) out.push_back(items[static_cast<std::size_t>(i)]);
    return of.v.is_string() ? joined(out, "") : value{json(std::move(out))};
  }

  json::array characters_of(const std::string& text) {
    json::array out;
    if (!afford(text.size() * 64)) return out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      next_code_point(text, at);
      out.emplace_back(text.substr(begin, at - begin));
    }
    return out;
  }

  value joined(const json::array& parts, const std::string& separator) {
    std::string text;
    for (const json& p : parts) {
      const std::string part = to_text(p);
      if (!afford(part.size() + separator.size())) return {{}, false};
      if (&p != &parts.front()) text += separator;
      text += part;
    }
    return {json(std::move(text))};
  }

  // str.replace; a count below 0 means all.
  value replaced(const std::string& text, const std::string& from, const std::string& to, std::int64_t count) {
    if (from.empty()) return complain("replaces an empty text, which this version cannot do");
    std::string out;
    std::size_t done = 0;
    for (std::size_t at; count != 0 && (at = text.find(from, done)) != std::string::npos; --count) {
      if (!afford(at - done + to.size())) return {{}, false};
      out.append(text, done, at - done).append(to);
      done = at + from.size();
    }
    return {json(out.append(text, done))};
  }

  value binary(const node& n) {
    const std::string& op = n.word;
    const value left = evaluate(*n.children[0]);
    if (op == "and") return is_true(left) ? evaluate(*n.children[1]) : left;
    if (op == "or") return is_true(left) ? left : evaluate(*n.children[1]);
    const value right = evaluate(*n.children[1]);
    if (!ok()) return {{}, false};
    const json &a = left.v, &b = right.v;
    if (op == "==" || op == "!=") return {json((left.defined == right.defined && equal(a, b)) == (op == "=="))};
    if (op == "in" || op == "not in") {
      bool found = false;
      if (b.is_string() && a.is_string()) found = b.as_string().find(a.as_string()) != std::string::npos;
      for (const json& i : b.items()) found |= equal(i, a);
      if (b.is_object() && a.is_string()) found = b.find(a.as_string()) != nullptr;
      return {json(found == (op == "in"))};
    }
    if (op == "~") return joined(left.defined ? to_text(a) : "", right.defined ? to_text(b) : "");
    if (op == "+" && a.is_string() && b.is_string()) return joined(a.as_string(), b.as_string());
    if (op == "+" && a.is_array() && b.is_array()) {
      if (!afford((a.items().size() + b.items().size()) * 64)) return {{}, false};
      json::array both = a.items();
      both.insert(both.end(), b.items().begin(), b.items().end());
      return {json(std::move(both))};
    }
    if (!a.is_int() || !b.is_int()) {
      return complain("computes with " + repr(a) + " " + op + " " + repr(b) + ", which are no integers", error_kind::input);
    }
    const std::int64_t x = a.as_int(), y = b.as_int();
    constexpr std::int64_t kMost = std::int64_t{1} << 31;  // keeps every result below within 64 bits
    if (x > kMost || x < -kMost || y > kMost || y < -kMost) return complain("computes with too large numbers", error_kind::input);
    if (op == "<") return {json(x < y)};
    if (op == "<=") return {json(x <= y)};
    if (op == ">") return {json(x > y)};
    if (op == ">=") return {json(x >= y)};
    if (op == "+") return {json(x + y)};
    if (op == "-") return {json(x - y)};
    if (op == "*") return {json(x * y)};
    if ((op == "//" || op == "%") && y != 0) {
      const std::int64_t quotient = x / y - ((x % y != 0 && (x < 0) != (y < 0)) ? 1 : 0);
      return {json(op == "//" ? quotient : x - quotient * y)};
    }
    return complain("computes " + std::to_string(x) + " " + op + " " + std::to_string(y), error_kind::input);
  }

  value call(const node& n) {
    std::vector<json> arguments;
    json::object keywords;
    for (std::size_t i = 1; i < n.children.size(); ++i) {
      value x = evaluate(*n.children[i]);
      if (n.words[i].empty()) {
        arguments.push_back(std::move(x.v));
      } else {
        keywords.emplace_back(n.words[i], std::move(x.v));
      }
    }
    if (!ok()) return {{}, false};
    const node& callee = *n.children[0];
    if (callee.k == kind::name && callee.word == "namespace") return {json(std::move(keywords))};
    if (callee.k == kind::name && callee.word == "raise_exception") {
      return complain("refuses the conversation: " + (arguments.empty() ? std::string() : to_text(arguments[0])), error_kind::input);
    }
    if (const auto m = callee.k == kind::name ? macros_.find(callee.word) : macros_.end(); m != macros_.end()) return run_macro(*m->second, arguments, keywords);
    if (callee.k == kind::name && callee.word == "range" && !arguments.empty() && arguments.size() <= 2) {
      constexpr std::int64_t kFar = std::int64_t{1} << 40;  // keeps the difference within 64 bits
      const std::int64_t from = std::clamp(arguments.size() == 2 ? arguments[0].as_int() : 0, -kFar, kFar), to = std::clamp(arguments.back().as_int(), -kFar, kFar);
      if (to - from > kMostRange) return complain("asks for a range of more than 100000 numbers");
      json::array list;
      for (std::int64_t i = from; i < to && afford(64); ++i) list.emplace_back(i);
      return {json(std::move(list))};
    }
    if (callee.k == kind::name && callee.word == "dict" && arguments.empty()) return {json(std::move(keywords))};
    if (callee.k != kind::attribute) return complain("calls a function that this version does not have");
    const value of = evaluate(*callee.children[0]);
    const std::string first = !arguments.empty() && arguments[0].is_string() ? arguments[0].as_string() : std::string();
    if (!ok()) return {{}, false};
    if (of.v.is_object() && callee.word == "get" && !arguments.empty()) {
      const json* found = of.v.find(first);
      return {found != nullptr ? *found : arguments.size() > 1 ? arguments[1] : json()};
    }
    if (of.v.is_object() && (callee.word == "items" || callee.word == "keys" || callee.word == "values")) return entries(of.v, callee.word);
    if (!of.v.is_string()) return complain("calls the method " + callee.word + ", which this version does not have");
    const std::string& text = of.v.as_string();
    if (callee.word == "strip" || callee.word == "lstrip" || callee.word == "rstrip") {
      return {json(strip(text, first, callee.word != "rstrip", callee.word != "lstrip"))};
    }
    if (callee.word == "startswith") return {json(text.starts_with(first))};
    if (callee.word == "endswith") return {json(text.ends_with(first))};
    if (callee.word == "upper") return {json(mapped(text, 'a', 'z'))};
    if (callee.word == "lower") return {json(mapped(text, 'A', 'Z'))};
    if (callee.word == "capitalize") return {json(capitalize(text))};
    if (callee.word == "title") return {json(titled(text))};
    if (callee.word == "replace" && arguments.size() >= 2) return replaced(text, first, to_text(arguments[1]), arguments.size() > 2 ? arguments[2].as_int(-1) : -1);
    if (callee.word == "join" && arguments.size() == 1) return joined(arguments[0].items(), text);
    if (callee.word == "count" && !first.empty()) {
      std::int64_t count = 0;
      for (std::size_t at = 0; (at = text.find(first, at)) != std::string::npos; at += first.size()) ++count;
      return {json(count)};
    }
    if (callee.word == "split" && !first.empty()) {
      json::array parts;
      std::size_t begin = 0;
      std::int64_t most = arguments.size() > 1 ? arguments[1].as_int(-1) : -1;
      for (std::size_t end; most-- != 0 && (end = text.find(first, begin)) != std::string::npos; begin = end + first.size()) {
        parts.emplace_back(text.substr(begin, end - begin));
      }
      parts.emplace_back(text.substr(begin));
      return {json(std::move(parts))};
    }
    return complain("calls the method " + callee.word + ", which this version does not have");
  }

  // Python's str.title for ASCII: a capital behind whatever is no letter.
  static std::string titled(std::string text) {
    bool inside = false;
    for (char& c : text) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
      if (letter) c = mapped({c}, inside ? 'A' : 'a', inside ? 'Z' : 'z')[0];
      inside = letter;
    }
    return text;
  }

  static value entries(const json& object, const std::string& which) {
    json::array out;
    for (const auto& [key, v] : object.members()) {
      if (which == "keys") out.emplace_back(key);
      if (which == "values") out.push_back(v);
      if (which == "items") out.emplace_back(json::array{json(key), v});
    }
    return {json(std::move(out))};
  }

  value filter(const node& n) {
    const value x = evaluate(*n.children[0]);
    if (!ok()) return x;
    const std::string& name = n.word;
    if (name == "default" || name == "d") return x.defined || n.children.size() < 2 ? x : evaluate(*n.children[1]);
    std::vector<json> arguments;
    json keywords = json::object{};
    for (std::size_t i = 1; i < n.children.size(); ++i) {
      value a = evaluate(*n.children[i]);
      if (n.words[i].empty()) {
        arguments.push_back(std::move(a.v));
      } else {
        keywords.set(n.words[i], std::move(a.v));
      }
    }
    if (!ok()) return {{}, false};
    const std::string first = arguments.empty() ? std::string() : to_text(arguments[0]);
    if (name == "map" || name == "selectattr" || name == "rejectattr" || name == "select" || name == "reject") return filter_items(name, x.v, arguments, keywords);
    if (name == "join") {
      const std::string attribute = keywords.at("attribute").as_string();
      json::array parts;
      for (const json& item : x.v.items()) parts.push_back(attribute.empty() ? item : item.at(attribute));
      return joined(parts, first);
    }
    if (name == "replace" && arguments.size() >= 2) return replaced(to_text(x.v), first, to_text(arguments[1]), arguments.size() > 2 ? arguments[2].as_int(-1) : -1);
    if (name == "items") return entries(x.v, "items");
    return plain_filter(name, x, keywords);
  }

  value plain_filter(const std::string& name, const value& x, const json& keywords = json(json::object{})) {
    if (name == "trim") return {json(strip(to_text(x.v), {}, true, true))};
    if (name == "length" || name == "count") {
      if (!x.v.is_string()) return {json(x.v.is_object() ? x.v.members().size() : x.v.items().size())};
      std::int64_t points = 0;
      for (std::size_t at = 0; at < x.v.as_string().size(); ++points) next_code_point(x.v.as_string(), at);
      return {json(points)};
    }
    if (name == "upper") return {json(mapped(to_text(x.v), 'a', 'z'))};
    if (name == "lower") return {json(mapped(to_text(x.v), 'A', 'Z'))};
    if (name == "capitalize") return {json(capitalize(to_text(x.v)))};
    if (name == "title") return {json(titled(to_text(x.v)))};
    if (name == "string") return {json(to_text(x.v))};
    if (name == "list" && x.v.is_array()) return x;
    if (name == "list" && x.v.is_object()) return {json(keys_of(x.v))};
    if (name == "list" && x.v.is_string()) return {json(characters_of(x.v.as_string()))};
    if (name == "reverse" && x.v.is_array()) {
      json::array turned(x.v.items().rbegin(), x.v.items().rend());
      return {json(std::move(turned))};
    }
    if (name == "int" && x.v.is_number()) return {json(x.v.as_int(static_cast<std::int64_t>(x.v.as_double())))};
    if (name == "safe") return x;
    if (name == "first") return element(x, 0);
    if (name == "last") return element(x, -1);
    if (name == "tojson") {
      const std::int64_t indent = keywords.at("indent").as_int(-1);
      return {json(io::dump(x.v, {.indent = static_cast<int>(std::clamp<std::int64_t>(indent, -1, 16)), .ensure_ascii = false}))};
    }
    return complain("uses the filter " + name + ", which this version does not have");
  }

  // map, select, reject and their forms that look at an attribute.
  value filter_items(const std::string& name, const json& list, const std::vector<json>& arguments, const json& keywords) {
    json::array out;
    const bool by_attribute = name.ends_with("attr");
    const bool reject = name.starts_with("reject");
    const std::size_t test_at = by_attribute ? 1 : 0;
    const std::string first = arguments.empty() ? std::string() : to_text(arguments[0]);
    for (const json& item : list.items()) {
      if (++steps_ > kMostSteps) return complain("runs too long");
      if (name == "map") {
        const json* const attribute = keywords.find("attribute");
        const value mapped_item = attribute != nullptr ? value{item.at(attribute->as_string())} : plain_filter(first, {item});
        if (!ok()) return {{}, false};
        out.push_back(mapped_item.v);
        continue;
      }
      const json* const found = by_attribute ? item.find(first) : &item;
      const value x = found == nullptr ? value{{}, false} : value{*found};
      const bool passes = arguments.size() <= test_at ? is_true(x) : holds(to_text(arguments[test_at]), x, {arguments.begin() + static_cast<std::ptrdiff_t>(test_at) + 1, arguments.end()});
      if (!ok()) return {{}, false};
      if (passes != reject) out.push_back(item);
    }
    return {json(std::move(out))};
  }

  value test(const node& n) {
    const value x = evaluate(*n.children[0]);
    std::vector<json> arguments;
    for (std::size_t i = 1; i < n.children.size(); ++i) arguments.push_back(evaluate(*n.children[i]).v);
    if (!ok()) return {{}, false};
    return {json(holds(n.word, x, arguments))};
  }

  bool holds(const std::string& name, const value& x, const std::vector<json>& arguments) {
    if (name == "defined") return x.defined;
    if (name == "undefined") return !x.defined;
    if (name == "none") return x.defined && x.v.is_null();
    if (name == "string") return x.v.is_string();
    if (name == "mapping") return x.v.is_object();
    if (name == "sequence" || name == "iterable") return x.v.is_array() || x.v.is_string() || x.v.is_object();
    if (name == "boolean") return x.v.is_bool();
    if (name == "true") return x.v.is_bool() && x.v.as_bool();
    if (name == "false") return x.v.is_bool() && !x.v.as_bool();
    if (name == "number") return x.v.is_number();
    if (name == "integer") return x.v.is_int();
    if ((name == "odd" || name == "even") && x.v.is_int()) return (x.v.as_int() % 2 != 0) == (name == "odd");
    if (arguments.size() == 1) {
      const bool same = x.defined && equal(x.v, arguments[0]);
      if (name == "equalto" || name == "eq" || name == "sameas") return same;
      if (name == "ne") return !same;
      if (name == "in") return std::any_of(arguments[0].items().begin(), arguments[0].items().end(), [&](const json& i) { return equal(i, x.v); });
    }
    complain("uses the test \"is " + name + "\", which this version does not have");
    return false;
  }

  std::vector<std::map<std::string, json>> scopes_;
  std::string out_;
  std::map<std::string, const node*> macros_;
  const node* leaving_ = nullptr;  // the break or continue that a loop is being left by
  std::uint64_t steps_ = 0, bytes_ = 0;
  int depth_ = 0;
  error problem_;
};

}  // namespace

chat_template::chat_template() = default;
chat_template::chat_template(chat_template&&) noexcept = default;
chat_template& chat_template::operator=(chat_template&&) noexcept = default;
chat_template::~chat_template() = default;

result<chat_template> chat_template::parse(std::string_view source) {
  auto root = parser(source).run();
  if (!root) return forward_error(root);
  chat_template out;
  out.root_ = std::move(*root);
  return out;
}

result<std::string> chat_template::render(const std::vector<chat_message>& messages, bool add_generation_prompt, const std::string& bos_token,
                                          const std::string& eos_token) const {
  json::array list;
  for (const chat_message& m : messages) list.emplace_back(json::object{{"role", json(m.role)}, {"content", json(m.content)}});
  // Special tokens that the tokenizer lacks are absent, as in transformers; tools and documents are None there.
  std::map<std::string, json> globals = {
      {"messages", json(std::move(list))}, {"add_generation_prompt", json(add_generation_prompt)}, {"tools", json()}, {"documents", json()}};
  if (!bos_token.empty()) globals["bos_token"] = json(bos_token);
  if (!eos_token.empty()) globals["eos_token"] = json(eos_token);
  return renderer().run(*root_, std::move(globals));
}

}  // namespace auto_round::text
