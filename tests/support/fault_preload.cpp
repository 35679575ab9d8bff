// Loaded into a program by LD_PRELOAD: kills it at its n-th call that changes the disk, or lets the disk be full from there on.
//   AR_FAULT=kill:N    SIGKILL instead of call N (counted from 1)
//   AR_FAULT=full:N    calls N and later that need room fail with ENOSPC
//   AR_FAULT_COUNT=F   the number of calls is written into file F when the program ends
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long> calls{0};

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

/// True if the call must fail for want of room.
bool strikes(bool needs_room) {
  static const char* const fault = std::getenv("AR_FAULT");
  const long n = ++calls;
  if (fault == nullptr) return false;
  const long at = std::atol(fault + 5);
  if (std::strncmp(fault, "kill:", 5) == 0 && n == at) ::raise(SIGKILL);
  return std::strncmp(fault, "full:", 5) == 0 && n >= at && needs_room;
}

struct at_the_end {
  ~at_the_end() {
    const char* const path = std::getenv("AR_FAULT_COUNT");
    std::FILE* const f = path == nullptr ? nullptr : std::fopen(path, "w");
    if (f == nullptr) return;
    std::fprintf(f, "%ld\n", calls.load());
    std::fclose(f);
  }
} count;

}  // namespace

#define AR_CALL(needs_room, failed, name, ...)                       \
  do {                                                               \
    static auto* const real = next<decltype(name)>(#name);           \
    if (strikes(needs_room)) return errno = ENOSPC, failed;          \
    return real(__VA_ARGS__);                                        \
  } while (false)

extern "C" {
ssize_t write(int fd, const void* p, size_t n) {
  static auto* const real = next<decltype(write)>("write");
  if (fd > 2 && strikes(true)) return errno = ENOSPC, -1;
  return real(fd, p, n);
}
ssize_t pwrite(int fd, const void* p, size_t n, off_t at) { AR_CALL(true, -1, pwrite, fd, p, n, at); }
ssize_t pwrite64(int fd, const void* p, size_t n, off64_t at) { AR_CALL(true, -1, pwrite64, fd, p, n, at); }
int fsync(int fd) { AR_CALL(true, -1, fsync, fd); }
int ftruncate(int fd, off_t n) noexcept { AR_CALL(false, -1, ftruncate, fd, n); }
int ftruncate64(int fd, off64_t n) noexcept { AR_CALL(false, -1, ftruncate64, fd, n); }
int rename(const char* from, const char* to) noexcept { AR_CALL(false, -1, rename, from, to); }
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) noexcept { AR_CALL(false, -1, renameat2, a, from, b, to, flags); }
int mkdir(const char* path, mode_t mode) noexcept { AR_CALL(true, -1, mkdir, path, mode); }
int unlink(const char* path) noexcept { AR_CALL(false, -1, unlink, path); }
int unlinkat(int fd, const char* path, int flags) noexcept { AR_CALL(false, -1, unlinkat, fd, path, flags); }
int rmdir(const char* path) noexcept { AR_CALL(false, -1, rmdir, path); }
}
