#include "export/export_quantized_inputs.hpp"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "ar/tune.hpp"
#include "tune/input_quantizer.hpp"
#include "tune/quantizer.hpp"
#include "tune/run_parts.hpp"
#include "tune/static_scales.hpp"

namespace auto_round::exporting {
namespace {

/// What the largest magnitude of the inputs is divided by for their static scale, or, if `inverse`, what is divided by it; 0: there is no such type.
float scale_divisor(const input_scheme& s, bool& inverse) {
  const ar::range_kernels* type = tune::tuned_kernels(s.data_type, s.bits, s.sym);
  inverse = type != nullptr && type->two_level();
  if (type == nullptr || type->facts == nullptr) return 0;
  return inverse ? type->facts->global_numerator() : type->facts->limit;
}

}  // namespace

ar::scheme_fields input_scheme::fields() const {
  ar::scheme_fields s;
  s.bits = 8, s.group_size = -1, s.sym = true, s.data_type = "int";  // the weight's: it is read as it is
  s.act_bits = bits, s.act_group_size = group_size, s.act_sym = sym, s.act_data_type = data_type, s.act_dynamic = dynamic;
  return s;
}

input_scheme inputs_of_auto_round(const io::json& config) {
  input_scheme s;
  const std::int64_t bits = config.at("act_bits").as_int(16);
  if (bits < 1 || bits > 8) return s;
  s.bits = static_cast<int>(bits);
  s.data_type = config.at(config.at("act_data_type").is_string() ? "act_data_type" : "data_type").as_string();
  const io::json& group = config.at(config.at("act_group_size").is_int() ? "act_group_size" : "group_size");
  s.group_size = static_cast<int>(group.is_array() && group.items().size() == 2 ? group.items()[1].as_int(-1) : group.as_int(-1));
  s.sym = config.at("act_sym").as_bool(config.at("sym").as_bool(true));
  s.dynamic = config.at("act_dynamic").as_bool(true);
  return s;
}

result<input_scheme> inputs_of_compressed_tensors(const io::json& a) {
  input_scheme s;
  if (!a.is_object()) return s;
  const std::int64_t bits = a.at("num_bits").as_int(8), group = a.at("group_size").as_int(0);
  const bool floats = a.at("type").as_string() == "float", scales_are_powers = a.at("scale_dtype").as_string() == "torch.uint8";
  const std::string& strategy = a.at("strategy").as_string();
  const io::json& dynamic = a.at("dynamic");
  const auto unsupported = [&] { return fail(error_kind::unsupported, fmt::format("inputs of layers quantized as {} cannot be computed", io::dump(a, {.indent = -1}))); };
  if (bits < 1 || bits > 8 || group < -1 || group > (1 << 30)) return unsupported();
  s.bits = static_cast<int>(bits);
  s.sym = a.at("symmetric").as_bool(true);
  s.dynamic = dynamic.is_string() || dynamic.as_bool(false);  // "local": scales of groups are, that of the tensor is not
  s.group_size = strategy == "tensor" ? 0 : group > 0 ? static_cast<int>(group) : -1;
  if (!floats) s.data_type = "int";
  else if (strategy == "tensor_group" && bits == 4 && group == 16) s.data_type = dynamic.as_bool(false) ? "nv_fp" : "nv_fp4_with_static_gs";
  else if (group == 32 && (bits == 4 || scales_are_powers)) s.data_type = "mx_fp";
  else if (bits == 8) s.data_type = "fp";
  else return unsupported();
  return s;
}

result<input_scheme> with_static_scale(input_scheme s, const io::checkpoint_dir& dir, const std::string& layer) {
  if (!s.quantized() || !tune::needs_input_maximum(s.fields())) return s;
  bool inverse = false;
  const float divisor = scale_divisor(s, inverse);
  const std::string name = layer + (inverse ? ".input_global_scale" : ".input_scale");
  const io::tensor_ref* t = dir.find(name);
  if (t == nullptr) return fail(error_kind::input, "the configuration says that the layer's inputs have a static scale, but there is none", dir.path(), name);
  float scale = 0;
  if (t->elements() == 1) {
    if (auto r = io::read_f32(*t, 0, std::span(&scale, 1)); !r) return forward_error(r);
  }
  if (!(scale > 0) || !std::isfinite(scale) || !(divisor > 0)) return fail(error_kind::input, "the static scale of a layer's inputs is no positive number", dir.path(), name);
  s.maximum = inverse ? divisor / scale : divisor * scale;
  return s;
}

result<model::block_runner::input_filter> make_input_filter(const model::model_spec& spec, std::int64_t index, const inputs_lookup& inputs_of) {
  std::vector<input_scheme> schemes(spec.linears.size());
  tune::layer_choices choices;
  for (std::size_t i = 0; i < schemes.size(); ++i) {
    const std::string name = spec.linear_name(index, static_cast<int>(i));
    auto found = inputs_of(name);
    if (!found) return forward_error(found);
    schemes[i] = std::move(*found);
    if (schemes[i].quantized()) choices[name] = {schemes[i].fields()};
  }
  if (choices.empty()) return model::block_runner::input_filter();
  auto plans = tune::plan_layers(spec, index, choices, {});
  if (!plans) return forward_error(plans);
  auto made = tune::input_quantizer::make(spec, *plans);
  if (!made) return forward_error(made);
  const std::shared_ptr<tune::input_quantizer> quantizer = std::move(*made);
  for (std::size_t i = 0; i < schemes.size(); ++i) quantizer->restore(static_cast<int>(i), schemes[i].maximum);
  return model::block_runner::input_filter([quantizer](int linear, float* x, std::size_t tokens) { quantizer->forward(linear, x, tokens); });
}

}  // namespace auto_round::exporting
