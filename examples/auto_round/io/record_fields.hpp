// The fields of a record (record_log): numbers and lists of them one behind the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace auto_round::io {

/// Numbers as they lie in memory: records are read by the program and on the machine that wrote them, which the first of a log says.
class record_writer {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  /// Their number, then the numbers; letters of a string likewise.
  template <class Container>
  void put_all(const Container& values) {
    put(static_cast<std::uint64_t>(values.size()));
    const auto bytes = std::as_bytes(std::span(values));
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  std::vector<std::byte> take() { return std::move(out_); }

 private:
  std::vector<std::byte> out_;
};

/// Takes apart what record_writer put together, in the same order. Bytes that say something else make it not ok, and nothing is read behind them.
class record_reader {
 public:
  explicit record_reader(std::span<const std::byte> in) : in_(in) {}
  template <class T>
  void get(T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (!ok_ || in_.size() < sizeof value) {
      ok_ = false;
      return;
    }
    std::memcpy(&value, in_.data(), sizeof value);
    in_ = in_.subspan(sizeof value);
  }
  template <class Container>
  void get_all(Container& values) {
    using T = typename Container::value_type;
    const std::uint64_t n = count(sizeof(T));
    if (!ok_) return;
    values.resize(static_cast<std::size_t>(n));
    if (n != 0) std::memcpy(values.data(), in_.data(), values.size() * sizeof(T));
    in_ = in_.subspan(values.size() * sizeof(T));
  }
  /// A number of things that follow, each of at least `bytes` bytes; 0 when it is not ok.
  std::uint64_t count(std::size_t bytes) {
    std::uint64_t n = 0;
    get(n);
    if (ok_ && n > in_.size() / bytes) ok_ = false;
    return ok_ ? n : 0;
  }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && in_.empty(); }  ///< everything was taken

 private:
  std::span<const std::byte> in_;
  bool ok_ = true;
};

}  // namespace auto_round::io
