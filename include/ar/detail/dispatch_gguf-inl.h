// The GGUF kernels of one SIMD target in a unit of their own, which takes half of the dispatch unit's compile time to another core. Included by
// cmake/dispatch_gguf_unit.cpp alone, once per target; the unit that refers to them is compiled with AR_DISPATCH_WITHOUT_GGUF.
#if defined(AR_DETAIL_DISPATCH_GGUF_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_DISPATCH_GGUF_INL_H
#else
#define AR_DETAIL_DISPATCH_GGUF_INL_H
#endif

#include <hwy/highway.h>  // before all else: it opens the target's region

#include "ar/detail/gguf_table-inl.h"
#include "ar/detail/lane-inl.h"

AR_BEGIN_TARGET
namespace gguf {
template std::span<const gguf_kernels> kernel_table<vec>() noexcept;
}
AR_END_TARGET
#endif
