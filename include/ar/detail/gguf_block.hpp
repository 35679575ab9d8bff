// Fields of GGUF blocks: byte-aligned, little-endian, copied as a whole. What the drivers of GGUF types work on, as plain data.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ar/config.hpp"

namespace ar {

/// The ids of the block types in a GGUF file (ggml_type).
enum class gguf_id : std::uint32_t {
  q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, q8_1 = 9, q2_k = 10, q3_k = 11, q4_k = 12, q5_k = 13, q6_k = 14, q8_k = 15,
  iq4_nl = 20, iq4_xs = 23, tq1_0 = 34, tq2_0 = 35, mxfp4 = 39, nvfp4 = 40,
};

/// auto-round's parameters of a matrix [rows x cols] in a GGUF type, row-major: one scale and one offset per group (of 16 or 32 columns), one
/// step of each per super-block (of 256 columns; unused by types without super-blocks). What the offset is depends on the type:
/// weight ~ scale * code - offset for Q2_K, Q4_K and Q5_K; weight ~ scale * (code - offset) for Q4_1 and Q5_1; unused by the symmetric types.
template <class T>
struct gguf_parameters {
  T* scale = nullptr;     ///< [rows x cols / group]
  T* offset = nullptr;    ///< [rows x cols / group], may be null for symmetric types
  T* d_scale = nullptr;   ///< [rows x cols / 256], may be null for types without super-blocks
  T* d_offset = nullptr;  ///< [rows x cols / 256], may be null for symmetric types and types without super-blocks
};

namespace detail {
inline namespace AR_ABI {

/// A 16-bit field at any address.
struct le16 {
  std::uint8_t low, high;
};
AR_FN constexpr le16 to_le16(std::uint32_t v) noexcept { return {static_cast<std::uint8_t>(v & 0xFFu), static_cast<std::uint8_t>((v >> 8) & 0xFFu)}; }
AR_FN constexpr std::uint16_t from_le16(le16 v) noexcept { return static_cast<std::uint16_t>(v.low | (v.high << 8)); }

/// A 32-bit field at any address.
struct le32 {
  std::uint8_t b[4];
};
AR_FN constexpr le32 to_le32(std::uint32_t v) noexcept {
  return {{static_cast<std::uint8_t>(v & 0xFFu), static_cast<std::uint8_t>((v >> 8) & 0xFFu), static_cast<std::uint8_t>((v >> 16) & 0xFFu),
           static_cast<std::uint8_t>(v >> 24)}};
}
AR_FN constexpr std::uint32_t from_le32(le32 v) noexcept {
  return v.b[0] | (static_cast<std::uint32_t>(v.b[1]) << 8) | (static_cast<std::uint32_t>(v.b[2]) << 16) | (static_cast<std::uint32_t>(v.b[3]) << 24);
}

template <std::size_t N>
struct byte_array {
  std::uint8_t b[N];
};

/// Writes a layout (a struct of bytes) to `out`; also in constant expressions.
template <class Layout>
AR_FN constexpr void store_layout(const Layout& layout, std::uint8_t* out) noexcept {
  static_assert(alignof(Layout) == 1);
  if (!std::is_constant_evaluated()) {
    __builtin_memcpy(out, &layout, sizeof(Layout));
    return;
  }
  const auto raw = std::bit_cast<byte_array<sizeof(Layout)>>(layout);
  for (std::size_t i = 0; i < sizeof(Layout); ++i) out[i] = raw.b[i];
}
template <class Layout>
AR_FN constexpr Layout load_layout(const std::uint8_t* in) noexcept {
  static_assert(alignof(Layout) == 1);
  if (!std::is_constant_evaluated()) {
    Layout layout;
    __builtin_memcpy(&layout, in, sizeof(Layout));
    return layout;
  }
  byte_array<sizeof(Layout)> raw{};
  for (std::size_t i = 0; i < sizeof(Layout); ++i) raw.b[i] = in[i];
  return std::bit_cast<Layout>(raw);
}

/// Shift and mask with the type kept a byte.
AR_FN constexpr std::uint8_t byte_of(std::uint32_t v) noexcept { return static_cast<std::uint8_t>(v & 0xFFu); }

}  // namespace AR_ABI
}  // namespace detail
}  // namespace ar
