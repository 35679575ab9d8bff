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

/// Files by name, size and hash. The lock is the last that a run removes, behind the rename.
inline std::map<std::string, std::pair<std::size_t, std::size_t>> files_in(const std::filesystem::path& path) {
  std::map<std::string, std::pair<std::size_t, std::size_t>> files;
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

}  // namespace support
