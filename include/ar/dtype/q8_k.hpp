// q8_k: GGUF Q8_K. 256 values, 8-bit signed codes, scale in float32, sums of each 16 codes: activations of integer dot products. 9.125 bits.
// Source: ggml 0.25.3 (quantize_row_q8_K_ref); equal bit for bit.
#if defined(AR_DTYPE_Q8_K_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DTYPE_Q8_K_HPP
#else
#define AR_DTYPE_Q8_K_HPP
#endif

#include "ar/detail/gguf_block32-inl.h"

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
    const F extreme = gguf::first_extreme(x, 256).value;
    const auto scaling = fit_extent(gguf::block_extent<F>{extreme, extreme, extreme}, p);  // it looks at no other
    for (std::size_t i = 0; i < 256; ++i) code[i] = code_in_extent(x[i], scaling);
  }
  template <class F>
  AR_FN static constexpr gguf::extent_scaling<F> fit_extent(const gguf::block_extent<F>& e, params<F>& p) noexcept {
    const F zero = lane_set<F>(0.0f);
    const auto none = lane_eq(e.extreme, zero);
    const F inverse = lane_set<F>(-127.0f) / e.extreme;
    p.d = lane_select(none, zero, lane_set<F>(1.0f) / inverse);
    return {lane_select(none, zero, inverse), zero};
  }
  template <class F>
  AR_FN static constexpr F code_in_extent(F x, const gguf::extent_scaling<F>& s) noexcept {
    const F q = lane_min(lane_nint(s.inverse * x), lane_set<F>(127.0f));
    // Where the inverse overflows, the original keeps the low byte of -2^22, which is 0.
    return lane_select(lane_lt(q, lane_set<F>(-128.0f)), lane_set<F>(0.0f), q) + lane_set<F>(128.0f);
  }

  template <class F>
  AR_FN static constexpr F decode(F code, const params<F>& p, std::size_t) noexcept {
    return p.d * (code - lane_set<F>(128.0f));
  }

  AR_FN static constexpr void store(const params<float>& p, const std::uint8_t* code, std::uint8_t* block) noexcept {
    detail::write_le32(std::bit_cast<std::uint32_t>(p.d), block + offsetof(layout, d));
    for (std::size_t j = 0; j < 16; ++j) {
      int sum = 0;
      for (std::size_t i = 16 * j; i < 16 * j + 16; ++i) {
        block[offsetof(layout, qs) + i] = code[i] ^ 128;
        sum += code[i] - 128;
      }
      detail::write_le16(static_cast<std::uint32_t>(sum), block + offsetof(layout, sums) + 2 * j);
    }
  }

  AR_FN static constexpr void load(const std::uint8_t* block, std::uint8_t* code, params<float>& p) noexcept {
    p.d = std::bit_cast<float>(detail::read_le32(block + offsetof(layout, d)));
    for (std::size_t i = 0; i < 256; ++i) code[i] = block[offsetof(layout, qs) + i] ^ 128;
  }
};
static_assert(BlockType<q8_k>);

/// The instances that the dispatch unit holds.
using q8_k_types = type_list<q8_k>;

AR_END_TARGET
#endif
