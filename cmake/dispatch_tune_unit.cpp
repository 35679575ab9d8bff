// The row loops of tuning of every SIMD target, apart from dispatch_unit.cpp so that several cores share the work of compiling them.
#define AR_DISPATCH_IMPLEMENTATION  // Highway's targets, not this unit's flags, name the namespaces
#include <ar/config.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ar/detail/dispatch_tune-inl.h"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "ar/detail/dispatch_tune-inl.h"  // once more, for the target that the unit's own flags name
