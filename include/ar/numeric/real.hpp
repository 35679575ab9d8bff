// The floating formats that weights and scales are stored in, as a compile-time policy.
#pragma once

#include "ar/config.hpp"

namespace ar {

/// A storage format of real numbers. Arithmetic is always float32; a policy of type `real` says to which format a result is rounded.
enum class real : unsigned char { f32, f16, bf16 };

/// The format of `a op b` in the reference: equal formats stay, everything else is computed in f32.
AR_INLINE constexpr real promote(real a, real b) noexcept { return a == b ? a : real::f32; }

/// The smallest magnitude that a scale may have, rounded to the format `r` of the scale (1e-8 for f32, else 1e-5).
AR_INLINE constexpr float scale_threshold(real r) noexcept {
  switch (r) {
    case real::f32: return 1e-8f;
    case real::f16: return 0x1.5p-17f;    // 168 * 2^-24
    case real::bf16: return 0x1.5p-17f;
  }
  return 0.0f;
}

}  // namespace ar
