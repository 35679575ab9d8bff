// The llm_compressor format: compressed-tensors' layouts and configuration. Loaded by transformers with compressed-tensors, vLLM, SGLang.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "export/export_auto_round_config.hpp"
#include "export/export_ct_config.hpp"
#include "export/export_format.hpp"
#include "export/export_layout_exporter.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 2> spellings = {"llm_compressor", "auto_round:llm_compressor"};
constexpr std::array<std::string_view, 1> methods = {"compressed-tensors"};

/// compressed-tensors 0.13 does not load zero points of one bit, and nothing multiplies with such weights; folders that have them are read.
result<void> refuse_one_bit(std::string_view spelling, const ar::scheme_fields& s) {
  if (s.data_type != "int" || s.bits != 1) return {};
  return fail(error_kind::unsupported, fmt::format("format {} holds integer weights of 2 to 8 bits, not 1", spelling));
}

result<holding> accepts(std::string_view spelling, const ar::scheme_fields& scheme) {
  if (auto r = refuse_one_bit(spelling, scheme); !r) return forward_error(r);
  return accepts_layout(spelling, scheme, dialect::compressed_tensors);
}

result<void> decide(job& run) {
  if (run.how != method::stored) {
    if (auto r = refuse_one_bit(run.format, run.scheme); !r) return r;
    for (const layer_decision& l : run.layers) {
      if (!l.quantize) continue;
      if (auto r = refuse_one_bit(run.format, l.scheme); !r) return fail(r.error().kind, r.error().message, {}, l.name);
    }
  }
  if (std::any_of(run.layers.begin(), run.layers.end(), [](const layer_decision& l) { return l.quantize && l.any_order; }))
    run.warnings.push_back("columns in an order of their own (actorder \"group\", weight_g_idx) are refused by compressed-tensors 0.20; see that what loads the folder knows them");
  return decide_layout(run, dialect::compressed_tensors);
}

result<std::unique_ptr<exporter>> make(const job& run) {
  const io::json config = ct_config(run);
  return make_layout_exporter(run, dialect::compressed_tensors, {{"config.json", config_text(run, &config)}, {"quantization_config.json", io::dump(config)}});
}

result<std::unique_ptr<stored_model>> open(const std::string& path) { return open_packed_folder(path, methods, ct_packing); }

}  // namespace

extern const export_format export_llm_compressor;
constinit const export_format export_llm_compressor = {"llm_compressor", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide, make, open, true, true};

}  // namespace auto_round::exporting
