// The row loops of tuning of one SIMD target in a unit of their own, which takes their compile time to another core. Included by
// cmake/dispatch_tune_unit.cpp alone, once per target; the unit that refers to them is compiled with AR_DISPATCH_WITHOUT_TUNE.
#if defined(AR_DETAIL_DISPATCH_TUNE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_DISPATCH_TUNE_INL_H
#else
#define AR_DETAIL_DISPATCH_TUNE_INL_H
#endif

#include <hwy/highway.h>  // before all else: it opens the target's region

#include "ar/detail/lane-inl.h"
#include "ar/detail/tune_rows.hpp"

AR_BEGIN_TARGET
namespace dispatch {
void tune_fake_quantize(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, float* wq) noexcept {
  tune_loops<vec>::fake_quantize(g, layer, first_row, last_row, wq);
}
void tune_fake_quantize_bf16(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, std::uint16_t* wq) noexcept {
  tune_loops<vec>::fake_quantize_bf16(g, layer, first_row, last_row, wq);
}
void tune_gradient(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad, bool factors,
                   bool accumulate, const tune_parameters& out) noexcept {
  tune_loops<vec>::gradient(g, layer, first_row, last_row, grad, factors, accumulate, out);
}
void tune_step(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad, bool factors, float lr,
               float minmax_lr, const tune_parameters& out) noexcept {
  tune_loops<vec>::step(g, layer, first_row, last_row, grad, factors, lr, minmax_lr, out);
}
void tune_quantize(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const tune_output& out) noexcept {
  tune_loops<vec>::quantize(g, layer, first_row, last_row, out);
}
void tune_input_gradient(const tune_grid& g, const tune_layer& layer, std::size_t first_row, std::size_t last_row, const float* grad, float* dx,
                         float* d_max_scale) noexcept {
  tune_loops<vec>::input_gradient(g, layer, first_row, last_row, grad, dx, d_max_scale);
}
}  // namespace dispatch
AR_END_TARGET
#endif
