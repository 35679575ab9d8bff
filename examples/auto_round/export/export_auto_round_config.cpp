// Configuration objects of auto_round checkpoints. Source: auto-round 0.16.1, export_to_autoround; formats checked against real exports.
#include "export/export_auto_round_config.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "ar/dispatch.hpp"
#include "export/export_cache_scales.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::exporting {
namespace {

constexpr int unquantized_bits = 16;
constexpr std::int64_t default_iters = 200;

bool quantizes_inputs(const ar::scheme_fields& s) { return s.act_bits.value_or(unquantized_bits) < unquantized_bits; }

/// Null for integers, and for what is not quantized.
const ar::scaled_facts* floating(const ar::scheme_fields& s) {
  const ar::range_kernels* type = s.super_bits || s.bits >= unquantized_bits ? nullptr : tune::tuned_kernels(s.data_type, s.bits, s.sym, s.group_rows > 0);
  return type == nullptr ? nullptr : type->facts;
}

io::json group_size_of(const ar::scheme_fields& s) {
  if (s.group_rows == 0) return s.group_size;
  return io::json::array{io::json(s.group_rows), io::json(s.group_size)};
}

/// A layer that stays in 16 bits, and so do its inputs if those of others do not.
io::json kept_entry(const job& run, const std::string& type) {
  io::json entry = io::json::object{};
  entry.set("bits", unquantized_bits);
  if (type != run.scheme.data_type) entry.set("data_type", type);
  if (quantizes_inputs(run.scheme)) entry.set("act_bits", unquantized_bits).set("act_data_type", type);
  return entry;
}

bool matches(const std::string& layer, const std::string& pattern) { return layer.find(pattern) != std::string::npos; }

/// Keys of a scheme that are not the model's, or all of them.
io::json differing_keys(const ar::scheme_fields& scheme, const ar::scheme_fields& whole, bool all = false) {
  io::json entry = io::json::object{};
  if (all || scheme.bits != whole.bits) entry.set("bits", scheme.bits);
  if (all || scheme.group_size != whole.group_size || scheme.group_rows != whole.group_rows) entry.set("group_size", group_size_of(scheme));
  if (all || scheme.sym != whole.sym) entry.set("sym", scheme.sym);
  if (all || scheme.data_type != whole.data_type) entry.set("data_type", scheme.data_type);
  const ar::scheme_fields& s = scheme;
  if (!quantizes_inputs(s) && !quantizes_inputs(whole)) return entry;
  if (all || s.act_bits != whole.act_bits) entry.set("act_bits", s.act_bits.value_or(unquantized_bits));
  if (!quantizes_inputs(s)) return entry;
  const auto differ = [&](const auto& mine, const auto& theirs) { return mine && (all || mine != theirs); };
  if (differ(s.act_group_size, whole.act_group_size)) entry.set("act_group_size", *s.act_group_size);
  if (differ(s.act_sym, whole.act_sym)) entry.set("act_sym", *s.act_sym);
  if (differ(s.act_data_type, whole.act_data_type)) entry.set("act_data_type", *s.act_data_type);
  if (differ(s.act_dynamic, whole.act_dynamic)) entry.set("act_dynamic", *s.act_dynamic);
  return entry;
}

/// Layers that differ from the model's scheme: first those named by ignore patterns in the patterns' order, then the others in module order, then
/// the patterns themselves as regular expressions.
io::json extra_config(const job& run) {
  io::json extra = io::json::object{};
  for (const std::string& pattern : run.ignore_patterns) {
    const auto exact = std::find_if(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.name == pattern; });
    if (exact != run.layers.end()) {
      extra.set(exact->name, kept_entry(run, exact->kept_type));
      continue;
    }
    for (const layer_decision& layer : run.layers) {
      if (!layer.quantize && matches(layer.name, pattern)) extra.set(layer.name, kept_entry(run, layer.kept_type));
    }
  }
  for (const layer_decision& layer : run.layers) {
    if (extra.find(layer.name) != nullptr) continue;
    if (layer.quantize) {
      io::json entry = differing_keys(layer.scheme, run.scheme, layer.block < 0);  // loaders skip layers outside the blocks that are not listed
      if (!entry.members().empty()) extra.set(layer.name, std::move(entry));
    } else if (layer.block >= 0) {
      extra.set(layer.name, kept_entry(run, layer.kept_type));
    }
  }
  for (const std::string& pattern : run.ignore_patterns) {
    const bool is_layer = std::any_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.name == pattern; });
    if (!is_layer) extra.set(exported_regex(pattern), kept_entry(run, "float"));
  }
  return extra;
}

io::json model_free_config(const job& run) {
  io::json extra = io::json::object{};
  for (const layer_decision& layer : run.layers) {
    if (!layer.quantize) extra.set(layer.name, kept_entry(run, "float"));
  }
  return shard_wise_config(run, block_list_name(run), std::move(extra));
}

}  // namespace

std::string block_list_name(const job& run) {
  std::string name = run.spec->block_prefix;
  if (name.ends_with('.')) name.pop_back();
  return name;
}

io::json shard_wise_config(const job& run, const std::string& blocks, io::json extra) {
  const ar::scheme_fields& s = run.scheme;
  io::json q = io::json::object{};
  q.set("quant_method", "auto-round").set("packing_format", packing_format(run)).set("bits", s.bits).set("group_size", s.group_size);
  q.set("sym", s.sym).set("data_type", s.data_type).set("iters", 0).set("model_free", true);
  q.set("autoround_version", autoround_version);
  // The original's order of keys, which is another for each family.
  const bool inputs = quantizes_inputs(s), e5m3 = inputs && floating(s) != nullptr && floating(s)->rule == ar::scale_rule::e5m3;
  const io::json type = s.act_data_type.value_or(s.data_type), dynamic = s.act_dynamic.value_or(true), group = s.act_group_size.value_or(s.group_size), sym = s.act_sym.value_or(s.sym);
  if (e5m3) q.set("act_bits", *s.act_bits).set("act_data_type", type).set("act_group_size", group).set("act_sym", sym).set("act_dynamic", dynamic);
  else if (inputs) q.set("enable_quanted_input", false);
  q.set("block_name_to_quantize", blocks);
  if (inputs && !e5m3) q.set("act_bits", *s.act_bits).set("act_data_type", type).set("act_dynamic", dynamic).set("act_group_size", group).set("act_sym", sym);
  if (!extra.members().empty()) q.set("extra_config", std::move(extra));
  return q;
}

std::string packing_format(const job& run) {
  if (run.format == "fake") return std::string(fake_packing_format);
  if (run.format != "auto_round") return run.format;
  const auto packed = std::find_if(run.layers.begin(), run.layers.end(), [](const layer_decision& l) { return l.quantize; });
  const ar::scheme_fields& scheme = ar::quantizes(run.scheme) || packed == run.layers.end() ? run.scheme : packed->scheme;
  if (const ar::scaled_facts* f = floating(scheme)) {
    switch (f->rule) {
      case ar::scale_rule::e5m3: return "auto_round:llm_compressor_nvfp4_e5m3";
      case ar::scale_rule::quotient: return scheme.group_rows > 0 ? "auto_round:fp8" : quantizes_inputs(scheme) ? "auto_round:fp8_static" : "";
      default: return f->grid.twos_complement ? "auto_round" : "auto_round:llm_compressor";
    }
  }
  const auto all = [&](auto&& is) { return std::all_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return !l.quantize || is(l); }); };
  if (all([](const layer_decision& l) { return l.scheme.sym; })) return "auto_round:auto_gptq";
  const bool awq = all([](const layer_decision& l) {
    return l.scheme.bits == 4 && !l.scheme.sym && (l.scheme.group_size <= 0 || l.cols % static_cast<std::uint64_t>(l.scheme.group_size) == 0);
  });
  return awq && !run.model_free && run.rotation == nullptr ? "auto_round:auto_awq" : "auto_round";
}

io::json scheme_keys(const job& run) {
  const bool tuned = run.how == method::signround;
  io::json q = io::json::object{};
  const ar::scheme_fields& s = run.scheme;
  const bool inputs = quantizes_inputs(s);
  q.set("bits", s.bits);
  if (inputs) q.set("act_bits", *s.act_bits);
  q.set("data_type", s.data_type);
  if (inputs) q.set("act_data_type", s.act_data_type.value_or(s.data_type));
  q.set("group_size", group_size_of(s));
  if (inputs) q.set("act_group_size", s.act_group_size.value_or(s.group_size));
  q.set("sym", s.sym);
  if (inputs) q.set("act_sym", s.act_sym.value_or(s.sym)).set("act_dynamic", s.act_dynamic.value_or(true));
  if (tuned && !run.enable_minmax_tuning) q.set("enable_minmax_tuning", false);
  if (!tuned || !run.enable_quanted_input) q.set("enable_quanted_input", false);
  if (tuned && run.gradient_accumulate_steps != 1) q.set("gradient_accumulate_steps", run.gradient_accumulate_steps);
  if (tuned && run.iters != default_iters) q.set("iters", run.iters);
  const double default_lr = run.iters > 0 ? 1.0 / static_cast<double>(run.iters) : 5e-3;
  if (tuned && run.lr > 0 && run.lr != default_lr) q.set("lr", run.lr);
  if (tuned && run.minmax_lr > 0 && run.minmax_lr != default_lr) q.set("minmax_lr", run.minmax_lr);
  if (run.scale_type != ar::real::f16) q.set("scale_dtype", run.scale_type == ar::real::bf16 ? "torch.bfloat16" : "torch.float32");
  add_cache_keys(run, q);
  return q;
}

namespace {

void add_fp8_keys(const job& run, io::json& q) {
  const ar::scaled_facts* f = floating(run.scheme);
  if (f == nullptr || f->rule != ar::scale_rule::quotient) return;
  q.set("fmt", "e4m3").set("activation_scheme", tune::needs_input_maximum(run.scheme) ? "static" : "dynamic");
}

}  // namespace

io::json fp8_config(const job& run) {
  io::json q = scheme_keys(run);
  q.set("autoround_version", autoround_version).set("weight_block_size", group_size_of(run.scheme));
  io::json::array kept;
  for (const layer_decision& l : run.layers)
    if (!l.quantize && l.block >= 0) kept.emplace_back(l.name);
  if (!kept.empty()) q.set("ignored_layers", std::move(kept));
  q.set("block_name_to_quantize", block_list_name(run)).set("quant_method", "fp8");
  add_fp8_keys(run, q);
  return q;
}

io::json auto_round_config(const job& run) {
  if (run.model_free) return model_free_config(run);
  io::json q = scheme_keys(run);
  q.set("autoround_version", autoround_version);
  if (run.scheme.group_rows > 0) q.set("weight_block_size", group_size_of(run.scheme));
  q.set("block_name_to_quantize", block_list_name(run)).set("quant_method", "auto-round");
  if (const std::string packing = packing_format(run); !packing.empty()) q.set("packing_format", packing);
  add_fp8_keys(run, q);
  io::json extra = extra_config(run);
  if (!extra.members().empty()) q.set("extra_config", std::move(extra));
  if (run.rotation != nullptr) q.set(run.rotation->key, run.rotation->config);
  return q;
}

namespace {

/// The source's config.json without its quantization, in its order.
io::json without_quantization(const job& run) {
  io::json config = run.source->config();
  for (const char* key : {"quantization_config", "quantization"}) config.erase(key);
  if (config.at("tie_word_embeddings").as_bool() && !run.spec->tie_word_embeddings) config.set("tie_word_embeddings", false);
  return config;
}

io::json sorted(const io::json& value) {
  if (value.is_array()) {
    io::json::array items;
    for (const io::json& item : value.items()) items.push_back(sorted(item));
    return items;
  }
  if (!value.is_object()) return value;
  io::json::object members;
  for (const auto& [key, item] : value.members()) members.emplace_back(key, sorted(item));
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return members;
}

}  // namespace

std::string config_text(const job& run, const io::json* quantization_config) {
  io::json config = without_quantization(run);
  if (quantization_config != nullptr) config.set("quantization_config", *quantization_config);
  else if (run.rotation != nullptr) config.set(run.rotation->key, run.rotation->config);
  return io::dump(config, {.indent = 2, .sort_keys = !run.model_free}) + (run.model_free ? "" : "\n");
}

std::string half_config_text(const job& run, const io::json& quantization_config) {
  io::json config = without_quantization(run);
  config.erase("torch_dtype");
  config.set("quantization_config", quantization_config).set("dtype", "float16");
  config = sorted(config);
  return io::dump(config.set("torch_dtype", "float16"));
}

io::json plain_config(const job& run) { return sorted(without_quantization(run)); }

}  // namespace auto_round::exporting
