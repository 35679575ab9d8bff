// What fuzzers share: the input as a stream of bytes that never ends, and a check that stops the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace support {

/// Stops the program, which both a fuzzer and a test see.
inline void must(bool ok) {
  if (!ok) std::abort();
}

/// Each time the input begins again its bytes change, so that short inputs do not repeat themselves.
struct fuzz_bytes {
  const std::uint8_t* data;
  std::size_t size, at = 0, round = 0;
  std::uint8_t byte() {
    if (size == 0) return 0;
    if (at == size) {
      at = 0;
      ++round;
    }
    return static_cast<std::uint8_t>(data[at++] + 101 * round);
  }
  std::size_t below(std::size_t n) { return (byte() | static_cast<std::size_t>(byte()) << 8) % n; }
  void fill(void* out, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) static_cast<std::uint8_t*>(out)[i] = byte();
  }
};

}  // namespace support
