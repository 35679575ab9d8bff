// Files: mapped for reading, written durably, and an output folder that appears only when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "error.hpp"

namespace auto_round::io {

/// A read-only memory map of a regular file (an empty file gives an empty span).
class mapped_file {
 public:
  static result<mapped_file> open(const std::string& path);
  mapped_file(mapped_file&&) noexcept;
  mapped_file& operator=(mapped_file&&) noexcept;
  ~mapped_file();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  mapped_file() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A file under construction: positioned writes, every short write and error checked, fsync before close. Removed if not finished.
class output_file {
 public:
  static result<output_file> create(const std::string& path);
  output_file(output_file&&) noexcept;
  output_file& operator=(output_file&&) noexcept;
  ~output_file();
  result<void> write_at(std::uint64_t offset, std::span<const std::byte> data);
  result<void> finish();

 private:
  output_file() = default;
  std::string path_;
  int fd_ = -1;
};

result<std::string> read_text(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 30);
result<void> write_text(const std::string& path, std::string_view text);  ///< create, write, fsync, close
result<void> copy_file_durably(const std::string& from, const std::string& to);

/// An output folder. Everything is written into `<path>.partial`; commit() syncs it and renames it to `path`, the only moment at which `path`
/// comes into being. Destroyed without commit, the partial folder is removed. begin() refuses a path that exists and is not an empty folder,
/// and creates missing parents. Never touches anything else.
class output_dir {
 public:
  static result<output_dir> begin(const std::string& path);
  output_dir(output_dir&&) noexcept;
  output_dir& operator=(output_dir&&) noexcept;
  ~output_dir();
  const std::string& partial() const { return partial_; }  ///< where to write
  const std::string& path() const { return path_; }        ///< where it will be
  /// Error naming path and bytes if the file system has less room than `bytes` plus 5 %.
  result<void> require_space(std::uint64_t bytes) const;
  result<void> commit();

 private:
  output_dir() = default;
  std::string path_, partial_;
  bool active_ = false;
};

}  // namespace auto_round::io
