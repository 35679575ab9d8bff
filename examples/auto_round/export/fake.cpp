// The fake format: dequantized weights in the model's own type, to try a scheme with any software. Also opens plain float checkpoints.
#include <array>

#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"fake"};

class fake_exporter final : public safetensors_exporter {
 public:
  explicit fake_exporter(const job& run) : safetensors_exporter(run) {}
  result<void> start() { return prepare({{"config.json", config_text(run_, nullptr)}}); }

 private:
  const io::tensor_ref& source(const std::string& layer) const { return *run_.source->find(layer + ".weight"); }
  /// F64 sources are written in F32: nothing here needs more.
  io::dtype type_of(const std::string& layer) const {
    const io::dtype t = source(layer).type;
    return t == io::dtype::f64 ? io::dtype::f32 : t;
  }
  std::vector<io::tensor_decl> packed_tensors(const layer_decision& layer) const override {
    return {{layer.name + ".weight", type_of(layer.name), source(layer.name).shape}};
  }
  std::string packed_type(const layer_decision& layer) const override {
    return describe_int_scheme(layer.scheme) + " in " + std::string(io::name_of(type_of(layer.name)));
  }
  result<std::vector<part>> pack(const tune::quantized_layer& layer) const override {
    const io::dtype type = type_of(layer.name);
    std::vector<part> parts;
    parts.push_back({{layer.name + ".weight", type, source(layer.name).shape}, to_bytes(layer.weight, type)});
    return parts;
  }
  std::vector<float> read_back(const tune::quantized_layer& layer) const override {
    std::vector<float> w = layer.weight;
    round_to_type(w, type_of(layer.name));
    return w;
  }
};

result<holding> accepts(std::string_view, const ar::scheme_fields&) { return holding::packed; }

result<void> decide(job& run) {
  const std::string_view type = run.scheme.data_type;
  if (type == "int" && run.scheme.act_bits.value_or(16) >= 16 && !run.scheme.super_bits) apply_multiple_of_32_rule(run);
  if (type.find("mx_fp") != type.npos || type.find("nv_fp") != type.npos) apply_whole_groups_rule(run);
  return {};
}

result<std::unique_ptr<exporter>> make(const job& run) {
  auto e = std::make_unique<fake_exporter>(run);
  if (auto r = e->start(); !r) return forward_error(r);
  return std::unique_ptr<exporter>(std::move(e));
}

}  // namespace

extern const export_format export_fake;
constinit const export_format export_fake = {"fake", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide, make, open_float_folder};

}  // namespace auto_round::exporting
