// The auto_gptq format: GPTQ words with zero points less one and a configuration of AutoGPTQ. Loaded by GPTQModel, transformers, vLLM, SGLang. Reads
// what AutoGPTQ and GPTQModel write: checkpoint_format gptq, gptq_v2 and gptq_p, columns in any order (desc_act).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_int_exporter.hpp"
#include "export/export_int_packing.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"auto_gptq"};
constexpr std::array<std::string_view, 1> methods = {"gptq"};
constexpr int_limits limits = {.widths = bit_widths({2, 3, 4, 8})};

result<holding> accepts(std::string_view spelling, const ar::scheme_fields& scheme) { return accepts_int(spelling, scheme, limits); }

result<void> decide(job& run) {
  if (auto r = decide_int(run, limits, int_layout::gptq_v1); !r) return r;
  if (!run.scheme.sym) run.warnings.push_back(asymmetric_gptq_warning(run.format));
  return {};
}

/// Patterns that users wrote, and layers that differ from the model, in loaders' notation: "+:" has another scheme, "-:" is not packed.
io::json dynamic_rules(const job& run) {
  io::json rules = io::json::object{};
  std::vector<std::string> patterns;
  for (const std::string& p : run.ignore_patterns) {
    if (std::any_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.name == p; })) continue;
    rules.set("-:" + exported_regex(p), io::json::object{});
    patterns.push_back(p);
  }
  for (const layer_decision& l : run.layers) {
    if (std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return l.name.find(p) != std::string::npos; })) continue;
    if (l.quantize) {
      if (l.block >= 0 && l.scheme.bits == run.scheme.bits && l.scheme.group_size == run.scheme.group_size && l.scheme.sym == run.scheme.sym)
        continue;
      io::json entry = io::json::object{};
      entry.set("bits", l.scheme.bits).set("group_size", l.scheme.group_size).set("sym", l.scheme.sym);
      rules.set("+:" + exported_regex(l.name), std::move(entry));
    } else if (l.block >= 0) {
      rules.set("-:" + exported_regex(l.name), io::json::object{});
    }
  }
  return rules;
}

/// Names inside a block of the layers that are packed in one block at least; empty if all of all blocks are.
io::json modules_in_block(const job& run) {
  std::set<std::string> packed;
  bool all = true;
  for (const layer_decision& l : run.layers) {
    if (l.block < 0) continue;
    all &= l.quantize;
    if (l.quantize) packed.insert(run.spec->linears[static_cast<std::size_t>(l.linear)].name);
  }
  if (all) return {};
  io::json::array names(packed.begin(), packed.end());
  return io::json::array{io::json(std::move(names))};
}

io::json configuration(const job& run) {
  io::json q = scheme_keys(run);
  q.set("autoround_version", autoround_version);
  io::json dynamic = dynamic_rules(run);
  if (!dynamic.members().empty()) q.set("dynamic", std::move(dynamic));
  const bool head = std::any_of(run.layers.begin(), run.layers.end(), [](const layer_decision& l) { return l.block < 0 && l.quantize; });
  q.set("lm_head", head)
      .set("provider", "auto-round")
      .set("quant_method", "gptq")
      .set("desc_act", std::any_of(run.layers.begin(), run.layers.end(), [](const layer_decision& l) { return l.any_order; }))
      .set("true_sequential", false)
      .set("damp_percent", 0.01);
  io::json modules = modules_in_block(run);
  if (modules.is_array()) q.set("modules_in_block_to_quantize", std::move(modules));
  return q;
}

result<std::unique_ptr<exporter>> make(const job& run) {
  const io::json config = configuration(run);
  return make_int_exporter(run, int_layout::gptq_v1, true,
                           {{"config.json", half_config_text(run, config)}, {"quantization_config.json", io::dump(config)}});
}

result<int_layout> layout_of(const found_quantization& found) {
  const io::json& c = found.config;
  const std::string& format = (c.find("checkpoint_format") != nullptr ? c.at("checkpoint_format") : c.at("format")).as_string();
  if (c.at("is_marlin_format").as_bool())
    return fail(error_kind::unsupported, "Marlin's order of words cannot be read; use the checkpoint it was made from", found.file);
  if (const std::string& words = c.at("pack_dtype").as_string(); !words.empty() && words != "int32") {
    return fail(error_kind::unsupported, fmt::format("pack_dtype \"{}\" cannot be read; int32 can", words), found.file);
  }
  const std::int64_t bits = c.at("bits").as_int();
  if (format == "gptq_p") return int_layout::gptq_planes;
  if (!format.empty() && format != "gptq" && format != "gptq_v2") {
    return fail(error_kind::unsupported, fmt::format("checkpoint_format \"{}\" cannot be read; gptq, gptq_v2 and gptq_p can", format), found.file);
  }
  if (bits >= 5 && bits <= 7)
    return fail(error_kind::unsupported, fmt::format("{} bits are stored in different ways under this checkpoint_format; gptq_p can be read", bits),
                found.file);
  return format == "gptq_v2" ? int_layout::gptq_v2 : int_layout::gptq_v1;
}

result<std::unique_ptr<packing>> read_packing(const found_quantization& found, const io::checkpoint_dir&, const model::model_spec& spec) {
  auto layout = layout_of(found);
  if (!layout) return forward_error(layout);
  const char* words = *layout == int_layout::gptq_v1 ? "zero points less one" : *layout == int_layout::gptq_v2 ? "v2" : "bit planes";
  int_packing p(fmt::format("auto_gptq ({})", words), found.file, *layout);
  if (auto r = p.set_model_scheme(found.config); !r) return forward_error(r);
  p.match_at_start();
  io::json kept = io::json::object{};
  kept.set("bits", 16);
  for (const auto& [pattern, entry] : found.config.at("dynamic").members()) {
    const bool skip = pattern.starts_with("-:");
    if (auto r = p.add_rule(skip || pattern.starts_with("+:") ? pattern.substr(2) : pattern, false, skip ? kept : entry); !r) return forward_error(r);
  }
  // Module names inside a block; what is in no list is not packed.
  const io::json& modules = found.config.at("modules_in_block_to_quantize");
  if (modules.is_array()) {
    std::set<std::string> packed;
    for (const io::json& group : modules.items()) {
      for (const io::json& name : group.items()) packed.insert(name.as_string());
      if (group.is_string()) packed.insert(group.as_string());
    }
    for (std::int64_t b = 0; b < spec.num_layers; ++b) {
      for (std::size_t i = 0; i < spec.linears.size(); ++i) {
        if (packed.contains(spec.linears[i].name)) continue;
        if (auto r = p.add_rule(spec.linear_name(b, static_cast<int>(i)), true, kept); !r) return forward_error(r);
      }
    }
  }
  return std::unique_ptr<packing>(std::make_unique<int_packing>(std::move(p)));
}

result<std::unique_ptr<stored_model>> open(const std::string& path) { return open_packed_folder(path, methods, read_packing); }

}  // namespace

extern const export_format export_auto_gptq;
constinit const export_format export_auto_gptq = {
    "auto_gptq", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide, make, open, true};

}  // namespace auto_round::exporting
