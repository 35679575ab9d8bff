// A reader over untrusted bytes that cannot leave them: every take says how much and fails if less is left.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace auto_round::io {

static_assert(std::endian::native == std::endian::little, "safetensors and GGUF files are little-endian, and are used as they lie in memory");

class byte_reader {
 public:
  explicit byte_reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t size() const { return bytes_.size(); }          ///< all bytes, read or not
  std::uint64_t at() const { return at_; }                    ///< bytes read so far
  std::uint64_t left() const { return bytes_.size() - at_; }  ///< bytes not read yet

  /// The next `n` bytes; false, and nothing read, if fewer are left.
  [[nodiscard]] bool take(std::uint64_t n, std::span<const std::byte>& out) {
    if (n > left()) return false;
    out = bytes_.subspan(static_cast<std::size_t>(at_), static_cast<std::size_t>(n));
    at_ += n;
    return true;
  }

  /// The next sizeof(T) bytes as a little-endian number.
  template <class T>
  requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) [[nodiscard]] bool number(T& out) {
    std::span<const std::byte> raw;
    if (!take(sizeof(T), raw)) return false;
    std::memcpy(&out, raw.data(), sizeof(T));
    return true;
  }

  /// The next `n` bytes as text, unchecked.
  [[nodiscard]] bool text(std::uint64_t n, std::string_view& out) {
    std::span<const std::byte> raw;
    if (!take(n, raw)) return false;
    out = {reinterpret_cast<const char*>(raw.data()), raw.size()};
    return true;
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t at_ = 0;
};

}  // namespace auto_round::io
