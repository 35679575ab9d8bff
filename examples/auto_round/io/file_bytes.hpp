// Bytes of files as they lie there: mapped whole, or, where the system limits the address space, a piece at a time while somebody looks at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "io/file.hpp"

namespace auto_round::io {

/// Bytes that stay where they are while this lives: somebody else's (who keeps them alive), its own, or a piece of a file that it has mapped. A contiguous
/// range, so a span of it is made where one is wanted.
class pinned_bytes {
 public:
  pinned_bytes() = default;
  pinned_bytes(std::span<const std::byte> of_others) : bytes_(of_others) {}
  pinned_bytes(std::vector<std::byte> own) : own_(std::move(own)), bytes_(own_) {}
  /// `bytes` lie in `map`, which is unmapped with the last owner.
  pinned_bytes(std::shared_ptr<const void> map, std::span<const std::byte> bytes) : map_(std::move(map)), bytes_(bytes) {}
  pinned_bytes(pinned_bytes&& o) noexcept : map_(std::move(o.map_)), own_(std::move(o.own_)), bytes_(std::exchange(o.bytes_, {})) {}
  pinned_bytes& operator=(pinned_bytes&& o) noexcept {
    map_ = std::move(o.map_);
    own_ = std::move(o.own_);
    bytes_ = std::exchange(o.bytes_, {});
    return *this;
  }

  const std::byte* data() const { return bytes_.data(); }
  std::size_t size() const { return bytes_.size(); }
  auto begin() const { return bytes_.begin(); }
  auto end() const { return bytes_.end(); }
  std::byte operator[](std::size_t i) const { return bytes_[i]; }

 private:
  std::shared_ptr<const void> map_;
  std::vector<std::byte> own_;
  std::span<const std::byte> bytes_;
};

/// So many bytes of a file or of memory, not looked at yet; valid as long as what they are part of.
class file_bytes {
 public:
  file_bytes() = default;
  file_bytes(std::span<const std::byte> memory) : memory_(memory.data()), size_(memory.size()) {}
  /// Of an open file, which is mapped when it is looked at.
  file_bytes(int fd, std::uint64_t offset, std::size_t size) : fd_(fd), offset_(offset), size_(size) {}

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  /// `count` bytes from `offset` on, which must be there.
  file_bytes subspan(std::size_t offset, std::size_t count) const {
    return memory_ != nullptr ? file_bytes(std::span(memory_ + offset, count)) : file_bytes(fd_, offset_ + offset, count);
  }
  file_bytes first(std::size_t count) const { return subspan(0, count); }
  /// Where they lie in memory; null if they are mapped only when they are looked at.
  const std::byte* memory() const { return memory_; }

  /// The bytes themselves. Throws std::bad_alloc if there are no addresses for them.
  pinned_bytes pin() const;

 private:
  const std::byte* memory_ = nullptr;
  int fd_ = -1;
  std::uint64_t offset_ = 0;
  std::size_t size_ = 0;
};

/// A file of tensors. Mapped whole, so that a piece costs nothing; under a limit of the address space (address_space_limit()), in which mapped files count
/// whole, piece by piece.
class tensor_file {
 public:
  static result<tensor_file> open(const std::string& path);
  tensor_file(tensor_file&&) noexcept;
  tensor_file& operator=(tensor_file&&) noexcept;
  ~tensor_file();

  file_bytes bytes() const { return whole_ ? file_bytes(whole_->bytes()) : file_bytes(fd_, 0, size_); }
  const std::string& path() const { return path_; }
  /// Tells the kernel that these bytes are not needed for now; see mapped_file. Pieces that were mapped for somebody are gone with him.
  void release(const file_bytes& part) const {
    if (whole_ && part.memory() != nullptr) whole_->release({part.memory(), part.size()});
  }

 private:
  tensor_file() = default;
  std::string path_;
  std::optional<mapped_file> whole_;
  int fd_ = -1;
  std::size_t size_ = 0;
};

}  // namespace auto_round::io
