// A fast 64-bit digest of float arrays: what was planned and what is read back from disk must have the same one.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace auto_round::exporting {

/// Order matters, +0 and -0 are the same value. Four independent lanes of multiply and rotate, in the manner of xxHash; not cryptographic.
class digester {
 public:
  /// Values may come in pieces, all but the last of a multiple of four.
  void add(std::span<const float> values) {
    std::size_t i = 0;
    for (; i + 4 <= values.size(); i += 4) {
      for (std::size_t l = 0; l < 4; ++l) mix(l, values[i + l]);
    }
    for (; i < values.size(); ++i) mix(0, values[i]);
    size_ += values.size();
  }
  std::uint64_t value() const {
    std::uint64_t h = size_ * prime1;
    for (const std::uint64_t l : lane_) h = (h ^ std::rotl(l, 17)) * prime2 + prime1;
    return h ^ (h >> 29);
  }

 private:
  static constexpr std::uint64_t prime1 = 0x9E3779B185EBCA87u, prime2 = 0xC2B2AE3D27D4EB4Fu;
  void mix(std::size_t l, float v) { lane_[l] = std::rotl(lane_[l] + std::bit_cast<std::uint32_t>(v == 0.0f ? 0.0f : v) * prime2, 31) * prime1; }

  std::uint64_t lane_[4] = {prime1, prime2, ~prime1, ~prime2}, size_ = 0;
};

inline std::uint64_t digest(std::span<const float> values) {
  digester d;
  d.add(values);
  return d.value();
}

}  // namespace auto_round::exporting
