// iq2_xs: GGUF IQ2_XS. 256 weights in 16 groups of 16; points of 8 values from a lattice of 512, 4-bit scales. 2.3125 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq2_xs); equal bit for bit.
#if defined(AR_DTYPE_IQ2_XS_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ2_XS_HPP
#else
#define AR_DTYPE_IQ2_XS_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq2_xs : gguf::lattice_superblock<16> {
  static constexpr const char* name = "iq2_xs";
  static constexpr gguf_id id = gguf_id::iq2_xs;
  static constexpr std::size_t block_bytes = 74;

  /// qs: nine bits name a point, seven above them are its signs. Two scales a byte.
  struct layout {
    detail::le16 d;
    detail::le16 qs[32];
    std::uint8_t scales[8];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_2bit_512>;
    const float d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t g = 0; g < 16; ++g) {
      const std::uint32_t scale = (std::uint32_t{block[offsetof(layout, scales) + g / 2]} >> (4 * (g & 1))) & 15u;
      p.step[g] = (d * (0.5f + static_cast<float>(scale))) * 0.25f;
    }
    for (std::size_t g = 0; g < 16; ++g) {
      const std::uint32_t q0 = detail::read_le16(block + offsetof(layout, qs) + 4 * g), q1 = detail::read_le16(block + offsetof(layout, qs) + 4 * g + 2);
      gguf::put_points<8>({&table.point[q0 & 511u], &table.point[q1 & 511u]}, gguf::eight_signs(q0 >> 9) | (gguf::eight_signs(q1 >> 9) << 8),
                          code + 16 * g);
    }
  }
};
static_assert(ReadableBlockType<iq2_xs>);

/// The instances that the dispatch unit holds.
using iq2_xs_types = type_list<iq2_xs>;

AR_END_TARGET
#endif
