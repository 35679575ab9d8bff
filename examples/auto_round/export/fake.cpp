// The fake format: dequantized weights in the model's own type, to try a scheme with any software. Also opens plain float checkpoints.
#include <algorithm>
#include <array>

#include "ar/numeric/half.hpp"
#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 1> spellings = {"fake"};

std::vector<std::byte> to_bytes(std::span<const float> values, io::dtype type) {
  std::vector<std::byte> bytes(values.size() * io::size_of(type));
  if (type == io::dtype::f32) {
    const auto raw = std::as_bytes(values);
    std::copy(raw.begin(), raw.end(), bytes.begin());
    return bytes;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t v = type == io::dtype::f16 ? ar::f16_from_f32(values[i]) : ar::bf16_from_f32(values[i]);
    bytes[2 * i] = static_cast<std::byte>(v & 0xFFu);
    bytes[2 * i + 1] = static_cast<std::byte>(v >> 8);
  }
  return bytes;
}

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
    const io::dtype type = type_of(layer.name);
    if (type == io::dtype::f16) std::transform(w.begin(), w.end(), w.begin(), ar::round_to_f16);
    if (type == io::dtype::bf16) std::transform(w.begin(), w.end(), w.begin(), ar::round_to_bf16);
    return w;
  }
};

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
constinit const export_format export_fake = {"fake", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, decide, make, open_float_folder};

}  // namespace auto_round::exporting
