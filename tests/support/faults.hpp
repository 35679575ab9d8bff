// Runs of the program that are killed, or find the disk full, at a certain call (support/fault_preload.cpp), and what they leave behind.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/program.hpp"

namespace support {

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Files by name, size and hash.
using file_hashes = std::map<std::string, std::pair<std::size_t, std::size_t>>;

/// The lock is the last that a run removes, behind the rename.
inline file_hashes files_in(const std::filesystem::path& path) {
  file_hashes files;
  if (!std::filesystem::exists(path)) return files;
  for (const auto& e : std::filesystem::recursive_directory_iterator(path)) {
    const std::string bytes = e.is_regular_file() ? bytes_of(e.path()) : std::string();
    if (e.path().filename() != ".auto-round.lock") files[std::filesystem::relative(e.path(), path).string()] = {bytes.size(), std::hash<std::string>()(bytes)};
  }
  return files;
}

/// Every so many calls; AR_FAULT_STRIDE=1 tries them all (a few minutes).
inline long fault_stride() {
  const char* const given = std::getenv("AR_FAULT_STRIDE");
#if defined(AR_SANITIZED)
  constexpr long usual = 11;  // programs start and run several times as slowly
#else
  constexpr long usual = 4;
#endif
  return given != nullptr ? std::max(1L, std::atol(given)) : usual;
}

/// A sanitizer wants to be the first library; it works behind this one as well.
inline const std::string fault_environment = "env ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0 LD_PRELOAD=" AR_FAULT_PRELOAD;

/// A run with a fault: "kill:7", "full:7".
inline outcome run_with_fault(const std::vector<std::string>& arguments, const std::string& fault) {
  return run(arguments, fault_environment + " AR_FAULT=" + fault);
}

/// Calls of a whole run that change the disk; -1 if it fails.
inline long calls_that_change_the_disk(const std::vector<std::string>& arguments) {
  const temp_dir dir;
  const outcome o = run(arguments, fault_environment + " AR_FAULT_COUNT=" + quoted(dir / "count"));
  EXPECT_EQ(o.status, 0) << o.err;
  return o.status == 0 ? std::stol(bytes_of(dir / "count")) : -1;
}

/// A run that is disturbed and started again: the output folder, the files of an undisturbed run, and what must not be left beside them.
struct disturbed_run {
  std::vector<std::string> arguments;
  std::string out;
  file_hashes expected;
  std::vector<std::string> beside;

  /// The output, where there is one, is complete.
  bool done() const {
    if (!std::filesystem::exists(out)) return false;
    EXPECT_EQ(files_in(out), expected);
    return true;
  }
  /// Undisturbed, after what the disturbed one left.
  outcome again() const {
    outcome o = run(arguments);
    EXPECT_EQ(o.status, 0) << o.err;
    EXPECT_TRUE(done());
    for (const std::string& path : beside) EXPECT_FALSE(std::filesystem::exists(path)) << path;
    return o;
  }
};

/// Killed at every fault_stride()-th call that changes the disk; `between` sees what is left, `resumed` the run that goes on. The number of calls, about.
inline long kill_everywhere(const disturbed_run& r, const std::function<void()>& between, const std::function<void(const outcome&)>& resumed) {
  long n = 1;
  for (; !testing::Test::HasFailure(); n += fault_stride()) {
    SCOPED_TRACE(n);
    std::filesystem::remove_all(r.out);
    const outcome killed = run_with_fault(r.arguments, "kill:" + std::to_string(n));
    if (killed.status == 0) break;
    EXPECT_EQ(killed.status, 137) << killed.err;
    if (r.done()) std::filesystem::remove_all(r.out);  // killed behind the rename
    between();
    resumed(r.again());
  }
  return n;
}

/// The disk is full from every (2 * fault_stride())-th call on.
inline void fill_the_disk_everywhere(const disturbed_run& r) {
  std::vector<std::string> counted = r.arguments;
  *(std::find(counted.begin(), counted.end(), "--output_dir") + 1) = r.out + ".counted";
  const long all = calls_that_change_the_disk(counted);
  for (long n = 1; n < all && !testing::Test::HasFailure(); n += 2 * fault_stride()) {
    SCOPED_TRACE(n);
    std::filesystem::remove_all(r.out);
    const outcome full = run_with_fault(r.arguments, "full:" + std::to_string(n));
    const bool done = r.done();  // only clean-up was left, or the output's name could not be brought to the disk
    if (full.status == 0) {
      EXPECT_TRUE(done);
    } else {
      EXPECT_EQ(full.status, 4) << full.err;
      EXPECT_NE(full.err.find("No space left"), std::string::npos) << full.err;
      EXPECT_FALSE(std::filesystem::exists(r.out + ".partial"));
    }
    if (!done) r.again();
  }
}

}  // namespace support
