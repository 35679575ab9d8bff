// Files: mapped for reading, written durably, and an output folder that appears only when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "error.hpp"

namespace auto_round::io {

/// A read-only memory map of a regular file (an empty file gives an empty span). The size is read once, here; everything is checked against it.
/// Should another program cut the file short later, reading the lost pages raises SIGBUS: clean_up_on_signals() turns that into a sentence and
/// exit status 3.
class mapped_file {
 public:
  static result<mapped_file> open(const std::string& path);
  mapped_file(mapped_file&&) noexcept;
  mapped_file& operator=(mapped_file&&) noexcept;
  ~mapped_file();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Tells the kernel that these bytes of the map are not needed for now; they come back from the file when touched again.
  void release(std::span<const std::byte> part) const;

 private:
  mapped_file() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Most addresses that the system gives this process (RLIMIT_AS, ulimit -v); 0: any number.
std::uint64_t address_space_limit();

/// A file under construction: positioned writes, every short write and error checked, fsync before close. Removed if not finished. A file that
/// exists already is never overwritten. Errors are error_kind::output and name path, bytes and the system's reason.
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
  std::uint64_t unsynced_ = 0;  // bytes since the disk was last told to begin
};

/// Room on the disk for what does not fit the memory: a file without a name, gone when it is closed or the program ends.
class scratch_file {
 public:
  static result<scratch_file> create(const std::string& folder);
  scratch_file(scratch_file&&) noexcept;
  scratch_file& operator=(scratch_file&&) noexcept;
  ~scratch_file();
  result<void> reserve(std::uint64_t bytes);  ///< takes the room now, so that a full disk is an error here and not of a later write
  result<void> read_at(std::uint64_t offset, std::span<std::byte> to) const;
  result<void> write_at(std::uint64_t offset, std::span<const std::byte> data);

 private:
  scratch_file() = default;
  std::string folder_;
  int fd_ = -1;
};

/// A whole regular file of at most `max_bytes`, as it is.
result<std::string> read_text(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 30);
/// f(bytes) over a regular file, a MiB at a time, until f gives an error.
result<void> read_pieces(const std::string& path, const std::function<result<void>(std::span<const std::byte>)>& f);
result<void> write_text(const std::string& path, std::string_view text);  ///< create, write, fsync, close
result<void> copy_file_durably(const std::string& from, const std::string& to);
result<void> create_folder(const std::string& path);  ///< one level, which must not exist

/// An output folder. Everything is written into `<path>.partial`; commit() syncs it and renames it to `path`, the only moment at which `path`
/// comes into being. Destroyed without commit, the partial folder is removed, and so are the parents that begin() created. begin() refuses a
/// path that exists and is not an empty folder, unless it is told to replace it: then commit() changes the places of both at once, if the file system can,
/// and removes the old one; until then it stays as it is. Never touches anything else.
/// The partial folder holds a lock file while it exists: a second run on the same path is refused, and what a killed run left behind is
/// recognized by it (or by being empty) and replaced. A `<path>.partial` without it was not made here and is refused.
class output_dir {
 public:
  enum class existing { refuse, replace };
  static result<output_dir> begin(const std::string& path, existing folder = existing::refuse);
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
  void abandon();

  std::string path_, partial_;
  bool replaces_ = false;
  int lock_fd_ = -1;
  int slot_ = -1;  // where the clean-up of signals finds this folder; -1: nothing to clean up
};

/// From here on SIGINT, SIGTERM and SIGHUP remove every partial folder and end the program with status 130; SIGBUS (see mapped_file) does so
/// with status 3 and a sentence on stderr. A write beyond the file size limit becomes an error of that write instead of a signal. Call once.
/// While an interrupt_watch exists, the first SIGINT or SIGTERM is left to it.
void clean_up_on_signals();

/// For a long loop that can end in good order: the first SIGINT or SIGTERM in its lifetime only makes requested() true, the second one ends the
/// program as described above, and so does its destructor if a signal came and nobody asked. One at a time.
class interrupt_watch {
 public:
  interrupt_watch();
  ~interrupt_watch();
  interrupt_watch(const interrupt_watch&) = delete;
  interrupt_watch& operator=(const interrupt_watch&) = delete;
  /// True from the signal on, for any thread. The caller that learns it returns error_kind::interrupted. False without a watch.
  static bool requested();
};

}  // namespace auto_round::io
