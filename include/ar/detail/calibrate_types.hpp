// The kernels behind ar/calibrate.hpp, as plain data.
#pragma once

#include <cstddef>

#include "ar/detail/concepts.hpp"
#include "ar/errc.hpp"
#include "ar/view.hpp"

namespace ar {

/// Functions of ar/calibrate.hpp for one SIMD target; what they do is said there.
struct calibrate_kernels {
  errc (*add_maxima)(group_shape group, matrix_view<const float> x, bool first, matrix_view<float> maximum);
  errc (*add_head_maxima)(matrix_view<const float> x, std::size_t heads, bool first, float* maximum);
  errc (*add_importance)(matrix_view<const float> x, bool first, float* sum);
};

}  // namespace ar
