// DeepSeek-V2 and V3: keys and values from a short row, dense blocks first, then mixtures with shared experts whose groups are chosen first.
#include <algorithm>
#include <cmath>

#include "arch/architecture_reader.hpp"
#include "model/rope.hpp"

namespace auto_round::arch {
namespace {

using model::block_part;
using model::model_spec;

result<model_spec> read_deepseek(const io::json& config) {
  const auto& named = config.at("architectures").items();
  const bool v3 = !named.empty() && named.front().as_string() == "DeepseekV3ForCausalLM";
  const defaults d{.head_dim = 2, .positions = v3 ? 4096 : 2048};
  reader in(config, "");
  model_spec s = read_decoder(in, config, "deepseek", v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM", d);
  in.only("hidden_act", {"silu"});
  in.only("rope_interleave", true);
  if (s.num_kv_heads != s.num_heads) in.refuse("num_key_value_heads", "must be num_attention_heads", error_kind::unsupported);
  const bool attention_bias = in.boolean("attention_bias", false), mlp_bias = v3 ? false : in.boolean("mlp_bias", false);
  if (mlp_bias) in.refuse("mlp_bias", "must be false for this program", error_kind::unsupported);

  model::latent_attention& a = s.latent;
  a.rank = in.integer("kv_lora_rank", 1, max_dimension, 512, false);
  a.query_rank = in.names("q_lora_rank") ? in.integer("q_lora_rank", 1, max_dimension, 0, false) : 1536;
  a.plain = in.integer("qk_nope_head_dim", 1, 65536, 128, false);
  a.turning = in.integer("qk_rope_head_dim", 2, 65536, 64, false);
  if (a.turning % 2 != 0) in.refuse("qk_rope_head_dim", "must be even");
  s.head_dim = a.plain + a.turning;
  s.value_dim = in.integer("v_head_dim", 1, 65536, 128, false);
  s.num_kv_heads = s.num_heads;
  if (!in.failed() && s.num_heads * std::max(s.head_dim, a.plain + s.value_dim) > max_dimension) in.refuse("num_attention_heads", "times the size of a head is too large");

  model::mixture_spec& m = s.mixture;
  const std::int64_t dense = in.integer("first_k_dense_replace", 0, 100000, v3 ? 3 : 0, false);
  if (in.integer("moe_layer_freq", 1, 100000, 1, false) != 1) in.refuse("moe_layer_freq", "must be 1 for this program", error_kind::unsupported);
  if (dense < s.num_layers) {
    m.experts = in.integer("n_routed_experts", 1, 65536, v3 ? 256 : 64, false);
    m.active = in.integer("num_experts_per_tok", 1, 65536, v3 ? 8 : 1, !v3);
    m.intermediate_size = in.integer("moe_intermediate_size", 1, max_dimension, v3 ? 2048 : 1407, false);
    m.shared_size = m.intermediate_size * in.integer("n_shared_experts", 0, 65536, v3 ? 1 : 2, false);
    m.scale = in.real("routed_scaling_factor", 0, 1e6, v3 ? 2.5 : 1.0);
    m.normalize = v3 && in.boolean("norm_topk_prob", true);
    const bool grouped = v3 || config.at("topk_method").as_string() == "group_limited_greedy";
    if (!v3) in.only("topk_method", {"greedy", "group_limited_greedy"});
    if (v3) {
      in.only("scoring_func", {"sigmoid"});
      in.only("topk_method", {"noaux_tc"});
      m.score = model::mixture_spec::scoring::sigmoid;
      m.best_of_group = 2;
    } else {
      in.only("scoring_func", {"softmax"});
    }
    if (grouped) {
      m.groups = in.integer("n_group", 1, 65536, 8, v3 ? false : true);
      m.active_groups = in.integer("topk_group", 1, 65536, 4, v3 ? false : true);
    }
    if (m.experts % m.groups != 0) in.refuse("n_group", "must divide n_routed_experts");
    if (m.active_groups > m.groups) in.refuse("topk_group", "must not be more than n_group");
    if (m.active > m.experts / m.groups * m.active_groups) in.refuse("num_experts_per_tok", "is more than there are experts in the groups that are chosen");
  }
  if (in.failed()) return tl::unexpected<error>(in.problem());
  for (std::int64_t l = 0; l < s.num_layers; ++l) s.mixes.push_back(l >= dense ? 1 : 0);

  const std::int64_t queries = s.num_heads * s.head_dim;
  const auto add = [&](const char* name, std::int64_t out, std::int64_t from, bool bias) {
    s.linears.push_back({name, out, from, bias});
    return static_cast<int>(s.linears.size()) - 1;
  };
  s.q = s.k = s.v = -1;
  if (a.query_rank > 0) {
    a.query_down = add("self_attn.q_a_proj", a.query_rank, s.hidden_size, attention_bias);
    a.query_up = add("self_attn.q_b_proj", queries, a.query_rank, false);
    s.parts.push_back({block_part::query_latent_norm, "self_attn.q_a_layernorm.weight", {a.query_rank}});
  } else {
    s.q = add("self_attn.q_proj", queries, s.hidden_size, false);
  }
  a.down = add("self_attn.kv_a_proj_with_mqa", a.rank + a.turning, s.hidden_size, attention_bias);
  a.up = add("self_attn.kv_b_proj", s.num_heads * (a.plain + s.value_dim), a.rank, false);
  s.parts.push_back({block_part::key_value_latent_norm, "self_attn.kv_a_layernorm.weight", {a.rank}});
  s.o = add("self_attn.o_proj", s.hidden_size, s.num_heads * s.value_dim, attention_bias);
  s.gate = s.up = s.down = -1;
  if (dense > 0) add_gated_mlp(s, false, model::block_kind::dense);
  if (m.experts > 0) {
    s.parts.push_back({block_part::router, "mlp.gate.weight", {m.experts, s.hidden_size}, model::block_kind::mixture});
    if (v3) s.parts.push_back({block_part::router_bias, "mlp.gate.e_score_correction_bias", {m.experts}, model::block_kind::mixture});
    add_experts(s, "mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj", "mlp.shared_experts.");
  }
  auto done = finished(in, config, std::move(s), d);
  if (!done) return done;
  // Scores of contexts that were stretched by yarn are sharpened.
  if (done->rope.type != model::rope_spec::kind::standard && done->rope.mscale_all_dim != 0) {
    const double magnitude = model::yarn_magnitude(done->rope.factor, done->rope.mscale_all_dim);
    done->attention_scale = magnitude * magnitude / std::sqrt(static_cast<double>(done->head_dim));
  }
  return done;
}

constexpr std::string_view classes[] = {"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"};

}  // namespace

extern const architecture arch_deepseek;
const architecture arch_deepseek{"deepseek", classes, {}, read_deepseek};

}  // namespace auto_round::arch
