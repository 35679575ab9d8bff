// Matrices in every layout that ar/convert.hpp knows, erased, so that properties of pairs are compiled once; and what a user of the other doors reads
// in them (ar/pack.hpp and the documented formula; ggml's decoder for GGUF). No code of the conversion plays a part in that.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ar/convert.hpp"
#include "ar/gguf.hpp"
#include "support/fuzz_bytes.hpp"

namespace support {

struct any_tensors {
  std::size_t rows, cols;
  any_tensors(std::size_t r, std::size_t c) : rows(r), cols(c) {}
  virtual ~any_tensors() = default;
  virtual int bits() const = 0;
  virtual std::size_t groups() const = 0;  ///< of a row
  virtual bool one_group() const = 0;      ///< for the whole tensor
  virtual bool has_bias() const = 0;
  virtual int lowest_zero() const = 0;
  virtual float nearest_number(float x) const = 0;  ///< as scales are stored
  /// code [rows x cols], scale and offset (zero point or bias) [rows x groups].
  virtual void write(const std::vector<std::uint8_t>& code, const std::vector<float>& scale, const std::vector<float>& offset) = 0;
  virtual std::vector<float> weights() const = 0;
  virtual std::vector<std::span<std::uint8_t>> bytes() = 0;  ///< of all tensors
  virtual bool equals(const any_tensors& same_layout) const = 0;
};

template <class Layout>
struct tensors : any_tensors {
  using L = Layout;
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
  friend bool operator==(const tensors& a, const tensors& b) {
    return a.codes == b.codes && a.offsets == b.offsets && same_numbers(a.scales, b.scales);
  }
  static bool same_numbers(const std::vector<typename L::number>& a, const std::vector<typename L::number>& b) {
    return a.size() == b.size() && (a.empty() || __builtin_memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
  }
  /// False where the layout has no such matrix.
  bool possible() const {
    if constexpr (requires { L::has_zeros; }) {
      if (L::has_zeros && offset == ar::matrix_shape()) return false;
    }
    return code != ar::matrix_shape();
  }

  int bits() const override { return layout.bits(); }
  std::size_t groups() const override { return layout.group_size() <= 0 ? 1 : ar::ceil_div(cols, static_cast<std::size_t>(layout.group_size())); }
  bool one_group() const override { return layout.group_size() == 0; }
  bool has_bias() const override { return L::has_bias; }
  int lowest_zero() const override { return layout.lowest_zero(); }
  float nearest_number(float x) const override;
  void write(const std::vector<std::uint8_t>& code, const std::vector<float>& scale, const std::vector<float>& offset) override;
  std::vector<float> weights() const override;
  std::vector<std::span<std::uint8_t>> bytes() override {
    const auto raw = [](auto& v) { return std::span(reinterpret_cast<std::uint8_t*>(v.data()), v.size() * sizeof(v[0])); };
    return {raw(codes), raw(scales), raw(offsets)};
  }
  bool equals(const any_tensors& o) const override { return *this == static_cast<const tensors&>(o); }
};

/// How a layout is read and written by the other doors.
template <class L>
struct door;

template <class C, ar::group_offset Offset, int Bits, int Group, ar::real Format>
struct door<ar::codec_layout<C, Offset, Bits, Group, Format>> {
  using layout = ar::codec_layout<C, Offset, Bits, Group, Format>;
  static constexpr auto convention = Offset == ar::group_offset::zero_v1 ? ar::zero_convention::v1 : ar::zero_convention::v2;
  static constexpr bool has_bias = Offset == ar::group_offset::bias, has_zeros = !has_bias && Offset != ar::group_offset::none;
  static auto number(float x) {
    if constexpr (Format == ar::real::f16) {
      return ar::f16_from_f32(x);
    } else if constexpr (Format == ar::real::bf16) {
      return ar::bf16_from_f32(x);
    } else {
      return x;
    }
  }
  static float number_back(typename layout::number x) {
    if constexpr (Format == ar::real::f16) {
      return ar::f32_from_f16(x);
    } else if constexpr (Format == ar::real::bf16) {
      return ar::f32_from_bf16(x);
    } else {
      return x;
    }
  }
  static std::size_t scale_at(const tensors<layout>& t, std::size_t n, std::size_t g) {
    return t.one_group() ? 0 : C::order == ar::scale_order::groups_by_rows ? g * t.rows + n : n * t.groups() + g;
  }
  static void write(tensors<layout>& t, const std::vector<std::uint8_t>& code, const std::vector<float>& scale, const std::vector<float>& offset) {
    const std::size_t g = t.groups();
    must(ar::pack(C{}, t.bits(), {code.data(), t.rows, t.cols}, {t.codes.data(), t.code.rows, t.code.cols}) == ar::errc::ok);
    for (std::size_t i = 0; i < t.rows * g; ++i) {
      t.scales[scale_at(t, i / g, i % g)] = number(scale[i]);
      if constexpr (has_bias) t.offsets[scale_at(t, i / g, i % g)] = number(offset[i]);
    }
    if constexpr (has_zeros) {
      const std::vector<std::int32_t> zero(offset.begin(), offset.end());
      must(ar::pack_zeros(C{}, convention, t.bits(), {zero.data(), t.rows, g}, {t.offsets.data(), t.offset.rows, t.offset.cols}) == ar::errc::ok);
    }
  }
  static std::vector<float> weights(const tensors<layout>& t) {
    const std::size_t g = t.groups(), step = g == 1 ? t.cols : static_cast<std::size_t>(t.layout.group_size());
    std::vector<std::uint8_t> code(t.rows * t.cols);
    must(ar::unpack(C{}, t.bits(), {t.codes.data(), t.code.rows, t.code.cols}, {code.data(), t.rows, t.cols}) == ar::errc::ok);
    std::vector<std::int32_t> zero(t.rows * g, 1 << (t.bits() - 1));
    if constexpr (has_zeros)
      must(ar::unpack_zeros(C{}, convention, t.bits(), {t.offsets.data(), t.offset.rows, t.offset.cols}, {zero.data(), t.rows, g}) == ar::errc::ok);
    std::vector<float> w(code.size());
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t n = i / t.cols, k = i % t.cols / step;
      const float s = number_back(t.scales[scale_at(t, n, k)]), q = code[i];
      if constexpr (has_bias) {
        w[i] = s * q + number_back(t.offsets[scale_at(t, n, k)]);
      } else {
        w[i] = s * (q - static_cast<float>(zero[n * g + k]));
      }
    }
    return w;
  }
};

template <class T>
struct door<ar::gguf_layout<T>> {
  using layout = ar::gguf_layout<T>;
  static float number_back(std::uint16_t x) { return ar::f32_from_f16(x); }
  static std::uint16_t number(float x) { return ar::f16_from_f32(x); }
  static void write(tensors<layout>& t, const std::vector<std::uint8_t>& code, const std::vector<float>& scale, const std::vector<float>& offset) {
    for (std::size_t i = 0; i < t.rows * t.groups(); ++i) {
      typename layout::params p{};
      p.d = scale[i];
      if constexpr (layout::has_bias) p.m = offset[i];
      T::store(p, code.data() + i * T::block_size, t.codes.data() + i * T::block_bytes);
    }
  }
  static std::vector<float> weights(const tensors<layout>& t) {
    std::vector<float> w(t.rows * t.cols);
    must(ar::dequantize_gguf<T>(t.codes, {w.data(), t.rows, t.cols}) == ar::errc::ok);
    return w;
  }
};

template <class L>
float tensors<L>::nearest_number(float x) const {
  return door<L>::number_back(door<L>::number(x));
}
template <class L>
void tensors<L>::write(const std::vector<std::uint8_t>& c, const std::vector<float>& s, const std::vector<float>& o) {
  door<L>::write(*this, c, s, o);
}
template <class L>
std::vector<float> tensors<L>::weights() const {
  return door<L>::weights(*this);
}

/// Every layout, with all that is dynamic left so, and each format of scales at least once.
using layouts = ar::type_list<ar::layout::gptq_v1<>, ar::layout::gptq_v2<>, ar::layout::gptq_v2<ar::dynamic, ar::dynamic, ar::real::f32>,
                              ar::layout::gptq_planes<>, ar::layout::awq<>, ar::layout::pack_quantized<>,
                              ar::layout::pack_quantized<ar::dynamic, ar::dynamic, ar::real::bf16>, ar::layout::pack_quantized_asym<>,
                              ar::layout::int_quantized<ar::dynamic>, ar::layout::mlx<>, ar::layout::mlx<ar::dynamic, ar::dynamic, ar::real::f32>,
                              ar::layout::gguf<ar::q4_0>, ar::layout::gguf<ar::q4_1>, ar::layout::gguf<ar::q5_0>, ar::layout::gguf<ar::q5_1>,
                              ar::layout::gguf<ar::q8_0>>;

using maker = std::unique_ptr<any_tensors> (*)(int bits, int group, std::size_t rows, std::size_t cols);
using converter = ar::errc (*)(const any_tensors& from, any_tensors& to, ar::zero_sign sign);

/// The matrix in layout L with these dynamic fields (static ones must agree), or null if there is none.
template <class L>
std::unique_ptr<any_tensors> make_tensors(int bits, int group, std::size_t rows, std::size_t cols) {
  L layout;
  if constexpr (std::is_constructible_v<L, int, int>) layout = L(bits, group);
  if (!layout.valid() || layout.bits() != bits || layout.group_size() != group) return nullptr;
  auto t = std::make_unique<tensors<L>>(layout, rows, cols);
  return t->possible() ? std::move(t) : nullptr;
}
template <class From, class To>
ar::errc convert_pair(const any_tensors& from, any_tensors& to, ar::zero_sign sign) {
  const auto& f = static_cast<const tensors<From>&>(from);
  auto& t = static_cast<tensors<To>&>(to);
  return ar::convert(f.layout, f.in(), t.layout, t.out(), f.rows, f.cols, sign);
}
template <class From, class To>
constexpr converter converter_of() {
  if constexpr (ar::can_convert<From, To>) return convert_pair<From, To>;
  return nullptr;
}
template <class L>
std::string layout_name() {
  return __PRETTY_FUNCTION__;
}

/// All layouts and all pairs: converters[from][to], null where the compiler refuses.
template <class List = layouts>
struct layout_table;
template <class... L>
struct layout_table<ar::type_list<L...>> {
  static constexpr std::size_t size = sizeof...(L);
  std::vector<std::string> names{layout_name<L>()...};
  std::vector<maker> make{make_tensors<L>...};
  std::vector<std::vector<converter>> convert{row<L>()...};

 private:
  template <class From>
  static std::vector<converter> row() {
    return {converter_of<From, L>()...};
  }
};

/// Equal bits, or equal numbers where the sign of zero does not count.
inline bool same_weights(const std::vector<float>& x, const std::vector<float>& y, ar::zero_sign sign) {
  for (std::size_t i = 0; i < x.size(); ++i)
    if (sign == ar::zero_sign::any ? x[i] != y[i] : std::bit_cast<std::uint32_t>(x[i]) != std::bit_cast<std::uint32_t>(y[i])) return false;
  return x.size() == y.size();
}

}  // namespace support
