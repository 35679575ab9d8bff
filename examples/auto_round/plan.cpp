// Decisions about the layers of a model, and the checks that need model and request together.
#include "plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <set>

#include "export/export_packed_model.hpp"

namespace auto_round::plan {
namespace {

using exporting::job;
using exporting::layer_decision;

std::string without_weight(const std::string& name) { return name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name; }

model_outline outline_of(const model::model_spec& spec, const io::checkpoint_dir& dir, const std::vector<layer_decision>& layers) {
  model_outline o;
  for (std::int64_t b = 0; b < spec.num_layers; ++b) o.blocks.push_back(spec.block_prefix + std::to_string(b));
  std::set<std::string> known;
  for (const layer_decision& l : layers) known.insert(l.name);
  o.head = without_weight(spec.head_name);
  o.tied_head = spec.tie_word_embeddings;
  o.embedding.name = without_weight(spec.embed_name);
  o.embedding.rows = static_cast<std::uint64_t>(spec.vocab_size);
  o.embedding.cols = static_cast<std::uint64_t>(spec.hidden_size);
  for (const io::tensor_ref& t : dir.tensors()) {
    if (std::string name = without_weight(t.name); name != t.name && name != o.head && !known.contains(name)) o.other_leaves.push_back(std::move(name));
  }
  o.predefined_ignore = predefined_ignore_patterns(dir.config(), layers);
  return o;
}

void apply_layer_schemes(const request& wanted, std::vector<layer_decision>& layers) {
  for (layer_decision& layer : layers) {
    const auto own = wanted.layer_schemes.find(layer.name);
    if (own == wanted.layer_schemes.end() || !layer.quantize || layer.chosen) continue;
    layer.scheme = own->second;
    layer.chosen = true;
    if (ar::quantizes(layer.scheme)) continue;
    layer.quantize = false;
    layer.reason = "chosen to stay in 16 bits";
    layer.kept_type = "fp";
  }
}

/// The floating schemes of that route, by the names of their presets.
bool is_shard_wise_float(const ar::scheme_fields& scheme) {
  for (const char* name : {"MXFP4", "MXFP8", "NVFP4_E5M3"}) {
    ar::scheme_fields known = *ar::find_preset(name);
    if (!known.act_dynamic) known.act_dynamic = true;
    if (ar::same_scheme(known, scheme)) return true;
  }
  return false;
}

/// Why the original's shard-wise route does not apply; empty if it does.
std::string obstacle_to_model_free(const request& wanted, const ar::scheme_fields& scheme, const std::vector<layer_decision>& layers) {
  const bool searched = wanted.how == exporting::method::opt_rtn && wanted.has_importance && scheme.data_type != "int";  // for the weights alone
  if (wanted.how != exporting::method::rtn && !searched) return "it only rounds; use --iters 0";
  if (wanted.weights != nullptr) return "the model's weights are transformed";
  for (const std::string& f : wanted.formats) {
    const bool integer = scheme.data_type == "int", e5m3 = scheme.data_type == "nvfp4_v2";
    const bool written = f == "auto_round" || (f == "fake" && (integer || e5m3)) || (f == "llm_compressor" && !integer && !e5m3) || (f == "auto_round:auto_gptq" && integer && scheme.sym);
    if (!written) return "format " + f + " is not written that way";
  }
  if (!wanted.layer_schemes.empty() || std::any_of(layers.begin(), layers.end(), [](const layer_decision& l) { return l.chosen; })) return "layers have schemes of their own";
  if (std::any_of(layers.begin(), layers.end(), [](const layer_decision& l) { return l.block < 0 && l.quantize; })) return "the head is quantized";
  if (wanted.attention.wanted()) return "scales of attention come from running the model";
  if (scheme.data_type == "int" && scheme.bits != 2 && scheme.bits != 4 && scheme.bits != 8) return "it knows 2, 4 and 8-bit integers";
  if (scheme.data_type != "int" && !is_shard_wise_float(scheme)) return "it knows integers, MXFP4, MXFP8 and NVFP4_E5M3";
  if (scheme.group_size <= 0) return "it needs a positive group size";
  if (wanted.scale_type != ar::real::f16) return "its scales are float16";
  for (const layer_decision& l : layers) {
    if (l.quantize && l.cols % static_cast<std::uint64_t>(scheme.group_size) != 0) return "rows are no multiple of the group size";
  }
  return {};
}

/// The first format that does not take any scheme: it decides about layers. `fake` if there is no other.
std::string leader_of(const std::vector<std::string>& formats) {
  for (const std::string& f : formats) {
    if (f != "fake") return f;
  }
  return "fake";
}

/// Formats that hold the scheme; those that fall back to `fake` are replaced by it, with a warning.
result<std::vector<std::string>> formats_that_hold(const ar::scheme_fields& scheme, const std::vector<std::string>& formats, std::vector<std::string>& warnings) {
  std::vector<std::string> out;
  for (std::string f : formats) {
    const auto answer = exporting::find(f)->accepts(f, scheme);
    if (!answer) {
      const std::string others = exporting::spellings_that_hold(scheme);
      return fail(answer.error().kind, fmt::format("{}; formats that hold this scheme: {}", answer.error().message, others.empty() ? "none" : others));
    }
    if (*answer == exporting::holding::fake) {
      warnings.push_back(fmt::format("format {} cannot store this scheme; format fake is written in its place: dequantized weights", f));
      f = "fake";
    }
    if (std::find(out.begin(), out.end(), f) == out.end()) out.push_back(std::move(f));
  }
  return out;
}

void add_once(std::vector<std::string>& to, const std::vector<std::string>& from) {
  for (const std::string& w : from) {
    if (std::find(to.begin(), to.end(), w) == to.end()) to.push_back(w);
  }
}

/// llama.cpp does not mind, and fake is for trying things.
result<void> check_fused_groups(fuse_check how, const std::string& format, const std::vector<layer_decision>& layers, std::vector<std::string>& warnings) {
  if (how == fuse_check::off || exporting::is_gguf(format)) return {};
  for (std::string& line : split_fused_groups(layers)) {
    if (how == fuse_check::error) return fail(error_kind::usage, line + " (--fuse_check error)");
    warnings.push_back(std::move(line));
  }
  return {};
}

bool same_decisions(const std::vector<layer_decision>& a, const std::vector<layer_decision>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const layer_decision& x, const layer_decision& y) {
    return x.name == y.name && x.quantize == y.quantize && (!x.quantize || ar::same_scheme(x.scheme, y.scheme));
  });
}

/// An expert that no token of the calibration set reaches would have no static scale for its inputs.
result<void> check_experts(const model::model_spec& spec, const std::vector<layer_decision>& layers) {
  if (spec.mixture.experts == 0) return {};
  for (const layer_decision& l : layers)
    if (l.quantize && l.scheme.act_bits.value_or(16) <= 8 && !l.scheme.act_dynamic.value_or(true))
      return fail(error_kind::unsupported, "static scales of activations are not worked out for mixtures of experts; use a scheme with dynamic ones", {}, l.name);
  return {};
}

/// Which formats have a place for scales of attention, and which models for those of NVFP4.
result<void> check_attention(const request& wanted, const model::model_spec& spec) {
  if (!wanted.attention.wanted()) return {};
  for (const std::string& f : wanted.formats) {
    if (f == "llm_compressor" || f == "auto_round:llm_compressor" || f == "auto_round" || f == "fp8" || f == "auto_round:fp8") continue;
    return fail(error_kind::unsupported, fmt::format("format {} has no place for static scales of a KV cache; llm_compressor and auto_round have", f));
  }
  if (spec.latent.rank > 0) return fail(error_kind::unsupported, fmt::format("a {} caches short rows, not keys and values; there are no scales for them", spec.model_class));
  constexpr std::int64_t group = 16;
  if (wanted.attention.cache == tune::attention_scales::type::nvfp4 && spec.head_dim % group != 0) {
    return fail(error_kind::unsupported, fmt::format("an NVFP4 KV cache needs heads of a multiple of {}, not of {}", group, spec.head_dim));
  }
  return {};
}

}  // namespace

std::vector<layer_decision> candidate_layers(const model::model_spec& spec, const ar::scheme_fields& scheme) {
  std::vector<layer_decision> layers;
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
      if (!spec.has_linear(l, static_cast<int>(i))) continue;
      const model::linear_desc& d = spec.linears[i];
      layer_decision layer;
      layer.name = spec.linear_name(l, static_cast<int>(i));
      layer.rows = static_cast<std::uint64_t>(d.out_features);
      layer.cols = static_cast<std::uint64_t>(d.in_features);
      layer.block = l;
      layer.linear = static_cast<int>(i);
      layer.quantize = true;
      layer.scheme = scheme;
      layers.push_back(std::move(layer));
    }
  }
  if (!spec.tie_word_embeddings) {
    layer_decision head;
    head.name = spec.head_name.substr(0, spec.head_name.rfind('.'));
    head.rows = static_cast<std::uint64_t>(spec.vocab_size);
    head.cols = static_cast<std::uint64_t>(spec.hidden_size);
    head.scheme = scheme;
    head.reason = "head: stays in 16 bits";
    layers.push_back(std::move(head));
  }
  return layers;
}

std::string model_name_of(const exporting::stored_model& source, const std::string& folder) {
  if (std::string given = source.given_name(); !given.empty()) return given;
  const std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  // In the cache of the hub a folder is called after its revision: models--ORG--NAME/snapshots/REVISION.
  constexpr std::string_view kind = "models--";
  const std::string cached = path.parent_path().parent_path().filename().string();
  if (path.parent_path().filename() == "snapshots" && cached.starts_with(kind)) {
    const std::size_t organization = cached.find("--", kind.size());
    return cached.substr(organization == std::string::npos ? kind.size() : organization + 2);
  }
  return path.filename().empty() ? path.parent_path().filename().string() : path.filename().string();
}

std::uint64_t run_plan::total_bytes() const {
  std::uint64_t n = 0;
  for (const auto& e : exporters) n += e->plan().total_bytes();
  return n;
}

std::string run_plan::folder(std::size_t job) const {
  if (jobs.size() < 2) return {};
  std::string name = jobs[job].format;
  std::replace_if(name.begin(), name.end(), [](char c) { return c == ':' || c == '_'; }, '-');
  return name;
}

std::vector<std::string> shard_wise_warnings(const ar::scheme_fields& scheme) {
  if (scheme.data_type != "int" || scheme.sym || scheme.bits != 4) return {};
  return {"rounded without tuning, asymmetric integers get the original's packing auto_round, which vLLM does not load; --disable_model_free writes auto_round:auto_awq, which it does"};
}

result<run_plan> make_plan(const request& asked, const exporting::stored_model& source) {
  run_plan plan;
  request wanted = asked;
  const io::checkpoint_dir* dir = source.directory();
  const std::vector<exporting::stored_model::entry> stored = source.entries();
  if (dir == nullptr || dir->config().at("quantization_config").is_object() || std::any_of(stored.begin(), stored.end(), [](const auto& e) { return e.quantized; })) {
    return fail(error_kind::unsupported, "the model is quantized already; give the float checkpoint that it was made from", source.tokenizer_directory());
  }
  std::string preset = wanted.scheme;
  std::transform(preset.begin(), preset.end(), preset.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool gguf_format = std::any_of(wanted.formats.begin(), wanted.formats.end(), exporting::is_gguf);
  if (preset.starts_with("gguf:") && !gguf_format) {
    auto changed = parse_formats(preset);
    if (!changed) return forward_error(changed);
    std::string replaced;
    for (const std::string& f : wanted.formats) {
      if (f == "fake") changed->push_back(f);
      else replaced += (replaced.empty() ? "" : ", ") + f;
    }
    plan.warnings.push_back(fmt::format("scheme {} is written to format {}{}", asked.scheme, preset, replaced.empty() ? "" : ", not to " + replaced));
    wanted.formats = *changed;
  }

  std::string lead = leader_of(wanted.formats);
  if (const ar::scheme_fields* own = exporting::find(lead)->own_scheme(lead)) {
    plan.scheme = *own;
    const scheme_overrides& o = wanted.overrides;
    if (o.bits || o.group_size || o.sym || o.data_type || o.super_bits || o.super_group_size || (preset != "w4a16" && preset != lead)) {
      plan.warnings.push_back(fmt::format("format {} prescribes the scheme; scheme options are ignored", lead));
    }
  } else {
    auto scheme = resolve_scheme(wanted.scheme, wanted.overrides, wanted.formats);
    if (!scheme) return forward_error(scheme);
    plan.scheme = *scheme;
  }
  const model::model_spec& spec = wanted.weights != nullptr ? wanted.weights->spec() : source.spec();
  std::vector<layer_decision> layers = candidate_layers(spec, plan.scheme);
  auto rules = apply_layer_rules(wanted.rules, plan.scheme, wanted.scheme, wanted.formats, outline_of(source.spec(), *dir, layers), layers);
  if (!rules) return forward_error(rules);
  if (rules->embedding) wanted.layer_schemes.insert_or_assign(without_weight(spec.embed_name), *rules->embedding);
  if (exporting::find(lead)->own_scheme(lead) == nullptr) {
    if (!ar::quantizes(plan.scheme)) {  // BF16: rules say what is quantized
      const auto common = commonest_scheme(layers);
      if (!common) return fail(error_kind::usage, fmt::format("no layer would be quantized: scheme {} with {} bits leaves layers as they are, and no rule names one", wanted.scheme, plan.scheme.bits));
      plan.scheme = *common;
    }
    auto formats = formats_that_hold(plan.scheme, wanted.formats, plan.warnings);
    if (!formats) return forward_error(formats);
    wanted.formats = std::move(*formats);
    lead = leader_of(wanted.formats);
  }
  const exporting::export_format& leader = *exporting::find(lead);
  const std::string_view known_name = ar::preset_name(plan.scheme);
  plan.scheme_name = known_name.empty() ? exporting::describe_int_scheme(plan.scheme) : std::string(known_name);

  job base;
  base.source = dir;
  base.spec = &spec;
  base.weights = wanted.weights;
  base.rotation = wanted.rotation;
  base.attention = wanted.attention;
  base.maxima = wanted.maxima;
  base.compat = wanted.compat;
  base.model_name = model_name_of(source, dir->path());
  base.scheme = plan.scheme;
  base.how = wanted.how;
  base.iters = wanted.how == exporting::method::signround ? wanted.iters : 0;
  base.lr = wanted.lr;
  base.minmax_lr = wanted.minmax_lr;
  base.gradient_accumulate_steps = wanted.gradient_accumulate_steps;
  base.enable_minmax_tuning = wanted.enable_minmax_tuning;
  base.enable_quanted_input = wanted.enable_quanted_input;
  base.scale_type = wanted.scale_type;
  base.max_shard_bytes = wanted.max_shard_bytes;
  base.layers = std::move(layers);
  base.ignore_patterns = std::move(rules->ignore_patterns);
  plan.warnings.insert(plan.warnings.end(), rules->warnings.begin(), rules->warnings.end());
  apply_layer_schemes(wanted, base.layers);

  if (wanted.rotation != nullptr) {
    for (const std::string& f : wanted.formats) {
      if (f != "auto_round" && f != "fake") return fail(error_kind::unsupported, "format " + f + " cannot say how a model is rotated; auto_round and fake can");
      if (f != "fake" && wanted.rotation_in_fake_only) {
        return fail(error_kind::unsupported, "this rotation can be stored in format fake only: no loader of packed layers knows it; the algorithm quarot can be packed");
      }
    }
  }
  if (auto r = check_attention(wanted, *base.spec); !r) return forward_error(r);
  if (auto r = check_experts(*base.spec, base.layers); !r) return forward_error(r);
  base.format = lead;
  if (auto r = leader.decide(base); !r) return forward_error(r);
  apply_layer_schemes(wanted, base.layers);  // of layers that only this format quantizes
  const std::string obstacle = obstacle_to_model_free(wanted, plan.scheme, base.layers);
  if (wanted.way == route::model_free && !obstacle.empty()) {
    return fail(error_kind::unsupported, "--model_free does not apply here: " + obstacle);
  }
  base.model_free = wanted.way != route::regular && obstacle.empty();
  if (base.model_free && lead != "fake") add_once(plan.warnings, shard_wise_warnings(plan.scheme));
  for (const std::string& f : wanted.formats) {
    job run = base;
    run.format = f;
    if (f != lead) run.warnings.clear();
    if (f != lead && f != "fake") {
      if (auto r = exporting::find(f)->decide(run); !r) return forward_error(r);
      if (!same_decisions(run.layers, base.layers)) {
        return fail(error_kind::usage, fmt::format("formats {} and {} cannot share one quantization; start one run for each", lead, f));
      }
    }
    plan.jobs.push_back(std::move(run));
  }
  if (std::none_of(base.layers.begin(), base.layers.end(), [](const layer_decision& l) { return l.quantize; })) {
    return fail(error_kind::usage, "no layer would be quantized: " + (base.layers.empty() ? std::string("there are none") : base.layers.front().reason));
  }
  if (auto r = check_fused_groups(wanted.fused, lead, base.layers, plan.warnings); !r) return forward_error(r);
  for (const job& run : plan.jobs) add_once(plan.warnings, run.warnings);

  for (const job& run : plan.jobs) {
    auto e = exporting::find(run.format)->make(run);
    if (!e) return forward_error(e);
    plan.exporters.push_back(std::move(*e));
  }
  return plan;
}

}  // namespace auto_round::plan
