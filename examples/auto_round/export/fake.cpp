// The fake format: dequantized weights in the model's own type, to try a scheme with any software. Where layers read quantized rows, auto-round's configuration says
// how. Also opens plain float checkpoints.
#include <algorithm>
#include <array>
#include <optional>

#include "export/export_auto_round_config.hpp"
#include "export/export_float_packing.hpp"
#include "export/export_format.hpp"
#include "export/export_layer_layout.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"fake"};

/// Some layers read quantized rows, and all static scales of theirs will be known: a run without calibration text finds none.
bool says_inputs(const job& run) {
  const bool known = run.maxima != nullptr || run.how == method::stored;
  bool any = false;
  for (const layer_decision& l : run.layers) {
    if (!l.quantize || !tune::quantizes_activations(l.scheme)) continue;
    if (!known && static_input_name(l.scheme) != nullptr) return false;
    any = true;
  }
  return any;
}

class fake_exporter final : public safetensors_exporter {
 public:
  explicit fake_exporter(const job& run) : safetensors_exporter(run), says_inputs_(says_inputs(run)) {}
  result<void> start() {
    std::optional<io::json> config;
    if (says_inputs_) config = auto_round_config(run_);
    return prepare({{"config.json", config_text(run_, config ? &*config : nullptr)}});
  }

 private:
  const char* input_name(const ar::scheme_fields& scheme) const { return says_inputs_ ? static_input_name(scheme) : nullptr; }
  const io::tensor_ref& source(const std::string& layer) const { return *run_.source->find(layer + ".weight"); }
  /// F64 sources are written in F32: nothing here needs more.
  io::dtype type_of(const std::string& layer) const {
    const io::dtype t = source(layer).type;
    return t == io::dtype::f64 ? io::dtype::f32 : t;
  }
  std::vector<io::tensor_decl> packed_tensors(const layer_decision& layer) const override {
    std::vector<io::tensor_decl> all = {{layer.name + ".weight", type_of(layer.name), source(layer.name).shape}};
    if (const char* input = input_name(layer.scheme); input != nullptr) all.push_back({layer.name + input, io::dtype::f32, {1}});
    return all;
  }
  std::string packed_type(const layer_decision& layer) const override {
    return describe_int_scheme(layer.scheme) + " in " + std::string(io::name_of(type_of(layer.name)));
  }
  result<std::vector<part>> pack(const tune::quantized_layer& layer) const override {
    const io::dtype type = type_of(layer.name);
    std::vector<part> parts;
    parts.push_back({{layer.name + ".weight", type, source(layer.name).shape}, to_bytes(layer.weight, type)});
    if (const char* input = input_name(layer.scheme); input != nullptr) {
      const auto scale = input_scale(layer);
      if (!scale) return forward_error(scale);
      parts.push_back({{layer.name + input, io::dtype::f32, {1}}, to_bytes(std::array{*scale}, io::dtype::f32)});
    }
    return parts;
  }
  std::vector<float> read_back(const tune::quantized_layer& layer) const override {
    std::vector<float> w = layer.weight;
    round_to_type(w, type_of(layer.name));
    return w;
  }

  bool says_inputs_;
};

result<holding> accepts(std::string_view, const ar::scheme_fields&) { return holding::packed; }

result<void> decide(job& run) {
  const std::string_view type = run.scheme.data_type;
  if (type == "int" && run.scheme.act_bits.value_or(16) >= 16 && !run.scheme.super_bits) apply_multiple_of_32_rule(run.layers);
  if (type.find("mx_fp") != type.npos || type.find("nv_fp") != type.npos) apply_whole_groups_rule(run);
  return {};
}

result<std::unique_ptr<exporter>> make(const job& run) {
  auto e = std::make_unique<fake_exporter>(run);
  if (auto r = e->start(); !r) return forward_error(r);
  return std::unique_ptr<exporter>(std::move(e));
}

constexpr std::array<std::string_view, 1> methods = {"auto-round"};

result<std::unique_ptr<stored_model>> open(const std::string& path) {
  auto floats = open_float_folder(path);
  if (!floats || *floats != nullptr) return floats;
  return open_packed_folder(path, methods, fake_packing);
}

}  // namespace

extern const export_format export_fake;
constinit const export_format export_fake = {"fake", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide, make, open, true};

}  // namespace auto_round::exporting
