// Where code that holds vector instructions lives. Such text is compiled once for the flags of an ordinary unit (inline namespace AR_ABI, so
// that units with different -march flags do not share symbols), and once for every SIMD target of the machine family in the dispatch unit
// (Highway's foreach_target, one namespace each). A header with such text has a toggle guard instead of #pragma once:
//
//   #if defined(AR_DTYPE_NAME_HPP) == defined(HWY_TARGET_TOGGLE)   // once per target, see ar/detail/target.hpp
//   #ifdef HWY_TARGET_TOGGLE
//   #undef AR_DTYPE_NAME_HPP
//   #else
//   #define AR_DTYPE_NAME_HPP
//   #endif
//   #include ...
//   AR_BEGIN_TARGET
//   ... templates over a lane type F ...
//   AR_END_TARGET
//   #endif
//
// Lambdas do not inherit a target's instruction set from the surrounding text; use functions and function objects there.
#pragma once

#include "ar/config.hpp"

#if defined(AR_DISPATCH_IMPLEMENTATION)
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpragma-clang-attribute"  // a header that states facts alone has no function to give the target's attribute to
#endif
#define AR_BEGIN_TARGET    \
  HWY_BEFORE_NAMESPACE();  \
  namespace ar {           \
  namespace HWY_NAMESPACE {
#define AR_END_TARGET \
  }                   \
  }                   \
  HWY_AFTER_NAMESPACE();
#else
#define AR_BEGIN_TARGET \
  namespace ar {        \
  inline namespace AR_ABI {
#define AR_END_TARGET \
  }                   \
  }
#endif
