// Door: what calibration data says about activations and weights: running maxima and the static scales that follow from them, global scales that
// layers share, scales of a KV cache, importance of columns. All over the caller's buffers; nothing is allocated. Activations are
// x[tokens x in_features] float32, widened from the format of the model, whose maxima they keep exactly.
//
// A static scale takes the maximum over all calibration batches: pass `first` once, with the first batch. The reference keeps only the last batch
// for the scales of a KV cache, which is `first` with every batch; and it runs static activation types on scales of the current data after
// calibration, which is qdq without the_tensor.maximum. ar/dispatch.hpp has the loops for the best instruction set; same bits.
// Source: auto-round 0.16.1 (calibration hooks, data_type/utils.py, compressors); golden/data-types/activations.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "ar/detail/calibrate-inl.h"
#include "ar/quantize.hpp"

AR_BEGIN_TARGET

/// maximum[rows x groups] = the largest |x| of each group of x, or of the group and what `maximum` holds unless `first`. Group 0: one number for
/// all of x (static scales per tensor, and the global scale of two-level types). errc::bad_shape, errc::non_finite; nothing is written then.
[[nodiscard]] constexpr errc add_maxima(group_shape group, matrix_view<const float> x, bool first, matrix_view<float> maximum) noexcept {
  return std::is_constant_evaluated() ? calibrate::add_maxima<float>(group, x, first, maximum)
                                      : calibrate::add_maxima<native_lane>(group, x, first, maximum);
}

/// The same for keys and values: x[batch * heads x seq * head_dim], maximum[heads], with row r of head r % heads. One head: the whole tensor.
[[nodiscard]] constexpr errc add_head_maxima(matrix_view<const float> x, std::size_t heads, bool first, float* maximum) noexcept {
  return std::is_constant_evaluated() ? calibrate::add_head_maxima<float>(x, heads, first, maximum)
                                      : calibrate::add_head_maxima<native_lane>(x, heads, first, maximum);
}

/// sum[cols] = the sum of x^2 of each column over the rows of x (an importance matrix), added to what `sum` holds unless `first`. The order of the
/// sum is that of the reference's column sums on one thread. errc::bad_shape, errc::non_finite; nothing is written then.
[[nodiscard]] constexpr errc add_importance(matrix_view<const float> x, bool first, float* sum) noexcept {
  return std::is_constant_evaluated() ? calibrate::add_importance<float>(x, first, sum) : calibrate::add_importance<native_lane>(x, first, sum);
}

/// sum[0..n) divided by the number of sequences (not tokens) that went into it, in place; count >= 1.
constexpr void finish_importance(float* sum, std::size_t n, std::size_t count) noexcept {
  for (std::size_t i = 0; i < n; ++i) sum[i] = sum[i] / static_cast<float>(count);
}

/// The static scale of type T for a largest magnitude: what quantize would store for a group that reaches it, or for two-level types the global
/// scale. The stored scale of an NVFP4 KV cache is the reciprocal of that.
template <RangeType T>
[[nodiscard]] constexpr float static_scale(const T& type, float maximum) noexcept {
  if constexpr (requires { type.global_scale_of(maximum); }) {
    if (type.facts().two_level()) return type.global_scale_of(maximum);
  }
  return type.from_range(-maximum, maximum).scale;
}

/// The global scale of layers that are stored with one (q, k and v; gate and up): the smallest of theirs. A layer of zeros has the scale 0 and no
/// say; `reference`: auto-round takes the plain minimum, so that such a layer zeroes its partners. 0 if there is nothing else.
[[nodiscard]] constexpr float shared_global_scale(std::span<const float> scales, bool reference = false) noexcept {
  float least = 0.0f;
  bool any = false;
  for (const float s : scales)
    if ((s > 0.0f || reference) && (!any || s < least)) {
      least = s;
      any = true;
    }
  return least;
}

/// Maxima of the experts of one projection, negative for experts that no token reached: those get the largest of the others (nothing changes if
/// there is none). `unify`: all get it, as AR_ENABLE_UNIFY_MOE_INPUT_SCALE asks for the input projections.
constexpr void complete_expert_maxima(std::span<float> maximum, bool unify = false) noexcept {
  float largest = -1.0f;
  for (const float m : maximum) largest = m > largest ? m : largest;
  for (float& m : maximum)
    if (m < 0.0f || unify) m = largest;
}

/// Keys or values as attention will read them, x and out[batch * heads x seq * head_dim]: each head under the static scale of its maximum[heads].
/// Negative values that round to zero stay -0. For types with the_tensor. errc::bad_shape, bad_value, non_finite; nothing is written then.
template <RangeType T>
requires requires(T t) { t.the_tensor.maximum; }
[[nodiscard]] constexpr errc qdq_heads(T type, matrix_view<const float> x, std::size_t heads, const float* maximum, matrix_view<float> out) noexcept {
  if (!shapes::same_shape(x, out) || heads == 0 || maximum == nullptr || x.rows % heads != 0) return errc::bad_shape;
  for (std::size_t h = 0; h < heads; ++h)
    if (!(maximum[h] >= 0.0f && maximum[h] <= 0x1.fffffep127f)) return errc::bad_value;
  if (rows::extrema e; !rows::finite_range<float>(x, e)) return errc::non_finite;
  for (std::size_t r = 0; r < x.rows; ++r) {
    type.the_tensor.maximum = maximum[r % heads];
    const auto p = type.from_range(-maximum[r % heads], maximum[r % heads]);
    for (std::size_t c = 0; c < x.cols; ++c) out(r, c) = type.decode(type.encode(x(r, c), p), p);
  }
  return errc::ok;
}

AR_END_TARGET
