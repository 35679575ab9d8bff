// Regular expressions on PCRE2.
#include "text/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

// The `tokenizers` package (0.23.3) classifies by Unicode 16, PCRE2 10.42 of Debian 12 by Unicode 14. These are the code points that got their
// general category in between; every class is widened by them, so that the result does not depend on the age of PCRE2. Found by asking
// tokenizers.Split for each category over all code points; the golden lines in tests/data/tokenizer hold some of them.
struct category_range {
  char category[3];
  std::uint32_t first, last;
};
constexpr category_range kNewCodePoints[] = {
    {"Lu", 0x1C89, 0x1C89},   {"Lu", 0xA7CB, 0xA7CC},   {"Lu", 0xA7DA, 0xA7DA},   {"Lu", 0xA7DC, 0xA7DC},   {"Lu", 0x10D50, 0x10D65},
    {"Ll", 0x1C8A, 0x1C8A},   {"Ll", 0xA7CD, 0xA7CD},   {"Ll", 0xA7DB, 0xA7DB},   {"Ll", 0x10D70, 0x10D85}, {"Ll", 0x1DF25, 0x1DF2A},
    {"Lm", 0x10D4E, 0x10D4E}, {"Lm", 0x10D6F, 0x10D6F}, {"Lm", 0x16D40, 0x16D42}, {"Lm", 0x16D6B, 0x16D6C}, {"Lm", 0x1E030, 0x1E06D},
    {"Lm", 0x1E4EB, 0x1E4EB}, {"Lo", 0x105C0, 0x105F3}, {"Lo", 0x10D4A, 0x10D4D}, {"Lo", 0x10D4F, 0x10D4F}, {"Lo", 0x10EC2, 0x10EC4},
    {"Lo", 0x1123F, 0x11240}, {"Lo", 0x11380, 0x11389}, {"Lo", 0x1138B, 0x1138B}, {"Lo", 0x1138E, 0x1138E}, {"Lo", 0x11390, 0x113B5},
    {"Lo", 0x113B7, 0x113B7}, {"Lo", 0x113D1, 0x113D1}, {"Lo", 0x113D3, 0x113D3}, {"Lo", 0x11BC0, 0x11BE0}, {"Lo", 0x11F02, 0x11F02},
    {"Lo", 0x11F04, 0x11F10}, {"Lo", 0x11F12, 0x11F33}, {"Lo", 0x1342F, 0x1342F}, {"Lo", 0x13441, 0x13446}, {"Lo", 0x13460, 0x143FA},
    {"Lo", 0x16100, 0x1611D}, {"Lo", 0x16D43, 0x16D6A}, {"Lo", 0x18CFF, 0x18CFF}, {"Lo", 0x1B132, 0x1B132}, {"Lo", 0x1B155, 0x1B155},
    {"Lo", 0x1E4D0, 0x1E4EA}, {"Lo", 0x1E5D0, 0x1E5ED}, {"Lo", 0x1E5F0, 0x1E5F0}, {"Lo", 0x2B739, 0x2B739}, {"Lo", 0x2EBF0, 0x2EE5D},
    {"Lo", 0x31350, 0x323AF}, {"Mn", 0x897, 0x897},     {"Mn", 0xECE, 0xECE},     {"Mn", 0x10D69, 0x10D6D}, {"Mn", 0x10EFC, 0x10EFF},
    {"Mn", 0x11241, 0x11241}, {"Mn", 0x113BB, 0x113C0}, {"Mn", 0x113CE, 0x113CE}, {"Mn", 0x113D0, 0x113D0}, {"Mn", 0x113D2, 0x113D2},
    {"Mn", 0x113E1, 0x113E2}, {"Mn", 0x11F00, 0x11F01}, {"Mn", 0x11F36, 0x11F3A}, {"Mn", 0x11F40, 0x11F40}, {"Mn", 0x11F42, 0x11F42},
    {"Mn", 0x11F5A, 0x11F5A}, {"Mn", 0x13440, 0x13440}, {"Mn", 0x13447, 0x13455}, {"Mn", 0x1611E, 0x16129}, {"Mn", 0x1612D, 0x1612F},
    {"Mn", 0x1E08F, 0x1E08F}, {"Mn", 0x1E4EC, 0x1E4EF}, {"Mn", 0x1E5EE, 0x1E5EF}, {"Mc", 0xCF3, 0xCF3},     {"Mc", 0x113B8, 0x113BA},
    {"Mc", 0x113C2, 0x113C2}, {"Mc", 0x113C5, 0x113C5}, {"Mc", 0x113C7, 0x113CA}, {"Mc", 0x113CC, 0x113CD}, {"Mc", 0x113CF, 0x113CF},
    {"Mc", 0x1171E, 0x1171E}, {"Mc", 0x11F03, 0x11F03}, {"Mc", 0x11F34, 0x11F35}, {"Mc", 0x11F3E, 0x11F3F}, {"Mc", 0x11F41, 0x11F41},
    {"Mc", 0x1612A, 0x1612C}, {"Nd", 0x10D40, 0x10D49}, {"Nd", 0x116D0, 0x116E3}, {"Nd", 0x11BF0, 0x11BF9}, {"Nd", 0x11F50, 0x11F59},
    {"Nd", 0x16130, 0x16139}, {"Nd", 0x16D70, 0x16D79}, {"Nd", 0x1CCF0, 0x1CCF9}, {"Nd", 0x1E4F0, 0x1E4F9}, {"Nd", 0x1E5F1, 0x1E5FA},
    {"No", 0x1D2C0, 0x1D2D3}, {"Pd", 0x10D6E, 0x10D6E}, {"Po", 0x1B4E, 0x1B4F},   {"Po", 0x1B7F, 0x1B7F},   {"Po", 0x113D4, 0x113D5},
    {"Po", 0x113D7, 0x113D8}, {"Po", 0x11B00, 0x11B09}, {"Po", 0x11BE1, 0x11BE1}, {"Po", 0x11F43, 0x11F4F}, {"Po", 0x16D6D, 0x16D6F},
    {"Po", 0x1E5FF, 0x1E5FF}, {"Sm", 0x10D8E, 0x10D8F}, {"So", 0x2427, 0x2429},   {"So", 0x2FFC, 0x2FFF},   {"So", 0x31E4, 0x31E5},
    {"So", 0x31EF, 0x31EF},   {"So", 0x1CC00, 0x1CCEF}, {"So", 0x1CD00, 0x1CEB3}, {"So", 0x1F6DC, 0x1F6DC}, {"So", 0x1F774, 0x1F776},
    {"So", 0x1F77B, 0x1F77F}, {"So", 0x1F7D9, 0x1F7D9}, {"So", 0x1F8B2, 0x1F8BB}, {"So", 0x1F8C0, 0x1F8C1}, {"So", 0x1FA75, 0x1FA77},
    {"So", 0x1FA87, 0x1FA89}, {"So", 0x1FA8F, 0x1FA8F}, {"So", 0x1FAAD, 0x1FAAF}, {"So", 0x1FABB, 0x1FABF}, {"So", 0x1FAC6, 0x1FAC6},
    {"So", 0x1FACE, 0x1FACF}, {"So", 0x1FADA, 0x1FADC}, {"So", 0x1FADF, 0x1FADF}, {"So", 0x1FAE8, 0x1FAE9}, {"So", 0x1FAF7, 0x1FAF8},
    {"So", 0x1FBCB, 0x1FBEF}, {"Cf", 0x13439, 0x1343F},
};

// Oniguruma's names of general categories (compared without case, blanks, '-' and '_').
constexpr std::pair<std::string_view, std::string_view> kLongNames[] = {
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"privateuse", "Co"},
};
constexpr std::string_view kShortNames[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P",  "Pc", "Pd",
                                            "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

// White_Space as the inside of a class. PCRE2's own \s also holds U+180E, which is no white space since Unicode 6.3.
constexpr std::string_view kSpace = R"(\t-\r\x{20}\x{85}\p{Z})";

char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 0x20) : c; }

std::string hex_point(std::uint32_t c) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string digits;
  do digits.insert(digits.begin(), kDigits[c & 15]);
  while ((c >>= 4) != 0);
  return digits.insert(0, "\\x{").append("}");
}

// The inside of a class that holds a general category ("L" or "Lu") of Unicode 16.
std::string category_class(std::string_view category) {
  std::string out("\\p{");
  out.append(category).append("}");
  for (const category_range& r : kNewCodePoints) {
    if (!std::string_view(r.category).starts_with(category)) continue;
    out += hex_point(r.first);
    if (r.last != r.first) out.append("-").append(hex_point(r.last));
  }
  return out;
}

// What Oniguruma's \w holds, as the inside of a class. The Latin-1 superscripts and fractions are a quirk of its tables.
std::string word_class() {
  return "\\p{Alphabetic}" + category_class("L") + category_class("M") + category_class("Nd") + "\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
}

/// A pattern as errors show it: a stranger's may fill pages.
std::string shown(std::string_view pattern) {
  constexpr std::size_t most = 200;
  if (pattern.size() <= most) return "\"" + std::string(pattern) + "\"";
  return "\"" + to_well_formed(pattern.substr(0, most)) + "...\"";
}

class translator {
 public:
  explicit translator(std::string_view pattern) : in_(pattern) {}

  result<std::string> run() {
    while (ok() && at_ < in_.size()) {
      if (in_class_) {
        class_item();
      } else {
        item();
      }
    }
    if (!ok()) return tl::unexpected<error>(std::move(problem_));
    return std::move(out_);
  }

 private:
  bool ok() const { return problem_.message.empty(); }
  char peek(std::size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  void copy(std::size_t count) {
    out_.append(in_, at_, count);
    at_ += count;
  }
  void refuse(const std::string& what) {
    problem_ = {error_kind::unsupported, "the pattern " + shown(in_) + " uses " + what + ", which this version cannot do", {}, {}};
  }

  void item() {
    switch (peek()) {
      case '\\':
        escape();
        return;
      case '[':
        open_class();
        return;
      case '(':
        group();
        return;
      case '{':
        quantifier();
        return;
      default:
        copy(1);
        return;
    }
  }

  void group() {
    if (peek(1) != '?') return copy(1);
    // Option letters up to ')' or ':'. Ruby's m lets '.' match a line feed: PCRE2's s.
    std::size_t end = 2;
    while (std::string_view("imx-").find(peek(end)) != std::string_view::npos && peek(end) != '\0') ++end;
    if (end > 2 && (peek(end) == ':' || peek(end) == ')')) {
      std::string options(in_.substr(at_, end));
      std::replace(options.begin() + 2, options.end(), 'm', 's');
      out_ += options;
      at_ += end;
      return;
    }
    const char kind = peek(2);
    if (kind == '<' && (peek(3) == '=' || peek(3) == '!')) return copy(4);
    if (kind == ':' || kind == '=' || kind == '!' || kind == '>' || kind == '#') return copy(3);
    refuse("a group of the form (?" + std::string(1, kind));
  }

  // {n}, {n,}, {n,m} as they are, {,n} as {0,n}; a following '+' makes it possessive in PCRE2 but repeats it in Oniguruma.
  void quantifier() {
    std::size_t end = 1;
    while (peek(end) == ',' || (peek(end) >= '0' && peek(end) <= '9')) ++end;
    if (peek(end) != '}' || end == 1) return copy(1);
    if (peek(end + 1) == '+') return refuse("a '+' behind {n,m}");
    if (peek(1) == ',') {
      if (end == 2) return copy(1);
      out_ += "{0";
      ++at_;
      copy(end);
      return;
    }
    copy(end + 1);
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') {
      out_ += "\\]";
      ++at_;
    }
  }

  void class_item() {
    const char c = peek();
    if (c == ']') {
      in_class_ = false;
      copy(1);
    } else if (c == '\\') {
      escape();
    } else if (c == '&' && peek(1) == '&') {
      refuse("the class intersection &&");
    } else if (c == '[' && peek(1) == ':') {
      posix_class();
    } else if (c == '[') {
      refuse("a class within a class");
    } else {
      copy(1);
    }
  }

  void posix_class() {
    const std::size_t end = in_.find(":]", at_ + 2);
    if (end == std::string_view::npos) return refuse("an unfinished [: :]");
    const std::string_view name = in_.substr(at_ + 2, end - at_ - 2);
    at_ = end + 2;
    if (name == "space") {
      out_ += kSpace;
    } else if (name == "digit") {
      out_ += category_class("Nd");
    } else if (name == "word") {
      out_ += word_class();
    } else if (name == "punct") {
      out_ += category_class("P") + category_class("S");
    } else if (name == "upper" || name == "lower") {
      out_ += category_class(name == "upper" ? "Lu" : "Ll");
    } else if (name == "xdigit") {
      out_ += "0-9A-Fa-f";
    } else {
      refuse("the class [:" + std::string(name) + ":]");
    }
  }

  // A set given as the inside of a class, at this place, as it is or inverted. `negated` inside a class is what PCRE2 can say there.
  void set(const std::string& inside, bool inverted, const std::string& negated) {
    if (!inverted) {
      out_ += in_class_ ? inside : "[" + inside + "]";
    } else if (!in_class_) {
      out_ += "[^" + inside + "]";
    } else if (!negated.empty()) {
      out_ += negated;
    } else {
      refuse("an inverted class within a class");
    }
  }

  void escape() {
    const char c = peek(1);
    switch (c) {
      case '\0':
        return refuse("a backslash at its end");
      case 's':
      case 'S':
        at_ += 2;
        return set(std::string(kSpace), c == 'S', "\\S\\x{180E}");
      case 'd':
      case 'D':
        at_ += 2;
        return set(category_class("Nd"), c == 'D', "\\P{Nd}");
      case 'w':
      case 'W':
        at_ += 2;
        return set(word_class(), c == 'W', "");
      case 'h':
      case 'H':
        at_ += 2;
        return set("0-9A-Fa-f", c == 'H', "");
      case 'v':
        at_ += 2;
        out_ += "\\x0B";
        return;
      case 'p':
      case 'P':
        return property();
      case 'u':
        return code_point();
      case 'x':
        if (peek(2) != '{' && (peek(2) >= '8' || peek(2) == '\0')) return refuse("the byte \\x" + std::string(1, peek(2)));
        return copy(2);
      case 'b':
        if (!in_class_) return refuse("the word boundary \\b");  // its idea of a word differs
        return copy(2);
      default:
        // The same in both, or an escaped character that stands for itself.
        if (std::string_view("tnrfaeAzZG").find(c) != std::string_view::npos) return copy(2);
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return refuse("the escape \\" + std::string(1, c));
        return copy(2);
    }
  }

  void code_point() {
    std::size_t end = 2;
    while (end < 6 && std::string_view("0123456789abcdefABCDEF").find(peek(end)) != std::string_view::npos && peek(end) != '\0') ++end;
    if (end != 6) return refuse("\\u without four hexadecimal digits");
    out_ += "\\x{" + std::string(in_.substr(at_ + 2, 4)) + "}";
    at_ += 6;
  }

  void property() {
    bool inverted = peek(1) == 'P';
    const std::size_t end = in_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) return refuse("\\p without braces");
    std::string name;
    for (const char c : in_.substr(at_ + 3, end - at_ - 3)) {
      if (c == '^' && name.empty()) {
        inverted = !inverted;
      } else if (c != ' ' && c != '-' && c != '_') {
        name.push_back(ascii_lower(c));
      }
    }
    at_ = end + 1;
    if (name == "whitespace" || name == "space") return set(std::string(kSpace), inverted, "\\S\\x{180E}");
    if (name == "alphabetic" || name == "alpha") return set("\\p{Alphabetic}" + category_class("L"), inverted, "");
    std::string category;
    for (const auto& [longer, shorter] : kLongNames) {
      if (name == longer) category = shorter;
    }
    for (const std::string_view shorter : kShortNames) {
      if (name.size() == shorter.size() &&
          std::equal(name.begin(), name.end(), shorter.begin(), [](char a, char b) { return a == ascii_lower(b); })) {
        category = shorter;
      }
    }
    if (!category.empty()) return set(category_class(category), inverted, "\\P{" + category + "}");
    // Anything else can only be a script; PCRE2 says if there is none of that name. \p{Han} alone would be its script extensions.
    set("\\p{sc:" + name + "}", inverted, "\\P{sc:" + name + "}");
  }

  std::string_view in_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
  error problem_;
};

struct code_deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct compile_context_deleter {
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};
struct match_context_deleter {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct match_data_deleter {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct jit_stack_deleter {
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

constexpr std::size_t kMaxPattern = 1 << 16;      // the longest pattern in use has 500 bytes
constexpr std::uint32_t kMaxSteps = 4'000'000;    // calls of the matcher for one match; ordinary patterns need tens
constexpr std::uint32_t kMaxHeapKib = 64 * 1024;  // memory of the interpreter for one match
constexpr std::size_t kMaxJitStack = 16u << 20;

}  // namespace

struct regex::workspace::impl {
  std::unique_ptr<pcre2_match_data, match_data_deleter> data;
  std::unique_ptr<pcre2_match_context, match_context_deleter> context;
  std::unique_ptr<pcre2_jit_stack, jit_stack_deleter> stack;
};

regex::workspace::workspace() : impl_(std::make_unique<impl>()) {
  impl_->data.reset(pcre2_match_data_create(1, nullptr));
  impl_->context.reset(pcre2_match_context_create(nullptr));
  impl_->stack.reset(pcre2_jit_stack_create(std::size_t{64} << 10, kMaxJitStack, nullptr));
  if (impl_->context) {
    pcre2_set_match_limit(impl_->context.get(), kMaxSteps);
    pcre2_set_heap_limit(impl_->context.get(), kMaxHeapKib);
    pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
  }
}
regex::workspace::workspace(workspace&&) noexcept = default;
regex::workspace& regex::workspace::operator=(workspace&&) noexcept = default;
regex::workspace::~workspace() = default;

struct regex::impl {
  std::unique_ptr<pcre2_code, code_deleter> code;
  std::string pattern;  // as given, for errors
};

regex::regex() : impl_(std::make_unique<impl>()) {}
regex::regex(regex&&) noexcept = default;
regex& regex::operator=(regex&&) noexcept = default;
regex::~regex() = default;

result<regex> regex::compile(std::string_view pattern) {
  if (pattern.size() > kMaxPattern) return fail(error_kind::input, "a pattern has more than 65536 bytes");
  const auto translated = translate_oniguruma(pattern);
  if (!translated) return forward_error(translated);
  const std::unique_ptr<pcre2_compile_context, compile_context_deleter> context(pcre2_compile_context_create(nullptr));
  if (!context) return fail(error_kind::internal, "out of memory while compiling a pattern");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  regex out;
  out.impl_->pattern = pattern;
  // \C and (*VERB)s are not Oniguruma's, and a verb at the start could lift the limits.
  out.impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, context.get()));
  if (!out.impl_->code) return fail(error_kind::input, "the pattern " + shown(pattern) + " does not compile: " + pcre_message(code));
  // Without a just-in-time compiler for this processor the interpreter of PCRE2 does the same, slower.
  (void)pcre2_jit_compile(out.impl_->code.get(), PCRE2_JIT_COMPLETE);
  return out;
}

result<void> regex::find_all(std::string_view text, workspace& space, std::vector<span_match>& out) const {
  out.clear();
  pcre2_match_data* data = space.impl_->data.get();
  pcre2_match_context* context = space.impl_->context.get();
  if (data == nullptr || context == nullptr) return fail(error_kind::internal, "out of memory while matching a pattern");
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data);
  bool any = false;
  std::size_t last_end = 0;
  for (std::size_t from = 0; from <= text.size();) {
    int rc = pcre2_match(impl_->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(impl_->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) return {};
    if (rc < 0) {
      return fail(error_kind::input, "the pattern " + shown(impl_->pattern) + " cannot be matched against a text of " + std::to_string(text.size()) +
                                         " bytes: " + pcre_message(rc));
    }
    // \K inside a look-around can give an end before the start, or a start before `from`; Oniguruma patterns have no \K.
    const span_match m{found[0], found[1]};
    if (m.begin == m.end && any && m.end == last_end) {
      from = m.end + 1;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
      continue;
    }
    out.push_back(m);
    any = true;
    from = last_end = m.end;
  }
  return {};
}

result<std::string> translate_oniguruma(std::string_view pattern) {
  if (pattern.starts_with("(*")) return fail(error_kind::input, "the pattern " + shown(pattern) + " starts with a quantifier");
  return translator(pattern).run();
}

}  // namespace auto_round::text
