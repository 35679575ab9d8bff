// What the searches and the tuned forward take and give, as plain data. Users include ar/search.hpp or ar/quantize.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/view.hpp"

namespace ar {

/// How a data type looks for better parameters than the range of a group gives.
enum class search_family : unsigned char {
  none,          ///< not at all: groups are fitted from their range
  signed_scale,  ///< symmetric integers: multiples of 1 / scale around -2^(bits-1) / extreme weight
  zero_point,    ///< asymmetric integers, by NeUQI only: smaller scales, each with the best zero point
  halves,        ///< MX: the range, half of it and twice it
  hundredths,    ///< NVFP4, FP8: 0.50 to 1.51 times the range
};

/// How to search. The default does what the reference means to do; `reference` also repeats what it gets wrong.
struct search_options {
  /// Null, or a finite non-negative number per column of w (an importance matrix, shared by all rows): squared errors are weighted with it.
  const float* importance = nullptr;
  /// Replace importances of zero before use, as OPT-RTN does (detail/importance.hpp); off for the initial scales of SignRound and AWQ.
  bool repair = true;
  /// Integers: NeUQI's coarse and fine search instead; asymmetric ones are fitted from their range without it.
  bool neuqi = false;
  int neuqi_fine = 32;        ///< candidates between the neighbors of the best coarse one, 1..256
  double scale_ratio = 0.75;  ///< signed_scale: the width of the search (AR_SEARCH_SCALE_RATIO), above 0, at most 1; not used at 2 bits
  float least_scale = 0.0f;   ///< smallest magnitude of an integer scale; 0: that of its format, scale_threshold
  /// Repeat auto-round 0.16.1 where it errs: symmetric integers are searched in the arithmetic of the weights' format (the scale then needs the same
  /// format), NVFP4 with the tensor's own global scale though another one is given, FP8 not at all, and importances are repaired by the rows and by dividing by zero.
  bool reference = false;
};

/// Where results go. Every view is empty (not wanted) or has its full shape; groups = ceil(cols / group size).
struct group_output {
  matrix_view<float> scale{};        ///< [rows x groups], 1 x 1 for a group that is the whole tensor
  matrix_view<float> zero_point{};   ///< the same, of types that have one; ignored by others
  matrix_view<float> factor{};       ///< the same: by what the search multiplied the range (MX, NVFP4); 1 for types without such a search
  matrix_view<std::uint8_t> code{};  ///< [rows x cols]
  matrix_view<float> weight{};       ///< [rows x cols], what a reader will see; may be w itself
};

/// What tuning found; empty views stand for v = 0 and factors of 1. Factors are used as they are: bounds are the tuner's business.
struct tuned_values {
  matrix_view<const float> v{};          ///< [rows x cols], added to weight / scale before rounding
  matrix_view<const float> min_scale{};  ///< [rows x groups], factor of the smallest weight (integers)
  matrix_view<const float> max_scale{};  ///< [rows x groups], factor of the largest weight, or magnitude
  matrix_view<const float>
      init_scale{};  ///< [rows x groups]: a searched scale that replaces the range (symmetric integers), or a searched factor (MX, NVFP4)
};

}  // namespace ar
