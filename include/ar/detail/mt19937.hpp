// The Mersenne Twister MT19937, which CPython's and PyTorch's generators are. Source: Matsumoto and Nishimura, 1998; same numbers as std::mt19937.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"

namespace ar {
inline namespace AR_ABI {

class mt19937 {
 public:
  /// Seeded by a number, as std::mt19937 and torch.manual_seed (which takes the low 32 bits of its seed).
  constexpr explicit mt19937(std::uint32_t seed) noexcept { init(seed); }
  /// Seeded by `length` >= 1 words, as CPython's random.seed.
  constexpr mt19937(const std::uint32_t* key, std::size_t length) noexcept {
    init(19650218u);
    std::uint32_t i = 1;
    std::size_t j = 0;
    for (std::size_t k = 0; k < (length > n ? length : n); ++k) {
      state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + key[j] + static_cast<std::uint32_t>(j);
      i = next_index(i);
      j = j + 1 == length ? 0 : j + 1;
    }
    for (std::uint32_t k = 0; k < n - 1; ++k) {
      state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) - i;
      i = next_index(i);
    }
    state_[0] = 0x80000000u;
  }
  /// 32 random bits.
  constexpr std::uint32_t next() noexcept {
    if (at_ == n) refill();
    std::uint32_t y = state_[at_++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
  }

 private:
  static constexpr std::uint32_t n = 624, m = 397;
  constexpr void init(std::uint32_t seed) noexcept {
    state_[0] = seed;
    for (std::uint32_t i = 1; i < n; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }
  constexpr std::uint32_t next_index(std::uint32_t i) noexcept {
    if (i + 1 < n) return i + 1;
    state_[0] = state_[n - 1];
    return 1;
  }
  constexpr void refill() noexcept {
    for (std::uint32_t k = 0; k < n; ++k) {
      const std::uint32_t y = (state_[k] & 0x80000000u) | (state_[(k + 1) % n] & 0x7FFFFFFFu);
      state_[k] = state_[(k + m) % n] ^ (y >> 1) ^ ((y & 1u) != 0 ? 0x9908B0DFu : 0u);
    }
    at_ = 0;
  }
  std::uint32_t state_[n] = {};
  std::uint32_t at_ = n;
};

}  // namespace AR_ABI
}  // namespace ar
