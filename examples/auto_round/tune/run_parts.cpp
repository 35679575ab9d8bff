#include "tune/run_parts.hpp"

#include <algorithm>
#include <set>
#include <span>
#include <utility>

#include "ar/tune.hpp"
#include "tune/quantizer.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {

result<void> check_run(const model::model_spec& spec, const text::calibration_set& set, const layer_choices& choices, const signround_options& o) {
  const auto positive = [](std::int64_t value, const char* name) -> result<void> {
    if (value >= 1) return {};
    return fail(error_kind::usage, std::string(name) + " must be at least 1, not " + std::to_string(value));
  };
  for (const auto& [value, name] : {std::pair{o.iters, "iters"}, {o.batch_size, "batch_size"}, {o.gradient_accumulate_steps, "gradient_accumulate_steps"},
                                    {o.nblocks, "nblocks"}})
    if (auto r = positive(value, name); !r) return r;
  if (o.enable_norm_bias_tuning && !spec.plain())
    return fail(error_kind::unsupported, "norms and biases are tuned in models that are laid out as LLaMA only; a " + spec.model_class + " is not");
  if (o.iters > 1'000'000) return fail(error_kind::usage, "iters above 1000000 makes no sense");
  if (set.rows() < 1 || set.valid.size() != set.ids.size()) return fail(error_kind::usage, "the calibration set is empty");
  std::set<std::string> known;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (std::size_t i = 0; i < spec.linears.size(); ++i)
      if (spec.has_linear(b, static_cast<int>(i))) known.insert(spec.linear_name(b, static_cast<int>(i)));
  if (!spec.tie_word_embeddings) known.insert(spec.head_name.substr(0, spec.head_name.rfind('.')));
  for (const auto& [name, choice] : choices)
    if (choice.scheme.bits < 16 && known.count(name) == 0)
      return fail(error_kind::input, "only linear layers of the decoder blocks and a head of its own can be tuned; this is none of them", {}, name);
  return {};
}

result<void> embed_calibration(const model::weight_source& source, const text::calibration_set& set, bool bf16, activations& out) {
  const auto samples = static_cast<std::size_t>(set.rows()), seqlen = static_cast<std::size_t>(set.seqlen);
  const std::size_t size = seqlen * static_cast<std::size_t>(source.spec().hidden_size);
  if (auto r = out.reset(samples, size, bf16); !r) return r;
  const std::size_t step = std::max<std::size_t>(1, (std::size_t{16} << 20) / size);
  for (std::size_t first = 0; first < samples; first += step) {
    const std::size_t n = std::min(step, samples - first);
    const auto rows = model::embed(source, std::span(set.ids).subspan(first * seqlen, n * seqlen), seqlen);
    if (!rows) return forward_error(rows);
    out.store(first, n, rows->data());
  }
  return {};
}

result<layer_plan> plan_layer(const std::string& name, std::size_t rows, std::size_t cols, const layer_choices& choices, const signround_options& options) {
  layer_plan p;
  p.name = name;
  p.rows = rows;
  p.cols = cols;
  const auto choice = choices.find(p.name);
  if (choice == choices.end() || choice->second.scheme.bits >= 16) return p;
  const ar::scheme_fields& scheme = choice->second.scheme;
  const auto grid = grid_of(scheme, choice->second.scale_type);
  if (!grid) return fail(error_kind::unsupported, "this scheme cannot be tuned; quantize the layer by rounding (iters 0) or choose another scheme", {}, p.name);
  p.choice = &choice->second;
  p.grid = *grid;
  p.grid.clamp = options.clamp;
  p.grid.scale_grad = options.scale_gradient;
  // The reference tunes Q4_1 and Q5_1 on zero points that are fractions, and codes that then are none in blocks, which hold whole ones.
  p.grid.whole_zero = !options.compat || scheme.data_type == "int";
  p.group_size = resolve_group_size(scheme.group_size, p.cols);
  ar::tune_layer shape;
  shape.rows = p.rows;
  shape.cols = p.cols;
  shape.group_size = p.group_size;
  const ar::errc e = ar::check(p.grid, shape);
  if (e != ar::errc::ok) return fail(error_kind::unsupported, std::string("this scheme does not fit the layer's shape: ") + ar::message(e), {}, p.name);
  return p;
}

result<std::vector<layer_plan>> plan_layers(const model::model_spec& spec, std::int64_t index, const layer_choices& choices, const signround_options& options) {
  std::vector<layer_plan> plans;
  for (std::size_t i = 0; i < spec.linears.size(); ++i) {
    if (!spec.has_linear(index, static_cast<int>(i))) {
      plans.emplace_back();  // keeps the indices
      continue;
    }
    auto p = plan_layer(spec.linear_name(index, static_cast<int>(i)), static_cast<std::size_t>(spec.linears[i].out_features),
                        static_cast<std::size_t>(spec.linears[i].in_features), choices, options);
    if (!p) return forward_error(p);
    plans.push_back(std::move(*p));
  }
  return plans;
}

void set_global_scales(const model::model_spec& spec, const model::block_weights& weights, bool compat, std::vector<layer_plan>& layers) {
  std::vector<float> scales(layers.size(), -1.0f);
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].choice != nullptr && !weights.linears[i].empty()) scales[i] = own_global_scale(layers[i].choice->scheme, weights.linears[i]);
  share_global_scales(spec, scales, compat);
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (scales[i] >= 0) layers[i].grid.global_scale = scales[i];
}

result<const quantized_layer*> recorded_layers::next(const layer_plan& plan) {
  if (next_ == unit_.layers.size() || unit_.layers[next_].name != plan.name || unit_.layers[next_].weight.size() != plan.rows * plan.cols)
    return fail(error_kind::internal, "the record of an earlier run does not fit", {}, plan.name);
  return &unit_.layers[next_++];
}

bool groups_lie_in_rows(const ar::scheme_fields& scheme) { return scheme.group_rows <= 1 && scheme.group_size != 0; }

bool tunes_by_rows(const ar::scheme_fields& scheme) { return groups_lie_in_rows(scheme) && (scheme.bits >= 16 || scheme.act_bits.value_or(16) > 8); }

}  // namespace auto_round::tune
