// How far apart two lists of numbers are, relative to the second. NaN, which no bound accepts, if one of them holds NaN or infinity or their lengths differ.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace support {

/// The largest difference over the largest entry of b.
template <class A, class B>
double largest_difference(const A& a, const B& b) {
  constexpr double never = std::numeric_limits<double>::quiet_NaN();
  if (a.size() != b.size()) return never;
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!std::isfinite(d)) return never;
    worst = std::max(worst, d);
    largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

/// The root of the mean squared difference over that of b.
template <class A, class B>
double rms_difference(const A& a, const B& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

}  // namespace support
