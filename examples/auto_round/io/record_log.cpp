// File: eight bytes that name the format, then for each record 64 bits (little endian) with the size of a zstd frame, and the frame.
#include "io/record_log.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "io/posix.hpp"

namespace auto_round::io {
namespace {

static_assert(std::endian::native == std::endian::little, "sizes are stored as they lie in memory");

constexpr std::array<char, 8> magic = {'a', 'r', '-', 'l', 'o', 'g', '\n', 1};
constexpr std::uint64_t most_bytes = std::uint64_t{1} << 40;
constexpr int level = 1;  // codes and grids of few values: higher levels cost time and gain little

tl::unexpected<error> fail_at(const std::string& path, const std::string& what, int code) {
  return fail(error_kind::output, what + ": " + std::generic_category().message(code), path);
}

}  // namespace

result<record_log> record_log::open(const std::string& path) {
  record_log log;
  log.path_ = path;
  log.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0666);
  if (log.fd_ < 0) return fail_at(path, "the file cannot be opened", errno);
  if (auto r = log.find_records(); !r) return forward_error(r);
  return log;
}

record_log::record_log(record_log&& o) noexcept
    : path_(std::move(o.path_)), fd_(std::exchange(o.fd_, -1)), end_(o.end_), records_(std::move(o.records_)) {}

record_log::~record_log() {
  if (fd_ >= 0) ::close(fd_);
}

result<void> record_log::find_records() {
  struct stat st = {};
  if (::fstat(fd_, &st) != 0) return fail_at(path_, "the file cannot be read", errno);
  if (!S_ISREG(st.st_mode)) return fail(error_kind::output, "this is no regular file", path_);
  const auto size = static_cast<std::uint64_t>(st.st_size);
  std::array<char, 8> head = {};
  const std::size_t present = static_cast<std::size_t>(std::min<std::uint64_t>(size, head.size()));
  if (const int code = read_at(fd_, head.data(), present, 0); code != 0) return fail_at(path_, "the file cannot be read", code == end_of_file ? EIO : code);
  if (std::memcmp(head.data(), magic.data(), present) != 0) return fail(error_kind::output, "the file exists and was not made by this program; move it away", path_);
  end_ = magic.size();
  if (present < head.size()) {
    std::span<const std::byte> rest = std::as_bytes(std::span(magic));
    std::uint64_t begin = 0;
    if (const int code = write_at(fd_, rest, begin); code != 0) return fail_at(path_, "the file cannot be written", code);
    if (::fsync(fd_) != 0) return fail_at(path_, "the file cannot be brought to the disk", errno);
    const std::string folder = std::filesystem::absolute(path_).parent_path().string();
    if (const int code = sync_path(folder, true); code != 0) return fail_at(path_, "the folder cannot be brought to the disk", code);
    return {};
  }
  while (size - end_ > sizeof(std::uint64_t)) {
    extent r;
    if (read_at(fd_, &r.stored, sizeof r.stored, end_) != 0) break;
    r.offset = end_ + sizeof r.stored;
    if (r.stored == 0 || r.stored > size - r.offset) break;
    std::array<std::byte, 32> begin = {};  // more than the largest header of a frame
    const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(begin.size(), r.stored));
    if (read_at(fd_, begin.data(), n, r.offset) != 0) break;
    r.bytes = ZSTD_getFrameContentSize(begin.data(), n);
    if (r.bytes > most_bytes) break;  // also "unknown" and "error"
    if (!is_sound(r)) break;
    records_.push_back(r);
    end_ = r.offset + r.stored;
  }
  return {};
}

/// Unpacks a frame piece by piece, without keeping anything: many times its size may be packed in it.
bool record_log::is_sound(const extent& at) const {
  std::vector<std::byte> stored(static_cast<std::size_t>(at.stored)), piece(ZSTD_DStreamOutSize());
  if (read_at(fd_, stored.data(), stored.size(), at.offset) != 0) return false;
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (context == nullptr) return false;
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, 24);  // level 1 looks back 512 KiB
  ZSTD_inBuffer in{stored.data(), stored.size(), 0};
  std::uint64_t bytes = 0;
  for (;;) {
    ZSTD_outBuffer out{piece.data(), piece.size(), 0};
    const std::size_t left = ZSTD_decompressStream(context.get(), &out, &in);
    bytes += out.pos;
    if (ZSTD_isError(left) != 0 || bytes > at.bytes) return false;
    if (left == 0) return in.pos == in.size && bytes == at.bytes;
    if (out.pos < out.size && in.pos == in.size) return false;
  }
}

result<std::vector<std::byte>> record_log::read_frame(const extent& at) const {
  try {
    std::vector<std::byte> stored(static_cast<std::size_t>(at.stored));
    if (const int code = read_at(fd_, stored.data(), stored.size(), at.offset); code != 0) return fail_at(path_, "a record cannot be read", code == end_of_file ? EIO : code);
    // A damaged size must not cost memory: no frame of ours shrinks its content by more than zstd can.
    if (at.bytes / 100'000 > at.stored) return fail(error_kind::output, "a record is damaged", path_);
    std::vector<std::byte> content(static_cast<std::size_t>(at.bytes));
    const std::size_t n = ZSTD_decompress(content.data(), content.size(), stored.data(), stored.size());
    if (ZSTD_isError(n) != 0 || n != content.size()) return fail(error_kind::output, "a record is damaged", path_);
    return content;
  } catch (const std::bad_alloc&) {
    return fail(error_kind::output, "a record is larger than the memory", path_);
  }
}

result<std::vector<std::byte>> record_log::read(std::size_t i) const {
  if (i >= records_.size()) return fail(error_kind::internal, "the log has no such record", path_);
  return read_frame(records_[i]);
}

result<void> record_log::append(std::span<const std::byte> record, durable when) {
  if (fd_ < 0 || record.size() > most_bytes) return fail(error_kind::internal, "the record cannot be appended", path_);
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  if (context == nullptr) return fail(error_kind::output, "out of memory", path_);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  ZSTD_CCtx_setPledgedSrcSize(context.get(), record.size());
  // What a killed run has left behind the last whole record must not be taken for the tail of this one. The size in front is written when it is known, at the
  // end: until then it is zero, and the record none.
  const std::size_t head = sizeof(std::uint64_t);
  int code = ::ftruncate(fd_, static_cast<off_t>(end_)) == 0 ? 0 : errno;
  std::vector<std::byte> piece(std::min<std::size_t>(ZSTD_compressBound(record.size()), std::size_t{1} << 20));
  ZSTD_inBuffer in{record.data(), record.size(), 0};
  std::uint64_t stored = 0;
  for (std::size_t left = 1; left != 0 && code == 0;) {
    ZSTD_outBuffer out{piece.data(), piece.size(), 0};
    left = ZSTD_compressStream2(context.get(), &out, &in, ZSTD_e_end);
    if (ZSTD_isError(left) != 0) {
      [[maybe_unused]] const int cut = ::ftruncate(fd_, static_cast<off_t>(end_));
      return fail(error_kind::internal, std::string("zstd: ") + ZSTD_getErrorName(left), path_);
    }
    std::span<const std::byte> rest(piece.data(), out.pos);
    std::uint64_t at = end_ + head + stored;
    code = write_at(fd_, rest, at);
    stored += out.pos;
  }
  if (code == 0) {
    std::span<const std::byte> size = std::as_bytes(std::span(&stored, 1));
    std::uint64_t at = end_;
    code = write_at(fd_, size, at);
  }
  if (code == 0 && when == durable::now && ::fsync(fd_) != 0) code = errno;
  if (code != 0) {
    [[maybe_unused]] const int cut = ::ftruncate(fd_, static_cast<off_t>(end_));
    return fail_at(path_, std::to_string(head + stored) + " bytes at byte " + std::to_string(end_) + " of the file cannot be written", code);
  }
  records_.push_back({end_ + head, stored, record.size()});
  end_ += head + stored;
  return {};
}

result<void> record_log::clear() {
  if (fd_ < 0) return fail(error_kind::internal, "the log is closed", path_);
  if (::ftruncate(fd_, magic.size()) != 0 || ::fsync(fd_) != 0) return fail_at(path_, "the file cannot be written", errno);
  records_.clear();
  end_ = magic.size();
  return {};
}

result<void> record_log::replace(const std::string& path) {
  if (fd_ < 0) return fail(error_kind::internal, "the log is closed", path_);
  if (::rename(path_.c_str(), path.c_str()) != 0) return fail_at(path, "the file cannot be replaced", errno);
  const std::string folder = std::filesystem::absolute(path).parent_path().string();
  if (const int code = sync_path(folder, true); code != 0) return fail_at(path, "the folder cannot be brought to the disk", code);
  path_ = path;
  return {};
}

result<void> record_log::remove() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT) return fail_at(path_, "the file cannot be removed", errno);
  return {};
}

}  // namespace auto_round::io
