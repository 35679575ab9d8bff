// iq1_m: GGUF IQ1_M. 256 weights in 16 groups of 16; points of 8 values -1, 0, 1 from a lattice of 2048, moved by an eighth of the step; 3-bit scales.
// 1.75 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq1_m); equal bit for bit.
#if defined(AR_DTYPE_IQ1_M_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ1_M_HPP
#else
#define AR_DTYPE_IQ1_M_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq1_m : gguf::lattice_superblock<16, true> {
  static constexpr const char* name = "iq1_m";
  static constexpr gguf_id id = gguf_id::iq1_m;
  static constexpr std::size_t block_bytes = 56;

  /// qs: the low eight bits of a point's number. qh: of each point a nibble, the upper three bits and whether it moves down. Four scales a field; the
  /// upper nibbles of the fields are the half-precision step of the block.
  struct layout {
    std::uint8_t qs[32];
    std::uint8_t qh[16];
    detail::le16 scales[4];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_1bit_2048>;
    std::uint32_t field[4] = {}, step = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      field[i] = detail::read_le16(block + offsetof(layout, scales) + 2 * i);
      step |= (field[i] >> 12) << (4 * i);
    }
    const float d = f32_from_f16(static_cast<std::uint16_t>(step));
    for (std::size_t g = 0; g < 16; ++g) p.step[g] = d * static_cast<float>(2u * ((field[g / 4] >> (3 * (g % 4))) & 7u) + 1u);
    for (std::size_t k = 0; k < 32; ++k) {
      const std::uint32_t n = static_cast<std::uint32_t>(block[offsetof(layout, qh) + k / 2]) >> (4 * (k & 1));
      gguf::put_moved_point(table.point[block[offsetof(layout, qs) + k] | ((n & 7u) << 8)], (n & 8u) != 0, code + 8 * k);
    }
  }
};
static_assert(ReadableBlockType<iq1_m>);

/// The instances that the dispatch unit holds.
using iq1_m_types = type_list<iq1_m>;

AR_END_TARGET
#endif
