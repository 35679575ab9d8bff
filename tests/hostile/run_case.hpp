// Runs one case of the corpus by the program itself, in a process of its own that may not take much, and checks what has to hold for all of them.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "hostile/corpus.hpp"
#include "support/temp_dir.hpp"

namespace hostile {

#if defined(AR_SANITIZED)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

constexpr long most_megabytes = 256;
// A guard against hanging, not a measurement: ten times what is promised, because machines differ and the sanitizers slow everything down.
constexpr rlim_t most_cpu_seconds = sanitized ? 60 : 10;
// Far more than is promised, too: threads and libraries reserve addresses that they never touch. It stops a program that asks for all there is.
constexpr rlim_t most_address_bytes = rlim_t{2} << 30;

constexpr rlim_t most_file_bytes = rlim_t{256} << 20;

struct ending {
  int status = -1;  // exit status, or 128 + signal
  std::string out, err;
  double cpu_seconds = 0;
  long megabytes = 0;  // most that was resident
};

inline std::string in_folder(std::string text, const std::string& folder) {
  for (std::size_t at = 0; (at = text.find('@', at)) != std::string::npos; at += folder.size()) text.replace(at, 1, folder);
  return text;
}

/// The beginning of a file: more than any error line, and not what a run without bounds may have written.
inline std::string content_of(const std::string& path) {
  std::string content(1u << 20, '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<std::size_t>(in.gcount()));
  return content;
}

inline ending run_program(const std::vector<std::string>& arguments, const support::temp_dir& streams) {
  std::vector<std::string> line = {std::string(AR_BINARY_DIR) + "/bin/auto-round"};
  line.insert(line.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& a : line) argv.push_back(a.data());
  argv.push_back(nullptr);
  const std::string out = streams / "out", err = streams / "err";
  malloc_trim(0);  // what this process holds at the fork counts as the child's
  const pid_t child = fork();
  if (child == 0) {
    const auto redirect = [](const char* path, int flags, int to) {
      const int fd = open(path, flags, 0600);
      if (fd < 0 || dup2(fd, to) < 0) _exit(120);
    };
    redirect("/dev/null", O_RDONLY, 0);
    redirect(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 1);
    redirect(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 2);
    const auto limit = [](int what, rlim_t most) {
      const rlimit r{most, most};
      if (setrlimit(what, &r) != 0) _exit(121);
    };
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, most_cpu_seconds);
    limit(RLIMIT_FSIZE, most_file_bytes);
    if (!sanitized) limit(RLIMIT_AS, most_address_bytes);
    setenv("OMP_NUM_THREADS", "2", 1);
    execv(argv[0], argv.data());
    _exit(122);
  }
  ending e;
  int raw = 0;
  rusage used{};
  if (child < 0 || wait4(child, &raw, 0, &used) != child) return e;
  e.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  e.cpu_seconds = seconds(used.ru_utime) + seconds(used.ru_stime);
  e.megabytes = used.ru_maxrss / 1024;
  e.out = content_of(out);
  e.err = content_of(err);
  return e;
}

/// Everything below a folder, links unfollowed, so that what a run leaves behind is seen.
inline void collect_names(const fs::path& folder, const std::string& prefix, std::set<std::string>& names) {
  for (const auto& e : fs::directory_iterator(folder)) {
    const std::string name = prefix + e.path().filename().string();
    names.insert(name);
    if (fs::is_directory(e.symlink_status())) collect_names(e.path(), name + "/", names);
  }
}
inline std::set<std::string> names_below(const fs::path& folder) {
  std::set<std::string> names;
  collect_names(folder, "", names);
  return names;
}

/// Lines that begin with "error: ".
inline std::vector<std::string> error_lines(const std::string& text) {
  std::vector<std::string> found;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("error: ")) found.push_back(line);
  return found;
}

inline ending check_case(const one_case& c) {
  const support::temp_dir dir, streams;
  c.write(dir.path());
  const std::set<std::string> before = names_below(dir.path());
  std::vector<std::string> arguments;
  for (const std::string& a : c.arguments) arguments.push_back(in_folder(a, dir.path().string()));
  const ending e = run_program(arguments, streams);
  EXPECT_EQ(e.status, c.status) << e.err.substr(0, 2000);
  if (!sanitized) {
    EXPECT_LE(e.megabytes, most_megabytes);
  }
  if (c.status == accepted) return e;
  // One line says what is wrong, the last one, and nothing of it can drive a terminal.
  const std::vector<std::string> errors = error_lines(e.err);
  EXPECT_EQ(errors.size(), 1u) << e.err.substr(0, 2000);
  EXPECT_TRUE(e.err.ends_with('\n'));
  const std::string line = errors.empty() ? std::string() : errors.front();
  EXPECT_TRUE(e.err.ends_with(line + "\n")) << e.err.substr(0, 2000);
  EXPECT_LT(line.size(), 7000u);  // a path may have 4096 bytes
  EXPECT_TRUE(std::all_of(line.begin(), line.end(), [](char ch) { return static_cast<unsigned char>(ch) >= 0x20 && ch != 0x7F; })) << line;
  for (const std::string& s : c.says) {
    const std::string word = in_folder(s, dir.path().string());
    EXPECT_NE(line.find(word), std::string::npos) << "\"" << word << "\" is not in: " << line;
  }
  // Results are printed by runs that end well, or by a check that found something.
  if (c.status != failed_verification) {
    EXPECT_EQ(e.out, "");
  }
  EXPECT_EQ(names_below(dir.path()), before) << "nothing is left behind, and nothing taken away";
  return e;
}

}  // namespace hostile
