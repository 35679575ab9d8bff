// How far a pass over the calibration set has come, on disk: a pass that was cut short goes on from there. Unlike the parts of a journal, each state takes
// the place of the one before.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "io/record_log.hpp"

namespace auto_round::tune {

/// A state is a list of numbers (io/record_fields) and a stream of bytes, which may be larger than the memory.
class pass_file {
 public:
  /// Finds what an earlier run left at `path`; a file of its own comes into being with the first state. What another run than that of `key` left is refused as
  /// begin_or_check() does; with `restart` it is removed instead.
  static result<pass_file> open(std::string path, io::json key, bool restart = false);

  const std::string& path() const { return path_; }
  /// True if there is a state, found or saved.
  bool any() const { return saved_ || left_.has_value(); }
  /// True from when a state could not be written: none is from then on.
  bool lost() const { return lost_; }
  /// The numbers of the state that was found. Nothing if there is none, or if its end is missing.
  std::optional<std::vector<std::byte>> numbers() const;
  /// Its stream, in pieces; false, mostly with nothing put, if it has not `bytes` bytes or cannot be read.
  bool stream(std::uint64_t bytes, const std::function<void(std::uint64_t offset, std::span<const std::byte> piece)>& put) const;

  /// Whether saving a stream of so many bytes now is worth its time: small ones always, others where what would be lost took twenty times as long.
  bool is_due(std::uint64_t bytes) const;
  /// Replaces the state; get(offset, piece) fills pieces of the stream. False if it could not be written: the former state stays, and no other is saved.
  bool save(std::span<const std::byte> numbers, std::uint64_t bytes, const std::function<void(std::uint64_t offset, std::span<std::byte> piece)>& get);
  /// The pass has come to its end.
  void remove();

 private:
  using clock = std::chrono::steady_clock;
  pass_file(std::string path, io::json key) : path_(std::move(path)), key_(std::move(key)) {}
  result<void> write(io::record_log& to, std::span<const std::byte> numbers, std::uint64_t bytes,
                     const std::function<void(std::uint64_t, std::span<std::byte>)>& get) const;

  std::string path_;
  io::json key_;
  std::optional<io::record_log> left_;  // the key, the numbers, pieces of the stream
  bool saved_ = false, lost_ = false;
  clock::time_point since_ = clock::now();
  clock::duration took_ = clock::duration::zero();  // the last time
};

}  // namespace auto_round::tune
