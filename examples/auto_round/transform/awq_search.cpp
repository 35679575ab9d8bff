#include "transform/awq_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "ar/dispatch.hpp"
#include "ar/resolve.hpp"
#include "model/linalg.hpp"
#include "tune/pieces.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::transform {
namespace {

using ar::matrix_view;
using std::size_t;

constexpr size_t rows_at_once = 32;  // the unit of work of a thread

/// f(first row, rows) -> errc in parallel.
template <class F>
ar::errc for_rows(size_t rows, const F& f) {
  return tune::for_pieces(rows, rows_at_once, f);
}

template <class T>
matrix_view<T> rows_of(matrix_view<T> m, size_t first, size_t n) {
  return {m.row(first), n, m.cols, m.stride};
}

result<void> explain(ar::errc e) {
  if (e == ar::errc::ok) return {};
  if (e == ar::errc::non_finite) return fail(error_kind::input, "AWQ meets NaN or infinity; the weights or the activations of the model are damaged");
  return fail(error_kind::unsupported, std::string("AWQ cannot quantize a layer by its scheme: ") + ar::message(e));
}

}  // namespace

result<fake_quantizer> make_fake_quantizer(const ar::scheme_fields& s, search_quantizer how) {
  ar::quantizer_choice choice;
  const bool searching = how == search_quantizer::opt_rtn || (how == search_quantizer::init_scale && s.sym);
  const ar::quantizer_request wanted{.data_type = s.data_type, .bits = s.bits, .sym = s.sym, .tiles = s.group_rows > 0, .search = searching};
  if (ar::resolve_quantizer(wanted, choice) != ar::errc::ok || choice.data_type.empty())
    return fail(error_kind::unsupported, "AWQ has no quantizer for data type " + std::string(s.data_type) + " with " + std::to_string(s.bits) + " bits");

  const ar::kernel_table& kernels = ar::kernels();
  if (const ar::gguf_kernels* g = kernels.gguf_type(choice.data_type); g != nullptr && g->search != nullptr) {
    const bool weighted = how != search_quantizer::rtn && g->superblock;
    return fake_quantizer([g, weighted](matrix_view<const float> w, std::span<const float> importance, matrix_view<float> out) {
      if (!weighted) importance = {};
      return explain(for_rows(w.rows, [&](size_t first, size_t n) {
        if (w.cols % g->block_elements != 0) return ar::errc::bad_shape;
        const size_t groups = w.cols / g->group_size, blocks = g->superblock ? w.cols / g->block_elements : 0;
        std::vector<float> scale(n * groups), offset(g->asymmetric ? n * groups : 0), d(n * blocks), d_offset(g->asymmetric ? n * blocks : 0);
        const auto data = [](std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
        const ar::gguf_parameters<float> p{data(scale), data(offset), data(d), data(d_offset)};
        if (const ar::errc e = g->search(rows_of(w, first, n), importance, {}, {.magnitude = true}, p); e != ar::errc::ok) return e;
        return g->qdq(rows_of(w, first, n), {}, {}, {p.scale, p.offset, p.d_scale, p.d_offset}, rows_of(out, first, n));
      }));
    });
  }

  // The reference's scales: half precision, but what OPT-RTN finds stays as it is.
  const ar::real scale_type = choice.search && how == search_quantizer::opt_rtn ? ar::real::f32 : ar::real::f16;
  const ar::range_kernels* const k = kernels.range_type(choice.data_type, ar::real::f32, scale_type);
  if (k == nullptr) return fail(error_kind::unsupported, "AWQ has no quantizer for data type " + std::string(choice.data_type));
  ar::search_options search;
  search.repair = how == search_quantizer::opt_rtn;
  if (k->facts == nullptr) search.least_scale = 1e-5f;
  const bool by_search = choice.search;
  const int bits = s.bits;
  const ar::group_shape group = s.group_rows > 0 ? ar::group_shape{s.group_size, s.group_rows} : ar::group_shape{s.group_size};
  const bool whole = s.group_rows > 0 || s.group_size == 0;
  return fake_quantizer([k, search, by_search, bits, group, whole](matrix_view<const float> w, std::span<const float> importance, matrix_view<float> out) {
    ar::search_options options = search;
    options.importance = importance.empty() ? nullptr : importance.data();
    ar::type_values type(bits);
    if (k->two_level()) {
      float largest = 0;
      if (const ar::errc e = ar::kernels().calibrate.add_maxima(0, w, true, {&largest, 1, 1}); e != ar::errc::ok) return explain(e);
      type.tensor.maximum = largest;
    }
    const auto rows = [&](size_t first, size_t n) {
      if (!by_search) return k->qdq(type, group, rows_of(w, first, n), rows_of(out, first, n));
      ar::group_output to;
      to.weight = rows_of(out, first, n);
      return k->search(type, group, rows_of(w, first, n), options, to);
    };
    return explain(whole ? rows(0, w.rows) : for_rows(w.rows, rows));
  });
}

result<std::vector<float>> weight_statistic(std::span<const balance_layer> layers, int group_size) {
  const size_t cols = layers.empty() ? 0 : layers.front().weight.cols, groups = cols == 0 ? 0 : ar::ceil_div(cols, tune::resolve_group_size(group_size, cols));
  const int group = group_size > 0 ? group_size : -1;
  std::vector<std::vector<float>> maxima(layers.size());
  std::vector<ar::awq::stacked_weight> stack(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const matrix_view<const float> w = layers[i].weight;
    maxima[i].resize(w.rows * groups);
    const ar::errc e = for_rows(w.rows, [&](size_t first, size_t n) {
      return ar::kernels().calibrate.add_maxima(group, rows_of(w, first, n), true, {maxima[i].data() + first * groups, n, groups});
    });
    if (auto r = explain(e); !r) return forward_error(r);
    stack[i] = {w, {maxima[i].data(), w.rows, groups}};
  }
  std::vector<float> mean(cols);
  if (auto r = explain(ar::awq::weight_mean(stack, group, mean.data())); !r) return forward_error(r);
  return mean;
}

std::vector<float> tie_mean(const std::vector<float>& x_mean, const tied_columns& tie) {
  if (tie.tied == 1) return x_mean;
  std::vector<float> sum(x_mean.size() / tie.tied, 0.0f);
  for (size_t c = 0; c < x_mean.size(); ++c) sum[tie.factor_of(c)] += x_mean[c];
  for (float& s : sum) s /= static_cast<float>(tie.tied);
  return sum;
}

std::vector<float> tie_largest(const std::vector<float>& w_mean, const tied_columns& tie) {
  if (tie.tied == 1) return w_mean;
  std::vector<float> largest(w_mean.size() / tie.tied, 0.0f);
  for (size_t c = 0; c < w_mean.size(); ++c) largest[tie.factor_of(c)] = std::max(largest[tie.factor_of(c)], w_mean[c]);
  return largest;
}

std::vector<float> spread(const std::vector<float>& factors, size_t columns, const tied_columns& tie) {
  std::vector<float> s(columns);
  for (size_t c = 0; c < columns; ++c) s[c] = factors[tie.factor_of(c)];
  return s;
}

result<void> candidate_weights(std::span<const balance_layer> layers, std::span<const float> s, std::vector<std::vector<float>>& out) {
  out.resize(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    const matrix_view<const float> w = layers[l].weight;
    if (s.size() != w.cols) return fail(error_kind::internal, "AWQ has another number of factors than columns");
    out[l].resize(w.size());
    const matrix_view<float> to(out[l].data(), w.rows, w.cols);
    ar::errc e = for_rows(w.rows, [&](size_t first, size_t n) {
      return ar::awq::scale_columns(rows_of(w, first, n), s.data(), ar::real::f32, rows_of(to, first, n));
    });
    if (auto r = explain(e); !r) return r;
    std::vector<float> importance(layers[l].importance.begin(), layers[l].importance.end());  // the columns will read what is divided by s
    for (size_t c = 0; c < importance.size(); ++c) importance[c] /= s[c] * s[c];
    if (auto r = (*layers[l].quantizer)(to, importance, to); !r) return r;
    e = for_rows(w.rows, [&](size_t first, size_t n) {
      return ar::awq::unscale_columns(rows_of(matrix_view<const float>(to), first, n), s.data(), layers[l].format, rows_of(to, first, n));
    });
    if (auto r = explain(e); !r) return r;
  }
  return {};
}

result<std::optional<factor_choice>> search_factors(std::span<const balance_layer> layers, const std::vector<float>& x_mean, const std::vector<float>& w_mean,
                                                    const tied_columns& tie, ar::awq::duo_scaling duo, int n_grid, const output_error& measure) {
  std::optional<factor_choice> best;
  std::vector<double> losses;
  std::vector<std::vector<float>> weights(layers.size());
  std::vector<float> factors(x_mean.size());
  for (size_t i = 0; i < ar::awq::grid_size(duo, n_grid); ++i) {
    const ar::awq::candidate point = ar::awq::grid_point(duo, n_grid, i);
    ar::awq::factors(point, x_mean.data(), w_mean.empty() ? nullptr : w_mean.data(), factors.size(), factors.data());
    const size_t cols = layers.empty() ? 0 : layers.front().weight.cols;
    const std::vector<float> s = spread(factors, cols, tie);
    if (auto r = candidate_weights(layers, s, weights); !r) return forward_error(r);
    const auto loss = measure(weights, s);
    if (!loss) return forward_error(loss);
    losses.push_back(*loss);
    if (!std::isfinite(*loss) || (best && !(*loss < best->loss))) continue;
    best = factor_choice{factors, point, i, *loss, {}};
  }
  if (best) best->losses = std::move(losses);
  return best;
}

result<std::vector<std::uint16_t>> search_clips(matrix_view<const float> w, int group_size, matrix_view<const float> x, const fake_quantizer& quantizer,
                                                const clip_options& o) {
  const size_t size = tune::resolve_group_size(group_size, w.cols), groups = ar::ceil_div(w.cols, size), cells = w.rows * groups;
  const int group = group_size > 0 ? group_size : -1;
  std::vector<float> lo(cells), hi(cells);
  const matrix_view<float> lows(lo.data(), w.rows, groups), highs(hi.data(), w.rows, groups);
  if (auto r = explain(ar::awq::clip_range(w, group, o.symmetric, lows, highs)); !r) return forward_error(r);
  std::vector<double> best(cells, o.reference ? 1e9 : std::numeric_limits<double>::infinity());
  std::vector<std::uint16_t> step(cells, 0);
  std::vector<float> change(w.size());
  const matrix_view<float> q(change.data(), w.rows, w.cols);
  for (size_t i = 0; i < ar::awq::clip_steps(o.n_grid, o.max_shrink); ++i) {
    if (auto r = explain(ar::awq::clip(w, group, lows, highs, ar::awq::clip_factor(o.n_grid, i), ar::real::f32, q)); !r) return forward_error(r);
    if (auto r = quantizer(q, {}, q); !r) return forward_error(r);
    for_rows(w.rows, [&](size_t first, size_t n) {
      std::vector<float> output(x.rows * n);
      for (size_t r = first; r < first + n; ++r)
        for (size_t c = 0; c < w.cols; ++c) q(r, c) -= w(r, c);
      for (size_t g = 0; g < groups; ++g) {
        const size_t at = g * size, width = std::min(size, w.cols - at);
        linalg::gemm_nt({x.data + at, x.rows, width, x.stride, false}, {q.row(first) + at, n, width, q.stride, false}, output.data(), n, false,
                        linalg::work::own);
        for (size_t r = 0; r < n; ++r) {
          double sum = 0;
          for (size_t t = 0; t < x.rows; ++t) sum += static_cast<double>(output[t * n + r]) * static_cast<double>(output[t * n + r]);
          const double error = sum / static_cast<double>(x.rows);
          const size_t cell = (first + r) * groups + g;
          if (!(error < best[cell])) continue;
          best[cell] = error;
          step[cell] = static_cast<std::uint16_t>(i);
        }
      }
      return ar::errc::ok;
    });
  }
  return step;
}

result<void> apply_clips(matrix_view<float> w, int group_size, std::span<const std::uint16_t> step, const clip_options& o, ar::real format, std::vector<float>* lo,
                         std::vector<float>* hi) {
  const size_t groups = ar::ceil_div(w.cols, tune::resolve_group_size(group_size, w.cols)), cells = w.rows * groups;
  const int group = group_size > 0 ? group_size : -1;
  std::vector<float> low(cells), high(cells);
  const matrix_view<float> lows(low.data(), w.rows, groups), highs(high.data(), w.rows, groups);
  if (auto r = explain(ar::awq::clip_range(w, group, o.symmetric, lows, highs)); !r) return r;
  for (size_t i = 0; i < cells; ++i) {
    const float f = ar::awq::clip_factor(o.n_grid, step[i]);
    low[i] *= f;
    high[i] *= f;
  }
  if (auto r = explain(ar::awq::clip(w, group, lows, highs, 1.0f, format, w)); !r) return r;
  if (lo != nullptr) *lo = std::move(low);
  if (hi != nullptr) *hi = std::move(high);
  return {};
}

}  // namespace auto_round::transform
