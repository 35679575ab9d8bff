// The program: runs one command and turns its outcome into an exit status.
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "command/command.hpp"
#include "error.hpp"
#include "io/file.hpp"

namespace {

/// One line that is read, whatever a stranger's file or command line put into it: real ones have a few hundred bytes.
int exit_with(auto_round::error e) {
  const auto shorten = [](std::string& s, std::size_t most) {
    if (s.size() <= most) return;
    while (most > 0 && (static_cast<unsigned char>(s[most]) & 0xC0) == 0x80) --most;  // whole characters
    s = s.substr(0, most) + "...";
  };
  shorten(e.message, 1500);
  shorten(e.file, 4096);
  shorten(e.tensor, 500);
  std::fprintf(stderr, "error: %s\n", auto_round::describe(e).c_str());
  return static_cast<int>(e.kind);
}

auto_round::error lost_results() { return {auto_round::error_kind::output, "the results could not be written to standard output", {}, {}}; }

/// A file that is opened gets the lowest free number: one of a closed stream would get the lines that are meant for the stream. Results that nobody can
/// read stay an error, so standard output is opened for reading.
void open_closed_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) static_cast<void>(open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY));
  }
}

}  // namespace

int main(int argc, char** argv) {
  using auto_round::error_kind;
  // Exceptions of the standard library and of third parties end here; our own code returns errors.
  try {
    open_closed_streams();
    auto_round::io::clean_up_on_signals();
#ifdef __GLIBC__
    // Matrices go back to the system when they are freed; by default glibc's heap keeps those of up to 32 MiB once one was freed, in pieces between others.
    mallopt(M_MMAP_THRESHOLD, 256 << 10);  // tiny-stories, gram: 86 MiB at most, with 1 MiB 90
    mallopt(M_TRIM_THRESHOLD, 2 << 20);
#endif
    const auto outcome = auto_round::command::run_program(argc > 0 ? argv[0] : "auto-round", std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    if (!outcome) return exit_with(outcome.error());
    return std::fflush(stdout) == 0 && std::ferror(stdout) == 0 ? 0 : exit_with(lost_results());
  } catch (const std::bad_alloc&) {
    return exit_with({error_kind::internal, "out of memory; fewer samples (--nsamples), shorter ones (--seqlen) or a smaller --batch_size need less", {}, {}});
  } catch (const std::exception& e) {
    if (std::ferror(stdout) != 0) return exit_with(lost_results());
    return exit_with({error_kind::internal, std::string("unexpected failure: ") + e.what(), {}, {}});
  }
}
