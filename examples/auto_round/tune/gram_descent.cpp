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
  float *const *low, *const *high;  // of each column's group, [lanes]
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

/// The scale of the group of columns first .. first + n - 1 goes to its best: along value v the loss changes by 2 a g.v + a^2 v.Hv.
/// image: [cols x lanes], overwritten.
void rescale_impl(const descent_block& b, std::size_t first, std::size_t n, float* factor, float* image) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < descent_lanes; i += lanes) {
    const float* const value = b.value + first * descent_lanes + i;
    for (std::size_t k = 0; k < b.cols; ++k) {
      const float* const h = b.gram + k * b.stride + first;
      auto sum = hn::Zero(d);
      for (std::size_t j = 0; j < n; ++j) sum = hn::MulAdd(hn::Set(d, h[j]), hn::LoadU(d, value + j * descent_lanes), sum);
      hn::StoreU(sum, d, image + k * descent_lanes + i);
    }
    auto slope = hn::Zero(d), curve = hn::Zero(d);
    for (std::size_t j = 0; j < n; ++j) {
      const auto v = hn::LoadU(d, value + j * descent_lanes);
      slope = hn::MulAdd(v, hn::LoadU(d, b.gradient + (first + j) * descent_lanes + i), slope);
      curve = hn::MulAdd(v, hn::LoadU(d, image + (first + j) * descent_lanes + i), curve);
    }
    const auto limit = hn::Set(d, 0.25f);
    const auto by = hn::IfThenElseZero(hn::Gt(curve, hn::Zero(d)), hn::Min(hn::Max(hn::Neg(hn::Div(slope, curve)), hn::Neg(limit)), limit));
    const auto scaled = [&](float* x) { hn::StoreU(hn::MulAdd(by, hn::LoadU(d, x), hn::LoadU(d, x)), d, x); };
    for (std::size_t j = 0; j < n; ++j) {
      float *const v = b.value + (first + j) * descent_lanes + i, *const change = b.change + (first + j) * descent_lanes + i;
      hn::StoreU(hn::MulAdd(by, hn::LoadU(d, v), hn::LoadU(d, change)), d, change);
      scaled(v);
    }
    for (std::size_t k = 0; k < b.cols; ++k) {
      float* const g = b.gradient + k * descent_lanes + i;
      hn::StoreU(hn::MulAdd(by, hn::LoadU(d, image + k * descent_lanes + i), hn::LoadU(d, g)), d, g);
    }
    scaled(b.low[first] + i);
    scaled(b.high[first] + i);
    scaled(factor + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace auto_round::tune
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace auto_round::tune {

HWY_EXPORT(descend_impl);
HWY_EXPORT(rescale_impl);

namespace {

constexpr std::size_t least_columns = 64, most_columns = 256;  // of a block

/// Columns of a block: whole groups, if they are not too large.
std::size_t block_columns(std::size_t group_size) {
  if (group_size > most_columns) return least_columns;
  return std::max<std::size_t>(1, least_columns / group_size) * group_size;
}

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

void gram_descent::run(const ar::tune_grid& grid, const descent_rows& rows, int sweeps, float* value, float* factor) {
  const std::size_t cols = rows.cols, groups = ar::ceil_div(cols, rows.group_size), width = block_columns(rows.group_size);
  const descent_nodes nodes = nodes_of(grid);
  value_.resize(cols * descent_lanes);
  change_.resize(cols * descent_lanes);
  gradient_.resize(width * descent_lanes);
  image_.resize(width * descent_lanes);
  low_.resize(groups * descent_lanes);
  high_.resize(groups * descent_lanes);
  factor_.assign(groups * descent_lanes, 1.0f);
  transpose(value, rows.n, cols, value_.data());
  transpose(rows.weight, rows.n, cols, change_.data());
  for (std::size_t i = 0; i < cols * descent_lanes; ++i) change_[i] = value_[i] - change_[i];
  transpose(rows.low, rows.n, groups, low_.data());
  transpose(rows.high, rows.n, groups, high_.data());

  float *low[most_columns], *high[most_columns];
  for (int sweep = 0; sweep < sweeps; ++sweep)
    for (std::size_t first = 0; first < cols; first += width) {
      const std::size_t n = std::min(width, cols - first);
      const linalg::operand gram{rows.gram + first * cols, n, cols, cols, false}, change{change_.data(), cols, descent_lanes, descent_lanes, false};
      linalg::gemm_nn(gram, change, gradient_.data(), descent_lanes, false, linalg::work::own);
      for (std::size_t c = 0; c < n; ++c) {
        if (rows.cross != nullptr)
          for (std::size_t r = 0; r < rows.n; ++r) gradient_[c * descent_lanes + r] += rows.cross[r * cols + first + c];
        low[c] = low_.data() + (first + c) / rows.group_size * descent_lanes;
        high[c] = high_.data() + (first + c) / rows.group_size * descent_lanes;
      }
      const descent_block block{n, rows.gram + first * cols + first, cols, gradient_.data(), value_.data() + first * descent_lanes,
                                change_.data() + first * descent_lanes, low, high};
      if (factor != nullptr && rows.group_size <= width)
        for (std::size_t c = 0; c + rows.group_size <= n; c += rows.group_size)
          HWY_DYNAMIC_DISPATCH(rescale_impl)(block, c, rows.group_size, factor_.data() + (first + c) / rows.group_size * descent_lanes, image_.data());
      HWY_DYNAMIC_DISPATCH(descend_impl)(nodes, block);
    }
  const auto back = [&](const std::vector<float>& from, std::size_t n, float* to) {
    for (std::size_t c = 0; c < n; ++c)
      for (std::size_t r = 0; r < rows.n; ++r) to[r * n + c] = from[c * descent_lanes + r];
  };
  back(value_, cols, value);
  if (factor != nullptr) back(factor_, groups, factor);
}

}  // namespace auto_round::tune
#endif
