// Conversion between packed layouts: for every pair of layouts, what converts has the same weights bit for bit as the layouts' own readers compute
// them (ar/pack.hpp and the float lane; ggml's decoder for GGUF), and what does not is an error that leaves the target alone. The peers' own
// conversions are in golden/formats_convert_test.cpp.
#include "ar/convert.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ar/gguf.hpp"

namespace {

using ar::errc;
using ar::zero_sign;

/// What the properties below need of a matrix in some layout, so that they are compiled once and not for every pair.
struct any_tensors {
  std::size_t rows, cols;
  any_tensors(std::size_t r, std::size_t c) : rows(r), cols(c) {}
  virtual ~any_tensors() = default;
  virtual std::vector<float> weights() const = 0;
  virtual bool equals(const any_tensors& same_layout) const = 0;
  virtual int bits() const = 0;
};

/// The tensors of a layout, owned.
template <class L>
struct tensors : any_tensors {
  L layout;
  std::vector<typename L::word> codes;
  std::vector<typename L::number> scales;
  std::vector<typename L::offset> offsets;
  ar::matrix_shape code, scale, offset;

  tensors(const L& l, std::size_t r, std::size_t c)
      : any_tensors(r, c), layout(l), code(l.code_shape(r, c)), scale(l.scale_shape(r, c)), offset(l.offset_shape(r, c)) {
    codes.assign(code.rows * code.cols, static_cast<typename L::word>(0xABABABAB));
    scales.assign(scale.rows * scale.cols, static_cast<typename L::number>(7));
    offsets.assign(offset.rows * offset.cols, static_cast<typename L::offset>(7));
  }
  typename L::input in() const {
    return {{codes.data(), code.rows, code.cols}, {scales.data(), scale.rows, scale.cols}, {offsets.data(), offset.rows, offset.cols}};
  }
  typename L::output out() {
    return {{codes.data(), code.rows, code.cols}, {scales.data(), scale.rows, scale.cols}, {offsets.data(), offset.rows, offset.cols}};
  }
  friend bool operator==(const tensors& a, const tensors& b) { return a.codes == b.codes && a.scales == b.scales && a.offsets == b.offsets; }
  /// False where the layout has no such matrix.
  bool possible() const {
    if constexpr (requires { L::has_zeros; })
      if (L::has_zeros && offset == ar::matrix_shape()) return false;
    return code != ar::matrix_shape();
  }
  std::vector<float> weights() const override;
  bool equals(const any_tensors& o) const override { return *this == static_cast<const tensors&>(o); }
  int bits() const override { return layout.bits(); }
};

/// A layout as a user of the other doors sees it: writes codes and numbers, and reads weights. No code is shared with the conversion.
template <class L>
struct door;

template <class C, ar::group_offset Offset, int Bits, int Group, ar::real Format>
struct door<ar::codec_layout<C, Offset, Bits, Group, Format>> {
  using layout = ar::codec_layout<C, Offset, Bits, Group, Format>;
  static constexpr auto convention = Offset == ar::group_offset::zero_v1 ? ar::zero_convention::v1 : ar::zero_convention::v2;
  static typename layout::number number(float x) {
    if constexpr (Format == ar::real::f16)
      return ar::f16_from_f32(x);
    else if constexpr (Format == ar::real::bf16)
      return ar::bf16_from_f32(x);
    else
      return x;
  }
  static float number_back(typename layout::number x) {
    if constexpr (Format == ar::real::f16)
      return ar::f32_from_f16(x);
    else if constexpr (Format == ar::real::bf16)
      return ar::f32_from_bf16(x);
    else
      return x;
  }
  static std::size_t groups(const tensors<layout>& t) {
    return t.layout.group_size() <= 0 ? 1 : ar::ceil_div(t.cols, static_cast<std::size_t>(t.layout.group_size()));
  }
  static std::size_t scale_at(const tensors<layout>& t, std::size_t n, std::size_t g) {
    return t.layout.group_size() == 0 ? 0 : C::order == ar::scale_order::groups_by_rows ? g * t.rows + n : n * groups(t) + g;
  }
  static std::size_t group_of(const tensors<layout>& t, std::size_t k) {
    return t.layout.group_size() <= 0 ? 0 : k / static_cast<std::size_t>(t.layout.group_size());
  }

  /// scale and offset: [rows x groups]; offsets are zero points or biases.
  static void write(tensors<layout>& t, const std::vector<std::uint8_t>& code, const std::vector<float>& scale, const std::vector<float>& offset) {
    const std::size_t g = groups(t);
    ASSERT_EQ(ar::pack(C{}, t.layout.bits(), {code.data(), t.rows, t.cols}, {t.codes.data(), t.code.rows, t.code.cols}), errc::ok);
    for (std::size_t i = 0; i < t.rows * g; ++i) t.scales[scale_at(t, i / g, i % g)] = number(scale[i]);
    if constexpr (Offset == ar::group_offset::bias) {
      for (std::size_t i = 0; i < t.rows * g; ++i) t.offsets[scale_at(t, i / g, i % g)] = number(offset[i]);
    } else if constexpr (Offset != ar::group_offset::none) {
      const std::vector<std::int32_t> zero(offset.begin(), offset.end());
      ASSERT_EQ(ar::pack_zeros(C{}, convention, t.layout.bits(), {zero.data(), t.rows, g}, {t.offsets.data(), t.offset.rows, t.offset.cols}),
                errc::ok);
    }
  }
  static std::vector<float> weights(const tensors<layout>& t) {
    const std::size_t g = groups(t);
    std::vector<std::uint8_t> code(t.rows * t.cols);
    EXPECT_EQ(ar::unpack(C{}, t.layout.bits(), {t.codes.data(), t.code.rows, t.code.cols}, {code.data(), t.rows, t.cols}), errc::ok);
    std::vector<std::int32_t> zero(t.rows * g, 1 << (t.layout.bits() - 1));
    if constexpr (Offset == ar::group_offset::zero_v1 || Offset == ar::group_offset::zero_v2)
      if (ar::unpack_zeros(C{}, convention, t.layout.bits(), {t.offsets.data(), t.offset.rows, t.offset.cols}, {zero.data(), t.rows, g}) != errc::ok)
        std::abort();
    std::vector<float> w(code.size());
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t n = i / t.cols, k = group_of(t, i % t.cols);
      const float s = number_back(t.scales[scale_at(t, n, k)]), q = code[i];
      if constexpr (Offset == ar::group_offset::bias)
        w[i] = s * q + number_back(t.offsets[scale_at(t, n, k)]);
      else
        w[i] = s * (q - static_cast<float>(zero[n * g + k]));
    }
    return w;
  }
};

template <class T>
struct door<ar::gguf_layout<T>> {
  using layout = ar::gguf_layout<T>;
  static std::size_t groups(const tensors<layout>& t) { return t.cols / T::block_size; }
  static void write(tensors<layout>& t, const std::vector<std::uint8_t>& code, const std::vector<float>& scale, const std::vector<float>& offset) {
    for (std::size_t i = 0; i < t.rows * groups(t); ++i) {
      typename layout::params p{};
      p.d = scale[i];
      if constexpr (layout::has_bias) p.m = offset[i];
      T::store(p, code.data() + i * T::block_size, t.codes.data() + i * T::block_bytes);
    }
  }
  static std::vector<float> weights(const tensors<layout>& t) {
    std::vector<float> w(t.rows * t.cols);
    EXPECT_EQ(ar::dequantize_gguf<T>(t.codes, {w.data(), t.rows, t.cols}), errc::ok);
    return w;
  }
};

namespace to = ar::layout;
using ar::real;
/// Every layout, with all that is dynamic left so, and each format of scales at least once.
using layouts = ar::type_list<to::gptq_v1<>, to::gptq_v2<>, to::gptq_v2<ar::dynamic, ar::dynamic, real::f32>, to::gptq_planes<>, to::awq<>,
                              to::pack_quantized<>, to::pack_quantized<ar::dynamic, ar::dynamic, real::bf16>, to::pack_quantized_asym<>,
                              to::int_quantized<ar::dynamic>, to::mlx<>, to::mlx<ar::dynamic, ar::dynamic, real::f32>, to::gguf<ar::q4_0>,
                              to::gguf<ar::q4_1>, to::gguf<ar::q5_0>, to::gguf<ar::q5_1>, to::gguf<ar::q8_0>>;

/// The layout with these dynamic fields, if it has them: static ones must agree.
template <class L>
bool make(int bits, int group, L& l) {
  if constexpr (std::is_constructible_v<L, int, int>) l = L(bits, group);
  return l.valid() && l.bits() == bits && l.group_size() == group;
}
template <class L>
std::string name_of(const L&) {
  return __PRETTY_FUNCTION__;
}

enum class values { positive, symmetric, coarse, anything };

template <class L>
inline constexpr bool bf16_scales = false;
template <class C, ar::group_offset Offset, int Bits, int Group>
inline constexpr bool bf16_scales<ar::codec_layout<C, Offset, Bits, Group, ar::real::bf16>> = true;

/// Random codes and numbers that the source can hold. `symmetric`: the middle zero point and scales of 8 bits; `positive`: no negative scales either.
/// `coarse`: scales of few bits, so that biases are exact. Scales have both signs, with subnormal halves, the smallest and zero among them; zero
/// points and codes reach both ends.
template <class L>
void fill(tensors<L>& t, values kind, std::mt19937& random) {
  const int bits = t.layout.bits(), top = (1 << bits) - 1, half = 1 << (bits - 1);
  const std::size_t groups = door<L>::groups(t);
  std::vector<std::uint8_t> code(t.rows * t.cols);
  for (auto& c : code) c = static_cast<std::uint8_t>(random() & static_cast<unsigned>(top));
  std::vector<float> scale(t.rows * groups), offset(t.rows * groups);
  const int low = std::is_same_v<L, to::gptq_v1<>> ? 1 : 0;
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const bool middle = kind == values::positive || kind == values::symmetric;
    const float mantissa = static_cast<float>(1 + random() % (kind == values::coarse ? 3u : middle ? 255u : 2047u));
    scale[i] = std::ldexp(mantissa, static_cast<int>(random() % 8) - 20);
    switch (random() % 16) {
      case 0:
        scale[i] = 0x1p-24f;
        break;  // the smallest half
      case 1:
        scale[i] = 0x3p-24f;
        break;  // subnormal
      case 2:
        scale[i] = middle ? 0x1p-10f : 0.0f;
        break;
      default:
        break;
    }
    if (bf16_scales<L>) scale[i] = ar::round_to_bf16(scale[i]);
    if (kind != values::positive && (random() & 1) != 0) scale[i] = -scale[i];
    int zero = middle ? half : static_cast<int>(random() % static_cast<unsigned>(top + 1));
    if (!middle && random() % 4 == 0) zero = (random() & 1) != 0 ? top : low;
    zero = std::max(zero, low);
    offset[i] = L::has_bias ? -(scale[i] * static_cast<float>(zero)) : static_cast<float>(zero);
    if (L::has_bias && kind == values::anything) offset[i] = ar::round_to_f16(offset[i]);
  }
  if (t.layout.group_size() == 0) std::fill(scale.begin(), scale.end(), scale[0]);
  door<L>::write(t, code, scale, offset);
}

template <class L>
std::vector<float> tensors<L>::weights() const {
  return door<L>::weights(*this);
}

bool same_weights(const std::vector<float>& x, const std::vector<float>& y, zero_sign sign) {
  for (std::size_t i = 0; i < x.size(); ++i)
    if (sign == zero_sign::any ? x[i] != y[i] : std::bit_cast<std::uint32_t>(x[i]) != std::bit_cast<std::uint32_t>(y[i])) return false;
  return x.size() == y.size();
}
bool same_weights(const any_tensors& a, const any_tensors& b, zero_sign sign) { return same_weights(a.weights(), b.weights(), sign); }

struct shape {
  std::size_t rows, cols;
  int group;
};
// Whole groups; rows and columns that end inside a tile; a short last group; a row; small and uneven groups.
const shape shapes[] = {{32, 64, 32}, {64, 160, 64}, {32, 96, -1}, {8, 96, 16}, {40, 160, 128}, {32, 96, 24}};

/// A layout of the list, erased: a matrix of random values in it, or null if it has no such matrix.
struct any_layout {
  std::string name;
  std::unique_ptr<any_tensors> (*make)(int bits, int group, std::size_t rows, std::size_t cols, const values* fill_with, std::mt19937* random);
};
template <class L>
std::unique_ptr<any_tensors> make_tensors(int bits, int group, std::size_t rows, std::size_t cols, const values* fill_with, std::mt19937* random) {
  L layout;
  if (!make(bits, group, layout)) return nullptr;
  auto t = std::make_unique<tensors<L>>(layout, rows, cols);
  if (!t->possible()) return nullptr;
  if (fill_with != nullptr) fill(*t, *fill_with, *random);
  return t;
}
template <class From, class To>
errc convert_pair(const any_tensors& from, any_tensors& to, zero_sign sign) {
  const auto& f = static_cast<const tensors<From>&>(from);
  auto& t = static_cast<tensors<To>&>(to);
  return ar::convert(f.layout, f.in(), t.layout, t.out(), f.rows, f.cols, sign);
}
using convert_call = errc (*)(const any_tensors&, any_tensors&, zero_sign);
template <class From, class To>
constexpr convert_call call_of() {
  if constexpr (ar::can_convert<From, To>) return convert_pair<From, To>;
  return nullptr;
}
template <class List>
struct tables;
template <class... L>
struct tables<ar::type_list<L...>> {
  template <class From>
  static std::vector<convert_call> row() {
    return {call_of<From, L>()...};
  }
  static std::vector<std::vector<convert_call>> calls() { return {row<L>()...}; }
  static std::vector<any_layout> all() { return {any_layout{name_of(L{}), make_tensors<L>}...}; }
};

TEST(Convert, EveryPairKeepsTheWeightsOrRefuses) {
  const auto all = tables<layouts>::all();
  const auto calls = tables<layouts>::calls();
  std::mt19937 random(1);
  for (std::size_t i = 0; i < all.size(); ++i) {
    int converted = 0, refused = 0;
    for (const shape& s : shapes)
      for (const int bits : {2, 3, 4, 5, 8})
        for (const values kind : {values::coarse, values::anything}) {
          int group = s.group;
          auto source = all[i].make(bits, group, s.rows, s.cols, &kind, &random);
          if (source == nullptr) source = all[i].make(bits, group = 32, s.rows, s.cols, &kind, &random);
          if (source == nullptr) continue;
          const std::vector<float> want = source->weights();
          for (std::size_t j = 0; j < all.size(); ++j) {
            if (calls[i][j] == nullptr) continue;
            SCOPED_TRACE(all[i].name + " -> " + all[j].name);
            for (const int wide : {bits, bits + 1, 8})
              for (const int to_group : {group, 32}) {
                const auto target = all[j].make(wide, to_group, s.rows, s.cols, nullptr, nullptr);
                if (target == nullptr || wide > 8 || (to_group == group && group == 32 && wide != bits)) continue;
                const auto untouched = all[j].make(wide, to_group, s.rows, s.cols, nullptr, nullptr);
                for (const zero_sign sign : {zero_sign::kept, zero_sign::any}) {
                  const errc e = calls[i][j](*source, *target, sign);
                  if (e != errc::ok) {
                    ++refused;
                    ASSERT_TRUE(e == errc::not_representable || e == errc::unsupported) << ar::message(e);
                    ASSERT_TRUE(target->equals(*untouched));
                    continue;
                  }
                  ++converted;
                  ASSERT_TRUE(same_weights(want, target->weights(), sign))
                      << bits << " bits to " << wide << ", groups of " << group << " to " << to_group;
                  // And back, where that is possible: codes may have moved, weights not.
                  if (wide != bits || calls[j][i] == nullptr) break;
                  const auto back = all[i].make(bits, group, s.rows, s.cols, nullptr, nullptr);
                  if (calls[j][i](*target, *back, sign) == errc::ok) {
                    ASSERT_TRUE(same_weights(want, back->weights(), sign));
                  }
                  break;  // the signs of zeros were kept: nothing more to ask
                }
              }
          }
        }
    EXPECT_GT(converted, 50) << all[i].name;
    EXPECT_GT(refused, 0) << all[i].name;
  }
}

TEST(Convert, AnyLayoutToItselfIsACopy) {
  const auto all = tables<layouts>::all();
  const auto calls = tables<layouts>::calls();
  std::mt19937 random(4);
  for (std::size_t i = 0; i < all.size(); ++i) {
    int cases = 0;
    for (const shape& s : shapes)
      for (int bits = 2; bits <= 8; ++bits) {
        const values kind = values::anything;
        const auto source = all[i].make(bits, s.group, s.rows, s.cols, &kind, &random);
        if (source == nullptr) continue;
        const auto target = all[i].make(bits, s.group, s.rows, s.cols, nullptr, nullptr);
        ASSERT_EQ(calls[i][i](*source, *target, zero_sign::kept), errc::ok) << all[i].name;
        ASSERT_TRUE(source->equals(*target)) << all[i].name;
        ++cases;
      }
    EXPECT_GT(cases, 0) << all[i].name;
  }
}

TEST(Convert, SymmetricWeightsGoEverywhereAndComeBackTheSame) {
  const auto all = tables<layouts>::all();
  const auto calls = tables<layouts>::calls();
  std::mt19937 random(3);
  int cases = 0;
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < all.size(); ++j) {
      // Positive scales first: then even the signs of zeros stay.
      for (const values kind : {values::positive, values::symmetric}) {
        const auto source = all[i].make(4, 32, 64, 128, &kind, &random), target = all[j].make(4, 32, 64, 128, nullptr, nullptr);
        if (source == nullptr || target == nullptr) continue;
        SCOPED_TRACE(all[i].name + " -> " + all[j].name);
        const zero_sign sign = kind == values::positive ? zero_sign::kept : zero_sign::any;
        ASSERT_EQ(calls[i][j](*source, *target, sign), errc::ok);
        ASSERT_TRUE(same_weights(*source, *target, sign));
        const auto back = all[i].make(4, 32, 64, 128, nullptr, nullptr);
        ASSERT_EQ(calls[j][i](*target, *back, sign), errc::ok);
        ASSERT_TRUE(back->equals(*source)) << "byte for byte";
        ++cases;
      }
    }
  EXPECT_GT(cases, 200);
}

/// One row of 32 codes 0 .. 15 twice, with this scale and offset, from one layout to another.
template <class From, class To>
errc one_group(const From& from, const To& to, float scale, float offset, int low = 0, int high = 15, zero_sign sign = zero_sign::kept) {
  const std::size_t rows = 32;
  tensors<From> source(from, rows, 32);
  std::vector<std::uint8_t> code(rows * 32);
  for (std::size_t i = 0; i < code.size(); ++i) code[i] = static_cast<std::uint8_t>(low + static_cast<int>(i) % (high - low + 1));
  door<From>::write(source, code, std::vector<float>(rows, scale), std::vector<float>(rows, offset));
  tensors<To> target(to, rows, 32);
  const tensors<To> untouched = target;
  const errc e = ar::convert(from, source.in(), to, target.out(), rows, 32, sign);
  if (e == errc::ok) {
    EXPECT_TRUE(same_weights(source, target, sign));
  } else {
    EXPECT_TRUE(target == untouched);
  }
  return e;
}

TEST(Convert, WhatTheTargetCannotStoreIsNotRepresentable) {
  const to::gptq_v1<4, 32> v1;
  const to::gptq_v2<4, 32> v2;
  const to::gptq_v2<4, 32, real::f32> v2_f32;
  const to::mlx<4, 32> mlx;
  const to::mlx<4, 32, real::f32> mlx_f32;
  const to::gguf<ar::q4_0> q4_0;
  const to::gguf<ar::q4_1> q4_1;
  const to::gguf<ar::q8_0> q8_0;
  // Zero point 0 in v1: no field. With room above, codes and zero point move up by one.
  EXPECT_EQ(one_group(v2, v1, 0.5f, 0), errc::not_representable);
  EXPECT_EQ(one_group(v2, v1, 0.5f, 0, 0, 14), errc::ok);
  EXPECT_EQ(one_group(v2, v1, 0.5f, 1), errc::ok);
  EXPECT_EQ(one_group(v1, v2, 0.5f, 16), errc::not_representable) << "a v1 field of all ones";
  EXPECT_EQ(one_group(v1, v2, 0.5f, 16, 1, 15), errc::ok);
  // A symmetric target: another zero point only if the codes leave room.
  EXPECT_EQ(one_group(v2, q4_0, 0.5f, 8), errc::ok);
  EXPECT_EQ(one_group(v2, q4_0, 0.5f, 7), errc::not_representable);
  EXPECT_EQ(one_group(v2, q4_0, 0.5f, 7, 0, 14), errc::ok);
  EXPECT_EQ(one_group(v2, q8_0, -0.5f, 3), errc::ok) << "eight bits have room for all";
  // Scales that the target's format does not have.
  EXPECT_EQ(one_group(v2_f32, v2, 0.1f, 8), errc::not_representable);
  EXPECT_EQ(one_group(v2_f32, v2, 0x1p-24f, 8), errc::ok);
  EXPECT_EQ(one_group(v2_f32, v2, 0x1p-25f, 8), errc::not_representable);
  EXPECT_EQ(one_group(v2_f32, q4_0, 70000.0f, 8), errc::not_representable);
  // Biases: exact or nothing. 0x401p-10 has eleven bits, times 3 thirteen.
  EXPECT_EQ(one_group(v2, mlx, 0x401p-10f, 8), errc::ok);
  EXPECT_EQ(one_group(v2, mlx, 0x401p-10f, 3), errc::not_representable);
  EXPECT_EQ(one_group(v2, mlx_f32, 0x401p-10f, 3), errc::ok);
  EXPECT_EQ(one_group(v2, q4_1, 0x401p-10f, 3), errc::not_representable);
  EXPECT_EQ(one_group(v2, q4_1, 0x3p-10f, 5), errc::ok);
  EXPECT_EQ(one_group(v2, q4_1, 16384.0f, 4), errc::not_representable) << "the minimum overflows";
  EXPECT_EQ(one_group(v2_f32, mlx_f32, 0.1f, 3), errc::not_representable) << "two roundings are not one";
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, -1.5f), errc::ok);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, -1.25f), errc::not_representable);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, 1.0f), errc::not_representable) << "zero point -2";
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, 1.0f, 0, 13), errc::ok);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, 60000.0f), errc::not_representable);
  EXPECT_EQ(one_group(q4_1, v2, 0x1p-24f, 60000.0f), errc::not_representable);
  EXPECT_EQ(one_group(q4_1, v2, 0.0f, 1.0f), errc::not_representable) << "a constant that is no multiple of the scale";
  EXPECT_EQ(one_group(q4_1, v2, 0.0f, 0.0f, 8, 15), errc::ok);
  // The sign of a weight that is zero.
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 8), errc::not_representable);
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 8, 9, 15), errc::ok) << "no weight is zero";
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 8, 0, 15, zero_sign::any), errc::ok);
  EXPECT_EQ(one_group(v2, mlx, -0.5f, 0), errc::ok) << "a bias of -0 keeps the sign";
  // What is not finite.
  EXPECT_EQ(one_group(v2_f32, v2, INFINITY, 8), errc::non_finite);
  EXPECT_EQ(one_group(v2, v1, NAN, 8), errc::non_finite);
  EXPECT_EQ(one_group(q4_1, v2, 0.5f, -INFINITY), errc::non_finite);
}

TEST(Convert, GroupsAreSplitAndJoinedIfTheyAreEqual) {
  const to::gptq_v2<4, 128> wide;
  const to::pack_quantized_asym<4, 32> narrow;
  tensors<to::gptq_v2<4, 128>> source(wide, 64, 320), back(wide, 64, 320);
  std::mt19937 random(6);
  fill(source, values::anything, random);
  tensors<to::pack_quantized_asym<4, 32>> split(narrow, 64, 320);
  ASSERT_EQ(ar::convert(wide, source.in(), narrow, split.out(), 64, 320), errc::ok);
  ASSERT_TRUE(same_weights(source, split, zero_sign::kept));
  ASSERT_EQ(ar::convert(narrow, split.in(), wide, back.out(), 64, 320), errc::ok);
  EXPECT_TRUE(back == source);
  split.scales[5] = static_cast<std::uint16_t>(split.scales[5] ^ 1);
  EXPECT_EQ(ar::convert(narrow, split.in(), wide, back.out(), 64, 320), errc::not_representable);
  EXPECT_TRUE(back == source);
  // One scale for the tensor, and a row's.
  const to::pack_quantized<4, 0> tensor;
  const to::pack_quantized<4, -1> row;
  tensors<to::pack_quantized<4, 0>> one(tensor, 70, 100), again(tensor, 70, 100);
  fill(one, values::symmetric, random);
  tensors<to::pack_quantized<4, -1>> rows(row, 70, 100);
  ASSERT_EQ(ar::convert(tensor, one.in(), row, rows.out(), 70, 100), errc::ok);
  ASSERT_TRUE(same_weights(one, rows, zero_sign::kept));
  ASSERT_EQ(ar::convert(row, rows.in(), tensor, again.out(), 70, 100), errc::ok);
  EXPECT_TRUE(again == one);
  rows.scales[69] = static_cast<std::uint16_t>(rows.scales[69] ^ 1);
  EXPECT_EQ(ar::convert(row, rows.in(), tensor, again.out(), 70, 100), errc::not_representable);
}

TEST(Convert, WrongFieldsAndShapesAreErrorsAndNothingIsWritten) {
  const to::gptq_v2<> from(4, 32);
  tensors<to::gptq_v2<>> source(from, 64, 96);
  std::mt19937 random(7);
  fill(source, values::anything, random);
  const auto call = [&](int bits, int group, std::size_t rows, std::size_t cols) {
    const to::pack_quantized_asym<> to(bits, group);
    tensors<ar::layout::pack_quantized_asym<>> target(ar::layout::pack_quantized_asym<>(4, 32), 64, 96);
    const auto untouched = target;
    const errc e = ar::convert(from, source.in(), to, target.out(), rows, cols);
    EXPECT_EQ(e != errc::ok, target == untouched);
    return e;
  };
  EXPECT_EQ(call(4, 32, 64, 96), errc::ok);
  for (const int bits : {-1, 0, 9, 1 << 30}) EXPECT_EQ(call(bits, 32, 64, 96), errc::bad_value);
  for (const int group : {-2, 0, ar::dynamic}) EXPECT_EQ(call(4, group, 64, 96), errc::bad_value);
  EXPECT_EQ(call(3, 32, 64, 96), errc::unsupported) << "fewer bits";
  EXPECT_EQ(call(4, 24, 64, 96), errc::unsupported) << "groups that straddle";
  EXPECT_EQ(call(4, 64, 64, 96), errc::bad_shape);
  EXPECT_EQ(call(5, 32, 64, 96), errc::bad_shape);
  EXPECT_EQ(call(4, 32, 64, 128), errc::bad_shape);
  EXPECT_EQ(call(4, 32, 32, 96), errc::bad_shape);
  EXPECT_EQ(call(4, 32, SIZE_MAX, SIZE_MAX), errc::bad_shape);
  EXPECT_EQ(call(4, 32, std::size_t{1} << 63, 32), errc::bad_shape);
  tensors<to::gguf<ar::q4_0>> blocks({}, 64, 96);
  EXPECT_EQ(ar::convert(from, source.in(), to::gguf<ar::q4_0>{}, {{blocks.codes.data(), 64, 53}, {}, {}}, 64, 96), errc::bad_shape);
  EXPECT_EQ(ar::convert(from, source.in(), to::gguf<ar::q4_0>{}, {{nullptr, 64, 54}, {}, {}}, 64, 96), errc::bad_shape);
  EXPECT_EQ(ar::convert(from, source.in(), to::gguf<ar::q4_0>{}, blocks.out(), 64, 80), errc::bad_shape) << "no whole blocks";
}

TEST(Convert, StaticFactsAreKnownToTheCompiler) {
  static_assert(ar::can_convert<to::gptq_v1<4, 128>, to::gguf<ar::q4_0>> && ar::can_convert<to::gptq_v1<4, 128>, to::gguf<ar::q8_0>>);
  static_assert(!ar::can_convert<to::gptq_v1<8, 128>, to::gguf<ar::q4_0>> && !ar::can_convert<to::gguf<ar::q8_0>, to::awq<4>>);
  static_assert(!ar::can_convert<to::gptq_v1<4, 48>, to::gguf<ar::q4_0>> && ar::can_convert<to::gptq_v1<4, -1>, to::gguf<ar::q4_0>>);
  static_assert(ar::can_convert<to::gptq_v1<>, to::awq<>>);
  static_assert(std::is_empty_v<to::gptq_v1<4, 128>> && std::is_empty_v<to::gguf<ar::q4_0>>);
}

constexpr errc in_a_constant_expression() {
  std::uint32_t zeros[4] = {}, words[4 * 32] = {}, packed[32 * 4] = {};
  std::uint16_t scales[32] = {}, out[32] = {};
  for (auto& z : zeros) z = 0x88888888u;
  for (std::uint32_t i = 0; i < 128; ++i) words[i] = 0x76543210u + i;
  for (auto& s : scales) s = 0x3800;
  const errc e = ar::convert(to::gptq_v2<4, 32>{}, {{words, 4, 32}, {scales, 1, 32}, {zeros, 1, 4}}, to::pack_quantized<4, 32>{},
                             {{packed, 32, 4}, {out, 32, 1}, {}}, 32, 32);
  return packed[1] == words[32] && packed[4] == words[1] && out[31] == 0x3800 ? e : errc::bad_value;
}
static_assert(in_a_constant_expression() == errc::ok);

}  // namespace
