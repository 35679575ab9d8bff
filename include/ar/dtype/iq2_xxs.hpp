// iq2_xxs: GGUF IQ2_XXS. 256 weights in 8 groups of 32; points of 8 values from a lattice of 256, 4-bit scales. 2.0625 bits a weight. Read only.
// Source: ggml 0.25.3 (dequantize_row_iq2_xxs); equal bit for bit.
#if defined(AR_DTYPE_IQ2_XXS_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_IQ2_XXS_HPP
#else
#define AR_DTYPE_IQ2_XXS_HPP
#endif

#include "ar/detail/gguf_lattice-inl.h"

AR_BEGIN_TARGET

struct iq2_xxs : gguf::lattice_superblock<32> {
  static constexpr const char* name = "iq2_xxs";
  static constexpr gguf_id id = gguf_id::iq2_xxs;
  static constexpr std::size_t block_bytes = 66;

  /// Each group: four bytes name points; 32 bits hold their signs, seven each, and the scale above them.
  struct layout {
    detail::le16 d;
    struct {
      std::uint8_t points[4];
      detail::le32 signs_and_scale;
    } group[8];
  };
  static_assert(sizeof(layout) == block_bytes);

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto& table = detail::lattice<detail::lattice_2bit_256>;
    const float d = detail::read_f16(block + offsetof(layout, d));
    for (std::size_t g = 0; g < 8; ++g) {
      const std::uint8_t* group = block + offsetof(layout, group) + 8 * g;
      const std::uint32_t field = detail::read_le32(group + 4);
      p.step[g] = (d * (0.5f + static_cast<float>(field >> 28))) * 0.25f;
      gguf::put_points<8>({&table.point[group[0]], &table.point[group[1]]}, gguf::sixteen_signs(field), code + 32 * g);
      gguf::put_points<8>({&table.point[group[2]], &table.point[group[3]]}, gguf::sixteen_signs(field >> 14), code + 32 * g + 16);
    }
  }
};
static_assert(ReadableBlockType<iq2_xxs>);

/// The instances that the dispatch unit holds.
using iq2_xxs_types = type_list<iq2_xxs>;

AR_END_TARGET
#endif
