// The packed layouts of one SIMD target in a unit of their own, which takes their compile time to another core. Included by
// cmake/dispatch_codec_unit.cpp alone, once per target; the unit that refers to them is compiled with AR_DISPATCH_WITHOUT_CODECS.
#if defined(AR_DETAIL_DISPATCH_CODEC_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_DISPATCH_CODEC_INL_H
#else
#define AR_DETAIL_DISPATCH_CODEC_INL_H
#endif

#include <hwy/highway.h>  // before all else: it opens the target's region

#include <span>

#include "ar/detail/moves-inl.h"
#include "ar/pack.hpp"

AR_BEGIN_TARGET
namespace dispatch {
std::span<const codec_kernels> codec_table() noexcept { return codecs<all_codecs, moves>(); }
}  // namespace dispatch
AR_END_TARGET
#endif
