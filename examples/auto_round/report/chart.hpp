// Small charts as SVG: a frame with two axes and what is drawn in it. Colors are classes s0 ... s7 of the page's style.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace auto_round::report {

/// A range of values as a stretch of the chart.
class axis {
 public:
  /// Covers all finite values; on a logarithmic axis values that are not positive have no place. `from_zero` begins a linear axis at 0.
  axis(const std::vector<double>& values, bool logarithmic, bool from_zero, double begin, double end);
  bool has(double value) const;         ///< false: leave it out
  double place(double value) const;
  std::vector<double> ticks() const;    ///< round numbers, 2 to about 7
  bool logarithmic() const { return log_; }

 private:
  double low_ = 0, high_ = 1, begin_, end_;
  bool log_;
};

struct point {
  double x = 0, y = 0;
  std::string label;  ///< shown on hovering
};
struct series {
  std::string name;
  std::vector<point> points;
  bool line = true, dots = true;
};

struct chart {
  std::string title, x_title, y_title;
  bool log_y = false, whole_x = false;  ///< whole_x: x are integers
  std::vector<series> all;              ///< more than eight share colors
};

/// The chart as <figure> with its legend; empty if no point can be drawn.
std::string svg_of(const chart& c);

struct share {
  std::string name;
  double value = 0;
  std::string text;  ///< the value for people
};
/// Shares of a whole as one bar with its legend as <figure>; empty if they sum to nothing.
std::string svg_bar(std::string_view title, const std::vector<share>& parts);

}  // namespace auto_round::report
