// The auto_awq format: AWQ words and a configuration of AutoAWQ, version gemm. Loaded by transformers, vLLM, SGLang, GPTQModel, mlx-lm. Reads what
// AutoAWQ writes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_int_exporter.hpp"
#include "export/export_int_packing.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"auto_awq"};
constexpr std::array<std::string_view, 1> methods = {"awq"};
constexpr int_limits limits = {.widths = bit_widths({4}), .short_groups = false, .one_scheme = true};

result<holding> accepts(std::string_view spelling, const ar::scheme_fields& scheme) { return accepts_int(spelling, scheme, limits); }
result<void> decide(job& run) {
  for (const layer_decision& l : run.layers) {
    if (l.block < 0 && l.quantize) {
      return fail(error_kind::unsupported, "format auto_awq cannot say that the head is packed; auto_round and auto_gptq can", {}, l.name);
    }
  }
  return decide_int(run, limits, int_layout::awq);
}

/// Blocks without any packed layer, layers that are not packed, the head, and patterns as users wrote them. (The original's order is that of a set.)
io::json not_converted(const job& run) {
  io::json::array names;
  for (std::int64_t b = 0; b < run.spec->num_layers; ++b) {
    if (std::none_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.block == b && l.quantize; }))
      names.emplace_back(run.spec->block_prefix + std::to_string(b));
  }
  for (const layer_decision& l : run.layers) {
    if (l.block >= 0 && !l.quantize) names.emplace_back(l.name);
  }
  const std::string& head = run.spec->head_name;
  names.emplace_back(head.substr(0, head.rfind('.')));
  for (const std::string& p : run.ignore_patterns) {
    if (std::none_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.name == p; })) names.emplace_back(p);
  }
  return names;
}

result<std::unique_ptr<exporter>> make(const job& run) {
  io::json q = scheme_keys(run);
  q.set("to_quant_block_names", block_list_name(run))
      .set("autoround_version", autoround_version)
      .set("provider", "auto-round")
      .set("quant_method", "awq");
  q.set("zero_point", !run.scheme.sym).set("version", "gemm").set("modules_to_not_convert", not_converted(run));
  return make_int_exporter(run, int_layout::awq, false, {{"config.json", half_config_text(run, q)}, {"quantization_config.json", io::dump(q)}});
}

result<std::unique_ptr<packing>> read_packing(const found_quantization& found, const io::checkpoint_dir&, const model::model_spec&) {
  io::json config = found.config;
  std::string version = config.at("version").as_string();
  std::transform(version.begin(), version.end(), version.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (!version.empty() && version != "gemm")
    return fail(error_kind::unsupported, fmt::format("AWQ version \"{}\" cannot be read; gemm can", version), found.file);
  // Names of AutoAWQ's own files.
  if (config.find("bits") == nullptr) config.set("bits", config.at("w_bit"));
  if (config.find("group_size") == nullptr) config.set("group_size", config.at("q_group_size"));
  config.set("sym", !config.at("zero_point").as_bool(true)).set("desc_act", false);
  int_packing p("auto_awq (gemm)", found.file, int_layout::awq);
  if (auto r = p.set_model_scheme(config); !r) return forward_error(r);
  io::json kept = io::json::object{};
  kept.set("bits", 16);
  for (const io::json& name : config.at("modules_to_not_convert").items()) {
    if (auto r = p.add_rule(name.as_string(), false, kept); !r) return forward_error(r);
  }
  return std::unique_ptr<packing>(std::make_unique<int_packing>(std::move(p)));
}

result<std::unique_ptr<stored_model>> open(const std::string& path) { return open_packed_folder(path, methods, read_packing); }

}  // namespace

extern const export_format export_auto_awq;
constinit const export_format export_auto_awq = {
    "auto_awq", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide, make, open};

}  // namespace auto_round::exporting
