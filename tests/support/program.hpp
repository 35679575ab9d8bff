// Runs the program under test and catches its exit status and output.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/temp_dir.hpp"

namespace support {

struct outcome {
  int status = -1;  // exit status, or 128 + signal
  std::string out, err;
};

inline std::string quoted(const std::string& s) {
  std::string q = "'";
  for (const char c : s) q += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return q + "'";
}

/// Runs `program` (a name in the build's bin folder) with arguments; `prefix` goes before it in the shell ("ulimit -f 8;", "timeout 60").
inline outcome run(const std::vector<std::string>& arguments, const std::string& prefix = "", const std::string& program = "auto-round") {
  const temp_dir dir;
  std::string line = prefix + " " + quoted(std::string(AR_BINARY_DIR) + "/bin/" + program);
  for (const std::string& a : arguments) line += " " + quoted(a);
  line += " >" + quoted(dir / "out") + " 2>" + quoted(dir / "err") + " </dev/null";
  const int raw = std::system(line.c_str());
  outcome o;
  o.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
  const auto text = [](const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream s;
    s << in.rdbuf();
    return s.str();
  };
  o.out = text(dir / "out");
  o.err = text(dir / "err");
  return o;
}

/// Wrong input: the status, and one line at the end that names what is wrong.
inline void expect_error_line(const outcome& o, int status, const std::vector<std::string>& words) {
  EXPECT_EQ(o.status, status) << o.err;
  const std::size_t at = o.err.rfind("error: ");
  ASSERT_NE(at, std::string::npos) << o.err;
  const std::string line = o.err.substr(at);
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << "one line: " << line;
  for (const std::string& w : words) EXPECT_NE(line.find(w), std::string::npos) << "\"" << w << "\" is not in: " << line;
}

}  // namespace support
