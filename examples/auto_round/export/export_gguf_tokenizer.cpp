// Translation of Hugging Face tokenizers into llama.cpp's vocabulary keys; follows gguf-py's SpecialVocab and the converter's set_vocab.
#include "export/export_gguf_tokenizer.hpp"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "export/export_gguf_metadata.hpp"

namespace auto_round::exporting {
namespace {

/// llama.cpp's token types.
enum token_type : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct vocabulary {
  std::vector<std::string> tokens;
  std::vector<float> scores;  // SentencePiece only
  std::vector<std::int32_t> types;
};

template <class T>
io::gguf_value array_of(std::vector<T> values) {
  return std::make_shared<io::gguf_array>(io::gguf_array{std::move(values)});
}

bool looks_special(const std::string& token) {
  const auto wrapped = [&](std::string_view open, std::string_view close) {
    return token.size() >= open.size() + close.size() && token.starts_with(open) && token.ends_with(close);
  };
  return token == "<pad>" || token == "<mask>" || token == "<2mass>" || token == "[@BOS@]" || wrapped("<|", "|>") || wrapped("<｜", "｜>") ||
         wrapped("<unused", ">");
}

std::string replace_all(std::string s, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = s.find(from, at)) != std::string::npos; at += to.size()) s.replace(at, from.size(), to);
  return s;
}

constexpr std::string_view lower_one_eighth_block = "\u2581";  // SentencePiece's blank
constexpr std::string_view byte_level_blank = "\u0120";        // byte-level BPE's blank

vocabulary empty_vocabulary(std::size_t size, float score) {
  vocabulary v;
  for (std::size_t i = 0; i < size; ++i) v.tokens.push_back(fmt::format("[PAD{}]", i));
  v.types.assign(size, unused);
  v.scores.assign(size, score);
  return v;
}

// --- byte-level BPE ---------------------------------------------------------------------------------------------------------------------------

result<std::vector<std::string>> read_merges(const io::json& model, const std::string& file) {
  std::vector<std::string> merges;
  for (const io::json& merge : model.at("merges").items()) {
    if (merge.is_string()) {
      merges.push_back(merge.as_string());
    } else if (merge.is_array() && merge.items().size() == 2) {
      const auto part = [&](std::size_t i) { return replace_all(merge.items()[i].as_string(), " ", byte_level_blank); };
      merges.push_back(part(0) + " " + part(1));
    } else {
      return fail(error_kind::input, "a merge of the tokenizer is neither a string nor a pair", file);
    }
  }
  return merges;
}

result<vocabulary> read_bpe(const io::json& tokenizer, std::size_t vocab_size, const std::string& file) {
  vocabulary v = empty_vocabulary(vocab_size, 0);
  const auto place = [&](std::int64_t id, std::string token, std::int32_t type) -> result<void> {
    if (id < 0 || static_cast<std::uint64_t>(id) >= vocab_size) {
      return fail(error_kind::input, fmt::format("token \"{}\" has id {}, but config.json says vocab_size {}", token, id, vocab_size), file);
    }
    v.tokens[static_cast<std::size_t>(id)] = std::move(token);
    v.types[static_cast<std::size_t>(id)] = type;
    return {};
  };
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").members()) {
    if (auto r = place(id.as_int(-1), token, normal); !r) return forward_error(r);
  }
  for (const io::json& added : tokenizer.at("added_tokens").items()) {
    const std::string& content = added.at("content").as_string();
    const bool special = added.at("special").as_bool() || looks_special(content);
    auto r = place(added.at("id").as_int(-1), special ? content : replace_all(content, lower_one_eighth_block, " "), special ? control : user_defined);
    if (!r) return forward_error(r);
  }
  return v;
}

// --- SentencePiece ----------------------------------------------------------------------------------------------------------------------------

/// A bounded reader of the protobuf wire format: just what a ModelProto's pieces need.
class wire_reader {
 public:
  explicit wire_reader(std::string_view bytes) : bytes_(bytes) {}
  bool at_end() const { return bytes_.empty(); }

  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto b = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(b & 0x7Fu) << shift;
      if ((b & 0x80u) == 0) return value;
    }
    return std::nullopt;
  }
  std::optional<std::string_view> take(std::uint64_t n) {
    if (n > bytes_.size()) return std::nullopt;
    const std::string_view taken = bytes_.substr(0, static_cast<std::size_t>(n));
    bytes_.remove_prefix(static_cast<std::size_t>(n));
    return taken;
  }
  std::optional<std::string_view> block() {
    const auto n = varint();
    return n ? take(*n) : std::nullopt;
  }
  bool skip(std::uint64_t wire_type) {
    switch (wire_type) {
      case 0: return varint().has_value();
      case 1: return take(8).has_value();
      case 2: return block().has_value();
      case 5: return take(4).has_value();
      default: return false;
    }
  }

 private:
  std::string_view bytes_;
};

struct piece {
  std::string text;
  float score = 0;
  std::int32_t type = normal;
};

std::optional<piece> read_piece(std::string_view bytes) {
  piece p;
  wire_reader in(bytes);
  while (!in.at_end()) {
    const auto key = in.varint();
    if (!key) return std::nullopt;
    if (*key == (1u << 3 | 2u)) {
      const auto text = in.block();
      if (!text) return std::nullopt;
      p.text = *text;
    } else if (*key == (2u << 3 | 5u)) {
      const auto raw = in.take(4);
      if (!raw) return std::nullopt;
      std::memcpy(&p.score, raw->data(), 4);
    } else if (*key == (3u << 3 | 0u)) {
      const auto type = in.varint();
      if (!type) return std::nullopt;
      p.type = static_cast<std::int32_t>(*type);
    } else if (!in.skip(*key & 7u)) {
      return std::nullopt;
    }
  }
  return p;
}

result<vocabulary> read_sentencepiece(const gguf_sources& sources, std::size_t vocab_size) {
  const std::string file = sources.directory + "/tokenizer.model";
  constexpr float missing_score = -10000, added_score = -1000;
  vocabulary v = empty_vocabulary(vocab_size, missing_score);
  wire_reader in(sources.sentencepiece);
  std::size_t id = 0;
  while (!in.at_end()) {
    const auto key = in.varint();
    if (!key) return fail(error_kind::input, "the SentencePiece model is damaged", file);
    if (*key != (1u << 3 | 2u)) {
      if (!in.skip(*key & 7u)) return fail(error_kind::input, "the SentencePiece model is damaged", file);
      continue;
    }
    const auto bytes = in.block();
    const auto p = bytes ? read_piece(*bytes) : std::nullopt;
    if (!p) return fail(error_kind::input, "the SentencePiece model is damaged", file);
    if (id < vocab_size) {
      v.tokens[id] = p->text;
      v.scores[id] = p->score;
      v.types[id] = p->type == user_defined ? static_cast<std::int32_t>(normal) : p->type;  // as the converter does
    }
    ++id;
  }
  for (const auto& [key, added] : sources.tokenizer_config.at("added_tokens_decoder").members()) {
    const std::string& content = added.at("content").as_string();
    const std::size_t at = key.empty() || key.find_first_not_of("0123456789") != std::string::npos || key.size() > 9 ? vocab_size : std::stoul(key);
    if (at >= vocab_size) continue;
    const bool special = added.at("special").as_bool() || looks_special(content);
    v.tokens[at] = special ? content : replace_all(content, lower_one_eighth_block, " ");
    v.scores[at] = added_score;
    v.types[at] = special ? control : user_defined;
  }
  return v;
}

// --- special tokens ---------------------------------------------------------------------------------------------------------------------------

constexpr std::array special_kinds = {"bos", "eos", "unk", "sep", "pad", "cls", "mask"};

/// gguf-py's spelling of the id keys, "seperator" included; cls has none.
const char* id_key(std::string_view kind) {
  if (kind == "bos") return "tokenizer.ggml.bos_token_id";
  if (kind == "eos") return "tokenizer.ggml.eos_token_id";
  if (kind == "unk") return "tokenizer.ggml.unknown_token_id";
  if (kind == "sep") return "tokenizer.ggml.seperator_token_id";
  if (kind == "pad") return "tokenizer.ggml.padding_token_id";
  if (kind == "mask") return "tokenizer.ggml.mask_token_id";
  return nullptr;
}

std::string special_token_text(const io::json& tokenizer_config, std::string_view kind) {
  const io::json& token = tokenizer_config.at(std::string(kind) + "_token");
  return token.is_object() ? token.at("content").as_string() : token.as_string();
}

/// What is found first stays first; a later value replaces it in place.
template <class T>
class discovery_list {
 public:
  void set(const std::string& key, T value) {
    for (auto& entry : entries_) {
      if (entry.first == key) {
        entry.second = value;
        return;
      }
    }
    entries_.emplace_back(key, value);
  }
  bool has(const std::string& key) const {
    for (const auto& entry : entries_) {
      if (entry.first == key) return true;
    }
    return false;
  }
  const std::vector<std::pair<std::string, T>>& entries() const { return entries_; }

 private:
  std::vector<std::pair<std::string, T>> entries_;
};

void flags_from_template(const io::json& processor, const io::json& tokenizer_config, discovery_list<bool>& flags) {
  const std::string bos = special_token_text(tokenizer_config, "bos"), eos = special_token_text(tokenizer_config, "eos");
  const std::string cls = special_token_text(tokenizer_config, "cls"), sep = special_token_text(tokenizer_config, "sep");
  const auto special = [](const io::json& part) { return part.at("SpecialToken").at("id").as_string(); };
  std::string first, last;
  const auto& single = processor.at("single").items();
  if (single.size() > 1) {
    first = special(single.front());
    last = special(single.back());
    if (!first.empty()) flags.set("bos", first == bos || first == cls);
    if (!last.empty()) flags.set("eos", last == eos);
  }
  std::vector<io::json> pair = processor.at("pair").items();
  if (pair.empty()) return;
  if (!first.empty() && special(pair.front()) == first) pair.erase(pair.begin());
  if (!pair.empty() && !last.empty() && special(pair.back()) == last) pair.pop_back();
  const std::string between = pair.size() > 1 ? special(pair[1]) : std::string();
  if (!between.empty()) flags.set("sep", (between == sep || between == eos) && last.empty());
}

void flags_from_post_processor(const io::json& processor, const io::json& tokenizer_config, discovery_list<bool>& flags) {
  const std::string& type = processor.at("type").as_string();
  if (type == "Sequence") {
    for (const io::json& part : processor.at("processors").items()) flags_from_post_processor(part, tokenizer_config, flags);
  } else if (type == "RobertaProcessing") {
    for (const char* kind : {"bos", "eos", "sep"}) flags.set(kind, true);
  } else if (type == "TemplateProcessing") {
    flags_from_template(processor, tokenizer_config, flags);
  }
}

void add_special_tokens(const gguf_sources& s, std::size_t vocab_size, io::gguf_metadata& out) {
  discovery_list<std::uint32_t> ids;
  discovery_list<bool> flags;
  flags_from_post_processor(s.tokenizer.at("post_processor"), s.tokenizer_config, flags);
  for (const char* kind : special_kinds) {
    const io::json& flag = s.tokenizer_config.at(fmt::format("add_{}_token", kind));
    if (flag.is_bool()) flags.set(kind, flag.as_bool());
    const std::string text = special_token_text(s.tokenizer_config, kind);
    if (text.empty()) continue;
    for (const io::json& added : s.tokenizer.at("added_tokens").items()) {
      if (added.at("content").as_string() != text) continue;
      ids.set(kind, static_cast<std::uint32_t>(added.at("id").as_int()));
      break;
    }
  }
  for (const char* kind : special_kinds) {
    const io::json& id = s.config.at(fmt::format("{}_token_id", kind));
    if (!ids.has(kind) && id.is_int() && id.as_int() >= 0 && static_cast<std::uint64_t>(id.as_int()) < vocab_size) {
      ids.set(kind, static_cast<std::uint32_t>(id.as_int()));
    }
  }
  for (const auto& [kind, id] : ids.entries()) {
    if (const char* key = id_key(kind)) out.emplace_back(key, id);
  }
  for (const auto& [kind, flag] : flags.entries()) {
    if (kind == "bos" || kind == "eos" || kind == "sep") out.emplace_back(fmt::format("tokenizer.ggml.add_{}_token", kind), flag);
  }
}

void add_chat_template(const gguf_sources& s, io::gguf_metadata& out) {
  const io::json& own = s.tokenizer_config.at("chat_template");
  if (!own.is_array()) {
    const std::string& text = own.is_string() ? own.as_string() : s.chat_template;
    if (!text.empty()) out.emplace_back("tokenizer.chat_template", text);
    return;
  }
  std::string default_text;
  std::vector<std::string> names;
  for (const io::json& entry : own.items()) {
    const std::string& name = entry.at("name").as_string();
    if (name == "default") {
      default_text = entry.at("template").as_string();
    } else if (!name.empty()) {
      names.push_back(name);
      out.emplace_back("tokenizer.chat_template." + name, entry.at("template").as_string());
    }
  }
  if (!names.empty()) out.emplace_back("tokenizer.chat_templates", array_of(names));
  if (!default_text.empty()) out.emplace_back("tokenizer.chat_template", default_text);
}

// --- pre-tokenizers ---------------------------------------------------------------------------------------------------------------------------

struct known_pattern {
  const char* name;
  std::string_view regex;
};
constexpr known_pattern known_patterns[] = {
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen2", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen35",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"gpt-4o",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"tekken",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"gpt-2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
};

}  // namespace

result<std::string> pretokenizer_name(const io::json& tokenizer, const std::string& file) {
  const io::json& pre = tokenizer.at("pre_tokenizer");
  std::vector<io::json> stages = pre.at("type").as_string() == "Sequence" ? pre.at("pretokenizers").items() : std::vector<io::json>{pre};
  const auto type = [&](std::size_t i) { return stages[i].at("type").as_string(); };
  if (stages.size() == 1 && type(0) == "ByteLevel" && stages[0].at("use_regex").as_bool(true)) return std::string("gpt-2");
  if (stages.size() == 2 && type(1) == "ByteLevel") {
    const bool regex = stages[1].at("use_regex").as_bool(true);
    if (type(0) == "Digits" && stages[0].at("individual_digits").as_bool() && regex) return std::string("smollm");
    if (type(0) == "Split" && !regex) {
      const std::string& pattern = stages[0].at("pattern").at("Regex").as_string();
      for (const known_pattern& known : known_patterns) {
        if (pattern == known.regex) return std::string(known.name);
      }
    }
  }
  return fail(error_kind::unsupported, "llama.cpp has no name for this pre-tokenizer that we know of; a GGUF file would tokenize differently", file);
}

result<io::gguf_metadata> gguf_tokenizer_keys(const gguf_sources& sources, std::size_t vocab_size) {
  io::gguf_metadata out;
  const std::string file = sources.directory + "/tokenizer.json";
  if (const io::json& prefix = sources.tokenizer_config.at("add_prefix_space"); prefix.is_bool()) {
    out.emplace_back("tokenizer.ggml.add_space_prefix", prefix.as_bool());
  }
  if (!sources.sentencepiece.empty()) {
    auto v = read_sentencepiece(sources, vocab_size);
    if (!v) return forward_error(v);
    out.emplace_back("tokenizer.ggml.model", std::string("llama"));
    out.emplace_back("tokenizer.ggml.pre", std::string("default"));
    out.emplace_back("tokenizer.ggml.tokens", array_of(std::move(v->tokens)));
    out.emplace_back("tokenizer.ggml.scores", array_of(std::move(v->scores)));
    out.emplace_back("tokenizer.ggml.token_type", array_of(std::move(v->types)));
  } else {
    if (sources.tokenizer.is_null()) return fail(error_kind::input, "a GGUF file needs the tokenizer, but the model folder has no tokenizer.json", file);
    if (sources.tokenizer.at("model").at("type").as_string() != "BPE" || sources.tokenizer.at("model").at("byte_fallback").as_bool()) {
      return fail(error_kind::unsupported, "only byte-level BPE tokenizers and SentencePiece models can be written to GGUF", file);
    }
    auto pre = pretokenizer_name(sources.tokenizer, file);
    if (!pre) return forward_error(pre);
    auto v = read_bpe(sources.tokenizer, vocab_size, file);
    if (!v) return forward_error(v);
    auto merges = read_merges(sources.tokenizer.at("model"), file);
    if (!merges) return forward_error(merges);
    out.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
    out.emplace_back("tokenizer.ggml.pre", std::move(*pre));
    out.emplace_back("tokenizer.ggml.tokens", array_of(std::move(v->tokens)));
    out.emplace_back("tokenizer.ggml.token_type", array_of(std::move(v->types)));
    if (!merges->empty()) out.emplace_back("tokenizer.ggml.merges", array_of(std::move(*merges)));
  }
  add_special_tokens(sources, vocab_size, out);
  add_chat_template(sources, out);
  return out;
}

}  // namespace auto_round::exporting
