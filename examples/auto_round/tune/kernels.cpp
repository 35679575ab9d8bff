// Compiled once for every instruction set of the machine family; see ar/detail/target.hpp.
#define AR_DISPATCH_IMPLEMENTATION
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tune/kernels.cpp"
#include <hwy/foreach_target.h>
//
#include "ar/detail/lane-inl.h"
#include "ar/detail/tune_rows.hpp"
#include "tune/kernels.hpp"

AR_BEGIN_TARGET

HWY_INLINE void store_weight(vec x, std::uint16_t* p) noexcept {
  const hn::Rebind<hwy::bfloat16_t, vec::D> d;
  hn::StoreU(hn::DemoteTo(d, lane_round_bf16(x).raw), d, reinterpret_cast<hwy::bfloat16_t*>(p));
}
const tune_kernels* tune_table() {
  static constexpr tune_kernels table = tune_loops<vec>::table();
  return &table;
}

AR_END_TARGET

#if HWY_ONCE
namespace ar {
HWY_EXPORT(tune_table);
static const tune_kernels* best_tune_table() { return HWY_DYNAMIC_DISPATCH(tune_table)(); }
}  // namespace ar

namespace auto_round::tune {
const ar::tune_kernels& kernels() {
  static const ar::tune_kernels* const table = ar::best_tune_table();
  return *table;
}
}  // namespace auto_round::tune
#endif
