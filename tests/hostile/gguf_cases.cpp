// GGUF files: headers that lie, and files whose metadata and tensors do not belong together.
#include <cmath>
#include <stdexcept>

#include "hostile/model_files.hpp"

namespace hostile {
namespace {

constexpr const char* file = "@/model.gguf";

std::string u32(std::uint64_t v) { return bytes_of(static_cast<std::uint32_t>(v)); }
std::string u64(std::uint64_t v) { return bytes_of(v); }
std::string text(const std::string& s) { return u64(s.size()) + s; }

// Value types of the format.
constexpr std::uint32_t type_u8 = 0, type_i8 = 1, type_u32 = 4, type_f32 = 6, type_bool = 7, type_string = 8, type_array = 9, type_u64 = 10;

struct tensor {
  std::string name;
  std::vector<std::uint64_t> ne;
  std::uint32_t type = 0;  // F32
  std::string data;
};

/// A sound file of two blocks; every number of it may be changed.
struct gguf {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::vector<std::pair<std::string, std::string>> pairs;  // key; type and value
  std::vector<tensor> tensors;
  std::uint64_t alignment = 32, claimed_tensors = 0, claimed_keys = 0;  // counts are added to the true ones
  std::function<std::uint64_t(std::size_t, std::uint64_t)> offset = [](std::size_t, std::uint64_t at) { return at; };

  gguf() {
    const auto number = [&](const std::string& key, std::uint32_t v) { pairs.emplace_back(key, u32(type_u32) + u32(v)); };
    const auto real = [&](const std::string& key, float v) { pairs.emplace_back(key, u32(type_f32) + bytes_of(v)); };
    pairs.emplace_back("general.architecture", u32(type_string) + text("llama"));
    number("llama.embedding_length", 32);
    number("llama.feed_forward_length", 32);
    number("llama.block_count", 2);
    number("llama.attention.head_count", 2);
    number("llama.attention.head_count_kv", 1);
    number("llama.context_length", 64);
    real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    real("llama.rope.freq_base", 10000.0f);
    add("token_embd.weight", {32, 16});
    for (const char* b : {"blk.0.", "blk.1."}) {
      const std::string p = b;
      add(p + "attn_norm.weight", {32});
      add(p + "ffn_norm.weight", {32});
      add(p + "attn_q.weight", {32, 32});
      add(p + "attn_k.weight", {32, 16});
      add(p + "attn_v.weight", {32, 16});
      add(p + "attn_output.weight", {32, 32});
      add(p + "ffn_gate.weight", {32, 32});
      add(p + "ffn_up.weight", {32, 32});
      add(p + "ffn_down.weight", {32, 32});
    }
    add("output_norm.weight", {32});
    add("output.weight", {32, 16});
  }
  void add(const std::string& name, std::vector<std::uint64_t> ne) {
    std::uint64_t n = 1;
    for (const std::uint64_t d : ne) n *= d;
    tensors.push_back({name, std::move(ne), 0, std::string(4 * n, '\0')});
  }
  tensor& of(const std::string& name) {
    for (tensor& t : tensors)
      if (t.name == name) return t;
    throw std::logic_error(name);
  }
  std::string& value(const std::string& key) {
    for (auto& [k, v] : pairs)
      if (k == key) return v;
    throw std::logic_error(key);
  }
  void erase(const std::string& key) {
    std::erase_if(pairs, [&](const auto& p) { return p.first == key; });
  }
  std::string bytes() const {
    std::string out = magic + u32(version) + u64(tensors.size() + claimed_tensors) + u64(pairs.size() + claimed_keys), data;
    for (const auto& [key, value] : pairs) out += text(key) + value;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const tensor& t = tensors[i];
      out += text(t.name) + u32(t.ne.size());
      for (const std::uint64_t n : t.ne) out += u64(n);
      out += u32(t.type) + u64(offset(i, data.size()));
      data += t.data;
      data.resize((data.size() + alignment - 1) / alignment * alignment);
    }
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }
};

class list {
 public:
  void bytes(std::string name, std::string content, std::vector<std::string> says, int status = bad_input) {
    if (status != accepted) says.emplace_back(file);
    all_.push_back({std::move(name), [content = std::move(content)](const fs::path& dir) { put(dir / "model.gguf", content); }, {"inspect", file}, status, std::move(says)});
  }
  void change(std::string name, const std::function<void(gguf&)>& what, std::vector<std::string> says, int status = bad_input) {
    gguf g;
    what(g);
    bytes(std::move(name), g.bytes(), std::move(says), status);
  }
  void pair(std::string name, std::string key, std::string value, std::vector<std::string> says, int status = bad_input) {
    change(std::move(name), [&](gguf& g) { g.pairs.emplace_back(key, value); }, std::move(says), status);
  }
  /// A number of the metadata.
  void number(const std::string& key, std::uint64_t v, std::vector<std::string> says, int status = bad_input) {
    change(key + " is " + std::to_string(v), [&](gguf& g) { g.value("llama." + key) = u32(type_u64) + u64(v); }, std::move(says), status);
  }
  void real(const std::string& key, float v, std::vector<std::string> says) {
    change(key + " is " + std::to_string(v), [&](gguf& g) { g.value("llama." + key) = u32(type_f32) + bytes_of(v); }, std::move(says));
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

std::string array(std::uint64_t type, std::uint64_t count, const std::string& elements) { return u32(type_array) + u32(type) + u64(count) + elements; }

void headers(list& l) {
  l.change("sound", [](gguf&) {}, {}, accepted);
  const std::string good = gguf().bytes();
  l.bytes("empty file", "", {"no GGUF file"});
  l.bytes("three bytes", "GGU", {"no GGUF file"});
  l.bytes("magic alone", "GGUF", {"ends inside its header"});
  for (const std::size_t n : {8u, 12u, 16u, 23u, 24u, 40u, 100u, 333u, 700u}) {
    l.bytes("cut at byte " + std::to_string(n), good.substr(0, n), {"ends inside its header"});
  }
  l.bytes("cut before the data", good.substr(0, good.size() / 2), {"cut short"});
  l.bytes("cut by one byte of the last tensor", good.substr(0, good.size() - 1), {"cut short"});
  l.change("wrong magic", [](gguf& g) { g.magic = "GGML"; }, {"no GGUF file"});
  l.change("magic in lower case", [](gguf& g) { g.magic = "gguf"; }, {"no GGUF file"});
  l.change("big endian", [](gguf& g) { g.version = 0x03000000; }, {"big-endian"}, unsupported);
  l.change("version 0", [](gguf& g) { g.version = 0; }, {"big-endian"}, unsupported);
  l.change("version 1", [](gguf& g) { g.version = 1; }, {"version 1"}, unsupported);
  l.change("version 4", [](gguf& g) { g.version = 4; }, {"version 4"}, unsupported);
  l.change("version 2^32-1", [](gguf& g) { g.version = UINT32_MAX; }, {"version 4294967295"}, unsupported);
  l.change("one tensor more than there is", [](gguf& g) { g.claimed_tensors = 1; }, {});
  // What is left of it is a model with a tied head, and bytes behind the last tensor, which ggml reads over too.
  l.change("one tensor less than there is", [](gguf& g) { g.claimed_tensors = UINT64_MAX; }, {}, accepted);
  l.change("one key more than there is", [](gguf& g) { g.claimed_keys = 1; }, {});
  l.change("one key less than there is", [](gguf& g) { g.claimed_keys = UINT64_MAX; }, {});
  l.change("2^63 tensors", [](gguf& g) { g.claimed_tensors = std::uint64_t{1} << 63; }, {"claims 9223372036854775"});
  l.change("2^63 keys", [](gguf& g) { g.claimed_keys = std::uint64_t{1} << 63; }, {"claims 9223372036854775"});
  l.change("a million and one tensors", [](gguf& g) { g.claimed_tensors = 1'000'001; }, {"claims"});
  l.change("100,000 keys in a small file", [](gguf& g) { g.claimed_keys = 99'000; }, {});
}

void metadata(list& l) {
  l.pair("a key twice", "llama.block_count", u32(type_u32) + u32(3), {"twice", "llama.block_count"});
  l.pair("an empty key", "", u32(type_u8) + "x", {"empty"});
  l.pair("a key with a zero byte", std::string("a\0b", 3), u32(type_u8) + "x", {"zero byte"});
  l.pair("a key that is no UTF-8", "\xFF\xFE", u32(type_u8) + "x", {"UTF-8"});
  l.pair("a key of 65,536 bytes", std::string(65'536, 'k'), u32(type_u8) + "x", {"longer than 65535"});
  l.pair("a value of type 13", "x", u32(13) + u64(0), {"type 13", "\"x\""});
  l.pair("a value of type 2^32-1", "x", u32(UINT32_MAX) + u64(0), {"type 4294967295", "\"x\""});
  l.pair("a bool of 2", "x", u32(type_bool) + "\2", {"bool", "\"x\""});
  l.pair("a string of 2^48 bytes", "x", u32(type_string) + u64(std::uint64_t{1} << 48), {"281474976710656", "\"x\""});
  l.pair("a string of 2^64-1 bytes", "x", u32(type_string) + u64(UINT64_MAX), {"18446744073709551615", "\"x\""});
  l.pair("a string longer than the file", "x", u32(type_string) + u64(1u << 20), {"ends inside its header", "\"x\""});
  l.pair("an array of arrays", "x", array(type_array, 1, u32(type_u8) + u64(1) + "x"), {"type 9", "\"x\""});
  l.pair("an array of type 99", "x", array(99, 1, "x"), {"type 99", "\"x\""});
  l.pair("an array of 2^61 numbers", "x", array(type_u64, std::uint64_t{1} << 61, ""), {"claims 2305843009213693952", "\"x\""});
  l.pair("an array of 2^64-1 bytes", "x", array(type_i8, UINT64_MAX, ""), {"claims 18446744073709551615", "\"x\""});
  l.pair("an array of ten million strings", "x", array(type_string, 10'000'000, ""), {"ends inside its header", "\"x\""});
  l.pair("an array of strings, one of 2^63 bytes", "x", array(type_string, 2, text("a") + u64(std::uint64_t{1} << 63)), {"longer than", "\"x\""});
  l.pair("a million empty strings", "x", array(type_string, 1'000'000, std::string(8'000'000, '\0')), {}, accepted);
  l.pair("alignment 0", "general.alignment", u32(type_u32) + u32(0), {"general.alignment"});
  l.pair("alignment 3", "general.alignment", u32(type_u32) + u32(3), {"general.alignment"});
  l.pair("alignment 2^31", "general.alignment", u32(type_u32) + u32(1u << 31), {"general.alignment"});
  l.pair("alignment of another type", "general.alignment", u32(type_u64) + u64(32), {"general.alignment"});
  l.pair("alignment that the offsets do not keep", "general.alignment", u32(type_u32) + u32(1u << 20), {});
  l.change("no architecture", [](gguf& g) { g.erase("general.architecture"); }, {"architecture \"\""}, unsupported);
  l.change("an architecture of the future", [](gguf& g) { g.value("general.architecture") = u32(type_string) + text("qwen99"); }, {"qwen99"}, unsupported);
  l.change("an architecture of control characters", [](gguf& g) { g.value("general.architecture") = u32(type_string) + text("\x1b[31m\n"); }, {"architecture"}, unsupported);
  l.change("the architecture is a number", [](gguf& g) { g.value("general.architecture") = u32(type_u32) + u32(7); }, {"architecture \"\""}, unsupported);
  for (const char* key : {"embedding_length", "feed_forward_length", "block_count", "attention.head_count", "attention.head_count_kv", "context_length",
                          "attention.layer_norm_rms_epsilon", "rope.freq_base"}) {
    l.change(std::string("no ") + key, [&](gguf& g) { g.erase(std::string("llama.") + key); }, {std::string("llama.") + key});
  }
  l.change("block_count is a string", [](gguf& g) { g.value("llama.block_count") = u32(type_string) + text("2"); }, {"llama.block_count"});
  l.change("block_count is an array", [](gguf& g) { g.value("llama.block_count") = array(type_u8, 1, "\2"); }, {"llama.block_count"});
  l.number("block_count", 0, {"num_hidden_layers"});
  l.number("block_count", 3, {"blk.2.attn_norm.weight"});
  l.number("block_count", 100'000, {"700000 linear layers", "100000 blocks"});
  l.number("block_count", std::uint64_t{1} << 62, {"block_count"});
  l.number("embedding_length", 0, {"hidden_size"});
  l.number("embedding_length", 64, {"token_embd.weight"});
  l.number("embedding_length", UINT64_MAX, {"embedding_length"});
  l.number("attention.head_count", 0, {"num_attention_heads"});
  l.number("attention.head_count", 3, {"hidden_size"});
  l.number("attention.head_count", 32, {"head_dim"});
  l.number("attention.head_count_kv", 0, {"num_key_value_heads"});
  l.number("attention.head_count_kv", 7, {"num_key_value_heads"});
  l.number("context_length", 0, {"max_position_embeddings"});
  l.number("feed_forward_length", 1u << 20, {"ffn_gate.weight"});
  l.real("attention.layer_norm_rms_epsilon", NAN, {"layer_norm_rms_epsilon"});
  l.real("attention.layer_norm_rms_epsilon", -1, {"rms_norm_eps"});
  l.real("rope.freq_base", INFINITY, {"rope.freq_base"});
  l.real("rope.freq_base", 0, {"rope_theta"});
  l.pair("vocab_size that the embedding does not have", "llama.vocab_size", u32(type_u32) + u32(1u << 20), {"token_embd.weight"});
  l.pair("odd key_length", "llama.attention.key_length", u32(type_u32) + u32(15), {"head_dim"});
}

void tensors(list& l) {
  constexpr const char* q = "blk.0.attn_q.weight";
  const auto shape = [&](std::string name, std::vector<std::uint64_t> ne, std::vector<std::string> says) {
    says.emplace_back(q);
    l.change(std::move(name), [&](gguf& g) { g.of(q).ne = ne; }, std::move(says));
  };
  const auto type = [&](std::uint32_t id, std::vector<std::string> says, int status = bad_input) {
    says.emplace_back(q);
    l.change("tensor type " + std::to_string(id), [&](gguf& g) { g.of(q).type = id; }, std::move(says), status);
  };
  shape("five dimensions", {32, 32, 1, 1, 1}, {"at most 4"});
  shape("a dimension of 0", {32, 0}, {"dimension", "0"});
  shape("a dimension of 2^63", {32, std::uint64_t{1} << 63}, {"too large"});
  shape("a dimension of -1", {32, UINT64_MAX}, {"too large"});
  shape("a product that wraps to 1024", {32, (std::uint64_t{1} << 59) + 32}, {"too large"});
  shape("dimensions of 2^42+1", {(std::uint64_t{1} << 42) + 1, 32}, {});
  shape("four dimensions of 65,536", {65536, 65536, 65536, 65536}, {"too large"});
  shape("an exabyte", {std::uint64_t{1} << 30, std::uint64_t{1} << 30}, {});
  shape("rows and columns of another matrix", {64, 16}, {"shape"});
  for (const std::uint32_t id : {4u, 5u, 31u, 36u, 37u, 43u, 1000u, UINT32_MAX}) type(id, {"type of the tensor is unknown"});
  type(12, {"whole number of blocks"});      // Q4_K: rows of 256
  // Sound by themselves, but the next tensor then lies elsewhere.
  const auto next_is_wrong = [&](std::string name, std::function<void(tensor&)> what) {
    l.change(std::move(name), [&](gguf& g) { what(g.of(q)); }, {"must begin at", "blk.0.attn_k.weight"});
  };
  next_is_wrong("no dimension", [](tensor& t) { t.ne = {}; });
  next_is_wrong("a type of one byte", [](tensor& t) { t.type = 24; });
  next_is_wrong("a type of half a byte", [](tensor& t) { t.type = 2; });
  l.change("a type that cannot be decoded", [&](gguf& g) {
    g.of(q).type = 26;  // I32, of the same size
  }, {"I32", q}, unsupported);
  l.change("a tensor twice", [&](gguf& g) { g.of("blk.0.attn_k.weight").name = "blk.0.attn_v.weight"; }, {"twice", "blk.0.attn_v.weight"});
  l.change("a tensor is missing", [&](gguf& g) { std::erase_if(g.tensors, [](const tensor& t) { return t.name == "blk.1.ffn_up.weight"; }); }, {"missing", "blk.1.ffn_up.weight"});
  l.change("a name of 64 bytes", [&](gguf& g) { g.of(q).name = std::string(64, 'n'); }, {"longer than 63"});
  l.change("an empty name", [&](gguf& g) { g.of(q).name = ""; }, {"empty"});
  l.change("a name with a zero byte", [&](gguf& g) { g.of(q).name = std::string("a\0b", 3); }, {"zero byte"});
  l.change("a name that is no UTF-8", [&](gguf& g) { g.of(q).name = "\xC3("; }, {"UTF-8"});
  l.change("a name that is a path", [&](gguf& g) { g.add("../../etc/passwd", {8}); }, {}, accepted);
  const auto offset = [&](std::string name, std::function<std::uint64_t(std::uint64_t)> what, std::vector<std::string> says) {
    says.emplace_back("blk.0.attn_norm.weight");
    l.change(std::move(name), [&](gguf& g) { g.offset = [what](std::size_t i, std::uint64_t at) { return i == 1 ? what(at) : at; }; }, std::move(says));
  };
  offset("an offset that is not aligned", [](std::uint64_t at) { return at + 1; }, {"byte"});
  offset("an offset of 0 where another tensor lies", [](std::uint64_t) { return 0; }, {"byte"});
  offset("an offset in the middle of another tensor", [](std::uint64_t at) { return at - 32; }, {"byte"});
  offset("an offset with a hole before it", [](std::uint64_t at) { return at + 32; }, {"byte"});
  offset("an offset behind the file", [](std::uint64_t) { return std::uint64_t{1} << 40; }, {"byte"});
  offset("a negative offset", [](std::uint64_t) { return UINT64_MAX - 31; }, {"byte"});
  l.change("rope factors of another length", [](gguf& g) { g.add("rope_freqs.weight", {3}); }, {"rope factors", "rope_freqs.weight"});
  l.change("rope factors that are zero", [](gguf& g) { g.add("rope_freqs.weight", {8}); }, {"rope factors", "rope_freqs.weight"});
  l.change("no embedding and no vocab_size", [](gguf& g) { g.of("token_embd.weight").name = "token_embd"; }, {"vocab_size"});
}

}  // namespace

std::vector<one_case> gguf_cases() {
  list l;
  headers(l);
  metadata(l);
  tensors(l);
  return l.take();
}

}  // namespace hostile
