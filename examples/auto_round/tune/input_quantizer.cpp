#include "tune/input_quantizer.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

#include "ar/tune.hpp"
#include "tune/quantizer.hpp"
#include "tune/tuned_layer.hpp"
#include "tune/unseen_experts.hpp"

namespace auto_round::tune {
namespace {

constexpr std::size_t rows_at_once = 16;  // the unit of work of a thread

float largest_magnitude(const float* x, std::size_t n) {
  float m = 0;
#pragma omp parallel for schedule(static) reduction(max : m)
  for (std::size_t i = 0; i < n; ++i) m = std::max(m, std::abs(x[i]));
  return m;
}

bool same_inputs(const ar::scheme_fields& a, const ar::scheme_fields& b) {
  return a.act_bits == b.act_bits && a.act_data_type == b.act_data_type && a.act_group_size == b.act_group_size && a.act_sym == b.act_sym &&
         a.act_dynamic == b.act_dynamic;
}

}  // namespace

input_quantizer::input_quantizer(const model::model_spec& spec, std::vector<int> readers) : spec_(spec), readers_(std::move(readers)), slots_(spec.linears.size()) {
  for (int i = static_cast<int>(readers_.size()); i < static_cast<int>(slots_.size()); ++i) readers_.push_back(spec.reader(i));
}

result<std::unique_ptr<input_quantizer>> input_quantizer::make(const model::model_spec& spec, const std::vector<layer_plan>& layers, std::vector<int> readers) {
  std::unique_ptr<input_quantizer> all(new input_quantizer(spec, std::move(readers)));
  std::vector<const layer_plan*> first(layers.size(), nullptr);
  bool any = false;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const layer_plan& l = layers[i];
    const std::size_t index = all->index_of(static_cast<int>(i));
    const layer_plan*& before = first[index];
    const auto quantizes = [](const layer_plan& p) { return p.choice != nullptr && p.choice->scheme.act_bits.value_or(16) <= 8; };
    if (before != nullptr) {
      if (quantizes(*before) == quantizes(l) && (!quantizes(l) || same_inputs(before->choice->scheme, l.choice->scheme))) continue;
      return fail(error_kind::unsupported, "layers that read the same rows must quantize them alike; this one and " + before->name + " do not", {}, l.name);
    }
    before = &l;
    if (!quantizes(l)) continue;
    const ar::scheme_fields& s = l.choice->scheme;
    const std::string_view type = s.act_data_type.value_or(s.data_type);
    slot& slot = all->slots_[index];
    slot.used = any = true;
    slot.bits = *s.act_bits;
    slot.group_size = s.act_group_size.value_or(s.group_size);
    slot.cols = l.cols;
    slot.kernels = tuned_kernels(type, slot.bits, s.act_sym.value_or(s.sym), false, l.choice->scale_type);
    const bool dynamic = s.act_dynamic.value_or(true) && type.find("static") == std::string_view::npos;
    slot.fixed = !dynamic;
    const auto unsupported = [&] {
      return fail(error_kind::unsupported, "activations cannot be quantized that way while tuning: " + std::string(type) + " with " + std::to_string(slot.bits) + " bits", {},
                  l.name);
    };
    if (slot.kernels == nullptr) return unsupported();
    if (slot.kernels->facts != nullptr) {
      slot.grid = ar::scaled_grid(*slot.kernels->facts, slot.kernels->two_level() ? 0.0f : -1.0f);
      // MX scales and those of NVFP4's groups always follow the data; what can be static is the scale of the whole tensor.
      slot.tuned = slot.fixed && slot.kernels->facts->rule == ar::scale_rule::quotient;
      if (slot.fixed && !slot.tuned && !slot.kernels->two_level()) slot.fixed = false;
    } else {
      if (slot.fixed || slot.group_size == 0) return unsupported();
      slot.grid.bits = slot.bits;
      slot.grid.family = slot.kernels->has_zero_point ? ar::tune_family::asymmetric : ar::tune_family::symmetric;
      slot.grid.scale_type = l.choice->scale_type;
    }
    slot.grid.clamp = l.grid.clamp;
    slot.grid.scale_grad = l.grid.scale_grad;
  }
  if (!any) return std::unique_ptr<input_quantizer>();
  return all;
}

bool input_quantizer::needs_maxima() const {
  return std::ranges::any_of(slots_, [](const slot& s) { return s.used && s.fixed; });
}

bool input_quantizer::needs_maximum(int linear) const {
  const slot& s = slots_[index_of(linear)];
  return s.used && s.fixed;
}

void input_quantizer::observe(int linear, const float* x, std::size_t tokens) {
  slot& s = slots_[index_of(linear)];
  if (!s.used || !s.fixed || index_of(linear) != static_cast<std::size_t>(linear)) return;
  s.largest = std::max(s.largest, largest_magnitude(x, tokens * s.cols));
}

void input_quantizer::fill_unseen_experts() {
  tune::fill_unseen_experts(spec_, [this](int linear) -> float* {
    slot& s = slots_[static_cast<std::size_t>(linear)];  // up has none: it reads what gate reads
    return s.used && s.fixed ? &s.largest : nullptr;
  });
}

void input_quantizer::forward(int linear, float* x, std::size_t tokens) {
  slot& s = slots_[index_of(linear)];
  if (!s.used) return;
  if (s.d_factor.size() < tokens) s.d_factor.resize(tokens, 0.0);
  s.factor = std::min(std::max(s.factor, 0.0f), 1.0f);
  ar::type_values type(s.bits);
  const bool whole = s.group_size == 0 || s.kernels->two_level();  // something that all rows share
  const float largest = s.fixed ? s.largest : whole ? largest_magnitude(x, tokens * s.cols) : 0.0f;
  if (s.kernels->two_level()) type.tensor.global_scale = s.grid.global_scale = s.kernels->global_scale(largest);
  else if (s.fixed) type.tensor.maximum = largest * s.factor;
  else if (whole) type.tensor.maximum = largest;
  if (!s.fixed && whole) s.largest = largest;
  const int group = s.group_size == 0 ? -1 : s.group_size;
#pragma omp parallel for schedule(static)
  for (std::size_t r = 0; r < tokens; r += rows_at_once) {
    const std::size_t n = std::min(rows_at_once, tokens - r);
    float* const rows = x + r * s.cols;
    // NaN and infinity stay: the loss then shows them.
    static_cast<void>(s.kernels->qdq(type, group, {rows, n, s.cols}, {rows, n, s.cols}));
  }
}

void input_quantizer::backward(int linear, const float* x, float* d, std::size_t first, std::size_t count) {
  slot& s = slots_[index_of(linear)];
  if (!s.used) return;
  const std::size_t group_size = resolve_group_size(s.group_size, s.cols), groups = ar::ceil_div(s.cols, group_size), step = rows_at_once;
  // A scale that all rows share is a constant for them, except for its tuned factor.
  const bool given = !s.kernels->two_level() && (s.fixed || s.group_size == 0);
  std::vector<float> lo(step * groups, -s.largest), hi(step * groups, s.largest), ones(step * groups, 1.0f), factor(step * groups, s.fixed ? s.factor : 1.0f),
      dx(step * s.cols), d_factor(given ? step * groups : 0);
  ar::tune_grid grid = s.grid;
  grid.factor_max = 1.0f;
  for (std::size_t r = 0; r < count; r += step) {
    ar::tune_layer rows;
    rows.rows = std::min(step, count - r);
    rows.cols = s.cols;
    rows.group_size = group_size;
    rows.weight = x + r * s.cols;
    if (!given) static_cast<void>(ar::group_extrema({rows.weight, rows.rows, s.cols}, group_size, lo.data(), hi.data()));
    rows.wmin = lo.data();
    rows.wmax = hi.data();
    rows.min_scale = ones.data();
    rows.max_scale = given ? factor.data() : ones.data();
    float* const to = d + r * s.cols;
    tune_kernels().input_gradient(grid, rows, 0, rows.rows, to, dx.data(), given ? d_factor.data() : nullptr);
    std::copy_n(dx.data(), rows.rows * s.cols, to);
    if (!s.tuned) continue;
    for (std::size_t i = 0; i < rows.rows; ++i)
      for (std::size_t g = 0; g < groups; ++g) s.d_factor[first + r + i] += static_cast<double>(d_factor[i * groups + g]);
  }
}

void input_quantizer::step(float lr) {
  for (slot& s : slots_) {
    if (!s.used || !s.tuned) continue;
    double sum = 0;
    for (const double d : s.d_factor) sum += d;
    const float d = static_cast<float>(sum);
    ar::sign_step(&s.factor, &d, 1, lr);
    std::ranges::fill(s.d_factor, 0.0);
  }
}

void input_quantizer::mark_best() {
  for (slot& s : slots_) s.best_factor = std::min(std::max(s.factor, 0.0f), 1.0f);
}

void input_quantizer::keep_best() {
  for (slot& s : slots_)
    if (s.best_factor >= 0) s.factor = s.best_factor;
}

float input_quantizer::maximum(int linear) const {
  const slot& s = slots_[index_of(linear)];
  if (!needs_maximum(linear)) return -1;
  return s.tuned ? s.largest * std::min(std::max(s.factor, 0.0f), 1.0f) : s.largest;
}

void input_quantizer::restore(int linear, float value) {
  slot& s = slots_[index_of(linear)];
  if (!s.used || !s.fixed || value < 0) return;
  s.largest = value;
  s.factor = 1;
}

}  // namespace auto_round::tune
