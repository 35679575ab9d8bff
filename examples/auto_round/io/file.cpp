// Files by the calls of POSIX: nothing of the C++ stream library reports a full disk or syncs a folder.
#include "io/file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "ar/view.hpp"
#include "io/file_bytes.hpp"
#include "io/posix.hpp"

namespace auto_round::io {
namespace {

namespace fs = std::filesystem;

constexpr char kLockName[] = ".auto-round.lock";
constexpr std::size_t kChunk = std::size_t{1} << 20;

std::string reason(int code) { return std::generic_category().message(code); }

tl::unexpected<error> fail_reading(const std::string& path, int code) { return fail(error_kind::input, "cannot be read: " + reason(code), path); }

tl::unexpected<error> fail_writing(const std::string& what, const std::string& path, int code) {
  return fail(error_kind::output, what + ": " + reason(code), path);
}

/// Owns a file descriptor.
class descriptor {
 public:
  explicit descriptor(int fd) : fd_(fd) {}
  descriptor(descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  descriptor& operator=(descriptor&&) = delete;
  ~descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct opened_file {
  descriptor fd;
  std::uint64_t size;
};

/// Opens a regular file. Not blocking, so that a FIFO put in its place cannot hang us.
result<opened_file> open_regular(const std::string& path) {
  if (path.find('\0') != std::string::npos) return fail(error_kind::input, "a file name holds a zero byte", path.substr(0, path.find('\0')));
  descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) return fail_reading(path, errno);
  struct stat st = {};
  if (::fstat(fd.get(), &st) != 0) return fail_reading(path, errno);
  if (!S_ISREG(st.st_mode))
    return fail(error_kind::input, S_ISDIR(st.st_mode) ? "a file is expected and this is a folder" : "this is no regular file", path);
  return opened_file{std::move(fd), static_cast<std::uint64_t>(st.st_size)};
}

result<void> read_exactly(int fd, const std::string& path, char* to, std::size_t n, std::uint64_t offset) {
  const int code = read_at(fd, to, n, offset);
  if (code == end_of_file) return fail(error_kind::input, "the file became shorter while it was read", path);
  if (code != 0) return fail_reading(path, code);
  return {};
}

// The functions from here to discard() run in signal handlers: system calls and the stack only.

/// Removes what is in the folder `fd`, except the lock file if `keep_lock`. Symbolic links are removed, not followed. False if something stays.
bool empty_folder(int fd, bool keep_lock, int depth) {
  struct entry_head {  // struct linux_dirent64
    std::uint64_t inode;
    std::int64_t offset;
    unsigned short length;
    unsigned char type;
  };
  constexpr std::size_t kNameAt = offsetof(entry_head, type) + 1;
  alignas(8) char buffer[4096];
  for (int round = 0; round < 1000; ++round) {  // removal may hide entries from a listing in progress: list again until it is empty
    if (::lseek(fd, 0, SEEK_SET) != 0) return false;
    bool removed = false, left = false;
    long got = 0;
    while ((got = ::syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
      for (long at = 0; at < got;) {
        entry_head head;
        std::memcpy(&head, buffer + at, sizeof head);
        const char* const name = buffer + at + kNameAt;
        at += head.length;
        if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0 || (keep_lock && std::strcmp(name, kLockName) == 0)) continue;
        bool gone = ::unlinkat(fd, name, 0) == 0 || errno == ENOENT;
        if (!gone && depth < 16) {
          const int inner = ::openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
          if (inner >= 0) {
            empty_folder(inner, false, depth + 1);
            ::close(inner);
            gone = ::unlinkat(fd, name, AT_REMOVEDIR) == 0;
          }
        }
        (gone ? removed : left) = true;
      }
    }
    if (got < 0) return false;
    if (!removed) return !left;
  }
  return false;
}

/// Removes the folder `path` with all that is in it, then its `parents` nearest parents as far as they are empty.
void discard(const char* path, int parents) {
  char name[PATH_MAX];
  const std::size_t length = std::strlen(path);
  if (length >= sizeof name) return;
  std::memcpy(name, path, length + 1);
  for (int attempt = 0; attempt < 100; ++attempt) {  // another thread may still be creating files in it
    const int fd = ::open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) break;
    empty_folder(fd, false, 0);
    ::close(fd);
    if (::rmdir(name) == 0 || errno == ENOENT) break;
  }
  for (; parents > 0; --parents) {
    char* const slash = std::strrchr(name, '/');
    if (slash == nullptr || slash == name) return;
    *slash = '\0';
    if (::rmdir(name) != 0) return;
  }
}

/// The partial folders of this process, where a signal handler can find them.
struct partial_slot {
  std::atomic<int> state{0};  // 0 free, 1 being filled, 2 to be removed
  int parents = 0;
  char path[PATH_MAX] = {};
};
partial_slot partial_slots[8];

void discard_all() {
  for (partial_slot& s : partial_slots) {
    if (s.state.load(std::memory_order_acquire) == 2) discard(s.path, s.parents);
  }
}

enum watch_state : int { no_watch, watching, signalled, told };
std::atomic<int> watch{no_watch};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

extern "C" void on_signal(int number) {
  if (int expected = watching; (number == SIGINT || number == SIGTERM) && watch.compare_exchange_strong(expected, signalled)) {
    const int kept = errno;
    constexpr char kText[] = "\ninterrupted: ending after the current step; a second signal ends at once\n";
    [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kText, sizeof kText - 1);
    errno = kept;
    return;
  }
  discard_all();
  if (number == SIGBUS) {
    constexpr char kText[] =
        "error: an input file became shorter while it was read, or its disk failed; check the files of the model and run again\n";
    [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kText, sizeof kText - 1);
    ::_exit(static_cast<int>(error_kind::input));
  }
  ::_exit(static_cast<int>(error_kind::interrupted));
}

/// A free slot that now holds `path`, or -1.
int occupy_slot(const std::string& path, int parents) {
  if (path.size() >= PATH_MAX) return -1;
  for (int i = 0; i < static_cast<int>(std::size(partial_slots)); ++i) {
    partial_slot& s = partial_slots[i];
    int expected = 0;
    if (!s.state.compare_exchange_strong(expected, 1)) continue;
    std::memcpy(s.path, path.c_str(), path.size() + 1);
    s.parents = parents;
    s.state.store(2, std::memory_order_release);
    return i;
  }
  return -1;
}

bool is_empty_folder(const std::string& path) {
  std::error_code ec;
  const bool empty = fs::is_empty(path, ec);
  return !ec && empty;
}

/// Creates the missing folders above `path` and counts them.
result<int> create_parents(const fs::path& path) {
  std::vector<fs::path> missing;
  std::error_code ec;
  for (fs::path p = path.parent_path(); !fs::exists(fs::symlink_status(p, ec)) && p.has_relative_path(); p = p.parent_path()) missing.push_back(p);
  int created = 0;
  for (auto p = missing.rbegin(); p != missing.rend(); ++p) {
    if (::mkdir(p->c_str(), 0777) == 0) {
      ++created;
    } else if (errno != EEXIST) {
      const int code = errno;
      for (auto made = p; created > 0; --created) ::rmdir((--made)->c_str());
      return fail_writing("the folder cannot be created", p->string(), code);
    }
  }
  return created;
}

}  // namespace

result<mapped_file> mapped_file::open(const std::string& path) {
  result<opened_file> file = open_regular(path);
  if (!file) return forward_error(file);
  mapped_file m;
  m.path_ = path;
  if (file->size == 0) return m;
  if (file->size > PTRDIFF_MAX) return fail(error_kind::input, "the file is too large for this machine", path);
  void* const data = ::mmap(nullptr, static_cast<std::size_t>(file->size), PROT_READ, MAP_PRIVATE, file->fd.get(), 0);
  if (data == MAP_FAILED) return fail_reading(path, errno);
  m.data_ = static_cast<const std::byte*>(data);
  m.size_ = static_cast<std::size_t>(file->size);
  return m;
}

mapped_file::mapped_file(mapped_file&& o) noexcept
    : path_(std::move(o.path_)), data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}

mapped_file& mapped_file::operator=(mapped_file&& o) noexcept {
  std::swap(path_, o.path_);
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  return *this;
}

mapped_file::~mapped_file() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void mapped_file::release(std::span<const std::byte> part) const {
  if (data_ == nullptr || part.empty()) return;
  // With a page the system maps what lies around it, as far as the cache has it in one piece: a norm of 1 KiB brought 450 KiB (Linux 6.18). A neighbour that
  // is in use comes back.
  constexpr std::size_t around = std::size_t{1} << 20;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(part.data() - data_);
  const std::size_t begin = (offset - std::min(offset, around)) / page * page, end = std::min(size_, offset + part.size() + around);
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

std::uint64_t address_space_limit() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? static_cast<std::uint64_t>(limit.rlim_cur) : 0;
}

pinned_bytes file_bytes::pin() const {
  if (memory_ != nullptr || size_ == 0) return std::span(memory_, size_);
  const std::uint64_t page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)), begin = offset_ / page * page;
  const std::size_t before = static_cast<std::size_t>(offset_ - begin), length = before + size_;
  void* const data = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, fd_, static_cast<off_t>(begin));
  if (data == MAP_FAILED) throw std::bad_alloc();
  std::shared_ptr<const void> map(data, [length](const void* p) { ::munmap(const_cast<void*>(p), length); });
  return {std::move(map), {static_cast<const std::byte*>(data) + before, size_}};
}

result<tensor_file> tensor_file::open(const std::string& path) {
  tensor_file f;
  f.path_ = path;
  if (address_space_limit() == 0) {
    result<mapped_file> whole = mapped_file::open(path);
    if (!whole) return forward_error(whole);
    f.whole_ = std::move(*whole);
    return f;
  }
  result<opened_file> file = open_regular(path);
  if (!file) return forward_error(file);
  if (file->size > PTRDIFF_MAX) return fail(error_kind::input, "the file is too large for this machine", path);
  f.size_ = static_cast<std::size_t>(file->size);
  f.fd_ = file->fd.release();
  return f;
}

tensor_file::tensor_file(tensor_file&& o) noexcept : path_(std::move(o.path_)), whole_(std::move(o.whole_)), fd_(std::exchange(o.fd_, -1)), size_(o.size_) {}

tensor_file& tensor_file::operator=(tensor_file&& o) noexcept {
  std::swap(path_, o.path_);
  std::swap(whole_, o.whole_);
  std::swap(fd_, o.fd_);
  std::swap(size_, o.size_);
  return *this;
}

tensor_file::~tensor_file() {
  if (fd_ >= 0) ::close(fd_);
}

result<output_file> output_file::create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return fail_writing("the file cannot be created", path, errno);
  output_file f;
  f.path_ = path;
  f.fd_ = fd;
  return f;
}

output_file::output_file(output_file&& o) noexcept : path_(std::move(o.path_)), fd_(std::exchange(o.fd_, -1)) {}

output_file& output_file::operator=(output_file&& o) noexcept {
  std::swap(path_, o.path_);
  std::swap(fd_, o.fd_);
  return *this;
}

output_file::~output_file() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(path_.c_str());
}

result<void> output_file::write_at(std::uint64_t offset, std::span<const std::byte> data) {
  const std::uint64_t begin = offset;
  std::uint64_t end = 0;
  if (fd_ < 0 || !ar::checked_add(offset, data.size(), end) || end > INT64_MAX) {
    return fail(error_kind::internal, "a write at byte " + std::to_string(offset) + " is not possible", path_);
  }
  if (const int code = io::write_at(fd_, data, offset); code != 0)
    return fail_writing(std::to_string(data.size()) + " bytes at byte " + std::to_string(offset) + " of the file cannot be written", path_, code);
#if defined(SYNC_FILE_RANGE_WRITE)
  // The disk begins while we go on computing; waiting for all of it in the end would take as long again.
  constexpr std::uint64_t at_once = std::uint64_t{32} << 20;
  if ((unsynced_ += end - begin) >= at_once) {
    ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);
    unsynced_ = 0;
  }
#endif
  return {};
}

result<void> output_file::finish() {
  if (fd_ < 0) return fail(error_kind::internal, "the file was finished before", path_);
  int code = ::fsync(fd_) == 0 ? 0 : errno;
  if (::close(std::exchange(fd_, -1)) != 0 && code == 0) code = errno;
  if (code == 0) return {};
  ::unlink(path_.c_str());
  return fail_writing("the file cannot be brought to the disk", path_, code);
}

result<scratch_file> scratch_file::create(const std::string& folder) {
  std::string name = folder + "/.auto-round.XXXXXX";
  scratch_file f;
  f.folder_ = folder;
  f.fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (f.fd_ < 0) return fail_writing("a scratch file cannot be created", folder, errno);
  ::unlink(name.c_str());
  return f;
}

scratch_file::scratch_file(scratch_file&& o) noexcept : folder_(std::move(o.folder_)), fd_(std::exchange(o.fd_, -1)) {}

scratch_file& scratch_file::operator=(scratch_file&& o) noexcept {
  std::swap(folder_, o.folder_);
  std::swap(fd_, o.fd_);
  return *this;
}

scratch_file::~scratch_file() {
  if (fd_ >= 0) ::close(fd_);
}

result<void> scratch_file::reserve(std::uint64_t bytes) {
  const int code = bytes > INT64_MAX ? EFBIG : bytes == 0 ? 0 : ::posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
  if (code != 0) return fail_writing("there is no room for a scratch file of " + std::to_string(bytes) + " bytes", folder_, code);
  return {};
}

result<void> scratch_file::read_at(std::uint64_t offset, std::span<std::byte> to) const {
  const int code = io::read_at(fd_, to.data(), to.size(), offset);
  if (code == 0) return {};
  return fail(error_kind::output, "a scratch file cannot be read: " + (code == end_of_file ? std::string("it is too short") : reason(code)), folder_);
}

result<void> scratch_file::write_at(std::uint64_t offset, std::span<const std::byte> data) {
  if (const int code = io::write_at(fd_, data, offset); code != 0) return fail_writing("a scratch file cannot be written", folder_, code);
  return {};
}

result<std::string> read_text(const std::string& path, std::uint64_t max_bytes) {
  const result<opened_file> file = open_regular(path);
  if (!file) return forward_error(file);
  if (file->size > max_bytes) {
    return fail(error_kind::input, "the file has " + std::to_string(file->size) + " bytes; at most " + std::to_string(max_bytes) + " are read", path);
  }
  std::string text;
  try {
    text.resize(static_cast<std::size_t>(file->size));
  } catch (const std::exception&) {
    return fail(error_kind::input, "the file has " + std::to_string(file->size) + " bytes, more than there is memory", path);
  }
  if (const result<void> r = read_exactly(file->fd.get(), path, text.data(), text.size(), 0); !r) return forward_error(r);
  return text;
}

result<void> read_pieces(const std::string& path, const std::function<result<void>(std::span<const std::byte>)>& f) {
  const result<opened_file> in = open_regular(path);
  if (!in) return forward_error(in);
  std::vector<char> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(in->size, kChunk)));
  for (std::uint64_t at = 0; at < in->size;) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(in->size - at, buffer.size()));
    if (const result<void> r = read_exactly(in->fd.get(), path, buffer.data(), n, at); !r) return r;
    if (const result<void> r = f(std::as_bytes(std::span(buffer.data(), n))); !r) return r;
    at += n;
  }
  return {};
}

result<void> write_text(const std::string& path, std::string_view text) {
  result<output_file> file = output_file::create(path);
  if (!file) return forward_error(file);
  if (const result<void> r = file->write_at(0, std::as_bytes(std::span(text))); !r) return r;
  return file->finish();
}

result<void> copy_file_durably(const std::string& from, const std::string& to) {
  result<output_file> out = output_file::create(to);
  if (!out) return forward_error(out);
  std::uint64_t at = 0;
  const result<void> copied = read_pieces(from, [&](std::span<const std::byte> piece) {
    const std::uint64_t offset = at;
    at += piece.size();
    return out->write_at(offset, piece);
  });
  return copied ? out->finish() : copied;
}

result<void> create_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) != 0) return fail_writing("the folder cannot be created", path, errno);
  return {};
}

result<output_dir> output_dir::begin(const std::string& path, existing there) {
  if (path.empty()) return fail(error_kind::usage, "the name of the output folder is empty");
  std::error_code ec;
  fs::path full = fs::weakly_canonical(fs::absolute(path, ec), ec);  // a link to an empty folder is resolved: rename() would replace the link
  if (ec) return fail_writing("the output folder's name cannot be resolved", path, ec.value());
  if (!full.has_filename()) full = full.parent_path();  // a slash at the end
  const std::string out = full.string(), partial = out + ".partial";
  if (!full.has_filename() || partial.size() >= PATH_MAX) return fail(error_kind::output, "this cannot be an output folder; name another one", out);

  // Again if the run that we waited on finishes at this very moment.
  for (int attempt = 0; attempt < 10; ++attempt) {
    const fs::file_status status = fs::symlink_status(full, ec);
    if (fs::exists(status) && !fs::is_directory(status))
      return fail(error_kind::output, "the output folder's name is taken by something else; name another one", out);
    const bool occupied = fs::exists(status) && !is_empty_folder(out);
    if (occupied && there == existing::refuse)
      return fail(error_kind::output, "the output folder is not empty; name another one or empty it first", out);
    const result<int> parents = create_parents(full);
    if (!parents) return forward_error(parents);

    const bool fresh = ::mkdir(partial.c_str(), 0777) == 0;
    if (!fresh && errno != EEXIST) {
      const int code = errno;
      discard(partial.c_str(), *parents);
      return fail_writing("the folder cannot be created", partial, code);
    }
    const descriptor folder(::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (folder.get() < 0) return fail_writing("the folder cannot be opened", partial, errno);
    if (!fresh && ::faccessat(folder.get(), kLockName, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && !is_empty_folder(partial)) {
      return fail(error_kind::output, "the folder exists and was not made by this program; move it away", partial);
    }
    descriptor lock(::openat(folder.get(), kLockName, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (lock.get() < 0) {
      const int code = errno;
      if (fresh) discard(partial.c_str(), *parents);
      return fail_writing("the folder cannot be written to", partial, code);
    }
    // A file system without locks gives another error; the lock is a guard against mistakes, so work goes on without it there.
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return fail(error_kind::output, "another run is writing to this folder; wait for it or name another one", out);
    }
    struct stat opened = {}, named = {};
    const bool same = ::fstat(folder.get(), &opened) == 0 && ::lstat(partial.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
                      opened.st_ino == named.st_ino;
    struct stat lock_file = {};
    if (!same || ::fstat(lock.get(), &lock_file) != 0 || lock_file.st_nlink == 0) continue;
    if (!empty_folder(folder.get(), true, 0))
      return fail(error_kind::output, "what an earlier run left behind cannot be removed; remove it by hand", partial);

    output_dir d;
    d.path_ = out;
    d.partial_ = partial;
    d.replaces_ = occupied;
    d.slot_ = occupy_slot(partial, *parents);
    if (d.slot_ < 0) {
      discard(partial.c_str(), *parents);
      return fail(error_kind::internal, "too many output folders are open at a time", out);
    }
    d.lock_fd_ = lock.release();
    return d;
  }
  return fail(error_kind::output, "another run is writing to this folder; wait for it or name another one", out);
}

output_dir::output_dir(output_dir&& o) noexcept
    : path_(std::move(o.path_)), partial_(std::move(o.partial_)), replaces_(o.replaces_), lock_fd_(std::exchange(o.lock_fd_, -1)), slot_(std::exchange(o.slot_, -1)) {}

output_dir& output_dir::operator=(output_dir&& o) noexcept {
  if (this != &o) {
    abandon();
    path_ = std::move(o.path_);
    partial_ = std::move(o.partial_);
    replaces_ = o.replaces_;
    lock_fd_ = std::exchange(o.lock_fd_, -1);
    slot_ = std::exchange(o.slot_, -1);
  }
  return *this;
}

output_dir::~output_dir() { abandon(); }

void output_dir::abandon() {
  if (slot_ >= 0) {
    partial_slot& s = partial_slots[slot_];
    discard(s.path, s.parents);
    s.state.store(0, std::memory_order_release);
    slot_ = -1;
  }
  if (lock_fd_ >= 0) ::close(std::exchange(lock_fd_, -1));
}

result<void> output_dir::require_space(std::uint64_t bytes) const {
  struct statvfs st = {};
  if (::statvfs(partial_.c_str(), &st) != 0) return fail_writing("the free space cannot be asked for", partial_, errno);
  std::uint64_t need = 0, available = 0;
  if (!ar::checked_add(bytes, bytes / 20, need)) need = UINT64_MAX;
  if (!ar::checked_mul(st.f_bavail, st.f_frsize, available)) available = UINT64_MAX;
  if (available >= need) return {};
  return fail(
      error_kind::output,
      "the disk has " + std::to_string(available) + " bytes free and " + std::to_string(need) + " are needed; free some or name a folder elsewhere",
      path_);
}

namespace {

/// Renames `from` to `to`; what was there, if that is to be replaced, is at `old` then. Returns errno; on failure both are what they were.
int put_in_place(const std::string& from, const std::string& to, bool replace, std::string& old) {
  if (replace && ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    old = from;
    return 0;
  }
  if (replace) {  // the file system cannot exchange, or the old one went away meanwhile
    const std::string aside = to + ".replaced";
    if (::access(aside.c_str(), F_OK) == 0) return EEXIST;
    if (::rename(to.c_str(), aside.c_str()) == 0) old = aside;
  }
  if (::rename(from.c_str(), to.c_str()) == 0) return 0;
  const int code = errno;
  if (!old.empty()) ::rename(old.c_str(), to.c_str());
  return code;
}

}  // namespace

result<void> output_dir::commit() {
  if (slot_ < 0) return fail(error_kind::internal, "the output folder was finished before", path_);
  std::error_code ec;
  std::vector<std::string> folders = {partial_};
  for (auto it = fs::recursive_directory_iterator(partial_, ec); !ec && it != fs::end(it); it.increment(ec)) {
    const bool folder = it->is_directory(ec);
    if (folder) folders.push_back(it->path().string());
    if (!folder) {
      if (const int code = sync_path(it->path().string(), false); code != 0)
        return fail_writing("the file cannot be brought to the disk", it->path().string(), code);
    }
  }
  if (ec) return fail_writing("the folder cannot be listed", partial_, ec.value());
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
    if (const int code = sync_path(*folder, true); code != 0) return fail_writing("the folder cannot be brought to the disk", *folder, code);
  }
  std::string old;
  if (const int code = put_in_place(partial_, path_, replaces_, old); code != 0) return fail_writing("the finished folder cannot be given its name", path_, code);
  partial_slots[slot_].state.store(0, std::memory_order_release);
  slot_ = -1;
  // The lock file goes last: without it a crash just before the rename would leave a partial folder that no later run recognizes.
  int code = ::unlink((path_ + "/" + kLockName).c_str()) == 0 ? 0 : errno;
  ::close(std::exchange(lock_fd_, -1));
  if (code == 0) code = sync_path(path_, true);
  if (code == 0) code = sync_path(fs::path(path_).parent_path().string(), true);
  if (code != 0) return fail_writing("the folder is complete but cannot be brought to the disk", path_, code);
  if (old.empty()) return {};
  discard(old.c_str(), 0);
  if (::access(old.c_str(), F_OK) == 0) return fail(error_kind::output, "the folder is complete, but what it replaced cannot be removed from here; remove it by hand", old);
  return {};
}

void clean_up_on_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // for the one signal that interrupt_watch takes
  sigfillset(&action.sa_mask);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGBUS}) ::sigaction(number, &action, nullptr);
  ::signal(SIGXFSZ, SIG_IGN);
}

interrupt_watch::interrupt_watch() { watch.store(watching); }

interrupt_watch::~interrupt_watch() {
  if (watch.exchange(no_watch) == signalled) ::raise(SIGINT);
}

bool interrupt_watch::requested() {
  int expected = signalled;
  return watch.compare_exchange_strong(expected, told) || expected == told;
}

}  // namespace auto_round::io
