#include "io/posix.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace auto_round::io {
namespace {
constexpr std::size_t kMostPerCall = std::size_t{1} << 30;  // Linux transfers at most 2 GiB - 4 KiB a call
}

int read_at(int fd, void* to, std::size_t n, std::uint64_t offset) {
  auto* at = static_cast<char*>(to);
  while (n != 0) {
    const ssize_t got = ::pread(fd, at, std::min(n, kMostPerCall), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : end_of_file;
    at += got;
    n -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
  return 0;
}

int write_at(int fd, std::span<const std::byte>& data, std::uint64_t& offset) {
  while (!data.empty()) {
    const ssize_t put = ::pwrite(fd, data.data(), std::min(data.size(), kMostPerCall), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return put < 0 ? errno : EIO;
    data = data.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return 0;
}

int sync_path(const std::string& path, bool folder) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | (folder ? O_DIRECTORY : 0));
  if (fd < 0) return errno;
  const int code = ::fsync(fd) != 0 && !(folder && (errno == EINVAL || errno == ENOTSUP)) ? errno : 0;
  ::close(fd);
  return code;
}

}  // namespace auto_round::io
