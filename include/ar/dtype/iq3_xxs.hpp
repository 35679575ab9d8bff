// iq3_xxs: GGUF IQ3_XXS. 256 weights in 8 groups of 32; points of 4 values from a lattice of 256, 4-bit scales. 3.0625 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq3_xxs); equal bit for bit.
#if defined(AR_DTYPE_IQ3_XXS_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ3_XXS_HPP
#else
#define AR_DTYPE_IQ3_XXS_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq3_xxs : gguf::lattice_superblock<32> {
  static constexpr const char* name = "iq3_xxs";
  static constexpr gguf_id id = gguf_id::iq3_xxs;
  static constexpr std::size_t block_bytes = 98;

  /// Of each group: the signs of its 32 weights, seven bits for eight, and the scale above them.
  struct layout {
    detail::le16 d;
    std::uint8_t qs[64];
    detail::le32 signs_and_scale[8];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_3bit_256>;
    const float d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t g = 0; g < 8; ++g) {
      const std::uint32_t field = detail::read_le32(block + offsetof(layout, signs_and_scale) + 4 * g);
      p.step[g] = (d * (0.5f + static_cast<float>(field >> 28))) * 0.5f;
      for (std::size_t half = 0; half < 2; ++half) {
        const std::uint8_t* q = block + offsetof(layout, qs) + 8 * g + 4 * half;
        gguf::put_points<4>({&table.point[q[0]], &table.point[q[1]], &table.point[q[2]], &table.point[q[3]]}, gguf::sixteen_signs(field >> (14 * half)),
                            code + 32 * g + 16 * half);
      }
    }
  }
};
static_assert(ReadableBlockType<iq3_xxs>);

/// The instances that the dispatch unit holds.
using iq3_xxs_types = type_list<iq3_xxs>;

AR_END_TARGET
#endif
