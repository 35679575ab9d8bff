#include "text/tokenizer.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>

#include "io/file.hpp"
#include "io/json.hpp"
#include "text/added_tokens.hpp"
#include "text/decoder.hpp"
#include "text/json_fields.hpp"
#include "text/normalizer.hpp"
#include "text/post_processor.hpp"
#include "text/pretokenize.hpp"
#include "text/token_model.hpp"
#include "text/unicode.hpp"

namespace auto_round::text {
namespace {

// Bounds the work at each place of a text. Real ones have tens of bytes.
constexpr std::size_t kLongestAddedToken = 4096;

/// Everything that encoding one text needs besides the tokenizer itself. Kept between texts: the memory of pieces makes encoding fast.
struct scratch {
  pretokenizer::workspace cutter;
  token_model::memory memory;
  std::vector<text_part> raw_parts, parts;
  pieces work;
};

template <class T>
tl::unexpected<error> named(const T& failed, const std::string& file) {
  error e = failed.error();
  if (e.file.empty()) e.file = file;
  return tl::unexpected<error>(std::move(e));
}

// A token of tokenizer_config.json: a string or an object with "content".
std::string token_text(const io::json& v) { return v.is_object() ? v.at("content").as_string() : v.as_string(); }

}  // namespace

struct tokenizer::impl {
  token_model model;
  normalizer normal;
  pretokenizer cutter;
  post_processor post;
  decoder decode;
  std::map<std::int32_t, added_token> added;  // by id
  string_map<std::int32_t> added_ids;
  added_token_finder raw_finder, normalized_finder;
  regex word;  // one word character
  std::string bos, eos, chat_template;
  std::int32_t bos_id = -1, eos_id = -1, pad_id = -1;
  std::int64_t model_max_length = 0;
  std::string file;  // for errors
  bool own_template = false;  // in a file of its own

  mutable std::mutex pool_mutex;
  mutable std::vector<std::unique_ptr<scratch>> pool;

  explicit impl(regex r) : word(std::move(r)) {}

  std::unique_ptr<scratch> take_scratch() const {
    const std::lock_guard lock(pool_mutex);
    if (pool.empty()) return std::make_unique<scratch>();
    auto s = std::move(pool.back());
    pool.pop_back();
    return s;
  }
  void return_scratch(std::unique_ptr<scratch> s) const {
    const std::lock_guard lock(pool_mutex);
    pool.push_back(std::move(s));
  }

  std::int32_t id_of(std::string_view token) const {
    const auto found = added_ids.find(token);
    return found != added_ids.end() ? found->second : model.id_of(token);
  }

  result<void> read_added_tokens(const io::json& list);
  result<void> build_finders();
  void read_config(const io::json& config);
  result<void> cut(std::string_view text, scratch& s) const;
  result<std::vector<std::int32_t>> encode_text(std::string_view text, std::size_t most) const;
};

// Ids come from the vocabulary or go on behind it; the ids in the file are not what counts in the `tokenizers` package either.
result<void> tokenizer::impl::read_added_tokens(const io::json& list) {
  if (!list.is_array() && !list.is_null()) return fail(error_kind::input, "\"added_tokens\" is no list");
  std::int64_t next = static_cast<std::int64_t>(model.size());
  for (const io::json& item : list.items()) {
    json_fields f(item, "an added token");
    added_token t;
    t.content = f.text("content");
    t.id = f.id("id");
    t.single_word = f.flag("single_word", false);
    t.lstrip = f.flag("lstrip", false);
    t.rstrip = f.flag("rstrip", false);
    t.special = f.flag("special", false);
    t.normalized = f.flag("normalized", !t.special);
    if (!f.ok()) return f.failure();
    if (t.content.empty()) continue;
    if (t.content.size() > kLongestAddedToken) return fail(error_kind::input, "an added token has more than 4096 bytes");
    t.id = id_of(t.content);
    if (t.id < 0) {
      if (next >= INT32_MAX) return fail(error_kind::input, "the added tokens need ids beyond 2147483646");
      t.id = static_cast<std::int32_t>(next);
    }
    next = std::max<std::int64_t>(next, std::int64_t{t.id} + 1);
    added_ids.insert_or_assign(t.content, t.id);
    if (const auto known = added.find(t.id); known != added.end()) t.special |= known->second.special;
    added.insert_or_assign(t.id, std::move(t));
  }
  return {};
}

result<void> tokenizer::impl::build_finders() {
  regex::workspace space;
  for (auto& [id, t] : added) {
    if (!t.normalized) {
      raw_finder.add(t.content, t);
      continue;
    }
    auto content = normal.apply(to_well_formed(t.content), space);
    if (!content) return forward_error(content);
    t.content = std::move(*content);  // the package decodes to the normalized form too
    normalized_finder.add(t.content, t);
  }
  raw_finder.finish();
  normalized_finder.finish();
  return {};
}

void tokenizer::impl::read_config(const io::json& config) {
  bos = token_text(config.at("bos_token"));
  eos = token_text(config.at("eos_token"));
  const std::string pad = token_text(config.at("pad_token"));
  bos_id = bos.empty() ? -1 : id_of(bos);
  eos_id = eos.empty() ? -1 : id_of(eos);
  pad_id = pad.empty() ? -1 : id_of(pad);
  const double longest = config.at("model_max_length").as_double();
  model_max_length = longest >= 1 && longest < 1e9 ? static_cast<std::int64_t>(longest) : 0;
  if (chat_template.empty()) {
    const io::json& t = config.at("chat_template");
    chat_template = t.as_string();
    for (const io::json& named_template : t.items()) {
      if (named_template.at("name").as_string() == "default") chat_template = named_template.at("template").as_string();
    }
  }
  // Old checkpoints of the LLaMA family say in this file alone that a text starts with BOS. (transformers 5 no longer reads it when there is
  // a tokenizer.json; those checkpoints were made with transformers 4, which does.)
  const bool llama_class = config.at("tokenizer_class").as_string().find("Llama") != std::string::npos;
  const bool inserted = std::find(post.prefix.begin(), post.prefix.end(), bos_id) != post.prefix.end();
  if (llama_class && config.at("add_bos_token").as_bool() && bos_id >= 0 && !inserted) post.prefix.insert(post.prefix.begin(), bos_id);
}

// Cuts out the added tokens, normalizes what lies between them, and cuts that into pieces: s.work.
result<void> tokenizer::impl::cut(std::string_view text, scratch& s) const {
  pieces& work = s.work;
  work.text.clear();
  work.list.clear();
  work.byte_level = false;
  const auto is_word = [&](char32_t c) {
    std::string character;
    append_code_point(character, c);
    return word.find_all(character, s.cutter.matcher, s.cutter.matches) && !s.cutter.matches.empty();
  };
  const auto put = [&](std::string_view part, std::int32_t id) {
    const std::size_t begin = work.text.size();
    work.text.append(part);
    if (!part.empty() || id >= 0) work.list.push_back({begin, work.text.size(), id});
  };
  s.raw_parts.clear();
  raw_finder.split(text, is_word, s.raw_parts);
  for (const text_part& raw : s.raw_parts) {
    const std::string_view part = text.substr(raw.begin, raw.end - raw.begin);
    if (raw.id >= 0 || (normal.empty() && normalized_finder.empty())) {
      put(part, raw.id);
      continue;
    }
    auto normalized = normal.apply(std::string(part), s.cutter.matcher);
    if (!normalized) return forward_error(normalized);
    s.parts.clear();
    normalized_finder.split(*normalized, is_word, s.parts);
    for (const text_part& p : s.parts) put(std::string_view(*normalized).substr(p.begin, p.end - p.begin), p.id);
  }
  return cutter.apply(work, s.cutter);
}

// The first `most` ids of the text, without the post-processor.
result<std::vector<std::int32_t>> tokenizer::impl::encode_text(std::string_view text, std::size_t most) const {
  auto s = take_scratch();
  result<std::vector<std::int32_t>> ids;
  if (auto r = cut(to_well_formed(text), *s); !r) {
    ids = forward_error(r);
  } else {
    for (const pieces::piece& p : s->work.list) {
      if (ids->size() >= most) break;
      if (p.id >= 0) {
        ids->push_back(p.id);
      } else if (auto encoded = model.encode(s->work.view(p), s->work.byte_level, s->memory, *ids); !encoded) {
        ids = forward_error(encoded);
        break;
      }
    }
    if (ids && ids->size() > most) ids->resize(most);
  }
  return_scratch(std::move(s));
  if (!ids) return named(ids, file);
  return ids;
}

tokenizer::tokenizer() = default;
tokenizer::tokenizer(tokenizer&&) noexcept = default;
tokenizer& tokenizer::operator=(tokenizer&&) noexcept = default;
tokenizer::~tokenizer() = default;

result<tokenizer> tokenizer::open(const std::string& dir) {
  const std::string path = dir + "/tokenizer.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored) && std::filesystem::exists(dir, ignored)) {
    return fail(error_kind::unsupported, "the folder has no tokenizer.json; convert its tokenizer with transformers' save_pretrained first", path);
  }
  const auto json = io::read_text(path);
  if (!json) return forward_error(json);
  std::string side[2];
  const char* names[2] = {"/tokenizer_config.json", "/chat_template.jinja"};
  for (int i = 0; i < 2; ++i) {
    if (!std::filesystem::exists(dir + names[i], ignored)) continue;
    auto text = io::read_text(dir + names[i]);
    if (!text) return forward_error(text);
    side[i] = std::move(*text);
  }
  return parse(*json, side[0], side[1], path);
}

result<tokenizer> tokenizer::parse(std::string_view tokenizer_json, std::string_view tokenizer_config, std::string_view chat_template,
                                   const std::string& name) {
  auto root = io::parse_json(tokenizer_json, name);
  if (!root) return forward_error(root);
  if (!root->is_object()) return fail(error_kind::input, "tokenizer.json holds no JSON object", name);
  auto& fields = root->members();
  const auto model_field = std::find_if(fields.begin(), fields.end(), [](const auto& f) { return f.first == "model"; });
  if (model_field == fields.end()) return fail(error_kind::input, "tokenizer.json has no \"model\"", name);

  auto word = regex::compile("[" + std::string(kRustWord) + "]");
  if (!word) return named(word, name);
  tokenizer out;
  out.impl_ = std::make_unique<impl>(std::move(*word));
  impl& t = *out.impl_;
  t.file = name;
  auto model = token_model::from_json(model_field->second);
  if (!model) return named(model, name);
  t.model = std::move(*model);
  auto normal = normalizer::from_json(root->at("normalizer"));
  if (!normal) return named(normal, name);
  t.normal = std::move(*normal);
  auto cutter = pretokenizer::from_json(root->at("pre_tokenizer"));
  if (!cutter) return named(cutter, name);
  t.cutter = std::move(*cutter);
  auto post = post_processor::from_json(root->at("post_processor"));
  if (!post) return named(post, name);
  t.post = std::move(*post);
  auto decode = decoder::from_json(root->at("decoder"));
  if (!decode) return named(decode, name);
  t.decode = std::move(*decode);
  if (auto r = t.read_added_tokens(root->at("added_tokens")); !r) return named(r, name);
  if (auto r = t.build_finders(); !r) return named(r, name);

  t.chat_template = chat_template;
  t.own_template = !chat_template.empty();
  if (!tokenizer_config.empty()) {
    const auto config = io::parse_json(tokenizer_config, std::filesystem::path(name).replace_filename("tokenizer_config.json").string());
    if (!config) return forward_error(config);
    t.read_config(*config);
  }
  return out;
}

result<std::vector<std::int32_t>> tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  auto ids = impl_->encode_text(text, SIZE_MAX);
  if (ids && add_special_tokens) {
    ids->insert(ids->begin(), impl_->post.prefix.begin(), impl_->post.prefix.end());
    ids->insert(ids->end(), impl_->post.suffix.begin(), impl_->post.suffix.end());
  }
  return ids;
}

result<std::vector<std::int32_t>> tokenizer::encode_truncated(std::string_view text, std::size_t max_tokens) const {
  const auto& [prefix, suffix] = impl_->post;
  const std::size_t special = prefix.size() + suffix.size();
  auto ids = impl_->encode_text(text, max_tokens > special ? max_tokens - special : 0);
  if (!ids) return ids;
  ids->insert(ids->begin(), prefix.begin(), prefix.end());
  ids->insert(ids->end(), suffix.begin(), suffix.end());
  if (ids->size() > max_tokens) ids->resize(max_tokens);  // not even the special tokens fit
  return ids;
}

std::string tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  for (const std::int32_t id : ids) {
    if (const auto added = impl_->added.find(id); added != impl_->added.end()) {
      if (!skip_special || !added->second.special) tokens.push_back(added->second.content);
    } else if (const std::string* token = impl_->model.token_of(id)) {
      tokens.push_back(*token);
    }
  }
  return impl_->decode.apply(std::move(tokens));
}

std::size_t tokenizer::vocab_size() const {
  std::int32_t largest = impl_->model.largest_id();
  if (!impl_->added.empty()) largest = std::max(largest, impl_->added.rbegin()->first);
  return static_cast<std::size_t>(std::int64_t{largest} + 1);
}

std::int32_t tokenizer::token_id(std::string_view token) const { return impl_->id_of(token); }
std::int32_t tokenizer::bos_id() const { return impl_->bos_id; }
std::int32_t tokenizer::eos_id() const { return impl_->eos_id; }
std::int32_t tokenizer::pad_id() const { return impl_->pad_id; }
const std::string& tokenizer::bos_token() const { return impl_->bos; }
const std::string& tokenizer::eos_token() const { return impl_->eos; }
const std::string& tokenizer::chat_template() const { return impl_->chat_template; }
std::string tokenizer::chat_template_file() const {
  return std::filesystem::path(impl_->file).replace_filename(impl_->own_template ? "chat_template.jinja" : "tokenizer_config.json").string();
}
std::int64_t tokenizer::model_max_length() const { return impl_->model_max_length; }

}  // namespace auto_round::text
