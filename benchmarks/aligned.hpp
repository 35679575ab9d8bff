// Memory for benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

/// Memory at a multiple of 4096 bytes. glibc's memcpy is fifteen times slower on some CPUs (AMD Zen 3: rep movsb) where source and target happen to
/// lie badly to each other: no yardstick then.
template <class T>
struct aligned {
  explicit aligned(std::size_t n) : count(n), memory(n + 8192 / sizeof(T)) {}
  T* data() { return reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 4095) / 4096 * 4096); }
  std::size_t size() const { return count; }

 private:
  std::size_t count;
  std::vector<T> memory;
};
