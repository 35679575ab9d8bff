#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tune/gram_descent.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "model/linalg.hpp"
#include "tune/gram_descent.hpp"

#ifndef AR_TUNE_GRAM_DESCENT_TYPES
#define AR_TUNE_GRAM_DESCENT_TYPES
namespace auto_round::tune {

constexpr std::size_t descent_lanes = 64;  // rows side by side; a multiple of every vector's lanes

/// The numbers of a grid between 0 and 1, scaled to what lies between `low` and `high` of a group: whole steps, or a small float over its largest.
struct descent_nodes {
  bool uniform = true;
  float steps = 1;                           // uniform: of the whole grid
  float max = 1, least = 1, per_binade = 1;  // small floats: the largest, the step below the first binade, the step relative to a binade's lowest number
};

/// Columns that are worked on together; rows are the lanes.
struct descent_block {
  std::size_t cols;
  const float* gram;       // [cols x cols], `stride` apart
  std::size_t stride;
  float *gradient, *value, *change;  // [cols x lanes]
  const float *const *low, *const *high;  // of each column's group, [lanes]
};

}  // namespace auto_round::tune
#endif

HWY_BEFORE_NAMESPACE();
namespace auto_round::tune {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V nearest(D d, const descent_nodes& nodes, V wanted, V low, V high) {
  const V zero = hn::Zero(d);
  if (nodes.uniform) {
    const V step = hn::Mul(hn::Sub(high, low), hn::Set(d, 1.0f / nodes.steps));
    const V at = hn::Min(hn::Max(hn::Round(hn::Div(hn::Sub(wanted, low), step)), zero), hn::Set(d, nodes.steps));
    return hn::MulAdd(at, step, low);
  }
  const V unit = hn::Mul(high, hn::Set(d, 1.0f / nodes.max)), x = hn::Min(hn::Abs(hn::Div(wanted, unit)), hn::Set(d, nodes.max));
  const V binade = hn::And(x, hn::BitCast(d, hn::Set(hn::RebindToUnsigned<D>(), 0x7F800000u)));
  const V step = hn::Max(hn::Mul(binade, hn::Set(d, nodes.per_binade)), hn::Set(d, nodes.least));
  return hn::CopySign(hn::Mul(hn::Mul(hn::Round(hn::Div(x, step)), step), unit), wanted);
}

/// One after the other each column goes to its best number, and the gradients of those behind it learn what it did.
void descend_impl(const descent_nodes& nodes, const descent_block& b) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  float moved[descent_lanes];
  for (std::size_t j = 0; j < b.cols; ++j) {
    const float* const h = b.gram + j * b.stride;
    if (!(h[j] > 0.0f)) continue;  // an input that is always zero
    const auto inverse = hn::Set(d, 1.0f / h[j]);
    float *const value = b.value + j * descent_lanes, *const change = b.change + j * descent_lanes;
    const float* const gradient = b.gradient + j * descent_lanes;
    for (std::size_t i = 0; i < descent_lanes; i += lanes) {
      const auto low = hn::LoadU(d, b.low[j] + i), high = hn::LoadU(d, b.high[j] + i), now = hn::LoadU(d, value + i);
      const auto to = nearest(d, nodes, hn::NegMulAdd(hn::LoadU(d, gradient + i), inverse, now), low, high);
      const auto by = hn::IfThenElseZero(hn::Gt(high, low), hn::Sub(to, now));  // else a group of zeros
      hn::StoreU(hn::Add(now, by), d, value + i);
      hn::StoreU(hn::Add(hn::LoadU(d, change + i), by), d, change + i);
      hn::StoreU(by, d, moved + i);
    }
    for (std::size_t k = j + 1; k < b.cols; ++k) {
      const auto f = hn::Set(d, h[k]);
      float* const g = b.gradient + k * descent_lanes;
      for (std::size_t i = 0; i < descent_lanes; i += lanes) hn::StoreU(hn::MulAdd(f, hn::LoadU(d, moved + i), hn::LoadU(d, g + i)), d, g + i);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace auto_round::tune
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace auto_round::tune {

HWY_EXPORT(descend_impl);

namespace {

constexpr std::size_t block_columns = 64;

void transpose(const float* from, std::size_t n, std::size_t cols, float* to) {
  for (std::size_t c = 0; c < cols; ++c) {
    for (std::size_t r = 0; r < n; ++r) to[c * descent_lanes + r] = from[r * cols + c];
    for (std::size_t r = n; r < descent_lanes; ++r) to[c * descent_lanes + r] = 0.0f;
  }
}

descent_nodes nodes_of(const ar::tune_grid& grid) {
  if (grid.family != ar::tune_family::scaled) return {.uniform = true, .steps = static_cast<float>((1 << grid.bits) - 1)};
  const ar::small_grid& g = grid.facts->grid;
  return {.uniform = false, .max = g.max, .least = g.step, .per_binade = g.steps * 0x1p-23f};
}

}  // namespace

void gram_descent::run(const ar::tune_grid& grid, const descent_rows& rows, int sweeps, float* value) {
  const std::size_t cols = rows.cols, groups = ar::ceil_div(cols, rows.group_size);
  const descent_nodes nodes = nodes_of(grid);
  value_.resize(cols * descent_lanes);
  change_.resize(cols * descent_lanes);
  gradient_.resize(block_columns * descent_lanes);
  low_.resize(groups * descent_lanes);
  high_.resize(groups * descent_lanes);
  transpose(value, rows.n, cols, value_.data());
  transpose(rows.weight, rows.n, cols, change_.data());
  for (std::size_t i = 0; i < cols * descent_lanes; ++i) change_[i] = value_[i] - change_[i];
  transpose(rows.low, rows.n, groups, low_.data());
  transpose(rows.high, rows.n, groups, high_.data());

  const float *low[block_columns], *high[block_columns];
  for (int sweep = 0; sweep < sweeps; ++sweep)
    for (std::size_t first = 0; first < cols; first += block_columns) {
      const std::size_t n = std::min(block_columns, cols - first);
      const linalg::operand gram{rows.gram + first * cols, n, cols, cols, false}, change{change_.data(), cols, descent_lanes, descent_lanes, false};
      linalg::gemm_nn(gram, change, gradient_.data(), descent_lanes, false, linalg::work::own);
      for (std::size_t c = 0; c < n; ++c) {
        if (rows.cross != nullptr)
          for (std::size_t r = 0; r < rows.n; ++r) gradient_[c * descent_lanes + r] += rows.cross[r * cols + first + c];
        low[c] = low_.data() + (first + c) / rows.group_size * descent_lanes;
        high[c] = high_.data() + (first + c) / rows.group_size * descent_lanes;
      }
      HWY_DYNAMIC_DISPATCH(descend_impl)(nodes, {n, rows.gram + first * cols + first, cols, gradient_.data(), value_.data() + first * descent_lanes,
                                                 change_.data() + first * descent_lanes, low, high});
    }
  for (std::size_t c = 0; c < cols; ++c)
    for (std::size_t r = 0; r < rows.n; ++r) value[r * cols + c] = value_[c * descent_lanes + r];
}

}  // namespace auto_round::tune
#endif
