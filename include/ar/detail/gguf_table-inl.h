// The functions of the GGUF door for a lane type, and the table of all of them. Once per SIMD target.
#if defined(AR_DETAIL_GGUF_TABLE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_GGUF_TABLE_INL_H
#else
#define AR_DETAIL_GGUF_TABLE_INL_H
#endif

#include "ar/data_types.hpp"
#include "ar/detail/block_rows-inl.h"
#include "ar/detail/gguf_kernels.hpp"

AR_BEGIN_TARGET

/// A block type of GGUF files: it has an id, and its functions need no object.
template <class T>
concept ReadableGgufType = ReadableBlockType<T> && requires {
  { T::id } -> std::convertible_to<gguf_id>;
};
/// One that weights can be quantized to.
template <class T>
concept GgufType = ReadableGgufType<T> && BlockType<T> && requires {
  { T::weighs_by_row } -> std::convertible_to<bool>;
};
/// A GGUF type that auto-round has parameters for.
template <class T>
concept AutoRoundGgufType = GgufType<T> && requires { typename T::template group_params<float>; };

namespace gguf {

/// Bytes as a matrix of whole rows of blocks; the row count decides when there are no columns.
template <class T, class Byte>
[[nodiscard]] constexpr errc block_matrix(std::span<Byte> bytes, std::size_t rows, std::size_t cols, matrix_view<Byte>& out) noexcept {
  if (cols % T::block_size != 0) return errc::bad_shape;
  std::uint64_t row_bytes = 0, all = 0;
  if (!checked_mul(cols / T::block_size, T::block_bytes, row_bytes) || !checked_mul(row_bytes, rows, all) || all != bytes.size()) return errc::bad_size;
  out = {bytes.data(), rows, static_cast<std::size_t>(row_bytes)};
  return errc::ok;
}
[[nodiscard]] constexpr errc importance_row(std::span<const float> importance, std::size_t cols, const float*& out) noexcept {
  if (!importance.empty() && importance.size() != cols) return errc::bad_size;
  out = importance.empty() ? nullptr : importance.data();
  return errc::ok;
}

template <class T, class V>
[[nodiscard]] constexpr errc quantize(matrix_view<const float> w, std::span<const float> importance, std::span<std::uint8_t> blocks) noexcept {
  matrix_view<std::uint8_t> bytes;
  const float* weight = nullptr;
  if (const errc e = block_matrix<T>(blocks, w.rows, w.cols, bytes); e != errc::ok) return e;
  if (const errc e = importance_row(importance, w.cols, weight); e != errc::ok) return e;
  return rows::quantize<T, V>(T{}, w, weight, bytes);
}

/// What stands in the table for types that are read only.
[[nodiscard]] constexpr errc refuse_to_quantize(matrix_view<const float>, std::span<const float>, std::span<std::uint8_t>) noexcept {
  return errc::unsupported;
}

template <class T, class V>
[[nodiscard]] constexpr errc dequantize(std::span<const std::uint8_t> blocks, matrix_view<float> out) noexcept {
  matrix_view<const std::uint8_t> bytes;
  if (const errc e = block_matrix<T>(blocks, out.rows, out.cols, bytes); e != errc::ok) return e;
  return rows::dequantize<T, V>(T{}, bytes, out);
}

constexpr search_rule rule_of(gguf_variant v) noexcept { return {.bf16 = v.bf16, .reciprocal = v.reciprocal, .magnitude = v.magnitude}; }

template <class T, class V>
[[nodiscard]] constexpr errc search(matrix_view<const float> w, std::span<const float> importance, matrix_view<const float> v, gguf_variant variant,
                                    const gguf_parameters<float>& out) noexcept {
  const float* weight = nullptr;
  if (const errc e = importance_row(importance, w.cols, weight); e != errc::ok) return e;
  return rows::search_blocks<T, V>(w, weight, rule_of(variant), v, out);
}

template <class T, class V>
[[nodiscard]] constexpr errc qdq(matrix_view<const float> w, matrix_view<const float> v, gguf_variant variant,
                                 const gguf_parameters<const float>& parameters, matrix_view<float> out) noexcept {
  return rows::qdq_given<T, V>(w, v, rule_of(variant), parameters, out);
}

template <class T, class V>
[[nodiscard]] constexpr errc pack(matrix_view<const float> w, const gguf_parameters<const float>& parameters, std::span<std::uint8_t> blocks) noexcept {
  matrix_view<std::uint8_t> bytes;
  if (const errc e = block_matrix<T>(blocks, w.rows, w.cols, bytes); e != errc::ok) return e;
  return rows::pack_given<T, V>(w, parameters, bytes);
}

template <class T, class V>
[[nodiscard]] constexpr errc search_and_pack(matrix_view<const float> w, std::span<const float> importance, std::span<std::uint8_t> blocks) noexcept {
  matrix_view<std::uint8_t> bytes;
  const float* weight = nullptr;
  if (const errc e = block_matrix<T>(blocks, w.rows, w.cols, bytes); e != errc::ok) return e;
  if (const errc e = importance_row(importance, w.cols, weight); e != errc::ok) return e;
  return rows::pack_searched<T, V>(w, weight, bytes);
}

template <class T>
[[nodiscard]] constexpr bool scales_are_finite(std::span<const std::uint8_t> blocks) noexcept {
  for (std::size_t at = 0; at + T::block_bytes <= blocks.size(); at += T::block_bytes) {
    std::uint8_t code[T::block_size] = {};
    typename T::template params<float> p{};
    T::load(blocks.data() + at, code, p);
    const auto a = rows::to_array<T, float>(p);
    for (const float f : a.v)
      if (!(lane_abs(f) <= 0x1.fffffep127f)) return false;
    if constexpr (requires { T::finite(p); }) {
      if (!T::finite(p)) return false;
    }
  }
  return true;
}

template <class T, class V>
constexpr gguf_kernels kernels_of() noexcept {
  gguf_kernels k{T::name,      static_cast<std::uint32_t>(T::id), static_cast<std::uint32_t>(T::block_size), static_cast<std::uint32_t>(T::block_bytes),
                 static_cast<std::uint32_t>(T::sub_size), false, false, !GgufType<T>, refuse_to_quantize, dequantize<T, V>, scales_are_finite<T>, nullptr,
                 nullptr, nullptr, nullptr};
  if constexpr (GgufType<T>) k.quantize = quantize<T, V>;
  if constexpr (AutoRoundGgufType<T>) {
    k.superblock = T::groups > 1;
    k.asymmetric = T::asymmetric;
    k.search = search<T, V>;
    k.qdq = qdq<T, V>;
    k.pack = pack<T, V>;
    k.search_and_pack = search_and_pack<T, V>;
  }
  return k;
}

template <class... Lists>
struct joined;
template <>
struct joined<> {
  using type = type_list<>;
};
template <class... T>
struct joined<type_list<T...>> {
  using type = type_list<T...>;
};
template <class... A, class... B, class... Rest>
struct joined<type_list<A...>, type_list<B...>, Rest...> {
  using type = typename joined<type_list<A..., B...>, Rest...>::type;
};
template <class T>
struct only_gguf {
  using type = type_list<>;
};
template <ReadableGgufType T>
struct only_gguf<T> {
  using type = type_list<T>;
};
template <class List>
struct select_gguf;
template <class... T>
struct select_gguf<type_list<T...>> {
  using type = typename joined<type_list<>, typename only_gguf<T>::type...>::type;
};

#define AR_TYPES_OF(stem) , stem##_types
/// Every GGUF type of the library.
using all_types = typename select_gguf<typename joined<type_list<> AR_FOR_EACH_DATA_TYPE(AR_TYPES_OF)>::type>::type;
#undef AR_TYPES_OF

template <class V, class... T>
inline std::span<const gguf_kernels> kernel_table(type_list<T...>) noexcept {
  static constexpr gguf_kernels table[] = {kernels_of<T, V>()...};
  return table;
}
template <class V>
std::span<const gguf_kernels> kernel_table() noexcept {  // not inline: the dispatch unit may leave its instances to another unit
  return kernel_table<V>(all_types{});
}

}  // namespace gguf
AR_END_TARGET
#endif
