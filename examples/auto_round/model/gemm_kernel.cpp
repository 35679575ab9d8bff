// Goto's algorithm with Highway: see gemm_kernel.hpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/gemm_kernel.cpp"
// Arrays of vectors hold the block of results; scalable vectors cannot be array elements.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_RVV)
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ar/numeric/half.hpp"
#include "model/gemm_kernel.hpp"

HWY_BEFORE_NAMESPACE();
namespace auto_round::linalg {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The block of results in registers: MR rows of two vectors. 24 of the 32 registers of AVX-512, 12 of the 16 of AVX2.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr std::size_t MR = 12;
#else
constexpr std::size_t MR = 6;
#endif
constexpr std::size_t KC = 320;  // at most: a panel of b, KC x NR floats, stays in the first-level cache
constexpr std::size_t MC = 96;   // rows of a packed at a time: MC x KC floats stay in the second-level cache
constexpr std::size_t NC = 512;  // columns of b packed at a time
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE float value(const float* p) { return *p; }
HWY_INLINE float value(const std::uint16_t* p) { return ar::f32_from_bf16(*p); }

/// Four floats.
using D4 = hn::CappedTag<float, 4>;
HWY_INLINE hn::Vec<D4> four(const float* p) { return hn::LoadU(D4(), p); }
HWY_INLINE hn::Vec<D4> four(const std::uint16_t* p) {
  const hn::Rebind<std::uint16_t, D4> half;
  const hn::RebindToUnsigned<D4> word;
  return hn::BitCast(D4(), hn::ShiftLeft<16>(hn::PromoteTo(word, hn::LoadU(half, p))));
}

#if HWY_TARGET != HWY_SCALAR
/// Four lines by four k: in[line * step + k] to out[k * width + line].
template <class T>
HWY_INLINE void transpose_4x4(const T* in, std::size_t step, float* out, std::size_t width) {
  const D4 d;
  const hn::Repartition<double, D4> pair;
  const auto a = four(in), b = four(in + step), c = four(in + 2 * step), e = four(in + 3 * step);
  const auto ab0 = hn::BitCast(pair, hn::InterleaveLower(d, a, b)), ab1 = hn::BitCast(pair, hn::InterleaveUpper(d, a, b));
  const auto ce0 = hn::BitCast(pair, hn::InterleaveLower(d, c, e)), ce1 = hn::BitCast(pair, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pair, ab0, ce0)), d, out);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pair, ab0, ce0)), d, out + width);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pair, ab1, ce1)), d, out + 2 * width);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pair, ab1, ce1)), d, out + 3 * width);
}
#endif

/// A panel of `width` lines by kc values whose values of one line lie together.
template <class T>
HWY_INLINE void pack_lines(const T* in, std::size_t line_step, std::size_t used, std::size_t kc, std::size_t width, float* out) {
  std::size_t l = 0;
#if HWY_TARGET != HWY_SCALAR
  if (hn::Lanes(D4()) == 4) {
    for (; l + 4 <= used; l += 4) {
      const T* const lines = in + l * line_step;
      std::size_t k = 0;
      for (; k + 4 <= kc; k += 4) transpose_4x4(lines + k, line_step, out + k * width + l, width);
      for (; k < kc; ++k)
        for (std::size_t i = 0; i < 4; ++i) out[k * width + l + i] = value(lines + i * line_step + k);
    }
  }
#endif
  for (; l < used; ++l) {
    const T* const line = in + l * line_step;
    for (std::size_t k = 0; k < kc; ++k) out[k * width + l] = value(line + k);
  }
}

/// The same for lines whose values of one k lie together.
template <class T>
HWY_INLINE void pack_columns(const T* in, std::size_t k_step, std::size_t used, std::size_t kc, std::size_t width, float* out) {
  const std::size_t fours = hn::Lanes(D4()) == 4 ? used & ~std::size_t{3} : 0;
  for (std::size_t k = 0; k < kc; ++k, in += k_step, out += width) {
    for (std::size_t l = 0; l < fours; l += 4) hn::StoreU(four(in + l), D4(), out + l);
    for (std::size_t l = fours; l < used; ++l) out[l] = value(in + l);
  }
}

/// Packs `lines` x `kc` values into panels of `width` lines, [panel][k][line], missing lines as zero. Element (line, k) lies at
/// in[line * line_step + k * k_step]; one of the steps is 1.
template <class T>
void pack(const T* in, std::size_t line_step, std::size_t k_step, std::size_t lines, std::size_t kc, std::size_t width, float* out) {
  for (std::size_t l0 = 0; l0 < lines; l0 += width, out += width * kc) {
    const std::size_t used = std::min(width, lines - l0);
    if (used < width) std::memset(out, 0, width * kc * sizeof(float));
    if (line_step == 1) pack_columns(in + l0, k_step, used, kc, width, out);
    else pack_lines(in + l0 * line_step, line_step, used, kc, width, out);
  }
}

/// One MR x NR block: t = sum over k of a[k][row] * b[k][col], then added to or stored in the `rows` x `cols` corner of c.
HWY_INLINE void block(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, std::size_t kc, float* c, std::size_t stride, std::size_t rows,
                      std::size_t cols, bool add) {
  const D d;
  const std::size_t lanes = hn::Lanes(d), nr = 2 * lanes;
  V t[MR][2];
  for (std::size_t r = 0; r < MR; ++r) t[r][0] = t[r][1] = hn::Zero(d);
  for (std::size_t k = 0; k < kc; ++k, a += MR, b += nr) {
    const V b0 = hn::Load(d, b), b1 = hn::Load(d, b + lanes);
    HWY_UNROLL(MR)
    for (std::size_t r = 0; r < MR; ++r) {
      const V x = hn::Set(d, a[r]);
      t[r][0] = hn::MulAdd(x, b0, t[r][0]);
      t[r][1] = hn::MulAdd(x, b1, t[r][1]);
    }
  }
  if (rows == MR && cols == nr) {
    for (std::size_t r = 0; r < MR; ++r, c += stride) {
      hn::StoreU(add ? hn::Add(hn::LoadU(d, c), t[r][0]) : t[r][0], d, c);
      hn::StoreU(add ? hn::Add(hn::LoadU(d, c + lanes), t[r][1]) : t[r][1], d, c + lanes);
    }
    return;
  }
  HWY_ALIGN float edge[MR * 2 * HWY_LANES(float)];
  for (std::size_t r = 0; r < MR; ++r) {
    hn::Store(t[r][0], d, edge + r * nr);
    hn::Store(t[r][1], d, edge + r * nr + lanes);
  }
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < cols; ++j) c[r * stride + j] = add ? c[r * stride + j] + edge[r * nr + j] : edge[r * nr + j];
}

template <class T>
void run_typed(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate) {
  const std::size_t nr = 2 * hn::Lanes(D());
  // Kept by each thread for its life, with room for rounding up to whole panels.
  thread_local const auto a_panels = hwy::AllocateAligned<float>((MC + 16) * KC);
  thread_local const auto b_panels = hwy::AllocateAligned<float>((NC + 64) * KC);
  const T* a_data = static_cast<const T*>(a.data);
  const T* b_data = static_cast<const T*>(b.data);
  const std::size_t a_line = p == product::tn ? 1 : a.stride, a_k = p == product::tn ? a.stride : 1;
  const std::size_t b_line = p == product::nt ? b.stride : 1, b_k = p == product::nt ? 1 : b.stride;
  if (e.k == 0 && !accumulate)
    for (std::size_t r = 0; r < e.m; ++r) std::fill_n(c + r * c_stride, e.n, 0.0f);
  const std::size_t parts = (e.k + KC - 1) / KC, k_step = parts == 0 ? 0 : (e.k + parts - 1) / parts;  // of equal size
  for (std::size_t k0 = 0; k0 < e.k; k0 += k_step) {
    const std::size_t kc = std::min(k_step, e.k - k0);
    const bool add = accumulate || k0 > 0;
    for (std::size_t n0 = 0; n0 < e.n; n0 += NC) {
      const std::size_t nc = std::min(NC, e.n - n0);
      pack(b_data + n0 * b_line + k0 * b_k, b_line, b_k, nc, kc, nr, b_panels.get());
      for (std::size_t m0 = 0; m0 < e.m; m0 += MC) {
        const std::size_t mc = std::min(MC, e.m - m0);
        pack(a_data + m0 * a_line + k0 * a_k, a_line, a_k, mc, kc, MR, a_panels.get());
        for (std::size_t j = 0; j < nc; j += nr)
          for (std::size_t i = 0; i < mc; i += MR)
            block(a_panels.get() + i * kc, b_panels.get() + j * kc, kc, c + (m0 + i) * c_stride + n0 + j, c_stride, std::min(MR, mc - i),
                  std::min(nr, nc - j), add);
      }
    }
  }
}

void run(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate) {
  if (a.bf16)
    run_typed<std::uint16_t>(p, e, a, b, c, c_stride, accumulate);
  else
    run_typed<float>(p, e, a, b, c, c_stride, accumulate);
}

const char* target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace auto_round::linalg
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace auto_round::linalg {

HWY_EXPORT(run);
HWY_EXPORT(target);

void gemm_highway(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(run)(p, e, a, b, c, c_stride, accumulate);
}

const char* gemm_highway_target() { return HWY_DYNAMIC_DISPATCH(target)(); }

}  // namespace auto_round::linalg
#endif
