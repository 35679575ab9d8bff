// The fp8 format: FP8 weights with a scale for every tile, as DeepSeek publishes them (quant_method "fp8"). Loaded by transformers, vLLM, SGLang.
#include <array>

#include "export/export_auto_round_config.hpp"
#include "export/export_float_packing.hpp"
#include "export/export_format.hpp"
#include "export/export_layout_exporter.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"fp8"};
constexpr std::array<std::string_view, 1> methods = {"fp8"};

result<void> decide(job& run) { return decide_fp8_tiles(run); }

result<std::unique_ptr<exporter>> make(const job& run) {
  const io::json config = fp8_config(run);
  return make_layout_exporter(run, dialect::auto_round, {{"config.json", config_text(run, &config)}, {"quantization_config.json", io::dump(config)}});
}

result<std::unique_ptr<stored_model>> open(const std::string& path) { return open_packed_folder(path, methods, fp8_packing); }

}  // namespace

extern const export_format export_fp8;
constinit const export_format export_fp8 = {"fp8", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts_fp8_tiles, decide, make, open, false, true};

}  // namespace auto_round::exporting
