// Fields of GGUF blocks: byte-aligned, little-endian, copied as a whole. What the drivers of GGUF types work on, as plain data.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"
#include "ar/numeric/half.hpp"

namespace ar {

/// The ids of the block types in a GGUF file (ggml_type).
enum class gguf_id : std::uint32_t {
  q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, q8_1 = 9, q2_k = 10, q3_k = 11, q4_k = 12, q5_k = 13, q6_k = 14, q8_k = 15,
  iq2_xxs = 16, iq2_xs = 17, iq3_xxs = 18, iq1_s = 19, iq4_nl = 20, iq3_s = 21, iq2_s = 22, iq4_xs = 23, iq1_m = 29,
  tq1_0 = 34, tq2_0 = 35, mxfp4 = 39, nvfp4 = 40, q1_0 = 41, q2_0 = 42,
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

/// What the weights of a sub block have in common: weight = step * code - low, each type in its own way. Products of a block's fields, so that a
/// reader makes them once for many weights. `low` is not used by the symmetric types.
template <class F>
struct gguf_terms {
  F step, low;
};

namespace detail {
inline namespace AR_ABI {

/// A 16-bit field at any address.
struct le16 {
  std::uint8_t low, high;
};

/// A 32-bit field at any address.
struct le32 {
  std::uint8_t b[4];
};

/// Shift and mask with the type kept a byte.
AR_FN constexpr std::uint8_t byte_of(std::uint32_t v) noexcept { return static_cast<std::uint8_t>(v & 0xFFu); }

// A type's `layout` says where its fields lie; they are read and written in place, at block + offsetof(layout, field). (A copy of the block on the
// stack would be read in other pieces than it was written in, for which processors wait.)
AR_FN constexpr std::uint16_t read_le16(const std::uint8_t* p) noexcept { return static_cast<std::uint16_t>(p[0] | (p[1] << 8)); }
AR_FN constexpr std::uint32_t read_le32(const std::uint8_t* p) noexcept {
  return p[0] | (static_cast<std::uint32_t>(p[1]) << 8) | (static_cast<std::uint32_t>(p[2]) << 16) | (static_cast<std::uint32_t>(p[3]) << 24);
}
AR_FN constexpr void write_le16(std::uint32_t v, std::uint8_t* p) noexcept {
  p[0] = byte_of(v);
  p[1] = byte_of(v >> 8);
}
AR_FN constexpr void write_le32(std::uint32_t v, std::uint8_t* p) noexcept {
  write_le16(v, p);
  write_le16(v >> 16, p + 2);
}
/// A number in half precision.
AR_FN constexpr float read_f16(const std::uint8_t* p) noexcept { return f32_from_f16(read_le16(p)); }
AR_FN constexpr void write_f16(float v, std::uint8_t* p) noexcept { write_le16(f16_from_f32(v), p); }

}  // namespace AR_ABI
}  // namespace detail
}  // namespace ar
