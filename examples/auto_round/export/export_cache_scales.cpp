#include "export/export_cache_scales.hpp"

#include <fmt/format.h>

#include <string>

#include "ar/detail/scaled_facts.hpp"
#include "export/export_layer_layout.hpp"

namespace auto_round::exporting {
namespace {

using type = tune::attention_scales::type;

constexpr ar::scheme_fields fp8_inputs = {.bits = 8, .data_type = "fp", .act_bits = 8, .act_sym = true, .act_data_type = "fp", .act_dynamic = false};
constexpr ar::scheme_fields nvfp4_inputs = {.bits = 4, .data_type = "nv_fp", .act_bits = 4, .act_sym = true, .act_data_type = "nv_fp4_with_static_gs"};

/// "model.layers.3.self_attn."
std::string attention_prefix(const model::model_spec& spec, std::int64_t block) {
  const std::string q = spec.linear_name(block, spec.q);
  return q.substr(0, q.rfind('.') + 1);
}

/// f(name, number of scales, maxima of the block, or null before calibration).
template <class F>
void each_tensor(const job& run, const F& f) {
  const tune::attention_scales& a = run.attention;
  if (!a.wanted() || run.how == method::stored) return;
  const auto heads = [](bool each, std::int64_t n) { return each ? static_cast<std::uint64_t>(n) : std::uint64_t{1}; };
  const std::string middle = a.cache == type::nvfp4 ? "_global_scale" : "_scale";
  for (std::int64_t b = 0; b < run.spec->num_layers; ++b) {
    const std::string prefix = attention_prefix(*run.spec, b);
    const tune::attention_maxima* m = run.maxima == nullptr || run.maxima->attention.empty() ? nullptr : &run.maxima->attention[static_cast<std::size_t>(b)];
    f(prefix + "k" + middle, heads(a.cache_per_head, run.spec->num_kv_heads), m == nullptr ? nullptr : &m->k, a.cache);
    f(prefix + "v" + middle, heads(a.cache_per_head, run.spec->num_kv_heads), m == nullptr ? nullptr : &m->v, a.cache);
    if (a.queries) f(prefix + "q_scale", heads(a.queries_per_head, run.spec->num_heads), m == nullptr ? nullptr : &m->q, type::fp8);
  }
}

io::json fp8_args(bool per_head) {
  io::json a = io::json::object{};
  a.set("num_bits", 8).set("type", "float").set("symmetric", true).set("group_size", nullptr).set("strategy", per_head ? "attn_head" : "tensor");
  return a.set("dynamic", false);
}

}  // namespace

std::vector<io::tensor_decl> cache_tensors(const job& run) {
  std::vector<io::tensor_decl> all;
  each_tensor(run, [&](std::string name, std::uint64_t n, const std::vector<float>*, type) { all.push_back({std::move(name), io::dtype::f32, {n}}); });
  return all;
}

std::vector<packed_part> cache_parts(const job& run) {
  std::vector<packed_part> all;
  each_tensor(run, [&](std::string name, std::uint64_t n, const std::vector<float>* maxima, type how) {
    std::vector<float> scale;
    for (std::uint64_t i = 0; i < n; ++i) {
      const float m = maxima == nullptr ? 0.0f : (*maxima)[static_cast<std::size_t>(i)];
      // The scale of an NVFP4 cache is what values are multiplied with when they are read: the reciprocal of a layer's.
      scale.push_back(how == type::nvfp4 ? ar::reciprocal_or_zero(input_scale(nvfp4_inputs, m)) : input_scale(fp8_inputs, m));
    }
    all.push_back({{std::move(name), io::dtype::f32, {n}}, to_bytes(scale, io::dtype::f32)});
  });
  return all;
}

io::json cache_scheme(const job& run) {
  switch (run.attention.cache) {
    case type::none: return nullptr;
    case type::fp8: return fp8_args(run.attention.cache_per_head);
    case type::nvfp4: break;
  }
  io::json a = io::json::object{};
  a.set("num_bits", 4).set("type", "float").set("symmetric", true).set("group_size", 16).set("strategy", "tensor_group").set("dynamic", "local");
  return a.set("scale_dtype", "torch.float8_e4m3fn").set("observer", "static_minmax");
}

io::json attention_scheme(const job& run) {
  if (!run.attention.queries) return nullptr;
  std::string name = run.spec->model_class;
  if (const std::size_t at = name.find("ForCausalLM"); at != std::string::npos) name.resize(at);
  io::json a = io::json::object{};
  return a.set("targets", io::json::array{io::json(name + "Attention")}).set("input_activations", fp8_args(run.attention.queries_per_head));
}

void add_cache_keys(const job& run, io::json& q) {
  const tune::attention_scales& a = run.attention;
  const auto granularity = [](bool per_head) { return per_head ? "head" : "tensor"; };
  if (a.queries) q.set("static_attention_dtype", "fp8").set("static_attention_granularity", granularity(a.queries_per_head));
  if (a.cache != type::none && !a.cache_implied) q.set("static_kv_dtype", a.cache == type::nvfp4 ? "nvfp4" : "fp8").set("static_kv_granularity", granularity(a.cache_per_head));
}

namespace {

bool is_fp8_scheme(const io::json& s) {
  return s.at("num_bits").as_int() == 8 && s.at("type").as_string() == "float" && !s.at("dynamic").as_bool(false) && (s.at("strategy").as_string() == "tensor" || s.at("strategy").as_string() == "attn_head");
}

}  // namespace

result<tune::attention_scales> read_attention_scales(const io::json& q, const std::string& file) {
  tune::attention_scales a;
  const auto unknown = [&](const char* key) {
    return fail(error_kind::unsupported, fmt::format("the checkpoint's \"{}\" is none that can be converted; format fake drops it", key), file);
  };
  const io::json &cache = q.at("kv_cache_scheme"), &queries = q.at("attention_input_activations"), &named = q.at("static_kv_dtype"), &named_queries = q.at("static_attention_dtype");
  if (cache.is_object()) {
    const bool nvfp4 = cache.at("num_bits").as_int() == 4 && cache.at("type").as_string() == "float" && cache.at("strategy").as_string() == "tensor_group";
    if (!nvfp4 && !is_fp8_scheme(cache)) return unknown("kv_cache_scheme");
    a.cache = nvfp4 ? type::nvfp4 : type::fp8;
    a.cache_per_head = cache.at("strategy").as_string() == "attn_head";
  } else if (named.is_string()) {
    if (named.as_string() != "fp8" && named.as_string() != "nvfp4") return unknown("static_kv_dtype");
    a.cache = named.as_string() == "nvfp4" ? type::nvfp4 : type::fp8;
    a.cache_per_head = q.at("static_kv_granularity").as_string() == "head";
  }
  if (queries.is_object()) {
    if (!is_fp8_scheme(queries.at("input_activations"))) return unknown("attention_input_activations");
    a.queries = true;
    a.queries_per_head = queries.at("input_activations").at("strategy").as_string() == "attn_head";
  } else if (named_queries.is_string()) {
    if (named_queries.as_string() != "fp8") return unknown("static_attention_dtype");
    a.queries = true;
    a.queries_per_head = q.at("static_attention_granularity").as_string() == "head";
  }
  if (a.queries && a.cache == type::none) {
    a.cache = type::fp8;
    a.cache_implied = true;
    a.cache_per_head = a.queries_per_head;
  }
  return a;
}

bool is_attention_scale(std::string_view tensor) {
  for (const std::string_view end : {".k_scale", ".v_scale", ".q_scale", ".k_global_scale", ".v_global_scale"})
    if (tensor.ends_with(end)) return true;
  return false;
}

}  // namespace auto_round::exporting
