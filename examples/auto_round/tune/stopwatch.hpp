// Wall-clock time, stage by stage.
#pragma once

#include <chrono>

namespace auto_round::tune {

/// Adds the time since its construction, or since the last lap, to a stage.
class stopwatch {
 public:
  void lap(double& stage) {
    const auto now = std::chrono::steady_clock::now();
    stage += std::chrono::duration<double>(now - start_).count();
    start_ = now;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace auto_round::tune
