#include "arch/architecture_reader.hpp"

#include <algorithm>

namespace auto_round::arch {

using model::block_kind;
using model::block_part;
using model::model_spec;
using model::rope_spec;

result<void> read_rope(const io::json& config, model_spec& spec, const defaults& d) {
  const io::json& scaling = config.at("rope_scaling");
  const bool legacy = !scaling.members().empty();
  // auto-round's MLX folders have the parameters one level up.
  const bool lifted = config.at("rope_parameters").is_null() && config.at("rope_type").is_string();
  const io::json& parameters = legacy ? scaling : lifted ? config : config.at("rope_parameters");
  const std::string name = legacy ? "rope_scaling" : "rope_parameters";
  if (!parameters.is_null() && !parameters.is_object()) return fail(error_kind::input, "'" + name + "' in config.json must be an object");
  if (!scaling.is_null() && !scaling.is_object()) return fail(error_kind::input, "'rope_scaling' in config.json must be an object or null");

  return read_rope_object(config, parameters, name, spec, d, spec.rope);
}

result<void> read_rope_object(const io::json& config, const io::json& parameters, const std::string& name, model_spec& spec, const defaults& d, rope_spec& r) {
  reader top(config, "");
  reader in(parameters, name + ".");
  r.theta = in.has("rope_theta") ? in.real("rope_theta", 0, 1e12, d.theta) : top.real(d.theta_key, 0, 1e12, d.theta);
  const double whole = d.rotary < 0 ? 1.0 : d.rotary;
  const double partial = in.has("partial_rotary_factor") ? in.real("partial_rotary_factor", 0, 1, whole) : top.real(d.rotary_key, 0, 1, whole);

  const io::json& type_value = parameters.at(parameters.at("rope_type").is_null() ? "type" : "rope_type");
  if (!type_value.is_null() && !type_value.is_string()) in.refuse("rope_type", "must be a string");
  const std::string type = type_value.is_null() ? "default" : type_value.as_string();
  std::int64_t turning = spec.latent.rank > 0 ? spec.latent.turning : spec.head_dim;
  if (d.rotary >= 0 && type != "proportional") {
    turning = static_cast<std::int64_t>(static_cast<double>(turning) * partial);
    if (turning < 2 || turning % 2 != 0) in.refuse("partial_rotary_factor", "must leave an even number of values of a head", error_kind::unsupported);
    if (turning != spec.head_dim) spec.rotary_dim = turning;
  }
  const auto half = static_cast<std::size_t>(turning / 2);

  const auto read_factor = [&](bool required) { return in.real("factor", 0, 1e9, 1.0, required); };
  // The length of the original training context: beside the parameters in some checkpoints, which then wins, as in transformers.
  const auto read_original = [&] {
    return top.has("original_max_position_embeddings") ? top.integer("original_max_position_embeddings", 1, max_positions)
                                                       : in.integer("original_max_position_embeddings", 1, max_positions, d.original_positions != 0 ? d.original_positions : spec.max_position_embeddings, false);
  };

  if (type == "default") {
    r.type = rope_spec::kind::standard;
  } else if (type == "linear") {
    r.type = rope_spec::kind::linear;
    r.factor = read_factor(true);
  } else if (type == "dynamic") {
    r.type = rope_spec::kind::dynamic;
    r.factor = in.real("factor", 1, 1e9, 1.0, true, true);
    if (turning <= 2) in.refuse("rope_type", "'dynamic' needs heads of more than 2 values", error_kind::unsupported);
  } else if (type == "yarn") {
    r.type = rope_spec::kind::yarn;
    r.factor = read_factor(true);
    r.original_max_position = read_original();
    r.attention_factor = in.real("attention_factor", 0, 1e6, 0.0);
    r.beta_fast = in.real("beta_fast", 0, 1e6, 32.0);
    r.beta_slow = in.real("beta_slow", 0, 1e6, 1.0);
    r.mscale = in.real("mscale", 0, 1e6, 0.0, false, true);
    r.mscale_all_dim = in.real("mscale_all_dim", 0, 1e6, 0.0, false, true);
    r.truncate = in.boolean("truncate", true);
    if (r.theta == 1.0) in.refuse("rope_theta", "must not be 1");
  } else if (type == "longrope" || (type == "su" && d.original_positions != 0)) {
    r.type = rope_spec::kind::longrope;
    r.original_max_position = read_original();
    r.factor = in.real("factor", 0, 1e9, static_cast<double>(spec.max_position_embeddings) / static_cast<double>(std::max<std::int64_t>(1, r.original_max_position)));
    r.attention_factor = in.real("attention_factor", 0, 1e6, 0.0);
    r.short_factor = in.reals("short_factor", half);
    r.long_factor = in.reals("long_factor", half);
    if (r.original_max_position == 1) in.refuse("original_max_position_embeddings", "must be more than 1");
  } else if (type == "llama3") {
    r.type = rope_spec::kind::llama3;
    r.factor = read_factor(true);
    r.low_freq_factor = in.real("low_freq_factor", 0, 1e9, 1.0, true);
    r.high_freq_factor = in.real("high_freq_factor", 0, 1e9, 4.0, true);
    r.original_max_position = read_original();
    if (r.high_freq_factor <= r.low_freq_factor) in.refuse("high_freq_factor", "must be more than low_freq_factor");
  } else if (type == "proportional") {
    r.type = rope_spec::kind::proportional;
    r.factor = read_factor(false);
    r.partial_rotary_factor = partial;
  } else {
    in.refuse("rope_type", "'" + type + "' is not supported; supported: default, linear, dynamic, yarn, longrope, llama3, proportional", error_kind::unsupported);
  }
  if (partial != 1.0 && d.rotary < 0 && r.type != rope_spec::kind::proportional)
    in.refuse("partial_rotary_factor", "must be 1 for this architecture", error_kind::unsupported);
  for (const reader* one : {&top, &in})
    if (one->failed()) return tl::unexpected<error>(one->problem());
  return {};
}

model_spec read_decoder(reader& in, const io::json&, std::string_view architecture, std::string_view model_class, const defaults& d) {
  model_spec s;
  s.architecture = architecture;
  s.model_class = model_class;
  s.hidden_size = in.integer("hidden_size", 1, max_dimension);
  s.intermediate_size = in.integer("intermediate_size", 1, max_dimension);
  s.num_layers = in.integer("num_hidden_layers", 1, 100000);
  s.num_heads = in.integer("num_attention_heads", 1, max_dimension);
  s.num_kv_heads = in.integer("num_key_value_heads", 1, max_dimension, s.num_heads, false);
  s.vocab_size = in.integer("vocab_size", 1, max_dimension);
  s.max_position_embeddings = in.integer("max_position_embeddings", 1, max_positions, d.positions, false);
  s.rms_norm_eps = in.real("rms_norm_eps", 0, 1, d.eps, false, true);
  s.tie_word_embeddings = in.boolean("tie_word_embeddings", false);
  if (!in.failed() && s.num_heads % s.num_kv_heads != 0) in.refuse("num_attention_heads", "must be a multiple of num_key_value_heads");
  if (in.has("head_dim"))
    s.head_dim = in.integer("head_dim", 1, max_dimension);
  else if (d.head_dim != 0)
    s.head_dim = d.head_dim;
  else if (!in.failed() && s.hidden_size % s.num_heads != 0)
    in.refuse("hidden_size", "must be a multiple of num_attention_heads where head_dim is not given");
  else if (!in.failed())
    s.head_dim = s.hidden_size / s.num_heads;
  if (!in.failed() && s.head_dim % 2 != 0) in.refuse("head_dim", "must be even");
  if (!in.failed() && s.num_heads * s.head_dim > max_dimension) in.refuse("num_attention_heads", "times head_dim is too large");

  s.embed_name = "model.embed_tokens.weight";
  s.final_norm_name = "model.norm.weight";
  s.head_name = "lm_head.weight";
  s.block_prefix = "model.layers.";
  s.input_norm_name = "input_layernorm.weight";
  s.post_attention_norm_name = "post_attention_layernorm.weight";
  return s;
}

void add_attention(model_spec& s, bool qkv_bias, bool o_bias) {
  const std::int64_t q = s.num_heads * s.head_dim, kv = s.num_kv_heads * s.head_dim;
  s.linears = {{"self_attn.q_proj", q, s.hidden_size, qkv_bias},
               {"self_attn.k_proj", kv, s.hidden_size, qkv_bias},
               {"self_attn.v_proj", kv, s.hidden_size, qkv_bias},
               {"self_attn.o_proj", s.hidden_size, q, o_bias}};
}

void add_gated_mlp(model_spec& s, bool bias, block_kind where) {
  s.gate = static_cast<int>(s.linears.size());
  s.up = s.gate + 1;
  s.down = s.gate + 2;
  s.linears.push_back({"mlp.gate_proj", s.intermediate_size, s.hidden_size, bias, where});
  s.linears.push_back({"mlp.up_proj", s.intermediate_size, s.hidden_size, bias, where});
  s.linears.push_back({"mlp.down_proj", s.hidden_size, s.intermediate_size, bias, where});
}

void add_head_norms(model_spec& s) {
  s.parts.push_back({block_part::query_norm, "self_attn.q_norm.weight", {s.head_dim}});
  s.parts.push_back({block_part::key_norm, "self_attn.k_norm.weight", {s.head_dim}});
}

void add_experts(model_spec& s, const std::string& gate, const std::string& up, const std::string& down, const std::string& shared) {
  model::mixture_spec& m = s.mixture;
  const auto add = [&](std::string name, const std::string& number, std::int64_t out, std::int64_t in) {
    if (const std::size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, number);
    s.linears.push_back({std::move(name), out, in, false, block_kind::mixture});
  };
  m.first = static_cast<int>(s.linears.size());
  for (std::int64_t e = 0; e < m.experts; ++e) {
    const std::string number = std::to_string(e);
    add(gate, number, m.intermediate_size, s.hidden_size);
    add(up, number, m.intermediate_size, s.hidden_size);
    add(down, number, s.hidden_size, m.intermediate_size);
  }
  if (m.shared_size == 0) return;
  m.shared = static_cast<int>(s.linears.size());
  add(shared + "gate_proj", {}, m.shared_size, s.hidden_size);
  add(shared + "up_proj", {}, m.shared_size, s.hidden_size);
  add(shared + "down_proj", {}, s.hidden_size, m.shared_size);
}

void read_windows(reader& in, const io::json& config, model_spec& s, std::int64_t window, const std::function<bool(std::int64_t)>& slides) {
  if (in.failed()) return;
  const io::json& types = config.at("layer_types");
  if (!types.is_null() && types.items().size() != static_cast<std::size_t>(s.num_layers)) return in.refuse("layer_types", "must name every layer");
  bool any = false;
  std::vector<std::int64_t> windows;
  for (std::int64_t l = 0; l < s.num_layers; ++l) {
    bool sliding = false;
    if (types.is_null()) {
      sliding = slides(l);
    } else {
      const std::string& type = types.items()[static_cast<std::size_t>(l)].as_string();
      if (type != "full_attention" && type != "sliding_attention") return in.refuse("layer_types", "has a kind of layer that is not supported", error_kind::unsupported);
      sliding = type == "sliding_attention";
    }
    if (sliding && window == 0) return in.refuse("sliding_window", "is missing");
    windows.push_back(sliding ? window : 0);
    any = any || sliding;
  }
  if (any) s.windows = std::move(windows);
}

result<model_spec> finished(const reader& in, const io::json& config, model_spec&& spec, const defaults& d) {
  if (in.failed()) return tl::unexpected<error>(in.problem());
  if (spec.has_rope)
    if (const result<void> r = read_rope(config, spec, d); !r) return forward_error(r);
  return std::move(spec);
}

}  // namespace auto_round::arch
