#include "tune/tuned_layer.hpp"

#include <algorithm>
#include <utility>

#include "ar/awq.hpp"
#include "ar/dispatch.hpp"
#include "ar/tune.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::tune {

const ar::tune_kernels& tune_kernels() {
  static const ar::tune_kernels& table = ar::kernels().tune;
  return table;
}

std::optional<ar::tune_grid> grid_of(const ar::scheme_fields& scheme, ar::real scale_type) {
  const bool superblock = scheme.super_bits.has_value() && scheme.super_group_size.has_value();
  if (scheme.bits < 1 || scheme.bits > 8) return std::nullopt;
  const bool minimum_of_a_block = !superblock && !scheme.sym && scheme.data_type == "int_asym_float_zp";  // Q4_1, Q5_1
  if (!minimum_of_a_block && scheme.data_type != (superblock ? (scheme.sym ? "int_sym_dq" : "int_asym_dq") : "int")) {
    const ar::range_kernels* k = tuned_kernels(scheme.data_type, scheme.bits, scheme.sym, scheme.group_rows > 0);
    if (k == nullptr || k->facts == nullptr) return std::nullopt;
    return ar::scaled_grid(*k->facts, k->two_level() ? 0.0f : -1.0f);  // the global scale follows from the weights
  }
  if (scheme.group_rows != 0 || scheme.group_size == 0) return std::nullopt;
  ar::tune_grid grid;
  grid.bits = scheme.bits;
  grid.scale_type = scale_type;
  if (superblock) {
    grid.family = scheme.sym ? ar::tune_family::superblock_symmetric : ar::tune_family::superblock_asymmetric;
    grid.super_bits = *scheme.super_bits;
    grid.superblock_groups = *scheme.super_group_size;
    grid.scale_type = ar::real::f32;
  } else {
    grid.family = scheme.sym ? ar::tune_family::symmetric : ar::tune_family::asymmetric;
  }
  return grid;
}

std::size_t resolve_group_size(int group_size, std::size_t cols) {
  return group_size <= 0 || static_cast<std::size_t>(group_size) > cols ? cols : static_cast<std::size_t>(group_size);
}

void find_ranges(ar::matrix_view<const float> w, std::size_t group_size, const range_start& start, std::size_t first_row, float* wmin, float* wmax) {
  static_cast<void>(ar::group_extrema(w, group_size, wmin, wmax));  // the group size is positive
  if (start.step == nullptr) return;
  const std::size_t groups = ar::ceil_div(w.cols, group_size);
  for (std::size_t i = 0; i < w.rows * groups; ++i) {
    const float f = ar::awq::clip_factor(start.n, (*start.step)[first_row * groups + i]), magnitude = std::max(-wmin[i], wmax[i]);
    wmax[i] = std::min(wmax[i], (start.symmetric ? magnitude : wmax[i]) * f);
    wmin[i] = std::max(wmin[i], (start.symmetric ? -magnitude : wmin[i]) * f);
  }
}

std::size_t rows_of_a_group(const ar::scheme_fields& scheme, std::size_t rows) {
  return scheme.group_size == 0 ? rows : static_cast<std::size_t>(std::max(1, scheme.group_rows));
}

tuned_layer::tuned_layer(std::string name, const ar::scheme_fields& scheme, const ar::tune_grid& grid, const float* weight, std::size_t rows,
                         std::size_t cols, storage keep, const range_start& start, initial_values initial)
    : name_(std::move(name)),
      scheme_(scheme),
      grid_(grid),
      weight_(weight),
      rows_(rows),
      cols_(cols),
      group_size_(resolve_group_size(scheme.group_size, cols)),
      groups_(ar::ceil_div(cols, group_size_)),
      band_(rows_of_a_group(scheme, rows)),
      wmin_(rows * groups_),
      wmax_(rows * groups_),
      initial_(std::move(initial)) {
  find_ranges({weight_, rows_, cols_}, group_size_, start, 0, wmin_.data(), wmax_.data());
  if (band_ > 1) {
    share_among_rows(wmin_, [](float a, float b) { return std::min(a, b); });
    share_among_rows(wmax_, [](float a, float b) { return std::max(a, b); });
  }
  const auto allocate = [this](parameters& p, float factor) {
    p.v.assign(rows_ * cols_, 0.0f);
    p.min_scale.assign(rows_ * groups_, factor);
    p.max_scale.assign(rows_ * groups_, factor);
  };
  adam_ = keep.adam;
  allocate(sets_[0], 1.0f);
  if (keep.best) allocate(sets_[1], 1.0f);
  if (keep.gradient || keep.momentum || keep.adam || band_ > 1) allocate(gradient_, 0.0f);
  if (keep.momentum || keep.adam) allocate(momentum_, 0.0f);
  if (keep.adam) allocate(square_, 0.0f);
}

template <class F>
void tuned_layer::share_among_rows(std::vector<float>& x, const F& combine) const {
  for (std::size_t first = 0; first < rows_; first += band_) {
    const std::size_t last = std::min(rows_, first + band_);
    for (std::size_t g = 0; g < groups_; ++g) {
      float all = x[first * groups_ + g];
      for (std::size_t r = first + 1; r < last; ++r) all = combine(all, x[r * groups_ + g]);
      for (std::size_t r = first; r < last; ++r) x[r * groups_ + g] = all;
    }
  }
}

ar::tune_layer tuned_layer::view(int set) const {
  const parameters& p = sets_[set];
  const auto given = [](const std::vector<float>& x) { return x.empty() ? nullptr : x.data(); };
  return {rows_,           cols_,           group_size_, weight_, wmin_.data(), wmax_.data(), p.v.data(), p.min_scale.data(), p.max_scale.data(),
          given(initial_.scale), given(initial_.minimum)};
}

void tuned_layer::fake_quantize(std::size_t first_row, std::size_t last_row, float* wq) const {
  tune_kernels().fake_quantize(grid_, view(current_), first_row, last_row, wq);
}
void tuned_layer::fake_quantize(std::size_t first_row, std::size_t last_row, std::uint16_t* wq) const {
  tune_kernels().fake_quantize_bf16(grid_, view(current_), first_row, last_row, wq);
}

void tuned_layer::begin_step() { target_ = current_ == best_ && !sets_[1].v.empty() ? 1 - current_ : current_; }

void tuned_layer::end_step(const step_options& o) {
  if (band_ > 1) {
    for (std::vector<float>* d : {&gradient_.min_scale, &gradient_.max_scale}) share_among_rows(*d, [](float a, float b) { return a + b; });
    move_factors(0, rows_, o);
  }
  current_ = target_;
  ++steps_;
}

void tuned_layer::step(std::size_t first_row, std::size_t last_row, const float* grad, const step_options& o) {
  if (!gradient_.v.empty()) {
    accumulate(first_row, last_row, grad, true, o.factors);
    step_stored(first_row, last_row, o);
    return;
  }
  parameters& to = sets_[target_];
  const bool factors = o.factors && tunes_factors();
  tune_kernels().step(grid_, view(current_), first_row, last_row, grad, factors, o.lr, o.minmax_lr,
                 {to.v.data(), to.min_scale.data(), to.max_scale.data()});
  if (factors || target_ == current_) return;
  const std::size_t at = first_row * groups_, n = (last_row - first_row) * groups_;
  std::copy_n(sets_[current_].min_scale.data() + at, n, to.min_scale.data() + at);
  std::copy_n(sets_[current_].max_scale.data() + at, n, to.max_scale.data() + at);
}

void tuned_layer::accumulate(std::size_t first_row, std::size_t last_row, const float* grad, bool first, bool factors) {
  tune_kernels().gradient(grid_, view(current_), first_row, last_row, grad, factors && tunes_factors(), !first,
                     {gradient_.v.data(), gradient_.min_scale.data(), gradient_.max_scale.data()});
}

void tuned_layer::step_stored(std::size_t first_row, std::size_t last_row, const step_options& o) {
  move(&parameters::v, first_row * cols_, (last_row - first_row) * cols_, o.lr, o.momentum, false);
  if (band_ == 1) move_factors(first_row, last_row, o);
}

void tuned_layer::move_factors(std::size_t first_row, std::size_t last_row, const step_options& o) {
  const float lr = o.factors && tunes_factors() ? o.minmax_lr : 0.0f;
  for (std::vector<float> parameters::* which : {&parameters::min_scale, &parameters::max_scale})
    move(which, first_row * groups_, (last_row - first_row) * groups_, lr, o.momentum, true);
}

void tuned_layer::move(std::vector<float> parameters::* which, std::size_t at, std::size_t n, float lr, float momentum, bool clamp) {
  const std::vector<float>&p = sets_[current_].*which, &g = gradient_.*which;
  std::vector<float>&q = sets_[target_].*which, &b = momentum_.*which;
  for (std::size_t i = at; i < at + n; ++i) q[i] = clamp ? std::min(std::max(p[i], grid_.factor_min), grid_.factor_max) : p[i];
  if (lr == 0.0f) return;
  if (adam_) ar::adam_step(q.data() + at, g.data() + at, n, lr, steps_ + 1, b.data() + at, (square_.*which).data() + at);
  else ar::sign_step(q.data() + at, g.data() + at, n, lr, momentum, b.empty() ? nullptr : b.data() + at, steps_ == 0);
}

void size_output(const std::string& name, const ar::scheme_fields& scheme, const ar::tune_grid& grid, std::size_t rows, std::size_t cols,
                 std::size_t group_size, quantized_layer& out) {
  const std::size_t groups = ar::ceil_div(cols, group_size), bands = ar::ceil_div(rows, rows_of_a_group(scheme, rows));
  const bool minimum = grid.family == ar::tune_family::superblock_asymmetric || grid.family == ar::tune_family::fixed_asymmetric;
  out.name = name;
  out.scheme = scheme;
  out.rows = rows;
  out.cols = cols;
  out.weight.resize(rows * cols);
  out.code.resize(rows * cols);
  out.scale.resize(bands * groups);
  if (grid.family == ar::tune_family::asymmetric) out.zero_point.resize(rows * groups);
  if (minimum) out.wmin.resize(rows * groups);
  if (grid.superblock_groups > 1) out.d_scale.resize(rows * groups / static_cast<std::size_t>(grid.superblock_groups));
  if (minimum) out.d_wmin.resize(out.d_scale.size());
  if (grid.facts != nullptr && grid.facts->two_level()) out.global_scale = grid.global_scale;
}

ar::tune_output output_at(quantized_layer& out, const ar::tune_grid& grid, std::size_t group_size, std::size_t first_row) {
  const std::size_t groups = ar::ceil_div(out.cols, group_size), at = first_row * groups, super = at / static_cast<std::size_t>(grid.superblock_groups);
  const auto from = [](std::vector<float>& x, std::size_t i) { return x.empty() ? nullptr : x.data() + i; };
  return {out.weight.data() + first_row * out.cols, out.code.data() + first_row * out.cols, out.scale.data() + at, from(out.zero_point, at),
          from(out.wmin, at), from(out.d_scale, super), from(out.d_wmin, super)};
}

void tuned_layer::begin_output(quantized_layer& out) const {
  size_output(name_, scheme_, grid_, rows_, cols_, group_size_, out);
  if (!initial_.d_scale.empty()) out.d_scale = initial_.d_scale;
  if (!initial_.d_minimum.empty()) out.d_wmin = initial_.d_minimum;
}

void tuned_layer::quantize(std::size_t first_row, std::size_t last_row, quantized_layer& out) const {
  const ar::tune_layer all = view(best_ >= 0 ? best_ : current_);
  ar::tune_output to = output_at(out, grid_, group_size_, 0);
  if (band_ > 1) to.scale = nullptr;
  tune_kernels().quantize(grid_, all, first_row, last_row, to);
  if (band_ == 1) return;
  for (std::size_t r = ar::ceil_div(first_row, band_) * band_; r < last_row; r += band_) {
    ar::tune_layer row = all;  // the first of those that share their groups
    row.rows = 1;
    row.weight += r * cols_, row.v += r * cols_;
    row.wmin += r * groups_, row.wmax += r * groups_, row.min_scale += r * groups_, row.max_scale += r * groups_;
    ar::tune_output scale;
    scale.scale = out.scale.data() + r / band_ * groups_;
    tune_kernels().quantize(grid_, row, 0, 1, scale);
  }
}

}  // namespace auto_round::tune
