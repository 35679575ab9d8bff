#include "command/static_scales_request.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace auto_round::command {
namespace {

std::string lower(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return s;
}

bool is_fp8(const std::string& type) { return type == "fp8" || type == "float8_e4m3fn"; }
bool is_nvfp4(const std::string& type) { return type == "nvfp4" || type == "fp4" || type == "float4_e2m1"; }

result<bool> per_head(const char* option, const std::string& granularity) {
  if (granularity == "tensor") return false;
  if (granularity == "head") return true;
  return fail(error_kind::usage, fmt::format("--{} \"{}\": tensor or head", option, granularity));
}

}  // namespace

void static_scales_request::declare(option_set& o) {
  o.group("KV cache and attention");
  o.text("static_kv_dtype", "TYPE", cache_, "scales for a KV cache, from --dataset: fp8 or nvfp4");
  o.text("static_kv_granularity", "HOW", cache_granularity_, "tensor: one scale for keys and one for values of a block; head: one for each head (tensor)");
  o.text("static_attention_dtype", "TYPE", attention_, "scales for FP8 queries, and for the KV cache: fp8");
  o.text("static_attention_granularity", "HOW", attention_granularity_, "as --static_kv_granularity, for queries (tensor)");
}

result<tune::attention_scales> static_scales_request::resolve(bool compat) const {
  using type = tune::attention_scales::type;
  tune::attention_scales a;
  const std::string cache = lower(cache_), attention = lower(attention_);
  if (!cache.empty() && !is_fp8(cache) && !is_nvfp4(cache)) return fail(error_kind::usage, fmt::format("--static_kv_dtype \"{}\": fp8 or nvfp4", cache_));
  if (!attention.empty() && !is_fp8(attention)) return fail(error_kind::usage, fmt::format("--static_attention_dtype \"{}\": fp8", attention_));
  auto cache_heads = per_head("static_kv_granularity", cache_granularity_);
  if (!cache_heads) return forward_error(cache_heads);
  auto query_heads = per_head("static_attention_granularity", attention_granularity_);
  if (!query_heads) return forward_error(query_heads);
  a.queries = !attention.empty();
  a.queries_per_head = a.queries && *query_heads;
  a.cache_implied = a.queries && cache.empty();
  a.cache = a.cache_implied || is_fp8(cache) ? type::fp8 : is_nvfp4(cache) ? type::nvfp4 : type::none;
  a.cache_per_head = a.cache == type::fp8 && (a.cache_implied ? *query_heads : *cache_heads);
  a.last_batch = compat;
  return a;
}

}  // namespace auto_round::command
