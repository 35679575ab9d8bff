// What lane_test.cpp collects from each SIMD target.
#pragma once

#include <bit>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace lane_test {

struct report {
  std::string target;
  std::size_t compared = 0, wrong = 0;
  std::string first;  ///< description of the first difference

  void compare(const char* what, float a, float b, float got, float want) {
    ++compared;
    if (std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(want) || (got != got && want != want)) return;
    if (wrong++ == 0) {
      std::ostringstream text;
      text << std::hexfloat << what << "(" << a << ", " << b << ") = " << got << ", expected " << want;
      first = text.str();
    }
  }
};

}  // namespace lane_test
