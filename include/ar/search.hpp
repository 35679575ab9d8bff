// Door: group parameters that are better than those of the range. search looks for them (OPT-RTN, NeUQI), quantize_tuned applies those that tuning
// found; both write scales, codes and the weights that a reader will see, whichever the caller wants. The functions here use the float lane in
// constant expressions and the unit's own lane otherwise; ar/dispatch.hpp has the same for the best instruction set of the machine. Same bits.
//
// Matrices, groups and parameters are those of ar/quantize.hpp. Nothing is written if a function returns an error. No memory is allocated.
#pragma once

#include <type_traits>

#include "ar/detail/search-inl.h"
#include "ar/quantize.hpp"

AR_BEGIN_TARGET

/// Quantizes w with searched parameters. Symmetric integers try 200 scales around that of the range, MX the neighboring powers of two, NVFP4 and FP8 half to
/// one and a half of the range in hundredths; the least sum of squared errors wins (weighted with `how.importance`), of equal ones the first.
/// With how.neuqi integers are searched as in NeUQI: 64 scales on a logarithmic grid, then `neuqi_fine` between the best two, and for asymmetric
/// types every zero point for each. Types without a search (and asymmetric integers without NeUQI) are fitted from their range, as the reference
/// does. Two-level types search with their global scale, given or from the range of w; for codes or scales it must be given.
/// Errors: as quantize; errc::bad_value also for options or importances out of range, or a reference search of an integer type whose scale is not of
/// the weights' format; errc::unsupported for tiles of a type with a search.
/// Source: auto-round 0.16.1, data_type/{int,mxfp,nvfp}.py; golden/data-types bit for bit with how.reference.
template <class T, class G>
requires RangeType<T>
[[nodiscard]] constexpr errc search(const scheme<T, G>& s, matrix_view<const float> w, const search_options& how, const group_output& out) noexcept {
  return std::is_constant_evaluated() ? searches::search<T, float>(s.type, s.shape(), w, how, out)
                                      : searches::search<T, native_lane>(s.type, s.shape(), w, how, out);
}

/// Quantizes w with the rounding offsets and factors of a tuned layer: the forward of SignRound. Factors are float and so are the ranges that they
/// make, whatever the format of the weights. Errors: as quantize; errc::bad_value also for offsets or factors that are not finite.
/// Source: auto-round 0.16.1, data_type/{int,mxfp,nvfp,fp8}.py with v, min_scale, max_scale and init_scale given. Equal bit for bit.
template <class T, class G>
requires RangeType<T>
[[nodiscard]] constexpr errc quantize_tuned(const scheme<T, G>& s, matrix_view<const float> w, const tuned_values& values,
                                            const group_output& out) noexcept {
  return std::is_constant_evaluated() ? searches::quantize_tuned<T, float>(s.type, s.shape(), w, values, out)
                                      : searches::quantize_tuned<T, native_lane>(s.type, s.shape(), w, values, out);
}

AR_END_TARGET
