// iq3_s: GGUF IQ3_S. 256 weights in 8 groups of 32; points of 4 values from a lattice of 512, 4-bit scales. 3.4375 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq3_s); equal bit for bit.
#if defined(AR_DTYPE_IQ3_S_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ3_S_HPP
#else
#define AR_DTYPE_IQ3_S_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq3_s : gguf::lattice_superblock<32> {
  static constexpr const char* name = "iq3_s";
  static constexpr gguf_id id = gguf_id::iq3_s;
  static constexpr std::size_t block_bytes = 110;

  /// qs: the low eight bits of a point's number, qh: the ninth of eight points each. A bit of sign for every weight. Two scales a byte.
  struct layout {
    detail::le16 d;
    std::uint8_t qs[64];
    std::uint8_t qh[8];
    std::uint8_t signs[32];
    std::uint8_t scales[4];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_3bit_512>;
    const float d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t g = 0; g < 8; ++g) {
      const std::uint32_t scale = (std::uint32_t{block[offsetof(layout, scales) + g / 2]} >> (4 * (g & 1))) & 15u;
      p.step[g] = d * static_cast<float>(1u + 2u * scale);
    }
    for (std::size_t k = 0; k < 16; ++k) {
      const std::uint8_t* q = block + offsetof(layout, qs) + 4 * k;
      const std::uint32_t high = static_cast<std::uint32_t>(block[offsetof(layout, qh) + k / 2]) << (k % 2 == 0 ? 8 : 4);  // bit 8: the first point's
      gguf::put_points<4>({&table.point[q[0] | (high & 256u)], &table.point[q[1] | ((high >> 1) & 256u)], &table.point[q[2] | ((high >> 2) & 256u)],
                           &table.point[q[3] | ((high >> 3) & 256u)]},
                          detail::read_le16(block + offsetof(layout, signs) + 2 * k), code + 16 * k);
    }
  }
};
static_assert(ReadableBlockType<iq3_s>);

/// The instances that the dispatch unit holds.
using iq3_s_types = type_list<iq3_s>;

AR_END_TARGET
#endif
