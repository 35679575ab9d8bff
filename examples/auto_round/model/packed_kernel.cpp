// Decoding products: see packed_kernel.hpp. One text serves all GGUF types: what a block holds is the business of the library's data types.
#define AR_DISPATCH_IMPLEMENTATION  // Highway's targets, not this unit's flags, name the library's namespaces
#include "ar/config.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/packed_kernel.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <cstring>

#include "ar/detail/gguf_table-inl.h"
#include "ar/detail/lane-inl.h"
#include "ar/numeric/half.hpp"
#include "model/packed_kernel.hpp"

HWY_BEFORE_NAMESPACE();
namespace auto_round::packed {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace library = ar::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
using lanes = library::vec;

// Integers: at most 16 lanes, the width of the shortest groups.
using D16 = hn::CappedTag<std::int16_t, 16>;
using D32 = hn::CappedTag<std::int32_t, 8>;
using DF = hn::RebindToFloat<D32>;
using VF = hn::Vec<DF>;

HWY_INLINE float sum(V a, V b, V c, V e) { return hn::GetLane(hn::SumOfLanes(D(), hn::Add(hn::Add(a, b), hn::Add(c, e)))); }

// ---- whole numbers times activations ----

void round_row(const float* x, std::size_t n, std::int16_t* q, float* scale, float* sums, float* half_sums) {
  const DF d;
  const hn::RebindToSigned<DF> whole;
  const hn::Rebind<std::int16_t, DF> narrow;
  const std::size_t lane = hn::Lanes(d);
  for (std::size_t at = 0; at < n; at += 32) {
    float own[32] = {};
    const float* from = x + at;
    if (n - at < 32) {
      std::memcpy(own, from, (n - at) * sizeof(float));
      from = own;
    }
    VF largest = hn::Zero(d), nothing = hn::Zero(d);
    for (std::size_t i = 0; i < 32; i += 16) {
      VF t = hn::Zero(d);
      for (std::size_t k = i; k < i + 16; k += lane) {
        const VF v = hn::LoadU(d, from + k);
        t = hn::Add(t, v);
        largest = hn::Max(largest, hn::Abs(v));
        nothing = hn::MulAdd(v, hn::Zero(d), nothing);  // NaN for what is no number
      }
      half_sums[(at + i) / 16] = hn::GetLane(hn::SumOfLanes(d, t));
    }
    sums[at / 32] = half_sums[at / 16] + half_sums[at / 16 + 1];
    const float most = hn::GetLane(hn::MaxOfLanes(d, largest)), zero = hn::GetLane(hn::SumOfLanes(d, nothing));
    const bool some = most > 1e-30f && zero == 0.0f;
    scale[at / 32] = some ? most / 32767.0f : zero;
    const VF inverse = hn::Set(d, some ? 32767.0f / most : 0.0f);
    for (std::size_t k = 0; k < 32; k += lane) {
      const auto r = some ? hn::NearestInt(hn::Mul(hn::LoadU(d, from + k), inverse)) : hn::Zero(whole);
      hn::StoreU(hn::DemoteTo(narrow, r), narrow, q + at + k);
    }
  }
}

/// The sum of Size bytes, whole numbers, times activations, in the lanes of the result.
template <std::size_t Size, class Code>
HWY_INLINE VF products(const Code* code, const std::int16_t* q) {
  const D16 d;
  const D32 wide;
  const hn::Rebind<Code, D16> bytes;
  auto t = hn::Zero(wide), other = hn::Zero(wide);
  for (std::size_t k = 0; k < Size; k += hn::Lanes(d)) t = hn::ReorderWidenMulAccumulate(wide, hn::PromoteTo(d, hn::LoadU(bytes, code + k)), hn::LoadU(d, q + k), t, other);
  return hn::ConvertTo(DF(), hn::Add(t, other));
}

// ---- GGUF blocks ----

/// Half precision to float; the processor's instruction where there is one, since blocks of 32 need it for every fourth vector.
HWY_INLINE float half(const std::uint8_t* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof bits);
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
#else
  return ar::f32_from_f16(bits);
#endif
}

/// weight = step * (code - half)
template <class T>
concept Symmetric = requires {
  T::half;
  requires !T::asymmetric;
};
/// weight = step * code + shift
template <class T>
concept Asymmetric = requires { requires T::asymmetric; };
/// A scale of half precision for each 32 weights.
template <class T>
concept OneScale = T::groups == 1 && requires(typename T::layout l) { l.d; };

template <class T>
HWY_INLINE float step_of(const std::uint8_t* block, const typename T::template params<float>& s, std::size_t sub) {
  if constexpr (OneScale<T>) return half(block + offsetof(typename T::layout, d));
  else return T::terms(s, sub).step;
}
template <class T>
HWY_INLINE float shift_of(const std::uint8_t* block, const typename T::template params<float>& s, std::size_t sub) {
  if constexpr (OneScale<T>) return half(block + offsetof(typename T::layout, m));
  else return -T::terms(s, sub).low;
}

/// Four low bits of 32 weights, of which the fifth lie together.
template <class T>
concept FifthBits = T::block_size == 32 && requires(typename T::layout l) {
  requires sizeof(l.qs) == 16;
  requires sizeof(l.qh) == 4;
};
/// Scales and minimums of 8 groups, 6 bits each, in 12 bytes.
template <class T>
concept SixBitPairs = T::block_size == 256 && T::sub_size == 32 && requires(typename T::layout l) {
  requires sizeof(l.scales) == 12;
  l.dmin;
};

/// T::load, for layouts whose spare bits the library spreads with integer instructions.
template <class T>
HWY_INLINE void load(const std::uint8_t* block, std::uint8_t* code, typename T::template params<float>& s) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (FifthBits<T>) {
    const hn::FixedTag<std::uint8_t, 16> d;
    alignas(16) static constexpr std::uint8_t byte_of[32] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
    alignas(16) static constexpr std::uint8_t bit_of[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    std::uint32_t bits = 0;
    std::memcpy(&bits, block + offsetof(typename T::layout, qh), sizeof bits);
    const auto all = hn::BitCast(d, hn::Set(hn::Repartition<std::uint32_t, decltype(d)>(), bits)), bit = hn::Load(d, bit_of);
    const auto nibbles = hn::LoadU(d, block + offsetof(typename T::layout, qs)), fifth = hn::Set(d, 16);
    const auto low = hn::Eq(hn::And(hn::TableLookupBytes(all, hn::Load(d, byte_of)), bit), bit);
    const auto high = hn::Eq(hn::And(hn::TableLookupBytes(all, hn::Load(d, byte_of + 16)), bit), bit);
    hn::StoreU(hn::Or(hn::And(nibbles, hn::Set(d, 15)), hn::And(hn::VecFromMask(d, low), fifth)), d, code);
    hn::StoreU(hn::Or(hn::ShiftRight<4>(nibbles), hn::And(hn::VecFromMask(d, high), fifth)), d, code + 16);
    return;
  }
#endif
  T::load(block, code, s);
}

/// step[j] = d * scale of each group, times the scale of its activations; rest += what the minimums take away, in lanes. As T::terms, eight at a time.
template <class T>
HWY_INLINE void pair_terms(const std::uint8_t* block, const typename T::template params<float>& s, const float* scale, const float* sums, float* step, VF& rest) {
  const DF d;
  const hn::Rebind<std::uint8_t, DF> bytes;
  std::uint32_t a[3];
  std::memcpy(a, block + offsetof(typename T::layout, scales), sizeof a);
  const std::uint32_t low = 0x3f3f3f3f, nibble = 0x0f0f0f0f, upper = 0x30303030;
  const std::uint32_t codes[4] = {a[0] & low, (a[2] & nibble) | ((a[0] >> 2) & upper), a[1] & low, ((a[2] >> 4) & nibble) | ((a[1] >> 2) & upper)};
  std::uint8_t b[16];
  std::memcpy(b, codes, sizeof b);
  for (std::size_t j = 0; j < 8; j += hn::Lanes(d)) {
    const auto number = [&](std::size_t at) HWY_ATTR { return hn::ConvertTo(d, hn::PromoteTo(D32(), hn::LoadU(bytes, b + at))); };
    hn::StoreU(hn::Mul(hn::Mul(hn::Set(d, s.d), number(j)), hn::LoadU(d, scale + j)), d, step + j);
    rest = hn::NegMulAdd(hn::Mul(hn::Set(d, s.dmin), number(8 + j)), hn::LoadU(d, sums + j), rest);
  }
}

/// Whole numbers times activations first, then the step.
template <class T>
HWY_INLINE void dot_steps(const std::uint8_t* blocks, std::size_t rows, std::size_t cols, const activations& x, float* y) {
  const DF d;
  constexpr std::size_t subs = T::block_size / T::sub_size;
  static_assert(T::sub_size == 16 || T::sub_size == 32);
  const std::size_t count = cols / T::block_size;
  for (std::size_t r = 0; r < rows; ++r) {
    VF all = hn::Zero(d), other = hn::Zero(d);  // turn by turn: an addition takes four clocks
    [[maybe_unused]] VF shifts = hn::Zero(d);
    [[maybe_unused]] float rest = 0, other_rest = 0;
    for (std::size_t b = 0; b < count; ++b, blocks += T::block_bytes) {
      std::uint8_t code[T::block_size];
      typename T::template params<float> s;
      load<T>(blocks, code, s);
      [[maybe_unused]] float step[8];
      if constexpr (SixBitPairs<T>) pair_terms<T>(blocks, s, x.scale + 8 * b, x.sums + 8 * b, step, shifts);
      if constexpr (Symmetric<T>) {
        // 16 at a time: a wider load would have to wait for what `load` has stored in halves.
        const hn::CappedTag<std::uint8_t, 16> bytes;
        for (std::size_t i = 0; i < T::block_size; i += hn::Lanes(bytes))
          hn::StoreU(hn::Sub(hn::LoadU(bytes, code + i), hn::Set(bytes, static_cast<std::uint8_t>(T::half))), bytes, code + i);
      }
      for (std::size_t j = 0; j < subs; ++j) {
        const std::size_t first = j * T::sub_size, at = b * T::block_size + first;
        VF part;
        if constexpr (Symmetric<T>) part = products<T::sub_size>(reinterpret_cast<const std::int8_t*>(code) + first, x.q + at);
        else part = products<T::sub_size>(static_cast<const std::uint8_t*>(code) + first, x.q + at);
        const float factor = SixBitPairs<T> ? step[j % 8] : step_of<T>(blocks, s, j) * x.scale[at / 32];
        const VF more = hn::MulAdd(hn::Set(d, factor), part, all);
        all = other, other = more;
        if constexpr (Asymmetric<T> && !SixBitPairs<T>) {
          const float more_rest = rest + shift_of<T>(blocks, s, j) * (T::sub_size == 32 ? x.sums[at / 32] : x.half_sums[at / 16]);
          rest = other_rest, other_rest = more_rest;
        }
      }
    }
    if constexpr (SixBitPairs<T>) all = hn::Add(all, shifts);
    y[r] = hn::GetLane(hn::SumOfLanes(d, hn::Add(all, other))) + (rest + other_rest);
  }
}

/// Weights as the library decodes them.
template <class T>
HWY_INLINE void dot_decoded(const std::uint8_t* blocks, std::size_t rows, std::size_t cols, const float* x, float* y) {
  const D d;
  constexpr std::size_t lane = hn::MaxLanes(D());
  const std::size_t count = cols / T::block_size;
  for (std::size_t r = 0; r < rows; ++r) {
    V t[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};  // a sum of its own for every fourth vector: an addition takes four clocks
    const float* at = x;
    for (std::size_t b = 0; b < count; ++b, at += T::block_size, blocks += T::block_bytes) {
      std::uint8_t code[T::block_size];
      typename T::template params<float> s;
      T::load(blocks, code, s);
      if constexpr (requires { T::terms(s, 0); }) {
        for (std::size_t i = 0; i < T::block_size; i += T::sub_size) {
          const auto own = T::terms(s, i / T::sub_size);
          const ar::gguf_terms<lanes> terms{{hn::Set(d, own.step)}, {hn::Set(d, own.low)}};
          for (std::size_t k = 0; k < T::sub_size; k += lane) {
            const lanes w = T::decode(library::lane_load_code<lanes>(code + i + k), terms);
            t[k / lane % 4] = hn::MulAdd(w.raw, hn::LoadU(d, at + i + k), t[k / lane % 4]);
          }
        }
      } else {
        const auto p = library::rows::broadcast<T, lanes>(library::rows::to_array<T, float>(s));
        for (std::size_t k = 0; k < T::block_size; k += lane) {
          const lanes w = T::decode(library::lane_load_code<lanes>(code + k), p, 0);
          t[k / lane % 4] = hn::MulAdd(w.raw, hn::LoadU(d, at + k), t[k / lane % 4]);
        }
      }
    }
    y[r] = sum(t[0], t[1], t[2], t[3]);
  }
}

template <class T>
void dot_blocks(const std::uint8_t* blocks, std::size_t rows, std::size_t cols, const activations& x, float* y) {
  if constexpr (Symmetric<T> || Asymmetric<T>) dot_steps<T>(blocks, rows, cols, x, y);
  else dot_decoded<T>(blocks, rows, cols, x.x, y);
}

template <class... T>
block_dot find(ar::type_list<T...>, std::uint32_t id) {
  block_dot found = nullptr;
  (void)((static_cast<std::uint32_t>(T::id) == id && (found = dot_blocks<T>, true)) || ...);
  return found;
}
block_dot find_blocks(std::uint32_t id) { return find(library::gguf::all_types{}, id); }

// ---- codes with a step for each group ----

/// Groups that end where 32 activations or half of them end.
template <std::size_t Size, class Code>
HWY_INLINE float dot_whole(const Code* code, std::size_t cols, std::size_t group, const float* step, const activations& x) {
  const DF d;
  VF all = hn::Zero(d), other = hn::Zero(d);
  for (std::size_t first = 0, g = 0; first < cols; first += group, ++g) {
    const std::size_t end = cols - first < group ? cols : first + group;
    for (std::size_t k = first; k < end; k += Size) {
      const VF more = hn::MulAdd(hn::Set(d, step[g] * x.scale[k / 32]), products<Size>(code + k, x.q + k), all);
      all = other, other = more;
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(all, other)));
}

template <class Code>
HWY_INLINE float dot_groups(const Code* code, std::size_t cols, std::size_t group, const float* step, const activations& x) {
  if (group % 32 == 0 || group >= cols) return dot_whole<32>(code, cols, group, step, x);
  if (group % 16 == 0) return dot_whole<16>(code, cols, group, step, x);
  float sum = 0;
  for (std::size_t k = 0; k < cols; ++k) sum += step[k / group] * (static_cast<float>(code[k]) * x.x[k]);
  return sum;
}

float dot_unsigned(const std::uint8_t* code, std::size_t cols, std::size_t group, const float* step, const activations& x) { return dot_groups(code, cols, group, step, x); }
float dot_signed(const std::int8_t* code, std::size_t cols, std::size_t group, const float* step, const activations& x) { return dot_groups(code, cols, group, step, x); }

void look_up_bytes(const std::uint8_t* code, std::size_t n, const std::int8_t* table, std::int8_t* out) {
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t i = 0; i < n; ++i) out[i] = table[code[i]];
#else
  const hn::CappedTag<std::uint8_t, 64> d;
  const hn::RebindToSigned<decltype(d)> s;
  const auto t = hn::LoadDup128(s, table);
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) hn::StoreU(hn::TableLookupBytes(t, hn::LoadU(d, code + i)), d, reinterpret_cast<std::uint8_t*>(out) + i);
#endif
}

// ---- 16-bit numbers ----

HWY_INLINE V wide_bf16(const std::uint16_t* w) {
  const hn::Rebind<std::uint16_t, D> half;
  const hn::RebindToUnsigned<D> word;
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(word, hn::LoadU(half, w))));
}

float dot_bfloat(const std::uint16_t* w, const float* x, std::size_t n) {
  const D d;
  const std::size_t step = hn::Lanes(d);
  V t[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::size_t k = 0;
  for (; k + 4 * step <= n; k += 4 * step)
    for (std::size_t i = 0; i < 4; ++i) t[i] = hn::MulAdd(wide_bf16(w + k + i * step), hn::LoadU(d, x + k + i * step), t[i]);
  for (; k + step <= n; k += step) t[0] = hn::MulAdd(wide_bf16(w + k), hn::LoadU(d, x + k), t[0]);
  float rest = 0;
  for (; k < n; ++k) rest += ar::f32_from_bf16(w[k]) * x[k];
  return sum(t[0], t[1], t[2], t[3]) + rest;
}

float dot_half(const std::uint16_t* w, const float* x, std::size_t n) {
  const D d;
  const hn::Rebind<hwy::float16_t, D> half;
  const std::size_t step = hn::Lanes(d);
  V t[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::size_t k = 0;
  const auto* const h = reinterpret_cast<const hwy::float16_t*>(w);
  for (; k + 4 * step <= n; k += 4 * step)
    for (std::size_t i = 0; i < 4; ++i) t[i] = hn::MulAdd(hn::PromoteTo(d, hn::LoadU(half, h + k + i * step)), hn::LoadU(d, x + k + i * step), t[i]);
  for (; k + step <= n; k += step) t[0] = hn::MulAdd(hn::PromoteTo(d, hn::LoadU(half, h + k)), hn::LoadU(d, x + k), t[0]);
  float rest = 0;
  for (; k < n; ++k) rest += ar::f32_from_f16(w[k]) * x[k];
  return sum(t[0], t[1], t[2], t[3]) + rest;
}

}  // namespace HWY_NAMESPACE
}  // namespace auto_round::packed
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace auto_round::packed {

HWY_EXPORT(find_blocks);
HWY_EXPORT(round_row);
HWY_EXPORT(dot_unsigned);
HWY_EXPORT(dot_signed);
HWY_EXPORT(look_up_bytes);
HWY_EXPORT(dot_half);
HWY_EXPORT(dot_bfloat);

block_dot find_block_dot(std::uint32_t id) { return HWY_DYNAMIC_DISPATCH(find_blocks)(id); }
activations round_activations(const float* x, std::size_t n, std::int16_t* q, float* scale, float* sums, float* half_sums) {
  HWY_DYNAMIC_DISPATCH(round_row)(x, n, q, scale, sums, half_sums);
  return {x, q, scale, sums, half_sums};
}
float dot_codes(const std::uint8_t* code, std::size_t cols, std::size_t group, const float* step, const activations& x) {
  return HWY_DYNAMIC_DISPATCH(dot_unsigned)(code, cols, group, step, x);
}
float dot_codes(const std::int8_t* code, std::size_t cols, std::size_t group, const float* step, const activations& x) {
  return HWY_DYNAMIC_DISPATCH(dot_signed)(code, cols, group, step, x);
}
void look_up(const std::uint8_t* code, std::size_t n, const std::array<std::int8_t, 16>& table, std::int8_t* out) {
  HWY_DYNAMIC_DISPATCH(look_up_bytes)(code, n, table.data(), out);
}
float dot_f16(const std::uint16_t* w, const float* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(dot_half)(w, x, n); }
float dot_bf16(const std::uint16_t* w, const float* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(dot_bfloat)(w, x, n); }

}  // namespace auto_round::packed
#endif
