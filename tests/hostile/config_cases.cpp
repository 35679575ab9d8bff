// config.json: fields that are missing, negative, zero, huge or of another kind, and models that are not what it says.
#include <cstdint>

#include "hostile/model_files.hpp"

namespace hostile {
namespace {

constexpr const char* file = "@/model/config.json";

class list {
 public:
  void change(std::string name, std::function<void(json&)> what, std::vector<std::string> says, int status = bad_input) {
    all_.push_back({std::move(name), changed_model([what = std::move(what)](tiny_model& m) { what(m.config); }), rounds({"--disable_model_free"}), status, std::move(says)});
  }
  /// A field has this value; the error names field and file.
  void field(const std::string& key, const json& value, std::vector<std::string> says = {}, int status = bad_input) {
    says.push_back(file);
    says.push_back("'" + key + "'");
    change(key + " is " + value.dump().substr(0, 60), [key, value](json& c) { c[key] = value; }, std::move(says), status);
  }
  /// A field that contradicts a tensor.
  void lie(const std::string& key, const json& value, std::vector<std::string> says) {
    change(key + " is " + value.dump() + ", the tensors say otherwise", [key, value](json& c) { c[key] = value; }, std::move(says));
  }
  void rope(std::string name, const json& value, std::vector<std::string> says, int status = bad_input) {
    says.push_back(file);
    change("rope_scaling: " + std::move(name), [value](json& c) { c["rope_scaling"] = value; }, std::move(says), status);
  }
  /// The configuration of another architecture on top of the sound one.
  void other(std::string name, const std::string& model_class, const json& more, std::vector<std::string> says, int status = bad_input) {
    change(std::move(name), [model_class, more](json& c) {
      c["architectures"] = {model_class};
      c.update(more);
    }, std::move(says), status);
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

void sizes(list& l) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    l.change(std::string("no ") + key, [key](json& c) { c.erase(key); }, {"is missing", std::string("'") + key + "'", file});
    l.field(key, nullptr, {"is missing"});
    l.field(key, 0, {"must be an integer"});
    l.field(key, -1, {"must be an integer"});
    l.field(key, INT64_MAX, {"must be an integer"});
  }
  l.field("hidden_size", INT64_MIN, {"must be an integer"});
  l.field("hidden_size", UINT64_MAX, {"must be an integer"});
  l.field("hidden_size", 64.5, {"must be an integer"});
  l.field("hidden_size", 1e300, {"must be an integer"});
  l.field("hidden_size", "64", {"must be an integer"});
  l.field("hidden_size", {64}, {"must be an integer"});
  l.field("hidden_size", json::object(), {"must be an integer"});
  l.field("hidden_size", true, {"must be an integer"});
  l.field("num_key_value_heads", 0, {"must be an integer"});
  l.field("num_key_value_heads", -2, {"must be an integer"});
  l.change("heads that kv heads do not divide", [](json& c) { c["num_attention_heads"] = 3, c["num_key_value_heads"] = 2; }, {"multiple", file});
  l.change("hidden_size that heads do not divide", [](json& c) { c["num_attention_heads"] = 3, c["num_key_value_heads"] = 3, c.erase("head_dim"); }, {"'hidden_size'", file});
  l.field("head_dim", 33, {"must be even"});
  l.field("head_dim", 0, {"must be an integer"});
  l.field("head_dim", 1 << 25, {"must be an integer"});
  l.change("heads times head_dim beyond all", [](json& c) { c["num_attention_heads"] = 1 << 20, c["head_dim"] = 1 << 20; }, {"'num_attention_heads'", file});
  l.field("max_position_embeddings", 0, {"must be an integer"});
  l.field("max_position_embeddings", -7, {"must be an integer"});
  l.field("rms_norm_eps", -1, {"range"});
  l.field("rms_norm_eps", 2, {"range"});
  l.field("rms_norm_eps", "1e-5", {"range"});
  l.field("tie_word_embeddings", 1, {"true or false"});
  l.field("attention_bias", "no", {"true or false"});
  l.field("mlp_bias", json::array(), {"true or false"});
  l.field("hidden_act", "os.system", {"not supported"}, unsupported);
  l.field("hidden_act", 3, {"not supported"}, unsupported);
  const std::string folder = "@/model";
  l.lie("num_hidden_layers", 3, {"model.layers.2.input_layernorm.weight", folder});
  l.lie("num_hidden_layers", 100'000, {folder});
  l.lie("hidden_size", 128, {"shape [256, 64]", "model.embed_tokens.weight", "@/model/model.safetensors"});
  l.lie("hidden_size", 1 << 24, {"shape [256, 64]", "model.embed_tokens.weight", "@/model/model.safetensors"});
  l.lie("intermediate_size", 95, {"mlp.gate_proj.weight", "@/model/model.safetensors"});
  l.lie("vocab_size", 255, {"model.embed_tokens.weight", "@/model/model.safetensors"});
  l.lie("vocab_size", 1 << 24, {"model.embed_tokens.weight", "@/model/model.safetensors"});
  l.lie("num_attention_heads", 4, {"self_attn.q_proj.weight", "@/model/model.safetensors"});
  l.lie("num_key_value_heads", 2, {"self_attn.k_proj.weight", "@/model/model.safetensors"});
  l.lie("head_dim", 16, {"self_attn.q_proj.weight", "@/model/model.safetensors"});
  l.lie("attention_bias", true, {"self_attn.q_proj.bias", folder});
}

void architectures(list& l) {
  l.change("no architectures and no model_type", [](json& c) { c.erase("architectures"), c.erase("model_type"); }, {"not named", file}, unsupported);
  l.change("architectures is empty", [](json& c) { c["architectures"] = json::array(), c["model_type"] = "bogus"; }, {"'bogus'", file}, unsupported);
  l.change("architectures is a text", [](json& c) { c["architectures"] = "LlamaForCausalLM", c.erase("model_type"); }, {"not named", file}, unsupported);
  l.change("architectures holds a number", [](json& c) { c["architectures"] = {7}, c.erase("model_type"); }, {"not named", file}, unsupported);
  l.change("an unknown class", [](json& c) { c["architectures"] = {"EvilForCausalLM"}; }, {"'EvilForCausalLM'", file}, unsupported);
  l.change("a class of control characters", [](json& c) { c["architectures"] = {"\x1b[2J\n"}; }, {file}, unsupported);
  const json moe = {{"moe_intermediate_size", 32}, {"num_experts", 4}, {"num_experts_per_tok", 2}};
  const auto moe_with = [&](const char* key, const json& value) {
    json m = moe;
    m[key] = value;
    return m;
  };
  l.other("no experts", "MixtralForCausalLM", {{"num_local_experts", 0}}, {"'num_local_experts'", file});
  l.other("more active experts than there are", "MixtralForCausalLM", {{"num_local_experts", 2}, {"num_experts_per_tok", 3}}, {"'num_experts_per_tok'", file});
  l.other("a million experts", "MixtralForCausalLM", {{"num_local_experts", 1'000'000}}, {"'num_local_experts'", file});
  l.other("most experts in most layers", "MixtralForCausalLM", {{"num_local_experts", 4096}, {"num_hidden_layers", 100'000}}, {"@/model"});
  l.other("experts that are not there", "MixtralForCausalLM", {{"num_local_experts", 8}}, {"block_sparse_moe", "@/model"});
  l.other("experts of negative size", "Qwen3MoeForCausalLM", moe_with("moe_intermediate_size", -1), {"'moe_intermediate_size'", file});
  l.other("decoder_sparse_step 0", "Qwen3MoeForCausalLM", moe_with("decoder_sparse_step", 0), {"'decoder_sparse_step'", file});
  l.other("norm_topk_prob is a number", "Qwen3MoeForCausalLM", moe_with("norm_topk_prob", 2), {"'norm_topk_prob'", file});
  json dense = json::array();
  for (int i = 0; i < 100'000; ++i) dense.push_back(i);
  json many = moe_with("mlp_only_layers", dense);
  many["num_hidden_layers"] = 100'000;
  l.other("100,000 dense layers, listed, in as many", "Qwen3MoeForCausalLM", many, {"@/model"});
  l.other("DeepSeek with more kv heads than heads", "DeepseekV3ForCausalLM", {{"num_key_value_heads", 1}}, {"'num_key_value_heads'", file}, unsupported);
  l.other("Gemma 2 without window", "Gemma2ForCausalLM", {{"hidden_activation", "gelu_pytorch_tanh"}, {"query_pre_attn_scalar", 0}}, {file});
  l.other("Gemma 3 whose layer_types are too few", "Gemma3ForCausalLM", {{"hidden_activation", "gelu_pytorch_tanh"}, {"layer_types", {"full_attention"}}}, {"'layer_types'", file});
  l.other("Gemma 3 with an unknown layer type", "Gemma3ForCausalLM",
          {{"hidden_activation", "gelu_pytorch_tanh"}, {"layer_types", {"full_attention", "quantum_attention"}}, {"sliding_window", 16}}, {"'layer_types'", file}, unsupported);
  l.other("Qwen2 with a window and no number", "Qwen2ForCausalLM", {{"use_sliding_window", true}, {"sliding_window", "all"}}, {file});
  l.other("OPT fields of another kind", "OPTForCausalLM", {{"ffn_dim", -4}, {"do_layer_norm_before", "x"}}, {file});
  l.other("NeoX with rotary_pct 1.5", "GPTNeoXForCausalLM", {{"rotary_pct", 1.5}}, {"rotary_pct", file});
  l.other("NeoX with rotary_pct -1", "GPTNeoXForCausalLM", {{"rotary_pct", -1}}, {"rotary_pct", file});
  l.other("DeepSeek without ranks", "DeepseekV3ForCausalLM", {{"num_key_value_heads", 2}, {"kv_lora_rank", nullptr}}, {"missing", "@/model"});
  l.other("DeepSeek with negative ranks", "DeepseekV3ForCausalLM",
          {{"num_key_value_heads", 2}, {"kv_lora_rank", -1}, {"q_lora_rank", -1}, {"qk_rope_head_dim", 0}, {"qk_nope_head_dim", 0}, {"v_head_dim", 0}}, {file});
  l.other("Phi-3 with a partial rotary factor of 0", "Phi3ForCausalLM", {{"partial_rotary_factor", 0}}, {"partial_rotary_factor", file});
}

void ropes(list& l) {
  l.field("rope_theta", 0, {"range"});
  l.field("rope_theta", -1, {"range"});
  l.field("rope_theta", 1e13, {"range"});
  l.field("rope_theta", "10000", {"range"});
  l.change("partial_rotary_factor of half a head", [](json& c) { c["partial_rotary_factor"] = 0.5; }, {"partial_rotary_factor", file}, unsupported);
  l.rope("is a string", "linear", {"rope_scaling"});
  l.rope("is a list", {1, 2}, {"rope_scaling"});
  l.rope("of no kind known", {{"rope_type", "magic"}, {"factor", 2}}, {"magic"}, unsupported);
  l.rope("its kind is a number", {{"rope_type", 7}, {"factor", 2}}, {"rope_type"});
  l.rope("linear without factor", {{"rope_type", "linear"}}, {"factor"});
  l.rope("linear by 0", {{"rope_type", "linear"}, {"factor", 0}}, {"factor"});
  l.rope("linear by -2", {{"rope_type", "linear"}, {"factor", -2}}, {"factor"});
  l.rope("linear by 1e10", {{"rope_type", "linear"}, {"factor", 1e10}}, {"factor"});
  l.rope("dynamic by half", {{"rope_type", "dynamic"}, {"factor", 0.5}}, {"factor"});
  l.rope("yarn without factor", {{"rope_type", "yarn"}}, {"factor"});
  l.rope("yarn with a text as beta", {{"rope_type", "yarn"}, {"factor", 4}, {"beta_fast", "fast"}}, {"beta_fast"});
  l.rope("yarn from 0 positions", {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 0}}, {"original_max_position_embeddings"});
  l.rope("llama3 with high below low", {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 1}}, {"high_freq_factor"});
  l.rope("llama3 without its factors", {{"rope_type", "llama3"}, {"factor", 8}}, {"low_freq_factor"});
  l.rope("longrope without lists", {{"rope_type", "longrope"}, {"factor", 2}, {"original_max_position_embeddings", 64}}, {"short_factor"});
  l.rope("longrope with lists too short", {{"rope_type", "longrope"}, {"factor", 2}, {"original_max_position_embeddings", 64}, {"short_factor", {1}}, {"long_factor", {1}}},
         {"short_factor"});
  l.rope("longrope with zeros", {{"rope_type", "longrope"}, {"factor", 2}, {"original_max_position_embeddings", 64}, {"short_factor", std::vector<int>(16, 0)}, {"long_factor", std::vector<int>(16, 1)}},
         {"short_factor"});
  l.rope("longrope with 100,000 numbers", {{"rope_type", "longrope"}, {"factor", 2}, {"short_factor", std::vector<int>(100'000, 1)}, {"long_factor", std::vector<int>(100'000, 1)}},
         {"short_factor"});
}

}  // namespace

std::vector<one_case> config_cases() {
  list l;
  sizes(l);
  architectures(l);
  ropes(l);
  return l.take();
}

}  // namespace hostile
