// iq2_s: GGUF IQ2_S. 256 weights in 16 groups of 16; points of 8 values from a lattice of 1024, 4-bit scales. 2.5625 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq2_s); equal bit for bit.
#if defined(AR_DTYPE_IQ2_S_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ2_S_HPP
#else
#define AR_DTYPE_IQ2_S_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq2_s : gguf::lattice_superblock<16> {
  static constexpr const char* name = "iq2_s";
  static constexpr gguf_id id = gguf_id::iq2_s;
  static constexpr std::size_t block_bytes = 82;

  /// qs: the low eight bits of a point's number, qh: the upper two of four points each. A byte of signs for every point. Two scales a byte.
  struct layout {
    detail::le16 d;
    std::uint8_t qs[32];
    std::uint8_t signs[32];
    std::uint8_t qh[8];
    std::uint8_t scales[8];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_2bit_1024>;
    const float d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t g = 0; g < 16; ++g) {
      const std::uint32_t scale = (std::uint32_t{block[offsetof(layout, scales) + g / 2]} >> (4 * (g & 1))) & 15u;
      p.step[g] = (d * (0.5f + static_cast<float>(scale))) * 0.25f;
    }
    for (std::size_t g = 0; g < 16; ++g) {
      const std::uint32_t high = static_cast<std::uint32_t>(block[offsetof(layout, qh) + g / 2]) >> (4 * (g & 1));
      const std::uint8_t* q = block + offsetof(layout, qs) + 2 * g;
      gguf::put_points<8>({&table.point[q[0] | ((high & 3u) << 8)], &table.point[q[1] | (((high >> 2) & 3u) << 8)]},
                          detail::read_le16(block + offsetof(layout, signs) + 2 * g), code + 16 * g);
    }
  }
};
static_assert(ReadableBlockType<iq2_s>);

/// The instances that the dispatch unit holds.
using iq2_s_types = type_list<iq2_s>;

AR_END_TARGET
#endif
