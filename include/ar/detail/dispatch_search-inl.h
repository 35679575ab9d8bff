// The searches of one SIMD target in a unit of their own, which takes their compile time to another core. Included by
// cmake/dispatch_search_unit.cpp alone, once per target; the unit that refers to them is compiled with AR_DISPATCH_WITHOUT_SEARCH.
#if defined(AR_DETAIL_DISPATCH_SEARCH_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_DISPATCH_SEARCH_INL_H
#else
#define AR_DETAIL_DISPATCH_SEARCH_INL_H
#endif

#include <hwy/highway.h>  // before all else: it opens the target's region

#include "ar/detail/lane-inl.h"
#include "ar/detail/search_table-inl.h"

AR_BEGIN_TARGET
namespace dispatch {
template const search_functions* search_table<vec>() noexcept;
}
AR_END_TARGET
#endif
