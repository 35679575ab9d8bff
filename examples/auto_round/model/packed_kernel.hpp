// Rows of a packed matrix times one row of activations: weights are decoded in registers and never stored. Single-threaded, compiled for every instruction
// set that Highway knows and chosen at run time.
//
// Where weights are whole numbers times a scale, activations are rounded to 16-bit integers with a scale for each 32 of them, so that products are integer
// ones: an activation moves by at most 2^-16 of the largest of its 32. That is less than what float sums of a few hundred products may lose by rounding
// (n 2^-24 of the sum of magnitudes), and half of the work. Other weights (tables of levels, lattices) are multiplied in float.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace auto_round::packed {

/// A row of activations. Entries of q and scale behind its last one are 0 up to a multiple of 32.
struct activations {
  const float* x = nullptr;
  const std::int16_t* q = nullptr;  ///< x rounded, in units of scale[i / 32]
  const float* scale = nullptr;
  const float* sums = nullptr;      ///< of x, for each 32
  const float* half_sums = nullptr; ///< of x, for each 16
};
/// Room for n activations: q rounded up to a multiple of 32; scale, sums and a half of half_sums for each 32 begun. An infinity or NaN makes the scale of
/// its 32 NaN.
activations round_activations(const float* x, std::size_t n, std::int16_t* q, float* scale, float* sums, float* half_sums);

/// y[r] = w[r] . x for `rows` rows of `cols` weights in GGUF blocks; rows follow each other, cols is a whole number of blocks. The weights are those
/// that the library decodes.
using block_dot = void (*)(const std::uint8_t* blocks, std::size_t rows, std::size_t cols, const activations& x, float* y);
/// The product for a ggml type id; null if the library has no such type.
block_dot find_block_dot(std::uint32_t id);

/// sum over groups g of step[g] * (sum of code * x in the group): groups of `group` columns, the last may be shorter. Codes are readable up to a multiple
/// of 32.
float dot_codes(const std::uint8_t* code, std::size_t cols, std::size_t group, const float* step, const activations& x);
float dot_codes(const std::int8_t* code, std::size_t cols, std::size_t group, const float* step, const activations& x);
/// out[i] = table[code[i]], codes below 16. `out` has room for n rounded up to a multiple of 64.
void look_up(const std::uint8_t* code, std::size_t n, const std::array<std::int8_t, 16>& table, std::int8_t* out);

/// w . x for n numbers of half precision or bfloat16.
float dot_f16(const std::uint16_t* w, const float* x, std::size_t n);
float dot_bf16(const std::uint16_t* w, const float* x, std::size_t n);

}  // namespace auto_round::packed
