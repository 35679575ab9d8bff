// The auto_round format: GPTQ-family words in safetensors and auto-round's quantization_config. Loaded by transformers with auto-round, vLLM, SGLang.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_gptq_words.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"auto_round"};

class auto_round_exporter final : public safetensors_exporter {
 public:
  explicit auto_round_exporter(const job& run) : safetensors_exporter(run) {}
  result<void> start() {
    const io::json config = auto_round_config(run_);
    return prepare({{"config.json", config_text(run_, &config)}, {"quantization_config.json", io::dump(config)}});
  }

 private:
  std::vector<io::tensor_decl> packed_tensors(const layer_decision& layer) const override {
    const gptq_shape s = gptq_shape_of(layer.scheme, layer.rows, layer.cols);
    return {{layer.name + ".qweight", io::dtype::i32, {s.qweight_rows(), s.rows}},
            {layer.name + ".qzeros", io::dtype::i32, {s.groups, s.qzeros_cols()}},
            {layer.name + ".scales", io::dtype::f16, {s.groups, s.rows}}};
  }
  std::string packed_type(const layer_decision& layer) const override { return describe_int_scheme(layer.scheme); }
  io::dtype bias_type(io::dtype source) const override { return run_.model_free ? source : io::dtype::f16; }

  result<std::vector<part>> pack(const tune::quantized_layer& layer) const override {
    auto words = pack_gptq(layer);
    if (!words) return forward_error(words);
    layer_decision shape;
    shape.name = layer.name;
    shape.scheme = layer.scheme;
    shape.rows = layer.rows;
    shape.cols = layer.cols;
    std::vector<io::tensor_decl> declared = packed_tensors(shape);
    std::vector<part> parts;
    const auto add = [&](std::size_t i, auto span) {
      const auto bytes = std::as_bytes(span);
      parts.push_back({std::move(declared[i]), {bytes.begin(), bytes.end()}});
    };
    add(0, std::span<const std::uint32_t>(words->qweight));
    add(1, std::span<const std::uint32_t>(words->qzeros));
    add(2, std::span<const std::uint16_t>(words->scales));
    return parts;
  }
  std::vector<float> read_back(const tune::quantized_layer& layer) const override { return stored_weight(layer); }
};

result<void> check_scheme(const ar::scheme_fields& s) {
  if (s.data_type != "int" || s.act_bits.value_or(16) < 16 || s.group_rows != 0 || s.super_bits) {
    return fail(error_kind::unsupported, "format auto_round can hold weight-only integer schemes so far: W2A16 to W8A16 and their G64 and G32 forms");
  }
  if (s.bits < 2 || s.bits > 8) return fail(error_kind::unsupported, fmt::format("format auto_round holds 2 to 8 bits, not {}", s.bits));
  if (s.group_size == 0) return fail(error_kind::unsupported, "format auto_round has no scale for a whole tensor; use --group_size -1 or a positive number");
  return {};
}

result<void> decide(job& run) {
  if (auto r = check_scheme(run.scheme); !r) return r;
  for (const layer_decision& layer : run.layers) {
    if (!layer.chosen || !layer.quantize) continue;
    if (auto r = check_scheme(layer.scheme); !r) return r;
    if (layer.scheme.sym != run.scheme.sym) {
      return fail(error_kind::unsupported, "format auto_round stores zero points in one way for all layers: symmetric and asymmetric ones cannot be mixed", {}, layer.name);
    }
  }
  apply_multiple_of_32_rule(run);
  return {};
}

result<std::unique_ptr<exporter>> make(const job& run) {
  auto e = std::make_unique<auto_round_exporter>(run);
  if (auto r = e->start(); !r) return forward_error(r);
  return std::unique_ptr<exporter>(std::move(e));
}

}  // namespace

extern const export_format export_auto_round;
constinit const export_format export_auto_round = {"auto_round", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, decide, make,
                                         open_packed_folder};

}  // namespace auto_round::exporting
