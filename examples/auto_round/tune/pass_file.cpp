#include "tune/pass_file.hpp"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "tune/journal.hpp"

namespace auto_round::tune {
namespace {

constexpr const char* half_written = ".new";
constexpr std::uint64_t piece_bytes = std::uint64_t{1} << 20;  // in memory at a time
constexpr std::uint64_t small_bytes = std::uint64_t{1} << 20;  // a state of which costs no time to speak of
constexpr int share = 20;                                      // of the time may go into saving

}  // namespace

result<pass_file> pass_file::open(std::string path, io::json key, bool restart) {
  pass_file f(std::move(path), std::move(key));
  const auto there = [](const std::string& name) {
    std::error_code ec;
    return std::filesystem::exists(std::filesystem::symlink_status(name, ec));
  };
  if (there(f.path_ + half_written)) {
    if (auto half = io::record_log::open(f.path_ + half_written)) static_cast<void>(half->remove());
  }
  if (!there(f.path_)) return f;
  auto log = io::record_log::open(f.path_);
  if (!log) return forward_error(log);
  if (restart) {
    if (auto r = log->remove(); !r) return forward_error(r);
    return f;
  }
  if (auto r = begin_or_check(*log, f.key_); !r) return forward_error(r);
  if (log->size() > 1) f.left_.emplace(std::move(*log));
  return f;
}

std::optional<std::vector<std::byte>> pass_file::numbers() const {
  if (!left_) return std::nullopt;
  auto record = left_->read(1);
  return record ? std::optional(std::move(*record)) : std::nullopt;
}

bool pass_file::stream(std::uint64_t bytes, const std::function<void(std::uint64_t, std::span<const std::byte>)>& put) const {
  const std::uint64_t pieces = (bytes + piece_bytes - 1) / piece_bytes;
  const auto size_of = [&](std::uint64_t i) { return std::min(piece_bytes, bytes - i * piece_bytes); };
  if (!left_ || left_->size() != pieces + 2) return false;
  for (std::uint64_t i = 0; i < pieces; ++i)
    if (left_->bytes(static_cast<std::size_t>(i) + 2) != size_of(i)) return false;
  for (std::uint64_t i = 0; i < pieces; ++i) {
    const auto piece = left_->read(static_cast<std::size_t>(i) + 2);
    if (!piece) return false;
    put(i * piece_bytes, *piece);
  }
  return true;
}

bool pass_file::is_due(std::uint64_t bytes) const { return !lost_ && (bytes <= small_bytes || clock::now() - since_ >= share * took_); }

result<void> pass_file::write(io::record_log& to, std::span<const std::byte> numbers, std::uint64_t bytes,
                              const std::function<void(std::uint64_t, std::span<std::byte>)>& get) const {
  if (auto r = to.clear(); !r) return r;
  if (auto r = begin_or_check(to, key_); !r) return r;
  const auto when = [&](std::uint64_t behind) { return behind < bytes ? io::record_log::durable::later : io::record_log::durable::now; };
  if (auto r = to.append(numbers, when(0)); !r) return r;
  std::vector<std::byte> piece;
  for (std::uint64_t at = 0; at < bytes; at += piece.size()) {
    piece.resize(static_cast<std::size_t>(std::min(piece_bytes, bytes - at)));
    get(at, piece);
    if (auto r = to.append(piece, when(at + piece.size())); !r) return r;
  }
  return to.replace(path_);
}

bool pass_file::save(std::span<const std::byte> numbers, std::uint64_t bytes, const std::function<void(std::uint64_t, std::span<std::byte>)>& get) {
  if (lost_) return false;
  const auto begin = clock::now();
  auto next = io::record_log::open(path_ + half_written);
  lost_ = !next || !write(*next, numbers, bytes, get);
  if (next && lost_) static_cast<void>(next->remove());
  since_ = clock::now();
  took_ = since_ - begin;
  saved_ = saved_ || !lost_;
  return !lost_;
}

void pass_file::remove() {
  std::error_code ec;
  if (any()) std::filesystem::remove(path_, ec);
  left_.reset();
  saved_ = false;
}

}  // namespace auto_round::tune
