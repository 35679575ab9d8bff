#include "export/export_quantized_inputs.hpp"

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

/// input_filters::readers.
std::vector<int> readers_of(const model::model_spec& spec, const std::vector<input_scheme>& schemes) {
  const int n = static_cast<int>(schemes.size());
  const auto scheme = [&](int i) -> const input_scheme& { return schemes[static_cast<std::size_t>(i)]; };
  std::vector<int> readers;
  bool alike = true;
  for (int i = 0; i < n; ++i) {
    const int shared = spec.reader(i);  // may come behind i
    int own = shared;
    if (!scheme(shared).reads_as(scheme(i)))
      for (own = 0; spec.reader(own) != shared || !scheme(own).reads_as(scheme(i));) ++own;
    readers.push_back(own);
    alike = alike && own == shared;
  }
  return alike ? std::vector<int>() : readers;
}

}  // namespace

ar::scheme_fields input_scheme::fields() const {
  ar::scheme_fields s;
  s.bits = 8, s.group_size = -1, s.sym = true, s.data_type = "int";  // the weight's: it is read as it is
  s.act_bits = bits, s.act_group_size = group_size, s.act_sym = sym, s.act_data_type = data_type, s.act_dynamic = dynamic;
  return s;
}

input_scheme input_scheme::of(const ar::scheme_fields& f) {
  input_scheme s;
  s.bits = f.act_bits.value_or(16);
  s.group_size = f.act_group_size.value_or(f.group_size);
  s.sym = f.act_sym.value_or(f.sym);
  s.dynamic = f.act_dynamic.value_or(true);
  s.data_type = f.act_data_type.value_or(f.data_type);
  return s;
}

const char* static_input_name(const ar::scheme_fields& scheme) {
  if (!tune::quantizes_activations(scheme) || !tune::needs_input_maximum(scheme)) return nullptr;
  bool inverse = false;
  scale_divisor(input_scheme::of(scheme), inverse);
  return inverse ? ".input_global_scale" : ".input_scale";
}

result<input_scheme> with_static_scale(input_scheme s, const io::checkpoint_dir& dir, const std::string& layer) {
  if (!s.quantized() || !tune::needs_input_maximum(s.fields())) return s;
  bool inverse = false;
  const float divisor = scale_divisor(s, inverse);
  const std::string name = layer + static_input_name(s.fields());
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

result<model::block_runner::input_filters> make_input_filters(const model::model_spec& spec, std::int64_t index, const inputs_lookup& inputs_of) {
  std::vector<input_scheme> schemes(spec.linears.size());
  tune::layer_choices choices;
  for (std::size_t i = 0; i < schemes.size(); ++i) {
    const std::string name = spec.linear_name(index, static_cast<int>(i));
    auto found = inputs_of(name);
    if (!found) return forward_error(found);
    schemes[i] = std::move(*found);
    if (schemes[i].quantized()) choices[name] = {schemes[i].fields()};
  }
  if (choices.empty()) return model::block_runner::input_filters();
  auto plans = tune::plan_layers(spec, index, choices, {});
  if (!plans) return forward_error(plans);
  std::vector<int> readers = readers_of(spec, schemes);
  auto made = tune::input_quantizer::make(spec, *plans, readers);
  if (!made) return forward_error(made);
  const std::shared_ptr<tune::input_quantizer> quantizer = std::move(*made);
  for (std::size_t i = 0; i < schemes.size(); ++i) quantizer->restore(static_cast<int>(i), schemes[i].maximum);
  return model::block_runner::input_filters{[quantizer](int linear, float* x, std::size_t tokens) { quantizer->forward(linear, x, tokens); }, std::move(readers)};
}

}  // namespace auto_round::exporting
