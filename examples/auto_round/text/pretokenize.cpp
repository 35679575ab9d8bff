#include "text/pretokenize.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/bpe.hpp"
#include "text/json_fields.hpp"
#include "text/normalizer.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {

class pretokenizer::stage {
 public:
  virtual ~stage() = default;
  virtual result<void> apply(pieces& p, workspace& space) const = 0;
};

namespace {

using stages = std::vector<std::unique_ptr<pretokenizer::stage>>;

// GPT-2's pattern, which ByteLevel applies.
constexpr std::string_view kByteLevelPattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Digits asks Rust's char::is_numeric, which knows two blocks of Unicode 17.
constexpr std::string_view kDigit = R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";

// Punctuation asks an old table: ASCII punctuation and symbols, and the category P without what Unicode got since version 8.
constexpr std::string_view kPunctuation =
    R"([!-/:-@\[-`{-~\x{166D}\x{111C9}]|(?![\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B4E}\x{1B4F}\x{1B7D}-\x{1B7F}\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D})"
    R"(\x{10D6E}\x{10EAD}\x{10F55}-\x{10F59}\x{10F86}-\x{10F89}\x{113D4}-\x{113D8}\x{1144B}-\x{1144F}\x{1145A}\x{1145B}\x{1145D})"
    R"(\x{11660}-\x{1166C}\x{116B9}\x{1183B}\x{11944}-\x{11946}\x{119E2}\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C}\x{11A9E}-\x{11AA2})"
    R"(\x{11B00}-\x{11B09}\x{11BE1}\x{11C41}-\x{11C45}\x{11C70}\x{11C71}\x{11EF7}\x{11EF8}\x{11F43}-\x{11F4F}\x{11FFF}\x{12FF1}\x{12FF2})"
    R"(\x{16D6D}-\x{16D6F}\x{16E97}-\x{16E9A}\x{16FE2}\x{1E5FF}\x{1E95E}\x{1E95F}])\p{P})";

enum class behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Cuts every piece at the matches of a pattern.
class split_stage : public pretokenizer::stage {
 public:
  split_stage(regex pattern, behavior b, bool invert) : pattern_(std::move(pattern)), behavior_(b), invert_(invert) {}

  result<void> apply(pieces& p, pretokenizer::workspace& space) const override {
    space.next.clear();
    for (const pieces::piece& piece : p.list) {
      if (piece.id >= 0) {
        space.next.push_back(piece);
        continue;
      }
      if (auto r = pattern_.find_all(p.view(piece), space.matcher, space.matches); !r) return r;
      cut(piece, space);
    }
    p.list.swap(space.next);
    return {};
  }

 private:
  // Walks over the matches and what lies between them, in order, and joins neighbors as the behavior says.
  void cut(const pieces::piece& piece, pretokenizer::workspace& space) const {
    auto& out = space.next;
    const std::size_t first = out.size();
    bool previous_match = false;
    const auto put = [&](std::size_t begin, std::size_t end, bool match) {
      begin += piece.begin;
      end += piece.begin;
      match = match != invert_;
      const bool any = out.size() > first;
      bool join = false;
      switch (behavior_) {
        case behavior::removed:
          if (match) return;
          break;
        case behavior::isolated:
          break;
        case behavior::merged_with_previous:
          join = any && match && !previous_match;
          break;
        case behavior::merged_with_next:
          join = any && previous_match && !match;
          break;
        case behavior::contiguous:
          join = any && match == previous_match;
          break;
      }
      if (join) {
        out.back().end = end;
      } else {
        out.push_back({begin, end, -1});
      }
      previous_match = match;
    };
    std::size_t done = 0;
    const std::size_t size = piece.end - piece.begin;
    for (const span_match& m : space.matches) {
      if (done < m.begin) put(done, m.begin, false);
      put(m.begin, m.end, true);
      done = m.end;
    }
    if (done < size) put(done, size, false);
    out.erase(std::remove_if(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(), [](const auto& q) { return q.begin == q.end; }), out.end());
  }

  regex pattern_;
  behavior behavior_;
  bool invert_;
};

// Rewrites every piece, one after the other, into a new text. Added tokens are copied, so that only what starts the text has position 0.
template <class Rewrite>
void rewrite_pieces(pieces& p, pretokenizer::workspace& space, const Rewrite& rewrite) {
  space.text.clear();
  for (pieces::piece& piece : p.list) {
    const std::size_t begin = space.text.size();
    if (piece.id >= 0) {
      space.text.append(p.view(piece));
    } else {
      rewrite(p.view(piece), piece.begin == 0, space.text);
    }
    piece.begin = begin;
    piece.end = space.text.size();
  }
  p.text.swap(space.text);
}

class prefix_space_stage : public pretokenizer::stage {
 public:
  result<void> apply(pieces& p, pretokenizer::workspace& space) const override {
    rewrite_pieces(p, space, [](std::string_view piece, bool, std::string& out) {
      if (!piece.starts_with(' ')) out.push_back(' ');
      out.append(piece);
    });
    return {};
  }
};

// Bytes to their printable forms. As the last stage it leaves that to whoever looks pieces up.
class byte_level_stage : public pretokenizer::stage {
 public:
  result<void> apply(pieces& p, pretokenizer::workspace& space) const override {
    if (last) {
      p.byte_level = true;
      return {};
    }
    rewrite_pieces(p, space, [](std::string_view piece, bool, std::string& out) {
      for (const char c : piece) append_byte_char(out, static_cast<unsigned char>(c));
    });
    return {};
  }
  bool last = false;
};

class metaspace_stage : public pretokenizer::stage {
 public:
  enum class prepend { always, first, never };
  metaspace_stage(std::string replacement, prepend scheme) : replacement_(std::move(replacement)), scheme_(scheme) {}

  result<void> apply(pieces& p, pretokenizer::workspace& space) const override {
    rewrite_pieces(p, space, [this](std::string_view piece, bool at_start, std::string& out) {
      const bool wanted = scheme_ == prepend::always || (scheme_ == prepend::first && at_start);
      if (wanted && !piece.starts_with(' ') && !piece.starts_with(replacement_)) out += replacement_;
      for (const char c : piece) {
        if (c == ' ') {
          out += replacement_;
        } else {
          out.push_back(c);
        }
      }
    });
    return {};
  }

 private:
  std::string replacement_;
  prepend scheme_;
};

std::optional<behavior> behavior_of(std::string_view name) {
  if (name == "Removed") return behavior::removed;
  if (name == "Isolated") return behavior::isolated;
  if (name == "MergedWithPrevious") return behavior::merged_with_previous;
  if (name == "MergedWithNext") return behavior::merged_with_next;
  if (name == "Contiguous") return behavior::contiguous;
  return std::nullopt;
}

result<void> add_split(stages& out, std::string_view pattern, behavior b, bool invert) {
  auto compiled = regex::compile(pattern);
  if (!compiled) return forward_error(compiled);
  out.push_back(std::make_unique<split_stage>(std::move(*compiled), b, invert));
  return {};
}

result<void> read_stages(const io::json& part, stages& out) {
  if (part.is_null()) return {};
  const std::string type = part.at("type").as_string();
  json_fields f(part, "pre_tokenizer " + type);
  result<void> added;
  if (type == "Sequence") {
    for (const io::json& p : f.list("pretokenizers")) {
      if (p.is_null()) f.complain("holds a null");
      if (auto r = read_stages(p, out); !r) return r;
    }
  } else if (type == "ByteLevel") {
    if (f.flag("add_prefix_space", true)) out.push_back(std::make_unique<prefix_space_stage>());
    if (f.flag("use_regex", true)) added = add_split(out, kByteLevelPattern, behavior::isolated, false);
    out.push_back(std::make_unique<byte_level_stage>());
  } else if (type == "Split") {
    const auto pattern = read_pattern(part.at("pattern"), "pre_tokenizer Split");
    if (!pattern) return forward_error(pattern);
    const auto b = behavior_of(f.text("behavior"));
    if (!b) return fail(error_kind::input, "pre_tokenizer Split has no behavior, or one that does not exist");
    added = add_split(out, *pattern, *b, f.flag("invert", false));
  } else if (type == "Digits") {
    added = add_split(out, kDigit, f.flag("individual_digits", false) ? behavior::isolated : behavior::contiguous, false);
  } else if (type == "Punctuation") {
    const auto b = behavior_of(f.text("behavior", "Isolated"));
    if (!b) return fail(error_kind::input, "pre_tokenizer Punctuation has a behavior that does not exist");
    added = add_split(out, kPunctuation, *b, false);
  } else if (type == "Whitespace") {
    const std::string word(kRustWord);
    added = add_split(out, "[" + word + "]+|[^" + word + "\\s]+", behavior::removed, true);
  } else if (type == "WhitespaceSplit") {
    added = add_split(out, "\\s", behavior::removed, false);
  } else if (type == "BertPreTokenizer") {
    added = add_split(out, "\\s", behavior::removed, false);
    if (added) added = add_split(out, kPunctuation, behavior::isolated, false);
  } else if (type == "Metaspace") {
    const std::string replacement = f.text("replacement", "\xE2\x96\x81");
    const std::string scheme = f.text("prepend_scheme", "always");
    const bool prefix = f.flag("add_prefix_space", scheme != "never");
    std::size_t length = 0;
    if (!replacement.empty()) next_code_point(replacement, length);
    if (replacement.empty() || length != replacement.size()) f.complain("needs one character for \"replacement\"");
    if (scheme != "always" && scheme != "first" && scheme != "never") f.complain("has a prepend_scheme that does not exist");
    if (prefix != (scheme != "never")) f.complain("has an add_prefix_space that contradicts its prepend_scheme");
    using prepend = metaspace_stage::prepend;
    out.push_back(std::make_unique<metaspace_stage>(replacement, scheme == "always"  ? prepend::always
                                                                 : scheme == "first" ? prepend::first
                                                                                     : prepend::never));
    if (f.flag("split", true) && f.ok()) {
      const auto pattern = read_pattern(io::json(io::json::object{{"String", replacement}}), "pre_tokenizer Metaspace");
      if (!pattern) return forward_error(pattern);
      added = add_split(out, *pattern, behavior::merged_with_next, false);
    }
  } else {
    return fail(error_kind::unsupported, "the tokenizer has a pre_tokenizer of type \"" + type + "\", which this version cannot do");
  }
  if (!f.ok()) return f.failure();
  return added;
}

}  // namespace

pretokenizer::pretokenizer() = default;
pretokenizer::pretokenizer(pretokenizer&&) noexcept = default;
pretokenizer& pretokenizer::operator=(pretokenizer&&) noexcept = default;
pretokenizer::~pretokenizer() = default;

result<pretokenizer> pretokenizer::from_json(const io::json& part) {
  pretokenizer out;
  if (auto r = read_stages(part, out.stages_); !r) return forward_error(r);
  if (!out.stages_.empty()) {
    if (auto* last = dynamic_cast<byte_level_stage*>(out.stages_.back().get())) last->last = true;
  }
  return out;
}

result<void> pretokenizer::apply(pieces& p, workspace& space) const {
  for (const auto& s : stages_) {
    if (auto r = s->apply(p, space); !r) return r;
  }
  return {};
}

}  // namespace auto_round::text
