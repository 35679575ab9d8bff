// iq1_s: GGUF IQ1_S. 256 weights in 8 groups of 32; points of 8 values -1, 0, 1 from a lattice of 2048, moved by an eighth of the step; 3-bit scales.
// 1.5625 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq1_s); equal bit for bit.
#if defined(AR_DTYPE_IQ1_S_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ1_S_HPP
#else
#define AR_DTYPE_IQ1_S_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq1_s : gguf::lattice_superblock<32, true> {
  static constexpr const char* name = "iq1_s";
  static constexpr gguf_id id = gguf_id::iq1_s;
  static constexpr std::size_t block_bytes = 50;

  /// qs: the low eight bits of a point's number. qh of each group: the upper three bits of its four points, the scale, and whether they move down.
  struct layout {
    detail::le16 d;
    std::uint8_t qs[32];
    detail::le16 qh[8];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_1bit_2048>;
    const float d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t g = 0; g < 8; ++g) {
      const std::uint32_t qh = detail::read_le16(block + offsetof(layout, qh) + 2 * g);
      p.step[g] = d * static_cast<float>(2u * ((qh >> 12) & 7u) + 1u);
      for (std::size_t l = 0; l < 4; ++l)
        gguf::put_moved_point(table.point[block[offsetof(layout, qs) + 4 * g + l] | (((qh >> (3 * l)) & 7u) << 8)], (qh & 0x8000u) != 0,
                              code + 32 * g + 8 * l);
    }
  }
};
static_assert(ReadableBlockType<iq1_s>);

/// The instances that the dispatch unit holds.
using iq1_s_types = type_list<iq1_s>;

AR_END_TARGET
#endif
