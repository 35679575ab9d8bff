// Counts what a piece of code allocates. Replaces the global allocation functions: include it in one unit of a test program.
#pragma once

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace support {

inline std::atomic<std::size_t> live_bytes{0}, peak_bytes{0};

/// Most bytes alive at a time on the heap since `peak_memory()` was constructed, less those that were alive then.
class peak_memory {
 public:
  peak_memory() : before_(live_bytes) { peak_bytes = before_; }
  std::size_t bytes() const { return peak_bytes - before_; }

 private:
  std::size_t before_;
};

inline void* counted_allocation(std::size_t n) {
  void* const p = std::malloc(n == 0 ? 1 : n);
  if (p == nullptr) throw std::bad_alloc();
  const std::size_t now = live_bytes += malloc_usable_size(p);
  if (now > peak_bytes) peak_bytes = now;
  return p;
}

inline void counted_free(void* p) noexcept {
  if (p != nullptr) live_bytes -= malloc_usable_size(p);
  std::free(p);
}

}  // namespace support

void* operator new(std::size_t n) { return support::counted_allocation(n); }
void* operator new[](std::size_t n) { return support::counted_allocation(n); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  try {
    return support::counted_allocation(n);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* p) noexcept { support::counted_free(p); }
void operator delete[](void* p) noexcept { support::counted_free(p); }
void operator delete(void* p, std::size_t) noexcept { support::counted_free(p); }
void operator delete[](void* p, std::size_t) noexcept { support::counted_free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { support::counted_free(p); }
