// tq1_0: GGUF TQ1_0. 256 ternary weights, five to a byte, and their largest magnitude in half precision. 1.6875 bits a weight.
// Source: ggml 0.25.3 (quantize_row_tq1_0); equal bit for bit.
#if defined(AR_DTYPE_TQ1_0_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_TQ1_0_HPP
#else
#define AR_DTYPE_TQ1_0_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"

AR_BEGIN_TARGET

struct tq1_0 {
  static constexpr const char* name = "tq1_0";
  static constexpr gguf_id id = gguf_id::tq1_0;
  static constexpr std::size_t block_size = 256;
  static constexpr std::size_t sub_size = 256;
  static constexpr std::size_t block_bytes = 54;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 2; }

  template <class F>
  struct params {
    F d;
  };
  /// Trit n of byte m of qs[0..31] is weight 32 n + m, of qs[32..47] weight 160 + 16 n + m - 32; of qh weight 240 + 4 n + m (four trits).
  struct layout {
    std::uint8_t qs[48];
    std::uint8_t qh[4];
    detail::le16 d;
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer: largest magnitude, weights to -1, 0, 1. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F d = gguf::first_extreme(x, 256).magnitude;
    const F inverse = lane_select(lane_eq(d, lane_set<F>(0.0f)), lane_set<F>(0.0f), lane_set<F>(1.0f) / d);
    p.d = lane_round_f16(d);
    for (std::size_t i = 0; i < 256; ++i)
      code[i] = gguf::lane_trunc_or_zero(gguf::lane_round_away(x[i] * inverse)) + lane_set<F>(1.0f);
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return (code - lane_set<F>(1.0f)) * p.d;
  }

  /// Five trits as a fraction of 256: the reader multiplies by powers of 3 and looks at what overflows.
  AR_FN static constexpr std::uint8_t pack(const std::uint8_t* code, std::size_t step, std::size_t count) noexcept {
    std::uint32_t v = 0;
    for (std::size_t n = 0; n < 5; ++n) v = v * 3 + (n < count ? code[n * step] : 0u);
    return detail::byte_of((v * 256 + 242) / 243);
  }
  AR_FN static constexpr void unpack(std::uint32_t byte, std::uint8_t* code, std::size_t step, std::size_t count) noexcept {
    for (std::size_t n = 0; n < count; ++n) {
      code[n * step] = detail::byte_of((byte * 3) >> 8);
      byte = (byte * 3) & 0xFFu;
    }
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_f16(p.d, block + offsetof(layout, d));
    std::uint8_t *qs = block + offsetof(layout, qs), *qh = block + offsetof(layout, qh);
    for (std::size_t m = 0; m < 32; ++m) qs[m] = pack(code + m, 32, 5);
    for (std::size_t m = 0; m < 16; ++m) qs[32 + m] = pack(code + 160 + m, 16, 5);
    for (std::size_t m = 0; m < 4; ++m) qh[m] = pack(code + 240 + m, 4, 4);
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = detail::read_f16(block + offsetof(layout, d));
    const std::uint8_t *qs = block + offsetof(layout, qs), *qh = block + offsetof(layout, qh);
    for (std::size_t m = 0; m < 32; ++m) unpack(qs[m], code + m, 32, 5);
    for (std::size_t m = 0; m < 16; ++m) unpack(qs[32 + m], code + 160 + m, 16, 5);
    for (std::size_t m = 0; m < 4; ++m) unpack(qh[m], code + 240 + m, 4, 4);
  }
};
static_assert(BlockType<tq1_0>);

/// The instances that the dispatch unit holds.
using tq1_0_types = type_list<tq1_0>;

AR_END_TARGET
#endif
