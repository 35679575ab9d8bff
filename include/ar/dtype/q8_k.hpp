// q8_k: GGUF Q8_K. 256 values, 8-bit signed codes, scale in float32, sums of each 16 codes: activations of integer dot products. 9.125 bits.
// Source: ggml 0.25.3 (quantize_row_q8_K_ref); equal bit for bit.
#if defined(AR_DTYPE_Q8_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q8_K_HPP
#else
#define AR_DTYPE_Q8_K_HPP
#endif

#include "ar/detail/gguf_superblock-inl.h"

AR_BEGIN_TARGET

struct q8_k {
  static constexpr const char* name = "q8_k";
  static constexpr gguf_id id = gguf_id::q8_k;
  static constexpr std::size_t block_size = 256;
  static constexpr std::size_t sub_size = 256;
  static constexpr std::size_t block_bytes = 292;
  static constexpr bool weighs_by_row = false;
  static constexpr bool ignores_importance = true;
  AR_FN static constexpr int bits() noexcept { return 8; }

  template <class F>
  struct params {
    F d;
  };
  struct layout {
    detail::le32 d;
    std::uint8_t qs[256];  ///< signed
    detail::le16 sums[16];
  };
  static_assert(sizeof(layout) == block_bytes);

  /// ggml's quantizer: the value of largest magnitude gets code -127. Importance plays no part.
  template <class F>
  AR_NOINLINE AR_FN static constexpr void fit(const F* x, const F*, F* code, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f);
    const auto e = gguf::first_extreme(x, 256);
    const auto none = lane_eq(e.magnitude, zero);
    const F inverse = lane_set<F>(-127.0f) / e.value;
    p.d = lane_select(none, zero, lane_set<F>(1.0f) / inverse);
    for (std::size_t i = 0; i < 256; ++i) {
      const F q = lane_min(lane_nint(inverse * x[i]), lane_set<F>(127.0f));
      // Where the inverse overflows, the original keeps the low byte of -2^22, which is 0.
      code[i] = lane_select(lane_or(none, lane_lt(q, lane_set<F>(-128.0f))), zero, q) + lane_set<F>(128.0f);
    }
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return p.d * (code - lane_set<F>(128.0f));
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    layout b{};
    b.d = detail::to_le32(std::bit_cast<std::uint32_t>(p.d));
    for (std::size_t j = 0; j < 16; ++j) {
      int sum = 0;
      for (std::size_t i = 16 * j; i < 16 * j + 16; ++i) {
        b.qs[i] = code[i] ^ 128;
        sum += code[i] - 128;
      }
      b.sums[j] = detail::to_le16(static_cast<std::uint32_t>(sum));
    }
    detail::store_layout(b, block);
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    const auto b = detail::load_layout<layout>(block);
    p.d = std::bit_cast<float>(detail::from_le32(b.d));
    for (std::size_t i = 0; i < 256; ++i) code[i] = b.qs[i] ^ 128;
  }
};
static_assert(BlockType<q8_k>);

/// The instances that the dispatch unit holds.
using q8_k_types = type_list<q8_k>;

AR_END_TARGET
#endif
