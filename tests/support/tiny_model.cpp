#include "support/tiny_model.hpp"

#include <cstring>
#include <fstream>
#include <utility>

#include "ar/numeric/half.hpp"

namespace support {

tiny_model::tiny_model(std::uint64_t seed, bool tie, bool with_bias, std::int64_t width, std::int64_t mlp_width)
    : hidden(width), intermediate(mlp_width), tied(tie), bias(with_bias), state_(seed * 0x9E3779B97F4A7C15u + 1) {
  const std::int64_t head_dim = hidden / heads;
  config = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_size", hidden}, {"intermediate_size", intermediate},
            {"num_hidden_layers", layers}, {"num_attention_heads", heads}, {"num_key_value_heads", kv_heads}, {"head_dim", head_dim}, {"vocab_size", vocab},
            {"max_position_embeddings", 128}, {"rms_norm_eps", 1e-5}, {"rope_theta", 10000.0}, {"hidden_act", "silu"}, {"tie_word_embeddings", tied},
            {"attention_bias", bias}, {"bos_token_id", 0}, {"eos_token_id", 1}, {"torch_dtype", "bfloat16"}};
  add("model.embed_tokens.weight", vocab, hidden);
  for (std::int64_t l = 0; l < layers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    add_norm(p + "input_layernorm.weight");
    add_norm(p + "post_attention_layernorm.weight");
    add_linear(p + "self_attn.q_proj", hidden, hidden, bias);
    add_linear(p + "self_attn.k_proj", kv_heads * head_dim, hidden, bias);
    add_linear(p + "self_attn.v_proj", kv_heads * head_dim, hidden, bias);
    add_linear(p + "self_attn.o_proj", hidden, hidden, bias);
    add_linear(p + "mlp.gate_proj", intermediate, hidden, false);
    add_linear(p + "mlp.up_proj", intermediate, hidden, false);
    add_linear(p + "mlp.down_proj", hidden, intermediate, false);
  }
  add_norm("model.norm.weight");
  if (!tied) add("lm_head.weight", vocab, hidden);
  nlohmann::ordered_json tokens = nlohmann::ordered_json::object();
  // The 256 byte tokens of byte-level BPE, printable bytes as themselves.
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int c = printable ? b : next++;
    std::string s;
    if (c < 0x80) s += static_cast<char>(c);
    else {
      s += static_cast<char>(0xC0 | (c >> 6));
      s += static_cast<char>(0x80 | (c & 0x3F));
    }
    tokens[s] = b;
  }
  tokenizer = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", nlohmann::ordered_json::array()}, {"normalizer", nullptr},
               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
               {"post_processor", nullptr}, {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
               {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                          {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false}, {"vocab", tokens}, {"merges", nlohmann::ordered_json::array()}}}};
  tokenizer_config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"model_max_length", 128}};
}

void tiny_model::add(const std::string& name, std::int64_t rows, std::int64_t cols) {
  fill(name, {static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols)}, [&] { return 0.08f * gauss(); });
}

void tiny_model::add_norm(const std::string& name) { fill(name, {static_cast<std::uint64_t>(hidden)}, [&] { return 1.0f + 0.05f * gauss(); }); }

void tiny_model::add_linear(const std::string& name, std::int64_t rows, std::int64_t cols, bool with_bias) {
  add(name + ".weight", rows, cols);
  if (with_bias) fill(name + ".bias", {static_cast<std::uint64_t>(rows)}, [&] { return 0.01f * gauss(); });
}

void tiny_model::set(const std::string& name, std::size_t index, float value) {
  const std::uint16_t h = ar::bf16_from_f32(value);
  std::memcpy(tensors.at(name).bytes.data() + 2 * index, &h, 2);
}

std::string tiny_model::safetensors(const std::map<std::string, tiny_tensor>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::uint64_t at = 0;
  std::string data;
  for (const auto& [name, t] : tensors) {
    header[name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes.size()}}};
    at += t.bytes.size();
    data += t.bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t n = text.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + text + data;
}

void tiny_model::write(const std::filesystem::path& dir, const std::function<void(std::string&)>& edit) const {
  std::filesystem::create_directories(dir);
  std::string weights = safetensors(tensors);
  if (edit) edit(weights);
  put(dir / "model.safetensors", weights);
  put(dir / "config.json", config.dump(2));
  put(dir / "tokenizer.json", tokenizer.dump());
  put(dir / "tokenizer_config.json", tokenizer_config.dump(2));
}

std::string tiny_model::calibration(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) {
    std::string words;
    for (int w = 0; w < 30; ++w) words += "word" + std::to_string((i * 31 + w * 7) % 97) + " ";
    text += nlohmann::ordered_json{{"text", words}}.dump() + "\n";
  }
  return text;
}

void tiny_model::put(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void tiny_model::fill(const std::string& name, std::vector<std::uint64_t> shape, const std::function<float()>& value) {
  tiny_tensor t;
  t.shape = std::move(shape);
  std::uint64_t n = 1;
  for (const std::uint64_t d : t.shape) n *= d;
  t.bytes.resize(2 * n);
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint16_t h = ar::bf16_from_f32(value());
    std::memcpy(t.bytes.data() + 2 * i, &h, 2);
  }
  tensors[name] = std::move(t);
}

float tiny_model::uniform() {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return static_cast<float>(state_ >> 40) * 0x1p-24f;
}

/// Nearly normal: the sum of twelve uniform numbers.
float tiny_model::gauss() {
  float s = -6;
  for (int i = 0; i < 12; ++i) s += uniform();
  return s;
}

}  // namespace support
