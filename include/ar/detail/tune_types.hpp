// What tuning works on, as plain data: the grid, the views of a layer's tensors, the policies. Users include ar/tune.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"
#include "ar/detail/scaled_facts.hpp"
#include "ar/numeric/real.hpp"
#include "ar/view.hpp"

namespace ar {

/// How a group of weights maps to its grid.
enum class tune_family : std::uint8_t {
  symmetric,              ///< w ~ s * q, q in [-2^(bits-1), 2^(bits-1)-1], signed s
  asymmetric,             ///< w ~ s * (q - zp), q in [0, 2^bits-1]; zp is whole, or not (Q4_1, Q5_1: tune_grid::whole_zero)
  superblock_asymmetric,  ///< w ~ s * q - m, where s and m of the groups of a super-block are themselves quantized (Q2_K, Q4_K, Q5_K)
  superblock_symmetric,   ///< w ~ s * q with quantized s (Q3_K, Q6_K)
  fixed_asymmetric,       ///< w ~ s * q - m with s and m given: only v is tuned
  fixed_symmetric,        ///< w ~ s * q with s given
  scaled,                 ///< w ~ s * q with q on a grid of small floats: MX, NVFP4, FP8, as their facts say
};

/// Where a clamp passes the gradient. `strict`: only inside the open interval, as torch >= 2.14 and the reference do, so that weights on the two
/// outermost codes are never tuned; `closed`: on the boundary too (torch <= 2.13), clearly better at 3 bits and below.
enum class clamp_gradient : std::uint8_t { strict, closed };

/// How gradients that reach a stored scale are rounded. `reference`: to the scale's own type, so that half precision overflows to "no step";
/// `f32`: not at all.
enum class scale_gradient : std::uint8_t { reference, f32 };

/// A grid to tune on, as plain numbers. Which data types lie on which grid is said by their headers.
struct tune_grid {
  tune_family family = tune_family::symmetric;
  int bits = 4;               ///< 1..8; scaled: the facts have it
  int super_bits = 0;         ///< bits of the quantized scales of a super-block, 2..8
  int superblock_groups = 1;  ///< groups in a super-block: 1, 2, 4, 8 or 16
  real scale_type = real::f16;  ///< integers: what scales are rounded to
  clamp_gradient clamp = clamp_gradient::strict;
  scale_gradient scale_grad = scale_gradient::reference;
  float factor_min = 0.0f, factor_max = 1.0f;  ///< bounds of min_scale and max_scale; every forward clamps to them
  const scaled_facts* facts = nullptr;         ///< scaled: the type's, for float weights (T::the_facts, or range_kernels::facts)
  float global_scale = -1.0f;                  ///< scaled, of types with two levels: that of the tensor, or of all that share one
  /// Asymmetric family: zp is rounded. If not (Q4_1, Q5_1), q = round(w / s + v) + zp is a fraction too, as in the reference; a block holds the
  /// nearest whole code.
  bool whole_zero = true;
};

/// The grid of a scaled type. Its min_scale is not used.
AR_INLINE constexpr tune_grid scaled_grid(const scaled_facts& facts, float global_scale = -1.0f) noexcept {
  tune_grid g;
  g.family = tune_family::scaled;
  g.bits = facts.grid.bits;
  g.scale_type = real::f32;
  g.facts = &facts;
  g.global_scale = global_scale;
  return g;
}

/// The tensors of one layer, owned by the caller. All are row-major and contiguous; `groups()` counts the groups of a row, the last of which is
/// padded with zeros if it is short (the padding has no v).
struct tune_layer {
  std::size_t rows = 0, cols = 0;
  std::size_t group_size = 0;         ///< values per group, 1..2^24; at most cols, or the row is one padded group
  const float* weight = nullptr;      ///< [rows x cols]
  const float* wmin = nullptr;        ///< [rows x groups()], min(w, 0) of each group; group_extrema fills it
  const float* wmax = nullptr;        ///< [rows x groups()], max(w, 0)
  const float* v = nullptr;           ///< [rows x cols], rounding offsets; start at 0
  const float* min_scale = nullptr;   ///< [rows x groups()], factors of wmin and wmax; start at 1
  const float* max_scale = nullptr;   ///< [rows x groups()]
  const float* init_scale = nullptr;  ///< null, or [rows x groups()]: a searched scale that replaces the extrema (symmetric), a searched factor (scaled), the scale (fixed)
  const float* init_minimum = nullptr;  ///< fixed_asymmetric: [rows x groups()], m

  AR_INLINE constexpr std::size_t groups() const noexcept { return ceil_div(cols, group_size); }
};

/// Where the results of a step or a gradient go; shapes as in tune_layer. An output may be the input of the same name.
struct tune_parameters {
  float* v = nullptr;
  float* min_scale = nullptr;
  float* max_scale = nullptr;
};

/// What a tuned layer becomes; any pointer may be null. `code` is unsigned, 0..2^bits-1; scaled: as quantize stores it.
struct tune_output {
  float* weight = nullptr;      ///< [rows x cols], dequantized
  std::uint8_t* code = nullptr; ///< [rows x cols], rounded half to even where q is a fraction
  float* scale = nullptr;       ///< [rows x groups()], rounded to scale_type; scaled: as quantize stores it
  float* zero_point = nullptr;  ///< [rows x groups()], asymmetric family
  float* minimum = nullptr;     ///< [rows x groups()], grids with a minimum
  float* d_scale = nullptr;     ///< [rows x groups() / superblock_groups], super-blocks: the step of the scales
  float* d_minimum = nullptr;   ///< the same for the minima
};

/// The row loops of one instruction set; arguments as in ar/tune.hpp, unchecked.
struct tune_kernels {
  void (*fake_quantize)(const tune_grid&, const tune_layer&, std::size_t first_row, std::size_t last_row, float* wq) noexcept;
  void (*fake_quantize_bf16)(const tune_grid&, const tune_layer&, std::size_t first_row, std::size_t last_row, std::uint16_t* wq) noexcept;
  void (*gradient)(const tune_grid&, const tune_layer&, std::size_t first_row, std::size_t last_row, const float* grad, bool factors, bool accumulate,
                   const tune_parameters& out) noexcept;
  void (*step)(const tune_grid&, const tune_layer&, std::size_t first_row, std::size_t last_row, const float* grad, bool factors, float lr,
               float minmax_lr, const tune_parameters& out) noexcept;
  void (*quantize)(const tune_grid&, const tune_layer&, std::size_t first_row, std::size_t last_row, const tune_output& out) noexcept;
  void (*input_gradient)(const tune_grid&, const tune_layer&, std::size_t first_row, std::size_t last_row, const float* grad, float* dx,
                         float* d_max_scale) noexcept;
};

}  // namespace ar
