#include "tune/initial_scales.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ar/dispatch.hpp"
#include "tune/pieces.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::tune {
namespace {

constexpr std::size_t rows_at_once = 16;  // the unit of work of a thread

result<initial_values> freeze(layer_plan& plan, const float* weight, std::span<const float> importance, bool compat) {
  rounding how;
  how.scale_type = ar::real::f32;
  how.search = true;
  how.importance = importance;
  how.reference = compat;
  auto searched = quantize_layer(weight, plan.name, plan.choice->scheme, plan.rows, plan.cols, how);
  if (!searched) return forward_error(searched);
  plan.grid.family = plan.grid.family == ar::tune_family::superblock_symmetric ? ar::tune_family::fixed_symmetric : ar::tune_family::fixed_asymmetric;
  return initial_values{std::move(searched->scale), std::move(searched->wmin), std::move(searched->d_scale), std::move(searched->d_wmin)};
}

}  // namespace

result<initial_values> search_initial(layer_plan& plan, const float* weight, std::span<const float> importance, bool compat) {
  const ar::tune_family family = plan.grid.family;
  if (family == ar::tune_family::superblock_symmetric || family == ar::tune_family::superblock_asymmetric) return freeze(plan, weight, importance, compat);
  const ar::scheme_fields& s = plan.choice->scheme;
  const ar::range_kernels* k = tuned_kernels(s.data_type, s.bits, s.sym, s.group_rows > 0, ar::real::f32);
  const bool searched = k != nullptr && (family == ar::tune_family::symmetric ||
                                         (k->facts != nullptr && k->facts->search != ar::search_family::none && k->facts->rule != ar::scale_rule::quotient));
  if (!searched) return initial_values{};
  ar::search_options options;
  options.importance = importance.empty() ? nullptr : importance.data();
  options.repair = false;
  options.reference = compat;
  // Scales are not rounded here, but their least magnitude is that of what will be stored.
  options.least_scale = plan.grid.scale_type == ar::real::f32 ? 1e-8f : 1e-5f;
  ar::type_values type(s.bits);
  type.tensor.global_scale = plan.grid.global_scale;
  if (compat && k->two_level()) type.tensor.global_scale = own_global_scale(s, {weight, plan.rows * plan.cols});
  const std::size_t groups = ar::ceil_div(plan.cols, plan.group_size);
  initial_values found;
  found.scale.resize(plan.rows * groups);
  const ar::errc e = for_pieces(plan.rows, rows_at_once, [&](std::size_t first, std::size_t n) {
    ar::group_output out;
    (k->facts == nullptr ? out.scale : out.factor) = {found.scale.data() + first * groups, n, groups};
    return k->search(type, static_cast<int>(plan.group_size), {weight + first * plan.cols, n, plan.cols}, options, out);
  });
  if (e != ar::errc::ok)
    return fail(error_kind::input, std::string("initial scales cannot be searched: ") + ar::message(e), {}, plan.name + ".weight");
  plan.grid.factor_min = 0.0f;
  plan.grid.factor_max = 2.0f;
  return found;
}

}  // namespace auto_round::tune
