// Door: kernels for the best instruction set of the machine that runs the program, chosen at run time among all that Highway knows for the
// machine family. Cheap to include. Exactly one translation unit of a program, which holds nothing else, defines AR_DISPATCH_IMPLEMENTATION
// before including this header and links libhwy; CMake's ar::dispatch is that unit (in five parts, cmake/dispatch*_unit.cpp, for several cores to
// compile). Every target gives the same bits.
#pragma once

#include <cstddef>

#include "ar/detail/kernel_table.hpp"

namespace ar {

/// The kernels for this machine. The choice costs a few instructions; keep the reference where that matters.
[[nodiscard]] const kernel_table& kernels() noexcept;

/// The kernels of all targets that this machine can run, best first: writes at most `capacity` pointers and returns how many there are.
std::size_t all_kernels(const kernel_table** tables, std::size_t capacity) noexcept;

}  // namespace ar

#if defined(AR_DISPATCH_IMPLEMENTATION)
#if defined(HWY_HIGHWAY_INCLUDED)
#error "ar: the dispatch unit must include ar/dispatch.hpp before anything that includes Highway"
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ar/detail/dispatch-inl.h"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "ar/detail/dispatch-inl.h"  // once more, for the target that the unit's own flags name

namespace ar {
namespace dispatch {

// Highway numbers its targets so that a better one has a lower bit. Scalable vectors are left out: they cannot be members of a lane type.
template <class F>
void for_each_target(F f) noexcept {
  [[maybe_unused]] const auto supported = static_cast<long long>(hwy::SupportedTargets());
#define AR_DISPATCH_TARGET(bit, target) \
  if ((supported & (bit)) != 0) f(target::table);
#if HWY_TARGETS & HWY_AVX3_DL
  AR_DISPATCH_TARGET(HWY_AVX3_DL, N_AVX3_DL)
#endif
#if HWY_TARGETS & HWY_AVX3
  AR_DISPATCH_TARGET(HWY_AVX3, N_AVX3)
#endif
#if HWY_TARGETS & HWY_AVX2
  AR_DISPATCH_TARGET(HWY_AVX2, N_AVX2)
#endif
#if HWY_TARGETS & HWY_SSE4
  AR_DISPATCH_TARGET(HWY_SSE4, N_SSE4)
#endif
#if HWY_TARGETS & HWY_SSSE3
  AR_DISPATCH_TARGET(HWY_SSSE3, N_SSSE3)
#endif
#if HWY_TARGETS & HWY_NEON
  AR_DISPATCH_TARGET(HWY_NEON, N_NEON)
#endif
#if HWY_TARGETS & HWY_EMU128
  f(N_EMU128::table);
#endif
#if HWY_TARGETS & HWY_SCALAR
  f(N_SCALAR::table);
#endif
#undef AR_DISPATCH_TARGET
}

struct collect {
  const kernel_table** tables;
  std::size_t capacity;
  std::size_t* count;
  void operator()(const kernel_table& t) const noexcept {
    if (*count < capacity) tables[*count] = &t;
    ++*count;
  }
};

}  // namespace dispatch

std::size_t all_kernels(const kernel_table** tables, std::size_t capacity) noexcept {
  std::size_t count = 0;
  dispatch::for_each_target(dispatch::collect{tables, capacity, &count});
  return count;
}

const kernel_table& kernels() noexcept {
  const kernel_table* best = nullptr;
  all_kernels(&best, 1);
  return *best;
}

}  // namespace ar
#endif
