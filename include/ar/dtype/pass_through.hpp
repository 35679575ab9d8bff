// pass_through: weights and activations that stay in the format of the model, 16 bits and more; no codes, no scale.
// Source: auto-round 0.16.1 (bits >= 16 returns the tensor unchanged; preset BF16).
#if defined(AR_DTYPE_PASS_THROUGH_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_PASS_THROUGH_HPP
#else
#define AR_DTYPE_PASS_THROUGH_HPP
#endif

#include "ar/detail/shapes.hpp"
#include "ar/detail/target.hpp"
#include "ar/scheme.hpp"

AR_BEGIN_TARGET

struct pass_through {
  static constexpr const char* name = "pass_through";
  static constexpr std::string_view reference_names = "fp16";
  AR_FN static constexpr int bits() noexcept { return 16; }
};

/// Copies w to out, which may be w itself: what a reader of the tensor sees. NaN and infinity pass too. errc::bad_shape if the views differ.
template <class G>
[[nodiscard]] constexpr errc qdq(const scheme<pass_through, G>&, matrix_view<const float> w, matrix_view<float> out) noexcept {
  if (!shapes::same_shape(w, out)) return errc::bad_shape;
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) out(r, c) = w(r, c);
  return errc::ok;
}

/// There are no kernels for it.
using pass_through_types = type_list<>;

using BF16 = scheme<pass_through, group<128>>;
static_assert(is_preset<BF16>("BF16"));

AR_END_TARGET
#endif
