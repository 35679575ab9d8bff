// A file of records that only grows: what was appended is on the disk, and what is read back is what was appended, wherever the program was killed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"

namespace auto_round::io {

/// Records are compressed by zstd and carry its checksum. A record that is cut short or damaged ends the log: it and what follows it do not count, and the
/// next append writes over them. One process at a time may have a log open; callers see to that.
class record_log {
 public:
  /// Opens the log at `path`, or creates an empty one, and finds its records. error_kind::output if the file cannot be opened or written, or if it is
  /// no log (nothing of it is changed then). A file whose very beginning was cut short is an empty log.
  static result<record_log> open(const std::string& path);
  record_log(record_log&&) noexcept;
  record_log& operator=(record_log&&) = delete;
  ~record_log();

  std::size_t size() const { return records_.size(); }
  const std::string& path() const { return path_; }
  std::uint64_t bytes(std::size_t i) const { return records_[i].bytes; }  ///< of record `i` < size(), as its frame claims
  /// Record `i` < size(). error_kind::output if it can no longer be read.
  result<std::vector<std::byte>> read(std::size_t i) const;
  enum class durable : bool { later, now };
  /// Appends a record of at most 2^40 bytes and waits until it, and what was left for later, is on the disk. After an error the log is as before.
  result<void> append(std::span<const std::byte> record, durable when = durable::now);
  /// Forgets all records.
  result<void> clear();
  /// The file takes the place of the one at `path`, of the same folder, at once; a power cut leaves one or the other.
  result<void> replace(const std::string& path);
  /// Deletes the file. The log can no longer be used.
  result<void> remove();

 private:
  struct extent {
    std::uint64_t offset = 0, stored = 0, bytes = 0;  // of the compressed frame; its size; that of its content
  };
  record_log() = default;
  result<void> find_records();
  bool is_sound(const extent& at) const;
  result<std::vector<std::byte>> read_frame(const extent& at) const;

  std::string path_;
  int fd_ = -1;
  std::uint64_t end_ = 0;
  std::vector<extent> records_;
};

}  // namespace auto_round::io
