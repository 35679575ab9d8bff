// What a run costs: wall seconds, CPU seconds and peak resident memory of this process.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace auto_round::report {

std::uint64_t peak_memory_bytes();     ///< largest resident set so far, mapped files included
std::uint64_t current_memory_bytes();  ///< resident set now; 0 if the system does not tell
std::uint64_t current_address_space();  ///< everything mapped now, resident or not; 0 if the system does not tell
double cpu_seconds();                  ///< user and system time of all threads

/// Seconds since construction or the last restart().
class stopwatch {
 public:
  stopwatch() : start_(std::chrono::steady_clock::now()) {}
  void restart() { start_ = std::chrono::steady_clock::now(); }
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_;
};

/// Seconds by part of the work, in order of first appearance: the breakdown printed at the end of a run.
class time_table {
 public:
  void add(const std::string& part, double seconds);
  const std::vector<std::pair<std::string, double>>& parts() const { return parts_; }
  std::string describe() const;  ///< "read 0.1 s, tune 12.3 s, write 0.4 s"

 private:
  std::vector<std::pair<std::string, double>> parts_;
};

std::string human_bytes(std::uint64_t bytes);    ///< "512 B", "1.50 KiB", "417 MiB"
std::string human_seconds(double seconds);       ///< "0.42 s", "12.3 s", "3 min 5 s", "2 h 4 min"

}  // namespace auto_round::report
