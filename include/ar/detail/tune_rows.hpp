// The row loops of tuning: weights, offsets and factors to fake-quantized weights, and back to gradients or straight to updated parameters in
// one pass over memory. Scales and codes are recomputed, not stored. Over a lane type F; rows are independent, so that a caller may split them.
#if defined(AR_DETAIL_TUNE_ROWS_HPP) == defined(HWY_TARGET_TOGGLE)  // once per target, see ar/detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_TUNE_ROWS_HPP
#else
#define AR_DETAIL_TUNE_ROWS_HPP
#endif

#include <cstddef>
#include <cstdint>

#include "ar/detail/rowsum.hpp"
#include "ar/detail/target.hpp"
#include "ar/detail/tune_grid.hpp"
#include "ar/detail/tune_scaled.hpp"
#include "ar/detail/tune_types.hpp"

AR_BEGIN_TARGET

inline constexpr std::size_t tune_batch_groups = 16;

/// The groups first..first+n of a layer, n <= 16, counted through its rows; what they are made from and what their elements need.
template <class Grid>
struct tune_batch {
  float wmin[tune_batch_groups] = {}, wmax[tune_batch_groups] = {};
  float min_scale[tune_batch_groups] = {}, max_scale[tune_batch_groups] = {}, init_scale[tune_batch_groups] = {};
  float init_minimum[tune_batch_groups] = {};
  float value[Grid::values][tune_batch_groups] = {};
  float step[2 * tune_batch_groups] = {};  ///< steps of scale and minimum of each super-block, at twice its first group
  std::size_t first = 0, n = 0;

  AR_FN constexpr tune_batch(const Grid& grid, const tune_grid& g, const tune_layer& layer, std::size_t first_group, std::size_t last_group) noexcept
      : first(first_group), n(last_group - first_group < tune_batch_groups ? last_group - first_group : tune_batch_groups) {
    for (std::size_t i = 0; i < n; ++i) {
      wmin[i] = layer.wmin[first + i];
      wmax[i] = layer.wmax[first + i];
      min_scale[i] = lane_min(lane_max(layer.min_scale[first + i], g.factor_min), g.factor_max);
      max_scale[i] = lane_min(lane_max(layer.max_scale[first + i], g.factor_min), g.factor_max);
      if (layer.init_scale != nullptr) init_scale[i] = layer.init_scale[first + i];
      if (layer.init_minimum != nullptr) init_minimum[i] = layer.init_minimum[first + i];
    }
    if constexpr (Grid::superblocks) {
      const std::size_t groups = static_cast<std::size_t>(g.superblock_groups);
      for (std::size_t b = 0; b < n; b += groups) {
        group_range<float> r[tune_batch_groups] = {};
        for (std::size_t i = 0; i < groups; ++i) r[i] = range(b + i);
        grid.prepare(r, groups, value, b, step + 2 * b);
      }
    }
  }
  AR_FN constexpr group_range<float> range(std::size_t i) const noexcept {
    return {wmin[i], wmax[i], min_scale[i], max_scale[i], init_scale[i], init_minimum[i]};
  }
  template <class F>
  AR_FN constexpr group_range<F> ranges(std::size_t i) const noexcept {
    return {lane_load<F>(wmin + i),      lane_load<F>(wmax + i),       lane_load<F>(min_scale + i),
            lane_load<F>(max_scale + i), lane_load<F>(init_scale + i), lane_load<F>(init_minimum + i)};
  }
  /// For grids without super-blocks: the values of all groups, lanes across groups.
  template <class F>
  AR_FN constexpr void prepare(const Grid& grid, bool with_init) noexcept {
    for (std::size_t i = 0; i < n; i += static_cast<std::size_t>(lane_count<F>)) {
      F out[Grid::values];
      grid.prepare(ranges<F>(i), with_init, out);
      for (std::size_t k = 0; k < Grid::values; ++k) lane_store(out[k], value[k] + i);
    }
  }
  template <class F>
  AR_FN constexpr void broadcast(std::size_t i, F* out) const noexcept {
    for (std::size_t k = 0; k < Grid::values; ++k) out[k] = lane_set<F>(value[k][i]);
  }
};

/// Where a group lies: its first element in row-major order, and how many of its values exist.
struct tune_span {
  std::size_t at, n;
  AR_FN constexpr tune_span(const tune_layer& layer, std::size_t group) noexcept {
    const std::size_t row = group / layer.groups(), col = group % layer.groups() * layer.group_size;
    at = row * layer.cols + col;
    n = layer.cols - col < layer.group_size ? layer.cols - col : layer.group_size;
  }
};

template <class F>
AR_FN constexpr void store_weight(F x, float* p) noexcept {
  lane_store(x, p);
}
template <class F>
AR_FN constexpr void store_weight(F x, std::uint16_t* p) noexcept {
  lane_store_bf16(x, p);
}

/// wq[rows x cols] of the rows first_row..last_row, as float or bfloat16 bits (nearest even).
template <class F, class Grid, class Out>
AR_FN constexpr void fake_quantize_rows(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, Out* wq) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  const Grid grid(g);
  const std::size_t end = last_row * layer.groups();
  for (std::size_t first = first_row * layer.groups(); first < end; first += tune_batch_groups) {
    tune_batch<Grid> batch(grid, g, layer, first, end);
    if constexpr (!Grid::superblocks) batch.template prepare<F>(grid, layer.init_scale != nullptr);
    for (std::size_t i = 0; i < batch.n; ++i) {
      const tune_span span(layer, first + i);
      const float *w = layer.weight + span.at, *v = layer.v + span.at;
      Out* out = wq + span.at;
      std::size_t j = 0;
      F value[Grid::values];
      batch.template broadcast<F>(i, value);
      for (; j + lanes <= span.n; j += lanes)
        store_weight(grid.decode(value, grid.code(value, lane_load<F>(w + j), lane_load<F>(v + j))), out + j);
      if constexpr (lanes > 1) {
        if (j == span.n) continue;
        float last[Grid::values];
        batch.template broadcast<float>(i, last);
        for (; j < span.n; ++j) store_weight(grid.decode(last, grid.code(last, w[j], v[j])), out + j);
      }
    }
  }
}

/// The sums of a group's terms in the order of rowsum, collected while the terms are made. Element j of the group belongs to series j % 32.
template <class F, std::size_t Sums>
struct group_sums {
  static constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  static constexpr std::size_t slots = 32 / lanes;
  F acc[Sums][slots];
  float upper[3][Sums][32];  ///< the levels above the first; only rows of 512 values and more reach them

  AR_FN constexpr explicit group_sums(bool long_group) noexcept {
    clear();
    if (long_group)
      for (auto& level : upper)
        for (auto& sum : level)
          for (float& x : sum) x = 0.0f;
  }
  AR_FN constexpr void clear() noexcept {
    for (auto& sum : acc)
      for (F& x : sum) x = lane_set<F>(0.0f);
  }
  /// After `chunks` (a multiple of 16) chunks of 32 values.
  AR_FN constexpr void carry(std::size_t chunks) noexcept {
    for (std::size_t s = 0; s < Sums; ++s) {
      float level[32] = {};
      for (std::size_t k = 0; k < slots; ++k) lane_store(acc[s][k], level + k * lanes);
      for (std::size_t j = 0; j < 3; ++j) {
        for (std::size_t l = 0; l < 32; ++l) {
          upper[j][s][l] += level[l];
          level[l] = upper[j][s][l];
        }
        if ((chunks & (std::size_t{15} << (4 * (j + 1)))) != 0) break;
        if (j == 2) break;
        for (std::size_t l = 0; l < 32; ++l) upper[j][s][l] = 0.0f;
      }
    }
    clear();
  }
  /// Adds the `rest` < 32 terms at the end of a group that is `size` values long with its padding, and stores the sums at out[s][i].
  AR_FN constexpr void finish(const float (*tail)[32], std::size_t rest, std::size_t seen, std::size_t size, bool long_group,
                              float (*out)[tune_batch_groups], std::size_t i) const noexcept {
    const bool inside = seen / 32 < size / 32;  // the values end before the last whole chunk: the row is padded
    for (std::size_t s = 0; s < Sums; ++s) {
      float a[32] = {};
      for (std::size_t k = 0; k < slots; ++k) lane_store(acc[s][k], a + k * lanes);
      if (inside)
        for (std::size_t j = 0; j < rest; ++j) a[j] += tail[s][j];
      if (long_group)
        for (std::size_t l = 0; l < 32; ++l) a[l] = ((a[l] + upper[0][s][l]) + upper[1][s][l]) + upper[2][s][l];
      float t = 0.0f;
      if (!inside) {
        const std::size_t whole = size % 32 / 8 * 8;
        for (std::size_t j = 0; j < rest && j < whole; ++j) a[j % 8] += tail[s][j];
        for (std::size_t j = whole; j < rest; ++j) t += tail[s][j];
      }
      for (std::size_t l = 0; l < 8; ++l) t += ((a[l] + a[8 + l]) + a[16 + l]) + a[24 + l];
      out[s][i] = t;
    }
  }
};

/// Sinks of this kind take the weights for data (activations): v is 0, and they get dL/dw and the gradients of the ranges.
template <class Sink>
inline constexpr bool wants_inputs = requires { Sink::inputs; };

/// The offsets of a group's values from `at` on.
template <class F, class Sink>
AR_FN constexpr F offsets_at(const float* v, std::size_t at) noexcept {
  if constexpr (wants_inputs<Sink>) return lane_set<F>(0.0f);
  else return lane_load<F>(v + at);
}
template <class F, class Grid, class Sink>
AR_FN constexpr void give_element(const Grid& grid, const Sink& sink, const F* value, std::size_t at, F v, F dv) noexcept {
  if constexpr (wants_inputs<Sink>) sink.element(at, v, grid.input_gradient(value, dv));
  else sink.element(at, v, dv);
}

/// Walks the rows first_row..last_row with grad = dL/dwq [rows x cols]: sink.element(at, v, dL/dv) for every lane of values,
/// sink.groups(batch, dL/d factors) for every batch of groups if `Factors`.
template <class F, bool Factors, class Grid, class Sink>
AR_FN constexpr void backward_rows(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad,
                                   const Sink& sink) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  const Grid grid(g);
  const bool with_init = layer.init_scale != nullptr, long_group = layer.group_size >= 512;
  const std::size_t end = last_row * layer.groups();
  for (std::size_t first = first_row * layer.groups(); first < end; first += tune_batch_groups) {
    tune_batch<Grid> batch(grid, g, layer, first, end);
    if constexpr (!Grid::superblocks) batch.template prepare<F>(grid, with_init);
    float sum[Grid::sums][tune_batch_groups] = {};
    for (std::size_t i = 0; i < batch.n; ++i) {
      const tune_span span(layer, first + i);
      const float *w = layer.weight + span.at, *dq = grad + span.at;
      const float* const v = wants_inputs<Sink> ? nullptr : layer.v + span.at;
      F value[Grid::values];
      batch.template broadcast<F>(i, value);
      std::size_t j = 0;
      if constexpr (Factors) {
        group_sums<F, Grid::sums> sums(long_group);
        for (; j + 32 <= span.n; j += 32) {
          for (std::size_t k = 0; k < 32 / lanes; ++k) {
            const std::size_t at = j + k * lanes;
            F term[Grid::sums];
            const F old = offsets_at<F, Sink>(v, at);
            const F dv = grid.template gradient<true>(value, lane_load<F>(w + at), old, lane_load<F>(dq + at), term);
            give_element(grid, sink, value, span.at + at, old, dv);
            for (std::size_t s = 0; s < Grid::sums; ++s) sums.acc[s][k] = sums.acc[s][k] + term[s];
          }
          if (long_group && (j / 32 + 1) % 16 == 0) sums.carry(j / 32 + 1);
        }
        const std::size_t seen = j;
        float tail[Grid::sums][32] = {};
        for (; j + lanes <= span.n; j += lanes) {
          F term[Grid::sums];
          const F old = offsets_at<F, Sink>(v, j);
          const F dv = grid.template gradient<true>(value, lane_load<F>(w + j), old, lane_load<F>(dq + j), term);
          give_element(grid, sink, value, span.at + j, old, dv);
          for (std::size_t s = 0; s < Grid::sums; ++s) lane_store(term[s], tail[s] + (j - seen));
        }
        if constexpr (lanes > 1) {
          float last[Grid::values];
          batch.template broadcast<float>(i, last);
          for (; j < span.n; ++j) {
            float term[Grid::sums] = {};
            const float old = offsets_at<float, Sink>(v, j);
            const float dv = grid.template gradient<true>(last, w[j], old, dq[j], term);
            give_element(grid, sink, last, span.at + j, old, dv);
            for (std::size_t s = 0; s < Grid::sums; ++s) tail[s][j - seen] = term[s];
          }
        }
        if (layer.group_size >= 8) {
          sums.finish(tail, span.n - seen, seen, layer.group_size, long_group, sum, i);
        } else {
          for (std::size_t s = 0; s < Grid::sums; ++s) sum[s][i] = detail::rowsum(tail[s], layer.group_size);
        }
      } else {
        for (; j + lanes <= span.n; j += lanes) {
          const F old = lane_load<F>(v + j);
          sink.element(span.at + j, old, grid.template gradient<false>(value, lane_load<F>(w + j), old, lane_load<F>(dq + j), static_cast<F*>(nullptr)));
        }
        if constexpr (lanes > 1) {
          if (j == span.n) continue;
          float last[Grid::values];
          batch.template broadcast<float>(i, last);
          for (; j < span.n; ++j)
            sink.element(span.at + j, v[j], grid.template gradient<false>(last, w[j], v[j], dq[j], static_cast<float*>(nullptr)));
        }
      }
    }
    if constexpr (Factors) {
      float d_min[tune_batch_groups] = {}, d_max[tune_batch_groups] = {};
      if constexpr (Grid::superblocks) {
        const std::size_t groups = static_cast<std::size_t>(g.superblock_groups);
        for (std::size_t b = 0; b < batch.n; b += groups) {
          group_range<float> r[tune_batch_groups] = {};
          for (std::size_t i = 0; i < groups; ++i) r[i] = batch.range(b + i);
          factor_gradient<float> d[tune_batch_groups] = {};
          grid.finish(r, groups, batch.value, sum, b, d);
          for (std::size_t i = 0; i < groups; ++i) {
            d_min[b + i] = d[i].min_scale;
            d_max[b + i] = d[i].max_scale;
          }
        }
      } else {
        for (std::size_t i = 0; i < batch.n; i += lanes) {
          F value[Grid::values], total[Grid::sums];
          for (std::size_t k = 0; k < Grid::values; ++k) value[k] = lane_load<F>(batch.value[k] + i);
          for (std::size_t k = 0; k < Grid::sums; ++k) total[k] = lane_load<F>(sum[k] + i);
          const group_range<F> range = batch.template ranges<F>(i);
          const range_gradient<F> through = grid.through_range(range, with_init, value, total);
          if constexpr (wants_inputs<Sink>) {
            lane_store(through.low, d_min + i);
            lane_store(through.high, d_max + i);
          } else {
            const factor_gradient<F> d = grid.through_factors(range, with_init, through);
            lane_store(d.min_scale, d_min + i);
            lane_store(d.max_scale, d_max + i);
          }
        }
      }
      sink.groups(batch.first, batch.n, batch.min_scale, batch.max_scale, d_min, d_max);
    }
  }
}

/// Moves a parameter by `rate` against the sign of its gradient; zero and NaN do not move it.
template <class F>
AR_FN constexpr F sign_stepped(F parameter, F gradient, float rate) noexcept {
  const F zero = lane_set<F>(0.0f), up = lane_set<F>(rate), down = lane_set<F>(-rate);
  return parameter - lane_select(lane_gt(gradient, zero), up, lane_select(lane_lt(gradient, zero), down, zero));
}

/// Stores gradients, or adds them to what is there.
struct gradient_sink {
  tune_parameters out;
  bool accumulate;
  template <class F>
  AR_FN constexpr void element(std::size_t at, F, F dv) const noexcept {
    lane_store(accumulate ? lane_load<F>(out.v + at) + dv : dv, out.v + at);
  }
  AR_FN constexpr void groups(std::size_t first, std::size_t n, const float*, const float*, const float* d_min, const float* d_max) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      out.min_scale[first + i] = accumulate ? out.min_scale[first + i] + d_min[i] : d_min[i];
      out.max_scale[first + i] = accumulate ? out.max_scale[first + i] + d_max[i] : d_max[i];
    }
  }
};

/// Steps the parameters by the signs of their gradients.
struct step_sink {
  tune_parameters out;
  float lr, minmax_lr;
  template <class F>
  AR_FN constexpr void element(std::size_t at, F v, F dv) const noexcept {
    lane_store(sign_stepped(v, dv, lr), out.v + at);
  }
  AR_FN constexpr void groups(std::size_t first, std::size_t n, const float* min_scale, const float* max_scale, const float* d_min,
                              const float* d_max) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      out.min_scale[first + i] = sign_stepped(min_scale[i], d_min[i], minmax_lr);
      out.max_scale[first + i] = sign_stepped(max_scale[i], d_max[i], minmax_lr);
    }
  }
};

/// Gradients of quantized data. Where a group's range comes from the data, its first extreme values get the range's part; NaN counts as none.
struct input_sink {
  static constexpr bool inputs = true;
  const tune_layer& layer;
  float* dx;
  float* d_max_scale;
  bool magnitudes;  ///< the range is the largest magnitude alone

  template <class F>
  AR_FN constexpr void element(std::size_t at, F, F dw) const noexcept {
    lane_store(dw, dx + at);
  }
  AR_FN constexpr void groups(std::size_t first, std::size_t n, const float*, const float*, const float* low, const float* high) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      if (d_max_scale != nullptr) {
        d_max_scale[first + i] = high[i] * lane_max(layer.wmax[first + i], magnitudes ? -layer.wmin[first + i] : 0.0f);
        continue;
      }
      const tune_span span(layer, first + i);
      const float* const x = layer.weight + span.at;
      std::size_t least = 0, most = 0;
      for (std::size_t j = 1; j < span.n; ++j) {
        if (magnitudes ? lane_abs(x[j]) > lane_abs(x[most]) : x[j] > x[most]) most = j;
        if (x[j] < x[least]) least = j;
      }
      if ((magnitudes ? x[most] != 0.0f : x[most] > 0.0f) && high[i] == high[i]) dx[span.at + most] += x[most] < 0.0f ? -high[i] : high[i];
      if (!magnitudes && x[least] < 0.0f && low[i] == low[i]) dx[span.at + least] += low[i];
    }
  }
};

/// Codes, dequantized weights and what is stored of each group.
template <class F, class Grid>
AR_FN constexpr void quantize_rows(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                   const tune_output& out) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<F>);
  const Grid grid(g);
  const std::size_t end = last_row * layer.groups(), superblock = static_cast<std::size_t>(g.superblock_groups);
  for (std::size_t first = first_row * layer.groups(); first < end; first += tune_batch_groups) {
    tune_batch<Grid> batch(grid, g, layer, first, end);
    if constexpr (!Grid::superblocks) batch.template prepare<F>(grid, layer.init_scale != nullptr);
    for (std::size_t i = 0; i < batch.n; ++i) {
      const tune_span span(layer, first + i);
      if (out.scale != nullptr) out.scale[first + i] = batch.value[Grid::scale][i];
      if constexpr (Grid::zero_point >= 0)
        if (out.zero_point != nullptr) out.zero_point[first + i] = batch.value[Grid::zero_point][i];
      if constexpr (Grid::minimum >= 0)
        if (out.minimum != nullptr) out.minimum[first + i] = batch.value[Grid::minimum][i];
      if constexpr (Grid::superblocks) {
        if (i % superblock == 0 && out.d_scale != nullptr) out.d_scale[(first + i) / superblock] = batch.step[2 * i];
        if (i % superblock == 0 && out.d_minimum != nullptr) out.d_minimum[(first + i) / superblock] = batch.step[2 * i + 1];
      }
      std::size_t j = 0;
      F value[Grid::values];
      batch.template broadcast<F>(i, value);
      for (; j + lanes <= span.n; j += lanes) {
        const F q = grid.code(value, lane_load<F>(layer.weight + span.at + j), lane_load<F>(layer.v + span.at + j));
        if (out.code != nullptr) lane_store_code(grid.stored(q), out.code + span.at + j);
        if (out.weight != nullptr) lane_store(grid.decode(value, q), out.weight + span.at + j);
      }
      if constexpr (lanes == 1) continue;
      float last[Grid::values];
      batch.template broadcast<float>(i, last);
      for (; j < span.n; ++j) {
        const float q = grid.code(last, layer.weight[span.at + j], layer.v[span.at + j]);
        if (out.code != nullptr) lane_store_code(grid.stored(q), out.code + span.at + j);
        if (out.weight != nullptr) lane_store(grid.decode(last, q), out.weight + span.at + j);
      }
    }
  }
}

// The same loops for a family that is known at run time only.
template <class F>
struct tune_loops {
  template <class Out>
  struct fake_quantize_op {
    const tune_grid& g;
    const tune_layer& layer;
    std::size_t first_row, last_row;
    Out* wq;
    template <class Grid>
    AR_FN constexpr void run() const noexcept {
      fake_quantize_rows<F, Grid>(g, layer, first_row, last_row, wq);
    }
  };
  template <class Sink>
  struct backward_op {
    const tune_grid& g;
    const tune_layer& layer;
    std::size_t first_row, last_row;
    const float* grad;
    bool factors;
    Sink sink;
    template <class Grid>
    AR_FN constexpr void run() const noexcept {
      if (factors) {
        backward_rows<F, true, Grid>(g, layer, first_row, last_row, grad, sink);
      } else {
        backward_rows<F, false, Grid>(g, layer, first_row, last_row, grad, sink);
      }
    }
  };
  struct input_op {
    const tune_grid& g;
    const tune_layer& layer;
    std::size_t first_row, last_row;
    const float* grad;
    input_sink sink;
    template <class Grid>
    AR_FN constexpr void run() const noexcept {
      if constexpr (!Grid::superblocks) backward_rows<F, true, Grid>(g, layer, first_row, last_row, grad, sink);
    }
  };
  struct quantize_op {
    const tune_grid& g;
    const tune_layer& layer;
    std::size_t first_row, last_row;
    const tune_output& out;
    template <class Grid>
    AR_FN constexpr void run() const noexcept {
      quantize_rows<F, Grid>(g, layer, first_row, last_row, out);
    }
  };
  template <class Op>
  AR_FN static constexpr void for_family(tune_family family, const Op& op) noexcept {
    switch (family) {
      case tune_family::symmetric: return op.template run<tuned_symmetric>();
      case tune_family::asymmetric: return op.template run<tuned_asymmetric>();
      case tune_family::superblock_asymmetric: return op.template run<tuned_superblock_asymmetric>();
      case tune_family::superblock_symmetric: return op.template run<tuned_superblock_symmetric>();
      case tune_family::scaled: return op.template run<tuned_scaled>();
      case tune_family::fixed_asymmetric:
      case tune_family::fixed_symmetric: return op.template run<tuned_fixed>();
    }
  }

  AR_FN static constexpr void fake_quantize(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                            float* wq) noexcept {
    for_family(g.family, fake_quantize_op<float>{g, layer, first_row, last_row, wq});
  }
  AR_FN static constexpr void fake_quantize_bf16(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                                 std::uint16_t* wq) noexcept {
    for_family(g.family, fake_quantize_op<std::uint16_t>{g, layer, first_row, last_row, wq});
  }
  AR_FN static constexpr void gradient(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad,
                                       bool factors, bool accumulate, const tune_parameters& out) noexcept {
    for_family(g.family, backward_op<gradient_sink>{g, layer, first_row, last_row, grad, factors, {out, accumulate}});
  }
  AR_FN static constexpr void step(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad,
                                   bool factors, float lr, float minmax_lr, const tune_parameters& out) noexcept {
    for_family(g.family, backward_op<step_sink>{g, layer, first_row, last_row, grad, factors, {out, lr, minmax_lr}});
  }
  AR_FN static constexpr void quantize(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row,
                                       const tune_output& out) noexcept {
    for_family(g.family, quantize_op{g, layer, first_row, last_row, out});
  }
  AR_FN static constexpr void input_gradient(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad,
                                             float* dx, float* d_max_scale) noexcept {
    for_family(g.family, input_op{g, layer, first_row, last_row, grad, {layer, dx, d_max_scale, g.family == tune_family::scaled}});
  }
  static constexpr tune_kernels table() noexcept {
    return {&fake_quantize, &fake_quantize_bf16, &gradient, &step, &quantize, &input_gradient};
  }
};

AR_END_TARGET

#endif
