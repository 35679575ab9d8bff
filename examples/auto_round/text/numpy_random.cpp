#include "text/numpy_random.hpp"

#include <array>
#include <bit>
#include <numeric>
#include <utility>

namespace auto_round::text {
namespace {

using u128 = unsigned __int128;

// SeedSequence: stirs the words of a seed into a pool of four and draws eight words from it. Constants from numpy/random/bit_generator.pyx.
std::array<std::uint64_t, 4> seed_state(std::span<const std::uint32_t> seed) {
  std::uint32_t hash = 0x43b0d7e5;
  const auto hashed = [&](std::uint32_t v) {
    v ^= hash;
    hash *= 0x931e8875;
    v *= hash;
    return v ^ (v >> 16);
  };
  const auto mixed = [](std::uint32_t x, std::uint32_t y) {
    const std::uint32_t r = 0xca01f9ddu * x - 0x4973f715u * y;
    return r ^ (r >> 16);
  };
  std::array<std::uint32_t, 4> pool{};
  for (std::size_t i = 0; i < 4; ++i) pool[i] = hashed(i < seed.size() ? seed[i] : 0);
  for (std::size_t from = 0; from < 4; ++from) {
    for (std::size_t to = 0; to < 4; ++to) {
      if (to != from) pool[to] = mixed(pool[to], hashed(pool[from]));
    }
  }
  for (std::size_t i = 4; i < seed.size(); ++i) {
    for (std::uint32_t& p : pool) p = mixed(p, hashed(seed[i]));
  }
  std::array<std::uint64_t, 4> out{};
  std::uint32_t hash2 = 0x8b51f9dd;
  for (std::size_t i = 0; i < 8; ++i) {
    std::uint32_t v = pool[i % 4] ^ hash2;
    hash2 *= 0x58f38ded;
    v *= hash2;
    v ^= v >> 16;
    out[i / 2] |= std::uint64_t{v} << (32 * (i % 2));
  }
  return out;
}

class pcg64 {
 public:
  explicit pcg64(const std::array<std::uint64_t, 4>& q) {
    increment_ = (u128{q[2]} << 64 | q[3]) << 1 | 1;
    step();
    state_ += u128{q[0]} << 64 | q[1];
    step();
  }
  // The low half of a fresh word first, its high half next time.
  std::uint32_t next32() {
    if (half_left_) {
      half_left_ = false;
      return half_;
    }
    step();
    const std::uint64_t word =
        std::rotr(static_cast<std::uint64_t>(state_ >> 64) ^ static_cast<std::uint64_t>(state_), static_cast<int>(state_ >> 122));
    half_ = static_cast<std::uint32_t>(word >> 32);
    half_left_ = true;
    return static_cast<std::uint32_t>(word);
  }
  // Uniform in 0 ... max: drawn again until it fits under the mask.
  std::uint32_t interval(std::uint32_t max) {
    if (max == 0) return 0;
    const std::uint32_t mask = ~std::uint32_t{0} >> std::countl_zero(max);
    std::uint32_t r = next32() & mask;
    while (r > max) r = next32() & mask;
    return r;
  }

 private:
  void step() { state_ = state_ * (u128{0x2360ED051FC65DA4} << 64 | 0x4385DF649FCCF645) + increment_; }
  u128 state_ = 0, increment_ = 0;
  std::uint32_t half_ = 0;
  bool half_left_ = false;
};

}  // namespace

std::vector<std::uint32_t> numpy_permutation(std::span<const std::uint32_t> seed, std::uint32_t n) {
  pcg64 random(seed_state(seed));
  std::vector<std::uint32_t> out(n);
  std::iota(out.begin(), out.end(), 0u);
  for (std::uint32_t i = n; i-- > 1;) std::swap(out[i], out[random.interval(i)]);
  return out;
}

}  // namespace auto_round::text
