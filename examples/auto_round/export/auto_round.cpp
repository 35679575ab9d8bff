// The auto_round format: packed layers in safetensors and auto-round's quantization_config. Loaded by transformers with auto-round, vLLM, SGLang.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_int_exporter.hpp"
#include "export/export_float_packing.hpp"
#include "export/export_int_packing.hpp"
#include "export/export_layout_exporter.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 5> spellings = {"auto_round", "auto_round:auto_awq", "auto_round:auto_gptq", "auto_round:fp8", "auto_round:gptqmodel"};
constexpr std::array<std::string_view, 1> methods = {"auto-round"};

int_limits limits_of(std::string_view spelling) {
  int_limits limits;
  if (spelling == "auto_round") limits.widths = bit_widths({2, 3, 4, 5, 6, 7, 8});
  else if (spelling == "auto_round:auto_awq") limits = {.widths = bit_widths({4, 5, 6, 7}), .short_groups = false};
  else limits.widths = bit_widths({2, 3, 4, 8});
  return limits;
}

int_layout layout_of(std::string_view packing) {
  return packing == "auto_round:auto_awq" ? int_layout::awq : packing == "auto_round:auto_gptq" ? int_layout::gptq_v1 : int_layout::gptq_v2;
}

/// MX, NVFP4 and FP8 have layouts of their own; MXINT4 too, but only under the plain name.
bool is_floating(std::string_view spelling, const ar::scheme_fields& s) { return (spelling == "auto_round" || spelling == "auto_round:fp8") && !s.data_type.starts_with("int") && !s.super_bits; }

result<holding> accepts(std::string_view spelling, const ar::scheme_fields& scheme) {
  if (spelling == "auto_round:fp8") return accepts_fp8_tiles(spelling, scheme);
  if (spelling == "auto_round" && !ar::quantizes(scheme)) return holding::packed;  // single layers may be
  if (is_floating(spelling, scheme)) return accepts_layout(spelling, scheme, dialect::auto_round);
  return accepts_int(spelling, scheme, limits_of(spelling));
}

/// The schemes of the layers decide where the model's own is 16 bits.
bool is_floating(const job& run) {
  if (ar::quantizes(run.scheme)) return is_floating(run.format, run.scheme);
  return std::any_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.quantize && is_floating(run.format, l.scheme); });
}

result<void> decide(job& run) {
  if (run.format == "auto_round:fp8") return decide_fp8_tiles(run);
  if (is_floating(run)) return decide_layout(run, dialect::auto_round);
  if (auto r = decide_int(run, limits_of(run.format), layout_of(run.format)); !r) return r;
  if (run.format != "auto_round" && !run.scheme.sym && run.format != "auto_round:auto_awq") run.warnings.push_back(asymmetric_gptq_warning(run.format));
  return {};
}

result<std::unique_ptr<exporter>> make(const job& run) {
  const std::string packing = packing_format(run);
  const io::json config = auto_round_config(run);
  if (is_floating(run)) return make_layout_exporter(run, dialect::auto_round, {{"config.json", config_text(run, &config)}, {"quantization_config.json", io::dump(config)}});
  const int_layout layout = layout_of(packing);
  const std::string whole = layout == int_layout::awq ? half_config_text(run, config) : config_text(run, &config);
  return make_int_exporter(run, layout, packing == "auto_round:gptqmodel", {{"config.json", whole}, {"quantization_config.json", io::dump(config)}});
}

/// Names of older versions too; a missing packing_format means the oldest.
result<int_layout> layout_of_packing_format(const found_quantization& found) {
  const std::string& packing = found.config.at("packing_format").as_string();
  if (packing.empty() || packing == "auto_round:auto_gptq" || packing == "auto_round:gptq") return int_layout::gptq_v1;
  if (packing == "auto_round" || packing == "auto_round:gptqmodel") return int_layout::gptq_v2;
  if (packing == "auto_round:auto_awq" || packing == "auto_round:awq") return int_layout::awq;
  return fail(error_kind::unsupported, fmt::format("packing_format \"{}\" cannot be read so far; auto_round, auto_round:auto_gptq, auto_round:gptqmodel and auto_round:auto_awq can", packing),
              found.file);
}

result<std::unique_ptr<packing>> read_packing(const found_quantization& found, const io::checkpoint_dir& dir, const model::model_spec& spec) {
  if (found.config.at("packing_format").as_string() == fake_packing_format) return fake_packing(found, dir, spec);
  if (is_float_packing(found.config)) return auto_round_float_packing(found, dir, spec);
  auto layout = layout_of_packing_format(found);
  if (!layout) return forward_error(layout);
  const std::string words = *layout == int_layout::awq ? "AWQ words" : "GPTQ words";
  int_packing p(fmt::format("auto_round ({}, {})", words, found.config.at("packing_format").as_string()), found.file, *layout);
  if (auto r = p.set_model_scheme(found.config); !r) return forward_error(r);
  for (const auto& [name, entry] : found.config.at("extra_config").members()) {
    if (auto r = p.add_rule(name, is_linear_layer(spec, name), entry); !r) return forward_error(r);
  }
  return std::unique_ptr<packing>(std::make_unique<int_packing>(std::move(p)));
}

result<std::unique_ptr<stored_model>> open(const std::string& path) { return open_packed_folder(path, methods, read_packing); }

}  // namespace

extern const export_format export_auto_round;
constinit const export_format export_auto_round = {"auto_round", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide, make, open, false, true};

}  // namespace auto_round::exporting
